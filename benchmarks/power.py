"""How large a run must be to see a difference: from a pilot's variances to prompts, seeds and minutes."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rollout.benchmarks.metrics.score import Better
from rollout.benchmarks.plan import MetricPlan, Plan, read_plan
from rollout.benchmarks.statistics import LEAST, SEEN, SENSIBLE, compare, paired, student
from rollout.benchmarks.store import Store
from rollout.benchmarks.summary import score_grid, scores_of
from rollout.errors import OutputError, SuiteError

__all__ = ["Design", "Size", "Spread", "needed_prompts", "needed_seeds", "plan_run", "spread"]

SEEDS = (1, 2, 4, 8)
"""Seeds a prompt that are weighed against prompts."""


@dataclass(frozen=True)
class Spread:
    """Variances of paired differences: of prompts' own means, and over the seeds of a prompt; under one seed `within` is
    None, and `between` holds both."""

    between: float
    within: float | None

    def of_prompts(self, seeds: int) -> float:
        """The variance of the mean of a prompt under so many seeds."""
        return self.between if self.within is None else self.between + self.within / seeds


@dataclass(frozen=True)
class Size:
    """A run that would see the difference. `rollouts` in all, `new` of them beyond the pilot, in so many `minutes`."""

    prompts: int
    seeds: int
    rollouts: int
    new: int
    minutes: float


@dataclass(frozen=True)
class Design:
    """Runs that would see `difference` of `metric` between any pair that is shown, by that of them which varies most.

    `visible`: what the pilot itself could have seen. `notes`: what to keep in mind.
    """

    metric: str
    unit: str
    difference: float
    pair: tuple[str, str]
    visible: float
    prompts: int
    seeds: int
    strategies: int
    sizes: tuple[Size, ...]
    notes: tuple[str, ...]


def spread(baseline: ArrayLike, other: ArrayLike, better: Better = "higher") -> Spread:
    """The variances of the difference that `compare` tests, on arrays (prompts, seeds) with 2 prompts at least.

    Raises RolloutError.
    """
    sides = paired(baseline, other, better)
    values = min(sides, key=lambda side: abs(float(np.nanmean(side))))  # where the best is 0 or 1: what decides there
    there = np.isfinite(values)
    seeds = there.sum(1)
    prompt_means = np.where(there, values, 0).sum(1)[seeds > 0] / seeds[seeds > 0]
    variance = float(prompt_means.var(ddof=1))
    freedom = int((seeds[seeds > 0] - 1).sum())
    if not freedom:
        return Spread(variance, None)
    squares = np.where(there[seeds > 0], (values[seeds > 0] - prompt_means[:, None]) ** 2, 0).sum()
    within = float(squares) / freedom
    return Spread(max(0.0, variance - within * float((1 / seeds[seeds > 0]).mean())), within)


def needed_prompts(over: Spread, difference: float, seeds: int) -> int | None:
    """The least prompts under so many seeds of which four of five runs see a difference; None above 100 000."""
    prompts = np.arange(LEAST, SENSIBLE + 1)
    return _first(prompts, prompts - 1.0, sqrt(over.of_prompts(seeds)) / np.sqrt(prompts), difference)


def needed_seeds(within: float, difference: float, prompts: int) -> int | None:
    """The least seeds of each of so many prompts, which are all there are; None above 100 000."""
    seeds = np.arange(2, SENSIBLE + 1)
    return _first(seeds, prompts * (seeds - 1.0), sqrt(within / prompts) / np.sqrt(seeds), difference)


def _first(counts: Any, freedom: Any, error: Any, difference: float) -> int | None:
    enough = (student(freedom, 0.975) + student(freedom, SEEN)) * error <= difference
    return int(counts[enough.argmax()]) if enough.any() else None


def plan_run(out: Path, suite: str, metric: str, difference: float) -> Design:
    """Runs of the suite that would see a difference of a metric, from its pilot in `out`.

    Raises OutputError where there is no pilot or nothing in it to compare, SuiteError for another suite or metric.
    """
    pilot, metric_plan = _pilot(out, suite, metric)
    scores = scores_of(pilot, Store(out))
    grids = {name: score_grid(pilot, scores, name, metric) for name in pilot.strategies}
    better, fixed = metric_plan.better, pilot.fixed
    verdicts = {
        (a, b): compare(grids[b], grids[a], matters=metric_plan.matters, better=better, fixed=fixed)
        for a, b in _pairs(pilot, metric)
    }
    verdicts = {pair: verdict for pair, verdict in verdicts.items() if verdict.prompts > 1}
    if not verdicts:
        raise OutputError(
            f"the pilot {out} has no two prompts with {metric} under two strategies. Run more of it first."
        )
    pair = max(verdicts, key=lambda key: verdicts[key].visible)
    over = spread(grids[pair[1]], grids[pair[0]], better)
    have = len(pilot.scripts), len(pilot.seeds)
    minutes = _seconds(out, set(scores)) / pilot.workers / 60
    # rollouts of a prompt under a seed: along an axis several a strategy, and some that strategies share
    arms = pilot.rollouts / (have[0] * have[1])
    designs = _designs(over, difference, have, fixed and over.within is not None)
    return Design(
        metric,
        metric_plan.unit,
        difference,
        pair,
        verdicts[pair].visible,
        *have,
        len(pilot.strategies),
        tuple(_size(design, have, arms, minutes) for design in designs),
        tuple(_notes(verdicts[pair].prompts, over, len(scores), pilot)),
    )


def _pilot(out: Path, suite: str, metric: str) -> tuple[Plan, MetricPlan]:
    """The pilot's plan, and what it says of the metric."""
    if not (out / "plan.json").is_file():
        raise OutputError(f"there is no pilot in {out}. Run one first: rollout bench run {suite} --out {out}")
    pilot = read_plan(out)
    if pilot.suite != suite:
        raise SuiteError(f"{out} is a run of {pilot.suite}, not of {suite}. Give the suite's own run by --out.")
    metric_plan = pilot.metric(metric)
    if metric_plan is None:
        names = ", ".join(m.name for m in pilot.metrics)
        raise SuiteError(f"the pilot {out} has no metric {metric!r}. Use one of {names}.")
    return pilot, metric_plan


