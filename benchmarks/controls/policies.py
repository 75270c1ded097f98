"""Policies of controls: no method, but what a method is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rollout.errors import SpecError
from rollout.parts import PolicyDefaults
from rollout.slots import NO_FACTS, Block, Edit, Facts, Slot
from rollout.strategies.policies import admit, pin

__all__ = ["POLICIES", "Oracle"]


@dataclass(frozen=True)
class Oracle(PolicyDefaults):
    """Keeps the frames first .. last for ever, those that an answer needs: the best that a cache of this size can know.

    Everything else is first in, first out; frames before `first` go as soon as it is cached, since they would contradict it.
    """

    kind: ClassVar[str] = "oracle"
    window: int = 21
    first: int = 0
    last: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise SpecError(
                f"oracle: the frames {self.first} to {self.last} are none. Give first and last, both included, from 0 on."
            )
        if self.window < self.sink + 1:
            raise SpecError(
                f"oracle: window={self.window} does not hold the {self.sink} frames {self.first} to {self.last} and a block. "
                "Use a larger window or fewer frames."
            )

    @property
    def sink(self) -> int:
        """Frames that are kept for ever."""
        return self.last - self.first + 1

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Frames to keep become sinks once they are cached; then the oldest others go."""
        span = [i for i, slot in enumerate(slots) if self.first <= slot.frame <= self.last]
        begun = any(slot.frame >= self.first for slot in slots)
        rest = [i for i, slot in enumerate(slots) if i not in span and (slot.frame > self.last or not begun)]
        return pin(slots, span, rest, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """Sinks where they are the first frames of all; later ones are pinned once they are cached."""
        return admit(block, self.last + 1 if self.first == 0 else 0)


POLICIES = {rule.kind: rule for rule in (Oracle,)}
