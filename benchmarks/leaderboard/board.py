"""The leaderboard: rows of strategies and of controls under the columns of uses, a section for each model and device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.benchmarks.leaderboard.columns import Column, answering
from rollout.benchmarks.leaderboard.costs import Cost, costs_of
from rollout.benchmarks.leaderboard.front import dominators
from rollout.benchmarks.leaderboard.named import Named, named
from rollout.benchmarks.leaderboard.notes import notes_of
from rollout.benchmarks.leaderboard.runs import Finished, apart, read_runs
from rollout.benchmarks.plan import BackendPlan
from rollout.benchmarks.statistics import Interval, Verdict
from rollout.benchmarks.suites.answers import USES
from rollout.errors import OutputError

__all__ = ["Cell", "Row", "Section", "sections"]

ROLES = ("truth", "oracle", "amnesia", "swap")


@dataclass(frozen=True)
class Cell:
    """A strategy's answer to a use: its mean, and its verdict against the baseline, or a control's `against` another.

    `name`: of the strategy in the run. `stands_in`: it is another that does the same there. `best`: no other strategy is
    better with certainty, and not all are such.
    """

    mean: Interval
    name: str
    verdict: Verdict | None = None
    against: str = ""
    stands_in: bool = False
    best: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """A strategy, or a control: by use what it answers, and what it costs. `front`: no strategy dominates it."""

    identity: str
    name: str
    text: str
    cells: Mapping[str, Cell]
    spec: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    front: bool = False
    dominated_by: tuple[str, ...] = ()
    control: str = ""


@dataclass(frozen=True)
class Section:
    """The runs of one model on one device; `baseline` is the row that marks are against."""

    title: str
    backend: BackendPlan
    runs: Sequence[Finished]
    columns: Mapping[str, Column]
    rows: Sequence[Row]
    references: Sequence[Row]
    baseline: Row
    notes: Sequence[str]


def sections(folders: Sequence[Path], baseline: str | None = None) -> list[Section]:
    """The leaderboard of runs. Raises OutputError for runs that answer nothing, and for a baseline that is none."""
    board = [section for runs in apart(read_runs(folders)) if (section := _section(runs, baseline))]
    if not board:
        raise OutputError("the runs have no value of the metrics that answer a use. Finish one, then rank again.")
    if baseline and not any(section.baseline.name == baseline for section in board):
        names = ", ".join(dict.fromkeys(row.name for section in board for row in section.rows))
        raise OutputError(f"there is no strategy {baseline!r} to compare with. Use one of {names}.")
    return board


def _section(runs: Sequence[Finished], baseline: str | None) -> Section | None:
    """The runs of one model; None where they answer nothing."""
    strategies = named(runs)
    specs = {key: strategy.spec for key, strategy in strategies.items()}
    answers = {use: answering(runs, use, specs) for use in USES}
    columns = {use: column for use, (column, _) in answers.items() if column}
    if not columns:
        return None
    strategies = {key: strategies[key] for key in dict.fromkeys(key for c in columns.values() for key in c.means)}
    base = _baseline(columns, strategies, baseline)
    rows = sorted(_rows(runs, columns, strategies, base), key=_place)
    anchor = next(row for row in rows if row.identity == base)
    alternatives = {use: others for use, (_, others) in answers.items() if others}
    backend = runs[0].plan.backend
    notes = notes_of(runs, columns, alternatives, anchor.name, base)
    return Section(_title(backend), backend, runs, columns, rows, _references(columns, strategies), anchor, notes)


def _rows(
    runs: Sequence[Finished], columns: Mapping[str, Column], strategies: Mapping[str, Named], base: str
) -> Iterator[Row]:
    costs = costs_of(runs, list(strategies))
    above = dominators(columns, costs)
    unbeaten = {use: column.unbeaten() for use, column in columns.items()}
    best = {use: keys if len(keys) < len(columns[use].means) else [] for use, keys in unbeaten.items()}
    for key, strategy in strategies.items():
        yield Row(
            key,
            strategy.name,
            strategy.text,
            {use: _cell(column, key, base, best[use]) for use, column in columns.items() if key in column.means},
            strategy.spec,
            costs[key],
            not above[key],
            tuple(strategies[other].name for other in above[key]),
        )


def _cell(column: Column, key: str, base: str, best: Sequence[str]) -> Cell:
    return Cell(
        column.means[key],
        column.names[key],
        column.verdicts.get((key, base)),
        stands_in=not column.rolled_out(key),
        best=key in best,
    )


def _place(row: Row) -> tuple[int, bool, float]:
    """Where a row stands: by the uses in which it is best, then the front, then by bytes."""
    best = sum(cell.best for cell in row.cells.values())
    return -best, not row.front, row.costs["kv"].value.mean if "kv" in row.costs else float("inf")


def _baseline(columns: Mapping[str, Column], strategies: Mapping[str, Named], name: str | None) -> str:
    """The strategy that is wanted; else the one in most columns, of several that which most suites compare with."""
    for key, strategy in strategies.items():
        if strategy.name == name:
            return key

    def rank(key: str) -> tuple[int, int, int]:
        having = [column for column in columns.values() if key in column.means]
        direct = [column for column in having if column.rolled_out(key)]
        return len(having), len(direct), sum(column.names[key] == column.run.plan.baseline for column in direct)

    return max(strategies, key=rank)


def _title(backend: BackendPlan) -> str:
    """A model and where it ran: sprites, plain weights, on cpu."""
    options = dict(backend.options)
    model = Path(str(options.pop("model", "default"))).name
    more = "".join(f", {key} {value}" for key, value in options.items())
    return f"{backend.name}, {model} weights{more}, on {backend.device}"


def _references(columns: Mapping[str, Column], strategies: Mapping[str, Named]) -> list[Row]:
    """The rows of the controls: oracle and amnesia are what each suite has under the name."""
    cells: dict[tuple[int, str], dict[str, Cell]] = {}
    texts: dict[tuple[int, str], list[str]] = {}
    for use, column in columns.items():
        names_here = {n: strategies[key].name for key, n in column.run.strategies.items() if key in strategies}
        for n, mean in column.controls.items():
            control = column.judge.roles[n]
            name = f"{names_here.get(control.of, control.of)} (swapped)" if control.role == "swap" else control.role
            at = ROLES.index(control.role), name
            cells.setdefault(at, {})[use] = _control(column, n, mean, names_here)
            texts.setdefault(at, []).append(column.run.plan.strategies[n].text)
    return [
        Row(name, name, "; ".join(dict.fromkeys(texts[role, name])), row_cells, control=ROLES[role])
        for (role, name), row_cells in sorted(cells.items(), key=lambda item: item[0])
    ]


def _control(column: Column, n: str, mean: Interval, names_here: Mapping[str, str]) -> Cell:
    """A swapped memory against the strategy's own, and amnesia against the oracle."""
    role = column.judge.roles[n]
    oracles = [name for name in column.controls if column.judge.roles[name].role == "oracle"]
    other = {"swap": role.of, "amnesia": (oracles or [""])[0]}.get(role.role, "")
    if not other:
        return Cell(mean, n)
    verdict = column.judge.compared(n, other)
    return Cell(mean, n, verdict if verdict.n else None, names_here.get(other, other))
