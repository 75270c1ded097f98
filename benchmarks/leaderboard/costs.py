"""What a strategy costs: the bytes that its cache holds, time and passes a block, over the runs of one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollout.benchmarks.leaderboard.runs import Finished
from rollout.benchmarks.statistics import Interval
from rollout.benchmarks.summary import mean_of, over_axis

__all__ = ["CHEAPER", "COSTS", "Cost", "cheaper", "costs_of", "order"]

COSTS = {
    "kv": ("kv_mib", "MiB", "the most that the cache held after a block, raw copies included"),
    "ms": ("seconds_per_frame", "ms a block", "time of a generated block, decoding and writing left out"),
    "passes": ("forwards", "a block", "passes of the model a generated block, those of a recache included"),
}
"""The costs: the metric of each, its unit, and what it is."""
CHEAPER = 0.01
"""Caches whose bytes are within this share of each other cost the same."""


@dataclass(frozen=True)
class Cost:
    """A cost with its interval, and the run that it was taken from."""

    value: Interval
    run: Finished


def order(runs: Sequence[Finished]) -> list[Finished]:
    """Runs in the order in which they say what a strategy costs.

    Those whose prompts change come first, since a recache costs only there; then those with the most strategies.
    """
    return sorted(runs, key=lambda run: (not run.switches, -len(run.strategies)))


def costs_of(runs: Sequence[Finished], identities: Sequence[str]) -> dict[str, dict[str, Cost]]:
    """Costs by strategy: times and passes of the first run that has them, bytes of the run in which they are most."""
    costs: dict[str, dict[str, Cost]] = {identity: {} for identity in identities}
    for run in order(runs):
        for kind, values in _measured(run).items():
            for identity, value in values.items():
                before = costs.get(identity, {}).get(kind)
                if identity in costs and (before is None or (kind == "kv" and value.mean > before.value.mean)):
                    costs[identity][kind] = Cost(value, run)
    return costs


def _measured(run: Finished) -> dict[str, dict[str, Interval]]:
    """The costs that a run has measured, by composition."""
    intervals: dict[str, dict[str, Interval]] = {}
    for kind, (name, _, _) in COSTS.items():
        metric, scale = run.plan.metric(name), _scale(run) if kind == "ms" else 1.0
        if metric is None or scale is None:
            continue
        cubes = run.cubes(name)
        means = {key: mean_of(run.plan, metric, over_axis(cubes[n])[0]) for key, n in run.strategies.items()}
        intervals[kind] = {
            key: Interval(mean.mean * scale, mean.low * scale, mean.high * scale, mean.n)
            for key, mean in means.items()
            if mean
        }
    return intervals


def _scale(run: Finished) -> float | None:
    """Milliseconds a block from seconds a pixel frame; None where the backend is not at hand."""
    return None if run.spec is None else 1000.0 * run.spec.block * run.spec.stride


def cheaper(a: Mapping[str, Cost], b: Mapping[str, Cost]) -> int | None:
    """1 where a's cache holds fewer bytes than b's, 0 for as many within `CHEAPER`, -1 for more; None where unknown."""
    if "kv" not in a or "kv" not in b:
        return None
    one, other = a["kv"].value.mean, b["kv"].value.mean
    if abs(one - other) <= CHEAPER * max(one, other):
        return 0
    return 1 if one < other else -1
