"""What a strategy does to the cache at each block, as values: the loop executes it, `rollout explain` prints it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from rollout.backend import Spec
from rollout.errors import CacheError, CompositionError
from rollout.slots import Block, Edit, Placement, Replay, Role, Slot, in_order, keep, of_role
from rollout.strategy import Strategy, Switch
from rollout.text import Json
from rollout.timeline import Moment

__all__ = ["Step", "chunks", "decide", "reach", "replayed", "simulate", "steps", "taken_over"]


@dataclass(frozen=True)
class Step:
    """One block's decisions; `slots` and `placement` are the state in which the block is denoised."""

    block: Block
    switch: Edit | None
    replay: Replay | None
    room: Edit
    slots: tuple[Slot, ...]
    placement: Placement
    admitted: tuple[Slot, ...]

    def to_dict(self) -> Json:
        """As JSON, in the state in which the block is denoised."""
        block = self.block
        return {
            "block": block.index,
            "start": block.start,
            "prompt": block.prompt,
            "switch": block.switch,
            "cut": block.cut,
            "slots": [{"role": slot.role.value, "frame": slot.frame} for slot in self.slots],
            "placement": {"slots": list(self.placement.slots), "block": list(self.placement.block)},
        }

    @property
    def after(self) -> tuple[Slot, ...]:
        """The cache once the block is committed, in the cache's order."""
        return in_order(self.slots + self.admitted)


def decide(
    strategy: Strategy,
    slots: Sequence[Slot],
    block: Block,
    spec: Spec,
    *,
    once: Switch | None = None,
    prepared: int = 0,
) -> Step:
    """Ask the strategy's parts what happens to a cache of `slots` at `block`; `once` is a switch for this block alone.

    `prepared` says what has happened to it already: 1 the switch, 2 making room too. Raises CacheError where a part
    breaks the rules: slots beyond the window, rows that do not sum to 1.
    """
    edit, again, now = None, None, tuple(slots)
    if (block.switch or block.cut or once is not None) and block.index > 0 and prepared < 1:
        switching = strategy if once is None else replace(strategy, switch=once)
        edit, again = switching.on_switch(now, block if once is None else replace(block, switch=True))
        edit.check(len(now))
        now = edit.slots
        if again is not None:
            now = in_order(now + replayed(again, block.frames, block.scene))
    room = strategy.policy.make_room(now, block.frames) if prepared < 2 else keep(now, range(len(now)))
    room.check(len(now))
    now = room.slots
    if len(now) + block.frames > strategy.policy.window:
        over = len(now) + block.frames - strategy.policy.window
        raise CacheError(
            f"policy '{strategy.policy.kind}' left {len(now)} slots for a block of {block.frames} in a window of "
            f"{strategy.policy.window}. make_room must evict {over} more."
        )
    placement = strategy.positions.place(
        now, block if block.index > 0 else replace(block, cut=False), reach(strategy, spec)
    )
    if len(placement.slots) != len(now) or len(placement.block) != block.frames:
        raise CacheError(
            f"positions '{strategy.positions.kind}' placed {len(placement.slots)} slots and {len(placement.block)} block "
            f"frames where there are {len(now)} and {block.frames}."
        )
    return Step(block, edit, again, room, now, placement, strategy.policy.admit(block))


