"""Metrics of any video, against the same metric of the world's own video: what a rollout has too little or too much of."""

from collections.abc import Callable

from rollout.benchmarks.metrics import video
from rollout.benchmarks.metrics.facts import facts
from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Curve, Score

__all__ = ["consistency_from_truth"]


def consistency_from_truth(extractor: str) -> Callable[[Sample], Score | None]:
    """VBench's consistency less that of the world's own video of the same script, start and seed.

    0 is as consistent as the truth; more is too still, less changes too much. Strategies are compared by how far their
    means are from 0. The formula by itself rewards stillness: a true walker has less of it than a true stander.
    """
    consistency = video.consistency(extractor)

    def measure(sample: Sample) -> Score | None:
        score, true = consistency(sample), consistency(_true(sample))
        if score is None or true is None or score.value is None or true.value is None or score.curve is None:
            return None
        pairs = zip(score.curve.y, true.curve.y if true.curve is not None else (), strict=True)
        gaps = [None if a is None or b is None else a - b for a, b in pairs]
        return Score(score.value - true.value, Curve(score.curve.x, gaps, score.curve.unit))

    return measure


def _true(sample: Sample) -> Sample:
    """The world's own video of a sample's script; once a sample, whose features are then shared."""
    if "true" not in sample.facts:
        sample.facts["true"] = Sample(facts(sample).truth.video(), sample.fps)
    true: Sample = sample.facts["true"]
    return true
