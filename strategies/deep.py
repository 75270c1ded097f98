"""Deep Forcing: many sinks, and of what would be evicted the tokens that most queries ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.parts import PolicyDefaults
from rollout.slots import BLOCK, NO_FACTS, Block, Edit, Facts, Pick, Role, Slot, keep, of_role
from rollout.strategies.policies import admit, check_window, evict_oldest
from rollout.strategy import Strategy

__all__ = ["POLICIES", "Deep"]


@dataclass(frozen=True)
class Deep(PolicyDefaults):
    """Deep sinks and participative compression (Deep Forcing, arXiv 2512.05081).

    Where the window would overflow, it is cut to `budget` frames, the block included: the sinks, the newest `recent`
    frames (the block among them), and of all between the tokens that most queries ask for, in every layer. A token that
    was chosen `reuse` times is no candidate any more. `dates`: "unified" makes sinks, chosen tokens and recent frames
    contiguous; with "own" (as released) chosen tokens keep their index, and the sinks stop a block short of the rest.
    """

    kind: ClassVar[str] = "deep"
    window: int = 21
    sink: int = 10
    budget: int = 16
    recent: int = 4
    reuse: int = 7
    dates: Literal["unified", "own"] = "unified"

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.sink)
        if self.recent < 1 or self.reuse < 1:
            raise SpecError(f"deep: recent={self.recent} and reuse={self.reuse} count from 1.")
        if self.budget > self.window:
            raise SpecError(
                f"deep: budget={self.budget} is beyond window={self.window}; it is what a compression leaves."
            )
        if self.memory < 1:
            raise SpecError(
                f"deep: budget={self.budget} leaves no frame between {self.sink} sinks and {self.recent} recent frames to "
                f"choose tokens for. Use a budget of at least {self.sink + self.recent + 1}, or the policy sink."
            )

    @property
    def memory(self) -> int:
        """Frames' worth of chosen tokens."""
        return self.budget - self.sink - self.recent

    @property
    def needs(self) -> tuple[str, ...]:
        """Queries of the last clean pass, which are among the newest `recent` frames'."""
        return ("queries",)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """A block that fits the newest frames, and dates that positions look at."""
        block = spec.block if spec else BLOCK
        if self.recent < block:
            raise CompositionError(
                f"policy 'deep' keeps the newest recent={self.recent} frames, the block among them, and a block has {block}. "
                f"Use recent={block} or more."
            )
        if self.dates == "own" and strategy.positions.by_slot:
            raise CompositionError(
                f"policy 'deep' with dates=own leaves chosen tokens at their own frames, and positions "
                f"'{strategy.positions.kind}' date by slot. Use positions='absolute', or dates=unified."
            )

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Nothing until the window overflows; then compress."""
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        newest = recent[max(0, len(recent) - (self.recent - frames)) :] if self.recent > frames else ()
        between = tuple(i for i in range(len(slots)) if i not in sinks and i not in newest)
        if len(slots) + frames <= self.window or len(between) < self.memory:
            return evict_oldest(slots, self.window - frames)
        start = slots[-1].time + 1
        last = slots[between[-1]]
        first = start - self.budget + (frames if self.dates == "unified" else 0)
        pick = Pick(
            between, 0, past=self.recent - frames, reuse=self.reuse, dates="own" if self.dates == "own" else "slot"
        )
        chosen = [replace(last, role=Role.MEMORY, first=min(slots[i].oldest for i in between), date=None)] * self.memory
        # after the sinks; tokens that keep their own index move as one with this date, whichever it is
        chosen = [replace(slot, date=first + len(sinks) + n) for n, slot in enumerate(chosen)]
        stays = keep(slots, (*sinks, *newest))
        n = len(sinks)
        dated = tuple(replace(slot, date=first + i) for i, slot in enumerate(stays.slots[:n]))
        rows = tuple(replace(pick, part=part) for part in range(self.memory))
        return Edit((*dated, *chosen, *stays.slots[n:]), (*stays.rows[:n], *rows, *stays.rows[n:]))

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks."""
        return admit(block, self.sink)


POLICIES = {Deep.kind: Deep}
