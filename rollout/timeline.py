"""What holds at which block: a script, and the changes that came from outside, to one Moment a block. Pure, without torch.

The loop, explain, fork, rerun, compare and study all ask this module, so that a plan, a running rollout and the record of
a finished one agree on what happened when.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rollout import specs
from rollout.backend import Spec
from rollout.parts import Switch
from rollout.script import Script
from rollout.slots import Block
from rollout.strategy import Strategy
from rollout.text import Json

__all__ = [
    "KINDS",
    "Change",
    "Course",
    "Cut",
    "Event",
    "Moment",
    "Once",
    "Prompt",
    "Timeline",
    "Use",
    "blocks_of",
    "moments",
    "reigns",
    "retrace",
]


@dataclass(frozen=True)
class Prompt:
    """Another prompt, one a batch row or one for all."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A hard cut."""


@dataclass(frozen=True)
class Once:
    """A switch for this block alone, whatever its prompt: a flush, for example; its text is read. Raises SpecError."""

    switch: Switch

    def __init__(self, switch: Switch | str) -> None:
        rule = specs.part_from_text("switch", switch) if isinstance(switch, str) else switch
        object.__setattr__(self, "switch", rule)


@dataclass(frozen=True)
class Use:
    """Another strategy, to which the cache is carried over; a preset's name or a text is read. Raises SpecError."""

    strategy: Strategy

    def __init__(self, strategy: Strategy | str) -> None:
        object.__setattr__(self, "strategy", Strategy.of(strategy))


Change = Prompt | Cut | Once | Use
KINDS: dict[type[Change], str] = {Prompt: "prompt", Cut: "cut", Once: "switch", Use: "strategy"}
"""What records call each change."""


