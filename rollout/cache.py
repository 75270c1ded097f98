"""KVCache: the mechanism. It stores keys and values, executes edits and decides nothing.

Slots are global Python values; tensors are per layer, allocated once. A key is rotated once, when it is written, as far
from the other recent ones as their frame numbers are; queries carry the matching index. Rotary scores depend on
differences alone, and attention does not care in which order keys lie in memory, so a new block overwrites evicted
slots in place. Only slots whose distance to the others changes (sinks, memory, collapsed frames) are rotated again in
time, once a block, always from a raw copy and never from their last rotation, so that rounding never accumulates.
A pick waits until the next pass's queries come, layer by layer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Attend, Attention, Spec
from rollout.devices import staged
from rollout.entries import Entry, Pair
from rollout.errors import CacheError
from rollout.facts import HEADS, QUERIES, head_masses, measure
from rollout.picks import Debt, owe
from rollout.ranks import Ranks
from rollout.refinements import StoreRule
from rollout.rope import rotate
from rollout.slots import Edit, Mix, Role, Slot, View, in_order
from rollout.store import Store, runs
from rollout.text import Json

__all__ = ["KVCache", "Observer", "Watch", "kv_bytes"]

Watch = Callable[[int, Tensor, Tensor], None]
"""(layer, q, keys) as attention gets them, rotated, (B, heads, tokens, D); keys row by row."""
Observer = Callable[[Sequence[int]], Watch]
"""Asked once a reader for what to call in its passes, with the rows of the slots that are read, then of its own frames."""


def kv_bytes(spec: Spec, window: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of `window` frames in every layer."""
    return 2 * spec.layers * batch * window * spec.tokens * spec.heads * spec.head_dim * dtype.itemsize


class _Lease:
    """What a reader holds: `over` once the cache has changed."""

    over = False


@dataclass
class _Plan:
    """A view made ready: the indices at which the pass's frames are rotated, and the rows that they take."""

    view: View
    turns: list[int]
    own: Tensor
    rows: list[int]
    runs: list[tuple[slice, slice]]
    """Stretches of rows, and of the block's tokens that go there."""
    read: list[slice]
    """Stretches of the rows of the slots that are read and of the pass's own frames."""
    order: list[int]
    """The same rows, in the order in which attention gets their keys."""
    by_frame: list[int]
    """The same rows, in the order of slots and own frames."""
    bias: Tensor | None