def taken_over(strategy: Strategy, slots: Sequence[Slot], start: int, spec: Spec) -> Edit:
    """The edit that makes a cache which another strategy filled, up to frame `start`, this one's.

    Frames get the roles that this policy gives them; old sinks become recent frames where they border on those, else they
    go; memory stays where this policy has as many streams, and goes where it has none. Raises CompositionError for what
    cannot be carried over.
    """

    def role(frame: int) -> Role:
        index = frame // spec.block
        return strategy.policy.admit(Block(index, index * spec.block, spec.block))[frame % spec.block].role

    kind, cure = (
        strategy.policy.kind,
        "Encode the history again under the new strategy (fork --rebuild), or keep the old policy.",
    )
    places = {slot.frame: i for i, slot in enumerate(slots) if slot.role is not Role.MEMORY}
    sinks: list[int] = []
    for frame in takewhile(lambda f: role(f) is Role.SINK, range(start)):
        if frame not in places:
            raise CompositionError(
                f"frame {frame} would be a sink of policy '{kind}', and the cache no longer holds it. {cure}"
            )
        sinks.append(frame)
    memory, streams = of_role(slots, Role.MEMORY), strategy.policy.memory
    if memory and streams not in (0, len(memory)):
        raise CompositionError(
            f"the cache holds {len(memory)} streams of memory, and policy '{kind}' has {streams}. {cure}"
        )
    # Recent frames are contiguous: an old sink joins them where it borders on them, not across a gap.
    recent = [f for f in sorted(places) if f not in sinks and slots[places[f]].role is Role.RECENT]
    # positions date recent frames by their distance, so an old sink may join them only where no frame between is missing
    for frame in sorted((f for f in places if f not in sinks and f not in recent), reverse=True):
        if not recent or recent[0] == frame + 1:
            recent.insert(0, frame)
    parts = [(Role.SINK, places[f]) for f in sinks] + [(Role.MEMORY, i) for i in memory if streams]
    parts += [(Role.RECENT, places[f]) for f in recent]
    edit = keep(slots, [i for _, i in parts])
    return replace(edit, slots=tuple(replace(slots[i], role=role) for role, i in parts))


def reach(strategy: Strategy, spec: Spec) -> int:
    """The frames that positions may span: the policy's window, at most the trained frames."""
    return min(strategy.policy.window, spec.trained)


def replayed(replay: Replay, block: int, scene: int = 0) -> tuple[Slot, ...]:
    """The slots of frames that are encoded again, each in its original block of `block` frames; `scene` is today's."""
    return tuple(
        Slot(
            Role.SINK if i < replay.sinks else Role.RECENT,
            frame,
            frame // block,
            scene if frame // block >= scene else 0,
        )
        for i, frame in enumerate(replay.frames)
    )


def chunks(
    strategy: Strategy, base: Sequence[Slot], replay: Replay, block: int, window: int
) -> Iterator[tuple[tuple[int, ...], Placement]]:
    """The passes of a replay over a cache of `kept` slots: the frames of each, and where they and the cache sit.

    Positions without slot dates keep the frames' own numbers; the others see the kept slots as slots and the replayed
    frames as one long block.
    """
    frames = replay.frames
    passes = [frames] if replay.bidirectional else _by_block(frames, block)
    n = len(frames)
    layout = strategy.positions.place(base, Block(frames[-1] // block, frames[-1] + 1 - n, n), window)
    earlier: tuple[int, ...] = ()
    slots = tuple(base)
    for part in passes:
        if strategy.positions.by_slot:
            placement = Placement(
                layout.slots + layout.block[: len(earlier)], layout.block[len(earlier) : len(earlier) + len(part)]
            )
        else:
            placement = strategy.positions.place(slots, Block(part[0] // block, part[0], len(part)), window)
        yield part, placement
        earlier += part
        slots += replayed(Replay(part), block)


def _by_block(frames: Sequence[int], block: int) -> list[tuple[int, ...]]:
    parts: list[tuple[int, ...]] = []
    for frame in frames:
        if parts and parts[-1][-1] // block == frame // block:
            parts[-1] += (frame,)
        else:
            parts.append((frame,))
    return parts


def steps(moments: Iterable[Moment], spec: Spec) -> Iterator[Step]:
    """The steps of a rollout whose moments are known, without a model and without tensors.

    Raises CompositionError where a strategy cannot take the cache over, CacheError where a part breaks the rules.
    """
    slots: tuple[Slot, ...] = ()
    for moment in moments:
        if moment.handover:
            slots = taken_over(moment.strategy, slots, moment.block.start, spec).slots
        step = decide(moment.strategy, slots, moment.block, spec, once=moment.once)
        yield step
        slots = step.after


def simulate(strategy: Strategy, blocks: Iterable[Block], spec: Spec) -> Iterator[Step]:
    """The steps of one strategy over the blocks of a plan."""
    return steps((Moment(block, (), strategy) for block in blocks), spec)
