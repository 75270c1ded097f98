"""What every step of a rollout promises: slots, edits, placements and replays, one check a promise."""

from collections import defaultdict
from collections.abc import Sequence

from rollout.backend import Spec
from rollout.errors import CheckError
from rollout.parts import Policy, Positions, Switch
from rollout.plan import Step, replayed
from rollout.slots import Block, Edit, Pick, Replay, Role, Slot, View, in_order, of_role
from rollout.strategy import Strategy

__all__ = ["check_step"]


def check_step(strategy: Strategy, slots: Sequence[Slot], step: Step, spec: Spec) -> None:
    """Raise CheckError where a step from a cache of `slots` breaks a promise; says whose."""
    policy, before = strategy.policy, tuple(slots)
    if step.switch is not None:
        subject = f"policy '{policy.kind}'" if step.renewal else f"switch '{strategy.switch.kind}'"
        _check_edit(step.switch, before, subject)
        if not step.block.cut and not step.renewal:
            _check_flush(strategy.switch, before, step.switch, step.replay)
        before = step.switch.slots
        if step.replay is not None:
            _check_replay(step.replay, slots, before, step.block, policy.window, subject)
            before = in_order(before + replayed(step.replay, step.block.frames, step.block.scene, step.block.prompt))
    _check_edit(step.room, before, f"policy '{policy.kind}'")
    _check_admitted(policy, step)
    _check_pinned(policy, before, step)
    _check_placement(strategy.positions, step, spec)


def _frames(slots: Sequence[Slot], *roles: Role) -> list[int]:
    return [slot.frame for slot in slots if slot.role in roles]


def _times(slots: Sequence[Slot], *roles: Role) -> list[int]:
    return [slot.time for slot in slots if slot.role in roles]


def _check_edit(edit: Edit, before: Sequence[Slot], subject: str) -> None:
    """New slots are what they say; frames are cached once, recent ones in the order of time."""
    for slot, row in zip(edit.slots, edit.rows, strict=True):
        sources = [before[i] for i in row.sources]
        names = ", ".join(str(source.frame) for source in sources)
        if isinstance(row, Pick) and slot.role is not Role.MEMORY:
            raise CheckError(f"{subject} makes a {slot.role} slot of tokens picked from {names}: they are memory.")
        if slot.frame not in (source.frame for source in sources):
            raise CheckError(f"{subject} makes a {slot.role} slot of frame {slot.frame} from what is frame {names}.")
        if len(sources) == 1 and slot.role is not Role.MEMORY:
            (source,) = sources
            if (slot.frame, slot.block, slot.scene, slot.prompt) != (
                source.frame,
                source.block,
                source.scene,
                source.prompt,
            ):
                raise CheckError(
                    f"{subject} says that {source} is {slot}: only the role and the date of a slot that stays may change."
                )
    frames = _times(edit.slots, Role.SINK, Role.RECENT)
    twice = [frame for frame in frames if frames.count(frame) > 1]
    if twice:
        raise CheckError(f"{subject} caches frame {twice[0]} twice.")
    recent = _times(edit.slots, Role.RECENT)
    if recent != sorted(recent):
        raise CheckError(f"{subject} leaves the recent frames {recent}: they go from the oldest to the newest.")


def _check_flush(switch: Switch, before: Sequence[Slot], edit: Edit, replay: Replay | None) -> None:
    """`flushes` says what a cut relies on."""
    old, new = _frames(before, Role.RECENT), _frames(edit.slots, Role.RECENT)
    subject = f"switch '{switch.kind}'"
    if not switch.flushes:
        if replay is None and set(old) - set(_frames(edit.slots, *Role)):
            raise CheckError(f"{subject} drops recent frames but says flushes=False: a cut would do something else.")
    elif replay is not None:
        raise CheckError(f"{subject} says flushes=True and replays frames: a flush encodes nothing again.")
    elif len(new) > switch.last:
        raise CheckError(f"{subject} says flushes=True, last={switch.last} and leaves {len(new)} recent frames.")


