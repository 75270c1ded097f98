"""Where a rollout stands: what its next block depends on beside the cache and the held latents. JSON both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rollout.backend import Spec
from rollout.script import Script
from rollout.slots import Block

__all__ = ["Encoded", "Event", "Progress", "course"]


@dataclass(frozen=True)
class Event:
    """What came from outside while a rollout ran, and the block at which it took effect.

    `kind` is "prompt" (`value`: one a batch row), "cut", "switch" or "strategy" (`value`: its text form).
    """

    block: int
    kind: str
    value: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {' | '.join(self.value)}" if self.value else self.kind

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"block": self.block, "kind": self.kind, "value": list(self.value)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Event":
        """From JSON. Raises ValueError, KeyError or TypeError."""
        event = cls(_count(data["block"]), str(data["kind"]), tuple(str(v) for v in data["value"]))
        if event.kind not in ("prompt", "cut", "switch", "strategy"):
            raise ValueError(f"there is no event {event.kind[:40]!r}")
        return event


@dataclass
class Encoded:
    """What the given blocks of a rollout took so far, those of a prefix or of another run: encoded, and not sampled."""

    blocks: int = 0
    forwards: int = 0
    rotated_bytes: int = 0
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Encoded":
        """From JSON. Raises ValueError, KeyError or TypeError."""
        blocks, forwards, rotated = (_count(data[name]) for name in ("blocks", "forwards", "rotated_bytes"))
        return cls(blocks, forwards, rotated, float(data["seconds"]))


@dataclass
class Progress:
    """A rollout between two blocks, or before a block that failed and will be tried again."""

    texts: list[tuple[str, ...]]
    """Prompts by number, one a batch row: the script's, then those from outside."""
    shot: int = 0
    """The script's shot that is rolled out."""
    prompt: int = 0
    """The prompt in force: the shot's, or one from outside."""
    last: Block | None = None
    """The last finished block."""
    block: Block | None = None
    """A block that was begun and is not finished."""
    once: str | None = None
    """The switch, as text, that this block begins with whatever its prompt."""
    prepared: int = 0
    """How far the cache was prepared for it: 1 once switched, 2 once room is made."""
    events: list[Event] = field(default_factory=list)
    forwards: int = 0
    switch_seconds: list[float] = field(default_factory=list)
    encoded: Encoded | None = field(default_factory=Encoded)
    """None, as below, where it goes on from a state of the first edition, which did not count it."""
    held_bytes: int | None = 0
    """The most that the cache held after a block: keys, values and their raw copies."""

    @property
    def next(self) -> int:
        """The index of the block after those that were begun."""
        begun = self.block or self.last
        return 0 if begun is None else begun.index + 1

    def begin(
        self, planned: Block, prompt: tuple[str, ...] | None = None, cut: bool = False, once: str | None = None
    ) -> Block:
        """The script's next block as it will be rolled out, with what came from outside."""
        if planned.prompt != self.shot:  # the script's own next shot ends a prompt from outside
            self.shot = self.prompt = planned.prompt
        if prompt is not None:
            self.texts.append(prompt)
            self.prompt = len(self.texts) - 1
            self.events.append(Event(planned.index, "prompt", prompt))
        if cut:
            self.events.append(Event(planned.index, "cut"))
        if once is not None:
            self.events.append(Event(planned.index, "switch", (once,)))
        self.once = once
        switch = self.last is not None and self.texts[self.prompt] != self.texts[self.last.prompt]
        cut = planned.cut or (cut and planned.index > 0)
        scene = planned.index if cut else max(planned.scene, 0 if self.last is None else self.last.scene)
        self.block = replace(planned, prompt=self.prompt, switch=switch, cut=cut, scene=scene)
        return self.block

    def finish(self) -> None:
        """The block that was begun is done."""
        self.last, self.block, self.once, self.prepared = self.block, None, None, 0

    def count_encoded(self, rotated_bytes: int, seconds: float) -> None:
        """Note what the given blocks took up to here: they come first, so the totals so far are theirs."""
        if self.encoded is not None:
            spent = self.encoded.seconds + seconds
            self.encoded = Encoded(self.encoded.blocks + 1, self.forwards, rotated_bytes, spent)

    def count_held(self, held_bytes: int) -> None:
        """Note what the cache holds after a block."""
        if self.held_bytes is not None:
            self.held_bytes = max(self.held_bytes, held_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"events": [event.to_dict() for event in self.events]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Progress":
        """From JSON. Raises ValueError, KeyError or TypeError."""
        texts = [tuple(str(text) for text in row) for row in data["texts"]]
        found = cls(
            texts,
            shot=_count(data["shot"]),
            prompt=_count(data["prompt"]),
            last=_block(data["last"]),
            block=_block(data["block"]),
            once=None if data["once"] is None else str(data["once"]),
            prepared=_count(data["prepared"]),
            events=[Event.from_dict(event) for event in data["events"]],
            forwards=_count(data["forwards"]),
            switch_seconds=[float(seconds) for seconds in data["switch_seconds"]],
            encoded=None if data.get("encoded") is None else Encoded.from_dict(data["encoded"]),
            held_bytes=None if data.get("held_bytes") is None else _count(data["held_bytes"]),
        )
        numbers = [found.shot, found.prompt, *(b.prompt for b in (found.last, found.block) if b is not None)]
        if max(numbers) >= len(texts) or found.prepared > 2:
            raise ValueError("a number points outside its list")
        return found


def course(
    script: Script, spec: Spec, events: Sequence[Event], *, first: int = 0
) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks of a run as they were rolled out, and its prompts by number; `first` blocks were a prefix."""
    progress, blocks = Progress([(prompt,) for prompt in script.prompts]), []
    for planned in script.blocks(spec, first=first):
        now = [event for event in events if event.block == planned.index]
        prompt = next((event.value[:1] for event in now if event.kind == "prompt"), None)
        blocks.append(progress.begin(planned, prompt, any(event.kind == "cut" for event in now)))
        progress.finish()
    return tuple(blocks), tuple(texts[0] for texts in progress.texts)


def _count(value: object) -> int:
    """A whole number from 0 on: JSON's true and 1.5 are none."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{value!r} is no count")
    return value


def _block(data: Mapping[str, Any] | None) -> Block | None:
    if data is None:
        return None
    block = Block(**data)
    for value in (block.index, block.start, block.frames, block.prompt, block.scene):
        _count(value)
    if not (type(block.switch) is bool and type(block.cut) is bool) or not block.frames:
        raise ValueError("a block is not whole")
    return block
