"""Cache policies: which frames stay. Each is pure; an edit says which old slots make up the new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rollout.errors import SpecError
from rollout.parts import PolicyDefaults
from rollout.slots import NO_FACTS, Block, Edit, Facts, Mix, Role, Row, Slot, keep, of_role

__all__ = [
    "POLICIES",
    "Anchor",
    "Ema",
    "EmaSink",
    "Fifo",
    "Sink",
    "admit",
    "check_window",
    "evict_oldest",
    "pin",
]


def evict_oldest(slots: Sequence[Slot], room: int) -> Edit:
    """Drop the oldest recent frames until `room` slots are left."""
    recent = of_role(slots, Role.RECENT)
    oldest = set(recent[: max(0, len(slots) - room)])
    return keep(slots, (i for i in range(len(slots)) if i not in oldest))


def admit(block: Block, sink: int = 0) -> tuple[Slot, ...]:
    """The block's frames as slots; frames below `sink` are sinks."""
    return tuple(
        Slot(Role.SINK if frame < sink else Role.RECENT, frame, block.index, prompt=block.prompt, scene=block.scene)
        for frame in range(block.start, block.end)
    )


def pin(slots: Sequence[Slot], sinks: Sequence[int], recent: Sequence[int], room: int) -> Edit:
    """Keep `sinks` as sinks and the newest of `recent` that fit into `room` slots as recent ones, whatever they were."""
    newest = recent[max(0, len(recent) - (room - len(sinks))) :]
    roles = [Role.SINK] * len(sinks) + [Role.RECENT] * len(newest)
    edit = keep(slots, (*sinks, *newest))
    return replace(edit, slots=tuple(replace(slot, role=role) for slot, role in zip(edit.slots, roles, strict=True)))


def check_window(kind: str, window: int, sink: int) -> None:
    """Raise SpecError for a window that cannot hold its sinks and a block."""
    if sink < 0:
        raise SpecError(f"{kind}: sink={sink} is negative; it counts the first frames that stay for ever.")
    if window < max(1, sink + 1):
        raise SpecError(f"{kind}: window={window} does not hold {sink} sink frames and a block. Use a larger window.")


