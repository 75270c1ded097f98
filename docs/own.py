"""A policy and a positional scheme of your own: rollout explain "a[9s]" --plugin docs/own.py --pos folded --cache dilated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rollout import (
    Block,
    Edit,
    PolicyDefaults,
    PositionsDefaults,
    Role,
    Slot,
    View,
    admit,
    keep,
    of_role,
    register,
)


@register("policies", "dilated")
@dataclass(frozen=True)
class Dilated(PolicyDefaults):
    """The sinks, the newest block, and before it every other frame: a longer past at the same cost."""

    kind: ClassVar[str] = "dilated"
    window: int = 12
    sink: int = 1

    def make_room(self, slots: Sequence[Slot], frames: int) -> Edit:
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        thin = [i for i in recent[:-3] if slots[i].frame % 2 == 0] + list(recent[-3:])
        room = self.window - frames - len(sinks)
        return keep(slots, [*sinks, *thin[max(0, len(thin) - room) :]])

    def admit(self, block: Block) -> tuple[Slot, ...]:
        return admit(block, self.sink)


@register("positions", "folded")
@dataclass(frozen=True)
class Folded(PositionsDefaults):
    """Sinks at the start; a frame's distance counts in full up to `near` frames and half beyond."""

    kind: ClassVar[str] = "folded"
    by_slot: ClassVar[bool] = True
    collapses: ClassVar[bool] = True
    near: int = 5

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        last, floor = min(block.end, window) - 1, sum(slot.role is not Role.RECENT for slot in slots)

        def index(frame: int) -> int:
            distance = block.end - 1 - frame
            return max(floor, last - min(distance, self.near + (distance - self.near + 1) // 2))

        held = tuple(i if slot.role is not Role.RECENT else index(slot.frame) for i, slot in enumerate(slots))
        return View(held, tuple(index(frame) for frame in range(block.start, block.end)))
