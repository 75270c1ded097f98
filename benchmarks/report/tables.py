"""The tables of a report as plain values for its template: facts, claims, means by strategy."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.benchmarks.findings import Summary
from rollout.benchmarks.metrics import SPAN
from rollout.benchmarks.metrics.score import ARROWS, READ
from rollout.benchmarks.plan import Plan
from rollout.benchmarks.report.look import Look
from rollout.benchmarks.report.numbers import interval, places, show
from rollout.benchmarks.results import because
from rollout.benchmarks.suites.suite import shipped
from rollout.text import Json

__all__ = ["against", "claims", "columns", "command", "groups"]

TURNED = {"better": "worse", "worse": "better"}
KINDS = {"better": "yes", "worse": "no", "equivalent": "equal", "inconclusive": "open", "cannot tell": "blind"}
"""How a claim looks, by its verdict."""


def facts(data: Mapping[str, Any]) -> dict[str, str]:
    """What was run, on what, when."""
    plan = data["plan"]
    backend, machine = plan["backend"], plan["machine"]
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
    packages = ", ".join(f"{k} {machine[k]}" for k in ("torch", "python") if k in machine)
    crew = f"{_some(plan['workers'], 'worker')} with {_some(plan['threads'], 'thread')}"
    prefix = f", each from {plan['prefix']} true blocks" if plan["prefix"] else ""
    controls = sum(bool(strategy.get("control")) for strategy in plan["strategies"].values())
    beside = f", and {_some(controls, 'control')}" if controls else ""
    axis = plan.get("axis")
    return {
        "Strategies": f"{len(plan['strategies']) - controls}{beside}; baseline {plan['baseline']}",
        **({"Axis": f"{axis['name']} {', '.join(map(str, axis['values']))}"} if axis else {}),
        "Prompts × seeds": f"{len(plan['scripts'])} × {len(plan['seeds'])}{prefix}",
        "Rollouts": f"{data['done']} of {data['total']} done",
        "Backend": f"{backend['name']} on {backend['device']}",
        "Weights": str(backend["weights"] or "unknown"),
        "Machine": f"{gpu}{machine['processor']}, {machine['cores']} cores; {crew}",
        "Software": f"rollout {plan['rollout']}, {packages}",
        "Planned": plan["planned"],
    }


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def command(out: Path, plan: Plan) -> str:
    """What runs it again, with all that was added to its suite."""
    suite = plan.suite if plan.suite in shipped() else str(out / "suite.toml")
    device = () if plan.backend.device == "cpu" else ("--device", plan.backend.device)
    return shlex.join(["rollout", "bench", "run", suite, "--out", str(out), *device, *plan.arguments])


def failures(summary: Summary) -> list[dict[str, str]]:
    """Cells that were given up, with why."""
    plan = summary.plan
    cells = {cell.address: cell for cell in plan.cells}
    attempts = [(cells[attempt.cell], attempt) for attempt in summary.failures if attempt.cell in cells]
    return [
        {"strategy": cell.strategy, "script": plan.script_of(cell), "why": attempt.why or attempt.event}
        for cell, attempt in attempts
    ]


def claims(data: Mapping[str, Any]) -> list[Json]:
    """Each claim in words and numbers, and where its interval lies on a strip on which right is as claimed."""
    out = []
    for claim in data["claims"]:
        metric = data["metrics"][claim["metric"]]
        row: Json = {
            **claim,
            "kind": KINDS.get(claim.get("verdict", ""), "open"),
            "metric_about": _about(metric),
        }
        if "mean" in claim:
            decimals = places([claim])
            row |= {
                "texts": {side: show(mean, decimals) for side, mean in claim["means"].items()},
                "gap": f"{show(claim['mean'], decimals, signed=True)} {interval(claim, decimals, signed=True)}",
                "strip": _strip(claim, 1 if metric["better"] == "higher" else -1),
                "why": because(claim),
            }
        out.append(row)
    return out


def _strip(claim: Mapping[str, Any], sign: int) -> dict[str, float]:
    """Where a difference and its interval lie between 0 and 100, 50 being none; the whole width for no interval."""
    if claim["low"] is None:
        return {"low": 0.0, "high": 100.0, "mean": 50.0 + 20 * sign * ((claim["mean"] > 0) - (claim["mean"] < 0))}
    reach = max(abs(claim["low"]), abs(claim["high"]), 1e-9) * 1.1
    low, middle, high = (50 + 50 * sign * claim[k] / reach for k in ("low", "mean", "high"))
    return {"low": round(min(low, high), 1), "high": round(max(low, high), 1), "mean": round(middle, 1)}


def columns(data: Mapping[str, Any]) -> list[Json]:
    """The metrics, for heads of columns and for the glossary."""
    return [
        {**m, "about": _about(m), "arrow": ARROWS[m["better"]], "read": READ[m["better"]], "number": n}
        for n, m in enumerate(data["plan"]["metrics"])
    ]


def intervals(plan: Mapping[str, Any]) -> str:
    """How the intervals of a run were made."""
    if not plan.get("fixed"):
        return "Intervals are 95% ones of Student's t over prompts, each by the mean over its seeds."
    text = "The prompts are all there are, so that chance is in the seeds alone: 95% intervals of Student's t over the seeds"
    sample = "; with one seed of a prompt they are taken as a sample of prompts" if len(plan["seeds"]) < 2 else ""
    return f"{text} within each prompt{sample}."


def matters(plan: Mapping[str, Any]) -> str:
    """What matters, by unit."""
    least = {m["unit"]: m["matters"] for m in plan["metrics"] if m["matters"]}
    return ", ".join(f"{value:g} {unit}" for unit, value in least.items()) or "nothing is known of these metrics"


def _about(metric: Mapping[str, Any]) -> str:
    """A metric's definition; one such as `action:42` is that of `action`, and where it looks."""
    about, until = str(metric["about"]), re.search(r":(\d+)$", metric["name"])
    return f"{about} Here its mean over the {SPAN} latent frames before frame {until[1]}." if until else about


