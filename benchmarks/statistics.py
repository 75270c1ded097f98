"""What a comparison comes to: paired differences, intervals that hold what they promise, and one word."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, isfinite
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.benchmarks.intervals import (
    Crossed,
    Estimate,
    Grid,
    Interval,
    band,
    estimate,
    grid_of,
    interval,
    plain,
    student,
)
from rollout.benchmarks.metrics.score import Better
from rollout.errors import RolloutError
from rollout.text import Json

__all__ = [
    "LEAST",
    "SEEN",
    "SENSIBLE",
    "Crossed",
    "Grid",
    "Interval",
    "Verdict",
    "Word",
    "band",
    "compare",
    "estimate",
    "holm",
    "interval",
    "paired",
    "student",
]

Word = Literal["better", "worse", "equivalent", "inconclusive", "cannot tell", "differs"]
"""The five words; `differs` stands for better or worse where a metric has no better direction."""
LEAST = 10
"""Prompts below which nothing is called better, worse or equivalent."""
SEEN = 0.8
"""How often a run finds a difference of the size that it is said to see."""
SENSIBLE = 100_000
"""Prompts or seeds above which no run is proposed."""
TARGETS = {"one": 1.0, "zero": 0.0}


@dataclass(frozen=True)
class Verdict:
    """How one strategy compares with another: a word, and the difference of means with its 95% interval.

    `visible`: the smallest true difference that four of five such runs would call one. `settles`: of how many prompts
    (`fixed`: seeds a prompt) a run would decide, if the difference is as it looks; None where it is decided or hopeless.
    `p`: two-sided, of no difference; None below `LEAST` prompts. `n`: pairs of rollouts. `fixed`: the prompts were
    taken as the whole population. `reason`: why the word is not a clearer one, where the interval alone does not say.
    """

    word: Word
    difference: float
    low: float
    high: float
    visible: float
    p: float | None = None
    n: int = 0
    prompts: int = 0
    settles: int | None = None
    fixed: bool = False
    reason: str = ""

    @property
    def decided(self) -> bool:
        """A difference was found."""
        return self.word in ("better", "worse", "differs")

    def to_dict(self) -> Json:
        """As JSON: the difference is `mean`, the word `verdict`, as in every summary.json."""
        row = {k: plain(v) for k, v in asdict(self).items()}
        return {"mean": row.pop("difference"), "verdict": row.pop("word")} | row


def compare(
    baseline: ArrayLike, other: ArrayLike, *, matters: float, better: Better = "higher", fixed: bool = False
) -> Verdict:
    """What `other` - `baseline` comes to on the same prompts and seeds: arrays (prompts, seeds), NaN where missing.

    A prompt counts once, by the mean over its seeds; the interval is Student's t over prompts. With `fixed` the prompts
    are the whole population, and chance is in the seeds alone: strata with a variance of their own and Welch's degrees
    of freedom (1947); that takes 2 seeds of every prompt, and without them the prompts count as a sample (see `fixed`
    of the verdict).

    Where the best is 1 or 0, distances of the means from it are compared: the difference is that of `other` less that
    of `baseline`, so that below 0 is better. |x| - |y| is min(|x - y|, |x + y|) with a sign, and its interval follows
    from those of x - y and x + y.

    `better` and `worse` take an interval without 0 and a difference of at least `matters`; `equivalent` an interval
    within +-`matters`, 0 or not; all else is `inconclusive`. What happens in less than 3 of n prompts may not be seen
    by n prompts, so where differences are rare and large the interval is too short. Raises RolloutError.
    """
    pair = paired(baseline, other, better)
    if not (isfinite(matters) and matters >= 0):
        raise RolloutError(f"a difference cannot matter from {matters} on. Give a number, 0 or more.")
    both = np.isfinite(pair[0])
    if not both.any():
        return Verdict("inconclusive", np.nan, -np.inf, np.inf, np.inf, reason="no prompt has both")
    sides = [estimate(values, fixed) for values in pair]
    prompts, population = int(both.any(1).sum()), bool(sides[0].fixed)
    difference, low, high, side = _folded(*sides) if len(sides) == 2 else _straight(sides[0])
    word, reason = _word(difference, low, high, prompts, matters, better)
    if fixed and not population:
        reason = "; ".join(filter(None, (reason, "for want of a second seed the prompts count as a sample")))
    return Verdict(
        word,
        difference,
        low,
        high,
        _reach(side),
        p=max(side.p for side in sides) if prompts >= LEAST else None,
        n=int(both.sum()),
        prompts=prompts,
        settles=_settles(side, both, abs(difference), matters) if word == "inconclusive" else None,
        fixed=population,
        reason=reason,
    )


def paired(baseline: ArrayLike, other: ArrayLike, better: Better = "higher") -> list[Grid]:
    """Differences on the same prompts and seeds; where the best is 0 or 1 also the sums of both distances from it.

    Raises RolloutError for shapes that do not go together.
    """
    if better not in get_args(Better):
        raise RolloutError(f"better is {better!r}. Use one of {', '.join(get_args(Better))}.")
    a, b = (grid_of(values) for values in (baseline, other))
    if a.shape != b.shape:
        raise RolloutError(f"values of shapes {a.shape} and {b.shape} are not of the same prompts and seeds.")
    there = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(there, a, np.nan), np.where(there, b, np.nan)
    apart = b - a
    apart[np.abs(apart) <= 1e-12 * np.maximum(np.abs(a), np.abs(b))] = 0.0  # the last digits are no difference
    return [apart, a + b - 2 * TARGETS[better]] if better in TARGETS else [apart]


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value adjusted for their number, in the same order (Holm 1979): below .05 is certain among all of them."""
    results = [1.0] * len(p_values)
    largest = 0.0
    for rank, n in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, float(p_values[n]) * (len(p_values) - rank)))
        results[n] = largest
    return results


