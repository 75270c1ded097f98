"""rollout bench report and results: what finished runs show, as a page and as Markdown."""

from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.result import AsJson, result

__all__ = ["Folder", "report", "results"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]


def report(folder: Folder, to: AsJson = None) -> None:
    """Write a page of what a run shows, DIR/report/index.html.

    Tables with intervals, curves, videos side by side, and pictures of the strategies.
    """
    from rollout.benchmarks.report import write_report
    from rollout.benchmarks.summary import summarise

    with result(to) as target:
        print(write_report(folder))
        if to is not None:
            target.give(summarise(folder).to_dict())


def results(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="The folders of finished runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A Markdown file.")] = Path("benchmarks/RESULTS.md"),
    force: Annotated[bool, typer.Option("--force", help="Drop the results of other runs that stand there.")] = False,
    to: AsJson = None,
) -> None:
    """Write what finished runs show into a Markdown file.

    Between the marks that it has; what stands around them stays. JSON has the summary of each run.
    """
    from rollout.benchmarks.results import write_results
    from rollout.benchmarks.summary import summarise

    with result(to) as target:
        write_results(folders, out, force=force)
        print(out)
        if to is not None:
            target.give([{"run": str(folder), **summarise(folder).to_dict()} for folder in folders])
