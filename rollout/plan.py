"""What a strategy does to the cache at each block, as values: the loop executes it, `rollout explain` prints it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from itertools import takewhile

from rollout.backend import Spec
from rollout.errors import CacheError, CompositionError
from rollout.lanes import Lane
from rollout.refinements import Order
from rollout.slots import NO_FACTS, Block, Edit, Facts, Pass, Replay, Role, Slot, View, in_order, keep, of_role
from rollout.strategy import Policy, Strategy, Switch
from rollout.text import Json
from rollout.timeline import Moment

__all__ = [
    "ANY",
    "Horizon",
    "Step",
    "check_handover",
    "chunks",
    "decide",
    "decide_lanes",
    "reach",
    "replayed",
    "room_for",
    "simulate",
    "steps",
    "taken_over",
]


@dataclass(frozen=True)
class Horizon:
    """What the order of passes depends on beside the block: denoising steps, the first generated block and the last one.

    `last` is None where the rollout is open; `opening` are the first generated block's steps where it has its own.
    """

    steps: int = 4
    first: int = 0
    last: int | None = None
    opening: int | None = None

    def of(self, order: Order, index: int) -> tuple[Pass, ...]:
        """The passes of a block; one before the first generated block is encoded alone, as in the order of blocks."""
        if index < self.first:
            noisy = tuple(Pass((index,), (level,)) for level in range(self.steps))
            return (*noisy, Pass((index,), (self.steps,), writes=True))
        last = None if self.last is None else self.last - self.first
        steps = self.opening if index == self.first and self.opening is not None else self.steps
        calls = order.passes(index - self.first, steps, last)
        return tuple(replace(call, blocks=tuple(block + self.first for block in call.blocks)) for call in calls)


ANY = Horizon()
"""Four steps, and no end."""


@dataclass(frozen=True)
class Step:
    """One block's decisions; `slots` and `placement` are the state in which the block is denoised.

    `passes` has every pass with its view; `placement` is the view of the last noisy one, `commit` that of the clean pass.
    """

    block: Block
    switch: Edit | None
    replay: Replay | None
    room: Edit
    slots: tuple[Slot, ...]
    passes: tuple[tuple[Pass, View], ...]
    admitted: tuple[Slot, ...]
    lanes: tuple["Step", ...] = ()
    """Where heads have slots of their own, the step of every lane; the rest of this one is that of the first."""
    renewal: bool = False
    """`switch` and `replay` are what the policy does by itself, and no switch."""

    @property
    def by_lane(self) -> tuple["Step", ...]:
        """The step of every lane, or this one."""
        return self.lanes or (self,)

    @property
    def placement(self) -> View:
        """The view of the last noisy pass."""
        return self.passes[-2][1]

    @property
    def commit(self) -> View:
        """The view of the clean pass."""
        return self.passes[-1][1]

    def to_dict(self) -> Json:
        """As JSON, in the state in which the block is denoised."""
        block = self.block
        return {
            "block": block.index,
            "start": block.start,
            "prompt": block.prompt,
            "switch": block.switch,
            "cut": block.cut,
            "slots": [_slot(slot) for slot in self.slots],
            "placement": _view(self.placement),
            **({} if self.commit == self.own else {"commit": _view(self.commit)}),
            **({"lanes": [_lane(step) for step in self.lanes]} if self.lanes else {}),
        }

    @property
    def own(self) -> View:
        """What the last noisy pass sees, of its own frames the block's alone."""
        return replace(self.placement, block=self.placement.block[: self.block.frames])

    @property
    def after(self) -> tuple[Slot, ...]:
        """The cache once the block is committed, in the cache's order."""
        return in_order(self.slots + self.admitted)


def _lane(step: Step) -> Json:
    return {"slots": [_slot(slot) for slot in step.slots], "placement": _view(step.placement)}


def _slot(slot: Slot) -> Json:
    date = {} if slot.date is None else {"date": slot.date}
    return {"role": slot.role.value, "frame": slot.frame} | date


def _view(view: View) -> Json:
    bias = {"bias": list(view.bias)} if view.bias else {}
    return {"slots": list(view.slots), "block": list(view.block)} | bias


