"""Steps executed twice: by the cache that rollouts use, and by one that computes everything from scratch."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch

from rollout.backend import Spec
from rollout.cache import KVCache
from rollout.errors import CheckError
from rollout.plan import Step, chunks, replayed
from rollout.slots import Slot, View
from rollout.strategy import Strategy
from rollout.testing.oracle import OracleCache
from rollout.views import reach

__all__ = ["Pair"]


class Pair:
    """The cache that rollouts use beside one that computes everything from scratch, under the same random tensors."""

    def __init__(self, strategy: Strategy, spec: Spec) -> None:
        self.strategy, self.spec, self.seeds = strategy, spec, count()
        size, steps = strategy.stored, 4
        ahead = (strategy.order.joint(steps) - 1) * spec.block
        multipliers = torch.tensor(strategy.spectrum.multipliers(spec), dtype=torch.float64)
        needs = strategy.policy.needs
        self.caches = (
            KVCache(
                spec,
                size,
                2,
                ahead=ahead,
                needs=needs,
                multipliers=multipliers,
                store=strategy.store,
                dtype=torch.float64,
            ),
            OracleCache(spec, size, 2, multipliers=multipliers, dtype=torch.float64),
        )

    def run(self, step: Step) -> None:
        """Execute a step on both. Raises CheckError where they differ."""
        block = step.block
        if step.switch is not None:
            self._both("apply", step.switch)
        if step.switch is not None and step.replay is not None:
            slots = iter(replayed(step.replay, block.frames, block.scene, block.prompt))
            window = reach(self.strategy, self.spec)
            for part, placement in chunks(self.strategy, step.switch.slots, step.replay, block.frames, window):
                self._encode(placement, [next(slots) for _ in part])
        self._both("apply", step.room)
        before: list[tuple[tuple[int, ...], View]] = []
        for call, view in step.passes[:-1]:
            before.append((call.blocks, view))
            if before[-3:] != [before[-1]] * 3:  # a third pass over the same does what the second did
                self._agree(len(call.blocks) * block.frames, self._both("reader", view))
        self._encode(step.commit, step.admitted)
        if any(cache.slots != step.after for cache in self.caches):
            raise CheckError("the cache holds other slots than the plan.")

    def _both(self, method: str, *values: object) -> list[Any]:
        return [getattr(cache, method)(*values) for cache in self.caches]

    def _encode(self, placement: View, slots: Sequence[Slot]) -> None:
        self._agree(len(slots), self._both("writer", placement, slots))
        self._both("commit", slots)

    def _agree(self, frames: int, attends: Sequence[Any]) -> None:
        spec = self.spec
        # Two videos, so that a mix-up of batch rows shows.
        size = 3, 2, frames * spec.tokens, spec.heads, spec.head_dim
        for layer in range(spec.layers):
            draw = torch.Generator().manual_seed(next(self.seeds))
            q, k, v = torch.randn(size, generator=draw, dtype=torch.float64)
            ours, oracle = (attend(layer, q, k, v) for attend in attends)
            error = (ours - oracle).abs().max().item()
            if not error < self.strategy.store.tolerance:
                raise CheckError(f"attention over the cache is off by {error:.1e} from one computed from scratch.")
