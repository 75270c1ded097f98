"""What happens where another strategy takes over: the edit that makes the cache its own, or why there is none. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from rollout.backend import Spec
from rollout.errors import CompositionError
from rollout.slots import Block, Edit, Role, Slot, keep, of_role
from rollout.strategy import Strategy

__all__ = ["check_handover", "taken_over"]


def check_handover(before: Strategy, after: Strategy, spec: Spec) -> None:
    """Raise CompositionError where a strategy that takes over stores, turns or orders otherwise than the one before."""
    if before == after:
        return
    if any(rule.lanes(spec, None) or "heads" in rule.needs for rule in (before.policy, after.policy)):
        raise CompositionError("heads that have slots of their own cannot be handed over. Start a rollout of its own.")
    if before.order.joint(2) > 1:
        raise CompositionError(
            f"order '{before.order.kind}' has blocks half denoised that were begun under the strategy before. Start a rollout of "
            "its own."
        )
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
