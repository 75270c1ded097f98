"""rollout score: metrics of any video, or of a run's folder."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, Result, result
from rollout.errors import OutputError, RolloutError
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.benchmarks.metrics.sample import Sample
    from rollout.benchmarks.metrics.score import Metric

__all__ = ["score"]


def score(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Videos, or folders that 'rollout gen' wrote.")],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B",
            help="Such as consistency@lite0; default: all that apply and need no weights.",
        ),
    ] = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Score any video, or the folder of a run.

    A run's folder also by what its plan, its record and its world know. JSON has the curves too.
    """
    load_plugins(plugin)
    with result(to) as target:
        _score(videos, metrics, target)


def _score(videos: Sequence[Path], metrics: str | None, target: Result) -> None:
    from rollout.benchmarks.metrics import METRICS, metric, of_neighbours
    from rollout.benchmarks.metrics.sample import FOREIGN, sample_of_run, sample_of_video

    metric_names = [name.strip() for name in metrics.split(",")] if metrics else None
    measures = [metric(name) for name in metric_names or METRICS]
    samples: list[tuple[Path, Sample]] = []
    for path in videos:
        with _told(path, alone=len(videos) == 1):
            samples.append((path, sample_of_run(path) if path.is_dir() else sample_of_video(path)))
    if metric_names:  # said before anything is measured
        problem = _mixed([sample.fps for _, sample in samples], metric_names)
        if problem:
            raise OutputError(f"{problem}. Bring the videos to one rate, or score them one at a time.")
    rows: list[Json] = []
    for path, sample in samples:
        if sample.foreign:
            print(f"{path} {FOREIGN}", file=sys.stderr)
        with _told(path, alone=len(videos) == 1):
            scores = _scores(path, sample, measures, asked=metric_names is not None, aloud=not target.alone)
            rows.append({"video": str(path), "fps": sample.fps, "scores": scores})
    problem = _mixed([row["fps"] for row in rows], [m.name for m in measures])
    if problem:  # of the videos that could be scored
        print(f"{problem}: left out", file=sys.stderr)
        for row in rows:
            row["scores"] = {name: score for name, score in row["scores"].items() if not of_neighbours(name)}
    target.give(rows)
    if rows and not target.alone:
        _table(rows)
    if len(rows) < len(videos) or (metric_names and not all(row["scores"] for row in rows)):
        raise typer.Exit(2)


@contextmanager
def _told(path: Path, *, alone: bool) -> Iterator[None]:
    """What is wrong with a file is said, and the next one follows; one alone raises RolloutError."""
    try:
        yield
    except RolloutError as error:
        if alone:
            raise
        text = str(error)
        print(f"rollout: {text if str(path) in text else f'{path}: {text}'}", file=sys.stderr)


def _scores(path: Path, sample: "Sample", measures: "Sequence[Metric]", *, asked: bool, aloud: bool) -> Json:
    """The scores of a video as JSON. A metric that was asked for is there or named; another has a value, or says why not."""
    from rollout.benchmarks.metrics.sample import applies
    from rollout.benchmarks.metrics.score import Score

    scores: Json = {}
    for m in measures:
        if not applies(m.needs, sample):
            if asked:
                print(f"{path}: {m.name} is left out; it needs a {m.needs}, and there is none", file=sys.stderr)
            continue
        score = m.measure(sample) or Score(None)
        if score.value is None and (asked or (score.why and aloud)):
            print(f"{path}: {m.name} has no figure: {score.why or 'nothing in it to measure'}", file=sys.stderr)
        if asked or score.why or score.value is not None:
            why = {"why": score.why} if score.why else {}
            curve = {"curve": score.curve.to_dict()} if score.curve else {}
            scores[m.name] = {"value": score.value, "unit": m.unit} | why | curve
    return scores


def _mixed(rates: Sequence[float], names: Sequence[str]) -> str:
    """What is wrong with putting metrics of videos of these frame rates side by side; nothing where nothing is."""
    from rollout.benchmarks.metrics import of_neighbours
    from rollout.run.clip import SAME

    distinct = sorted({round(rate, 2) for rate in rates})
    neighbours = [name for name in names if of_neighbours(name)]
    if not distinct or distinct[-1] <= distinct[0] * (1 + SAME) or not neighbours:
        return ""
    return (
        f"the videos have {' and '.join(f'{rate:g}' for rate in distinct)} frames a second, and {', '.join(neighbours)} "
        "compare neighbouring frames"
    )


def _table(rows: list[Json]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.metrics import metric
    from rollout.benchmarks.metrics.score import directed
    from rollout.benchmarks.results import number

    names = {name: cell["unit"] for row in rows for name, cell in row["scores"].items()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for n, row in enumerate(rows, 1):
        print(f"{n}: {row['video']}, {row['fps']:.4g} frames a second")
        table.add_column(str(n), justify="right")
    table.add_column("unit, better", no_wrap=True)
    for name, unit in names.items():
        values = (number(row["scores"].get(name, {}).get("value")) for row in rows)
        table.add_row(name, *values, directed(unit, metric(name).better))
    Console(markup=False, width=52 + 10 * len(rows)).print(table)
