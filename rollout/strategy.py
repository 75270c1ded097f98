"""The protocols of the three parts, and Strategy: parts and refinements that were checked to go together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from rollout import specs
from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.facts import HEADS, QUERIES
from rollout.lanes import HeadMasses, Lane, check_lanes
from rollout.members import lacks
from rollout.refinements import (
    Order,
    OrderDefaults,
    Reads,
    ReadsDefaults,
    Spectrum,
    SpectrumDefaults,
    StoreDefaults,
    StoreRule,
)
from rollout.registry import find
from rollout.slots import BLOCK, NO_FACTS, Block, Edit, Facts, Replay, Slot, View, flush
from rollout.text import Json

__all__ = [
    "AXES",
    "REFINEMENTS",
    "Policy",
    "PolicyDefaults",
    "Positions",
    "PositionsDefaults",
    "Strategy",
    "Switch",
    "SwitchDefaults",
]


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


AXES = ("positions", "policy", "switch")
REFINEMENTS = {"spectrum": "plain", "reads": "all", "order": "blocks", "store": "dense"}
"""The refinements, each with the kind that changes nothing."""
_PROTOCOLS: dict[str, tuple[type, type]] = {
    "positions": (Positions, PositionsDefaults),
    "policy": (Policy, PolicyDefaults),
    "switch": (Switch, SwitchDefaults),
    "spectrum": (Spectrum, SpectrumDefaults),
    "reads": (Reads, ReadsDefaults),
    "order": (Order, OrderDefaults),
    "store": (StoreRule, StoreDefaults),
}


def _usual(axis: str) -> Any:
    return specs.part_from_text(axis, REFINEMENTS[axis])


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
    """Positions + policy + switch, and four refinements, checked when composed; compare by value.

    Raises CompositionError where the parts do not go together.
    """

    positions: Positions
    policy: Policy
    switch: Switch
    spectrum: Spectrum = field(default_factory=lambda: _usual("spectrum"))
    reads: Reads = field(default_factory=lambda: _usual("reads"))
    order: Order = field(default_factory=lambda: _usual("order"))
    store: StoreRule = field(default_factory=lambda: _usual("store"))

    def __post_init__(self) -> None:
        for axis in (*AXES, *REFINEMENTS):
            _whole(axis, getattr(self, axis))
        if self.policy.blends and not self.positions.by_slot:
            raise CompositionError(
                f"policy '{self.policy.kind}' averages keys of different frames, and positions '{self.positions.kind}' "
                "has no frame index to give the average. Use positions='online'."
            )
        for name in self.policy.needs:
            if name not in (QUERIES, HEADS):
                find("facts", name)
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

    @property
    def span(self) -> int:
        """The most frames that a pass reads, its own included."""
        return self.reads.span(self.policy.window)

    @property
    def stored(self) -> int:
        """The most frames that are cached, the block included."""
        return self.policy.window + self.policy.spare

    def budget(self, spec: Spec, itemsize: int = 4) -> int:
        """What is cached in frames' worth of a dense store's bytes, whole ones, for numbers of `itemsize` bytes.

        The window, but for a policy that stores more than it reads, heads with slots of their own, and other stores.
        """
        lanes, heads = self.policy.lanes(spec, None), spec.layers * spec.heads
        frames = sum(lane.policy.window * sum(map(len, lane.heads)) / heads for lane in lanes) if lanes else self.stored
        dense = 2 * spec.layers * spec.tokens * spec.heads * spec.head_dim * itemsize
        return math.ceil(frames * self.store.frame_bytes(spec, itemsize) / dense)

    @property
    def refinements(self) -> tuple[str, ...]:
        """The refinements that change something."""
        return tuple(axis for axis in REFINEMENTS if specs.part_to_text(getattr(self, axis)) != REFINEMENTS[axis])

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
        for part in (self.policy, self.switch, self.positions, self.spectrum, self.reads, self.order, self.store):
            part.check(self, spec, frames)
        lanes = () if spec is None else self.policy.lanes(spec, None)
        if spec is not None and lanes:
            check_lanes(lanes, spec)
            for lane in lanes:
                self.of_lane(lane).check(spec, frames)
            if len(self.spectrum.multipliers(spec)) > 1:
                raise CompositionError(
                    f"policy '{self.policy.kind}' and spectrum '{self.spectrum.kind}' both tell heads apart. Use one of them."
                )

    def of_lane(self, lane: Lane) -> "Strategy":
        """The strategy of some heads."""
        return replace(self, policy=lane.policy)

    def to_dict(self) -> Json:
        """The JSON form: {"positions": {"kind": ..., field: ...}, "policy": {...}, "switch": {...}}.

        Refinements follow where they change something.
        """
        return {axis: specs.part_to_dict(getattr(self, axis)) for axis in (*AXES, *self.refinements)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the JSON form; fields that are left out take their defaults. Raises SpecError."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a strategy is an object with {', '.join(AXES)}, not {type(data).__name__}.")
        axes = (*AXES, *REFINEMENTS)
        unknown = set(data) - set(axes)
        if unknown:
            raise SpecError(f"a strategy has no {sorted(map(str, unknown))[0]!r}; it has {', '.join(axes)}.")
        missing = [axis for axis in AXES if axis not in data]
        if missing:
            raise SpecError(f'the strategy lacks {missing[0]!r}. Add "{missing[0]}": {{"kind": ...}}.')
        return cls(**{axis: specs.part_from_dict(axis, data[axis]) for axis in axes if axis in data})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Build from the form that `str` gives: "POSITIONS POLICY+SWITCH [REFINEMENT=RULE ...]". Raises SpecError."""
        positions, _, rest = text.strip().partition(" ")
        words = rest.split()
        more = [word for word in words if ":" not in word.partition("=")[0] and "=" in word]  # reads=commit:recent=9
        cache = " ".join(word for word in words if word not in more)
        if not cache:
            raise SpecError(
                f"{text[:60]!r} is no strategy. Write POSITIONS POLICY+SWITCH, such as "
                "'relativistic sink:window=6,sink=1+flush', or a preset's name."
            )
        return cls(
            specs.part_from_text("positions", positions), *specs.policy_and_switch(cache), **specs.refinements(more)
        )

    def __str__(self) -> str:
        policy, switch = specs.part_to_text(self.policy), specs.part_to_text(self.switch)
        more = "".join(f" {axis}={specs.part_to_text(getattr(self, axis))}" for axis in self.refinements)
        return f"{specs.part_to_text(self.positions)} {policy}+{switch}{more}"
