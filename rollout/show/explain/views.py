"""What a block sees of the cache, frame by frame, and where two strategies differ. Pure, without torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from rollout.backend import Spec
from rollout.plan import Step, reach, replayed, simulate
from rollout.slots import Block, Placement, Role, Row, Slot, in_order
from rollout.strategy import Strategy

__all__ = ["Difference", "Key", "Mark", "View", "compare", "views"]

Key = tuple[str, int]
"""What is compared: ("frame", its number), ("memory", the stream's) or ("block", the number of one of its own frames)."""


@dataclass(frozen=True)
class View:
    """A step with what led to it."""

    step: Step
    before: tuple[Slot, ...]
    """The cache as the block before left it."""
    offered: tuple[Slot, ...]
    """The cache that the policy makes room in: after the switch, with what was encoded again."""
    natural: Placement
    """Where everything would sit without a cut's jump."""
    made: tuple[int, ...]
    """A fingerprint a slot of which frames its keys average and in which pass they were encoded; not of their values."""

    def indices(self) -> dict[Key, int]:
        """The temporal index of everything that the block attends to."""
        slots = zip(keys(self.step.slots), self.step.placement.slots, strict=True)
        block_indices = zip(range(self.step.block.start, self.step.block.end), self.step.placement.block, strict=True)
        return dict(slots) | {("block", frame): index for frame, index in block_indices}

    def pattern(self) -> tuple[object, ...]:
        """What the block sees, apart from the frames' numbers moving on with time."""
        step, start = self.step, self.step.block.start
        content = tuple((s.role, s.frame if s.role is Role.SINK else s.frame - start) for s in step.slots)
        moves = step.placement.block[-1] == step.block.end - 1  # absolute positions move on by themselves
        base = start if moves else 0
        pairs = zip(step.slots, step.placement.slots, strict=True)
        return content, tuple(p - base for s, p in pairs if s.role is Role.RECENT), moves


def keys(slots: Iterable[Slot]) -> list[Key]:
    """What each slot holds."""
    contents: list[Key] = []
    for slot in slots:
        streams = sum(kind == "memory" for kind, _ in contents)
        contents.append(("memory", streams) if slot.role is Role.MEMORY else ("frame", slot.frame))
    return contents


def views(strategy: Strategy, blocks: Iterable[Block], spec: Spec) -> Iterator[View]:
    """The steps of a whole rollout with what led to them. Raises CacheError."""
    before: tuple[Slot, ...] = ()
    sources: tuple[int, ...] = ()
    for step in simulate(strategy, blocks, spec):
        candidates = before
        if step.switch is not None:
            candidates, sources = step.switch.slots, _made(sources, step.switch.rows, step.switch.pooled)
        if step.replay is not None:
            again = replayed(step.replay, step.block.frames, step.block.scene)
            both = [*zip(candidates, sources, strict=True)]
            both += [(s, hash((s.frame, step.block.index, step.replay.bidirectional))) for s in again]
            candidates, sources = in_order(candidates + again), tuple(m for r in Role for s, m in both if s.role is r)
        sources = _made(sources, step.room.rows, step.room.pooled)
        calm = replace(step.block, cut=False)
        natural = strategy.positions.place(step.slots, calm, reach(strategy, spec))
        yield View(step, before, candidates, natural, sources)
        before = step.after
        born = [*zip(step.slots, sources, strict=True), *((s, hash((s.frame,))) for s in step.admitted)]
        sources = tuple(m for r in Role for s, m in born if s.role is r)


def _made(old: tuple[int, ...], rows: Iterable[Row], pooled: frozenset[int]) -> tuple[int, ...]:
    """Fingerprints after an edit: a row of one slot hands its own on."""
    return tuple(
        old[row[0][0]] if len(row) == 1 and n not in pooled else hash((n in pooled, *((old[i], w) for i, w in row)))
        for n, row in enumerate(rows)
    )


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
    """The second's index of the newest query less the first's."""

    @property
    def same(self) -> bool:
        """No attention score can differ for what is held, where it sits or how it was made."""
        return {*self.first.values(), *self.second.values()} == {Mark.SAME}

    def of(self, mark: Mark, side: int = 0) -> list[Key]:
        """What has that mark on a side."""
        return [key for key, other in (self.first, self.second)[side].items() if other is mark]


def compare(first: View, second: View) -> Difference:
    """Where two strategies differ at one block."""
    block, a, b = first.step.block, first.indices(), second.indices()
    shift = second.step.placement.block[-1] - first.step.placement.block[-1]
    sources = [dict(zip(keys(view.step.slots), view.made, strict=True)) for view in (first, second)]

    def mark(key: Key) -> Mark:
        if key not in a or key not in b:
            return Mark.ONLY
        if b[key] - a[key] != shift:
            return Mark.MOVED
        return Mark.SAME if sources[0].get(key) == sources[1].get(key) else Mark.MADE

    both = {key: (a[key], b[key]) for key in a if key in b}
    return Difference(block.index, {key: mark(key) for key in a}, {key: mark(key) for key in b}, both, shift)