@dataclass(frozen=True)
class Event:
    """A change, and the block at which it takes effect."""

    block: int
    change: Change

    @property
    def kind(self) -> str:
        """What records call it: "prompt", "cut", "switch" or "strategy"."""
        return KINDS[type(self.change)]

    def __str__(self) -> str:
        match self.change:
            case Prompt(texts):
                return f"prompt: {' | '.join(texts)}"
            case Once(switch):
                return f"switch: {specs.part_to_text(switch)}"
            case Use(strategy):
                return f"strategy: {strategy}"
        return "cut"

    def to_dict(self) -> Json:
        """As JSON: {"block": 8, "kind": "switch", "value": [{"kind": "flush", "last": 1}]}."""
        value: list[Any] = []
        match self.change:
            case Prompt(texts):
                value = list(texts)
            case Once(switch):
                value = [specs.part_to_dict(switch)]
            case Use(strategy):
                value = [strategy.to_dict()]
        return {"block": self.block, "kind": self.kind, "value": value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Event":
        """From JSON; switches and strategies may be text, as once they were.

        Raises ValueError, KeyError, TypeError, SpecError.
        """
        block, kind, value = data["block"], data["kind"], data["value"]
        if type(block) is not int or not 0 <= block < 2**53:
            raise ValueError(f"{block!r} is no count")
        if kind == "prompt" and value and all(isinstance(text, str) for text in value):
            return cls(block, Prompt(tuple(value)))
        if kind == "cut":
            return cls(block, Cut())
        if kind in ("switch", "strategy"):
            (rule,) = value
            if kind == "strategy":
                return cls(block, Use(Strategy.from_text(rule) if isinstance(rule, str) else Strategy.from_dict(rule)))
            read = specs.part_from_text if isinstance(rule, str) else specs.part_from_dict
            return cls(block, Once(read("switch", rule)))
        raise ValueError(f"there is no event {str(kind)[:40]!r} with the value {str(value)[:40]!r}")


@dataclass(frozen=True)
class Moment:
    """What holds at a block: its prompts (one a batch row), the strategy in force, and a switch for this block alone.

    `handover`: another strategy takes over here, so that the cache is carried over to it.
    """

    block: Block
    texts: tuple[str, ...]
    strategy: Strategy
    once: Switch | None = None
    handover: bool = False


class Course:
    """The blocks of scripts that have one timing, with the prompts and cuts that came from outside.

    `texts` are the prompts by number, one a batch row: the scripts' and then those from outside. The blocks of a prefix,
    `first`, belong to the first shot. An `endless` course goes on under the prompt in force.
    """

    def __init__(
        self, scripts: Sequence[Script], spec: Spec, *, first: int = 0, batch: int = 1, endless: bool = False
    ) -> None:
        rows = scripts if len(scripts) == batch else [*scripts] * batch
        self.texts = [tuple(script.shots[n].prompt for script in rows) for n in range(len(scripts[0].shots))]
        self.last: Block | None = None
        self._spec, self._batch, self._endless = spec, batch, endless
        self._plan = _plan(scripts[0], spec, first)
        self._shot = self._prompt = self._scene = 0

    @property
    def index(self) -> int:
        """The index of the next block."""
        return 0 if self.last is None else self.last.index + 1

    def next(self, changes: Sequence[Change] = ()) -> Block:
        """The next block, changed from outside. Raises StopIteration after the last one."""
        number, cut = next(self._plan, (None, False))
        if number is None and not self._endless:
            raise StopIteration
        if number is not None and number != self._shot:  # the script's own next shot ends a prompt from outside
            self._shot = self._prompt = number
        for change in changes:
            if isinstance(change, Prompt):
                self.texts.append(change.texts if len(change.texts) == self._batch else change.texts * self._batch)
                self._prompt = len(self.texts) - 1
            cut |= isinstance(change, Cut)
        index, frames = self.index, self._spec.block
        cut &= index > 0  # block 0 has nothing to cut from
        self._scene = index if cut else self._scene
        switch = self.last is not None and self.texts[self._prompt] != self.texts[self.last.prompt]
        self.last = Block(index, index * frames, frames, self._prompt, switch, cut, self._scene)
        return self.last


class Timeline(Iterator[Moment]):
    """The moments of a rollout in order; `push` is how a running one is changed from outside.

    `strategy` is the one in force; `events` happen at the blocks that they name; `log` has what took effect so far.
    """

    def __init__(self, course: Course, strategy: Strategy, events: Sequence[Event] = ()) -> None:
        self.course, self.strategy = course, strategy
        self.log: list[Event] = []
        self._planned: dict[int, list[Change]] = {}
        for event in events:
            self._planned.setdefault(event.block, []).append(event.change)
        self._pushed: dict[type[Change], Change] = {}

    @property
    def pushed(self) -> tuple[Change, ...]:
        """What was pushed and waits for the next block."""
        return tuple(self._pushed.values())

    @property
    def successor(self) -> Strategy | None:
        """The strategy that takes over at the next block, where another one does: the one in force goes on as it is."""
        changes = (*self._planned.get(self.course.index, ()), *self.pushed)
        last = next((change.strategy for change in reversed(changes) if isinstance(change, Use)), None)
        return None if last == self.strategy else last

    def push(self, change: Change) -> None:
        """Change something from the next block on; of two changes of one kind the last counts."""
        self._pushed[type(change)] = change

    def agree(self, changes: Sequence[Change]) -> None:
        """Have these changes wait for the next block, and no others."""
        self._pushed = {type(change): change for change in changes}

    def __next__(self) -> Moment:
        """The next block's moment. Raises StopIteration after the last one."""
        successor, index = self.successor, self.course.index
        changes = (*self._planned.get(index, ()), *self.pushed)
        block = self.course.next(changes)
        self._pushed = {}
        self.log += [Event(index, change) for change in changes]
        self.strategy = self.strategy if successor is None else successor
        once = next((change.switch for change in reversed(changes) if isinstance(change, Once)), None)
        return Moment(block, self.course.texts[block.prompt], self.strategy, once, successor is not None)


def moments(
    script: Script, spec: Spec, strategy: Strategy, events: Sequence[Event] = (), *, first: int = 0
) -> Timeline:
    """The moments of a plan, or of a finished run with its events; `first` blocks were a prefix."""
    return Timeline(Course([script], spec, first=first), strategy, events)


def reigns(strategy: Strategy, events: Sequence[Event]) -> tuple[tuple[int, Strategy], ...]:
    """The strategies of a run in order, each with the block from which on it is in force."""
    uses = ((event.block, event.change.strategy) for event in events if isinstance(event.change, Use))
    return ((0, strategy), *sorted(uses, key=itemgetter(0)))


def blocks_of(script: Script, spec: Spec, *, first: int = 0) -> Iterator[Block]:
    """The blocks of a plan; `first` belong to a prefix."""
    course = Course([script], spec, first=first)
    return (course.next() for _ in range(script.count(spec) + first))


def retrace(
    script: Script, spec: Spec, events: Sequence[Event], *, first: int = 0
) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks of a run as they were rolled out, and its prompts by number; `first` blocks were a prefix."""
    course = Course([script], spec, first=first)
    changes: dict[int, list[Change]] = {}
    for event in events:
        changes.setdefault(event.block, []).append(event.change)
    blocks = tuple(course.next(changes.get(index, ())) for index in range(script.count(spec) + first))
    return blocks, tuple(texts[0] for texts in course.texts)


def _plan(script: Script, spec: Spec, first: int) -> Iterator[tuple[int, bool]]:
    """Of each planned block the number of its shot, and whether a cut opens it."""
    for number, shot in enumerate(script.shots):
        for n in range(shot.blocks(spec) + (first if number == 0 else 0)):
            yield number, shot.cut and n == 0
