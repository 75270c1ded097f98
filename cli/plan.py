"""rollout bench plan: how large a run must be to see a difference."""

from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import SuiteError

__all__ = ["plan"]


def plan(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A shipped suite or a .toml file.")],
    see: Annotated[str, typer.Option(metavar="METRIC=DIFFERENCE", help="What to see, such as reaction=1.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The pilot's folder; default: runs/SUITE.")] = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Say how large a run must be to see a difference.

    In prompts, seeds and minutes, from what varied in a finished run of the suite.
    """
    load_plugins(plugin)
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.power import plan_run
    from rollout.benchmarks.results import number
    from rollout.benchmarks.suites.reader import load_suite

    metric, difference = _asked(see)
    name = load_suite(suite, metrics=False).name
    folder = out or Path("runs") / name
    with result(to) as target:
        answer = plan_run(folder, name, metric, difference)
        seeds = "seed" if answer.seeds == 1 else "seeds"
        amount = "1 frame" if (difference, answer.unit) == (1, "frames") else f"{difference:g} {answer.unit}"
        print(
            f"{folder}: {answer.strategies} strategies x {answer.prompts} prompts x {answer.seeds} {seeds} could have seen "
            f"{number(answer.visible)} {answer.unit} of {metric} ({answer.pair[0]} against {answer.pair[1]} varies most)"
        )
        if answer.sizes:
            print(f"to see {amount} in four of five runs:")
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in ("prompts", "seeds", "rollouts", "of them new", "minutes"):
                table.add_column(column, justify="right")
            for size in answer.sizes:
                minutes = f"{size.minutes:.0f}" if size.minutes >= 10 else f"{size.minutes:.1f}"
                table.add_row(*map(str, (size.prompts, size.seeds, size.rollouts, size.new)), minutes)
            Console(markup=False).print(table)
            print("prompts are the suite's draw, seeds its seeds, or --add-seeds of 'rollout bench run'")
        else:
            print(f"no run of a sensible size would see {amount}")
        for note in answer.notes:
            print(f"note: {note}")
        target.give({"run": str(folder), **asdict(answer)})


def _asked(see: str) -> tuple[str, float]:
    """METRIC=DIFFERENCE. Raises SuiteError."""
    metric, _, text = see.rpartition("=")
    try:
        difference = float(text)
    except ValueError:
        difference = 0.0
    if not metric or not 0 < difference < float("inf"):
        raise SuiteError(f"--see {see!r} is not METRIC=DIFFERENCE with a number above 0. Write --see action=0.02.")
    return metric, difference
