"""Shared fixtures: a micro model with random weights, double precision, whose outputs are sensitive to everything."""

import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import torch

from rollout import registry
from rollout.backends.sprites.codec import Codec
from rollout.backends.sprites.model import LAYOUT_GAIN, Shape, SpriteTransformer
from rollout.backends.sprites.weights import Sprites
from rollout.run.record import RunRecord
from rollout.run.video import VideoWriter

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
torch.set_num_threads(1)
hypothesis.settings.register_profile("rollout", deadline=None, max_examples=60, print_blob=True)
hypothesis.settings.register_profile("slow", hypothesis.settings.get_profile("rollout"), max_examples=600)
hypothesis.settings.load_profile("rollout")  # pytest --hypothesis-profile slow: ten times as many of everything


def examples(number: int) -> int:
    """So many examples of what costs seconds each, in the usual profile."""
    return max(1, number * hypothesis.settings.default.max_examples // 60)


STATES = (
    "infinity-rope",
    "longlive",
    "memrope",
    "deep-forcing",
    "rolling-forcing",
    "rolling-sink",
    "dummy-forcing",
    "causvid",
)
"""Presets whose caches hold what no other's does: flushed, encoded again, averaged, picked, half denoised, archived, sorted
by head, begun anew."""


def seldom(cases: Iterable[Any], often: Collection[Any]) -> list[Any]:
    """A test's cases, of which all but a few are slow."""
    return [case if case in often else pytest.param(*_values(case), marks=pytest.mark.slow) for case in cases]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


BROWSER = next(
    filter(None, map(shutil.which, ("/usr/bin/chromium", "chromium", "google-chrome", "chromium-browser"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
MICRO = Shape(channels=6, grid=(2, 2), dim=24, layers=2, heads=2, ffn=32, frequencies=16)


def micro_backend(dtype: torch.dtype = torch.float64, shape: Shape = MICRO, codec: Codec | None = None) -> Sprites:
    """A random model; its weights are large enough that every cached key moves the output."""
    generator = torch.Generator().manual_seed(3)
    model = SpriteTransformer(shape)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.3 if p.ndim > 1 else 0.1) + (p.ndim == 1) * p.data
    model.layout.weight.data /= LAYOUT_GAIN  # as loud as the latents, which it would drown
    if codec is None:  # every latent shows in the pictures, or digests of frames would say nothing
        codec = Codec(shape.channels)
        codec.mean += 0.5
        codec.basis.copy_(0.1 * torch.randn(codec.basis.shape, generator=generator))
    return Sprites(model, codec, dtype=dtype)


def run_record(**fields: Any) -> RunRecord:
    """A record of 10 blocks, with what a test says of it."""
    shot = {"prompt": "jumps", "asked_seconds": None, "cut": False, "subtitle": ""}
    shot |= {"blocks": 10, "frames": [0, 30], "begin": 0.0, "end": 3.75}
    data = {
        "rollout": "",
        "strategy": None,
        "backend": {"name": "sprites", "device": "cpu"},
        "script": {"text": "jumps", "shots": [shot], "fps": 8.0, "stride": 1},
        "seed": 0,
        "prefix": None,
        "events": [],
        "costs": {"blocks": 10, "given": 0},
    }
    return msgspec.convert(data | fields, RunRecord)


@pytest.fixture(scope="session")
def micro() -> Sprites:
    """The micro model in float64."""
    return micro_backend()


@pytest.fixture(autouse=True)
def registry_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers ends with it: no other test's commands meet it."""
    monkeypatch.setattr(registry, "_added", {group: dict(items) for group, items in registry._added.items()})


@pytest.fixture
def small_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are not enlarged: H.264 of the micro model's noise, 8 times as wide, costs more than the model itself."""
    monkeypatch.setitem(VideoWriter.__init__.__kwdefaults__, "least", 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Neighbours go to one worker, since they share what took time to make: each has half, and helps with the other's."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, where there is one."""
    api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield found
        found.close()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A disk that takes nothing."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs rights that this user lacks")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
