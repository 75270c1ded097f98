"""rollout bench leaderboard: one page and one table over finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.options import Force, Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import SpecError

__all__ = ["leaderboard"]


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR", help="The folders of finished runs.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Any of html, csv, jsonl and latex, by commas.")
    ] = "html,csv,jsonl,latex",
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What marks are against; default: the strategy with the most answers."),
    ] = None,
    force: Force = False,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Rank strategies over several runs, by use and cost.

    Writes a page, and the same table as csv, jsonl and LaTeX.
    """
    load_plugins(plugin)
    from rollout.benchmarks.leaderboard import FILES, write_leaderboard
    from rollout.benchmarks.leaderboard.lines import lines_of
    from rollout.benchmarks.leaderboard.notes import unfinished
    from rollout.benchmarks.leaderboard.records import records

    words = [word.strip() for word in formats.split(",") if word.strip()]
    for word in words or [formats]:
        if word not in FILES:
            raise SpecError(f"there is no format {word!r}. Use any of {', '.join(FILES)}.")
    with result(to) as target:
        board = write_leaderboard(runs, out, formats=words, baseline=baseline, force=force)
        for section in board:
            print(f"{section.title}; marks are against {section.baseline.name}")
            for text in unfinished(section.runs):
                print(f"  not finished: {text}")
            for line in lines_of(section):
                print(f"  {line}")
        for name in dict.fromkeys(words):
            print(out / FILES[name])
        target.give(records(board))
