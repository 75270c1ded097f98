"""Policies that tell heads apart: each set of heads is a lane with slots of its own."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rollout.backend import Spec
from rollout.documents import parse_json, read_bytes
from rollout.errors import CompositionError, SpecError
from rollout.lanes import HeadMasses, Lane
from rollout.parts import Policy, PolicyDefaults
from rollout.slots import BLOCK, NO_FACTS, Block, Edit, Facts, Slot
from rollout.strategies.policies import Fifo, Sink, admit, check_window, evict_oldest, pin
from rollout.strategy import Strategy
from rollout.text import cause

__all__ = ["MOST", "POLICIES", "WORDS", "ByHead", "Dummy", "read_map"]

WORDS = {"far+sink": "F", "far": "f", "near+sink": "N", "near": "n", "sink": "s"}
"""What a map may say of a head, and the letter for it; lanes are in this order."""


MOST = 2**20
"""Bytes of a head map: a hundred layers of a hundred heads take less."""


def read_map(path: Path) -> tuple[str, ...]:
    """A head map, a text a layer and a letter a head, of a JSON list of lists or a CSV, of words or letters. Raises SpecError."""
    try:
        text = read_bytes(path, MOST).decode("utf-8-sig")  # spreadsheets write a mark first
        rows = parse_json(text) if path.suffix == ".json" else list(filter(any, csv.reader(text.splitlines())))
        return tuple("".join(WORDS.get(str(cell).strip(), str(cell).strip()) for cell in row) for row in rows)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise SpecError(
            f"the head map {path} cannot be read: {cause(error)}. Give a JSON list of layers, or a CSV with a line a layer, with "
            f"one of {', '.join(WORDS)} a head."
        ) from error


def _lanes(letters: Sequence[str], policies: dict[str, tuple[str, Policy]]) -> tuple[Lane, ...]:
    """A lane for each letter that occurs, in the order of `policies`."""
    lanes = []
    for letter, (name, policy) in policies.items():
        heads = tuple(tuple(n for n, other in enumerate(layer) if other == letter) for layer in letters)
        if any(heads):
            lanes.append(Lane(name, heads, policy))
    return tuple(lanes)


@dataclass(frozen=True)
class ByHead(PolicyDefaults):
    """Heads of a map see the far past, the near one, or sinks alone (Forcing-KV, arXiv 2605.09681, sorts heads offline so).

    `map`: a text a layer with a letter a head, or the path of a JSON or CSV file with words: f (far) sees the newest `far`
    frames, n (near) the newest `near`, the block included; F and N (far+sink, near+sink) `sink` first frames among them; s
    (sink) the sinks and the block alone. Without a map all heads are F.
    """

    kind: ClassVar[str] = "by-head"
    near: int = 4
    far: int = 21
    sink: int = 1
    map: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        path = "/".join(self.map)  # the grammar of fields splits lists at each /
        if path.endswith((".json", ".csv")):
            object.__setattr__(self, "map", read_map(Path(path)))
        check_window(self.kind, self.near, self.sink)
        check_window(self.kind, self.far, self.sink)
        if self.near > self.far:
            raise SpecError(f"by-head: near={self.near} is beyond far={self.far}. Give near heads the smaller window.")
        for layer, letters in enumerate(self.map):
            unknown = [letter for letter in letters if letter not in WORDS.values()]
            if unknown:
                raise SpecError(
                    f"by-head: layer {layer} of the map says {unknown[0]!r} of a head. Write one of "
                    f"{', '.join(f'{letter} ({word})' for word, letter in WORDS.items())}."
                )

    @property
    def window(self) -> int:
        """That of the heads that see most."""
        return self.far

    def lanes(self, spec: Spec, masses: HeadMasses | None) -> tuple[Lane, ...]:
        """A lane for each kind of head that the map has. Raises CompositionError for a map of another model."""
        if self.map and [len(letters) for letters in self.map] != [spec.heads] * spec.layers:
            sizes = sorted({len(letters) for letters in self.map})
            raise CompositionError(
                f"the head map has {len(self.map)} layers of {', '.join(map(str, sizes))} heads, and {spec.name} has "
                f"{spec.layers} of {spec.heads}: it is a map of another model. Give one made for this model."
            )
        return _lanes(
            self.map,
            {
                "F": ("far+sink", Sink(self.far, self.sink)),
                "f": ("far", Fifo(self.far)),
                "N": ("near+sink", Sink(self.near, self.sink)),
                "n": ("near", Fifo(self.near)),
                "s": ("sink", Sink(self.sink + spec.block, self.sink)),
            },
        )

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Of heads that are all alike the oldest frames go that are no sinks."""
        return evict_oldest(slots, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks."""
        return admit(block, self.sink)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """No switch that encodes frames again, where heads hold different ones."""
        if self.map:
            _check_replays(strategy)


@dataclass(frozen=True)
class _Near(Fifo):
    """As fifo, for heads whose first frame was a sink as long as all heads went together."""

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """The oldest frames go, whatever they are."""
        return pin(slots, (), range(len(slots)), self.window - frames)


@dataclass(frozen=True)
class Dummy(PolicyDefaults):
    """Heads are sorted once, by what they attend to in the second block (Dummy Forcing, arXiv 2601.20499).

    Up to then all heads see everything. Then `share` of all heads, those that look least at the past, see the newest frame
    alone; of the rest those that look more at the newest frames than at the first one see the newest block, the others
    the first frame; each sees its own block too.
    """

    kind: ClassVar[str] = "dummy"
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SpecError(
                f"dummy: share={self.share:g} is outside 0 to 1; it is the part of the heads that see least."
            )

    @property
    def window(self) -> int:
        """Two blocks: all that there is when heads are sorted."""
        return 2 * BLOCK

    @property
    def sink(self) -> int:
        """The first frame."""
        return 1

    @property
    def needs(self) -> tuple[str, ...]:
        """How every head's attention is spread."""
        return ("heads",)

    def lanes(self, spec: Spec, masses: HeadMasses | None) -> tuple[Lane, ...]:
        """Three lanes, once the second block has been seen."""
        if masses is None or len(masses[0][0]) != 2 * spec.block:
            return ()
        first, middle = (self._shares(masses, part) for part in (slice(0, 1), slice(1, spec.block)))
        heads = [(layer, head) for layer in range(spec.layers) for head in range(spec.heads)]
        dummies = set(sorted(heads, key=lambda head: max(first[head], middle[head]))[: round(self.share * len(heads))])

        def letter(head: tuple[int, int]) -> str:
            if head in dummies:
                return "d"
            return "l" if first[head] < middle[head] else "f"

        letters = ["".join(letter((layer, head)) for head in range(spec.heads)) for layer in range(spec.layers)]
        return _lanes(
            letters,
            {
                "l": ("local", _Near(2 * spec.block)),
                "f": ("first", Sink(1 + spec.block, 1)),
                "d": ("dummy", _Near(1 + spec.block)),
            },
        )

    @staticmethod
    def _shares(masses: HeadMasses, part: slice) -> dict[tuple[int, int], float]:
        """What every head gives to some frames, as a share of what all heads give."""
        sums = {(n, head): sum(row[part]) for n, layer in enumerate(masses) for head, row in enumerate(layer)}
        total = sum(sums.values()) or 1.0
        return {head: mass / total for head, mass in sums.items()}

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Up to the second block nothing goes."""
        return evict_oldest(slots, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frame is a sink: the one of the heads that look at it."""
        return admit(block, 1)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """No switch that encodes frames again, since heads hold different ones."""
        _check_replays(strategy)


def _check_replays(strategy: Strategy) -> None:
    if strategy.switch.replays:
        raise CompositionError(
            f"policy '{strategy.policy.kind}' gives heads slots of their own, and switch '{strategy.switch.kind}' encodes "
            "frames again for all of them. Use switch='keep' or 'flush'."
        )


POLICIES = {rule.kind: rule for rule in (ByHead, Dummy)}
