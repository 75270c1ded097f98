"""What a strategy does to the cache at each block, as values: the loop executes it, `rollout explain` prints it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature

from rollout.backend import Spec
from rollout.errors import CacheError
from rollout.handover import check_handover, taken_over
from rollout.lanes import Lane
from rollout.parts import Policy, Switch
from rollout.slots import NO_FACTS, Block, Edit, Facts, Mix, Pass, Replay, Role, Slot, View, in_order, keep
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.timeline import Moment
from rollout.views import ANY, Horizon, views_of

__all__ = [
    "Step",
    "chunks",
    "decide",
    "decide_lanes",
    "replayed",
    "room_for",
    "simulate",
    "steps",
]


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
    to 1, averages of a policy that says it makes none.
    """
    policy = strategy.policy
    edit, again, now = None, None, tuple(slots)
    renewal = policy.renew(now, block) if block.index > 0 and prepared < 1 else None
    if renewal is not None:  # everything that a switch would touch goes
        edit, again = renewal
    elif (block.switch or block.cut or once is not None) and block.index > 0 and prepared < 1:
        switching = strategy if once is None else replace(strategy, switch=once)
        edit, again = switching.on_switch(now, block if once is None else replace(block, switch=True))
    if edit is not None:
        edit.check(len(now))
        _check_blends(policy, edit, now, f"policy '{policy.kind}'" if renewal else f"switch '{strategy.switch.kind}'")
        now = edit.slots
        if again is not None:
            now = in_order(now + replayed(again, block.frames, block.scene, block.prompt))
    facts = _carried(facts, edit, len(now))
    room = room_for(policy, now, block.frames, facts) if prepared < 2 else keep(now, range(len(now)))
    room.check(len(now))
    _check_blends(policy, room, now, f"policy '{policy.kind}'")
    now = room.slots
    _check_room(policy, now, block)
    passes = tuple(views_of(strategy, now, block, spec, horizon))
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


def _check_blends(policy: Policy, edit: Edit, before: Sequence[Slot], subject: str) -> None:
    """Only a policy that says so averages frames: positions that need a frame's own number would date the average wrongly."""
    for row in () if policy.blends else edit.rows:
        if isinstance(row, Mix) and len(row.weights) > 1:
            frames = ", ".join(str(before[i].frame) for i in row.sources)
            raise CacheError(
                f"{subject} averages frames {frames}, and the policy says blends=False. Write blends: ClassVar[bool] = True."
            )


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