def _pairs(pilot: Plan, metric: str) -> list[tuple[str, str]]:
    """The claims' pairs, and every strategy against the baseline; controls are there for other reasons."""
    base, strategies = pilot.baseline, pilot.strategies
    pairs = [(claim.better, claim.than) for claim in pilot.claims if claim.metric == metric]
    pairs += [(name, base) for name in strategies if name != base]
    return [pair for pair in pairs if not any(strategies[name].role for name in pair)]


def _seconds(out: Path, cells: set[str]) -> float:
    """What a rollout took, in the mean; a cell that was scored again later counts by its longest attempt."""
    longest: dict[str, float] = {}
    for event in Store(out).attempts():
        if event.event == "done" and event.cell in cells:
            longest[event.cell] = max(longest.get(event.cell, 0.0), event.seconds or 0.0)
    return sum(longest.values()) / max(1, len(longest))


def _designs(over: Spread, difference: float, have: tuple[int, int], fixed: bool) -> Iterator[tuple[int, int]]:
    """Prompts and seeds."""
    if fixed:
        seeds = needed_seeds(over.within or 0.0, difference, have[0])
        if seeds is not None:
            yield have[0], seeds
        return
    for seeds in SEEDS if over.within is not None else (have[1],):
        prompts = needed_prompts(over, difference, seeds)
        if prompts is not None:
            yield prompts, seeds


def _size(design: tuple[int, int], have: tuple[int, int], arms: float, minutes: float) -> Size:
    prompts, seeds = design
    there = min(prompts, have[0]) * min(seeds, have[1])
    new = round(arms * (prompts * seeds - there))
    return Size(prompts, seeds, round(arms * prompts * seeds), new, new * minutes)


def _notes(prompts: int, over: Spread, rollouts: int, pilot: Plan) -> Iterator[str]:
    total = pilot.rollouts
    if rollouts < total:
        yield f"the pilot has {rollouts} of {total} rollouts"
    if prompts < LEAST:
        yield f"a pilot of {prompts} prompts is a rough guide: run {LEAST} or more"
    if over.within is None:
        yield "the pilot has one seed, so it cannot say what more seeds would bring: --add-seeds 1 lets it"
    if pilot.fixed:
        yield f"the prompts are all {len(pilot.scripts)} there are, so that only seeds can be added"
    if over.between == 0 and not over.within:
        yield "the pilot's differences do not vary at all"
