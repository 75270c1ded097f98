"""What handling the cache costs beside attention: paired runs of ours, the copy floor and a plain baseline."""

import ctypes
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch.nn import functional as F

from rollout.backend import Spec
from rollout.benchmarks.markdown import as_text
from rollout.benchmarks.speed.handling import PASSES, Floor, Ours, Plain, geometry, milliseconds
from rollout.devices import now
from rollout.strategy import Strategy
from rollout.text import Json

__all__ = ["COMPOSITIONS", "measure", "pin_allocator", "switching", "tables"]

HEADS = 2
"""Heads on which attention is timed; its time is scaled to all."""
COMPOSITIONS = {
    "absolute fifo": "absolute fifo:window={w}+keep",
    "absolute sink": "absolute sink:window={w},sink=1+keep",
    "relativistic sink": "relativistic sink:window={w},sink=1+flush",
    "online sink": "online sink:window={w},sink=1+keep",
    "online ema": "online ema:window={w},sink=1+keep",
}


@dataclass(frozen=True)
class Row:
    """Medians in ms a pass; `floor`: rotate q, rotate and write k, write v; `sdpa`: attention itself, of all heads."""

    dtype: str
    window: int
    composition: str
    floor_ms: float
    sdpa_ms: float
    ours_ms: float
    plain_ms: float

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Switching:
    """What a prompt change or a cut adds once: ms of bookkeeping, passes of the model, and ms a pass of the block after."""

    dtype: str
    window: int
    switch: str
    once_ms: float
    forwards: int
    after_ms: float

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)


def pin_allocator() -> None:
    """Keep freed memory in the process: page faults of large temporaries cost more than the work (glibc only)."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing by mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing back
    except OSError:
        return


def attention_ms(window: int, spec: Spec, dtype: torch.dtype, device: torch.device) -> float:
    """One block's attention over a full window, timed on two heads and scaled to all."""
    q, k, v = (
        torch.randn(1, HEADS, frames * spec.tokens, spec.head_dim, device=device).to(dtype)
        for frames in (spec.block, window, window)
    )
    times = [milliseconds(lambda: F.scaled_dot_product_attention(q, k, v), device) for _ in range(2)]
    return min(times) * spec.heads / HEADS


@torch.no_grad()
def measure(
    dtypes: Sequence[torch.dtype],
    windows: Sequence[int],
    *,
    repeats: int = 7,
    spec: Spec | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Row]:
    """Rows of paired runs: floor, ours and plain in turn, medians over `repeats` blocks."""
    spec, device = spec or geometry(), torch.device(device)
    for dtype in dtypes:
        for window in windows:
            sdpa = attention_ms(window, spec, dtype, device)
            for name, text in COMPOSITIONS.items():
                ours = Ours(Strategy.from_text(text.format(w=window)), spec, dtype, device)
                ours.fill()
                floor, plain = (make(window, int("fifo" not in name), spec, dtype, device) for make in (Floor, Plain))
                times = [
                    [
                        milliseconds(floor.block, device),
                        milliseconds(partial(ours.block, ours.step()), device),
                        milliseconds(plain.block, device),
                    ]
                    for _ in range(repeats + 1)
                ]
                low, mine, far = (statistics.median(t) / PASSES for t in zip(*times[1:], strict=True))
                yield Row(_name(dtype), window, name, low, sdpa, mine, far)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


SWITCHES = {
    "flush": "relativistic sink:window={w},sink=1+flush",
    "cut": "relativistic sink:window={w},sink=1+flush",
    "recache": "relativistic sink:window={w},sink=1+recache",
}


@torch.no_grad()
def switching(
    dtypes: Sequence[torch.dtype],
    windows: Sequence[int],
    *,
    repeats: int = 5,
    spec: Spec | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Switching]:
    """What a flush, a cut and a recache cost once, and the block right after."""
    spec, device = spec or geometry(), torch.device(device)
    for dtype in dtypes:
        for window in windows:
            for name, text in SWITCHES.items():
                ours = Ours(Strategy.from_text(text.format(w=window)), spec, dtype, device)
                once, after, forwards = [], [], 0
                for _ in range(repeats):
                    ours.fill()
                    step = ours.step(switch=name != "cut", cut=name == "cut")
                    begun = now(device)
                    forwards = ours.switch(step)
                    once.append(1000 * (now(device) - begun))
                    after.append(milliseconds(partial(ours.block, step), device) / PASSES)
                yield Switching(_name(dtype), window, name, statistics.median(once), forwards, statistics.median(after))


def tables(rows: Sequence[Row], switches: Sequence[Switching]) -> str:
    """Rows as two Markdown tables."""
    lines = [
        "| dtype | window | composition | floor | SDPA | ours | plain | ours / floor ↓ | ours / SDPA ↓ | plain / ours ↑ |",
        "|" + "---|" * 10,
    ]
    for r in rows:
        times = (f"{x:,.1f}" for x in (r.floor_ms, r.sdpa_ms, r.ours_ms, r.plain_ms))
        ratios = f"{r.ours_ms / r.floor_ms:.2f}", f"{r.ours_ms / r.sdpa_ms:.4f}", f"{r.plain_ms / r.ours_ms:.1f}"
        lines.append("| " + " | ".join([r.dtype, str(r.window), as_text(r.composition), *times, *ratios]) + " |")
    lines += [
        "",
        "| dtype | window | at | once, ms ↓ | passes of the model ↓ | ms a pass of the block after ↓ |",
        "|" + "---|" * 6,
    ]
    for s in switches:
        lines.append(f"| {s.dtype} | {s.window} | {s.switch} | {s.once_ms:.2f} | {s.forwards} | {s.after_ms:.1f} |")
    return "\n".join(lines)
