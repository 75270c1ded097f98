"""Is a long rollout as good and as cheap at its end as at its beginning? Times, memory, bytes and drift along the way."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.benchmarks.markdown import as_text
from rollout.loop import Result, Rollout, generate
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.script import Script, Shot
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.world import Act

__all__ = ["Point", "flat", "points_table"]

TRUE = 2
"""True blocks that a rollout starts from where its drift is measured."""


@dataclass(frozen=True)
class Drift:
    """What a stretch of a rollout in a known world shows, against the truth from which it started."""

    position: float
    """Mean distance from the true path, pixels."""
    identity: float
    """Share of frames with the right colour and shape."""
    action: float
    """Share of frames with the right action."""


@dataclass(frozen=True)
class Point:
    """What a rollout cost over the blocks before `frames`, and how far it has drifted there."""

    frames: int
    block_ms: float
    """Median; with decoding and writing where the rollout goes to a folder."""
    resident_mib: float
    """Of the whole process; NaN where the platform does not say."""
    kv_bytes: int
    extra_bytes: int
    """Raw copies of sinks, float32 averages of memory."""
    drift: Drift | None = None

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)


def flat(
    backend: Backend,
    strategy: Strategy,
    prompt: str,
    frames: int,
    *,
    points: int = 10,
    folder: Path | None = None,
    every: int | None = None,
) -> Iterator[Point]:
    """Roll out one prompt for `frames` latent frames; about `points` points, evenly.

    With a `folder` it is a whole run, with video and a snapshot `every` blocks, and starts from true blocks of the
    backend's world, against which its drift is measured.
    """
    blocks = -(-frames // backend.spec.block)
    run, results = _start(backend, strategy, prompt, blocks, folder, every)
    count = max(1, blocks // points)
    times: list[float] = []
    videos: list[Tensor] = []
    begun = time.perf_counter()
    for result in results:
        times.append(time.perf_counter() - begun)
        if folder is not None:
            videos.append(result.latents[0])
        if len(times) == count:
            end = result.block.end
            drift = _drift(backend, prompt, end, videos) if videos else None
            ms = 1000 * statistics.median(times)
            yield Point(end, ms, resident(), run.engine.bytes, run.engine.extra_bytes, drift)
            times, videos = [], []
        begun = time.perf_counter()


def _start(
    backend: Backend, strategy: Strategy, prompt: str, blocks: int, folder: Path | None, every: int | None
) -> tuple[Rollout, Iterator[Result]]:
    spec = backend.spec
    length = spec.block_seconds
    if folder is None:
        run = generate(backend, strategy, Script((Shot(prompt, blocks * length),)))
        return run, run
    script = Script((Shot(prompt, (blocks - TRUE) * length),))
    job = Job(backend, Recipe(strategy, str(script), prefix=str(TRUE)), folder, every=every, beside=False)
    return job.rollout, job.run()


def _drift(backend: Backend, prompt: str, end: int, latents: Sequence[Tensor]) -> Drift:
    """The drift over the stretch of `latents` that ends before frame `end`; the action needs neighbours on both sides."""
    assert backend.world is not None
    video = backend.decoder().push(torch.cat(list(latents))).numpy()
    truth = backend.world.truth((Act(prompt, end),), 0)
    readings, stretch = backend.world.track(video), slice(end - len(video), end)
    names = ("position", "colour", "shape", "action")
    off, *wrong = (backend.world.error(name, readings, truth.values[name][stretch]).float() for name in names)
    colour, shape, action = wrong
    identity = 1 - torch.maximum(colour, shape).mean()
    return Drift(float(off.mean()), float(identity), float(1 - action.mean()))


def resident() -> float:
    """MiB of this process that lie in memory."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


def points_table(points: dict[str, list[Point]]) -> str:
    """Points of several strategies as a Markdown table."""
    head = ["strategy", "frames", "ms a block ↓", "resident MiB ↓", "KV bytes ↓", "raw copies, bytes ↓"]
    drifts = any(point.drift for row in points.values() for point in row)
    if drifts:
        head += ["off its path, px ↓", "colour and shape ↑", "action ↑"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, row in points.items():
        for p in row:
            cells = [as_text(name), f"{p.frames:,}", f"{p.block_ms:.2f}", f"{p.resident_mib:.1f}", f"{p.kv_bytes:,}"]
            cells.append(f"{p.extra_bytes:,}")
            if p.drift is not None:
                cells += [f"{p.drift.position:.2f}", f"{p.drift.identity:.3f}", f"{p.drift.action:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
