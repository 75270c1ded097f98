"""From a run's folder to what it shows: means, paired differences, curves and claims."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.findings import AxisFinding, ClaimFinding, MetricFinding, PairFinding, Summary, TimeCurve
from rollout.benchmarks.metrics.cost import COSTS
from rollout.benchmarks.plan import ClaimPlan, MetricPlan, Plan, read_plan
from rollout.benchmarks.statistics import Interval, Verdict, band, compare, interval
from rollout.benchmarks.store import CurveRecord, Scores, Store
from rollout.benchmarks.sweep import kind_of, sweep
from rollout.benchmarks.verdicts import SHOWS, Controls, controls_of, corrected
from rollout.errors import OutputError

__all__ = ["groups", "judge_of", "mean_of", "over_axis", "score_cube", "score_grid", "scores_of", "summarise"]

Cube = NDArray[np.float64]
"""Values (values of the axis or 1, prompts, seeds) of a strategy under a metric; NaN where there is none."""


def summarise(out: Path) -> Summary:
    """Everything that a report says of a run, finished or not. Raises OutputError where no cell is there."""
    plan, store = read_plan(out), Store(out)
    scores = scores_of(plan, store)
    if not scores:
        raise OutputError(f"{out} has no finished cell to report on. Run the suite first.")
    cubes = {m.name: {name: score_cube(plan, scores, name, m.name) for name in plan.strategies} for m in plan.metrics}
    failures = {a.cell: a for a in store.attempts() if a.failure and a.cell not in scores}
    return Summary(
        plan=plan,
        metrics={metric.name: _metric(plan, metric, cubes[metric.name], scores) for metric in plan.metrics},
        groups=groups(plan),
        claims=_claims(plan, cubes),
        cells=tuple(
            (cell, {name: score.value for name, score in scores[cell.address].items()})
            for cell in plan.cells
            if cell.address in scores
        ),
        done=len(scores),
        total=plan.rollouts,
        failures=tuple(failures.values()),
    )


def _metric(plan: Plan, metric: MetricPlan, cubes: Mapping[str, Cube], scores: Mapping[str, Scores]) -> MetricFinding:
    judge = judge_of(plan, metric, cubes)
    means = {name: mean_of(plan, metric, over_axis(cube)[0]) for name, cube in cubes.items()}
    return MetricFinding(
        metric,
        {name: mean for name, mean in means.items() if mean},
        tuple(PairFinding(a, b, judge.judge(a, b, verdict)) for (a, b), verdict in judge.pairs.items()),
        _curves(plan, scores, metric),
        _sweep(plan, metric, cubes),
    )


def groups(plan: Plan) -> dict[int | None, list[str]]:
    """Strategies and controls of equal budget: the same bytes of keys and values, as frames' worth of them.

    None: those without a window, and those whose window changes along the axis.
    """
    budgets: dict[int | None, list[str]] = {}
    for name, arm in plan.strategies.items():
        budgets.setdefault(arm.window, []).append(name)
    return dict(sorted(budgets.items(), key=lambda item: (item[0] is None, item[0] or 0)))


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    """Every strategy against the baseline, and against the others of its budget; controls are compared elsewhere."""
    base = plan.baseline
    if not plan.marks:
        return []
    strategies = [name for name, arm in plan.strategies.items() if not arm.role]
    pairs = [(name, base) for name in strategies if name != base]
    for window, names in groups(plan).items():
        inside = [name for name in names if name in strategies and window is not None]
        pairs += [(b, a) for a, b in combinations(inside, 2) if base not in (a, b)]
    return pairs


def score_grid(plan: Plan, scores: Mapping[str, Scores], strategy: str, metric: str) -> NDArray[np.float64]:
    """A strategy's values under a metric, (prompts, seeds), means over the axis; NaN where there is none.

    `scores` by address.
    """
    return over_axis(score_cube(plan, scores, strategy, metric))[0]


def score_cube(plan: Plan, scores: Mapping[str, Scores], strategy: str, metric: str) -> Cube:
    """A strategy's values under a metric at each value of the axis, (values or 1, prompts, seeds)."""
    cube = np.full((len(plan.levels), len(plan.scripts), len(plan.seeds)), np.nan)
    for cell in plan.cells:
        if cell.strategy == strategy and cell.address in scores:
            score = scores[cell.address].get(metric)
            if score is not None and score.value is not None:
                cube[cell.axis or 0, cell.prompt, cell.seed] = score.value
    return cube


def over_axis(*cubes: Cube) -> list[NDArray[np.float64]]:
    """The means (prompts, seeds) of cubes over the axis, over those of its values at which all the cubes have a number."""
    there = np.isfinite(np.stack(cubes)).all(0)
    with np.errstate(invalid="ignore"):
        return [np.where(there, cube, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan) for cube in cubes]


def scores_of(plan: Plan, store: Store) -> dict[str, Scores]:
    """The scores of every cell that is there, by address."""
    return {cell.address: store.scores(cell.address) for cell in plan.cells if store.done(cell.address)}


