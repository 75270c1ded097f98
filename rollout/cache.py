"""KVCache: the mechanism. It stores raw keys and values, executes edits and decides nothing.

Slots are global Python values; tensors are per layer. Keys are kept unrotated and turned to their placement once a
block, always from the raw copy, so that rounding never accumulates.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Attend, Spec
from rollout.errors import CacheError
from rollout.rope import Table, rotate, table
from rollout.slots import Edit, Placement, Role, Row, Slot, in_order

Pair = tuple[Tensor, Tensor]
"""Keys and values, (B, slots, h*w, heads, D)."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Plain attention over (B, heads, tokens, D)."""


def kv_bytes(spec: Spec, window: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of `window` frames in every layer."""
    return 2 * spec.layers * batch * window * spec.tokens * spec.heads * spec.head_dim * dtype.itemsize


class KVCache:
    """Keys and values of at most `window` frames in every layer, of constant size.

    Memory slots keep a float32 copy beside the working one, in which they are averaged: a rate of 0.01
    stalls in bf16.
    """

    def __init__(
        self,
        spec: Spec,
        window: int,
        batch: int = 1,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: Attention = F.scaled_dot_product_attention,
    ) -> None:
        size = (batch, window, spec.tokens, spec.heads, spec.head_dim)
        self.spec, self.window, self.device, self.attention = spec, window, device, attention
        self.slots: tuple[Slot, ...] = ()
        self._store: list[Pair] = [
            (torch.zeros(size, dtype=dtype, device=device), torch.zeros(size, dtype=dtype, device=device))
            for _ in range(spec.layers)
        ]
        self._exact: dict[int, list[Pair]] = {}
        self._staged: dict[int, Pair] = {}
        self._placed: tuple[Placement, Table, Table, dict[int, Tensor]] | None = None
        self._version = 0
        self._broken = ""
        self.rotated = 0
        """Bytes of queries and keys that were rotated so far."""

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values that are held, whatever their number of slots."""
        return sum(t.numel() * t.element_size() for pair in self._store for t in pair)

    def apply(self, edit: Edit) -> None:
        """Replace the slots by weighted sums of them; all layers or none. Raises CacheError."""
        self._usable()
        edit.check(len(self.slots))
        if len(edit.slots) > self.window:
            raise CacheError(f"an edit of {len(edit.slots)} slots does not fit a window of {self.window}.")
        if edit.slots == self.slots and all(row == ((i, 1.0),) for i, row in enumerate(edit.rows)) and not edit.pooled:
            return
        blended = {
            i
            for i, row in enumerate(edit.rows)
            if len(row) > 1 or i in edit.pooled or edit.slots[i].role is Role.MEMORY
        }
        exact = {
            i: [self._blend(layer, edit.rows[i], i in edit.pooled) for layer in range(len(self._store))]
            for i in blended
        }
        rows = [row[0][0] for row in edit.rows]
        new: list[Pair] = []
        for layer, pair in enumerate(self._store):
            keys, values = (side[:, rows] for side in pair)
            for i in blended:
                keys[:, i], values[:, i] = exact[i][layer]
            new.append((keys, values))
        with self._all_or_none("an edit"):
            for pair, fresh in zip(self._store, new, strict=True):
                for stored, side in zip(pair, fresh, strict=True):
                    stored[:, : len(rows)] = side
        self._exact = {i: pairs for i, pairs in exact.items() if edit.slots[i].role is Role.MEMORY}
        self._changed(edit.slots)

    def _blend(self, layer: int, row: Row, pooled: bool) -> Pair:
        """A weighted sum of slots in float32 or better, keys and values (B, h*w, heads, D)."""
        exact = torch.promote_types(self._store[layer][0].dtype, torch.float32)
        sums = []
        for side in (0, 1):
            terms = [
                (self._exact[old][layer][side] if old in self._exact else self._store[layer][side][:, old].to(exact))
                * weight
                for old, weight in row
            ]
            total = torch.stack(terms).sum(0)
            sums.append(total.mean(1, keepdim=True).expand_as(total) if pooled else total)
        return sums[0], sums[1]

    def reader(self, placement: Placement) -> Attend:
        """Attention over the cached slots and the block's own frames; writes nothing."""
        return self._attend(placement, stage=False)

    def writer(self, placement: Placement) -> Attend:
        """As the reader, and stages the block's raw keys and values for `commit`."""
        self._staged = {}
        return self._attend(placement, stage=True)

    def _attend(self, placement: Placement, *, stage: bool) -> Attend:
        self._usable()
        if len(placement.slots) != len(self.slots):
            raise CacheError(f"a placement of {len(placement.slots)} slots does not fit the cache's {len(self.slots)}.")
        version, count = self._version, len(self.slots)
        own, past, held = self._tables(placement)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if version != self._version:
                raise CacheError("the cache has changed since this reader was made. Make a new one for each block.")
            if layer not in held and count:
                held[layer] = self._rotate(self._store[layer][0][:, :count].flatten(1, 2), past)
            keys, values = self._rotate(k, own), v
            if count:
                keys = torch.cat([held[layer], keys.to(held[layer].dtype)], 1)
                values = torch.cat([self._store[layer][1][:, :count].flatten(1, 2).to(v.dtype), v], 1)
            if stage:
                self._staged[layer] = (k.detach(), v.detach())
            q, keys, values = (x.to(v.dtype).transpose(1, 2) for x in (self._rotate(q, own), keys, values))
            return self.attention(q, keys, values).transpose(1, 2)

        return attend

    def _rotate(self, x: Tensor, turns: Table) -> Tensor:
        self.rotated += x.numel() * x.element_size()
        return rotate(x, turns)

    def _tables(self, placement: Placement) -> tuple[Table, Table, dict[int, Tensor]]:
        """The rotations of block and slots, and the rotated cached keys by layer, shared by all passes of a placement."""
        if self._placed is None or self._placed[0] != placement:
            spec = self.spec
            dtype = torch.promote_types(self._store[0][0].dtype, torch.float32)
            own, past = (
                table(frames, spec.grid, spec.axes, theta=spec.theta, device=self.device, dtype=dtype)
                for frames in (placement.block, placement.slots)
            )
            self._placed = (placement, own, past, {})
        return self._placed[1:]

    def commit(self, slots: Sequence[Slot]) -> None:
        """Store the staged frames under these slots; all layers or none. Raises CacheError."""
        self._usable()
        missing = [layer for layer in range(self.spec.layers) if layer not in self._staged]
        if missing:
            raise CacheError(f"the clean pass missed layer {missing[0]} of {self.spec.layers}; nothing was committed.")
        frames = {pair[0].shape[1] // self.spec.tokens for pair in self._staged.values()}
        if frames != {len(slots)}:
            raise CacheError(f"{len(slots)} slots were admitted for a clean pass of {sorted(frames)} frames.")
        if len(self.slots) + len(slots) > self.window:
            raise CacheError(
                f"{len(self.slots)} + {len(slots)} slots exceed the window of {self.window}. Make room first."
            )
        have = self.slots + tuple(slots)
        if in_order(have) != have:
            raise CacheError(
                "the admitted slots belong before slots that are cached: sinks come first, recent frames last."
            )
        fresh = [
            tuple(side.reshape(len(side), len(slots), self.spec.tokens, *side.shape[2:]) for side in self._staged[i])
            for i in range(self.spec.layers)
        ]
        with self._all_or_none("a commit"):
            for pair, sides in zip(self._store, fresh, strict=True):
                for stored, side in zip(pair, sides, strict=True):
                    stored[:, len(self.slots) : len(have)] = side
        self._changed(have)

    def reset(self) -> None:
        """Forget everything; a cache that was marked unusable can be used again."""
        self._broken, self._exact = "", {}
        self._changed(())

    def fail(self, why: str) -> None:
        """Mark the cache unusable until `reset`: something was interrupted half-way."""
        self._broken = why

    @contextmanager
    def _all_or_none(self, what: str) -> Iterator[None]:
        """Mark the cache unusable where a write to some layers only is left behind."""
        try:
            yield
        except BaseException:
            self.fail(f"{what} stopped half-way")
            raise

    def _usable(self) -> None:
        if self._broken:
            raise CacheError(f"the cache is unusable: {self._broken}. Reset it and start again.")

    def _changed(self, slots: tuple[Slot, ...]) -> None:
        self.slots, self._placed, self._staged = slots, None, {}
        self._version += 1
