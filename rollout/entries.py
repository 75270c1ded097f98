"""What a store holds of a slot: where its keys and values lie, and the copies of what is rotated again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any

from torch import Tensor

from rollout.text import Json

__all__ = ["FARTHEST", "Average", "Entry", "Pair", "RawTimes", "of_heads"]

Pair = tuple[Tensor, Tensor]
"""Keys and values."""
FARTHEST = 2**40
"""Indices beyond are damage."""


@dataclass(eq=False)
class RawTimes:
    """A copy of a slot's time channels (B, h*w, heads, 2 axes[0]) a layer, not rotated, in the cache's dtype."""

    layers: list[Tensor]


@dataclass(eq=False)
class Average:
    """A memory's keys, rotated in space alone, and values a layer, in float32 or better."""

    layers: list[Pair]


@dataclass(eq=False)
class Entry:
    """What the store holds of one slot: its row, the index at which the keys there are rotated, and its copy.

    Without a copy the keys can only be turned back. `turn` is None where the rotated keys are still owed, from the copy.
    `wins`: how often each token (B, heads or 1, h*w) of a pick was chosen, a layer; `facts`: what was measured of the slot.
    """

    row: int
    turn: int | None
    copy: RawTimes | Average | None = None
    wins: list[Tensor] | None = None
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def averaged(self) -> bool:
        """A memory, in full precision."""
        return isinstance(self.copy, Average)

    def to_dict(self) -> Json:
        """As JSON: of the copy only its kind."""
        return (
            {
                "row": self.row,
                "turn": self.turn,
                "raw": isinstance(self.copy, RawTimes),
                "exact": isinstance(self.copy, Average),
            }
            | ({"wins": True} if self.wins is not None else {})
            | ({"facts": self.facts} if self.facts else {})
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Entry":
        """From JSON, its copy still empty. Raises KeyError, TypeError, ValueError."""
        turn = None if data["turn"] is None else index(data["turn"])
        raw = RawTimes([]) if data["raw"] else None
        copy = Average([]) if data["exact"] else raw
        if (turn is None and copy is None) or abs(turn or 0) > FARTHEST:
            raise ValueError(f"a slot's keys are at the index {turn}")
        facts = {str(name): float(value) for name, value in data.get("facts", {}).items()}
        return cls(index(data["row"]), turn, copy, [] if data.get("wins") else None, facts)


def of_heads(entry: Entry, heads: Sequence[Tensor]) -> Entry:
    """An entry of some of the heads, by layer."""
    copy = entry.copy
    if isinstance(copy, RawTimes):
        copy = RawTimes([times[:, :, index] for times, index in zip(copy.layers, heads, strict=True)])
    elif copy is not None:
        pairs = zip(copy.layers, heads, strict=True)
        copy = Average([(keys[:, :, index], values[:, :, index]) for (keys, values), index in pairs])
    return replace(entry, copy=copy, facts=dict(entry.facts))
