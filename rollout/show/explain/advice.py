"""What a composition loses over a script, in sentences, and how near the distances in use look to rotary attention."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from rollout.backend import Spec
from rollout.show.explain.coherence import nearness
from rollout.show.explain.views import Sight
from rollout.show.explain.words import listed, ranges
from rollout.slots import Role, Slot
from rollout.strategies.spectra import Interpolate, Ntk, Riflex
from rollout.strategy import Strategy
from rollout.views import reach

__all__ = ["Advice"]

SMALL = 1e-3
"""Radians by which a spectrum must turn some key otherwise to change anything."""
STRETCHES = (Interpolate, Ntk, Riflex)
"""Spectra that make room for distances which training never saw."""


@dataclass
class Advice:
    """Looks on while the blocks of a rollout pass by: `see` each, then ask for `warnings` and `line`."""

    strategy: Strategy
    spec: Spec
    blocks: int = 0
    _first: dict[str, str] = field(default_factory=dict)
    """By what is lost: the sentence at its first time."""
    _times: Counter[str] = field(default_factory=Counter)
    _crowd: tuple[int, str] = (1, "")
    """The most frames at one index, and the sentence of it."""
    _held: set[Role] = field(default_factory=set)
    _read: set[Role] = field(default_factory=set)
    _reads_all: bool = True
    _leaves: bool = False
    _distances: dict[Role, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: Strategy, spec: Spec, sights: Iterable[Sight]) -> Self:
        """Of a whole rollout."""
        advice = cls(strategy, spec)
        for sight in sights:
            advice.see(sight)
        return advice

    def watch(self, sights: Iterable[Sight]) -> Iterator[Sight]:
        """The blocks as they come, each seen."""
        for sight in sights:
            self.see(sight)
            yield sight

    def see(self, sight: Sight) -> None:
        """Look at one block."""
        step = sight.step
        self.blocks += 1
        self._held |= {slot.role for slot in step.slots}
        self._read |= {slot.role for slot, _ in sight.read}
        self._reads_all = self._reads_all and sight.same_clean and not any(step.placement.bias)
        self._reads_all = self._reads_all and len(sight.read) == sight.readable
        kept = {(slot.role, slot.frame) for slot in step.slots}
        self._leaves = self._leaves or any((slot.role, slot.frame) not in kept for slot in sight.before)
        for slot, index in sight.read:
            self._distances.setdefault(slot.role, set()).update(abs(own - index) for own in sight.own)
        self._look_at_indices(sight)
        self._look_at_dates(sight)
        self._look_at_switch(sight)

    def _note(self, loss: str, sentence: str) -> None:
        self._first.setdefault(loss, sentence)
        self._times[loss] += 1

    def _when(self, sight: Sight) -> str:
        block = sight.step.block
        return f"block {block.index} ({self.spec.seconds(block.start):g}s)"

    def _look_at_indices(self, sight: Sight) -> None:
        """Frames at one index; tokens that each have an index of their own share none."""
        at: dict[int, list[Slot]] = {}
        for (slot, index), apart in zip(sight.read, _apart(sight), strict=True):
            if not apart:
                at.setdefault(index, []).append(slot)
        own = Counter(sight.own)
        counts = {index: len(slots) + own[index] for index, slots in at.items()}
        index = max(counts, key=lambda place: counts[place], default=0)
        most = counts.get(index, 0)
        if most < 2:
            return
        frames = listed(at[index]) + (" and the block's own" if own[index] else "")
        self._note(
            "indices",
            f"from {self._when(sight)} on several frames share an index: {{worst}}. To attention they are one time.",
        )
        if most > self._crowd[0]:
            self._crowd = most, f"in block {sight.step.block.index} {most} of them, {frames}, at index {index}"

    def _look_at_dates(self, sight: Sight) -> None:
        """Dates that a policy gives and positions do not look at."""
        dated = [slot for slot, _ in sight.read if slot.date not in (None, slot.frame)]
        if not dated or sight.step.block.cut:
            return
        slots = tuple(slot for slot, _ in sight.read)
        plain = tuple(replace(slot, date=None) for slot in slots)
        extent = replace(sight.step.block, frames=len(sight.step.placement.block))
        window = reach(self.strategy, self.spec)
        place = self.strategy.positions.place
        if place(slots, extent, window) == place(plain, extent, window):
            policy, positions = self.strategy.policy.kind, self.strategy.positions.kind
            self._note(
                "dates",
                f"policy '{policy}' dates {listed(dated[:3])} in {self._when(sight)}, and positions '{positions}' do not look at "
                "dates. Use positions='absolute'.",
            )

    def _look_at_switch(self, sight: Sight) -> None:
        """Sinks and memory that a switch takes away, and a cut that jumps nowhere."""
        step, after = sight.step, sight.offered
        block = step.block
        if step.switch is None:
            return
        event = "cut" if block.cut else "prompt change"
        for role, name in ((Role.SINK, "sinks"), (Role.MEMORY, "memory")):
            before = [slot for slot in sight.before if slot.role is role]
            frames = {slot.frame for slot in after if slot.role is role}
            gone = [slot for slot in before if slot.frame not in frames]
            if not gone:
                continue
            if role is Role.MEMORY:
                does = "drops the memory: what it averaged is gone"
            else:
                pinned = ranges(slot.frame for slot in gone)
                does = (
                    f"replaces the sinks {pinned} by {ranges(sorted(frames))}"
                    if frames
                    else f"drops the sinks {pinned}"
                )
                does += ": what was pinned is gone"
            self._note(name, f"the {event} in {self._when(sight)} {does}.")
        if block.cut and sight.own == sight.natural.block[: len(sight.own)]:
            kind = self.strategy.positions.kind
            self._note(
                "cut",
                f"the cut in {self._when(sight)} moves no index under positions '{kind}': it is a flush alone.",
            )

    def warnings(self) -> list[str]:
        """What is lost, a sentence each: what words of the composition promise and this script does not show."""
        sentences = []
        for loss, sentence in self._first.items():
            text = sentence.replace("{worst}", self._crowd[1])
            sentences.append(
                text if self._times[loss] == 1 or loss == "indices" else f"{text} ({self._times[loss]} times)"
            )
        return [*sentences, *self._of_roles(), *self._of_refinements(), *self._of_length()]

    def _of_roles(self) -> Iterator[str]:
        """Roles that a policy promises and that are never filled or never read."""
        policy = self.strategy.policy
        for role, count, names in (
            (Role.SINK, policy.sink, ("sinks", "are", "them")),
            (Role.MEMORY, policy.memory, ("memory", "is", "it")),
        ):
            name, verb, pronoun = names
            if role in self._held and role not in self._read:
                yield f"the {name} of policy '{policy.kind}' {verb} stored, and no noisy pass reads {pronoun}."
            elif count and role not in self._held and self._leaves:
                yield f"the {name} of policy '{policy.kind}' {verb} empty in all {self.blocks} blocks."

    def _of_refinements(self) -> Iterator[str]:
        """A spectrum or reads that change nothing here, or have nothing to do."""
        spectrum, reads, farthest = self.strategy.spectrum, self.strategy.reads, self._farthest
        if "spectrum" in self.strategy.refinements:
            if self._turn(farthest) < SMALL:
                yield (
                    f"spectrum '{spectrum.kind}' changes nothing: at the distances in use, {farthest} frames at most, it turns "
                    "every key as it was."
                )
            elif isinstance(spectrum, STRETCHES) and farthest < self.spec.trained:
                yield (
                    f"spectrum '{spectrum.kind}' is for distances beyond the {self.spec.trained} trained frames, and the "
                    f"farthest here is {farthest}: it slows keys at distances that training knew."
                )
        if "reads" in self.strategy.refinements and self._reads_all:
            yield f"reads '{reads.kind}' change nothing in these {self.blocks} blocks: every pass reads all that is cached."

    def _turn(self, farthest: int) -> float:
        """By how many radians the spectrum turns the key at a distance otherwise, in the pair where that is most."""
        pairs = self.spec.axes[0]
        rows = self.strategy.spectrum.multipliers(self.spec)
        frequencies = [float(self.spec.theta ** (-pair / pairs)) for pair in range(pairs)]
        return max(abs(m - 1) * f * farthest for row in rows for m, f in zip(row, frequencies, strict=True))

    def _of_length(self) -> Iterator[str]:
        """A script that is over before the cache is full."""
        if self.blocks > 1 and not self._leaves:
            yield (
                f"no frame leaves the cache: {self.blocks} blocks do not fill a window of {self.strategy.policy.window}, and "
                "any policy would do the same."
            )

    @property
    def _farthest(self) -> int:
        return max((max(distances) for distances in self._distances.values()), default=0)

    def line(self) -> str:
        """The coherence of the distances in use, role by role, and of those that training knew; nothing without a cache."""
        if not self._distances:
            return ""
        rows = self.strategy.spectrum.multipliers(self.spec)
        used = {distance for distances in self._distances.values() for distance in distances}
        known = range(1, self.spec.trained)
        values = {distance: nearness(distance, self.spec, rows) for distance in used.union(known)}
        parts = [
            f"{role.value} {_span(self._distances[role])} back {_values([values[d] for d in self._distances[role]])}"
            for role in Role
            if role in self._distances
        ]
        parts.append(f"trained {_span(known)} back {_values([values[d] for d in known])}" if known else "")
        text = f"coherence, how near a key looks (1: as if in place): {', '.join(filter(None, parts))}"
        beyond = [distance for distance in used if distance >= self.spec.trained]
        if beyond:
            top = max(beyond, key=lambda distance: values[distance])
            text += f"; beyond training most at {top} back, {values[top]:.2f}: --coherence says when"
        return text


def _apart(sight: Sight) -> list[bool]:
    """Of each slot that is read, whether its tokens have an index each."""
    pairs = zip(sight.step.placement.slots, sight.origins, strict=True)
    return [origin.own_dates for index, origin in pairs if index is not None]


def _span(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]}-{ordered[-1]}"


def _values(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f}"
