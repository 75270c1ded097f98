"""The cache as simply as it can be written: everything that was ever written, and weights over it. The oracle of KVCache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Attend, Spec
from rollout.errors import CacheError
from rollout.registry import find
from rollout.rope import rotate, table
from rollout.slots import Edit, Mix, Pick, Role, Slot, View, in_order

__all__ = ["Mixture", "OracleCache", "Tokens"]

Mixture = dict[tuple[int, bool], float]
"""A slot: weights over (number of a written frame, whether it is averaged over its tokens)."""


@dataclass
class Tokens:
    """One layer's tokens of a frame, or of a pick: raw keys and values (B, h*w, heads, D), and where each one belongs.

    All (B, h*w, heads): `cells`, its place in the picture; `offsets`, its temporal index less the slot's; `wins`, how often it
    was chosen.
    """

    keys: Tensor
    values: Tensor
    cells: Tensor
    offsets: Tensor
    wins: Tensor


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of several frames, one after the other."""
    fields = ("keys", "values", "cells", "offsets", "wins")
    return Tokens(*(torch.cat([getattr(part, field) for part in parts], 1) for field in fields))


@dataclass
class _Owed:
    """A pick that waits for queries: the written frames that its contest fills, and its candidates as they were."""

    pick: Pick
    numbers: list[int]
    candidates: list[Mixture]
    turns: list[int]


