"""KVCache: the mechanism. It stores keys and values, executes edits and decides nothing.

Slots are global Python values; tensors are per layer, allocated once. A key is rotated once, when it is written, as far
from the other recent ones as their frame numbers are; queries carry the matching index. Rotary scores depend on
differences alone, and attention does not care in which order keys lie in memory, so a new block overwrites evicted
slots in place. Only slots whose distance to the others changes (sinks, memory, collapsed frames) are rotated again,
once a block, always from a raw copy and never from their last rotation, so that rounding never accumulates.
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
from rollout.errors import CacheError
from rollout.rope import rotate
from rollout.slots import Edit, Placement, Role, Slot, in_order
from rollout.store import Entry, Pair, Store, runs
from rollout.text import Json

__all__ = ["KVCache", "Observer", "Watch", "kv_bytes"]

Watch = Callable[[int, Tensor, Tensor], None]
"""(layer, q, keys) as attention gets them, rotated, (B, heads, tokens, D); keys row by row."""
Observer = Callable[[Sequence[int]], Watch]
"""Asked once a reader for what to call in its passes, with the rows of the slots, then of the block's frames."""


def kv_bytes(spec: Spec, window: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of `window` frames in every layer."""
    return 2 * spec.layers * batch * window * spec.tokens * spec.heads * spec.head_dim * dtype.itemsize


class _Lease:
    """What a reader holds: `over` once the cache has changed."""

    over = False


@dataclass
class _Pass:
    """A placement made ready: the indices at which the block's frames are rotated, and the rows that they take."""

    placement: Placement
    turns: list[int]
    own: Tensor
    rows: list[int]
    runs: list[tuple[slice, slice]]
    """Stretches of rows, and of the block's tokens that go there."""
    used: int
    """Rows of slots and block."""
    index: Tensor


class KVCache:
    """Keys and values of at most `window` frames in every layer, of constant size."""

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
        self.spec, self.window, self.device, self.dtype, self.attention = spec, window, device, dtype, attention
        self.observer: Observer | None = None
        self.slots: tuple[Slot, ...] = ()
        self._entries: list[Entry] = []
        self._store = Store(spec, window, batch, dtype, device)
        self._prepared: _Pass | None = None
        self._lease = _Lease()
        self._writing: _Pass | None = None
        self._staged: dict[int, Tensor | None] = {}
        self._marks = torch.zeros(spec.layers, dtype=torch.bool)
        """Layers that the clean pass has written: a tensor, since a compiled block can set it, and NumPy's view of it."""
        self._marked = self._marks.numpy()
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

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """Everything that later blocks depend on, as JSON and as tensors on the CPU. Raises CacheError."""
        self._usable()
        entries, tensors = self._store.state(self._entries)
        slots = [
            {"role": slot.role.value, "frame": slot.frame, "block": slot.block, "scene": slot.scene} | place
            for slot, place in zip(self.slots, entries, strict=True)
        ]
        return {"slots": slots, "rotated": self._store.rotated}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, bit for bit. Raises ValueError, KeyError or TypeError where it is not whole."""
        slots_data = state["slots"]
        slots = tuple(
            Slot(Role(s["role"]), int(s["frame"]), int(s["block"]), int(s.get("scene", 0))) for s in slots_data
        )
        if in_order(slots) != slots or any(not 0 <= slot.frame < 2**53 for slot in slots):
            raise ValueError("its slots are out of order")
        self.reset()
        entries = self._store.restore(slots_data, tensors)
        self._store.rotated = int(state["rotated"])
        self._changed(slots, entries)

    def resize(self, window: int) -> None:
        """Give the cache another window; its slots stay. Raises CacheError where they do not fit."""
        self._usable()
        if len(self.slots) > window:
            raise CacheError(f"{len(self.slots)} slots do not fit a window of {window}. Make room first.")
        with self._all_or_none("a change of the window"):
            self._store = self._store.resized(window, self._entries)
        self.window = window
        self._changed(self.slots, self._entries)

    def apply(self, edit: Edit) -> None:
        """Replace the slots by weighted sums of them; all layers or none. Raises CacheError.

        A slot that stays is not touched: only blended ones are computed and written.
        """
        self._usable()
        edit.check(len(self.slots))
        if len(edit.slots) > self.window:
            raise CacheError(f"an edit of {len(edit.slots)} slots does not fit a window of {self.window}.")
        stay = [self._stays(edit, i) for i in range(len(edit.slots))]
        for i, entry in enumerate(stay):
            if any(entry is earlier for earlier in stay[:i]):
                stay[i] = None  # the same slot twice: the second is a copy
        if edit.slots == self.slots and all(a is b for a, b in zip(stay, self._entries, strict=True)):
            return
        mixtures = {i: edit.rows[i] for i, entry in enumerate(stay) if entry is None}
        memory = {i for i, slot in enumerate(edit.slots) if slot.role is Role.MEMORY}
        with self._all_or_none("an edit"):
            fresh = self._store.mix(mixtures, self._entries, filter(None, stay), memory, set(edit.pooled))
        self._changed(edit.slots, [entry or fresh[i] for i, entry in enumerate(stay)])

    def exchange(self, slots: Iterable[int], a: int = 0, b: int = 1) -> None:
        """Let the batch rows `a` and `b` of these slots change places; all layers or none. Raises CacheError."""
        self._usable()
        order = list(range(self._store.batch))
        order[a], order[b] = order[b], order[a]
        with self._all_or_none("an exchange of batch rows"):
            self._store.exchange([self._entries[i] for i in slots], order)
        self._changed(self.slots, self._entries)

    def _stays(self, edit: Edit, i: int) -> Entry | None:
        """What a new slot takes over as it is, None where it must be computed."""
        row = edit.rows[i]
        if len(row) > 1 or row[0][1] != 1.0 or i in edit.pooled:
            return None
        entry = self._entries[row[0][0]]
        return entry if entry.averaged == (edit.slots[i].role is Role.MEMORY) else None

    def reader(self, placement: Placement) -> Attend:
        """Attention over the cached slots and the block's own frames; no slot is written."""
        plan = self._plan(placement)
        watch = self.observer and self.observer([*(entry.row for entry in self._entries), *plan.rows])
        return self._attend(plan, write=False, stage=False, watch=watch)

    def writer(self, placement: Placement, slots: Sequence[Slot] | None = None) -> Attend:
        """As the reader, for the clean pass whose keys and values `commit` stores.

        `slots`, those that will be committed, tell whether raw keys are held until then; they are where it is not said.
        """
        plan = self._plan(placement)
        stage = slots is None or any(s.role is not Role.RECENT for s in slots)
        stage = stage or plan.turns != self._natural(plan, slots or ())
        self._staged, self._writing = dict.fromkeys(range(self.spec.layers)), plan
        self._marked[:] = False
        return self._attend(plan, write=True, stage=stage)

    def _attend(self, plan: _Pass, *, write: bool, stage: bool, watch: Watch | None = None) -> Attend:
        lease, turns, count, runs, index = self._lease, plan.own, plan.used, plan.runs, plan.index
        store = self._store

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if lease.over:
                raise CacheError("the cache has changed since this reader was made. Make a new one for each block.")
            store.put(layer, k, v, turns, runs, index)
            self._marks[layer] = write
            if stage:
                self._staged[layer] = k.detach()
            q, keys, values = (x.to(v.dtype).transpose(1, 2) for x in (rotate(q, turns), *store.read(layer, count)))
            if watch is not None:
                watch(layer, q, keys)
            return self.attention(q, keys, values).transpose(1, 2)

        return attend

    def commit(self, slots: Sequence[Slot]) -> None:
        """Make slots of the frames that the clean pass wrote; all layers or none. Raises CacheError."""
        self._usable()
        missing = [layer for layer, mark in enumerate(self._marked) if not mark]
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
        self._changed(have, self._entries + fresh)

    def _natural(self, plan: _Pass, slots: Sequence[Slot]) -> list[int]:
        """The indices at which new frames are stored: as far from the newest recent frame as their numbers are.

        After a cut they differ from those at which the block was seen.
        """
        # only differences of indices count: keys stored a frame apart stay right for every later block without a turn
        recent = [(s.frame, h.turn) for s, h in zip(self.slots, self._entries, strict=True) if s.role is Role.RECENT]
        frame, turn = recent[-1] if recent else (slots[-1].frame, plan.turns[-1])
        assert turn is not None
        return [turn + slot.frame - frame for slot in slots]

    def _admit(self, plan: _Pass, n: int, slot: Slot, natural: int) -> Entry:
        """Hold the block's nth frame, its keys at `natural`, or with a raw copy where it is no recent frame."""
        part = slice(n * self.spec.tokens, (n + 1) * self.spec.tokens)
        keys = [k[:, part] for k in self._staged.values() if k is not None]
        lasting = slot.role is not Role.RECENT
        return self._store.keep(plan.rows[n], plan.turns[n], keys, natural, lasting=lasting)

    def _plan(self, placement: Placement) -> _Pass:
        """Once a placement: bring the rows in use together, and rotate again what has moved against the others."""
        self._usable()
        if len(placement.slots) != len(self.slots):
            raise CacheError(f"a placement of {len(placement.slots)} slots does not fit the cache's {len(self.slots)}.")
        if self._prepared is not None and self._prepared.placement == placement:
            return self._prepared
        count = len(self.slots) + len(placement.block)
        if count > self.window:
            raise CacheError(f"{count} frames do not fit a window of {self.window}. Make room first.")
        shift = self._shift(placement)
        with self._all_or_none("a placement"):
            rows = self._store.gather(self._entries, count)
            for entry, index in zip(self._entries, placement.slots, strict=True):  # most stay: turn does nothing then
                self._store.turn(entry, index + shift)
        turns = [index + shift for index in placement.block]
        block_turns, stretches = self._store.table(turns), runs(rows, self.spec.tokens)
        where = torch.tensor(rows, device=self.device)
        self._prepared = _Pass(placement, turns, block_turns, rows, stretches, count, where)
        return self._prepared

    def _shift(self, placement: Placement) -> int:
        """What to add to a placement so that most recent frames' keys stay as they are."""
        # Scores depend on differences alone: all indices may be shifted so that most stored keys need no rotation.
        recent = [
            (entry.copy is None, entry.turn - index)
            for slot, entry, index in zip(self.slots, self._entries, placement.slots, strict=True)
            if slot.role is Role.RECENT and entry.turn is not None
        ]
        # slots that have no raw copy would lose precision when turned back, so they decide; of equals the newest
        moves = [move for still, move in recent if still] or [move for _, move in recent]
        return Counter(reversed(moves)).most_common(1)[0][0] if moves else 0

    def reset(self) -> None:
        """Forget everything; a cache that was marked unusable can be used again."""
        self._broken = ""
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
        self._marked[:] = False
