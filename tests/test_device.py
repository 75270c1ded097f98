"""What must be right on a GPU, without one: the same numbers as on the CPU, no tensor on the wrong device, nothing that waits."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rollout import Strategy, generate
from rollout.backends.wan.vae import WanDecoder, unscale
from rollout.devices import staged
from rollout.rope import table
from rollout.sampler import seeded
from rollout.slots import Block
from rollout.strategies.presets import PRESETS, Preset
from tests.conftest import STATES, seldom
from tests.pretended import GPU, OnGpu, Pretended, pretended
from tests.test_wan import KINDS, Worded, transformer

SCRIPT = "a cat[5.25s] | b dog[0.75s]"
CHECK = "value", "execute._check_finite"
"""All that a block waits for: whether it is finite."""
CLOCK = "all", "execute.switch"
"""Where its prompt is new the time of the switch is taken."""


class Placed(Worded):
    """Its embeddings are on its device."""

    def encode(self, prompt: str) -> Tensor:
        return super().encode(prompt).to(self.device)


def tiny(preset: Preset) -> Placed:
    return Placed(transformer(), height=32, width=48, block=preset.block)


@contextmanager
def on_gpu(wan: Placed) -> Iterator[tuple[Placed, Pretended]]:
    """A model on the pretended GPU, and that."""
    with pretended() as gpu:
        wan.transformer.to(GPU)
        wan.device = GPU
        yield wan, gpu


def blocks(
    wan: Placed, gpu: Pretended, strategy: Strategy, script: str = SCRIPT, **options: Any
) -> Iterator[tuple[Any, list[tuple[str, str]]]]:
    """Each block's result, with what it waited for."""
    run = generate(wan, strategy, script, **options)
    gpu.clear()  # what is done once a rollout
    for result in run:
        yield result, list(gpu.waits.elements())
        gpu.clear()


@pytest.mark.parametrize("name", seldom(KINDS, (*STATES, "reward-forcing", "causal-forcing", "lol")))
def test_a_rollout_on_a_gpu_is_the_cpus_and_a_block_waits_for_its_check_alone(name: str) -> None:
    preset = PRESETS[name]
    with sdpa_kernel(SDPBackend.MATH):  # as the pretended device has it
        truth = list(generate(tiny(preset), preset.strategy, SCRIPT, schedule=preset.schedule))
    # what heads look at in the first two blocks comes to the host, where they are sorted
    sorting = [("to the host", "execute.regroup")] * 2 if name == "dummy-forcing" else []
    waited: list[tuple[str, str]] = []
    with on_gpu(tiny(preset)) as (wan, gpu):
        for result, waits in blocks(wan, gpu, preset.strategy, schedule=preset.schedule):
            number = result.block.index
            assert isinstance(result.latents, OnGpu)
            assert torch.equal(result.latents.inner, truth[number].latents), number
            assert waits.count(CHECK) == 1
            waited += [wait for wait in waits if wait not in (CHECK, CLOCK)]
    assert number + 1 == len(truth)
    assert waited == sorting


@pytest.mark.parametrize(
    "text",
    [
        "absolute sink:window=9,sink=1+recache",
        "relativistic:cut=20/1 sink:window=9,sink=1+flush",
        "online ema:window=9,sink=1+flush",
        "absolute sink:window=9,sink=1+keep store=int8",
        "absolute sink:window=9,sink=1+keep store=fp8",
        "absolute sink:window=12,sink=1+keep reads=commit:recent=3",
    ],
)
def test_switches_cuts_and_coded_stores_wait_for_no_more(text: str) -> None:
    with on_gpu(tiny(PRESETS["lol"])) as (wan, gpu):
        for result, waits in blocks(wan, gpu, Strategy.from_text(text), "a cat[3s] | b dog[1.5s] | c fish[1.5s#]"):
            switched = result.block.switch or result.block.cut
            assert waits.count(CHECK) == 1
            assert [wait for wait in waits if wait != CHECK] in ([], [CLOCK] * 2 if switched else [])


def test_noise_is_the_cpus_and_nobody_waits_for_it() -> None:
    block, latent = Block(3, 9, 3), (4, 6, 4)
    noise = seeded([7, 8], latent)(block, 1)
    with pretended() as gpu:
        there = seeded([7, 8], latent, device=GPU)(block, 1)
    assert torch.equal(there.inner, noise)
    assert gpu.passes == {("to the GPU", "sampler.noise"): 1}
    assert not gpu.waits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_of_turns_are_counted_on_the_device(dtype: torch.dtype) -> None:
    """Bit for bit those of the definition, in float64, also where indices repeat or leap."""
    axes, grid = (4, 2, 2), (2, 3)
    for frames in ((0, 1, 2), (5,), (7, 7, 9), (10**6, 3, 4)):
        with pretended() as gpu:
            there = table(frames, grid, axes, device=GPU, dtype=dtype)
        assert not gpu.waits
        assert not gpu.passes
        assert torch.equal(there.inner, table(frames, grid, axes, dtype=dtype))
        for token in range(len(frames) * 6):
            place = frames[token // 6], token % 6 // 3, token % 3
            angle = torch.cat(
                [torch.tensor(n) * 10000 ** (-torch.arange(p).double() / p) for n, p in zip(place, axes, strict=True)]
            )
            turns = torch.polar(torch.ones(8, dtype=torch.float64), angle)
            assert torch.equal(there.inner[token], turns.to(there.dtype))


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(1)
    small = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return small.eval().requires_grad_(False)


def test_of_a_decoded_block_the_host_waits_for_its_frames(vae: Any) -> None:
    latents = torch.randn(6, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    decoder = WanDecoder(copy.deepcopy(vae))
    frames = [decoder.push(part) for part in latents.split(3)]
    with pretended() as gpu:
        decoder, there = WanDecoder(vae.to(GPU)), []
        unscale(vae, latents.to(GPU))  # its numbers are copied once a process
        for part in staged(latents, GPU).split(3):
            gpu.clear()
            there.append(decoder.push(part))
            assert gpu.waits == {("to the host", "backends.wan.vae.push"): 1}
    for on_cpu, on_device in zip(frames, there, strict=True):
        assert (on_cpu.int() - on_device.int()).abs().max() <= 1


def test_the_pretended_gpu_counts_and_refuses_as_a_real_one() -> None:
    numbers = torch.arange(4.0)
    with pretended() as gpu:
        there = numbers.to(GPU)
        numbers.to(GPU, non_blocking=True)  # from memory that is not pinned: the host waits all the same
        numbers.pin_memory().to(GPU)
        torch.tensor([1.0, 2.0], device=GPU)
        assert gpu.waits == {("to the GPU", "outside"): 4}
        assert not gpu.passes
        gpu.clear()
        numbers.pin_memory().to(GPU, non_blocking=True)
        assert gpu.passes == {("to the GPU", "outside"): 1}
        assert not gpu.waits
        gpu.clear()
        assert bool((there > 0).any())
        assert there[0].item() == 0
        there.nonzero()
        assert gpu.waits == {("value", "outside"): 3}
        gpu.clear()
        assert there.tolist() == [0, 1, 2, 3]
        there[[0, 1]] = there[[2, 3]]
        assert gpu.waits == {("to the host", "outside"): 1, ("to the GPU", "outside"): 2}
        assert there.tolist() == [2, 3, 2, 3]
        with pytest.raises(RuntimeError, match="tensors on privateuseone:0 and on the CPU"):
            there + numbers
        assert (there + torch.tensor(1.0)).tolist() == [3, 4, 3, 4]  # a number may go along
    with pytest.raises(RuntimeError, match="outside of it"):
        there + there
