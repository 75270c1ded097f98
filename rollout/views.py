"""Which passes a block takes, and what each of them sees: pure, from a strategy's order, reads and positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rollout.backend import Spec
from rollout.errors import CacheError
from rollout.refinements import Order
from rollout.slots import Block, Pass, Slot, View
from rollout.strategy import Strategy

__all__ = ["ANY", "Horizon", "reach", "views_of"]


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


def reach(strategy: Strategy, spec: Spec) -> int:
    """The frames that positions may span: what a pass reads at most, at most the trained frames."""
    return min(strategy.span, spec.trained)


def views_of(
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
