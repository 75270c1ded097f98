"""Strategy: parts and refinements that were checked to go together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from rollout import specs
from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.facts import HEADS, QUERIES
from rollout.lanes import Lane, check_lanes
from rollout.members import lacks
from rollout.parts import Policy, PolicyDefaults, Positions, PositionsDefaults, Switch, SwitchDefaults
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
from rollout.slots import BLOCK, Block, Edit, Replay, Slot, flush
from rollout.text import Json

__all__ = ["AXES", "PROTOCOLS", "REFINEMENTS", "Strategy"]


AXES = ("positions", "policy", "switch")
REFINEMENTS = {"spectrum": "plain", "reads": "all", "order": "blocks", "store": "dense"}
"""The refinements, each with the kind that changes nothing."""
PROTOCOLS: dict[str, tuple[type, type]] = {
    "positions": (Positions, PositionsDefaults),
    "policy": (Policy, PolicyDefaults),
    "switch": (Switch, SwitchDefaults),
    "spectrum": (Spectrum, SpectrumDefaults),
    "reads": (Reads, ReadsDefaults),
    "order": (Order, OrderDefaults),
    "store": (StoreRule, StoreDefaults),
}
"""Of each axis what a rule must have, and the mixin that has what most rules say."""


def _usual(axis: str) -> Any:
    return specs.part_from_text(axis, REFINEMENTS[axis])


def _whole(axis: str, part: object) -> None:
    """Raise SpecError for a part that lacks a member of its protocol; says which, and which mixin has it."""
    protocol, defaults = PROTOCOLS[axis]
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

    def copies(self, spec: Spec, itemsize: int = 4) -> int:
        """The most bytes beside the store: raw time channels of keys that are dated anew, averages in float32 or better."""
        policy, a_channel = self.policy, spec.layers * spec.tokens * spec.heads
        averages = policy.memory if policy.blends else 0
        raw = policy.sink + policy.memory - averages + policy.spare
        return a_channel * (raw * 2 * spec.axes[0] * itemsize + averages * 2 * spec.head_dim * max(itemsize, 4))

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
    def of(cls, named: "Strategy | str") -> "Strategy":
        """A strategy as it is, or the one that a text names: a preset's name, or what `from_text` reads. Raises SpecError."""
        if isinstance(named, Strategy):
            return named
        if not isinstance(named, str):
            raise SpecError(
                f"{named!r:.60} is no strategy. Give a Strategy, a preset's name, or a text such as "
                "'relativistic sink:window=6,sink=1+flush'."
            )
        if " " in named.strip():
            return cls.from_text(named)
        strategy: Strategy = find("presets", named.strip()).strategy
        return strategy

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

    def __repr__(self) -> str:
        return f"Strategy.of({str(self)!r})"

    def __str__(self) -> str:
        policy, switch = specs.part_to_text(self.policy), specs.part_to_text(self.switch)
        more = "".join(f" {axis}={specs.part_to_text(getattr(self, axis))}" for axis in self.refinements)
        return f"{specs.part_to_text(self.positions)} {policy}+{switch}{more}"