class OracleCache:
    """Raw keys and values of every frame, never dropped; a slot is a mixture of them, computed anew for every call."""

    def __init__(
        self,
        spec: Spec,
        window: int,
        batch: int = 1,
        *,
        multipliers: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.spec, self.window, self.dtype, self.multipliers = spec, window, dtype, multipliers
        self.bytes = self.rotated = self.extra_bytes = self.ahead = 0
        self.facts: dict[str, tuple[float, ...]] = {}
        self.masses: dict[int, Tensor] = {}
        self.slots: tuple[Slot, ...] = ()
        self._written: list[dict[int, Tokens]] = []
        self._mixtures: list[Mixture] = []
        self._turns: list[int] = []
        """Where every slot's keys last were, on an axis on which recent frames stay where they are."""
        self._owed: list[_Owed] = []
        self._staged: dict[int, Tokens] = {}
        self._queries: dict[int, Tensor] = {}
        self._own: list[int] = []
        self._tables: dict[tuple[int, ...], Tensor] = {}

    def tokens(self, mixture: Mixture, layer: int) -> Tokens:
        """What a mixture holds in a layer."""
        parts = [(self._written[number][layer], pooled, weight) for (number, pooled), weight in mixture.items()]
        first = parts[0][0]
        if len(parts) == 1 and not parts[0][1] and parts[0][2] == 1.0:
            return first
        keys, values = [], []
        for part, pooled, weight in parts:
            pair = part.keys, part.values
            k, v = (x.mean(1, keepdim=True).expand_as(x) for x in pair) if pooled else pair
            keys.append(k * weight)
            values.append(v * weight)
        return Tokens(torch.stack(keys).sum(0), torch.stack(values).sum(0), first.cells, first.offsets, first.wins)

    def raw(self, slot: int, layer: int) -> tuple[Tensor, Tensor]:
        """A slot's keys, not rotated, and values (B, h*w, heads, D)."""
        tokens = self.tokens(self._mixtures[slot], layer)
        return tokens.keys, tokens.values

    def apply(self, edit: Edit) -> None:
        """Replace the slots by weighted sums of them, or by picks, which wait. Raises CacheError."""
        edit.check(len(self.slots))
        if len(edit.slots) > self.window:
            raise CacheError(f"an edit of {len(edit.slots)} slots does not fit a window of {self.window}.")
        mixtures: list[Mixture] = []
        turns: list[int] = []
        contests: dict[tuple[object, ...], list[tuple[int, Pick]]] = {}
        for row in edit.rows:
            turns.append(self._turns[row.sources[0]])
            if isinstance(row, Mix):
                mixtures.append(self._mixed(row))
            else:
                number = len(self._written)
                self._written.append({})
                mixtures.append({(number, False): 1.0})
                contests.setdefault(row.contest, []).append((number, row))
        for members in contests.values():
            numbers = [number for number, _ in sorted(members, key=lambda member: member[1].part)]
            pick = members[0][1]
            self._owed.append(
                _Owed(pick, numbers, [self._mixtures[i] for i in pick.of], [self._turns[i] for i in pick.of])
            )
        self.slots, self._mixtures, self._turns = edit.slots, mixtures, turns

    def _mixed(self, row: Mix) -> Mixture:
        mixture: Mixture = {}
        for old, share in row.weights:
            for (number, pooled), weight in self._mixtures[old].items():
                # Pooled once, a frame stays pooled: later edits average it as it is.
                source = number, pooled or row.pooled
                mixture[source] = mixture.get(source, 0.0) + share * weight
        return mixture

    def reader(self, view: View) -> Attend:
        """Attention over the slots that are read and the pass's own frames."""
        return self._attend(view, write=False)

    def writer(self, view: View, slots: Sequence[Slot] | None = None) -> Attend:
        """As the reader; what it sees is what `commit` stores."""
        self._staged = {}
        return self._attend(view, write=True)

    def _attend(self, view: View, *, write: bool) -> Attend:
        if len(view.slots) != len(self.slots):
            raise CacheError(f"a view of {len(view.slots)} slots does not fit the cache's {len(self.slots)}.")
        # Recent frames stay where they are on the axis of turns, and everything else moves with them.
        recent = [i for i in view.read if self.slots[i].role is Role.RECENT]
        shift = self._turns[recent[-1]] - (view.slots[recent[-1]] or 0) if recent else 0
        block_turns = [index + shift for index in view.block]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            fresh = self._fresh(k, v)
            q = self.turned(Tokens(q, v, fresh.cells, fresh.offsets, fresh.wins), block_turns)
            self._settle(layer, q, view, shift)
            past = [self.tokens(self._mixtures[i], layer) for i in view.read]
            turns = [(view.slots[i] or 0) + shift for i in view.read]
            together = _joined([*past, fresh])
            keys = self.turned(together, [*turns, *block_turns])
            biases = [
                torch.full((part.keys.shape[1],), view.bias[i])
                for i, part in zip(view.read, past, strict=True)
                if view.bias
            ]
            if write:
                self._staged[layer], self._queries[layer], self._own = fresh, q, block_turns
            q, k, v = (side.transpose(1, 2) for side in (q, keys, together.values))
            mask = torch.cat([*biases, torch.zeros(q.shape[2])]).to(q.dtype)[None, None, None] if view.bias else None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

        for i in view.read:
            self._turns[i] = (view.slots[i] or 0) + shift
        return attend

    def _fresh(self, keys: Tensor, values: Tensor) -> Tokens:
        cells = torch.arange(keys.shape[1]).remainder(self.spec.tokens)[None, :, None].expand(keys.shape[:3])
        return Tokens(keys, values, cells, torch.zeros_like(cells), torch.zeros_like(cells))

    def _settle(self, layer: int, q: Tensor, view: View, shift: int) -> None:
        """Fill a layer's picks, one token after the other."""
        for debt in self._owed:
            if layer in self._written[debt.numbers[0]]:
                continue
            parts = [self.tokens(mixture, layer) for mixture in debt.candidates]
            keys = self.turned(_joined(parts), debt.turns)
            past = self._queries.get(layer)
            tokens = self.spec.tokens
            if debt.pick.past and past is not None:
                q = torch.cat([past[:, max(0, past.shape[1] - debt.pick.past * tokens) :], q], 1)
            scores = find("scores", debt.pick.by)(q, keys)
            wins = torch.cat([part.wins for part in parts], 1)
            for n, number in enumerate(debt.numbers):
                index = next(i for i, mixture in enumerate(self._mixtures) if mixture == {(number, False): 1.0})
                turn = (view.slots[index] or 0) + shift
                self._written[number][layer] = self._chosen(debt, parts, scores, wins, n, turn)

    def _chosen(
        self, debt: _Owed, parts: Sequence[Tokens], scores: Tensor, wins: Tensor, part: int, turn: int
    ) -> Tokens:
        """The tokens of one pick, found one by one for every video and head."""
        tokens, heads = self.spec.tokens, parts[0].keys.shape[2]
        fields: list[list[list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]]] = []
        for row in range(len(scores)):
            columns = []
            for head in range(heads):
                line = scores[row, head if scores.shape[1] > 1 else 0]
                candidates = [
                    i for i in range(len(line)) if debt.pick.reuse is None or int(wins[row, i, head]) < debt.pick.reuse
                ]
                others = [i for i in range(len(line)) if i not in candidates]
                best = sorted(candidates, key=lambda i: (-float(line[i]), i)) + others
                chosen = sorted(best[: len(debt.numbers) * tokens])[part * tokens : (part + 1) * tokens]
                columns.append([self._token(debt, parts, row, head, i, turn) for i in chosen])
            fields.append(columns)
        return Tokens(
            *(
                torch.stack([torch.stack([torch.stack([t[n] for t in column]) for column in row], 1) for row in fields])
                for n in range(5)
            )
        )

    def _token(
        self, owed: _Owed, parts: Sequence[Tokens], row: int, head: int, i: int, turn: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        part, token = parts[i // self.spec.tokens], i % self.spec.tokens
        offset = part.offsets[row, token, head]
        if owed.pick.dates == "own":
            offset = offset + owed.turns[i // self.spec.tokens] - turn
        values = part.keys[row, token, head], part.values[row, token, head], part.cells[row, token, head], offset
        return (*values, part.wins[row, token, head] + 1)

    def turned(self, part: Tokens, frames: Sequence[int]) -> Tensor:
        """Rotate tokens (B, F*h*w, heads, D) of whole frames to temporal indices, each at its own place."""
        tokens = self.spec.tokens
        times = torch.tensor(frames).repeat_interleave(tokens)[None, :, None] + part.offsets
        known = torch.unique(times)
        turns = self._table(tuple(known.tolist()))
        where = torch.searchsorted(known, times) * tokens + part.cells
        heads = torch.arange(part.keys.shape[2])
        rows = [turns[index] if turns.ndim == 2 else turns[index, heads % turns.shape[1]] for index in where]
        return torch.cat([rotate(keys[None], row) for keys, row in zip(part.keys, rows, strict=True)])

    def _table(self, times: tuple[int, ...]) -> Tensor:
        """The turns at temporal indices; the passes and layers of a block ask for the same ones."""
        if times not in self._tables:
            spec = self.spec
            self._tables[times] = table(
                times, spec.grid, spec.axes, theta=spec.theta, multipliers=self.multipliers, dtype=self.dtype
            )
        return self._tables[times]

    def commit(self, slots: Sequence[Slot]) -> None:
        """Make slots of the frames that the last writer saw. Raises CacheError."""
        together = self.slots + tuple(slots)
        if in_order(together) != together or len(together) > self.window:
            raise CacheError(f"{len(slots)} slots do not follow {len(self.slots)} in a window of {self.window}.")
        tokens = self.spec.tokens
        recent = [i for i, slot in enumerate(self.slots) if slot.role is Role.RECENT]
        last, turn = (
            (self.slots[recent[-1]].time, self._turns[recent[-1]]) if recent else (slots[-1].time, self._own[-1])
        )
        for n, slot in enumerate(slots):
            part = slice(n * tokens, (n + 1) * tokens)
            layers = {
                layer: Tokens(*(x[:, part] for x in (t.keys, t.values, t.cells, t.offsets, t.wins)))
                for layer, t in self._staged.items()
            }
            self._mixtures.append({(len(self._written), False): 1.0})
            self._written.append(layers)
            self._turns.append(turn + slot.time - last)
        self.slots, self._owed = together, []

    def fail(self, why: str) -> None:
        """A replay that stopped half-way. Raises CacheError."""
        raise CacheError(f"the oracle cache is unusable: {why}.")
