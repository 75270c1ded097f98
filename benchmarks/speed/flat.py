"""Is a long rollout as cheap at its end as at its beginning? Times, memory and bytes held along the way."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout.backend import Backend
from rollout.loop import generate
from rollout.script import Script, Shot
from rollout.strategy import Strategy


@dataclass(frozen=True)
class Point:
    """What a rollout cost over the blocks before `frames`."""

    frames: int
    block_ms: float
    """Median, decoding left out."""
    resident_mib: float
    """Of the whole process; NaN where the platform does not say."""
    kv_bytes: int
    extra_bytes: int
    """Raw copies of sinks, float32 averages of memory."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def flat(backend: Backend, strategy: Strategy, prompt: str, frames: int, *, points: int = 10) -> Iterator[Point]:
    """Roll out one prompt for `frames` latent frames; about `points` points, evenly."""
    spec = backend.spec
    blocks = -(-frames // spec.block)
    every = max(1, blocks // points)
    run = generate(backend, strategy, Script((Shot(prompt, blocks * spec.block * spec.stride / spec.fps),)))
    times: list[float] = []
    begun = time.perf_counter()
    for result in run:
        times.append(time.perf_counter() - begun)
        if len(times) == every:
            yield Point(
                result.block.end, 1000 * statistics.median(times), resident(), run.cache.bytes, run.cache.extra_bytes
            )
            times.clear()
        begun = time.perf_counter()


def resident() -> float:
    """MiB of this process that lie in memory."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


def points_table(points: dict[str, list[Point]]) -> str:
    """Points of several strategies as a Markdown table."""
    lines = ["| strategy | frames | ms a block | resident MiB | KV bytes | raw copies, bytes |", "|" + "---|" * 6]
    for name, row in points.items():
        lines += [
            f"| {name} | {p.frames:,} | {p.block_ms:.2f} | {p.resident_mib:.1f} | {p.kv_bytes:,} | {p.extra_bytes:,} |"
            for p in row
        ]
    return "\n".join(lines)