def _curves(plan: Plan, scores: Mapping[str, Scores], metric: MetricPlan) -> dict[str, TimeCurve]:
    """Mean curves over time with pointwise bands, where every rollout's curve has the same x; errors with their rate.

    Where the suite has an axis a curve over that says more.
    """
    curves: dict[str, TimeCurve] = {}
    for name in plan.strategies if plan.axis is None else ():
        rows: list[tuple[int, int, CurveRecord]] = []
        for cell in plan.cells:
            score = scores.get(cell.address, {}).get(metric.name)
            if cell.strategy == name and score is not None and score.curve:
                rows.append((cell.prompt, cell.seed, score.curve))
        if not rows or any(curve.x != rows[0][2].x for _, _, curve in rows):
            continue
        first = rows[0][2]
        values = np.full((len(plan.scripts), len(plan.seeds), len(first.x)), np.nan)
        for prompt, seed, curve in rows:
            values[prompt, seed] = [np.nan if y is None else y for y in curve.y]
        fit, x = None, np.array(first.x)
        if kind_of(metric.unit, metric.better) == "rate":
            complete = np.isfinite(values).any(1).all(0)  # frames in which every prompt has an error
            fit = sweep(x[complete], values[..., complete], "rate", fixed=plan.fixed).fit
        mean, low, high = (_plain(side) for side in band(values, fixed=plan.fixed))
        curves[name] = TimeCurve(first.unit, list(first.x), mean, low, high, fit)
    return curves


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def _sweep(plan: Plan, metric: MetricPlan, cubes: Mapping[str, Cube]) -> AxisFinding | None:
    """Curves over the suite's axis with bands and fits, by strategy; None without an axis."""
    if plan.axis is None:
        return None
    kind = None if metric.name in COSTS else kind_of(metric.unit, metric.better)
    curves = {
        name: sweep(plan.axis.values, np.moveaxis(cube, 0, -1), kind, fixed=plan.fixed)
        for name, cube in cubes.items()
        if np.isfinite(cube).any()
    }
    return AxisFinding(plan.axis.name, plan.axis.values, curves)


def mean_of(plan: Plan, metric: MetricPlan, grid: NDArray[np.float64]) -> Interval | None:
    """A mean's interval; that of a share ends where shares do."""
    over = interval(grid, fixed=plan.fixed)
    if over is None or metric.unit != "share":
        return over
    return replace(over, low=max(over.low, min(over.mean, 0.0)), high=min(over.high, max(over.mean, 1.0)))


def judge_of(plan: Plan, metric: MetricPlan, cubes: Mapping[str, Cube]) -> Controls:
    """The verdicts of one metric on all pairs, and what its controls say of them."""

    def verdict_on(a: str, b: str) -> Verdict:
        one, other = over_axis(cubes[a], cubes[b])
        return compare(other, one, matters=metric.matters, better=metric.better, fixed=plan.fixed)

    verdicts = {(a, b): verdict_on(a, b) for a, b in _pairs(plan)}
    is_cost = metric.name in COSTS  # read from a clock or counted, whatever the model can tell
    with_values = {pair: verdict for pair, verdict in verdicts.items() if verdict.n}
    return Controls(controls_of(plan.strategies), verdict_on, with_values, is_cost)


def _claims(plan: Plan, cubes: Mapping[str, Mapping[str, Cube]]) -> tuple[ClaimFinding, ...]:
    """Each claim with its verdict: corrected for the number of claims, then held against the controls.

    A claim that is made at one value of the axis is judged there, controls included, any other over the whole axis.
    """
    metrics = {metric.name: metric for metric in plan.metrics}
    judges: list[tuple[ClaimPlan, Mapping[str, Cube], Controls]] = []
    for claim in plan.claims:
        at = slice(None)
        if claim.at is not None:
            level = plan.levels.index(claim.at)
            at = slice(level, level + 1)
        there = {name: cube[at] for name, cube in cubes[claim.metric].items()}
        judges.append((claim, there, judge_of(plan, metrics[claim.metric], there)))
    verdicts = corrected([judge.compared(claim.better, claim.than) for claim, _, judge in judges])
    return tuple(
        _claim(claim, metrics[claim.metric].unit, there, judge, verdict)
        for (claim, there, judge), verdict in zip(judges, verdicts, strict=True)
    )


def _claim(claim: ClaimPlan, unit: str, cubes: Mapping[str, Cube], judge: Controls, verdict: Verdict) -> ClaimFinding:
    if not verdict.n:
        return ClaimFinding(claim, "not measured")
    verdict = judge.judge(claim.better, claim.than, verdict)
    better, than = (interval(over_axis(cubes[side])[0]) for side in (claim.better, claim.than))
    means = [None if side is None else side.to_dict()["mean"] for side in (better, than)]
    return ClaimFinding(claim, SHOWS[verdict.word], verdict, means[0], means[1], unit)
