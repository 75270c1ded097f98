"""Lanes: sets of heads with slots of their own. They are independent caches behind one `split`, joined again after attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rollout.backend import Spec
from rollout.errors import CompositionError
from rollout.facts import HEADS, QUERIES

if TYPE_CHECKING:
    from torch import Tensor

    from rollout.backend import Attend
    from rollout.parts import Policy
    from rollout.ranks import Ranks

__all__ = ["HeadMasses", "Lane", "check_lanes", "joined", "lanes_here"]

HeadMasses = tuple[tuple[tuple[float, ...], ...], ...]
"""Of each layer and head the share of attention that each frame got, the block's own frames last."""


@dataclass(frozen=True)
class Lane:
    """A policy for some heads: `heads` names them by layer, and a layer may have none."""

    name: str
    heads: tuple[tuple[int, ...], ...]
    policy: "Policy"


def check_lanes(lanes: Sequence[Lane], spec: Spec) -> None:
    """Raise CompositionError unless every head of every layer is in one lane."""
    for lane in lanes:
        if len(lane.heads) != spec.layers:
            raise CompositionError(
                f"lane '{lane.name}' names heads of {len(lane.heads)} layers, and {spec.name} has {spec.layers}: it is a map of "
                "another model. Give one made for this model."
            )
    for layer in range(spec.layers):
        names: dict[int, str] = {}
        for lane in lanes:
            for head in lane.heads[layer]:
                if not 0 <= head < spec.heads:
                    raise CompositionError(
                        f"lane '{lane.name}' names head {head} of layer {layer}, and {spec.name} has {spec.heads} heads: it is a "
                        "map of another model. Give one made for this model."
                    )
                if head in names:
                    raise CompositionError(
                        f"head {head} of layer {layer} is in the lanes '{names[head]}' and '{lane.name}'. Put it in one."
                    )
                names[head] = lane.name
        left_out = [head for head in range(spec.heads) if head not in names]
        if left_out:
            raise CompositionError(f"head {left_out[0]} of layer {layer} is in no lane. Put every head in one.")


def lanes_here(lanes: Sequence[Lane], ranks: "Ranks | None", spec: Spec) -> tuple[Lane, ...]:
    """The lanes of the heads that this process holds, numbered from its first one; a lane may have none here.

    Raises CompositionError for what several processes cannot have.
    """
    if ranks is None:
        return tuple(lanes)
    here = ranks.heads(spec.heads)
    for lane in lanes:
        facts = [name for name in lane.policy.needs if name not in (QUERIES, HEADS)]
        if facts:
            raise CompositionError(
                f"lane '{lane.name}' measures '{facts[0]}' over its heads, which several processes hold. Use one process."
            )
        if any(tuple(sorted(layer)) != tuple(layer) for layer in lane.heads):
            raise CompositionError(
                f"lane '{lane.name}' names its heads out of order, and several processes hold them in order. Sort them."
            )
    return tuple(
        replace(lane, heads=tuple(tuple(head - here.start for head in layer if head in here) for layer in lane.heads))
        for lane in lanes
    )


def joined(attends: Sequence["Attend"], heads: Sequence[Sequence["Tensor"]]) -> "Attend":
    """One attention over all heads of attentions over some: `heads` has each lane's by layer."""

    def attend(layer: int, q: "Tensor", k: "Tensor", v: "Tensor") -> "Tensor":
        out = v.new_empty(q.shape)
        for part, lane in zip(attends, heads, strict=True):
            index = lane[layer]
            out[:, :, index] = part(layer, q[:, :, index], k[:, :, index], v[:, :, index]).to(out.dtype)
        return out

    return attend
