"""What a rollout takes of a device's memory, as far as it can be known before it runs. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rollout.backend import Spec
from rollout.strategy import Strategy

__all__ = ["Needs", "ahead", "cache_bytes"]


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's parts on its device: while prompts are encoded, and while blocks are rolled out.

    `rows`: rows of the cache a video; `itemsize`: bytes of a number in it; `notes`: what would need less, by option;
    `passing`: what a pass over a block works with, which is in `rolling` once.
    """

    spec: Spec
    encoding: Mapping[str, int]
    rolling: Mapping[str, int]
    itemsize: int
    rows: int = 1
    notes: Mapping[str, str] = field(default_factory=dict)
    passing: int = 0


def ahead(strategy: Strategy, spec: Spec, steps: int = 4) -> int:
    """Frames of later blocks that passes see beside a block."""
    return (strategy.order.joint(steps) - 1) * spec.block


def cache_bytes(
    strategy: Strategy, spec: Spec, itemsize: int, rows: int = 1, steps: int = 4, heads: range | None = None
) -> int:
    """Bytes of keys and values, raw copies and averages included, for numbers of `itemsize` bytes in so many rows.

    `heads`: those that are held here, where that is not all of them.
    """
    heads = range(spec.heads) if heads is None else heads
    lanes, frames = strategy.policy.lanes(spec, None), float(strategy.stored)
    if lanes:  # each holds its own frames, for its own share of the heads
        counts = [sum(head in heads for layer in lane.heads for head in layer) for lane in lanes]
        shares = (count / (spec.layers * len(heads)) for count in counts)
        frames = sum(strategy.of_lane(lane).stored * share for lane, share in zip(lanes, shares, strict=True))
    here = replace(spec, heads=len(heads))
    stored = (frames + ahead(strategy, spec, steps)) * strategy.store.frame_bytes(here, itemsize)
    return rows * (int(stored) + strategy.copies(here, itemsize))
