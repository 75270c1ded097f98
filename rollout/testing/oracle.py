"""The cache as simply as it can be written: everything that was ever written, and weights over it. The oracle of KVCache."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Attend, Spec
from rollout.errors import CacheError
from rollout.rope import rotate, table
from rollout.slots import Edit, Placement, Slot, in_order

__all__ = ["Mixture", "OracleCache", "Pair"]

Pair = tuple[Tensor, Tensor]
"""Raw keys and values (B, h*w, heads, D)."""
Mixture = dict[tuple[int, bool], float]
"""A slot: weights over (number of a written frame, whether it is averaged over its tokens)."""


class OracleCache:
    """Raw keys and values of every frame, never dropped; a slot is a mixture of them, computed anew for every call."""

    def __init__(self, spec: Spec, window: int, batch: int = 1, *, dtype: torch.dtype = torch.float64) -> None:
        self.spec, self.window, self.dtype = spec, window, dtype
        self.bytes = self.rotated = self.extra_bytes = 0
        self.slots: tuple[Slot, ...] = ()
        self._written: list[list[Pair]] = []
        self._mixtures: list[Mixture] = []
        self._staged: dict[int, Pair] = {}

    def raw(self, slot: int, layer: int) -> Pair:
        """A slot's keys, not rotated, and values (B, h*w, heads, D)."""
        keys, values = [], []
        for (number, pooled), weight in self._mixtures[slot].items():
            pair = self._written[number][layer]
            k, v = (x.mean(1, keepdim=True).expand_as(x) for x in pair) if pooled else pair
            keys.append(k * weight)
            values.append(v * weight)
        return torch.stack(keys).sum(0), torch.stack(values).sum(0)

    def apply(self, edit: Edit) -> None:
        """Replace the slots by weighted sums of them. Raises CacheError."""
        edit.check(len(self.slots))
        if len(edit.slots) > self.window:
            raise CacheError(f"an edit of {len(edit.slots)} slots does not fit a window of {self.window}.")
        mixtures: list[Mixture] = []
        for i, row in enumerate(edit.rows):
            mixture: Mixture = {}
            for old, share in row:
                for (number, pooled), weight in self._mixtures[old].items():
                    # Pooled once, a frame stays pooled: later edits average it as it is.
                    source = number, pooled or i in edit.pooled
                    mixture[source] = mixture.get(source, 0.0) + share * weight
            mixtures.append(mixture)
        self.slots, self._mixtures = edit.slots, mixtures

    def reader(self, placement: Placement) -> Attend:
        """Attention over the slots and the block's own frames."""
        return self._attend(placement, write=False)

    def writer(self, placement: Placement, slots: Sequence[Slot] | None = None) -> Attend:
        """As the reader; what it sees is what `commit` stores."""
        self._staged = {}
        return self._attend(placement, write=True)

    def _attend(self, placement: Placement, *, write: bool) -> Attend:
        if len(placement.slots) != len(self.slots):
            raise CacheError(f"a placement of {len(placement.slots)} slots does not fit the cache's {len(self.slots)}.")

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            past = [self.raw(slot, layer) for slot in range(len(self.slots))]
            keys = [self.turned(key, [index]) for (key, _), index in zip(past, placement.slots, strict=True)]
            keys, values = [*keys, self.turned(k, placement.block)], [*(value for _, value in past), v]
            if write:
                self._staged[layer] = k, v
            parts = self.turned(q, placement.block), torch.cat(keys, 1), torch.cat(values, 1)
            q, k, v = (part.transpose(1, 2) for part in parts)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

        return attend

    def turned(self, x: Tensor, frames: Sequence[int]) -> Tensor:
        """Rotate whole frames (B, F*h*w, heads, D) to temporal indices."""
        spec = self.spec
        return rotate(x, table(frames, spec.grid, spec.axes, theta=spec.theta, device=x.device, dtype=self.dtype))

    def commit(self, slots: Sequence[Slot]) -> None:
        """Make slots of the frames that the last writer saw. Raises CacheError."""
        together = self.slots + tuple(slots)
        if in_order(together) != together or len(together) > self.window:
            raise CacheError(f"{len(slots)} slots do not follow {len(self.slots)} in a window of {self.window}.")
        tokens = self.spec.tokens
        for n in range(len(slots)):
            part = slice(n * tokens, (n + 1) * tokens)
            layers = [self._staged[layer] for layer in range(self.spec.layers)]
            self._mixtures.append({(len(self._written), False): 1.0})
            self._written.append([(k[:, part], v[:, part]) for k, v in layers])
        self.slots = together

    def fail(self, why: str) -> None:
        """A replay that stopped half-way. Raises CacheError."""
        raise CacheError(f"the oracle cache is unusable: {why}.")
