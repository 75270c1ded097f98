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
from rollout.benchmarks.verdicts import SHOWS, Controls, controls_of, corrected
from rollout.errors import OutputError


def summarise(out: Path) -> dict[str, Any]:
    """Everything that a report says of a run, finished or not. Raises OutputError where no cell is there."""
    plan, store = read_plan(out), Store(out)
    shape = (len(plan["scripts"]), len(plan["seeds"]))
    scores = scores_of(plan, store)
    if not scores:
        raise OutputError(f"{out} has no finished cell to report on. Run the suite first.")
    names = list(plan["strategies"])
    grids = {m["name"]: {name: score_grid(plan, scores, name, m["name"]) for name in names} for m in plan["metrics"]}
    judges = {m["name"]: _judge(plan, m, grids[m["name"]]) for m in plan["metrics"]}
    metrics = {}
    for m in plan["metrics"]:
        judge = judges[m["name"]]
        means = {name: _interval(plan, m, grid) for name, grid in grids[m["name"]].items()}
        metrics[m["name"]] = {
            **m,
            "means": {name: mean.to_dict() for name, mean in means.items() if mean},
            "pairs": [{"a": a, "b": b, **judge.judge(a, b, v).to_dict()} for (a, b), v in judge.pairs.items()],
            "curves": _curves(plan, scores, names, m["name"], shape),
        }
    failed = [e for e in store.attempts() if e.get("last") and e["event"] != "done" and e["cell"] not in scores]
    return {
        "plan": plan,
        "metrics": metrics,
        "groups": groups(plan),
        "claims": _claims(plan["claims"], metrics, judges),
        "cells": [
            {**c, "values": {k: row["value"] for k, row in scores[c["address"]].items()}}
            for c in plan["cells"]
            if c["address"] in scores
        ],
        "done": len(scores),
        "total": len({c["address"] for c in plan["cells"]}),
        "failed": list({e["cell"]: e for e in failed}.values()),
    }


def groups(plan: dict[str, Any]) -> dict[int, list[str]]:
    """Strategies of equal budget: the same window, so the same bytes of keys and values."""
    found: dict[int, list[str]] = {}
    for name, strategy in plan["strategies"].items():
        found.setdefault(strategy["window"], []).append(name)
    return dict(sorted(found.items()))


def _pairs(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Every strategy against the baseline, and against the others of its budget."""
    base = plan["baseline"]
    found = [(name, base) for name in plan["strategies"] if name != base]
    for names in groups(plan).values():
        found += [(b, a) for a, b in combinations(names, 2) if base not in (a, b)]
    return found


def score_grid(plan: dict[str, Any], scores: Mapping[str, Found], strategy: str, metric: str) -> NDArray[np.float64]:
    """A strategy's values under a metric, (prompts, seeds); NaN where there is none. `scores` by address."""
    grid = np.full((len(plan["scripts"]), len(plan["seeds"])), np.nan)
    for c in plan["cells"]:
        if c["strategy"] == strategy and c["address"] in scores:
            value = scores[c["address"]].get(metric, {}).get("value")
            if value is not None:
                grid[c["prompt"], c["seed"]] = value
    return grid


def scores_of(plan: dict[str, Any], store: Store) -> dict[str, Found]:
    """The scores of every cell that is there, by address."""
    return {c["address"]: store.scores(c["address"]) for c in plan["cells"] if store.done(c["address"])}


def _curves(
    plan: dict[str, Any],
    scores: dict[str, Found],
    names: list[str],
    metric: str,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Mean curves with pointwise bands, where every rollout's curve has the same x."""
    out: dict[str, Any] = {}
    for name in names:
        rows = [
            (c["prompt"], c["seed"], scores[c["address"]][metric]["curve"])
            for c in plan["cells"]
            if c["strategy"] == name
            and c["address"] in scores
            and scores[c["address"]].get(metric, {}).get("curve") is not None
        ]
        if not rows or any(curve["x"] != rows[0][2]["x"] for _, _, curve in rows):
            continue
        values = np.full((*shape, len(rows[0][2]["x"])), np.nan)
        for prompt, seed, curve in rows:
            values[prompt, seed] = [np.nan if y is None else y for y in curve["y"]]
        mean, low, high = (_plain(side) for side in band(values, fixed=is_fixed(plan)))
        out[name] = {"unit": rows[0][2]["unit"], "x": rows[0][2]["x"], "mean": mean, "low": low, "high": high}
    return out


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def is_fixed(plan: dict[str, Any]) -> bool:
    """The prompts are all there are, so that chance is in the seeds alone."""
    return bool(plan.get("fixed", False))


def _interval(plan: dict[str, Any], metric: dict[str, Any], grid: NDArray[np.float64]) -> Interval | None:
    """A mean's interval; that of a share ends where shares do."""
    over = interval(grid, fixed=is_fixed(plan))
    if over is None or metric["unit"] != "share":
        return over
    return replace(over, low=max(over.low, min(over.mean, 0.0)), high=min(over.high, max(over.mean, 1.0)))


def _judge(plan: dict[str, Any], metric: dict[str, Any], grid: dict[str, NDArray[np.float64]]) -> Controls:
    """The verdicts of one metric on all pairs, and what its controls say of them."""

    def compared(a: str, b: str) -> Verdict:
        return compare(grid[b], grid[a], matters=metric["matters"], better=metric["better"], fixed=is_fixed(plan))

    verdicts = {(a, b): compared(a, b) for a, b in _pairs(plan)}
    measured = metric["name"] in COSTS  # read from a clock or counted, whatever the model can tell
    shown = {pair: verdict for pair, verdict in verdicts.items() if verdict.n}
    return Controls(controls_of(plan["strategies"]), compared, shown, measured)


def _claims(
    claims: list[dict[str, Any]], metrics: dict[str, dict[str, Any]], judges: dict[str, Controls]
) -> list[dict[str, Any]]:
    """Each claim with its verdict: corrected for the number of claims, then held against the controls."""
    verdicts = corrected([judges[claim["metric"]].compared(claim["better"], claim["than"]) for claim in claims])
    return [_claim(c, metrics[c["metric"]], judges[c["metric"]], v) for c, v in zip(claims, verdicts, strict=True)]


def _claim(claim: dict[str, Any], metric: dict[str, Any], judge: Controls, verdict: Verdict) -> dict[str, Any]:
    if not verdict.n:
        return {**claim, "shows": "not measured"}
    verdict = judge.judge(claim["better"], claim["than"], verdict)
    means = {side: metric["means"].get(claim[side], {}).get("mean") for side in ("better", "than")}
    return {**claim, **verdict.to_dict(), "means": means, "unit": metric["unit"], "shows": SHOWS[verdict.word]}
