"""The words of the design as values: Block, Slot, Edit, Placement, Replay. Pure, without torch.

An edit is a sparse linear map over slots: FIFO, sink and flush are rows with one weight of 1, an EMA memory is a row
`(1-a) memory + a/n evicted ...`. Policies and switches return edits; the cache executes them and decides nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isclose

from rollout.errors import CacheError

__all__ = [
    "BLOCK",
    "Block",
    "Edit",
    "Placement",
    "Replay",
    "Role",
    "Row",
    "Slot",
    "flush",
    "in_order",
    "keep",
    "of_role",
]

BLOCK = 3
"""Latent frames denoised together, in every published system of the Self-Forcing family (arXiv 2506.08009)."""

Row = tuple[tuple[int, float], ...]
"""Weights over old slots: (old slot's index, weight)."""


class Role(StrEnum):
    """What a cached frame is kept for; the cache's order is sink, memory, recent."""

    SINK = "sink"
    MEMORY = "memory"
    RECENT = "recent"


_PLACE = {role: place for place, role in enumerate(Role)}


@dataclass(frozen=True)
class Block:
    """Frames start .. start + frames - 1, denoised together under prompt number `prompt`.

    `switch`: the prompt's text differs from the block before; `cut`: a hard cut happens at the block's start; `scene`: the
    block of the last cut, this one's included, 0 before any.
    """

    index: int
    start: int
    frames: int
    prompt: int = 0
    switch: bool = False
    cut: bool = False
    scene: int = 0

    @property
    def end(self) -> int:
        """Frames generated once this block is done."""
        return self.start + self.frames


@dataclass(frozen=True)
class Slot:
    """One cached frame: its keys and values in every layer. For memory, the newest frame folded in.

    `scene`: the block of the last cut before it was written, 0 before any.
    """

    role: Role
    frame: int
    block: int
    scene: int = 0


@dataclass(frozen=True)
class Edit:
    """The cache's new slots as weighted sums of its old ones; `pooled` new slots are averaged over their tokens."""

    slots: tuple[Slot, ...]
    rows: tuple[Row, ...]
    pooled: frozenset[int] = frozenset()

    def check(self, old: int) -> None:
        """Raise CacheError unless rows match slots, point at the `old` slots and sum to 1."""
        if len(self.slots) != len(self.rows):
            raise CacheError(
                f"an edit names {len(self.slots)} slots but has {len(self.rows)} rows. Give one row a slot."
            )
        for slot, row in zip(self.slots, self.rows, strict=True):
            if any(not 0 <= i < old for i, _ in row):
                raise CacheError(f"the edit's row for {slot} points outside the cache's {old} slots: {row}.")
            if not isclose(sum(w for _, w in row), 1.0, abs_tol=1e-6):
                raise CacheError(f"the edit's row for {slot} sums to {sum(w for _, w in row):g}, not 1: {row}.")
        if any(not 0 <= i < len(self.slots) for i in self.pooled):
            raise CacheError(f"the edit pools slots {sorted(self.pooled)} but has {len(self.slots)}.")
        if in_order(self.slots) != self.slots:
            raise CacheError("an edit's slots are out of order: the cache's order is sink, memory, recent.")


@dataclass(frozen=True)
class Placement:
    """Temporal RoPE indices of the cached slots and of the block's frames; queries and own keys share one index."""

    slots: tuple[int, ...]
    block: tuple[int, ...]


@dataclass(frozen=True)
class Replay:
    """Encode these clean latents again, in order; the first `sinks` of them become sinks.

    Causally in their original blocks, or bidirectionally in one pass.
    """

    frames: tuple[int, ...]
    sinks: int = 0
    bidirectional: bool = False


def in_order(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Slots in the cache's order: sink, memory, recent; within a role as they are."""
    return tuple(sorted(slots, key=lambda slot: _PLACE[slot.role]))


def keep(slots: Sequence[Slot], indices: Iterable[int]) -> Edit:
    """The edit that keeps the slots at `indices`, in that order, and drops the others."""
    order = tuple(indices)
    return Edit(tuple(slots[i] for i in order), tuple(((i, 1.0),) for i in order))


def of_role(slots: Sequence[Slot], role: Role) -> tuple[int, ...]:
    """The indices of the slots with that role."""
    return tuple(i for i, slot in enumerate(slots) if slot.role is role)


def flush(slots: Sequence[Slot], last: int = 1) -> Edit:
    """Keep the sinks and the newest `last` recent frames (Infinity-RoPE, arXiv 2511.20649, KV Flush)."""
    recent = of_role(slots, Role.RECENT)
    return keep(slots, of_role(slots, Role.SINK) + recent[max(0, len(recent) - last) :])
