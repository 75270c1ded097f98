"""Picks executed: the best tokens of some slots, by a score that needs the next pass's queries, layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rollout.entries import Entry, RawTimes
from rollout.errors import CompositionError
from rollout.registry import find
from rollout.rope import rotate
from rollout.slots import Edit, Pick
from rollout.store import Store, runs

if TYPE_CHECKING:
    from rollout.ranks import Ranks

__all__ = ["SCORES", "SUMS", "Debt", "Score", "owe", "participation", "participation_by_head"]

Score = Callable[[Tensor, Tensor], Tensor]
"""(queries (B, n, heads, D), candidates' keys (B, m, heads, D)), both rotated, to scores (B, heads or 1, m)."""


def participation(queries: Tensor, keys: Tensor) -> Tensor:
    """How much all queries and all heads together ask for a key: the sum of q.k (Deep Forcing, arXiv 2512.05081)."""
    # The sum over queries goes first: one vector a head instead of a matrix of all pairs.
    return torch.einsum("bhd,bmhd->bm", queries.sum(1), keys)[:, None]


def participation_by_head(queries: Tensor, keys: Tensor) -> Tensor:
    """The same for each head alone, so that every head keeps its own tokens."""
    return torch.einsum("bhd,bmhd->bhm", queries.sum(1), keys)


SCORES = {"participation": participation, "participation-by-head": participation_by_head}


SUMS = frozenset({"participation"})
"""Scores that are sums over heads: of parts of the heads they add up."""


def _by_head(score: Score) -> bool:
    """Whether a score gives every head a row of its own."""
    return score(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).shape[1] == 2


@dataclass
class _Contest:
    """Picks that share out the best tokens of the same candidates."""

    pick: Pick
    candidates: list[Entry]
    rows: list[int]
    """Where the candidates lay when the edit was made."""
    winners: list[Entry]
    """The new slots, in the order of their parts."""


class Debt:
    """The picks of an edit that are owed; `entries` are the new slots by number, `settled` the layers that are done."""

    def __init__(self, contests: Sequence[_Contest], entries: dict[int, Entry]) -> None:
        self.contests, self.entries = contests, entries
        self.settled: set[int] = set()
        self.moves: list[tuple[int, int]] = []
        """Of rows, put off until a layer is settled."""

    def __contains__(self, entry: Entry) -> bool:
        return any(entry is new for new in self.entries.values())

    def gather(self, store: Store, read: Sequence[Entry], count: int, behind: Sequence[Entry]) -> list[int]:
        """As the store's, with the moves put off until a layer is settled."""
        self.moves += store.moves(read, count, behind)
        occupied_rows = {entry.row for entry in (*read, *behind)}
        return [row for row in range(count) if row not in occupied_rows]

    def settle(self, store: Store, layer: int, q: Tensor, past: Tensor | None, ranks: "Ranks | None" = None) -> None:
        """Choose a layer's tokens by queries (B, n, heads, D), and by those of the last clean pass; then move rows.

        `ranks`: the processes that have the other heads.
        """
        # All reads come before all writes: winners and moved slots lie in rows of candidates.
        winners = [self._choose(store, layer, contest, q, past, ranks) for contest in self.contests]
        for source, row in self.moves:
            store.move(source, row, [layer])
        for contest, (keys, values, wins) in zip(self.contests, winners, strict=True):
            for n, entry in enumerate(contest.winners):
                part = slice(n * store.spec.tokens, (n + 1) * store.spec.tokens)
                _write(store, layer, entry, contest.pick, keys[:, part], values[:, part])
                assert entry.wins is not None
                entry.wins.append(wins[..., part])
        self.settled.add(layer)

    def _choose(
        self, store: Store, layer: int, contest: _Contest, q: Tensor, past: Tensor | None, ranks: "Ranks | None"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best tokens in the cache's order: keys, values (B, parts*h*w, heads, D) and how often each has won."""
        pick, tokens = contest.pick, store.spec.tokens
        keys, values = store.read(layer, [stretch for stretch, _ in runs(contest.rows, tokens)])
        wins = _wins(contest.candidates, layer, keys, tokens)
        queries = q
        if pick.past and past is not None:
            queries = torch.cat([past[:, max(0, past.shape[1] - pick.past * tokens) :].to(q.dtype), q], 1)
        score = find("scores", pick.by)(queries.to(store.exact), keys.to(store.exact))
        if ranks is not None and pick.by in SUMS:
            score = ranks.sum(score)
        if pick.reuse is not None:
            score = score.masked_fill(wins >= pick.reuse, float("-inf"))
        count = len(contest.winners) * tokens
        # topk's order among equals is unspecified; a stable sort takes the oldest of them everywhere
        best = torch.argsort(score, dim=-1, descending=True, stable=True)[..., :count].sort(-1).values
        if pick.dates == "slot":
            keys = torch.cat([_lifted(store, layer, entry, part) for entry, part in _parts(contest, keys, tokens)], 1)
        index = best.transpose(1, 2)[..., None].expand(-1, -1, keys.shape[2], keys.shape[3])
        wins = wins.expand(-1, best.shape[1], -1).gather(2, best) + 1
        return keys.gather(1, index), values.gather(1, index), wins


def _wins(candidates: Sequence[Entry], layer: int, like: Tensor, tokens: int) -> Tensor:
    """How often each token was chosen, (B, heads or 1, m)."""
    zeros = torch.zeros(len(like), 1, tokens, dtype=torch.int32, device=like.device)
    counts = [zeros if entry.wins is None else entry.wins[layer] for entry in candidates]
    rows = max(count.shape[1] for count in counts)
    return torch.cat([count.expand(-1, rows, -1) for count in counts], 2)


def _parts(contest: _Contest, keys: Tensor, tokens: int) -> list[tuple[Entry, Tensor]]:
    return [(entry, keys[:, n * tokens : (n + 1) * tokens]) for n, entry in enumerate(contest.candidates)]


def _lifted(store: Store, layer: int, entry: Entry, keys: Tensor) -> Tensor:
    """A candidate's keys (B, h*w, heads, D) as if at index 0: of its copy, else turned back."""
    keys = keys.to(store.exact, copy=True)
    if isinstance(entry.copy, RawTimes):
        keys[..., : store.times] = entry.copy.layers[layer]
    elif entry.copy is not None:
        keys = entry.copy.layers[layer][0].clone()
    else:
        assert entry.turn is not None
        keys[..., : store.times] = rotate(keys[..., : store.times], store.time(entry.turn).conj())
    return keys


def _write(store: Store, layer: int, entry: Entry, pick: Pick, keys: Tensor, values: Tensor) -> None:
    """Write one new slot; one that is dated as a slot comes to its index and has a copy."""
    store.values[layer][:, entry.row] = values
    assert entry.turn is not None
    if pick.dates == "slot":
        assert isinstance(entry.copy, RawTimes)
        entry.copy.layers.append(keys[..., : store.times].to(store.dtype).contiguous())
        keys[..., : store.times] = store.rotate(keys[..., : store.times], store.time(entry.turn))
    store.keys[layer][:, entry.row] = keys.to(store.dtype)


def owe(edit: Edit, old: Sequence[Entry], ranks: "Ranks | None" = None) -> Debt | None:
    """The debt of an edit over old entries; None where it has no picks. A pick takes the row of one of its candidates.

    Raises SpecError for a score that nothing registered, CompositionError for one that several processes cannot add up.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, row in enumerate(edit.rows):
        if isinstance(row, Pick):
            groups.setdefault(row.contest, []).append(i)
    contests: list[_Contest] = []
    entries: dict[int, Entry] = {}
    for numbers in groups.values():
        picks = {i: row for i in numbers if isinstance(row := edit.rows[i], Pick)}
        pick = next(iter(picks.values()))
        score = find("scores", pick.by)
        if ranks is not None and pick.by not in SUMS and not _by_head(score):
            raise CompositionError(
                f"the score '{pick.by}' looks at all heads together, which several processes hold. Use one process, or a score "
                "a head."
            )
        candidates = [old[i] for i in pick.of]
        for i, row in picks.items():
            copy = RawTimes([]) if pick.dates == "slot" else None
            entries[i] = Entry(candidates[row.part].row, None, copy, wins=[])
        winners = [entries[i] for i in sorted(picks, key=lambda i: picks[i].part)]
        contests.append(_Contest(pick, candidates, [entry.row for entry in candidates], winners))
    return Debt(contests, entries) if contests else None
