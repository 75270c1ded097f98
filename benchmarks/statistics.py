"""Paired differences with bootstrap intervals over prompts and seeds; an interval that holds zero is a tie."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.metrics.score import Better

Grid = NDArray[np.float64]
"""(prompts, seeds) values of one strategy under one metric; NaN where there is none."""
DRAWS = 4000
LEAST = 6
"""Pairs below which nothing is called better or worse: a bootstrap of so few is no interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval over `n` rollouts, or pairs of them."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Bootstrap:
    """Resamples prompts with replacement, and within each its seeds; the same draws for every strategy and metric.

    Seeds are nested: each prompt has noise of its own under each seed.
    """

    def __init__(self, prompts: int, seeds: int, *, draws: int = DRAWS) -> None:
        generator = np.random.default_rng(0)
        rows = generator.multinomial(prompts, [1 / prompts] * prompts, draws)
        self.weights = generator.multinomial(rows * seeds, [1 / seeds] * seeds).reshape(draws, -1).astype(np.float64)

    def interval(self, values: Grid) -> Interval | None:
        """The mean of values (prompts, seeds) and its percentile interval; None where there are no values."""
        flat = values.reshape(-1)
        there = np.isfinite(flat)
        if not there.any():
            return None
        with np.errstate(invalid="ignore"):
            means = (self.weights @ np.where(there, flat, 0)) / (self.weights @ there)
        low, high = np.nanpercentile(means, [2.5, 97.5])
        return Interval(float(flat[there].mean()), float(low), float(high), int(there.sum()))

    def band(self, curves: NDArray[np.float64]) -> tuple[Grid, Grid, Grid]:
        """Mean, low and high (points,) of curves (prompts, seeds, points), point by point."""
        flat = curves.reshape(-1, curves.shape[-1])
        there = np.isfinite(flat)
        weights = self.weights[:400]
        some = there.any(0)
        means = np.full((len(weights), flat.shape[-1]), np.nan)
        with np.errstate(invalid="ignore"):
            means[:, some] = (weights @ np.where(there, flat, 0)[:, some]) / (weights @ there[:, some])
        low, high = (np.full(flat.shape[-1], np.nan) for _ in range(2))
        low[some], high[some] = np.nanpercentile(means[:, some], [2.5, 97.5], axis=0)
        middle = np.full(flat.shape[-1], np.nan)
        middle[some] = np.where(there, flat, 0)[:, some].sum(0) / there[:, some].sum(0)
        return middle, low, high


class Crossed(Bootstrap):
    """Resamples rows, and groups of columns, each with replacement: every rater judges the same videos.

    The pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122), which is slightly too wide rather than too narrow.
    """

    def __init__(self, rows: int, groups: Sequence[int], *, draws: int = DRAWS) -> None:
        generator = np.random.default_rng(0)
        count = max(groups) + 1
        upright = generator.multinomial(rows, [1 / rows] * rows, draws)
        across = generator.multinomial(count, [1 / count] * count, draws)[:, list(groups)]
        self.weights = (upright[:, :, None] * across[:, None, :]).reshape(draws, -1).astype(np.float64)


def loss(values: Grid, better: Better) -> Grid:
    """Values as what should be small, where the best is 0 or 1 in the middle."""
    return np.abs(values - 1) if better == "one" else np.abs(values) if better == "zero" else values


def compare(bootstrap: Bootstrap, a: Grid, b: Grid, better: Better, matters: float = 0.0) -> dict[str, Any] | None:
    """How `a` differs from `b` on the same prompts and seeds; None where no pair has both."""
    found = bootstrap.interval(loss(a, better) - loss(b, better))
    return None if found is None else found.to_dict() | {"verdict": verdict(found, better, matters)}


def verdict(difference: Interval, better: Better, matters: float = 0.0) -> str:
    """better, worse, differs (where neither is better), slight (certain, but below what matters), tie, or few (pairs)."""
    if difference.n < LEAST:
        return "few"
    if difference.low <= 0 <= difference.high:
        return "tie"
    if abs(difference.mean) < matters:
        return "slight"
    if better == "neither":
        return "differs"
    return "better" if (difference.mean > 0) == (better == "higher") else "worse"
