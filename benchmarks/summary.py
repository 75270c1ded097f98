"""From a run's folder to what it shows: means, paired differences, curves and claims, as one JSON value."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.metrics.cost import COSTS
from rollout.benchmarks.run import read_plan
from rollout.benchmarks.statistics import Interval, Verdict, band, compare, interval
from rollout.benchmarks.store import Found, Store
from rollout.benchmarks.sweep import kind_of, sweep
from rollout.benchmarks.verdicts import SHOWS, Controls, controls_of, corrected
from rollout.errors import OutputError

__all__ = ["is_fixed", "judge_of", "mean_of", "over_axis", "score_cube", "score_grid", "scores_of", "summarise"]


def summarise(out: Path) -> dict[str, Any]:
    """Everything that a report says of a run, finished or not. Raises OutputError where no cell is there."""
    plan, store = read_plan(out), Store(out)
    shape = (len(plan["scripts"]), len(plan["seeds"]))
    scores = scores_of(plan, store)
    if not scores:
        raise OutputError(f"{out} has no finished cell to report on. Run the suite first.")
    names = list(plan["strategies"])
    cubes = {m["name"]: {name: score_cube(plan, scores, name, m["name"]) for name in names} for m in plan["metrics"]}
    metrics = {}
    for m in plan["metrics"]:
        judge = judge_of(plan, m, cubes[m["name"]])
        means = {name: mean_of(plan, m, over_axis(cube)[0]) for name, cube in cubes[m["name"]].items()}
        metrics[m["name"]] = {
            **m,
            "means": {name: mean.to_dict() for name, mean in means.items() if mean},
            "pairs": [{"a": a, "b": b, **judge.judge(a, b, v).to_dict()} for (a, b), v in judge.pairs.items()],
            "curves": _curves(plan, scores, names, m, shape),
            "sweep": _sweep(plan, m, cubes[m["name"]]),
        }
    failed = [e for e in store.attempts() if e.get("last") and e["event"] != "done" and e["cell"] not in scores]
    return {
        "plan": plan,
        "metrics": metrics,
        "groups": groups(plan),
        "claims": _claims(plan, cubes),
        "cells": [
            {**c, "values": {k: row["value"] for k, row in scores[c["address"]].items()}}
            for c in plan["cells"]
            if c["address"] in scores
        ],
        "done": len(scores),
        "total": len({c["address"] for c in plan["cells"]}),
        "failed": list({e["cell"]: e for e in failed}.values()),
    }


def groups(plan: dict[str, Any]) -> dict[int | None, list[str]]:
    """Strategies and controls of equal budget: the same window, so the same bytes of keys and values.

    None: those without a window, and those whose window changes along the axis.
    """
    budgets: dict[int | None, list[str]] = {}
    for name, strategy in plan["strategies"].items():
        budgets.setdefault(strategy["window"], []).append(name)
    return dict(sorted(budgets.items(), key=lambda item: (item[0] is None, item[0] or 0)))


def _pairs(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Every strategy against the baseline, and against the others of its budget; controls are compared elsewhere."""
    base = plan["baseline"]
    if not plan.get("marks", True):
        return []
    strategies = [name for name, strategy in plan["strategies"].items() if not strategy.get("control")]
    pairs = [(name, base) for name in strategies if name != base]
    for window, names in groups(plan).items():
        inside = [name for name in names if name in strategies and window is not None]
        pairs += [(b, a) for a, b in combinations(inside, 2) if base not in (a, b)]
    return pairs


def score_grid(plan: dict[str, Any], scores: Mapping[str, Found], strategy: str, metric: str) -> NDArray[np.float64]:
    """A strategy's values under a metric, (prompts, seeds), means over the axis; NaN where there is none.

    `scores` by address.
    """
    return over_axis(score_cube(plan, scores, strategy, metric))[0]


def score_cube(plan: dict[str, Any], scores: Mapping[str, Found], strategy: str, metric: str) -> NDArray[np.float64]:
    """A strategy's values under a metric at each value of the axis, (values or 1, prompts, seeds)."""
    cube = np.full((len(axis_of(plan)), len(plan["scripts"]), len(plan["seeds"])), np.nan)
    for c in plan["cells"]:
        if c["strategy"] == strategy and c["address"] in scores:
            value = scores[c["address"]].get(metric, {}).get("value")
            if value is not None:
                cube[c.get("axis") or 0, c["prompt"], c["seed"]] = value
    return cube


def axis_of(plan: Mapping[str, Any]) -> list[float | None]:
    """The values of a plan's axis; one that is None where it has no axis."""
    return list(plan["axis"]["values"]) if plan.get("axis") else [None]


