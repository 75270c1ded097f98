"""The cache as simply as it can be written: raw keys in a list, all of them rotated for every call. The oracle of KVCache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Spec
from rollout.rope import rotate, table
from rollout.slots import Edit, Placement, Slot, in_order


class SimpleCache:
    """Slots and, for each, a (keys, values) pair a layer, raw."""

    def __init__(self, spec: Spec, window: int, batch: int = 1, *, dtype: torch.dtype = torch.float64) -> None:
        self.spec, self.window, self.dtype = spec, window, dtype
        self.bytes = self.rotated = self.extra_bytes = 0
        self.slots: tuple[Slot, ...] = ()
        self.frames: list[list[tuple[Tensor, Tensor]]] = []
        self.staged: dict[int, tuple[Tensor, Tensor]] = {}

    def raw(self, slot: int, layer: int) -> tuple[Tensor, Tensor]:
        return self.frames[slot][layer]

    def apply(self, edit: Edit) -> None:
        edit.check(len(self.slots))
        assert len(edit.slots) <= self.window
        new = []
        for i, row in enumerate(edit.rows):
            pairs = []
            for layer in range(self.spec.layers):
                k, v = (sum(self.frames[old][layer][side] * weight for old, weight in row) for side in (0, 1))
                if i in edit.pooled:
                    k, v = (x.mean(1, keepdim=True).expand_as(x) for x in (k, v))
                pairs.append((k, v))
            new.append(pairs)
        self.slots, self.frames = edit.slots, new

    def reader(self, placement: Placement) -> Callable[..., Tensor]:
        return self._attend(placement, write=False)

    def writer(self, placement: Placement, slots: Sequence[Slot] | None = None) -> Callable[..., Tensor]:
        self.staged = {}
        return self._attend(placement, write=True)

    def _attend(self, placement: Placement, *, write: bool) -> Callable[..., Tensor]:
        assert len(placement.slots) == len(self.slots)

        def turned(x: Tensor, frames: Sequence[int]) -> Tensor:
            at = table(frames, self.spec.grid, self.spec.axes, theta=self.spec.theta, dtype=self.dtype)
            return rotate(x, at)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            past = [pairs[layer] for pairs in self.frames]
            keys = [turned(key, [index]) for (key, _), index in zip(past, placement.slots, strict=True)]
            keys, values = torch.cat([*keys, turned(k, placement.block)], 1), torch.cat([*(x for _, x in past), v], 1)
            if write:
                self.staged[layer] = k, v
            parts = (x.transpose(1, 2) for x in (turned(q, placement.block), keys, values))
            return F.scaled_dot_product_attention(*parts).transpose(1, 2)

        return attend

    def commit(self, slots: Sequence[Slot]) -> None:
        have = self.slots + tuple(slots)
        assert in_order(have) == have
        assert len(have) <= self.window
        tokens = self.spec.tokens
        for n, _ in enumerate(slots):
            part = slice(n * tokens, (n + 1) * tokens)
            self.frames.append([tuple(x[:, part] for x in self.staged[layer]) for layer in range(self.spec.layers)])
        self.slots = have

    def fail(self, why: str) -> None:
        raise AssertionError(why)
