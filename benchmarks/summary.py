"""From a run's folder to what it shows: means, paired differences, curves and claims, as one JSON value."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.run import read_plan
from rollout.benchmarks.statistics import Bootstrap, compare
from rollout.benchmarks.store import Found, Store
from rollout.errors import OutputError

SHOWS = {
    "better": "shows",
    "worse": "the opposite shows",
    "tie": "does not show",
    "few": "too few pairs",
    "slight": "too slight to matter",
}


def summarise(out: Path) -> dict[str, Any]:
    """Everything that a report says of a run, finished or not. Raises OutputError where no cell is there."""
    plan, store = read_plan(out), Store(out)
    shape = (len(plan["scripts"]), len(plan["seeds"]))
    scores: dict[str, Found] = {
        c["address"]: store.scores(c["address"]) for c in plan["cells"] if store.done(c["address"])
    }
    if not scores:
        raise OutputError(f"{out} has no finished cell to report on. Run the suite first.")
    bootstrap = Bootstrap(*shape)
    names = list(plan["strategies"])
    grids = {m["name"]: {name: _grid(plan, scores, name, m["name"], shape) for name in names} for m in plan["metrics"]}
    pairs = _pairs(plan)
    metrics = {}
    for m in plan["metrics"]:
        grid = grids[m["name"]]
        means = {name: bootstrap.interval(grid[name]) for name in names}
        metrics[m["name"]] = {
            **m,
            "means": {name: found.to_dict() for name, found in means.items() if found},
            "pairs": [
                {"a": a, "b": b, **found}
                for a, b in pairs
                if (found := compare(bootstrap, grid[a], grid[b], m["better"], m["matters"])) is not None
            ],
            "curves": _curves(plan, scores, names, m["name"], shape, bootstrap),
        }
    failed = [e for e in store.attempts() if e.get("last") and e["event"] != "done" and e["cell"] not in scores]
    return {
        "plan": plan,
        "metrics": metrics,
        "groups": groups(plan),
        "claims": [
            _claim(claim, metrics[claim["metric"]], grids[claim["metric"]], bootstrap) for claim in plan["claims"]
        ],
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


def _grid(
    plan: dict[str, Any], scores: dict[str, Found], strategy: str, metric: str, shape: tuple[int, int]
) -> NDArray[np.float64]:
    grid = np.full(shape, np.nan)
    for c in plan["cells"]:
        if c["strategy"] == strategy and c["address"] in scores:
            value = scores[c["address"]].get(metric, {}).get("value")
            if value is not None:
                grid[c["prompt"], c["seed"]] = value
    return grid


def _curves(
    plan: dict[str, Any],
    scores: dict[str, Found],
    names: list[str],
    metric: str,
    shape: tuple[int, int],
    bootstrap: Bootstrap,
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
        mean, low, high = (_plain(side) for side in bootstrap.band(values))
        out[name] = {"unit": rows[0][2]["unit"], "x": rows[0][2]["x"], "mean": mean, "low": low, "high": high}
    return out


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def _claim(
    claim: dict[str, Any], metric: dict[str, Any], grid: dict[str, NDArray[np.float64]], bootstrap: Bootstrap
) -> dict[str, Any]:
    found = compare(bootstrap, grid[claim["better"]], grid[claim["than"]], metric["better"], metric["matters"])
    if found is None:
        return {**claim, "shows": "not measured"}
    means = {side: metric["means"].get(claim[side], {}).get("mean") for side in ("better", "than")}
    return {**claim, **found, "means": means, "unit": metric["unit"], "shows": SHOWS.get(found["verdict"], "differs")}
