"""Means and 95% intervals: Student's t over prompts, or over seeds where the prompts are the whole population."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.errors import RolloutError
from rollout.text import Json

__all__ = ["Crossed", "Estimate", "Grid", "Interval", "band", "estimate", "grid_of", "interval", "plain", "student"]

Grid = NDArray[np.float64]
"""(prompts, seeds) values of one strategy under one metric; NaN where there is none."""


@dataclass(frozen=True)
class Interval:
    """A mean over prompts with its 95% interval, from `n` rollouts; infinite ends where one prompt alone has values."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> Json:
        """As JSON, None for an infinite end."""
        return {k: plain(v) for k, v in asdict(self).items()}


class Estimate(NamedTuple):
    """Means over prompts, their standard errors and degrees of freedom, each of the shape behind (prompts, seeds)."""

    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    freedom: NDArray[np.float64]
    fixed: NDArray[np.bool_]
    """Whether the prompts were taken as the whole population."""

    @property
    def half(self) -> NDArray[np.float64]:
        """Half the width of the 95% interval."""
        return np.asarray(student(self.freedom, 0.975) * self.error)

    @property
    def p(self) -> float:
        """Of one mean: two-sided, of 0."""
        from scipy.special import stdtr

        if not self.error:
            return float(self.mean == 0)
        return float(2 * stdtr(self.freedom, -abs(self.mean / self.error)))


def student(freedom: ArrayLike, share: float) -> NDArray[np.float64]:
    """Student's t below which a share of its values lie."""
    from scipy.special import stdtrit  # a quarter of a second, which no other command should wait for

    return np.asarray(stdtrit(freedom, share))


def estimate(values: NDArray[np.float64], fixed: bool = False) -> Estimate:
    """Means of values (prompts, seeds, ...), a prompt by the mean over its seeds; the error of one prompt is infinite.

    `fixed`: the prompts are strata that are all there, each with a variance of its own over seeds, under Welch's degrees
    of freedom (1947). That takes 2 seeds of every prompt; without them the prompts are taken as a sample.
    """
    there = np.isfinite(values)
    seeds = there.sum(1)
    counted_prompts = seeds > 0
    prompts = counted_prompts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        prompt_means = np.where(there, values, 0).sum(1) / seeds
        mean = np.where(counted_prompts, prompt_means, 0).sum(0) / prompts
        spread = np.where(counted_prompts, (prompt_means - mean) ** 2, 0).sum(0) / (prompts - 1)
        error = np.where(prompts < 2, np.inf, np.sqrt(spread / prompts))
        freedom = np.maximum(prompts - 1.0, 1)
        if not fixed:
            return Estimate(mean, error, freedom, np.zeros(mean.shape, bool))
        squares = np.where(there, (values - prompt_means[:, None]) ** 2, 0).sum(1)
        variances = np.where(counted_prompts, squares / (seeds - 1) / seeds, 0)  # the variance of each prompt's mean
        most = np.where(counted_prompts, seeds - 1.0, 0).sum(0)
        welch = variances.sum(0) ** 2 / (variances**2 / (seeds + 1)).sum(0) - 2
        welch = np.clip(np.where(np.isfinite(welch), welch, most), 1, np.maximum(most, 1))
        as_population = (prompts > 0) & (~counted_prompts | (seeds >= 2)).all(0)
        error = np.where(as_population, np.sqrt(variances.sum(0)) / prompts, error)
    return Estimate(mean, error, np.where(as_population, welch, freedom), np.asarray(as_population))


def interval(values: ArrayLike, *, fixed: bool = False) -> Interval | None:
    """The mean of values (prompts, seeds) with its interval; None where there are no values. Raises RolloutError."""
    grid = grid_of(values)
    there = np.isfinite(grid)
    if not there.any():
        return None
    over = estimate(grid, fixed)
    mean, half = float(over.mean), float(over.half)
    return Interval(mean, mean - half, mean + half, int(there.sum()))


def band(curves: NDArray[np.float64], *, fixed: bool = False) -> tuple[Grid, Grid, Grid]:
    """Mean, low and high (points,) of curves (prompts, seeds, points), point by point as `interval` has them."""
    over = estimate(curves, fixed)
    return over.mean, over.mean - over.half, over.mean + over.half


def grid_of(values: ArrayLike) -> Grid:
    """As (prompts, seeds); one row of numbers is prompts under one seed. Raises RolloutError."""
    grid = np.asarray(values, dtype=np.float64)
    grid = grid[:, None] if grid.ndim == 1 else grid
    if grid.ndim != 2:
        raise RolloutError(f"values of shape {grid.shape} are no (prompts, seeds).")
    return grid


def plain(value: Any) -> Any:
    """For JSON: six digits, which small p values need behind the zeros, and None for what is no number."""
    if not isinstance(value, float):
        return value
    if not isfinite(value):
        return None
    return float(f"{value:.6g}" if abs(value) < 1e-3 else f"{value:.6f}")


class Crossed:
    """Resamples rows, and groups of columns, each with replacement: every rater judges the same videos.

    The pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122), which is slightly too wide rather than too narrow.
    """

    def __init__(self, rows: int, groups: Sequence[int], *, draws: int = 4000) -> None:
        generator = np.random.default_rng(0)
        count = max(groups) + 1
        upright = generator.multinomial(rows, [1 / rows] * rows, draws)
        across = generator.multinomial(count, [1 / count] * count, draws)[:, list(groups)]
        self.weights = (upright[:, :, None] * across[:, None, :]).reshape(draws, -1).astype(np.float64)

    def interval(self, values: Grid) -> Interval | None:
        """The mean of values (rows, columns) and its percentile interval; None where there are no values."""
        flat = values.reshape(-1)
        there = np.isfinite(flat)
        if not there.any():
            return None
        with np.errstate(invalid="ignore"):
            means = (self.weights @ np.where(there, flat, 0)) / (self.weights @ there)
        low, high = np.nanpercentile(means, [2.5, 97.5])
        return Interval(float(flat[there].mean()), float(low), float(high), int(there.sum()))