def over_axis(*cubes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The means (prompts, seeds) of cubes over the axis, over those of its values at which all the cubes have a number."""
    there = np.isfinite(np.stack(cubes)).all(0)
    with np.errstate(invalid="ignore"):
        return [np.where(there, cube, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan) for cube in cubes]


def scores_of(plan: dict[str, Any], store: Store) -> dict[str, Found]:
    """The scores of every cell that is there, by address."""
    return {c["address"]: store.scores(c["address"]) for c in plan["cells"] if store.done(c["address"])}


def _curves(
    plan: dict[str, Any],
    scores: dict[str, Found],
    names: list[str],
    metric: dict[str, Any],
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Mean curves over time with pointwise bands, where every rollout's curve has the same x; errors with their rate.

    Where the suite has an axis a curve over that says more.
    """
    out: dict[str, Any] = {}
    for name in names if axis_of(plan) == [None] else []:
        rows = [
            (c["prompt"], c["seed"], scores[c["address"]][metric["name"]]["curve"])
            for c in plan["cells"]
            if c["strategy"] == name
            and c["address"] in scores
            and scores[c["address"]].get(metric["name"], {}).get("curve") is not None
        ]
        if not rows or any(curve["x"] != rows[0][2]["x"] for _, _, curve in rows):
            continue
        values = np.full((*shape, len(rows[0][2]["x"])), np.nan)
        for prompt, seed, curve in rows:
            values[prompt, seed] = [np.nan if y is None else y for y in curve["y"]]
        mean, low, high = (_plain(side) for side in band(values, fixed=is_fixed(plan)))
        x = np.array(rows[0][2]["x"])
        out[name] = {"unit": rows[0][2]["unit"], "x": rows[0][2]["x"], "mean": mean, "low": low, "high": high}
        if kind_of(metric["unit"], metric["better"]) == "rate":
            judged = np.isfinite(values).any(1).all(0)  # frames in which every prompt has an error
            out[name]["fit"] = sweep(x[judged], values[..., judged], "rate", fixed=is_fixed(plan)).fit.to_dict()
    return out


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def _sweep(plan: dict[str, Any], metric: dict[str, Any], cubes: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Curves over the suite's axis with bands and fits, by strategy; empty without an axis."""
    if axis_of(plan) == [None]:
        return {}
    kind = None if metric["name"] in COSTS else kind_of(metric["unit"], metric["better"])
    values, fixed = plan["axis"]["values"], is_fixed(plan)
    curves = {
        name: sweep(values, np.moveaxis(cube, 0, -1), kind, fixed=fixed).to_dict()
        for name, cube in cubes.items()
        if np.isfinite(cube).any()
    }
    return {"axis": plan["axis"]["name"], "values": values, "curves": curves}


def is_fixed(plan: dict[str, Any]) -> bool:
    """The prompts are all there are, so that chance is in the seeds alone."""
    return bool(plan.get("fixed", False))


def mean_of(plan: dict[str, Any], metric: dict[str, Any], grid: NDArray[np.float64]) -> Interval | None:
    """A mean's interval; that of a share ends where shares do."""
    over = interval(grid, fixed=is_fixed(plan))
    if over is None or metric["unit"] != "share":
        return over
    return replace(over, low=max(over.low, min(over.mean, 0.0)), high=min(over.high, max(over.mean, 1.0)))


def judge_of(plan: dict[str, Any], metric: dict[str, Any], cubes: Mapping[str, NDArray[np.float64]]) -> Controls:
    """The verdicts of one metric on all pairs, and what its controls say of them."""

    def compared(a: str, b: str) -> Verdict:
        one, other = over_axis(cubes[a], cubes[b])
        return compare(other, one, matters=metric["matters"], better=metric["better"], fixed=is_fixed(plan))

    verdicts = {(a, b): compared(a, b) for a, b in _pairs(plan)}
    measured = metric["name"] in COSTS  # read from a clock or counted, whatever the model can tell
    shown = {pair: verdict for pair, verdict in verdicts.items() if verdict.n}
    return Controls(controls_of(plan["strategies"]), compared, shown, measured)


def _claims(plan: dict[str, Any], cubes: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> list[dict[str, Any]]:
    """Each claim with its verdict: corrected for the number of claims, then held against the controls.

    A claim that is made at one value of the axis is judged there, controls included, any other over the whole axis.
    """
    metrics = {m["name"]: m for m in plan["metrics"]}
    judged = []
    for claim in plan["claims"]:
        at = slice(None)
        if claim.get("at") is not None:
            level = axis_of(plan).index(claim["at"])
            at = slice(level, level + 1)
        there = {name: cube[at] for name, cube in cubes[claim["metric"]].items()}
        judged.append((claim, there, judge_of(plan, metrics[claim["metric"]], there)))
    verdicts = corrected([judge.compared(claim["better"], claim["than"]) for claim, _, judge in judged])
    return [
        _claim(claim, metrics[claim["metric"]]["unit"], there, judge, verdict)
        for (claim, there, judge), verdict in zip(judged, verdicts, strict=True)
    ]


def _claim(
    claim: dict[str, Any],
    unit: str,
    cubes: Mapping[str, NDArray[np.float64]],
    judge: Controls,
    verdict: Verdict,
) -> dict[str, Any]:
    if not verdict.n:
        return {**claim, "shows": "not measured"}
    verdict = judge.judge(claim["better"], claim["than"], verdict)
    sides = {side: interval(over_axis(cubes[claim[side]])[0]) for side in ("better", "than")}
    means = {side: over.to_dict()["mean"] if over else None for side, over in sides.items()}
    return {**claim, **verdict.to_dict(), "means": means, "unit": unit, "shows": SHOWS[verdict.word]}