def _straight(apart: Estimate) -> tuple[float, float, float, Estimate]:
    """A difference, its interval, and what its error is from."""
    mean, half = float(apart.mean), float(apart.half)
    return mean, mean - half, mean + half, apart


def _folded(apart: Estimate, total: Estimate) -> tuple[float, float, float, Estimate]:
    """The same for |x| - |y|, from x - y and x + y: it grows or falls in each, so its ends lie at theirs."""
    x, *x_ends, _ = _straight(apart)
    y, *y_ends, _ = _straight(total)
    corners = [_smaller(a, b) for a in x_ends for b in y_ends]
    return _smaller(x, y), min(corners), max(corners), apart if abs(x) <= abs(y) else total


def _smaller(apart: float, total: float) -> float:
    """|x| - |y| from x - y and x + y."""
    return float(min(abs(apart), abs(total)) * np.sign(apart) * np.sign(total))


def _word(difference: float, low: float, high: float, prompts: int, matters: float, better: Better) -> tuple[Word, str]:
    if prompts < LEAST:
        return "inconclusive", f"{prompts} prompt{'s' * (prompts != 1)}, and {LEAST} are the least for a mark"
    if -matters <= low and high <= matters:
        return "equivalent", ""
    if low <= 0 <= high:
        return "inconclusive", ""
    if abs(difference) < matters:
        return "inconclusive", "there is a difference, and it may be too small to matter"
    if better == "neither":
        return "differs", ""
    return ("better" if (difference > 0) == (better == "higher") else "worse"), ""


def _reach(side: Estimate) -> float:
    """The difference at which four of five intervals would lie clear of 0."""
    return float((student(side.freedom, 0.975) + student(side.freedom, SEEN)) * side.error)


def _settles(side: Estimate, both: NDArray[np.bool_], difference: float, matters: float) -> int | None:
    """Prompts (fixed: seeds of each) with which four of five runs decide, if the difference is as it looks."""
    from scipy.special import ndtri

    # a small difference has to stay clear of what matters on both sides
    gap, power = (difference, SEEN) if difference >= matters else (matters - difference, (1 + SEEN) / 2)
    error, prompts = float(side.error), int(both.any(1).sum())
    if not (isfinite(error) and gap > 0) or (side.fixed and prompts < LEAST):
        return None
    times = (float(ndtri(0.975) + ndtri(power)) * error / gap) ** 2
    count = times * both.sum() / prompts if side.fixed else max(LEAST, times * prompts + 2)  # 2: t is wider than z
    return ceil(count) if count <= SENSIBLE else None