def _check_replay(
    replay: Replay, cache: Sequence[Slot], left: tuple[Slot, ...], block: Block, window: int, subject: str
) -> None:
    """Frames to encode again exist, are held, and fit beside what is left."""
    frames = list(replay.frames)
    if not frames or frames != sorted(set(frames)):
        raise CheckError(f"{subject} replays the frames {frames}: give each once, in order.")
    at_hand = {*range(max(0, block.start - window), block.start), *(slot.frame for slot in cache)}
    lost = [frame for frame in frames if frame not in at_hand]
    if lost:
        raise CheckError(f"{subject} replays frame {lost[0]} before block {block.index}, which is not at hand.")
    if not 0 <= replay.sinks <= len(frames):
        raise CheckError(f"{subject} makes {replay.sinks} sinks of {len(frames)} replayed frames.")
    if len(left) + len(frames) > window:
        raise CheckError(f"{subject} replays {len(frames)} frames beside {len(left)} slots in a window of {window}.")
    together = left + replayed(replay, block.frames, block.scene, block.prompt)
    if in_order(together) != together:
        raise CheckError(f"{subject} replays sinks behind recent frames that it leaves: sinks come first.")
    again = set(frames) & set(_frames(left, Role.SINK, Role.RECENT))
    if again:
        raise CheckError(f"{subject} replays frame {min(again)} and leaves it cached as well.")


def _check_pinned(policy: Policy, before: Sequence[Slot], step: Step) -> None:
    """Sinks stay until those of a later scene, or rebuilt ones, take their place; no more sinks and memory than declared."""
    subject = f"policy '{policy.kind}'"
    old, new = ([slot for slot in slots if slot.role is Role.SINK] for slots in (before, step.slots))
    lost = [slot for slot in old if slot.frame not in _frames(new, Role.SINK)]
    rebuilt = step.replay is not None and (step.replay.sinks > 0 or step.renewal)
    if lost and not rebuilt and not (new and min(slot.scene for slot in new) > max(slot.scene for slot in lost)):
        raise CheckError(f"{subject} evicts its sink, frame {lost[0].frame}: no block may.")
    for role, promise in ((Role.SINK, policy.sink), (Role.MEMORY, policy.memory)):
        count = len(of_role(step.after, role))
        if count > promise:
            raise CheckError(f"{subject} declares {role}={promise} and holds {count} {role} slots.")


def _check_admitted(policy: Policy, step: Step) -> None:
    """A committed block's slots are its frames."""
    block, subject = step.block, f"policy '{policy.kind}' admits"
    frames = [slot.frame for slot in step.admitted]
    if frames != list(range(block.start, block.end)):
        raise CheckError(
            f"{subject} {frames} for the frames {block.start} to {block.end - 1}: one slot a frame, in order."
        )
    for slot in step.admitted:
        if slot.role is Role.MEMORY:
            raise CheckError(f"{subject} frame {slot.frame} as memory: a new frame is a sink or a recent one.")
        if (slot.block, slot.scene) != (block.index, block.scene):
            raise CheckError(f"{subject} {slot} in block {block.index} of scene {block.scene}.")
    together = step.slots + step.admitted
    if in_order(together) != together:
        raise CheckError(f"{subject} sinks behind recent frames: sinks come first, so pin them once they are cached.")


def _check_placement(positions: Positions, step: Step, spec: Spec) -> None:
    """Indices are whole numbers within reach; the block's go up by one, but for a cut's; no two keys share one."""
    place, subject = step.placement, f"positions '{positions.kind}'"
    indices = [index for _, index in place.pairs(step.slots)]
    if any(type(index) is not int for index in (*indices, *place.block)):
        raise CheckError(f"{subject} give {place}: indices are whole numbers.")
    steps = {b - a for a, b in zip(place.block, place.block[1:], strict=False)}
    cut = step.block.cut and step.block.index > 0
    if (steps - {1} and not cut) or any(stride < 1 for stride in steps):
        raise CheckError(f"{subject} put the block's frames at {place.block}: each comes one after the one before.")
    most = spec.trained if positions.by_slot else spec.table
    within = indices if cut else (*indices, *place.block)  # a cut jumps beyond on purpose
    outside = [index for index in within if index < 0 or (index >= most and not positions.beyond)]
    if outside:
        raise CheckError(f"{subject} use index {outside[0]}, beyond the {most} that the model knows.")
    if not positions.collapses and not cut:
        _check_unique(place, step, subject)


def _check_unique(place: View, step: Step, subject: str) -> None:
    """No two keys at one index, but recent frames so old that their place is before 0 or that of sinks and memory."""
    groups: dict[int, list[Slot]] = defaultdict(list)
    for slot, index in place.pairs(step.slots):
        groups[index].append(slot)
    constants, end = sum(slot.role is not Role.RECENT for slot in step.slots), step.block.start + len(place.block)
    oldest = end - (place.block[-1] + 1) + constants  # of the frames that have a place of their own
    for index, slots in groups.items():
        within = [slot for slot in slots if slot.role is not Role.RECENT or slot.time >= oldest]
        if len(within) > 1 or (within and index in place.block):
            frames = [slot.frame for slot in within]
            raise CheckError(
                f"{subject} put frames {frames} at index {index} in the block at {place.block}: no two share one."
            )
