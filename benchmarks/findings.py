"""What a benchmark's run shows, as values: the summary of a run, its metrics and its claims."""

from collections.abc import Mapping
from dataclasses import dataclass

from rollout.benchmarks.intervals import Interval
from rollout.benchmarks.plan import CellPlan, ClaimPlan, MetricPlan, Plan
from rollout.benchmarks.statistics import Verdict
from rollout.benchmarks.store import AttemptRecord
from rollout.benchmarks.sweep import Curve, Fit, Unfit
from rollout.text import Json

__all__ = ["AxisFinding", "ClaimFinding", "MetricFinding", "PairFinding", "Summary", "TimeCurve"]


@dataclass(frozen=True)
class PairFinding:
    """How strategy `a` compares with `b`."""

    a: str
    b: str
    verdict: Verdict

    def to_dict(self) -> Json:
        """As JSON."""
        return {"a": self.a, "b": self.b, **self.verdict.to_dict()}


@dataclass(frozen=True)
class TimeCurve:
    """A strategy's mean over time with its 95% band; `unit` is that of x. Of an error also what it comes to."""

    unit: str
    x: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    fit: Fit | Unfit | None = None

    def to_dict(self) -> Json:
        """As JSON."""
        sides = {"unit": self.unit, "x": self.x, "mean": self.mean, "low": self.low, "high": self.high}
        return sides if self.fit is None else sides | {"fit": self.fit.to_dict()}


@dataclass(frozen=True)
class AxisFinding:
    """Curves over the suite's axis, by strategy."""

    axis: str
    values: tuple[float | int, ...]
    curves: Mapping[str, Curve]

    def to_dict(self) -> Json:
        """As JSON."""
        curves = {name: curve.to_dict() for name, curve in self.curves.items()}
        return {"axis": self.axis, "values": list(self.values), "curves": curves}


@dataclass(frozen=True)
class MetricFinding:
    """A metric: means by strategy, verdicts of pairs, curves over time by strategy, and those over the axis."""

    plan: MetricPlan
    means: Mapping[str, Interval]
    pairs: tuple[PairFinding, ...]
    curves: Mapping[str, TimeCurve]
    sweep: AxisFinding | None

    def against(self, name: str, other: str) -> Verdict | None:
        """The verdict of one strategy against another; None where they were not compared."""
        return next((pair.verdict for pair in self.pairs if (pair.a, pair.b) == (name, other)), None)

    def to_dict(self) -> Json:
        """As JSON."""
        return {
            **{name: getattr(self.plan, name) for name in self.plan.__struct_fields__},
            "means": {name: mean.to_dict() for name, mean in self.means.items()},
            "pairs": [pair.to_dict() for pair in self.pairs],
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "sweep": {} if self.sweep is None else self.sweep.to_dict(),
        }


@dataclass(frozen=True)
class ClaimFinding:
    """A claim with its verdict, None where nothing was measured; `shows` says it in words, `means` of both sides."""

    claim: ClaimPlan
    shows: str
    verdict: Verdict | None = None
    better: float | None = None
    than: float | None = None
    unit: str = ""

    def to_dict(self) -> Json:
        """As JSON."""
        claim = {name: getattr(self.claim, name) for name in self.claim.__struct_fields__}
        if self.verdict is None:
            return {**claim, "shows": self.shows}
        means = {"better": self.better, "than": self.than}
        return {**claim, **self.verdict.to_dict(), "means": means, "unit": self.unit, "shows": self.shows}


@dataclass(frozen=True)
class Summary:
    """Everything that a report says of a run, finished or not.

    `groups`: strategies of one window, so of one budget. `cells`: those that are there, with their values by metric.
    `failures`: the last attempts at cells that are not there.
    """

    plan: Plan
    metrics: Mapping[str, MetricFinding]
    groups: Mapping[int | None, list[str]]
    claims: tuple[ClaimFinding, ...]
    cells: tuple[tuple[CellPlan, Mapping[str, float | None]], ...]
    done: int
    total: int
    failures: tuple[AttemptRecord, ...]

    def to_dict(self) -> Json:
        """As JSON: summary.json."""
        return {
            "plan": self.plan.to_dict(),
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "groups": dict(self.groups),
            "claims": [claim.to_dict() for claim in self.claims],
            "cells": [
                {name: getattr(cell, name) for name in cell.__struct_fields__} | {"values": dict(values)}
                for cell, values in self.cells
            ],
            "done": self.done,
            "total": self.total,
            "failed": [attempt.to_dict() for attempt in self.failures],
        }
