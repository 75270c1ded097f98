"""One sentence a use: which strategies to take for it, by rule from the table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.benchmarks.leaderboard.board import Row, Section
from rollout.benchmarks.leaderboard.columns import Column, column_of
from rollout.benchmarks.leaderboard.shown import column_decimals, with_interval
from rollout.benchmarks.report.numbers import figure
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.suites.answers import USES

__all__ = ["Line", "lines_of"]

WHERE = {
    "obey": "prompt changes",
    "remember": "what goes out of sight and comes back",
    "follow": "scenes that change and have to stay changed",
    "identity": "a subject whose looks no prompt names",
    "cut": "cuts to another scene",
    "long": "videos far beyond the trained length",
}
BESIDE = {"obey": "identity", "cut": "identity_after_cut"}
"""What must not suffer where a use asks for a change: a metric of the same run, where it has it."""
KEPT = "with a subject that must stay"


@dataclass(frozen=True)
class Line:
    """A use, where it comes up, and `picks`: the strategies that none is certainly better than, cheapest first.

    A pick is a name and its numbers. `says`: what there is to say of them, or instead of them.
    """

    use: str
    where: str
    says: str
    picks: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        picks = ", ".join(f"{name} ({numbers})" for name, numbers in self.picks)
        aside = f" ({self.says})" if self.says and self.picks else ""
        return f"For {self.where}{aside}: {picks or self.says}."


def lines_of(section: Section) -> list[Line]:
    """A line for each use."""
    return [_line(use, section) for use in USES]


def _line(use: str, section: Section) -> Line:
    column = section.columns.get(use)
    if column is None:
        return Line(use, WHERE[use], "not measured by these runs")
    if column.blind:
        return Line(use, WHERE[use], f"this model cannot tell ({column.blind})")
    beside = (
        column_of(column.run, BESIDE[use], {row.identity: row.spec for row in section.rows}) if use in BESIDE else None
    )
    rows = {row.identity: row for row in section.rows if use in row.cells}
    best = column.unbeaten(None if beside is None else beside.unbeaten(rows))
    apart = _apart(column, [row for key, row in rows.items() if key in best])
    picks = sorted(apart, key=_price)
    where = f"{WHERE[use]} {KEPT}" if beside else WHERE[use]
    return Line(
        use,
        where,
        _says(column, len(set(column.names.values())), len(picks)),
        tuple((row.name, _numbers(row, column, beside, apart[row])) for row in picks),
    )


def _apart(column: Column, rows: Sequence[Row]) -> dict[Row, int]:
    """Of the rows with the same rollouts the one with the most answers, and how many more have them."""
    first: dict[str, Row] = {}
    others: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: -len(row.cells)):
        name = column.names[row.identity]
        others[name] += name in first
        first.setdefault(name, row)
    return {row: others[name] for name, row in first.items()}


def _price(row: Row) -> float:
    return row.costs["kv"].value.mean if "kv" in row.costs else float("inf")


def _numbers(row: Row, column: Column, beside: Column | None, others: int) -> str:
    """A strategy's metric, what must not suffer, what it costs, and how many others have the same rollouts there."""
    parts = [_measure(part, row.identity) for part in (column, beside) if part]
    cost = f"KV {figure(_price(row))} MiB" if "kv" in row.costs else "KV not measured"
    verb = "others do" if others > 1 else "other does"
    aside = f"; {others} {verb} the same there" if others else ""
    return f"{', '.join(filter(None, parts))}; {cost}{aside}"


def _measure(column: Column, identity: str) -> str:
    if identity not in column.means:
        return ""
    unit = "" if column.metric.unit == "share" else f" {column.metric.unit}"
    mean = column.means[identity]
    text, interval = with_interval(mean, column_decimals(column))
    return f"{column.metric.name} {text}{unit} {interval}"


def _says(column: Column, strategies: int, best: int) -> str:
    """What the names alone do not say: how many they are, and for want of what."""
    if strategies == 1:
        return "nothing else was run"
    if not column.tested:
        return f"too few prompts to say which: {_prompts(column)}, and {LEAST} are the least"
    if best == strategies:
        return f"none of {best} is better than another with certainty, cheapest first"
    return f"{best} that are not told apart, cheapest first" if best > 1 else ""


def _prompts(column: Column) -> int:
    return max(verdict.prompts for verdict in column.verdicts.values())
