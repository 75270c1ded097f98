"""rollout export: a run's videos as other tools want them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Format", "export"]


class Format(StrEnum):
    """Layouts."""

    VBENCH = "vbench"
    VBENCH_LONG = "vbench-long"


def export(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Folders of 'rollout gen', of its --prompts, or of a benchmark run."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    layout: Annotated[
        Format,
        typer.Option(
            "--format",
            help="vbench: a folder a strategy of PROMPT-N.mp4, and prompts.json; of 5 s and more: vbench-long.",
        ),
    ] = Format.VBENCH,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write runs as other tools want them.

    A folder a strategy that VBench's own tools read; of several models a folder a strategy and model.
    """
    from rollout.benchmarks.export import export_vbench

    for name, count in export_vbench(folders, out, long=layout is Format.VBENCH_LONG, force=force).items():
        print(f"{out / name}: {count} video{'s' * (count > 1)}")
