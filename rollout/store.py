"""Store: the one owner of a cache's tensors. The cache decides what happens to which slot; the store moves bytes.

In every layer rows of rotated keys and of values, and beside them copies of what is rotated again: raw keys, in the
cache's dtype, or a memory's keys and values in float32, in which it is averaged (a rate of 0.01 stalls in bf16).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Spec
from rollout.rope import rotate, table
from rollout.slots import Row

__all__ = ["FARTHEST", "TABLES", "Average", "Held", "Pair", "RawKeys", "Store", "blend", "runs"]

Pair = tuple[Tensor, Tensor]
"""Keys and values."""
TABLES = 8
"""Tables of turns that are held: those of a block's frames, sinks, memory and evicted frames."""

FARTHEST = 2**40
"""Indices beyond are damage."""


@dataclass(eq=False)
class RawKeys:
    """A copy of a slot's keys (B, h*w, heads, D) a layer, not rotated, in the cache's dtype."""

    layers: list[Tensor]


@dataclass(eq=False)
class Average:
    """A memory's keys and values a layer, not rotated, in float32 or better."""

    layers: list[Pair]


@dataclass(eq=False)
class Held:
    """What the store holds of one slot: its row, the index at which the keys there are rotated, and its copy.

    Without a copy the keys can only be turned back. `turn` is None where the rotated keys are still owed, from the copy.
    """

    row: int
    turn: int | None
    copy: RawKeys | Average | None = None

    @property
    def averaged(self) -> bool:
        """A memory, in full precision."""
        return isinstance(self.copy, Average)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: of the copy only its kind."""
        return {
            "row": self.row,
            "turn": self.turn,
            "raw": isinstance(self.copy, RawKeys),
            "exact": isinstance(self.copy, Average),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Held":
        """From JSON, its copy still empty. Raises KeyError, TypeError, ValueError."""
        turn = None if data["turn"] is None else index(data["turn"])
        copy = Average([]) if data["exact"] else RawKeys([]) if data["raw"] else None
        if (turn is None and copy is None) or abs(turn or 0) > FARTHEST:
            raise ValueError(f"a slot's keys are at the index {turn}")
        return cls(index(data["row"]), turn, copy)


class Store:
    """`keys` and `values` (B, window, h*w, heads, D) a layer, allocated once; which row holds which slot a Held says."""

    def __init__(self, spec: Spec, window: int, batch: int, dtype: torch.dtype, device: torch.device | str) -> None:
        size = (batch, window, spec.tokens, spec.heads, spec.head_dim)
        self.spec, self.window, self.batch, self.dtype, self.device = spec, window, batch, dtype, device
        self.exact = torch.promote_types(dtype, torch.float32)
        self.keys = [torch.zeros(size, dtype=dtype, device=device) for _ in range(spec.layers)]
        self.values = [torch.zeros(size, dtype=dtype, device=device) for _ in range(spec.layers)]
        self._tables: dict[tuple[int, ...], Tensor] = {}
        self.rotated = 0
        """Bytes that were rotated so far."""

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def extra_bytes(self, held: Iterable[Held]) -> int:
        """Bytes of these slots' copies."""
        copies = [layer for slot in held if slot.copy is not None for layer in slot.copy.layers]
        tensors = [t for copy in copies for t in (copy if isinstance(copy, tuple) else (copy,))]
        return sum(t.numel() * t.element_size() for t in tensors)

    def put(
        self, layer: int, k: Tensor, v: Tensor, own: Tensor, stretches: list[tuple[slice, slice]], rows: Tensor
    ) -> None:
        """Write a block's keys, rotated by `own`, and values (B, F*h*w, heads, D) to its rows; in stretches where eager."""
        keys, values = self.keys[layer], self.values[layer]
        if torch.compiler.is_compiling():  # rows change from block to block: as a tensor they recompile nothing
            shape = (len(k), -1, *keys.shape[2:])
            keys.index_copy_(1, rows, rotate(k, own).to(keys.dtype).view(shape))
            values.index_copy_(1, rows, v.to(values.dtype).reshape(shape))
            return
        for place, part in stretches:
            rotate(k[:, part], own[part], out=keys[:, place].flatten(1, 2))
            values[:, place].flatten(1, 2).copy_(v[:, part])
        self.rotated += 2 * k.numel() * k.element_size()

    def read(self, layer: int, used: int) -> Pair:
        """The rotated keys and the values of the first `used` rows, (B, used*h*w, heads, D)."""
        return self.keys[layer][:, :used].flatten(1, 2), self.values[layer][:, :used].flatten(1, 2)

    def raw(self, layer: int, held: Held) -> Pair:
        """A slot's raw keys and values in float32 or better; keys without a copy are turned back."""
        if isinstance(held.copy, Average):
            return held.copy.layers[layer]
        values = self.values[layer][:, held.row].to(self.exact)
        if held.copy is not None:
            return held.copy.layers[layer].to(self.exact), values
        assert held.turn is not None
        back = self.table([held.turn]).conj()
        return self.rotate(self.keys[layer][:, held.row].to(self.exact), back), values

    def mix(
        self, mixtures: Mapping[int, Row], old: Sequence[Held], stay: Iterable[Held], memory: set[int], pooled: set[int]
    ) -> dict[int, Held]:
        """New slots as weighted sums of old ones, in rows that those which `stay` leave; `memory` in full precision.

        Their rotated keys wait for their next index. A memory that comes of another is averaged in its place.
        """
        free = iter(set(range(self.window)) - {held.row for held in stay})
        fresh: dict[int, Held] = {}
        for i, row in mixtures.items():
            before = old[row[0][0]].copy
            inherited = isinstance(before, Average) and all(before is not held.copy for held in fresh.values())
            average = before if inherited and before is not None else Average([])
            fresh[i] = Held(next(free), None, average if i in memory else RawKeys([]))
        for layer in range(self.spec.layers):
            read = {source: self.raw(layer, old[source]) for row in mixtures.values() for source, _ in row}
            sums = {i: blend(row, read, i in pooled) for i, row in mixtures.items()}
            for i, pair in sums.items():
                self._set(layer, fresh[i], pair)
        return fresh

    def _set(self, layer: int, held: Held, pair: Pair) -> None:
        """Write a blended slot's values and copy."""
        self.values[layer][:, held.row] = pair[1]
        if isinstance(held.copy, RawKeys):
            held.copy.layers.append(pair[0].to(self.dtype).contiguous())
        elif isinstance(held.copy, Average) and layer < len(held.copy.layers):
            for average, new in zip(held.copy.layers[layer], pair, strict=True):
                average.copy_(new)
        elif isinstance(held.copy, Average):
            held.copy.layers.append((pair[0].contiguous(), pair[1].contiguous()))

    def keep(self, row: int, turn: int, staged: Sequence[Tensor], natural: int, *, pinned: bool) -> Held:
        """Hold a new frame whose keys were written at `turn`: with a copy where it is pinned, else at its `natural` index.

        `staged`: its raw keys (B, h*w, heads, D) a layer, where either is needed.
        """
        if pinned:
            return Held(row, turn, RawKeys([part.to(self.dtype, copy=True) for part in staged]))
        if turn != natural:
            turns = self.table([natural])
            for keys, part in zip(self.keys, staged, strict=True):
                self.rotate(part.to(self.dtype), turns, out=keys[:, row])
        return Held(row, natural)

    def state(self, held: Sequence[Held]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """All that these slots need, as JSON and by name: keys, values (layers, B, slots, h*w, heads, D), copies."""
        rows = [slot.row for slot in held]
        packed = {
            name: torch.stack([layer[:, rows].cpu() for layer in stored])
            for name, stored in (("keys", self.keys), ("values", self.values))
        }
        for i, slot in enumerate(held):
            if isinstance(slot.copy, RawKeys):
                packed[f"raw.{i}"] = torch.stack([keys.cpu() for keys in slot.copy.layers])
            elif isinstance(slot.copy, Average):
                packed[f"exact.{i}"] = torch.stack([torch.stack(pair).cpu() for pair in slot.copy.layers])
        return [slot.to_dict() for slot in held], packed

    def restore(self, slots: Sequence[Mapping[str, Any]], packed: Mapping[str, Tensor]) -> list[Held]:
        """The way back. Raises ValueError, KeyError or TypeError."""
        held = [Held.from_dict(slot) for slot in slots]
        batch, window, *rest = self.keys[0].shape
        rows = [slot.row for slot in held]
        if len(set(rows)) < len(rows) or any(not 0 <= row < window for row in rows):
            raise ValueError("its rows do not fit the window")

        def read(name: str, size: Sequence[int], dtype: torch.dtype) -> Tensor:
            tensor = packed[name]
            if list(tensor.shape) != list(size) or tensor.dtype != dtype:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {tuple(size)}")
            return tensor.to(self.device)

        for name, stored in (("keys", self.keys), ("values", self.values)):
            tensors = read(name, [len(stored), batch, len(rows), *rest], self.dtype)
            for layer, tensor in zip(stored, tensors, strict=True):
                layer[:, rows] = tensor
        for i, slot in enumerate(held):
            if isinstance(slot.copy, RawKeys):
                slot.copy.layers = list(read(f"raw.{i}", [len(self.keys), batch, *rest], self.dtype))
            elif isinstance(slot.copy, Average):
                pairs = read(f"exact.{i}", [len(self.keys), 2, batch, *rest], self.exact)
                slot.copy.layers = [(pair[0], pair[1]) for pair in pairs]
        return held

    def resized(self, window: int, held: Sequence[Held]) -> "Store":
        """A store for another window, with these slots, which move where they must."""
        self.gather(held, len(held))
        new = Store(self.spec, window, self.batch, self.dtype, self.device)
        new.rotated = self.rotated
        for old, fresh in zip((*self.keys, *self.values), (*new.keys, *new.values), strict=True):
            fresh[:, : len(held)] = old[:, : len(held)]
        return new

    def exchange(self, held: Iterable[Held], order: Sequence[int]) -> None:
        """Put the batch rows of these slots into another order, copies included."""
        for slot in held:
            for stored in (*self.keys, *self.values):
                stored[:, slot.row] = stored[order, slot.row]
            if isinstance(slot.copy, RawKeys):
                slot.copy.layers = [keys[order] for keys in slot.copy.layers]
            elif isinstance(slot.copy, Average):
                slot.copy.layers = [(keys[order], values[order]) for keys, values in slot.copy.layers]

    def gather(self, held: Sequence[Held], used: int) -> list[int]:
        """Move slots that lie beyond the first `used` rows into holes before them; the rows of these that stay free."""
        taken = {slot.row for slot in held}
        holes = iter([row for row in range(used) if row not in taken])
        for slot in held:
            if slot.row >= used:
                hole = next(holes)
                for stored in (*self.keys, *self.values):
                    stored[:, hole] = stored[:, slot.row]
                slot.row = hole
        return list(holes)

    def turn(self, held: Held, turn: int) -> None:
        """Rotate a slot's keys to another index, from its copy; one that has none is turned back once to have it."""
        if held.turn == turn:
            return
        if held.copy is None:
            held.copy = RawKeys([self.raw(layer, held)[0].to(self.dtype) for layer in range(self.spec.layers)])
        turns = self.table([turn])
        for layer, keys in enumerate(self.keys):
            raw = held.copy.layers[layer]
            self.rotate(raw[0] if isinstance(raw, tuple) else raw, turns, out=keys[:, held.row])
        held.turn = turn

    def table(self, frames: Sequence[int]) -> Tensor:
        """The turns of whole frames; the last few are held, since every layer asks for the same."""
        key = tuple(frames)
        if key not in self._tables:
            spec = self.spec
            while len(self._tables) >= TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = table(
                frames, spec.grid, spec.axes, theta=spec.theta, device=self.device, dtype=self.exact
            )
        return self._tables[key]

    def rotate(self, x: Tensor, turns: Tensor, *, out: Tensor | None = None) -> Tensor:
        """As rope.rotate, counted."""
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