def decide(
    strategy: Strategy,
    slots: Sequence[Slot],
    block: Block,
    spec: Spec,
    *,
    once: Switch | None = None,
    prepared: int = 0,
    facts: Facts = NO_FACTS,
    horizon: Horizon = ANY,
) -> Step:
    """Ask the strategy's parts what happens to a cache of `slots` at `block`; `once` is a switch for this block alone.

    `prepared` says what has happened to it already: 1 the switch, 2 making room too; `facts` what was measured of the
    slots, one number each. Raises CacheError where a part breaks the rules: slots beyond the window, rows that do not sum
    to 1.
    """
    edit, again, now = None, None, tuple(slots)
    renewal = strategy.policy.renew(now, block) if block.index > 0 and prepared < 1 else None
    if renewal is not None:  # everything that a switch would touch goes
        edit, again = renewal
    elif (block.switch or block.cut or once is not None) and block.index > 0 and prepared < 1:
        switching = strategy if once is None else replace(strategy, switch=once)
        edit, again = switching.on_switch(now, block if once is None else replace(block, switch=True))
    if edit is not None:
        edit.check(len(now))
        now = edit.slots
        if again is not None:
            now = in_order(now + replayed(again, block.frames, block.scene, block.prompt))
    policy = strategy.policy
    facts = _carried(facts, edit, len(now))
    room = room_for(policy, now, block.frames, facts) if prepared < 2 else keep(now, range(len(now)))
    room.check(len(now))
    now = room.slots
    _check_room(policy, now, block)
    passes = tuple(_seen(strategy, now, block, spec, horizon))
    return Step(block, edit, again, room, now, passes, policy.admit(block), renewal=renewal is not None)


def decide_lanes(
    strategy: Strategy,
    lanes: Sequence[Lane],
    slots: Sequence[Sequence[Slot]],
    block: Block,
    spec: Spec,
    *,
    facts: Sequence[Facts] | None = None,
    once: Switch | None = None,
    prepared: int = 0,
    horizon: Horizon = ANY,
) -> Step:
    """As decide, for every lane by itself: `slots` and `facts` are those of each."""
    steps = [
        decide(
            strategy.of_lane(lane),
            slots[n],
            block,
            spec,
            once=once,
            prepared=prepared,
            facts=NO_FACTS if facts is None else facts[n],
            horizon=horizon,
        )
        for n, lane in enumerate(lanes)
    ]
    return replace(steps[0], lanes=tuple(steps))