class KVCache:
    """Keys and values of at most `window` frames in every layer, of constant size.

    `ahead`: frames of later blocks that passes see beside it and that nothing keeps. `needs`: what is measured, by the
    names of facts. `multipliers` (heads or 1, axes[0]) change the temporal frequencies. `store` says in which form keys and
    values are kept; `heads` is their number by layer, where not all of the model's are here: `ranks` are the processes that
    have the others.
    """

    def __init__(
        self,
        spec: Spec,
        window: int,
        batch: int = 1,
        *,
        ahead: int = 0,
        needs: Iterable[str] = (),
        multipliers: Tensor | None = None,
        store: StoreRule | None = None,
        heads: Sequence[int] | None = None,
        ranks: Ranks | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: Attention = F.scaled_dot_product_attention,
    ) -> None:
        self.spec, self.window, self.device, self.dtype, self.attention = spec, window, device, dtype, attention
        self.ahead, self.needs, self.ranks = ahead, tuple(needs), ranks
        self.observer: Observer | None = None
        self.slots: tuple[Slot, ...] = ()
        self._entries: list[Entry] = []
        new = Store if store is None else store.new
        self._store: Store = new(spec, window + ahead, batch, dtype, device, multipliers, heads)
        self._prepared: _Plan | None = None
        self._lease = _Lease()
        self._writing: _Plan | None = None
        self._staged: dict[int, Tensor | None] = {}
        """Time channels of the clean pass's keys (B, F*h*w, heads, 2 axes[0]), not rotated, a layer, where they are needed."""
        self._debt: Debt | None = None
        """Picks that wait for queries."""
        self._queries: dict[int, Tensor] = {}
        """Of the last clean pass, rotated, (B, F*h*w, heads, D) a layer, where they are needed."""
        self._measures: dict[int, dict[str, Tensor]] = {}
        self.masses: dict[int, Tensor] = {}
        """Of the last clean pass, where they are needed: the share of attention (heads, frames) a layer, own frames last."""
        self._written: set[int] = set()
        """Layers that the clean pass has written."""
        self._broken = ""

    @property
    def bytes(self) -> int:
        """Bytes of the window's keys and values, whatever their number of slots."""
        return self._store.bytes

    @property
    def rotated(self) -> int:
        """Bytes of queries and keys that were rotated so far."""
        return self._store.rotated

    @property
    def extra_bytes(self) -> int:
        """Bytes of the raw copies: keys of sinks and collapsed frames; keys and values of memory, in float32."""
        return self._store.extra_bytes(self._entries)

    def raw(self, slot: int, layer: int) -> Pair:
        """A slot's keys, not rotated, and values (B, h*w, heads, D), in float32 or better."""
        return self._store.raw(layer, self._entries[slot])

    @property
    def facts(self) -> dict[str, tuple[float, ...]]:
        """What was measured, one number a slot; 0 for a slot that was not there."""
        names = [name for name in self.needs if name not in (QUERIES, HEADS)]
        return {name: tuple(entry.facts.get(name, 0.0) for entry in self._entries) for name in names}

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """Everything that later blocks depend on, as JSON and as tensors on the CPU. Raises CacheError.

        Of several processes that of the first has the heads of all.
        """
        self._usable()
        if self._debt is not None:
            raise CacheError(
                "the cache waits for the queries of its next pass to pick tokens. Roll out that block first."
            )
        entries, tensors = self._store.state(self._entries, self.ranks)
        slots = [slot.to_dict() | place for slot, place in zip(self.slots, entries, strict=True)]
        split = self._store.split(self.ranks)
        tensors |= {f"queries.{n}": split.collected(n, queries, 2) for n, queries in self._queries.items()}
        tensors |= {f"masses.{layer}": masses.cpu() for layer, masses in self.masses.items()}
        return {"slots": slots, "rotated": self._store.rotated, "space": True}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, bit for bit; of several processes each takes its own heads.

        Raises ValueError, KeyError or TypeError where it is not whole.
        """
        slots_data = state["slots"]
        slots = tuple(Slot.from_dict(data) for data in slots_data)
        if in_order(slots) != slots or any(not 0 <= slot.frame < 2**53 for slot in slots):
            raise ValueError("its slots are out of order")
        self.reset()
        # states of the first edition hold raw keys, not rotated in space
        entries = self._store.restore(slots_data, tensors, self.ranks, raw_space="space" not in state)
        self._store.rotated = int(state["rotated"])
        if "queries.0" in tensors:
            split = self._store.split(self.ranks)
            self._queries = {
                n: split.part(n, tensors[f"queries.{n}"], 2).to(self.device) for n in range(self.spec.layers)
            }
        if "masses.0" in tensors:
            self.masses = {n: tensors[f"masses.{n}"].to(self.device) for n in range(self.spec.layers)}
        self._changed(slots, entries)

    def resize(self, window: int, ahead: int = 0) -> None:
        """Give the cache another window; its slots stay. Raises CacheError where they do not fit."""
        self._usable()
        if len(self.slots) > window:
            raise CacheError(f"{len(self.slots)} slots do not fit a window of {window}. Make room first.")
        with self._all_or_none("a change of the window"):
            self._store = self._store.resized(window + ahead, self._entries)
        self.window, self.ahead = window, ahead
        self._changed(self.slots, self._entries)

    def of_heads(self, heads: Sequence[Tensor], window: int, needs: Iterable[str]) -> "KVCache":
        """A cache of some of the heads, by layer, with the same slots."""
        self._usable()
        lane = KVCache(
            self.spec,
            window,
            self._store.batch,
            ahead=self.ahead,
            needs=needs,
            multipliers=self._store.multipliers,
            heads=[len(index) for index in heads],
            ranks=self.ranks,
            dtype=self.dtype,
            device=self.device,
            attention=self.attention,
        )
        lane._store, entries = self._store.of_heads(heads, max(window, len(self.slots)) + self.ahead, self._entries)
        lane._changed(self.slots, entries)
        return lane

    def apply(self, edit: Edit) -> None:
        """Replace the slots by weighted sums of them; all layers or none. Raises CacheError.

        A slot that stays is not touched: only blended ones are computed and written.
        """
        self._usable()
        edit.check(len(self.slots))
        # a lane begins with the slots of all heads, which may be more than it will hold: a switch comes before room is made
        if len(edit.slots) > max(self.window, len(self.slots)):
            raise CacheError(f"an edit of {len(edit.slots)} slots does not fit a window of {self.window}.")
        if self._debt is not None:
            raise CacheError(
                "the cache waits for the queries of its next pass to pick tokens. Roll out that block first."
            )
        debt = owe(edit, self._entries, self.ranks)
        stay = [self._stays(edit, i) for i in range(len(edit.slots))]
        for i, entry in enumerate(stay):
            if entry is not None and any(entry is earlier for earlier in stay[:i]):
                stay[i] = None  # the same slot twice: the second is a copy
        if edit.slots == self.slots and all(a is b for a, b in zip(stay, self._entries, strict=True)):
            return
        mixtures = {i: row for i, row in enumerate(edit.rows) if isinstance(row, Mix) and stay[i] is None}
        memory = {i for i, row in mixtures.items() if edit.slots[i].role is Role.MEMORY}
        stays = [entry for entry in stay if entry is not None]
        with self._all_or_none("an edit"):
            # a pick's candidates stay where they are until its queries come
            candidates = [self._entries[i] for i in _candidates(edit)]
            fresh = self._store.mix(mixtures, self._entries, [*stays, *candidates], memory)
        new = debt.entries if debt is not None else {}
        self._changed(edit.slots, [stay[i] or fresh.get(i) or new[i] for i in range(len(stay))])
        self._debt = debt

    def exchange(self, slots: Iterable[int], a: int = 0, b: int = 1) -> None:
        """Let the batch rows `a` and `b` of these slots change places; all layers or none. Raises CacheError."""
        self._usable()
        order = list(range(self._store.batch))
        if self._debt is not None:
            raise CacheError(
                "the cache waits for the queries of its next pass to pick tokens. Roll out that block first."
            )
        order[a], order[b] = order[b], order[a]
        with self._all_or_none("an exchange of batch rows"):
            self._store.exchange([self._entries[i] for i in slots], order)
        self._changed(self.slots, self._entries)

    def _stays(self, edit: Edit, i: int) -> Entry | None:
        """What a new slot takes over as it is, None where it must be computed."""
        row = edit.rows[i]
        if not isinstance(row, Mix) or len(row.weights) > 1 or row.weights[0][1] != 1.0 or row.pooled:
            return None
        return self._entries[row.sources[0]]

    def reader(self, view: View) -> Attend:
        """Attention over the cached slots that are read and the pass's own frames; no slot is written."""
        plan = self._plan(view, sort=True)
        watch = self.observer and self.observer([plan.order.index(row) for row in plan.by_frame])
        return self._attend(plan, write=False, stage=False, watch=watch)

    def writer(self, view: View, slots: Sequence[Slot] | None = None) -> Attend:
        """As the reader, for the clean pass whose keys and values `commit` stores.

        `slots`, those that will be committed, tell whether raw keys are held until then; they are where it is not said.
        """
        plan = self._plan(view)
        stage = slots is None or any(s.role is not Role.RECENT for s in slots)
        stage = stage or plan.turns != self._natural(plan, slots or ())
        self._staged, self._writing = dict.fromkeys(range(self.spec.layers)), plan
        self._written.clear()
        return self._attend(plan, write=True, stage=stage)

    def _attend(self, plan: _Plan, *, write: bool, stage: bool, watch: Watch | None = None) -> Attend:
        lease, turns, stretches, bias = self._lease, plan.own, plan.runs, plan.bias
        store, needs = self._store, self.needs if write else ()
        # a reader's frames lie where the writer's do: once it has run the clean pass is missing again
        mark = self._written.add if write else self._written.discard

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if lease.over:
                raise CacheError("the cache has changed since this reader was made. Make a new one for each block.")
            if q.shape[2] == 0:  # a lane that has no head in this layer
                if self._debt is not None:  # nothing to pick; other processes, which may have heads, wait for this one
                    self._settle(layer, q)
                if QUERIES in needs:
                    self._queries[layer] = q.detach()
                self._staged[layer] = k[..., : store.times]
                mark(layer)
                return v
            q = rotate(q, turns)
            if self._debt is not None:
                self._settle(layer, q)
            store.put(layer, k, v, turns, stretches)
            mark(layer)
            if stage:  # a copy: a compiled model's next operator may lie where k does
                self._staged[layer] = k[..., : store.times].detach().to(self.dtype, copy=True)
            if QUERIES in needs:
                self._queries[layer] = q.detach()
            q, keys, values = (x.to(v.dtype).transpose(1, 2) for x in (q, *store.read(layer, plan.read)))
            if watch is not None:
                watch(layer, q, keys)
            for name in needs:
                if name == HEADS:
                    by_row = head_masses(q, keys, self.spec.tokens)
                    by_row = by_row if self.ranks is None else self.ranks.join(by_row, 0)
                    self.masses[layer] = torch.stack([by_row[:, plan.order.index(row)] for row in plan.by_frame], 1)
                elif name != QUERIES:
                    seen = (q, keys) if self.ranks is None else (self.ranks.join(q, 1), self.ranks.join(keys, 1))
                    self._measures.setdefault(layer, {})[name] = measure(name, *seen, bias, self.spec.tokens)
            if bias is None:
                return self.attention(q, keys, values).transpose(1, 2)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias.to(q.dtype)).transpose(1, 2)

        return attend

    def _settle(self, layer: int, q: Tensor) -> None:
        """Pick a layer's tokens, now that queries (B, F*h*w, heads, D), rotated, have come."""
        debt = self._debt
        assert debt is not None
        if layer in debt.settled:
            return
        with self._all_or_none("a pick"):
            debt.settle(self._store, layer, q, self._queries.get(layer), self.ranks)
        if len(debt.settled) == self.spec.layers:
            self._debt = None

    def commit(self, slots: Sequence[Slot]) -> None:
        """Make slots of the frames that the clean pass wrote; all layers or none. Raises CacheError."""
        self._usable()
        missing = [layer for layer in range(self.spec.layers) if layer not in self._written]
        if missing or self._writing is None:
            first = missing[0] if missing else 0
            raise CacheError(f"the clean pass missed layer {first} of {self.spec.layers}; nothing was committed.")
        plan, frames = self._writing, len(self._writing.rows)
        if frames != len(slots):
            raise CacheError(f"{len(slots)} slots were admitted for a clean pass of [{frames}] frames.")
        have = self.slots + tuple(slots)
        if in_order(have) != have:
            raise CacheError(
                "the admitted slots belong before slots that are cached: sinks come first, recent frames last."
            )
        natural = self._natural(plan, slots)
        # the clean pass wrote all layers before this: from here on nothing of the model can fail
        with self._all_or_none("a commit"):
            fresh = [self._admit(plan, n, slot, natural[n]) for n, slot in enumerate(slots)]
        self._note(plan, self._entries + fresh)
        self._changed(have, self._entries + fresh)

    def _note(self, plan: _Plan, entries: Sequence[Entry]) -> None:
        """Write down what the clean pass measured of the slots and of the new ones, as the mean over layers."""
        for name in self.needs:
            if name not in (QUERIES, HEADS) and self._measures:
                numbers = torch.stack([layer[name] for layer in self._measures.values()]).mean(0).tolist()
                if self.ranks is not None:  # policies decide by them, in every process the same
                    numbers = self.ranks.share(numbers)
                by_row = dict(zip(plan.order, numbers, strict=True))
                for entry in entries:
                    entry.facts[name] = by_row.get(entry.row, 0.0)
        self._measures = {}

    def _natural(self, plan: _Plan, slots: Sequence[Slot]) -> list[int]:
        """The indices at which new frames are stored: as far from the newest recent frame as their numbers are.

        After a cut they differ from those at which the block was seen.
        """
        # only differences of indices count: keys stored a frame apart stay right for every later block without a turn
        recent = [(s.time, h.turn) for s, h in zip(self.slots, self._entries, strict=True) if s.role is Role.RECENT]
        frame, turn = recent[-1] if recent else (slots[-1].time, plan.turns[len(slots) - 1])
        assert turn is not None
        return [turn + slot.time - frame for slot in slots]

    def _admit(self, plan: _Plan, n: int, slot: Slot, natural: int) -> Entry:
        """Hold the block's nth frame, its keys at `natural`, or with a raw copy where it is no recent frame."""
        part = slice(n * self.spec.tokens, (n + 1) * self.spec.tokens)
        times = [k[:, part] for k in self._staged.values() if k is not None]
        lasting = slot.role is not Role.RECENT
        return self._store.keep(plan.rows[n], plan.turns[n], times, natural, lasting=lasting)

    def _plan(self, view: View, *, sort: bool = False) -> _Plan:
        """Once a view: bring the rows in use together, and rotate again what has moved against the others.

        `sort`: rows that are not read make place for those that are, so that attention reads one slice; a clean pass copies
        instead, since the next noisy one would bring them back.
        """
        self._usable()
        if len(view.slots) != len(self.slots) or len(view.bias) not in (0, len(self.slots)):
            raise CacheError(
                f"a view of {len(view.slots)} slots and {len(view.bias)} biases does not fit the cache's {len(self.slots)}."
            )
        if self._prepared is not None and self._prepared.view == view:
            return self._prepared
        if len(self.slots) + len(view.block) > self.window + self.ahead:
            count = len(self.slots) + len(view.block)
            raise CacheError(f"{count} frames do not fit a window of {self.window + self.ahead}. Make room first.")
        shift = self._shift(view)
        turns = [index + shift for index in view.block]
        read = [self._entries[i] for i in view.read]
        behind = [entry for i, entry in enumerate(self._entries) if view.slots[i] is None]
        if self._debt is not None and self._debt.moves:
            raise CacheError(
                "the cache waits for the queries of another view to pick tokens. Read with that one first."
            )
        with self._all_or_none("a view"):
            # turned where they lie, before rows move: candidates of a pick must not be written over
            for i, entry in zip(view.read, read, strict=True):  # most stay: turn does nothing then
                self._turn(entry, int(view.slots[i] or 0) + shift)
            rows = self._rows(read, behind, len(view.block), sort=sort)
        order = sorted([*(entry.row for entry in read), *rows])
        reads = [stretch for stretch, _ in runs(order, self.spec.tokens)]
        block_turns, stretches = self._store.table(turns), runs(rows, self.spec.tokens)
        by_frame = [*(entry.row for entry in read), *rows]
        self._prepared = _Plan(
            view, turns, block_turns, rows, stretches, reads, order, by_frame, self._bias(view, order)
        )
        return self._prepared

    def _rows(self, read: Sequence[Entry], behind: Sequence[Entry], own: int, *, sort: bool) -> list[int]:
        """Rows for a pass's own frames, those that attention reads brought together where `sort` says so or all are read."""
        count = len(read) + own
        if sort or not behind:
            if self._debt is None:
                rows = self._store.gather(read, count, behind)
            else:  # the moves wait too, since candidates lie in rows that picks leave
                rows = self._debt.gather(self._store, read, count, behind)
            if len(rows) >= own:
                return rows[:own]
        occupied_rows = {entry.row for entry in (*read, *behind)}
        return [row for row in range(self._store.rows) if row not in occupied_rows][:own]

    def _turn(self, entry: Entry, turn: int) -> None:
        """Have a slot's keys at an index; those of a pick come there when it is settled."""
        if self._debt is not None and entry in self._debt:
            entry.turn = turn
        else:
            self._store.turn(entry, turn)

    def _bias(self, view: View, order: Sequence[int]) -> Tensor | None:
        """What is added to the logits (1, 1, 1, keys), in the order of rows; None for nothing."""
        if not any(view.bias):
            return None
        by_row = {self._entries[i].row: view.bias[i] for i in view.read}
        numbers = staged(torch.tensor([by_row.get(row, 0.0) for row in order]), self.device)
        return numbers.repeat_interleave(self.spec.tokens)[None, None, None]

    def _shift(self, view: View) -> int:
        """What to add to a view's indices so that most recent frames' keys stay as they are."""
        # Scores depend on differences alone: all indices may be shifted so that most stored keys need no rotation.
        recent = [
            (entry.copy is None, entry.turn - index)
            for slot, entry, index in zip(self.slots, self._entries, view.slots, strict=True)
            if slot.role is Role.RECENT and entry.turn is not None and index is not None
        ]
        # slots that have no raw copy would lose precision when turned back, so they decide; of equals the newest
        moves = [move for still, move in recent if still] or [move for _, move in recent]
        return Counter(reversed(moves)).most_common(1)[0][0] if moves else 0

    def reset(self) -> None:
        """Forget everything; a cache that was marked unusable can be used again."""
        self._broken, self._debt, self._queries, self.masses = "", None, {}, {}
        self._changed((), [])

    def fail(self, why: str) -> None:
        """Mark the cache unusable until `reset`: something was interrupted half-way."""
        self._broken = why

    @contextmanager
    def _all_or_none(self, action: str) -> Iterator[None]:
        """Mark the cache unusable where a write to some layers only is left behind."""
        try:
            yield
        except BaseException:
            self.fail(f"{action} stopped half-way")
            raise

    def _usable(self) -> None:
        if self._broken:
            raise CacheError(f"the cache is unusable: {self._broken}. Reset it and start again.")

    def _changed(self, slots: tuple[Slot, ...], entries: list[Entry]) -> None:
        self.slots, self._entries = slots, entries
        self._lease.over = True
        self._lease, self._prepared, self._writing, self._staged = _Lease(), None, None, {}
        self._written.clear()


def _candidates(edit: Edit) -> list[int]:
    """The old slots that picks choose from."""
    return sorted({i for row in edit.rows if not isinstance(row, Mix) for i in row.sources})
