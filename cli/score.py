"""rollout score: metrics of any video, or of a run's folder."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.options import Plugin, load_plugins
from rollout.errors import OutputError
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.benchmarks.metrics.sample import Sample
    from rollout.benchmarks.metrics.score import Metric

__all__ = ["score"]


def score(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Videos, or folders that 'rollout gen' wrote.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B",
            help="Such as consistency@lite0; default: all that apply and need no weights.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, curves included.")] = False,
    plugin: Plugin = None,
) -> None:
    """Score videos; a run's folder also by what its plan, its record and its world know."""
    load_plugins(plugin)
    from rollout.benchmarks.metrics import METRICS, metric
    from rollout.benchmarks.metrics.sample import FOREIGN, applies, sample_of_run, sample_of_video

    rows: list[Json] = []
    metric_names = [name.strip() for name in metrics.split(",")] if metrics else None
    measures = [metric(name) for name in metric_names or METRICS]
    samples: list[tuple[Path, Sample]] = []
    bad = 0
    for path in videos:
        try:
            samples.append((path, sample_of_run(path) if path.is_dir() else sample_of_video(path)))
        except OutputError as error:
            bad += 1
            print(f"rollout: {error}", file=sys.stderr)
    measures = _comparable(measures, [sample for _, sample in samples], asked=metric_names is not None)
    for path, sample in samples:
        if sample.foreign:
            print(f"{path} {FOREIGN}", file=sys.stderr)
        row: Json = {"video": str(path), "scores": {}}
        try:
            for m in measures:
                if not applies(m.needs, sample):
                    if metric_names:
                        print(f"{path}: {m.name} is left out; it needs a {m.needs}, and there is none", file=sys.stderr)
                    continue
                one = m.measure(sample)
                if one is not None and (metric_names or one.value is not None):
                    row["scores"][m.name] = {"value": one.value, "unit": m.unit} | (
                        {"curve": one.curve.to_dict()} if one.curve else {}
                    )
        except OutputError as error:
            bad += 1
            print(f"rollout: {error}", file=sys.stderr)
            continue
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        _table(rows)
    if bad:
        raise typer.Exit(2)


def _comparable(measures: "Sequence[Metric]", samples: "Sequence[Sample]", *, asked: bool) -> "list[Metric]":
    """Without those that compare neighbouring frames, where videos have different frame rates. Raises OutputError if asked."""
    from rollout.benchmarks.metrics import of_neighbours

    rates = sorted({round(sample.fps, 2) for sample in samples})
    names = [m.name for m in measures if of_neighbours(m.name)]
    if len(rates) < 2 or not names:
        return list(measures)
    says = (
        f"the videos have {' and '.join(f'{rate:g}' for rate in rates)} frames a second, and {', '.join(names)} compare "
        "neighbouring frames"
    )
    if asked:
        raise OutputError(f"{says}. Bring the videos to one rate, or score them one at a time.")
    print(f"{says}: left out", file=sys.stderr)
    return [m for m in measures if m.name not in names]


def _table(rows: list[Json]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.results import number

    names = {name: cell["unit"] for row in rows for name, cell in row["scores"].items()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for n, row in enumerate(rows, 1):
        print(f"{n}: {row['video']}")
        table.add_column(str(n), justify="right")
    table.add_column("unit")
    for name, unit in names.items():
        table.add_row(name, *(number(row["scores"].get(name, {}).get("value")) for row in rows), unit)
    Console(markup=False, width=40 + 10 * len(rows)).print(table)
