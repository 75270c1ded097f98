"""What tests/test_device.py pretends, on a real GPU: pytest -m gpu."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from rollout import generate, preset
from rollout.backends.wan.hooks import compile_blocks
from rollout.execute import Engine
from rollout.strategies.presets import PRESETS
from tests.test_wan import KINDS, Worded, latents, transformer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = torch.device("cuda:0")
SCRIPT = "a cat[6.75s] | b dog[1.5s]"


class Placed(Worded):
    """Its embeddings are on its device."""

    def encode(self, prompt: str) -> Tensor:
        return super().encode(prompt).to(self.device)


def tiny(dtype: torch.dtype, device: torch.device | str, block: int | None = None) -> Placed:
    return Placed(transformer(dtype=dtype).to(device), height=32, width=48, block=block)


def video(name: str, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A preset's latents, in float64 on the CPU."""
    published = PRESETS[name]
    run = generate(tiny(dtype, device, published.block), published.strategy, SCRIPT, schedule=published.schedule)
    return latents(run).double().cpu()


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Raise where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", KINDS)
def test_a_rollout_is_the_cpus(name: str) -> None:
    truth = video(name, torch.float64, "cpu")
    exact, half = video(name, torch.float64, DEVICE), video(name, torch.bfloat16, DEVICE)
    # diffusers computes norms in float32, whatever the model's dtype
    assert (exact - truth).norm() / truth.norm() < 1e-6
    assert (half - truth).norm() / truth.norm() < 1.5e-2


@pytest.mark.parametrize("name", KINDS)
def test_a_block_waits_for_its_check_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_check_finite", lambda *_: None)
    published = PRESETS[name]
    run = generate(
        tiny(torch.bfloat16, DEVICE, published.block), published.strategy, SCRIPT, schedule=published.schedule
    )
    for _ in range(3):  # until kernels are loaded, and heads are sorted
        next(run)
    with nothing_waits():
        for _ in run:
            pass


@pytest.mark.parametrize("name", ["infinity-rope", "memrope", "deep-forcing", "dummy-forcing"])
def test_a_compiled_model_is_one_graph_and_gives_the_same_video(name: str) -> None:
    torch._dynamo.reset()
    plain, compiled = (tiny(torch.float32, DEVICE) for _ in range(2))
    compile_blocks(compiled.transformer, fullgraph=True)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    videos = [latents(generate(wan, preset(name), SCRIPT)) for wan in (plain, compiled)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    torch.testing.assert_close(videos[1], videos[0], rtol=0, atol=2e-4 * float(videos[0].abs().max()))
