"""The form `:N` of a metric that has a curve: its mean over a stretch of latent frames."""

from collections.abc import Callable

from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Metric, Score
from rollout.errors import SpecError

__all__ = ["SPAN", "until"]

SPAN = 15
"""Latent frames that a metric's `:N` form looks at."""


def until(base: Metric, end: int) -> Callable[[Sample], Score | None]:
    """A metric over the 15 latent frames before frame `end`: the mean of its curve there."""

    def measure(sample: Sample) -> Score | None:
        score = base.measure(sample)
        if score is None:
            return None
        if score.curve is None:
            raise SpecError(
                f"the metric {base.name!r} has no curve over time, so ':{end}' means nothing. Leave it out."
            )
        low, high = float(end - SPAN), float(end)
        if score.curve.unit == "s":
            low, high = sample.seconds(max(0, end - SPAN)), sample.seconds(end)
        pairs = zip(score.curve.x, score.curve.y, strict=True)
        return Score(mean(y for x, y in pairs if y is not None and low <= x < high))

    return measure
