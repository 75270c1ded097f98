"""The protocols of a strategy's three parts, and the mixins that have what most rules say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from rollout.backend import Spec
from rollout.lanes import HeadMasses, Lane
from rollout.slots import NO_FACTS, Block, Edit, Facts, Replay, Slot, View

if TYPE_CHECKING:
    from rollout.strategy import Strategy

__all__ = ["Policy", "PolicyDefaults", "Positions", "PositionsDefaults", "Switch", "SwitchDefaults"]


@runtime_checkable
class Positions(Protocol):
    """Where in time? A rule that gives every cached slot and the block's frames a temporal index."""

    kind: ClassVar[str]
    by_slot: ClassVar[bool]
    """Dates by a slot's place in the cache, so that a slot without a frame number (an average) has an index."""
    collapses: ClassVar[bool]
    """Gives several cached frames one index on purpose, also within the window."""

    @property
    def beyond(self) -> bool:
        """Its indices may lie beyond the trained frames on purpose."""
        ...

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        """Indices for the slots that `block` attends to; `window` is the policy's, at most the trained frames."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Raise CompositionError where the rule does not fit the strategy, the backend or the planned latent frames.

        Called with None, None when the strategy is composed, and again once the backend and the plan are known.
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """What stays? A rule over slots, pure and without tensors."""

    kind: ClassVar[str]
    blends: ClassVar[bool]
    """Averages keys of different frames."""

    @property
    def window(self) -> int:
        """Cached frames, the block included."""
        ...

    @property
    def sink(self) -> int:
        """Slots of role sink, once they are filled: no block evicts them."""
        ...

    @property
    def memory(self) -> int:
        """Slots of role memory, once they are filled."""
        ...

    @property
    def rates(self) -> tuple[float, ...]:
        """What tells the memory slots apart where they are moving averages, one rate a slot."""
        ...

    @property
    def spare(self) -> int:
        """Frames beyond the window that are stored and that no pass reads (an archive)."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """What the cache measures for it, by the names of facts; "queries" for picks that score with past ones."""
        ...

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """The edit before a block of `frames` is denoised: afterwards slots + frames fit the window.

        `facts` has the numbers that `needs` asks for, one a slot.
        """
        ...

    def renew(self, slots: Sequence[Slot], block: Block) -> tuple[Edit, Replay] | None:
        """What the policy encodes again by itself before a block, in place of what a switch would do; None: nothing."""
        ...

    def readable(self, slots: Sequence[Slot], block: Block) -> tuple[int, ...]:
        """The slots that passes may read; the others are stored alone."""
        ...

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The slots of the committed block, with their roles."""
        ...

    def lanes(self, spec: Spec, masses: HeadMasses | None) -> tuple[Lane, ...]:
        """Sets of heads with slots of their own; none: all heads together.

        Asked first with None, and where `needs` has "heads" before every block until there are lanes, with what was measured
        in the clean pass of the block before. Raises CompositionError where they do not fit the model.
        """
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


@runtime_checkable
class Switch(Protocol):
    """What happens to the cache when the prompt changes?"""

    kind: ClassVar[str]
    flushes: ClassVar[bool]
    """Drops recent frames and replays none: then a cut does the same; otherwise a cut keeps the last frame."""
    replays: ClassVar[bool]
    """Encodes frames again, from their clean latents."""

    @property
    def last(self) -> int:
        """Recent frames that a switch which flushes leaves."""
        ...

    def on_switch(self, slots: Sequence[Slot], block: Block, window: int) -> tuple[Edit, Replay | None]:
        """The edit, and the frames to encode again under the new prompt; `window` is the policy's."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


class PositionsDefaults:
    """What most positions say: an index a frame, and they fit every strategy. Inherit it, and add kind, by_slot and place."""

    collapses: ClassVar[bool] = False
    if TYPE_CHECKING:

        @property
        def beyond(self) -> bool: ...
    else:
        beyond = False

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""


class PolicyDefaults:
    """What most policies say: no sinks, no memory, no averages. Inherit it, and add kind, window, make_room and admit."""

    blends: ClassVar[bool] = False
    if TYPE_CHECKING:  # to a type checker read-only, so that a rule may make a field or a property of each

        @property
        def sink(self) -> int: ...
        @property
        def memory(self) -> int: ...
        @property
        def rates(self) -> tuple[float, ...]: ...
        @property
        def spare(self) -> int: ...
        @property
        def needs(self) -> tuple[str, ...]: ...
    else:
        sink, memory, rates, spare, needs = 0, 0, (), 0, ()

    def renew(self, slots: Sequence[Slot], block: Block) -> tuple[Edit, Replay] | None:
        """Nothing."""
        return None

    def readable(self, slots: Sequence[Slot], block: Block) -> tuple[int, ...]:
        """Everything."""
        return tuple(range(len(slots)))

    def lanes(self, spec: Spec, masses: HeadMasses | None) -> tuple[Lane, ...]:
        """All heads together."""
        return ()

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""


class SwitchDefaults:
    """What most switches say: they encode nothing again and fit every strategy. Inherit it, and add kind, flushes, on_switch."""

    replays: ClassVar[bool] = False

    if TYPE_CHECKING:

        @property
        def last(self) -> int: ...
    else:
        last = 1

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""
