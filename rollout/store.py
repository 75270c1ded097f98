"""Store: the one owner of a cache's tensors. The cache decides what happens to which slot; the store moves bytes.

In every layer rows of rotated keys and of values. A key's place in the picture is for ever, its time is not: its channels
of height and width are rotated once, and only those of time again when its slot is placed elsewhere. Beside the rows lie
copies of what is rotated again: a slot's time channels, not rotated, in the cache's dtype, or a memory's keys and values
in float32, in which it is averaged (a rate of 0.01 stalls in bf16).
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Spec
from rollout.coded import Buffer, Coded, pieces
from rollout.entries import Average, Entry, Pair, RawTimes, of_heads
from rollout.ranks import Ranks
from rollout.rope import angles_on, rotate, table
from rollout.slots import Mix
from rollout.split import HeadSplit
from rollout.text import Json

__all__ = ["TABLES", "Store", "runs"]

TABLES = 8
"""Tables of turns that are held: those of a block's frames, sinks, memory and evicted frames."""


class Store:
    """`keys` and `values` (B, rows, h*w, heads, D) a layer, allocated once; which row holds which slot a Entry says.

    `multipliers` (heads or 1, axes[0]) change the temporal frequencies; `heads` is their number by layer, where not all of
    the model's are here. `code`: the form of buffers that do not hold the model's own numbers.
    """

    def __init__(
        self,
        spec: Spec,
        rows: int,
        batch: int,
        dtype: torch.dtype,
        device: torch.device | str,
        multipliers: Tensor | None = None,
        heads: Sequence[int] | None = None,
        *,
        code: type[Coded] | None = None,
    ) -> None:
        self.code = code
        self.heads = tuple(heads or [spec.heads] * spec.layers)
        sizes = [(batch, rows, spec.tokens, count, spec.head_dim) for count in self.heads]
        self.spec, self.rows, self.batch, self.dtype, self.device = spec, rows, batch, dtype, device
        self.multipliers = None if multipliers is None else multipliers.to(angles_on(device))
        self.times = 2 * spec.axes[0]
        self.exact = torch.promote_types(dtype, torch.float32)
        space = spec.head_dim - self.times
        self.keys = [self._buffer(size, (self.times, space)) for size in sizes]
        self.values = [self._buffer(size, (spec.head_dim,)) for size in sizes]
        self._tables: dict[tuple[int, ...], Tensor] = {}
        self.rotated = 0
        """Bytes that were rotated so far."""

    def _buffer(self, size: tuple[int, ...], groups: tuple[int, ...]) -> Buffer:
        if self.code is None:
            return torch.zeros(size, dtype=self.dtype, device=self.device)
        return self.code(size, groups, self.dtype, self.device)

    def like(self, rows: int, heads: Sequence[int]) -> "Store":
        """An empty store of the same kind."""
        return Store(self.spec, rows, self.batch, self.dtype, self.device, self.multipliers, heads, code=self.code)

    @property
    def tensors(self) -> list[list[Tensor]]:
        """By layer what keys and values are held in, rows in dimension 1 and heads in dimension 3."""
        return [[*pieces(keys), *pieces(values)] for keys, values in zip(self.keys, self.values, strict=True)]

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(buffer.nbytes for buffer in (*self.keys, *self.values))

    def extra_bytes(self, entries: Iterable[Entry]) -> int:
        """Bytes of these slots' copies."""
        copies = [layer for slot in entries if slot.copy is not None for layer in slot.copy.layers]
        tensors = [t for copy in copies for t in (copy if isinstance(copy, tuple) else (copy,))]
        return sum(t.numel() * t.element_size() for t in tensors)

    def put(self, layer: int, k: Tensor, v: Tensor, turns: Tensor, stretches: Sequence[tuple[slice, slice]]) -> None:
        """Write a block's keys, rotated by `turns`, and values (B, F*h*w, heads, D) to its rows, stretch by stretch."""
        keys, values = self.keys[layer], self.values[layer]
        for place, part in stretches:
            shape = (len(k), place.stop - place.start, self.spec.tokens, *k.shape[2:])
            if isinstance(keys, Coded):
                keys[:, place] = rotate(k[:, part], turns[part]).view(shape)
            else:
                rotate(k[:, part], turns[part], out=keys[:, place].flatten(1, 2))
            values[:, place] = v[:, part].reshape(shape)
        self.rotated += 2 * k.numel() * k.element_size()

    def read(self, layer: int, rows: Sequence[slice]) -> Pair:
        """The rotated keys and the values of these rows, (B, rows*h*w, heads, D): a view of one slice, a copy of several."""
        keys, values = (
            [buffer[:, stretch].flatten(1, 2) for stretch in rows] for buffer in (self.keys[layer], self.values[layer])
        )
        return (keys[0], values[0]) if len(rows) == 1 else (torch.cat(keys, 1), torch.cat(values, 1))

    def raw(self, layer: int, entry: Entry) -> Pair:
        """A slot's raw keys and values (B, h*w, heads, D) in float32 or better."""
        keys, values = self.lifted(layer, entry)
        keys = keys.clone()
        keys[..., self.times :] = rotate(keys[..., self.times :], self._space().conj())
        return keys, values

    def lifted(self, layer: int, entry: Entry) -> Pair:
        """A slot's keys as if at index 0, rotated in space alone, and values, in float32 or better."""
        if isinstance(entry.copy, Average):
            return entry.copy.layers[layer]
        keys = self.keys[layer][:, entry.row].to(self.exact, copy=True)
        values = self.values[layer][:, entry.row].to(self.exact)
        if entry.copy is not None:
            keys[..., : self.times] = entry.copy.layers[layer]
        else:
            assert entry.turn is not None
            times = keys[..., : self.times]
            self.rotate(times, self.time(entry.turn).conj(), out=times)
        return keys, values

    def mix(
        self, mixtures: Mapping[int, Mix], old: Sequence[Entry], stay: Iterable[Entry], memory: set[int]
    ) -> dict[int, Entry]:
        """New slots as weighted sums of old ones, in rows that those which `stay` leave; `memory` in full precision.

        Their rotated keys wait for their next index. A memory that comes of another is averaged in its place.
        """
        free = iter(sorted(set(range(self.rows)) - {entry.row for entry in stay}))
        fresh: dict[int, Entry] = {}
        for i, row in mixtures.items():
            # Averaged in place a memory allocates nothing; two new slots must not write to the same tensors.
            before = old[row.sources[0]].copy
            in_place = isinstance(before, Average) and all(before is not entry.copy for entry in fresh.values())
            average = before if in_place and before is not None else Average([])
            fresh[i] = Entry(next(free), None, average if i in memory else RawTimes([]))
        for layer in range(self.spec.layers):
            read = {source: self.lifted(layer, old[source]) for row in mixtures.values() for source in row.sources}
            uses = Counter(source for row in mixtures.values() for source in row.sources)
            sums: dict[int, Pair] = {}
            for i, row in mixtures.items():
                # an average that no other row reads is summed where it lies, without a copy
                copy, alone = fresh[i].copy, uses[row.sources[0]] == 1
                lies_there = isinstance(copy, Average) and copy is old[row.sources[0]].copy
                sums[i] = self._blend(row, read, in_place=lies_there and alone and not row.pooled)
            for i, pair in sums.items():
                self._set(layer, fresh[i], pair)
        return fresh

    def _blend(self, row: Mix, read: Mapping[int, Pair], *, in_place: bool) -> Pair:
        """A weighted sum of slots' keys and values (B, h*w, heads, D), the keys rotated in space alone."""
        (first, share), *rest = row.weights
        keys, values = (x.mul_(share) if in_place else x * share for x in read[first])
        for old_slot, weight in rest:
            keys.add_(read[old_slot][0], alpha=weight)
            values.add_(read[old_slot][1], alpha=weight)
        if row.pooled:  # a mean over the picture is of keys that know no place in it
            space = self._space()
            keys[..., self.times :] = rotate(keys[..., self.times :], space.conj())
            keys, values = (x.mean(1, keepdim=True).expand_as(x).contiguous() for x in (keys, values))
            keys[..., self.times :] = rotate(keys[..., self.times :], space)
        return keys, values

    def _set(self, layer: int, entry: Entry, pair: Pair) -> None:
        """Write a blended slot's values, the channels of space, and its copy."""
        self.values[layer][:, entry.row] = pair[1]
        self.keys[layer][:, entry.row, ..., self.times :] = pair[0][..., self.times :]
        if isinstance(entry.copy, RawTimes):
            entry.copy.layers.append(pair[0][..., : self.times].to(self.dtype).contiguous())
        elif isinstance(entry.copy, Average) and layer < len(entry.copy.layers):
            for average, new in zip(entry.copy.layers[layer], pair, strict=True):
                if average is not new:
                    average.copy_(new)
        elif isinstance(entry.copy, Average):
            entry.copy.layers.append((pair[0].contiguous(), pair[1].contiguous()))

    def keep(self, row: int, turn: int, raw_times: Sequence[Tensor], natural: int, *, lasting: bool) -> Entry:
        """Hold a new frame whose keys were written at `turn`: with a copy where it is pinned, else at its `natural` index.

        `raw_times`: its keys' time channels (B, h*w, heads, 2 axes[0]) a layer, not rotated, where either is needed.
        """
        if lasting:
            return Entry(row, turn, RawTimes([part.clone(memory_format=torch.contiguous_format) for part in raw_times]))
        if turn != natural:
            for keys, part in zip(self.keys, raw_times, strict=True):
                self._turn(keys, row, part, natural)
        return Entry(row, natural)

    def split(self, ranks: Ranks | None) -> HeadSplit:
        """How the heads of each layer are spread over processes."""
        return HeadSplit.of(self.heads, ranks)

    def state(self, entries: Sequence[Entry], ranks: Ranks | None = None) -> tuple[list[Json], dict[str, Tensor]]:
        """All that these slots need, as JSON and by name: keys, values (layers, B, slots, h*w, heads, D), copies."""
        rows, split = [slot.row for slot in entries], self.split(ranks)
        tensors_by_name: dict[str, Tensor] = {}
        for name, buffers in (("keys", self.keys), ("values", self.values)):
            for part, layers in _by_part(name, buffers).items():
                tensors_by_name |= split.packed(part, [layer[:, rows] for layer in layers], 3)
        for i, slot in enumerate(entries):
            if slot.wins is not None:
                tensors_by_name |= split.packed_wins(f"wins.{i}", slot.wins)
            if isinstance(slot.copy, RawTimes):
                tensors_by_name |= split.packed(f"raw.{i}", slot.copy.layers, 2)
            elif isinstance(slot.copy, Average):
                tensors_by_name |= split.packed(f"exact.{i}", [torch.stack(pair) for pair in slot.copy.layers], 3)
        return [slot.to_dict() for slot in entries], tensors_by_name

    def restore(
        self,
        slots: Sequence[Mapping[str, Any]],
        saved_tensors: Mapping[str, Tensor],
        ranks: Ranks | None = None,
        *,
        raw_space: bool = False,
    ) -> list[Entry]:
        """The way back; `raw_space`: copies are of keys that were not rotated in space either, as they once were.

        Raises ValueError, KeyError or TypeError.
        """
        split = self.split(ranks)
        entries = [Entry.from_dict(slot) for slot in slots]
        batch, window, tokens, channels = self.batch, self.rows, self.spec.tokens, self.spec.head_dim
        rows = [slot.row for slot in entries]
        if len(set(rows)) < len(rows) or any(not 0 <= row < window for row in rows):
            raise ValueError("its rows do not fit the window")

        def read(name: str, size: Sequence[int], dtype: torch.dtype, width: int = channels) -> list[Tensor]:
            layers = split.unpacked(name, saved_tensors, (*size, 0, width), dtype, len(size))
            return [layer.to(self.device) for layer in layers]

        for name, buffers in (("keys", self.keys), ("values", self.values)):
            for part, layers in _by_part(name, buffers).items():
                size = (batch, len(rows), *layers[0].shape[2:])
                for layer, tensor in zip(
                    layers, split.unpacked(part, saved_tensors, size, layers[0].dtype, 3), strict=True
                ):
                    layer[:, rows] = tensor.to(layer.device)
        for i, slot in enumerate(entries):
            if slot.wins is not None:
                by_head = saved_tensors.get(f"wins.{i}", saved_tensors.get(f"wins.{i}/0"))
                one = by_head is not None and by_head.shape[-2] == 1
                wins = split.unpacked(f"wins.{i}", saved_tensors, (batch, 0, tokens), torch.int32, 1, shared=one)
                slot.wins = [layer.to(self.device) for layer in wins]
            if isinstance(slot.copy, RawTimes):
                copies = read(f"raw.{i}", [batch, tokens], self.dtype, channels if raw_space else self.times)
                slot.copy.layers = [copy[..., : self.times].contiguous() for copy in copies]
            elif isinstance(slot.copy, Average):
                pairs = read(f"exact.{i}", [2, batch, tokens], self.exact)
                if raw_space:
                    for pair in pairs:
                        pair[0][..., self.times :] = rotate(pair[0][..., self.times :], self._space())
                slot.copy.layers = [(pair[0], pair[1]) for pair in pairs]
        return entries

    def of_heads(self, heads: Sequence[Tensor], rows: int, entries: Sequence[Entry]) -> tuple["Store", list[Entry]]:
        """A store of some of the heads, by layer, with these slots; and their entries there."""
        self.gather(entries, len(entries))
        new, count = self.like(rows, [len(i) for i in heads]), len(entries)
        for layer, of_lane in enumerate(heads):
            for old, fresh in zip(self.tensors[layer], new.tensors[layer], strict=True):
                fresh[:, :count] = old[:, :count, :, of_lane]
        return new, [of_heads(entry, heads) for entry in entries]

    def resized(self, rows: int, entries: Sequence[Entry]) -> "Store":
        """A store of another size, with these slots, which move where they must."""
        self.gather(entries, len(entries))
        new = self.like(rows, self.heads)
        new.rotated = self.rotated
        for before, after in zip(self.tensors, new.tensors, strict=True):
            for old, fresh in zip(before, after, strict=True):
                fresh[:, : len(entries)] = old[:, : len(entries)]
        return new

    def exchange(self, entries: Iterable[Entry], order: Sequence[int]) -> None:
        """Put the batch rows of these slots into another order, copies included."""
        for slot in entries:
            for tensor in itertools.chain(*self.tensors):
                tensor[:, slot.row] = tensor[order, slot.row]
            if slot.wins is not None:
                slot.wins = [wins[order] for wins in slot.wins]
            if isinstance(slot.copy, RawTimes):
                slot.copy.layers = [times[order] for times in slot.copy.layers]
            elif isinstance(slot.copy, Average):
                slot.copy.layers = [(keys[order], values[order]) for keys, values in slot.copy.layers]

    def gather(self, entries: Sequence[Entry], count: int, behind: Sequence[Entry] = ()) -> list[int]:
        """Move slots that lie beyond the first `count` rows into holes before them; the rows of these that stay free.

        Those `behind` are not read, and make place where that saves attention a copy.
        """
        for source, hole in self.moves(entries, count, behind):
            self.move(source, hole, range(len(self.keys)))
        occupied_rows = {slot.row for slot in (*entries, *behind)}
        return [row for row in range(count) if row not in occupied_rows]

    def move(self, source: int, row: int, layers: Iterable[int]) -> None:
        """Copy a row to another one."""
        for layer in layers:
            for tensor in (*pieces(self.keys[layer]), *pieces(self.values[layer])):
                tensor[:, row] = tensor[:, source]

    def moves(self, entries: Sequence[Entry], count: int, behind: Sequence[Entry] = ()) -> list[tuple[int, int]]:
        """The moves (from row, to row), in order, after which the slots' rows are all below `count`; entries say so already."""
        occupied_rows = {slot.row for slot in (*entries, *behind)}
        free = [row for row in range(self.rows) if row not in occupied_rows]
        moves: list[tuple[int, int]] = []

        def move(slot: Entry, row: int) -> None:
            moves.append((slot.row, row))
            free.remove(row)
            free.append(slot.row)
            slot.row = row

        for slot in behind:  # what is not read makes place first
            outside = [row for row in free if row >= count]
            if slot.row < count and outside:
                move(slot, outside[0])
        for slot in entries:  # attention reads one slice of rows, without holes
            if slot.row >= count and min(free, default=count) < count:
                move(slot, min(free))
        return moves

    def turn(self, entry: Entry, turn: int) -> None:
        """Rotate a slot's keys to another index, from its copy; one that has none is turned back once to have it."""
        if entry.turn == turn:
            return
        if entry.copy is None:  # once, since a thousand turns in place would add their errors up (13% in bfloat16)
            layers = range(self.spec.layers)
            entry.copy = RawTimes([self.lifted(layer, entry)[0][..., : self.times].to(self.dtype) for layer in layers])
        for layer, keys in enumerate(self.keys):
            copy = entry.copy.layers[layer]
            self._turn(keys, entry.row, copy[0][..., : self.times] if isinstance(copy, tuple) else copy, turn)
        entry.turn = turn

    def _turn(self, keys: Buffer, row: int, times: Tensor, turn: int) -> None:
        """Write time channels, rotated to an index, to a row."""
        place = slice(None), row, ..., slice(self.times)
        if isinstance(keys, Coded):
            keys[place] = self.rotate(times, self.time(turn))
        else:
            self.rotate(times, self.time(turn), out=keys[place])

    def time(self, turn: int) -> Tensor:
        """The turns of the time channels at an index, (1, heads or 1, axes[0])."""
        return self.table([turn])[:1, ..., : self.spec.axes[0]]

    def _space(self) -> Tensor:
        """The turns of the channels of height and width, (h*w, heads or 1, their pairs)."""
        return self.table([0])[..., self.spec.axes[0] :]

    def table(self, frames: Sequence[int]) -> Tensor:
        """The turns of whole frames; the last few are held, since every layer asks for the same."""
        key = tuple(frames)
        if key not in self._tables:
            spec, exact = self.spec, self.exact
            while len(self._tables) >= TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = table(
                frames,
                spec.grid,
                spec.axes,
                theta=spec.theta,
                multipliers=self.multipliers,
                device=self.device,
                dtype=exact,
            )
        return self._tables[key]

    def rotate(self, x: Tensor, turns: Tensor, *, out: Tensor | None = None) -> Tensor:
        """As rope.rotate, counted."""
        self.rotated += x.numel() * x.element_size()
        return rotate(x, turns, out=out)


def _by_part(name: str, buffers: Sequence[Buffer]) -> dict[str, list[Tensor]]:
    """By name and layer the tensors that buffers hold."""
    parts = [buffer.parts if isinstance(buffer, Coded) else {"": buffer} for buffer in buffers]
    return {f"{name}.{part}" if part else name: [layer[part] for layer in parts] for part in parts[0]}


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
