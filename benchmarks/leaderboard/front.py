"""The Pareto front over uses and bytes, with intervals honoured."""

from collections.abc import Mapping

from rollout.benchmarks.leaderboard.columns import Column
from rollout.benchmarks.leaderboard.costs import Cost, cheaper

__all__ = ["dominates", "dominators"]


def dominators(columns: Mapping[str, Column], costs: Mapping[str, Mapping[str, Cost]]) -> dict[str, list[str]]:
    """Those that dominate each strategy; the front are those that none does. `costs` by strategy."""
    return {b: [a for a in costs if a != b and dominates(a, b, columns, costs)] for b in costs}


def dominates(a: str, b: str, columns: Mapping[str, Column], costs: Mapping[str, Mapping[str, Cost]]) -> bool:
    """The strategy a is better than b with certainty or equivalent to it in every use that b has, its cache holds no more
    bytes, and in one of these it is better.

    Who was not tried where b was does not dominate it: b may be there for just that. Uses of which the model cannot tell
    anything count for neither side. Without any other, or with a cache whose bytes are not known, nobody dominates.
    """
    columns_of_b = [column for column in columns.values() if b in column.means and not column.blind]
    bytes_held = cheaper(costs[a], costs[b])
    if not columns_of_b or bytes_held is None or bytes_held < 0:
        return False
    words = {verdict.word if (verdict := column.verdicts.get((a, b))) else "inconclusive" for column in columns_of_b}
    return words <= {"better", "equivalent"} and ("better" in words or bytes_held > 0)
