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
from rollout.text import Json

__all__ = ["FARTHEST", "TABLES", "Average", "Entry", "Pair", "RawKeys", "Store", "blend", "runs"]

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
class Entry:
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

    def to_dict(self) -> Json:
        """As JSON: of the copy only its kind."""
        return {
            "row": self.row,
            "turn": self.turn,
            "raw": isinstance(self.copy, RawKeys),
            "exact": isinstance(self.copy, Average),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Entry":
        """From JSON, its copy still empty. Raises KeyError, TypeError, ValueError."""
        turn = None if data["turn"] is None else index(data["turn"])
        raw = RawKeys([]) if data["raw"] else None
        copy = Average([]) if data["exact"] else raw
        if (turn is None and copy is None) or abs(turn or 0) > FARTHEST:
            raise ValueError(f"a slot's keys are at the index {turn}")
        return cls(index(data["row"]), turn, copy)


class Store:
    """`keys` and `values` (B, window, h*w, heads, D) a layer, allocated once; which row holds which slot a Entry says."""

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

    def extra_bytes(self, entries: Iterable[Entry]) -> int:
        """Bytes of these slots' copies."""
        copies = [layer for slot in entries if slot.copy is not None for layer in slot.copy.layers]
        tensors = [t for copy in copies for t in (copy if isinstance(copy, tuple) else (copy,))]
        return sum(t.numel() * t.element_size() for t in tensors)

    def put(
        self, layer: int, k: Tensor, v: Tensor, turns: Tensor, stretches: list[tuple[slice, slice]], rows: Tensor
    ) -> None:
        """Write a block's keys, rotated by `turns`, and values (B, F*h*w, heads, D) to its rows; in stretches where eager."""
        keys, values = self.keys[layer], self.values[layer]
        if torch.compiler.is_compiling():  # rows change from block to block: as a tensor they recompile nothing
            shape = (len(k), -1, *keys.shape[2:])
            keys.index_copy_(1, rows, rotate(k, turns).to(keys.dtype).view(shape))
            values.index_copy_(1, rows, v.to(values.dtype).reshape(shape))
            return
        for place, part in stretches:
            rotate(k[:, part], turns[part], out=keys[:, place].flatten(1, 2))
            values[:, place].flatten(1, 2).copy_(v[:, part])
        self.rotated += 2 * k.numel() * k.element_size()

    def read(self, layer: int, count: int) -> Pair:
        """The rotated keys and the values of the first `count` rows, (B, count*h*w, heads, D)."""
        return self.keys[layer][:, :count].flatten(1, 2), self.values[layer][:, :count].flatten(1, 2)

    def raw(self, layer: int, entry: Entry) -> Pair:
        """A slot's raw keys and values in float32 or better; keys without a copy are turned back."""
        if isinstance(entry.copy, Average):
            return entry.copy.layers[layer]
        values = self.values[layer][:, entry.row].to(self.exact)
        if entry.copy is not None:
            return entry.copy.layers[layer].to(self.exact), values
        assert entry.turn is not None
        back = self.table([entry.turn]).conj()
        return self.rotate(self.keys[layer][:, entry.row].to(self.exact), back), values

    def mix(
        self,
        mixtures: Mapping[int, Row],
        old: Sequence[Entry],
        stay: Iterable[Entry],
        memory: set[int],
        pooled: set[int],
    ) -> dict[int, Entry]:
        """New slots as weighted sums of old ones, in rows that those which `stay` leave; `memory` in full precision.

        Their rotated keys wait for their next index. A memory that comes of another is averaged in its place.
        """
        free = iter(set(range(self.window)) - {entry.row for entry in stay})
        fresh: dict[int, Entry] = {}
        for i, row in mixtures.items():
            # Averaged in place a memory allocates nothing; two new slots must not write to the same tensors.
            before = old[row[0][0]].copy
            in_place = isinstance(before, Average) and all(before is not entry.copy for entry in fresh.values())
            average = before if in_place and before is not None else Average([])
            fresh[i] = Entry(next(free), None, average if i in memory else RawKeys([]))
        for layer in range(self.spec.layers):
            read = {source: self.raw(layer, old[source]) for row in mixtures.values() for source, _ in row}
            sums = {i: blend(row, read, i in pooled) for i, row in mixtures.items()}
            for i, pair in sums.items():
                self._set(layer, fresh[i], pair)
        return fresh

    def _set(self, layer: int, entry: Entry, pair: Pair) -> None:
        """Write a blended slot's values and copy."""
        self.values[layer][:, entry.row] = pair[1]
        if isinstance(entry.copy, RawKeys):
            entry.copy.layers.append(pair[0].to(self.dtype).contiguous())
        elif isinstance(entry.copy, Average) and layer < len(entry.copy.layers):
            for average, new in zip(entry.copy.layers[layer], pair, strict=True):
                average.copy_(new)
        elif isinstance(entry.copy, Average):
            entry.copy.layers.append((pair[0].contiguous(), pair[1].contiguous()))

    def keep(self, row: int, turn: int, raw_keys: Sequence[Tensor], natural: int, *, lasting: bool) -> Entry:
        """Hold a new frame whose keys were written at `turn`: with a copy where it is pinned, else at its `natural` index.

        `raw_keys`: (B, h*w, heads, D) a layer, where either is needed.
        """
        if lasting:
            return Entry(row, turn, RawKeys([part.to(self.dtype, copy=True) for part in raw_keys]))
        if turn != natural:
            turns = self.table([natural])
            for keys, part in zip(self.keys, raw_keys, strict=True):
                self.rotate(part.to(self.dtype), turns, out=keys[:, row])
        return Entry(row, natural)

    def state(self, entries: Sequence[Entry]) -> tuple[list[Json], dict[str, Tensor]]:
        """All that these slots need, as JSON and by name: keys, values (layers, B, slots, h*w, heads, D), copies."""
        rows = [slot.row for slot in entries]
        tensors_by_name = {
            name: torch.stack([layer[:, rows].cpu() for layer in buffer])
            for name, buffer in (("keys", self.keys), ("values", self.values))
        }
        for i, slot in enumerate(entries):
            if isinstance(slot.copy, RawKeys):
                tensors_by_name[f"raw.{i}"] = torch.stack([keys.cpu() for keys in slot.copy.layers])
            elif isinstance(slot.copy, Average):
                tensors_by_name[f"exact.{i}"] = torch.stack([torch.stack(pair).cpu() for pair in slot.copy.layers])
        return [slot.to_dict() for slot in entries], tensors_by_name

    def restore(self, slots: Sequence[Mapping[str, Any]], saved_tensors: Mapping[str, Tensor]) -> list[Entry]:
        """The way back. Raises ValueError, KeyError or TypeError."""
        entries = [Entry.from_dict(slot) for slot in slots]
        batch, window, *rest = self.keys[0].shape
        rows = [slot.row for slot in entries]
        if len(set(rows)) < len(rows) or any(not 0 <= row < window for row in rows):
            raise ValueError("its rows do not fit the window")

        def read(name: str, size: Sequence[int], dtype: torch.dtype) -> Tensor:
            tensor = saved_tensors[name]
            if list(tensor.shape) != list(size) or tensor.dtype != dtype:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {tuple(size)}")
            return tensor.to(self.device)

        for name, buffer in (("keys", self.keys), ("values", self.values)):
            tensors = read(name, [len(buffer), batch, len(rows), *rest], self.dtype)
            for layer, tensor in zip(buffer, tensors, strict=True):
                layer[:, rows] = tensor
        for i, slot in enumerate(entries):
            if isinstance(slot.copy, RawKeys):
                slot.copy.layers = list(read(f"raw.{i}", [len(self.keys), batch, *rest], self.dtype))
            elif isinstance(slot.copy, Average):
                pairs = read(f"exact.{i}", [len(self.keys), 2, batch, *rest], self.exact)
                slot.copy.layers = [(pair[0], pair[1]) for pair in pairs]
        return entries

    def resized(self, window: int, entries: Sequence[Entry]) -> "Store":
        """A store for another window, with these slots, which move where they must."""
        self.gather(entries, len(entries))
        new = Store(self.spec, window, self.batch, self.dtype, self.device)
        new.rotated = self.rotated
        for old, fresh in zip((*self.keys, *self.values), (*new.keys, *new.values), strict=True):
            fresh[:, : len(entries)] = old[:, : len(entries)]
        return new

    def exchange(self, entries: Iterable[Entry], order: Sequence[int]) -> None:
        """Put the batch rows of these slots into another order, copies included."""
        for slot in entries:
            for buffer in (*self.keys, *self.values):
                buffer[:, slot.row] = buffer[order, slot.row]
            if isinstance(slot.copy, RawKeys):
                slot.copy.layers = [keys[order] for keys in slot.copy.layers]
            elif isinstance(slot.copy, Average):
                slot.copy.layers = [(keys[order], values[order]) for keys, values in slot.copy.layers]

    def gather(self, entries: Sequence[Entry], count: int) -> list[int]:
        """Move slots that lie beyond the first `count` rows into holes before them; the rows of these that stay free."""
        occupied_rows = {slot.row for slot in entries}
        holes = iter([row for row in range(count) if row not in occupied_rows])
        for slot in entries:
            if slot.row >= count:  # attention reads one slice of rows, without holes
                hole = next(holes)
                for buffer in (*self.keys, *self.values):
                    buffer[:, hole] = buffer[:, slot.row]
                slot.row = hole
        return list(holes)

    def turn(self, entry: Entry, turn: int) -> None:
        """Rotate a slot's keys to another index, from its copy; one that has none is turned back once to have it."""
        if entry.turn == turn:
            return
        if entry.copy is None:  # once, since a thousand turns in place would add their errors up (13% in bfloat16)
            entry.copy = RawKeys([self.raw(layer, entry)[0].to(self.dtype) for layer in range(self.spec.layers)])
        turns = self.table([turn])
        for layer, keys in enumerate(self.keys):
            raw = entry.copy.layers[layer]
            self.rotate(raw[0] if isinstance(raw, tuple) else raw, turns, out=keys[:, entry.row])
        entry.turn = turn

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
    stretches: list[tuple[slice, slice]] = []
    for n, row in enumerate(rows):
        part = slice(n * tokens, (n + 1) * tokens)
        if stretches and stretches[-1][0].stop == row:
            stretches[-1] = slice(stretches[-1][0].start, row + 1), slice(stretches[-1][1].start, part.stop)
        else:
            stretches.append((slice(row, row + 1), part))
    return stretches