def room_for(policy: Policy, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
    """Ask a policy to make room; a rule that needs no facts may leave them out of its make_room."""
    return policy.make_room(slots, frames, facts) if _asks(type(policy)) else policy.make_room(slots, frames)


@cache
def _asks(policy: type[Policy]) -> bool:
    """Whether a policy's make_room takes facts."""
    return len(signature(policy.make_room).parameters) > 3


def _carried(facts: Facts, edit: Edit | None, count: int) -> Facts:
    """Facts after a switch: a slot that stays has its own, every other one 0."""
    if edit is None:
        return facts
    facts_after = {}
    for name, numbers in facts.items():
        stays = [numbers[row.sources[0]] if len(row.sources) == 1 else 0.0 for row in edit.rows]
        facts_after[name] = (*stays, *[0.0] * (count - len(stays)))
    return facts_after


def _check_room(policy: Policy, slots: Sequence[Slot], block: Block) -> None:
    for count, limit, noun in (
        (len(policy.readable(slots, block)), policy.window, "a window"),
        (len(slots), policy.window + policy.spare, "a cache"),
    ):
        if count + block.frames > limit:
            raise CacheError(
                f"policy '{policy.kind}' left {count} slots for a block of {block.frames} in {noun} of {limit}. make_room "
                f"must evict {count + block.frames - limit} more."
            )


def _seen(
    strategy: Strategy, slots: Sequence[Slot], block: Block, spec: Spec, horizon: Horizon
) -> Iterator[tuple[Pass, View]]:
    """The passes of a block, each with what it reads and where that sits."""
    readable = strategy.policy.readable(slots, block)
    candidates = tuple(slots[i] for i in readable)
    views: dict[object, View] = {}  # most passes of a block see the same
    for call in horizon.of(strategy.order, block.index):
        indices = strategy.reads.which(candidates, block, call)
        bias = strategy.reads.bias(candidates, block, call)
        key = indices, bias, len(call.blocks)
        if key not in views:
            views[key] = _placed(strategy, slots, [readable[i] for i in indices], bias, len(call.blocks), block, spec)
        yield call, views[key]


def _placed(
    strategy: Strategy,
    slots: Sequence[Slot],
    read: Sequence[int],
    bias: tuple[float, ...],
    blocks: int,
    block: Block,
    spec: Spec,
) -> View:
    """Where the slots that are read, and the frames of so many blocks, sit; the others are None."""
    # no cut from nothing; and blocks that are denoised together keep their distances
    calm = block.index == 0 or blocks > 1
    extent = replace(block, frames=blocks * block.frames, cut=block.cut and not calm)
    place = strategy.positions.place(tuple(slots[i] for i in read), extent, reach(strategy, spec))
    if len(place.slots) != len(read) or len(place.block) != extent.frames:
        raise CacheError(
            f"positions '{strategy.positions.kind}' placed {len(place.slots)} slots and {len(place.block)} block "
            f"frames where there are {len(read)} and {extent.frames}."
        )
    if len(bias) not in (0, len(read)):
        raise CacheError(f"reads '{strategy.reads.kind}' give {len(bias)} biases for {len(read)} slots.")
    indices: list[int | None] = [None] * len(slots)
    biases = [0.0] * len(slots)
    for n, i in enumerate(read):
        indices[i] = place.slots[n]
        biases[i] = bias[n] if bias else 0.0
    return View(tuple(indices), place.block, tuple(biases) if any(biases) else ())


def check_handover(before: Strategy, after: Strategy, spec: Spec) -> None:
    """Raise CompositionError where a strategy that takes over stores, turns or orders otherwise than the one before."""
    if before == after:
        return
    if any(rule.lanes(spec, None) or "heads" in rule.needs for rule in (before.policy, after.policy)):
        raise CompositionError("heads that have slots of their own cannot be handed over. Start a rollout of its own.")
    for axis in ("spectrum", "order", "store"):
        if getattr(before, axis) != getattr(after, axis):
            raise CompositionError(
                f"a rollout cannot change its {axis} on the way ({getattr(before, axis).kind} to "
                f"{getattr(after, axis).kind}): what is cached was made for the first. Start a rollout of its own."
            )


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
    frames = {i: slot.frame if slot.role is Role.SINK else slot.time for i, slot in enumerate(slots)}
    places = {frames[i]: i for i, slot in enumerate(slots) if slot.role is not Role.MEMORY}
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
    # a sink's date is its policy's; that of a recent frame says which frame it stands for
    dates = {i: None if slots[i].role is Role.SINK else slots[i].date for _, i in parts}
    return replace(edit, slots=tuple(replace(slots[i], role=role, date=dates[i]) for role, i in parts))


def reach(strategy: Strategy, spec: Spec) -> int:
    """The frames that positions may span: what a pass reads at most, at most the trained frames."""
    return min(strategy.span, spec.trained)


def replayed(replay: Replay, block: int, scene: int = 0, prompt: int = 0) -> tuple[Slot, ...]:
    """The slots of frames that are encoded again, each in its original block of `block` frames.

    `scene` and `prompt` are those in force.
    """
    return tuple(
        Slot(
            Role.SINK if i < replay.sinks else Role.RECENT,
            frame,
            frame // block,
            prompt=prompt,
            scene=scene if frame // block >= scene else 0,
        )
        for i, frame in enumerate(replay.frames)
    )


def chunks(
    strategy: Strategy, base: Sequence[Slot], replay: Replay, block: int, window: int
) -> Iterator[tuple[tuple[int, ...], View]]:
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
            placement = View(
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


def steps(moments: Iterable[Moment], spec: Spec, *, horizon: Horizon = ANY) -> Iterator[Step]:
    """The steps of a rollout whose moments are known, without a model and without tensors.

    A policy that needs facts is told none. Raises CompositionError where a strategy cannot take the cache over, CacheError
    where a part breaks the rules.
    """
    slots: tuple[tuple[Slot, ...], ...] = ((),)
    before: Strategy | None = None
    for moment in moments:
        strategy, block = moment.strategy, moment.block
        if before is not None and moment.handover:
            check_handover(before, strategy, spec)
            slots = (taken_over(strategy, slots[0], block.start, spec).slots,)
        lanes = strategy.policy.lanes(spec, None)
        if lanes:
            slots = slots if len(slots) == len(lanes) else slots[:1] * len(lanes)
            step = decide_lanes(strategy, lanes, slots, block, spec, once=moment.once, horizon=horizon)
        else:
            facts = {name: (0.0,) * len(slots[0]) for name in strategy.policy.needs}
            step = decide(strategy, slots[0], block, spec, once=moment.once, facts=facts, horizon=horizon)
        yield step
        slots, before = tuple(part.after for part in step.by_lane), strategy


def simulate(strategy: Strategy, blocks: Iterable[Block], spec: Spec, *, horizon: Horizon = ANY) -> Iterator[Step]:
    """The steps of one strategy over the blocks of a plan."""
    return steps((Moment(block, (), strategy) for block in blocks), spec, horizon=horizon)
