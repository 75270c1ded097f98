"""What a block sees of the cache, frame by frame, and where two strategies differ. Pure, without torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from rollout.backend import Spec
from rollout.plan import Step, replayed, simulate
from rollout.slots import Block, Pick, Role, Row, Slot, View, in_order
from rollout.strategy import Strategy
from rollout.views import ANY, Horizon, reach

__all__ = ["Difference", "Key", "Mark", "Origin", "Sight", "compare", "is_copy", "keys", "sights"]

Key = tuple[str, int]
"""What is compared: ("frame", its number), ("copy", its date), ("memory", the stream's number), ("block", the number of one
of its own frames) or ("ahead", that of a later block's frame in the same pass)."""


class Origin(NamedTuple):
    """Where a slot comes from."""

    content: int
    """A fingerprint of which frames its keys average and in which pass they were encoded; not of their values."""
    own_dates: bool = False
    """Its tokens were chosen and each has kept its temporal index."""


@dataclass(frozen=True)
class Sight:
    """A step with what led to it."""

    step: Step
    before: tuple[Slot, ...]
    """The cache as the block before left it."""
    offered: tuple[Slot, ...]
    """The cache that the policy makes room in: after the switch, with what was encoded again."""
    natural: View
    """Where what is read and the block would sit without a cut's jump."""
    origins: tuple[Origin, ...]
    """Of each slot."""
    readable: int
    """Slots that count against the policy's window; the others are stored alone."""

    @property
    def read(self) -> tuple[tuple[Slot, int], ...]:
        """The slots that the noisy passes read, each with its index."""
        return self.step.placement.pairs(self.step.slots)

    @property
    def unread(self) -> tuple[Slot, ...]:
        """The slots that the noisy passes do not read."""
        pairs = zip(self.step.slots, self.step.placement.slots, strict=True)
        return tuple(slot for slot, index in pairs if index is None)

    @property
    def picks(self) -> tuple[tuple[Slot, Pick], ...]:
        """The slots for which tokens are chosen at this block."""
        pairs = zip(self.step.room.slots, self.step.room.rows, strict=True)
        return tuple((slot, row) for slot, row in pairs if isinstance(row, Pick))

    @property
    def own(self) -> tuple[int, ...]:
        """The indices of the block's own frames."""
        return self.step.own.block

    @property
    def ahead(self) -> dict[int, int]:
        """The frames of later blocks in the same pass, each with its index."""
        return dict(enumerate(self.step.placement.block[len(self.own) :], self.step.block.end))

    @property
    def clean(self) -> tuple[Slot, ...]:
        """The slots that the clean pass reads."""
        return tuple(slot for slot, _ in self.step.commit.pairs(self.step.slots))

    @property
    def same_clean(self) -> bool:
        """The clean pass reads what the noisy passes read, where they read it."""
        return self.step.commit == self.step.own

    @property
    def plain(self) -> bool:
        """Every slot is read by every pass, at its own date and with all of its tokens, and the block is alone."""
        dates = any(slot.date is not None for slot in self.step.slots)
        return self.same_clean and not (dates or self.unread or self.picks or self.ahead)

    def indices(self) -> dict[Key, int]:
        """The temporal index of everything that the block attends to."""
        slot_indices = zip(keys(self.step.slots), self.step.placement.slots, strict=True)
        block_indices = zip(range(self.step.block.start, self.step.block.end), self.own, strict=True)
        places = {key: index for key, index in slot_indices if index is not None}
        places |= {("block", frame): index for frame, index in block_indices}
        return places | {("ahead", frame): index for frame, index in self.ahead.items()}

    def pattern(self) -> tuple[object, ...]:
        """What the block sees, apart from the frames' numbers moving on with time."""
        step, start = self.step, self.step.block.start
        content = tuple(
            (s.role, s.frame if s.role is Role.SINK else s.frame - start, None if s.date is None else s.date - start)
            for s in step.slots
        )
        moves = self.own[-1] == step.block.end - 1  # absolute positions move on by themselves
        base = start if moves else 0
        recent = tuple(index - base for slot, index in self.read if slot.role is Role.RECENT)
        passes = step.placement.read, step.commit.read, len(self.ahead), len(self.picks)
        return content, recent, moves, passes


def is_copy(slot: Slot) -> bool:
    """Whether a recent slot stands for another frame than its own, as an archive's copies do."""
    return slot.role is Role.RECENT and slot.date is not None


def keys(slots: Iterable[Slot]) -> list[Key]:
    """What each slot holds."""
    contents: list[Key] = []
    for slot in slots:
        streams = sum(kind == "memory" for kind, _ in contents)
        if slot.role is Role.MEMORY:
            contents.append(("memory", streams))
        else:
            contents.append(("copy", slot.time) if is_copy(slot) else ("frame", slot.frame))
    return contents


def sights(strategy: Strategy, blocks: Iterable[Block], spec: Spec, *, horizon: Horizon = ANY) -> Iterator[Sight]:
    """The steps of a whole rollout with what led to them. Raises CacheError."""
    before: tuple[Slot, ...] = ()
    origins: tuple[Origin, ...] = ()
    for step in simulate(strategy, blocks, spec, horizon=horizon):
        candidates = before
        if step.switch is not None:
            candidates, origins = step.switch.slots, _handed_on(origins, step.switch.rows)
        if step.replay is not None:
            again = replayed(step.replay, step.block.frames, step.block.scene)
            fresh = [Origin(hash((slot.frame, step.block.index, step.replay.bidirectional))) for slot in again]
            origins = _joined(candidates, origins, again, fresh)
            candidates = in_order(candidates + again)
        origins = _handed_on(origins, step.room.rows)
        readable = strategy.policy.readable(step.slots, step.block)
        yield Sight(step, before, candidates, _natural(strategy, step, spec), origins, len(readable))
        before = step.after
        origins = _joined(step.slots, origins, step.admitted, [Origin(hash((s.frame,))) for s in step.admitted])


def _natural(strategy: Strategy, step: Step, spec: Spec) -> View:
    calm = replace(step.block, frames=len(step.placement.block), cut=False)
    slots = tuple(slot for slot, _ in step.placement.pairs(step.slots))
    return strategy.positions.place(slots, calm, reach(strategy, spec))


def _joined(
    slots: Sequence[Slot], origins: Sequence[Origin], more: Sequence[Slot], fresh: Sequence[Origin]
) -> tuple[Origin, ...]:
    """The origins of old and new slots in the cache's order."""
    pairs = [*zip(slots, origins, strict=True), *zip(more, fresh, strict=True)]
    return tuple(origin for role in Role for slot, origin in pairs if slot.role is role)


def _handed_on(old: Sequence[Origin], rows: Iterable[Row]) -> tuple[Origin, ...]:
    """Origins after an edit: a row of one slot hands its own on."""
    return tuple(_origin(old, row) for row in rows)


def _origin(old: Sequence[Origin], row: Row) -> Origin:
    if isinstance(row, Pick):
        contents = tuple(old[i].content for i in row.of)
        return Origin(hash((row.part, *row.contest[1:], *contents)), row.dates == "own")
    if len(row.weights) == 1 and not row.pooled:
        return old[row.sources[0]]
    return Origin(hash((row.pooled, *((old[i].content, weight) for i, weight in row.weights))))


class Mark(StrEnum):
    """How one thing that a strategy sees compares with the other strategy's block."""

    SAME = "same"
    ONLY = "only"
    MOVED = "moved"
    """Both hold it, at another distance from the newest query: rotary attention tells distances alone."""
    MADE = "made"
    """Both hold it at one distance, but its keys were averaged or encoded again otherwise."""


@dataclass(frozen=True)
class Difference:
    """Two strategies at one block: marks for what each of them sees, and indices by what both hold."""

    block: int
    first: dict[Key, Mark]
    second: dict[Key, Mark]
    places: dict[Key, tuple[int, int]]
    """Of what both hold: the indices, first and second."""
    shift: int
    """The second's index of the block's newest query less the first's."""
    clean: tuple[tuple[Slot, ...], tuple[Slot, ...]] | None
    """What the clean passes read, first and second; None where neither reads otherwise than the noisy passes."""

    @property
    def same(self) -> bool:
        """No attention score can differ for what is held, where it sits, how it was made or how the block is written."""
        writes = self.clean is None or self.clean[0] == self.clean[1]
        return writes and {*self.first.values(), *self.second.values()} == {Mark.SAME}

    def of(self, mark: Mark, side: int = 0) -> list[Key]:
        """What has that mark on a side."""
        return [key for key, other in (self.first, self.second)[side].items() if other is mark]


def compare(first: Sight, second: Sight) -> Difference:
    """Where two strategies differ at one block."""
    block, a, b = first.step.block, first.indices(), second.indices()
    shift = second.own[-1] - first.own[-1]
    contents = [
        {key: origin.content for key, origin in zip(keys(sight.step.slots), sight.origins, strict=True)}
        for sight in (first, second)
    ]

    def mark(key: Key) -> Mark:
        if key not in a or key not in b:
            return Mark.ONLY
        if b[key] - a[key] != shift:
            return Mark.MOVED
        return Mark.SAME if contents[0].get(key) == contents[1].get(key) else Mark.MADE

    common = {key: (a[key], b[key]) for key in a if key in b}
    clean = None if first.same_clean and second.same_clean else (first.clean, second.clean)
    return Difference(block.index, {k: mark(k) for k in a}, {k: mark(k) for k in b}, common, shift, clean)
