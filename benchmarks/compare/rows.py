"""What the metrics say of a run, pixel frame by pixel frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rollout.benchmarks.compare.runs import Run
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.events import REACT, over_changes

__all__ = ["Change", "Row", "changes", "rows"]

Values = list[float | None]
"""One a pixel frame; None where there is nothing to say."""


@dataclass(frozen=True)
class Row:
    """One line under a pane: its name and values, shares of 1 or, where they have a unit, levels."""

    name: str
    values: Values
    unit: str = ""
    least: float = 0.0
    """What a scale of levels reaches at least: less is not worth a look."""


@dataclass(frozen=True)
class Change:
    """A change of action: the pixel frame at which it is asked, and the latent frames until it shows (15: not by then)."""

    frame: int
    reaction: int
    shown: int | None
    """The pixel frame from which it shows."""


def rows(runs: Sequence[Run]) -> list[list[Row]]:
    """The rows of each run, the same of all; a row that says nothing of any run is left out."""
    rows_by_run = [list(_of(run)) for run in runs]
    places = [
        n
        for n, rows_of_run in enumerate(zip(*rows_by_run, strict=True))
        if any(v is not None for row in rows_of_run for v in row.values)
    ]
    return [[rows_of_run[n] for n in places] for rows_of_run in rows_by_run]


def changes(run: Run) -> list[Change]:
    """When each change of action shows, in a world whose truth is known."""
    sample = run.sample
    if sample.world is None:
        return []
    pairs = over_changes(sample).items()
    return [Change(sample.pixel(b.start), r, None if r >= REACT else sample.pixel(b.start + r)) for b, r in pairs]


def _of(run: Run) -> Iterator[Row]:
    sample = run.sample
    if sample.world is not None:
        for name, by in (("action", "action"), ("subject", "identity"), ("scene", "background")):
            yield Row(name, _curve(by, run))
        yield Row("off path", _curve("position", run), "px", 2.0)
    else:
        change = [None, *map(float, sample.changes.mean)]
        yield Row("change", [*change, *[None] * (run.frames - len(change))], "grey", 8.0)
        yield Row("alike", _curve("consistency@pool8", run))


def _curve(name: str, run: Run) -> Values:
    """A metric's curve on the pixel frames that it speaks of."""
    sample, values = run.sample, Values([None] * run.frames)
    score = metric(name).measure(sample)
    if score is None or score.curve is None:
        return values
    span: Callable[[float], range] = (
        (lambda x: range(round(x * sample.fps), round(x * sample.fps) + 1))
        if score.curve.unit == "s"
        else (lambda x: range(sample.pixel(int(x)), sample.pixel(int(x) + 1)))
    )
    for x, y in zip(score.curve.x, score.curve.y, strict=True):
        for frame in span(x):
            if frame < run.frames:
                values[frame] = y
    return values
