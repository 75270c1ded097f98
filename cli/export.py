"""rollout export: runs as other tools want them."""

from pathlib import Path
from typing import Annotated

import typer

from rollout.errors import SpecError
from rollout.text import hint

__all__ = ["FORMATS", "export"]

TABLES = ("csv", "jsonl", "latex")
FORMATS = ("vbench", "vbench-long", "png", *TABLES)


def export(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Folders of 'rollout gen', of its --prompts, or of a benchmark run."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="LIST",
            help="vbench: a folder a strategy of PROMPT-N.mp4, and prompts.json; of 5 s and more: vbench-long. png: the frames. "
            "Of a benchmark run any of csv, jsonl and latex, by commas: a line a rollout, and the means.",
        ),
    ] = "vbench",
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Of png: each N-th frame.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write runs as other tools want them: videos, frames, tables.

    Videos as VBench's own tools read them, frames as PNG, or tables as csv, jsonl and LaTeX. A folder a strategy, of several
    models a folder a strategy and model; of tables a folder a run.
    """
    formats = list(dict.fromkeys(word.strip() for word in layout.split(",")))
    for word in formats:
        if word not in FORMATS:
            raise SpecError(f"there is no format {word!r}. {hint(word, FORMATS)}Use {', '.join(FORMATS)}.")
    if len(formats) > 1 and not set(formats) <= set(TABLES):
        raise SpecError(f"--format {layout!r} is more than one thing to write. Only {', '.join(TABLES)} go together.")
    from rollout.benchmarks.export import export_frames, export_tables, export_vbench

    if formats[0] in TABLES:
        for name, files in export_tables(folders, out, formats, force=force).items():
            print(f"{out / name}: {', '.join(files)}")
    elif formats == ["png"]:
        for name, count in export_frames(folders, out, every=every, force=force).items():
            print(f"{out / name}: {count} picture{'s' * (count > 1)}")
    else:
        for name, count in export_vbench(folders, out, long=formats == ["vbench-long"], force=force).items():
            print(f"{out / name}: {count} video{'s' * (count > 1)}")
