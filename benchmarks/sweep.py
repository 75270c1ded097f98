"""Curves over the numeric axis of a suite, and what they come to in one number: a half-life or a rate."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.intervals import band, plain, student
from rollout.benchmarks.metrics.score import Better
from rollout.text import Json

__all__ = ["Curve", "Fit", "Unfit", "fit_half_life", "fit_rate", "kind_of", "sweep"]

Numbers = NDArray[np.float64]
Kind = Literal["half-life", "rate"]
LEAST = 4
"""Points of a decay at least, since it has three parameters, and prompts of any fit."""
EXPLAINED = {"half-life": 0.8, "rate": 0.5}
"""The share of a mean curve's variance below which a form is none that it has."""
FARTHEST = 3.0
"""Half-lives beyond this many times the axis' range, or below the first value by as much, are guesses."""
VAGUE = 10.0
"""Half-lives that are not known within this factor are none."""


@dataclass(frozen=True)
class Fit:
    """A curve in one number with its 95% interval: the half-life of an exponential decay, or the slope of a line.

    `explained`: the share of the mean curve's variance that the form explains; `levels_at`: where the decay ends.
    """

    kind: Kind
    value: float
    low: float
    high: float
    explained: float
    levels_at: float | None = None

    def to_dict(self) -> Json:
        """As JSON."""
        return {name: plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Unfit:
    """Why a curve is not one number."""

    kind: Kind | None
    reason: str

    def to_dict(self) -> Json:
        """As JSON."""
        return {"kind": self.kind, "value": None, "reason": self.reason}


@dataclass(frozen=True)
class Curve:
    """The mean over prompts at each value of an axis, its 95% band, and what it comes to."""

    mean: Numbers
    low: Numbers
    high: Numbers
    fit: Fit | Unfit

    def to_dict(self) -> Json:
        """As JSON, None where there is no number."""
        sides = {name: [plain(float(v)) for v in getattr(self, name)] for name in ("mean", "low", "high")}
        return sides | {"fit": self.fit.to_dict()}


def kind_of(unit: str, better: Better) -> Kind | None:
    """What a metric's curve should come to: shares that are lost have a half-life, errors that grow a rate."""
    if unit == "share" and better == "higher":
        return "half-life"
    return "rate" if better == "lower" else None


def sweep(x: Sequence[float], values: Numbers, kind: Kind | None, *, fixed: bool = False) -> Curve:
    """The curve of values (prompts, seeds, points) over `x`, and its fit."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, low, high = band(values, fixed=fixed)
    if kind is None:
        return Curve(mean, low, high, Unfit(None, "neither a share that is lost nor an error that grows"))
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        curves = np.where(there, values, 0).sum(1) / there.sum(1)
    complete = curves[np.isfinite(curves).all(-1)]
    form = fit_half_life if kind == "half-life" else fit_rate
    return Curve(mean, low, high, form(x, complete))


def fit_half_life(x: Sequence[float], curves: Numbers) -> Fit | Unfit:
    """An exponential decay towards a level of its own, on the mean of curves (prompts, points); the jackknife over prompts.

    y = level + (start - level) 2^(-x / h), with 0 <= level. The interval is Student's t on log h.
    """
    at = np.asarray(x, float)
    short = _too_few(at, curves, "half-life", LEAST)
    if short:
        return short
    mean, order = curves.mean(0), np.argsort(at)
    fall = curves[:, order[0]] - curves[:, order[-1]]
    if fall.mean() - _half(fall) <= 0:
        return Unfit("half-life", "it does not fall along the axis")
    half_life, level, share = _decay(at, mean)
    if share < EXPLAINED["half-life"]:
        return Unfit("half-life", f"it falls, and not as an exponential does, which explains {share:.0%}")
    if half_life > FARTHEST * np.ptp(at):
        return Unfit("half-life", f"it falls too little within the axis: the half-life lies beyond {at.max():g}")
    if half_life < at.min() / FARTHEST:
        return Unfit("half-life", f"it has fallen before {at.min():g}, the first value of the axis")
    half = _jackknife(curves, lambda part: float(np.log(_decay(at, part)[0])))
    if not np.isfinite(half) or half > np.log(VAGUE):
        return Unfit("half-life", f"the half-life, {half_life:.3g}, is not known within a factor of {VAGUE:g}")
    low, high = np.exp(np.log(half_life) + np.array([-half, half]))
    return Fit("half-life", half_life, float(low), float(high), share, level)


def fit_rate(x: Sequence[float], curves: Numbers) -> Fit | Unfit:
    """The slope of a line through the mean of curves (prompts, points); the jackknife over prompts."""
    at = np.asarray(x, float)
    short = _too_few(at, curves, "rate", LEAST - 1)
    if short:
        return short
    slope, share = _line(at, curves.mean(0))
    half = _jackknife(curves, lambda part: _line(at, part)[0])
    if share < EXPLAINED["rate"] and abs(slope) > half:
        return Unfit("rate", f"it changes, and not along a line, which explains {share:.0%}")
    return Fit("rate", slope, slope - half, slope + half, share)


def _too_few(at: Numbers, curves: Numbers, kind: Kind, points: int) -> Unfit | None:
    if len(at) < points:
        return Unfit(kind, f"{len(at)} values of the axis are too few, {points} are the least")
    if len(curves) < LEAST:
        return Unfit(kind, f"{len(curves)} prompts have a value everywhere, and {LEAST} are the least")
    return None


def _line(at: Numbers, y: Numbers) -> tuple[float, float]:
    """Slope, and the share of variance that the line explains."""
    slope, start = np.polyfit(at, y, 1)
    return float(slope), _explained(y, start + slope * at)


def _decay(at: Numbers, y: Numbers) -> tuple[float, float, float]:
    """Half-life, level and explained share of the best decay: for each half-life the rest is linear."""
    grid = np.geomspace(np.diff(np.unique(at)).min() / 20, 20 * np.ptp(at), 240)
    for _ in range(3):  # ever finer around the best
        levels, curves = _levels(at, y, grid)
        best = int(np.argmin(((y - curves) ** 2).sum(-1)))
        half_life, level, curve = float(grid[best]), float(levels[best]), curves[best]
        grid = np.geomspace(grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)], 40)
    return half_life, level, _explained(y, curve)


def _levels(at: Numbers, y: Numbers, half_lives: Numbers) -> tuple[Numbers, Numbers]:
    """For each half-life the best level, 0 or more, to which y falls, and the decay (half-lives, points)."""
    left = 2.0 ** (-(at - at.min()) / half_lives[:, None])
    design = np.stack([1 - left, left], -1)
    ends = np.linalg.pinv(design) @ y
    below = ends[:, 0] < 0
    ends[below] = np.stack([np.zeros(below.sum()), (left @ y / (left**2).sum(-1))[below]], -1)
    return ends[:, 0], (design @ ends[..., None])[..., 0]


def _explained(y: Numbers, curve: Numbers) -> float:
    total = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - curve) ** 2).sum() / total) if total > 1e-18 else 1.0


def _jackknife(curves: Numbers, number: Callable[[Numbers], float]) -> float:
    """Half the width of the 95% interval of a number of the mean curve, from leaving out each prompt once."""
    n, total = len(curves), curves.sum(0)
    left_out = np.array([number((total - curve) / (n - 1)) for curve in curves])
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return float(student(n - 1, 0.975) * error)


def _half(values: Numbers) -> float:
    """Half the width of the 95% interval of a mean."""
    return float(student(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
