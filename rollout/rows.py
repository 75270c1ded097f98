"""The cache's tensors: in every layer rows of rotated keys and of values, and raw copies of what is rotated again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Spec
from rollout.rope import rotate, table
from rollout.slots import Row

__all__ = ["FARTHEST", "TABLES", "Entry", "Pair", "Rows", "blend", "runs"]

Pair = tuple[Tensor, Tensor]
"""Keys and values."""
TABLES = 8
"""Tables of turns that are held: those of a block's frames, sinks, memory and evicted frames."""

FARTHEST = 2**40
"""Indices beyond are damage."""


@dataclass
class Entry:
    """Where a slot lies: its row in the buffers, the index at which its keys are rotated there, and its raw copies.

    `raw`: keys (B, h*w, heads, D) a layer, in the cache's dtype; `exact`: a memory's keys and values in float32, in which
    it is averaged (a rate of 0.01 stalls in bf16). `turn` is None until the keys have been written.
    """

    row: int
    turn: int | None
    raw: list[Tensor] | None = None
    exact: list[Pair] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the tensors only as whether they are there."""
        return {"row": self.row, "turn": self.turn, "raw": self.raw is not None, "exact": self.exact is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Entry":
        """From JSON, its tensors still empty. Raises KeyError, TypeError, ValueError."""
        turn = None if data["turn"] is None else index(data["turn"])
        if (turn is None and not data["raw"] and not data["exact"]) or abs(turn or 0) > FARTHEST:
            raise ValueError(f"a slot's keys are at the index {turn}")
        return cls(index(data["row"]), turn, [] if data["raw"] else None, [] if data["exact"] else None)


class Rows:
    """`keys` and `values` (B, window, h*w, heads, D) a layer, allocated once; which row holds which slot is an Entry's."""

    def __init__(self, spec: Spec, window: int, batch: int, dtype: torch.dtype, device: torch.device | str) -> None:
        size = (batch, window, spec.tokens, spec.heads, spec.head_dim)
        self.spec, self.dtype, self.device = spec, dtype, device
        self.keys = [torch.zeros(size, dtype=dtype, device=device) for _ in range(spec.layers)]
        self.values = [torch.zeros(size, dtype=dtype, device=device) for _ in range(spec.layers)]
        self._tables: dict[tuple[int, ...], Tensor] = {}
        self.rotated = 0
        """Bytes that were rotated so far."""

    @property
    def batch(self) -> int:
        """Videos that are rolled out together."""
        return len(self.keys[0])

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def exact(self, layer: int, entry: Entry) -> Pair:
        """A slot's raw keys and values in float32 or better; keys without a raw copy are turned back."""
        if entry.exact is not None:
            return entry.exact[layer]
        exact = torch.promote_types(self.dtype, torch.float32)
        values = self.values[layer][:, entry.row].to(exact)
        if entry.raw is not None:
            return entry.raw[layer].to(exact), values
        assert entry.turn is not None
        back = self.table([entry.turn]).conj()
        return self.rotate(self.keys[layer][:, entry.row].to(exact), back), values

    def put(self, layer: int, entry: Entry, pair: Pair) -> None:
        """Write a blended slot's values and raw keys; its rotated keys wait for their next index."""
        self.values[layer][:, entry.row] = pair[1]
        if entry.raw is not None:
            entry.raw.append(pair[0].to(self.dtype).contiguous())
        elif entry.exact is not None and layer < len(entry.exact):
            for kept, fresh in zip(entry.exact[layer], pair, strict=True):
                kept.copy_(fresh)
        elif entry.exact is not None:
            entry.exact.append((pair[0].contiguous(), pair[1].contiguous()))

    def admit(self, entry: Entry, staged: Sequence[Tensor], turn: int, *, pinned: bool) -> None:
        """Keep raw keys (B, h*w, heads, D) a layer of a new frame that is pinned, or turn one that was seen elsewhere."""
        if pinned:
            entry.raw = [part.to(self.dtype, copy=True) for part in staged]
            return
        turns = self.table([turn])
        for keys, part in zip(self.keys, staged, strict=True):
            self.rotate(part.to(self.dtype), turns, out=keys[:, entry.row])
        entry.turn = turn

    def pack(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """All that `entries` need, by name: keys and values (layers, B, slots, h*w, heads, D), raw and exact copies."""
        rows = [entry.row for entry in entries]
        packed = {
            name: torch.stack([layer[:, rows].cpu() for layer in stored])
            for name, stored in (("keys", self.keys), ("values", self.values))
        }
        for i, entry in enumerate(entries):
            if entry.raw is not None:
                packed[f"raw.{i}"] = torch.stack([keys.cpu() for keys in entry.raw])
            if entry.exact is not None:
                packed[f"exact.{i}"] = torch.stack([torch.stack(pair).cpu() for pair in entry.exact])
        return packed

    def unpack(self, entries: Sequence[Entry], packed: Mapping[str, Tensor]) -> None:
        """The way back: `entries` name their rows and whether they have copies. Raises ValueError or KeyError."""
        batch, window, *rest = self.keys[0].shape
        rows = [entry.row for entry in entries]
        if len(set(rows)) < len(rows) or any(not 0 <= row < window for row in rows):
            raise ValueError("its rows do not fit the window")

        def read(name: str, size: Sequence[int], dtype: torch.dtype) -> Tensor:
            tensor = packed[name]
            if list(tensor.shape) != list(size) or tensor.dtype != dtype:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {tuple(size)}")
            return tensor.to(self.device)

        for name, stored in (("keys", self.keys), ("values", self.values)):
            for layer, tensor in zip(
                stored, read(name, [len(stored), batch, len(rows), *rest], self.dtype), strict=True
            ):
                layer[:, rows] = tensor
        exact = torch.promote_types(self.dtype, torch.float32)
        for i, entry in enumerate(entries):
            if entry.raw is not None:
                entry.raw = list(read(f"raw.{i}", [len(self.keys), batch, *rest], self.dtype))
            if entry.exact is not None:
                pairs = read(f"exact.{i}", [len(self.keys), 2, batch, *rest], exact)
                entry.exact = [(pair[0], pair[1]) for pair in pairs]

    def resized(self, window: int, entries: Sequence[Entry]) -> "Rows":
        """Rows for another window, with those of `entries`, which move where they must."""
        self.gather(entries, len(entries))
        new = Rows(self.spec, window, len(self.keys[0]), self.dtype, self.device)
        new.rotated = self.rotated
        for old, fresh in zip((*self.keys, *self.values), (*new.keys, *new.values), strict=True):
            fresh[:, : len(entries)] = old[:, : len(entries)]
        return new

    def exchange(self, entries: Sequence[Entry], order: Sequence[int]) -> None:
        """Put the batch rows of these slots into another order, copies included."""
        for entry in entries:
            for stored in (*self.keys, *self.values):
                stored[:, entry.row] = stored[order, entry.row]
            if entry.raw is not None:
                entry.raw = [keys[order] for keys in entry.raw]
            if entry.exact is not None:
                entry.exact = [(keys[order], values[order]) for keys, values in entry.exact]

    def gather(self, entries: Sequence[Entry], used: int) -> None:
        """Move slots that lie beyond the first `used` rows into holes before them."""
        held = {entry.row for entry in entries}
        holes = iter(row for row in range(used) if row not in held)
        for entry in entries:
            if entry.row >= used:
                hole = next(holes)
                for stored in (*self.keys, *self.values):
                    stored[:, hole] = stored[:, entry.row]
                entry.row = hole

    def turn(self, entry: Entry, turn: int) -> None:
        """Rotate a slot's keys to another index, from its raw copy; one that has none is turned back once to have it."""
        if entry.turn == turn:
            return
        if entry.raw is None and entry.exact is None:
            entry.raw = [self.exact(layer, entry)[0].to(self.dtype) for layer in range(self.spec.layers)]
        turns = self.table([turn])
        for layer, keys in enumerate(self.keys):
            raw = entry.raw[layer] if entry.raw is not None else self.exact(layer, entry)[0]
            self.rotate(raw, turns, out=keys[:, entry.row])
        entry.turn = turn

    def table(self, frames: Sequence[int]) -> Tensor:
        """The turns of whole frames; the last few are held, since every layer asks for the same."""
        key = tuple(frames)
        if key not in self._tables:
            exact, spec = torch.promote_types(self.dtype, torch.float32), self.spec
            while len(self._tables) >= TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = table(frames, spec.grid, spec.axes, theta=spec.theta, device=self.device, dtype=exact)
        return self._tables[key]

    def rotate(self, x: Tensor, turns: Tensor, *, out: Tensor | None = None) -> Tensor:
        self.rotated += x.numel() * x.element_size()
        return rotate(x, turns, out=out)


def blend(row: Row, read: Mapping[int, Pair], pooled: bool) -> Pair:
    """A weighted sum of slots' raw keys and values (B, h*w, heads, D)."""
    (first, share), *rest = row
    sums = [x * share for x in read[first]]
    for old, weight in rest:
        for total, x in zip(sums, read[old], strict=True):
            total.add_(x, alpha=weight)
    keys, values = (x.mean(1, keepdim=True).expand_as(x) for x in sums) if pooled else sums
    return keys, values


def runs(rows: Sequence[int], tokens: int) -> list[tuple[slice, slice]]:
    """Consecutive rows as slices, each with the slice of the block's tokens that belongs there."""
    found: list[tuple[slice, slice]] = []
    for n, row in enumerate(rows):
        part = slice(n * tokens, (n + 1) * tokens)
        if found and found[-1][0].stop == row:
            found[-1] = slice(found[-1][0].start, row + 1), slice(found[-1][1].start, part.stop)
        else:
            found.append((slice(row, row + 1), part))
    return found
