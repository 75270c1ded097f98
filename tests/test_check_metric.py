"""check_metric: every metric that ships keeps its promises, and one that breaks a promise is refused with its reason."""

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from rollout import Curve, Metric, Sample, Score, check_metric
from rollout.errors import CheckError
from rollout.registry import find, names


@pytest.mark.parametrize("name", [name for name in names("metrics") if "no-metric" not in name])
def test_what_ships_keeps_its_promises(name: str) -> None:
    check_metric(find("metrics", name))


def grey(sample: Sample) -> float:
    return float(np.mean([frame.mean() for frame in sample.frames()]))


def brightens(sample: Sample) -> Score:
    for frame in sample.frames():
        np.maximum(frame, 255 - frame, out=frame)
    return Score(1.0)


number = count()


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (grey, "gives 1 frames of noise 1"),
        (lambda sample: Score(float("nan")), "the number nan: a finite one, or None"),
        (lambda sample: Score(np.zeros(3)), r"the number array\(\[0., 0., 0.\]\)"),
        (lambda sample: Score(float(next(number))), "gives 1 frames of noise two scores"),
        (lambda sample: Score(1.0, Curve([0.0, 1.0], [1.0], "frame")), "a curve of 2 x and 1 y"),
        (lambda sample: Score(1.0, Curve([1.0, 0.0], [1.0, 1.0], "frame")), "one a rising x"),
        (lambda sample: Score(1 / (len([*sample.frames()]) - 2)), "fails on 2 frames of noise: ZeroDivisionError"),
        (brightens, "changes the frames of 1 frames of noise"),
    ],
)
def test_a_broken_metric_is_refused_with_its_reason(measure: Callable[[Sample], Score], says: str) -> None:
    with pytest.raises(CheckError, match=says):
        check_metric(Metric("mine", measure, "share", "neither", "Mine."))


def test_what_says_too_little_is_refused() -> None:
    with pytest.raises(CheckError, match="is no Metric: make one"):
        check_metric(grey)
    with pytest.raises(CheckError, match="better='more', needs='video': use one of higher, lower"):
        check_metric(Metric("mine", brightens, "share", "more", "Mine."))  # type: ignore[arg-type]
    with pytest.raises(CheckError, match="has no about, or matters=0"):
        check_metric(Metric("mine", brightens, "share", "higher", " "))
    with pytest.raises(CheckError, match="matters=-1"):
        check_metric(Metric("mine", brightens, "share", "higher", "Mine.", matters=-1))


@pytest.mark.parametrize(("needs", "blocks"), [("video", False), ("plan", True), ("world", True)])
def test_a_metric_gets_what_it_needs(needs: str, blocks: bool) -> None:
    samples = []

    def measure(sample: Sample) -> Score | None:
        samples.append(sample)
        return None

    check_metric(Metric("mine", measure, "share", "higher", "Mine.", needs=needs))  # type: ignore[arg-type]
    assert all(bool(sample.blocks) >= blocks for sample in samples)
    assert any(sample.blocks for sample in samples)
    assert all(sample.world is not None for sample in samples) == (needs == "world")
