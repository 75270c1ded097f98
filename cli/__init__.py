"""The command line: one file a command, and the only place that prints."""

import sys
from typing import Annotated

import typer

from rollout import __version__
from rollout.cli import bench, explain, export, gen, ls, score, study, weights
from rollout.errors import RolloutError, ScriptError

app = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rollout {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Roll out autoregressive video diffusion under any composition of cache policy and positional scheme."""


app.command("gen")(gen.gen)
app.command("explain")(explain.explain)
app.command("ls")(ls.ls)
app.command("score")(score.score)
app.command("export")(export.export)
app.add_typer(bench.app, name="bench")
app.add_typer(study.app, name="study")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """The `rollout` command: bad input gives one line on stderr and exit code 2."""
    try:
        app()
    except RolloutError as error:
        print(f"rollout: {error}", file=sys.stderr)
        if isinstance(error, ScriptError) and error.pointer() and sys.stderr.isatty():
            print(error.pointer(), file=sys.stderr)
        raise SystemExit(2) from None
