"""Reads: what a pass sees of what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.refinements import ReadsDefaults
from rollout.slots import BLOCK, Block, Pass, Role, Slot
from rollout.strategy import Strategy

__all__ = ["READS", "All", "Commit", "Newest"]


@dataclass(frozen=True)
class All(ReadsDefaults):
    """Every pass reads all that is cached."""

    kind: ClassVar[str] = "all"

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        """Everything."""
        return tuple(range(len(slots)))


@dataclass(frozen=True)
class Newest(ReadsDefaults):
    """A pass reads at most `frames` frames, its own included (Rolling Forcing, arXiv 2509.25161).

    Noisy passes read what is pinned and the newest of the rest; the clean pass the newest alone, so that sinks fall out.
    """

    kind: ClassVar[str] = "newest"
    frames: int = 21

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise SpecError(f"newest: frames={self.frames} leaves nothing to read, not even the block. Use more.")

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        """The newest that fit beside the pass's own frames."""
        room = max(0, self.frames - len(call.blocks) * block.frames)
        if call.writes:
            return tuple(range(max(0, len(slots) - room), len(slots)))
        pinned = tuple(i for i, slot in enumerate(slots) if slot.role is not Role.RECENT)[:room]
        recent = tuple(i for i, slot in enumerate(slots) if slot.role is Role.RECENT)
        return pinned + recent[max(0, len(recent) - (room - len(pinned))) :]

    def span(self, window: int) -> int:
        """At most `frames`."""
        return min(window, self.frames)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """Room for what is pinned and a block."""
        least = strategy.pinned + (spec.block if spec else BLOCK)
        if self.frames < least:
            raise CompositionError(
                f"reads 'newest' with frames={self.frames} have no room for {strategy.pinned} sink and memory frames and a "
                f"block. Use at least {least}."
            )


@dataclass(frozen=True)
class Commit(ReadsDefaults):
    """The clean pass reads only the newest `recent` cached frames beside its block (released code of Commit Forcing).

    No sinks and no memory, once they are older than that: what is written depends on the near past alone.
    """

    kind: ClassVar[str] = "commit"
    recent: int = 9

    def __post_init__(self) -> None:
        if self.recent < 0:
            raise SpecError(
                f"commit: recent={self.recent} is negative; it counts cached frames, 0 for the block alone."
            )

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        """Everything, or in the clean pass what is at most `recent` frames old."""
        if not call.writes:
            return tuple(range(len(slots)))
        oldest = block.start - self.recent
        return tuple(i for i, slot in enumerate(slots) if slot.role is not Role.MEMORY and slot.time >= oldest)


READS = {rule.kind: rule for rule in (All, Newest, Commit)}
