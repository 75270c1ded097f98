"""check_metric: whether a metric keeps the promises of Metric, on made-up videos."""

import math
from collections.abc import Iterator
from typing import get_args

import numpy as np

from rollout.backend import Spec
from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Better, Metric, Needs, Score
from rollout.errors import CheckError, RolloutError
from rollout.registry import find, names
from rollout.run.video import Frames
from rollout.script import Script
from rollout.timeline import retrace
from rollout.world import Act

__all__ = ["check_metric"]

FPS = 8.0
SECONDS = 1.5
"""Of each of the shots of a made-up plan."""


def check_metric(metric: object) -> None:
    """Try a metric on noise and on stills of 1, 2 and 9 frames, and on a video with a plan or a world where it needs one.

    It gives a Score with a finite value, or None where it does not apply; the same for the same video, which it leaves as
    it is; a curve has a value or None for every x, and x rises. Raises CheckError (an AssertionError), in one line.
    """
    if not isinstance(metric, Metric):
        raise CheckError(
            f"{metric!r:.60} is no Metric: make one of its name, function, unit, what is better and what it says."
        )
    if metric.better not in get_args(Better) or metric.needs not in get_args(Needs):
        raise CheckError(
            f"metric '{metric.name}' says better={metric.better!r}, needs={metric.needs!r}: use one of "
            f"{', '.join(get_args(Better))} and of {', '.join(get_args(Needs))}."
        )
    if not metric.about.strip() or not (math.isfinite(metric.matters) and metric.matters >= 0):
        raise CheckError(
            f"metric '{metric.name}' has no about, or matters={metric.matters:g}, which is no size of a difference."
        )
    for what, sample in _samples(metric.needs):
        frames = np.array(sample.video)
        score = _measured(metric, what, sample)
        if not np.array_equal(frames, np.array(sample.video)):
            raise CheckError(f"metric '{metric.name}' changes the frames of {what} that it measures.")
        again = Sample(frames, sample.fps, sample.spec, sample.blocks, sample.prompts)  # which has measured nothing yet
        if _measured(metric, what, again) != score:
            raise CheckError(f"metric '{metric.name}' gives {what} two scores.")


def _measured(metric: Metric, what: str, sample: Sample) -> Score | None:
    """A score that is whole. Raises CheckError."""
    try:
        score = metric.measure(sample)
    except Exception as error:
        reason = str(error) if isinstance(error, RolloutError) else f"{type(error).__name__}: {error}"
        raise CheckError(f"metric '{metric.name}' fails on {what}: {reason}") from error
    subject = f"metric '{metric.name}' gives {what}"
    if score is None:
        return None
    if not isinstance(score, Score):
        raise CheckError(f"{subject} {score!r:.60}: a Score, or None where it does not apply.")
    numbers = [score.value] if score.curve is None else [score.value, *score.curve.x, *score.curve.y]
    for number in numbers:
        if number is not None and not (isinstance(number, float | int) and math.isfinite(number)):
            raise CheckError(f"{subject} the number {number!r:.60}: a finite one, or None where there is none.")
    if score.curve is not None and (
        len(score.curve.x) != len(score.curve.y) or list(score.curve.x) != sorted(set(score.curve.x))
    ):
        raise CheckError(f"{subject} a curve of {len(score.curve.x)} x and {len(score.curve.y)} y: one a rising x.")
    return score


def _samples(needs: str) -> Iterator[tuple[str, Sample]]:
    """Videos of what a metric needs, each with what it is."""
    draw = np.random.default_rng(0)
    if needs == "world":
        for name in names("backends"):
            if find("backends", name).has_world:
                yield f"the world of '{name}'", _of_world(name)
        return
    spec = Spec("check", 1, 1, 12, (4, 2, 2), (2, 2), (2, 2, 2), stride=1, fps=FPS)
    script = Script.parse(f"a[{SECONDS}s] | b[{SECONDS}s] | b[{SECONDS}s#]")
    blocks, prompts = retrace(script, spec, ())
    for count in (1, 2, 9, blocks[-1].end):
        plan = (spec, blocks, prompts) if count == blocks[-1].end else (None, (), ())
        if needs == "video" or plan[0] is not None:
            noise: Frames = draw.integers(0, 256, (count, 16, 16, 3), np.uint8)
            yield f"{count} frames of noise", Sample(noise, FPS, *plan)
            yield f"a still of {count} frames", Sample(np.repeat(noise[:1], count, 0), FPS, *plan)


def _of_world(name: str) -> Sample:
    """The true video of a world's own example, with a cut to itself in the middle."""
    entry = find("backends", name)
    spec, world = entry.spec(), entry.world
    script = Script.parse(f"{world.example}[{SECONDS}s] | {world.example}[{SECONDS}s#]")
    blocks, prompts = retrace(script, spec, ())
    frames = blocks[-1].end // 2
    truth = world.truth([Act(world.example, frames), Act(world.example, frames, cut=True)], 0)
    return Sample(truth.video(), spec.fps, spec, blocks, prompts)