@dataclass(frozen=True)
class Fifo(PolicyDefaults):
    """First in, first out (Self-Forcing with a local window, arXiv 2506.08009)."""

    kind: ClassVar[str] = "fifo"
    window: int = 21

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, 0)

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """The oldest frames go."""
        return evict_oldest(slots, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """Every frame is a recent one."""
        return admit(block)


@dataclass(frozen=True)
class Sink(PolicyDefaults):
    """The first `sink` frames for ever, then first in, first out (LongLive's frame sink, arXiv 2509.22622)."""

    kind: ClassVar[str] = "sink"
    window: int = 6
    sink: int = 1

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.sink)

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """The oldest frames that are no sinks go."""
        return evict_oldest(slots, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks."""
        return admit(block, self.sink)


@dataclass(frozen=True)
class Ema(PolicyDefaults):
    """Memory tokens (MemRoPE, arXiv 2603.12513): evicted frames live on in one moving average a rate.

    Once a block the frames to go, with mean e, update every stream M = (1-a) M + a e; the first time M = e. `pool`:
    e at each spatial token, or over all of them (as released). `displaced`: the frames that go to make place for the
    streams, the first time, are folded into e or dropped (as released).
    """

    kind: ClassVar[str] = "ema"
    blends: ClassVar[bool] = True
    window: int = 12
    sink: int = 3
    rates: tuple[float, ...] = (0.01, 0.1)
    pool: Literal["token", "frame"] = "token"
    displaced: Literal["fold", "drop"] = "fold"

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.sink)
        if not self.rates:
            raise SpecError("ema: rates is empty; give one rate a memory frame, such as 0.01/0.1.")
        for rate in self.rates:
            if not 0 < rate <= 1:
                raise SpecError(
                    f"ema: the rate {rate:g} is outside (0, 1]; it is the weight of the newest evicted frames."
                )

    @property
    def memory(self) -> int:
        """Memory frames, one a rate."""
        return len(self.rates)

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Fold the oldest recent frames into the memory."""
        streams = of_role(slots, Role.MEMORY)
        over = len(slots) + frames - self.window
        if over <= 0:
            return keep(slots, range(len(slots)))
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        extra = 0 if streams else self.memory
        oldest, newest_frames = recent[: over + extra], recent[over + extra :]
        average = oldest[extra:] if self.displaced == "drop" else oldest
        newest = slots[oldest[-1]]
        rows: list[Row] = []
        for n, a in enumerate(self.rates):
            share = tuple((i, (a if streams else 1.0) / len(average)) for i in average)
            rows.append(Mix(((streams[n], 1 - a), *share) if streams else share, self.pool == "frame"))
        since = slots[streams[0] if streams else average[0]].oldest
        memory = replace(newest, role=Role.MEMORY, first=since, date=None)
        stays = keep(slots, (*sinks, *newest_frames))
        first = len(sinks)
        return Edit(
            (*stays.slots[:first], *[memory] * self.memory, *stays.slots[first:]),
            (*stays.rows[:first], *rows, *stays.rows[first:]),
        )

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks."""
        return admit(block, self.sink)


@dataclass(frozen=True)
class Anchor(PolicyDefaults):
    """Sinks that are pinned again after every cut, since the first frames of all bring back the scene before it.

    The new ones are the first `sink` frames of the block after the cut's: in the cut's own block the frame that a RoPE Cut
    (arXiv 2511.20649) leaves in place still shows the old scene. Before any cut the first frames of all are sinks.
    """

    kind: ClassVar[str] = "anchor"
    window: int = 12
    sink: int = 3

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.sink)
        if self.sink < 1:
            raise SpecError("anchor: sink=0 leaves nothing to pin. Use sink=1 or more, or the policy fifo.")

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Once frames of the block after a cut are cached they become the sinks; then the oldest others go."""
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        # A scene is named by the block of its cut: its later blocks show it without the frame that the cut left in place.
        scene = slots[-1].scene if recent else 0
        fresh = [i for i in recent if slots[i].scene == scene and slots[i].block > scene]
        if scene and fresh:
            current = [i for i in sinks if slots[i].scene == scene]
            sinks = (*current, *fresh[: self.sink - len(current)])
            recent = tuple(i for i in recent if i not in sinks)
        return pin(slots, sinks, recent, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks; those of later scenes are pinned once they are cached."""
        return admit(block, self.sink)


@dataclass(frozen=True)
class EmaSink(PolicyDefaults):
    """Sinks that average what is evicted (Reward Forcing, arXiv 2512.04678): the i-th takes in the i-th frame that goes.

    sink = (1 - rate) sink + rate evicted, keys and values token by token; `rate` is the weight of the newest.
    """

    kind: ClassVar[str] = "ema-sink"
    blends: ClassVar[bool] = True
    window: int = 9
    sink: int = 3
    rate: float = 0.001

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.sink)
        if self.sink < 1:
            raise SpecError("ema-sink: sink=0 leaves nothing to average into. Use sink=1 or more, or the policy fifo.")
        if not 0 < self.rate <= 1:
            raise SpecError(
                f"ema-sink: the rate {self.rate:g} is outside (0, 1]; it is the weight of the newest frame."
            )

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Fold the oldest recent frames into the sinks, one each; those that find no sink go."""
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        over = max(0, len(slots) + frames - self.window)
        pairs = dict(zip(sinks, recent[:over], strict=False))
        stays = keep(slots, (*sinks, *recent[over:]))
        rows = [
            Mix(((i, 1 - self.rate), (pairs[i], self.rate))) if i in pairs else row
            for i, row in zip((*sinks, *recent[over:]), stays.rows, strict=True)
        ]
        return replace(stays, rows=tuple(rows))

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are sinks."""
        return admit(block, self.sink)


POLICIES = {rule.kind: rule for rule in (Fifo, Sink, Ema, Anchor, EmaSink)}
