"""The protocols of the three parts, and Strategy: parts that were checked to go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from rollout import specs
from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.members import lacks
from rollout.slots import BLOCK, Block, Edit, Placement, Replay, Slot, flush
from rollout.text import Json

__all__ = ["AXES", "Policy", "PolicyDefaults", "Positions", "PositionsDefaults", "Strategy", "Switch", "SwitchDefaults"]


@runtime_checkable
class Positions(Protocol):
    """Where in time? A rule that gives every cached slot and the block's frames a temporal index."""

    kind: ClassVar[str]
    by_slot: ClassVar[bool]
    """Dates by a slot's place in the cache, so that a slot without a frame number (an average) has an index."""
    collapses: ClassVar[bool]
    """Gives several cached frames one index on purpose, also within the window."""

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> Placement:
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

    def make_room(self, slots: Sequence[Slot], frames: int) -> Edit:
        """The edit before a block of `frames` is denoised: afterwards slots + frames fit the window."""
        ...

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The slots of the committed block, with their roles."""
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
    else:
        sink, memory, rates = 0, 0, ()

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""


class SwitchDefaults:
    """What most switches say: they fit every strategy. Inherit it, and add kind, flushes and on_switch."""

    if TYPE_CHECKING:

        @property
        def last(self) -> int: ...
    else:
        last = 1

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""


AXES = ("positions", "policy", "switch")
_PROTOCOLS: dict[str, tuple[type, type]] = {
    "positions": (Positions, PositionsDefaults),
    "policy": (Policy, PolicyDefaults),
    "switch": (Switch, SwitchDefaults),
}


def _whole(axis: str, part: object) -> None:
    """Raise SpecError for a part that lacks a member of its protocol; says which, and which mixin has it."""
    protocol, defaults = _PROTOCOLS[axis]
    if isinstance(part, type) or not hasattr(part, "kind"):
        raise SpecError(f"{part!r} is no {axis} rule: the protocol {protocol.__name__} says what it needs.")
    lack = lacks(part, protocol, defaults)
    if lack:
        raise SpecError(f"the {axis} rule '{specs.kind_of(part)}' {lack}")


@dataclass(frozen=True)
class Strategy:
    """Positions + policy + switch, checked when composed; compare by value.

    Raises CompositionError where the parts do not go together.
    """

    positions: Positions
    policy: Policy
    switch: Switch

    def __post_init__(self) -> None:
        for axis in AXES:
            _whole(axis, getattr(self, axis))
        if self.policy.blends and not self.positions.by_slot:
            raise CompositionError(
                f"policy '{self.policy.kind}' averages keys of different frames, and positions '{self.positions.kind}' "
                "has no frame index to give the average. Use positions='online'."
            )
        self._check_parts(None, None)

    def on_switch(self, slots: Sequence[Slot], block: Block) -> tuple[Edit, Replay | None]:
        """What a prompt change or a cut does to the cache before `block`.

        A cut flushes, with the strategy's own flush where its switch is one, else keeping the last frame
        (arXiv 2511.20649, RoPE Cut); a prompt change alone asks the switch.
        """
        if not block.cut or self.switch.flushes:
            return self.switch.on_switch(slots, block, self.policy.window)
        return flush(slots, 1), None

    @property
    def pinned(self) -> int:
        """Slots that no block evicts: the policy's sinks and memory."""
        return self.policy.sink + self.policy.memory

    def check(self, spec: Spec, frames: int | None = None) -> None:
        """Raise CompositionError where the strategy does not fit a backend, or `frames` latent frames on it."""
        self._check_parts(spec, frames)

    def _check_parts(self, spec: Spec | None, frames: int | None) -> None:
        block = spec.block if spec else BLOCK
        if self.policy.window < self.pinned + block:
            raise CompositionError(
                f"window {self.policy.window} of policy '{self.policy.kind}' is smaller than its {self.pinned} sink and "
                f"memory frames and a block of {block}. Use a window of at least {self.pinned + block}."
            )
        for part in (self.policy, self.switch, self.positions):
            part.check(self, spec, frames)

    def to_dict(self) -> Json:
        """The JSON form: {"positions": {"kind": ..., field: ...}, "policy": {...}, "switch": {...}}."""
        return {axis: specs.part_to_dict(getattr(self, axis)) for axis in AXES}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the JSON form; fields that are left out take their defaults. Raises SpecError."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a strategy is an object with {', '.join(AXES)}, not {type(data).__name__}.")
        unknown = set(data) - set(AXES)
        if unknown:
            raise SpecError(f"a strategy has no {sorted(map(str, unknown))[0]!r}; it has {', '.join(AXES)}.")
        missing = [axis for axis in AXES if axis not in data]
        if missing:
            raise SpecError(f'the strategy lacks {missing[0]!r}. Add "{missing[0]}": {{"kind": ...}}.')
        return cls(**{axis: specs.part_from_dict(axis, data[axis]) for axis in AXES})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Build from the form that `str` gives: "POSITIONS POLICY+SWITCH". Raises SpecError."""
        positions, _, cache = text.strip().partition(" ")
        if not cache.strip():
            raise SpecError(
                f"{text[:60]!r} is no strategy. Write POSITIONS POLICY+SWITCH, such as "
                "'relativistic sink:window=6,sink=1+flush', or a preset's name."
            )
        return cls(specs.part_from_text("positions", positions), *specs.policy_and_switch(cache.strip()))

    def __str__(self) -> str:
        policy, switch = specs.part_to_text(self.policy), specs.part_to_text(self.switch)
        return f"{specs.part_to_text(self.positions)} {policy}+{switch}"
