"""The words of the design as values: Block, Slot, Mix, Pick, Edit, View, Pass, Replay. Pure, without torch.

An edit says how the new slots come of the old ones: a mix is a weighted sum (FIFO, sink and flush have one weight of 1, an
EMA memory is `(1-a) memory + a/n evicted ...`), a pick the best tokens of several. Policies and switches return edits;
the cache executes them and decides nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isclose
from types import MappingProxyType
from typing import Any, Literal

from rollout.errors import CacheError
from rollout.text import Json

__all__ = [
    "BLOCK",
    "NO_FACTS",
    "Block",
    "Edit",
    "Facts",
    "Mix",
    "Pass",
    "Pick",
    "Replay",
    "Role",
    "Row",
    "Slot",
    "View",
    "flush",
    "in_order",
    "keep",
    "of_role",
]

BLOCK = 3
"""Latent frames denoised together, in every published system of the Self-Forcing family (arXiv 2506.08009)."""

Facts = Mapping[str, tuple[float, ...]]
"""Numbers that the cache measured, one a slot, by the name under which they are registered."""
NO_FACTS: Facts = MappingProxyType({})


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
    """One cached frame: its keys and values in every layer. For memory, `frame` is the newest frame folded in.

    What a slot holds and when it pretends to be are two things: `first` is the oldest frame folded in (None: `frame`),
    `date` the frame number that positions see (None: `frame`). `prompt`: the shot under which it was written; `scene`: the
    block of the last cut before that, 0 before any.
    """

    role: Role
    frame: int
    block: int
    first: int | None = None
    date: int | None = None
    prompt: int = 0
    scene: int = 0

    def to_dict(self) -> Json:
        """As JSON; what is as usual is left out."""
        data: Json = {"role": self.role.value, "frame": self.frame, "block": self.block, "scene": self.scene}
        more = {"first": self.first, "date": self.date, "prompt": self.prompt or None}
        return data | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Slot":
        """From JSON. Raises KeyError, TypeError, ValueError."""
        first, date = (None if data.get(name) is None else int(data[name]) for name in ("first", "date"))
        frame, block, scene, prompt = (int(data.get(name, 0)) for name in ("frame", "block", "scene", "prompt"))
        return cls(Role(data["role"]), frame, block, first, date, prompt, scene)

    @property
    def time(self) -> int:
        """The frame number at which it pretends to be."""
        return self.frame if self.date is None else self.date

    @property
    def oldest(self) -> int:
        """The oldest frame folded in."""
        return self.frame if self.first is None else self.first


@dataclass(frozen=True)
class Mix:
    """A new slot as a weighted sum of old ones: (old slot's index, weight); `pooled`: averaged over its tokens as well."""

    weights: tuple[tuple[int, float], ...]
    pooled: bool = False

    @property
    def sources(self) -> tuple[int, ...]:
        """The old slots that it takes in."""
        return tuple(i for i, _ in self.weights)


@dataclass(frozen=True)
class Pick:
    """A new slot as the `part`-th frame's worth of the best tokens of the old slots `of`, chosen in every layer.

    `by` names a registered score; `past` counts the newest frames of the last clean pass whose queries score beside the
    block's own. A token that was chosen `reuse` times is no candidate any more. `dates` "own": every token keeps its
    temporal index and moves with the slot; "slot": they are dated anew, as the slot. A token's place in the picture stays.
    """

    of: tuple[int, ...]
    part: int
    by: str = "participation"
    past: int = 0
    reuse: int | None = None
    dates: Literal["own", "slot"] = "slot"

    @property
    def sources(self) -> tuple[int, ...]:
        """The old slots whose tokens are candidates."""
        return self.of

    @property
    def contest(self) -> tuple[object, ...]:
        """What the picks of one contest have in common: they share its best tokens out among them."""
        return self.of, self.by, self.past, self.reuse, self.dates


Row = Mix | Pick
"""How a new slot comes of old ones."""


@dataclass(frozen=True)
class Edit:
    """The cache's new slots, each with the row that says how it comes of the old ones."""

    slots: tuple[Slot, ...]
    rows: tuple[Row, ...]

    @property
    def picks(self) -> bool:
        """It has rows that wait for the next pass's queries."""
        return any(isinstance(row, Pick) for row in self.rows)

    def check(self, old: int) -> None:
        """Raise CacheError unless rows match slots, point at the `old` slots, sums are 1 and picks share out once."""
        if len(self.slots) != len(self.rows):
            raise CacheError(
                f"an edit names {len(self.slots)} slots but has {len(self.rows)} rows. Give one row a slot."
            )
        for slot, row in zip(self.slots, self.rows, strict=True):
            if not isinstance(row, Mix | Pick):
                raise CacheError(
                    f"the edit's row for {slot} is {row!r}. Give a Mix of (slot, weight) pairs, or a Pick."
                )
            if any(not 0 <= i < old for i in row.sources):
                raise CacheError(f"the edit's row for {slot} points outside the cache's {old} slots: {row}.")
            if isinstance(row, Mix) and not isclose(sum(w for _, w in row.weights), 1.0, abs_tol=1e-6):
                total = sum(w for _, w in row.weights)
                raise CacheError(f"the edit's row for {slot} sums to {total:g}, not 1: {row}.")
        self._check_picks()
        if in_order(self.slots) != self.slots:
            raise CacheError("an edit's slots are out of order: the cache's order is sink, memory, recent.")

    def _check_picks(self) -> None:
        contests: dict[tuple[object, ...], list[Pick]] = {}
        for row in self.rows:
            if isinstance(row, Pick):
                contests.setdefault(row.contest, []).append(row)
        for picks in contests.values():
            parts, candidates = [pick.part for pick in picks], picks[0].of
            if sorted(parts) != list(range(len(parts))) or len(set(candidates)) < len(candidates):
                raise CacheError(
                    f"picks of slots {candidates} take the parts {parts}: number them 0, 1, 2, ... once each."
                )
            if len(parts) > len(candidates):
                raise CacheError(
                    f"{len(parts)} picks of {len(candidates)} slots: there are fewer tokens than they take."
                )
        candidates_of_all = [i for picks in contests.values() for i in picks[0].of]
        keeps = {i for row in self.rows if isinstance(row, Mix) for i in row.sources}
        if len(set(candidates_of_all)) < len(candidates_of_all) or keeps & set(candidates_of_all):
            raise CacheError("an edit picks from slots that it takes in otherwise too. Let one row decide about each.")


@dataclass(frozen=True)
class View:
    """What one pass reads: the temporal indices of the cached slots (None: stored, not read) and of its own frames.

    Queries and own keys share one index. `bias` is added to a slot's attention logits, one number a slot or none at all.
    """

    slots: tuple[int | None, ...]
    block: tuple[int, ...]
    bias: tuple[float, ...] = ()

    @property
    def read(self) -> tuple[int, ...]:
        """Which slots are read, in the cache's order."""
        return tuple(i for i, index in enumerate(self.slots) if index is not None)

    def pairs(self, slots: Sequence[Slot]) -> tuple[tuple[Slot, int], ...]:
        """The slots that are read, each with its index."""
        return tuple((slot, index) for slot, index in zip(slots, self.slots, strict=True) if index is not None)


@dataclass(frozen=True)
class Pass:
    """One call of the model: blocks (oldest first), the step at which each is, and whether it writes the cache.

    A writing pass sees clean latents: its level is the number of steps.
    """

    blocks: tuple[int, ...]
    levels: tuple[int, ...]
    writes: bool = False


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
    return Edit(tuple(slots[i] for i in order), tuple(Mix(((i, 1.0),)) for i in order))


def of_role(slots: Sequence[Slot], role: Role) -> tuple[int, ...]:
    """The indices of the slots with that role."""
    return tuple(i for i, slot in enumerate(slots) if slot.role is role)


def flush(slots: Sequence[Slot], last: int = 1) -> Edit:
    """Keep the sinks and the newest `last` recent frames (Infinity-RoPE, arXiv 2511.20649, KV Flush)."""
    recent = of_role(slots, Role.RECENT)
    return keep(slots, of_role(slots, Role.SINK) + recent[max(0, len(recent) - last) :])