def groups(data: Mapping[str, Any], looks: Mapping[str, Look]) -> list[Json]:
    """Strategies of equal budget, each with a cell a metric."""
    out = []
    for window, names in data["groups"].items():
        strategies = data["plan"]["strategies"]
        competitors = [name for name in names if not strategies[name].get("control")]
        best = {name: _best(metric, competitors) for name, metric in data["metrics"].items()}
        rows = [
            {
                "look": looks[name],
                "text": strategies[name]["text"],
                "control": strategies[name].get("control", ""),
                "cells": [_cell(data, metric, name, best[metric["name"]]) for metric in data["metrics"].values()],
            }
            for name in names
        ]
        out.append({"window": window, "rows": rows})
    return out


def _cell(data: Mapping[str, Any], metric: Mapping[str, Any], name: str, best: str | None) -> Json | None:
    mean = metric["means"].get(name)
    if mean is None:
        return None
    decimals = places(metric["means"].values())
    cell = {
        "mean": show(mean["mean"], decimals),
        "interval": interval(mean, decimals),
        "best": name == best,
        "n": mean["n"],
        "short": mean["n"] < 0.9 * max(m["n"] for m in metric["means"].values()),
    }
    pair = against(metric, name, data["plan"]["baseline"])
    if pair is not None:
        gap = places([pair])
        cell |= {
            "verdict": pair["verdict"],
            "gap": f"{show(pair['mean'], gap, signed=True)} {interval(pair, gap, signed=True)}",
            "why": because(pair),
        }
    return cell


def against(metric: Mapping[str, Any], a: str, b: str) -> Json | None:
    """The paired difference a - b, whichever way round it was taken."""
    for pair in metric["pairs"]:
        if (pair["a"], pair["b"]) == (a, b):
            return dict(pair)
        if (pair["a"], pair["b"]) == (b, a):
            sides = {"mean": -pair["mean"], "low": _minus(pair["high"]), "high": _minus(pair["low"])}
            return {**pair, "a": a, "b": b, **sides, "verdict": TURNED.get(pair["verdict"], pair["verdict"])}
    return None


def _minus(end: float | None) -> float | None:
    return None if end is None else -end


def _best(metric: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The strategy that is better than every other of its budget, if there is one."""
    for name in names:
        others = [other for other in names if other != name and other in metric["means"]]
        if others and all((against(metric, name, other) or {}).get("verdict") == "better" for other in others):
            return name
    return None
