"""Numbers of the leaderboard as text: as many digits as the intervals of their column bear."""

from rollout.benchmarks.leaderboard.board import Section
from rollout.benchmarks.leaderboard.columns import Column
from rollout.benchmarks.report.numbers import interval, places, show
from rollout.benchmarks.statistics import Interval

__all__ = ["column_decimals", "cost_decimals", "with_interval"]


def column_decimals(column: Column) -> int:
    """The decimals of a use."""
    return places(mean.to_dict() for mean in column.means.values())


def cost_decimals(section: Section, kind: str) -> int:
    """The decimals of a cost: three digits of the middle one."""
    costs = sorted(row.costs[kind].value.mean for row in section.rows if kind in row.costs)
    middle = costs[len(costs) // 2] if costs else 0.0
    return places([{"mean": middle, "low": None, "high": None}])


def with_interval(mean: Interval, places: int) -> tuple[str, str]:
    """A mean and its [low, high]."""
    return show(mean.mean, places), interval(mean.to_dict(), places)
