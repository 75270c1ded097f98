"""rollout score: metrics of any video, or of a run's folder."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.options import Plugin, load_plugins
from rollout.text import Json

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
    for path in videos:
        sample = sample_of_run(path) if path.is_dir() else sample_of_video(path)
        if sample.foreign:
            print(f"{path} {FOREIGN}", file=sys.stderr)
        scores = {m: m.measure(sample) for m in measures if applies(m.needs, sample)}
        row: Json = {"video": str(path), "scores": {}}
        for m, one in scores.items():
            if one is not None and (metric_names or one.value is not None):
                row["scores"][m.name] = {"value": one.value, "unit": m.unit} | (
                    {"curve": one.curve.to_dict()} if one.curve else {}
                )
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _table(rows)


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
