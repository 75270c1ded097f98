"""The command line: one file a command, and the only place that prints."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from rollout import __version__
from rollout.cli import (
    attn,
    bench,
    cite,
    compare,
    doctor,
    explain,
    export,
    fork,
    gen,
    live,
    ls,
    rerun,
    resume,
    score,
    study,
    weights,
)
from rollout.cli.line import CommandLine
from rollout.cli.parallel import one_voice
from rollout.errors import RolloutError, ScriptError, Stopped
from rollout.text import cause, disk_error, hint

__all__ = ["app", "main"]

app = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
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
app.command("resume")(resume.resume)
app.command("fork")(fork.fork)
app.command("rerun", cls=CommandLine)(rerun.rerun)
app.command("live", cls=CommandLine)(live.live)
app.command("explain", cls=CommandLine)(explain.explain)
app.command("attn", cls=CommandLine)(attn.attn)
app.command("doctor", cls=CommandLine)(doctor.doctor)
app.command("ls", cls=CommandLine)(ls.ls)
app.command("cite", cls=CommandLine)(cite.cite)
app.command("compare", cls=CommandLine)(compare.compare)
app.command("score", cls=CommandLine)(score.score)
app.command("export")(export.export)
app.add_typer(bench.app, name="bench")
app.add_typer(study.app, name="study")
app.add_typer(weights.app, name="weights")


@contextmanager
def _warnings() -> Iterator[None]:
    """What the library logs is a line on stderr."""
    log, handler = logging.getLogger("rollout"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("rollout: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _typers(error: Any) -> str:
    """What typer has against a command line: a page of help as it is, else a line; a hint only where a name is near."""
    message = str(error.format_message())
    if "\n" in message:
        return message
    wrong, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if isinstance(wrong, str) and context is not None and message.startswith("No such option"):
        options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        message = f"No such option: {wrong}. {hint(wrong, options)}".rstrip()
    return f"rollout: {message}{'' if message.endswith(('.', '?')) else '.'} See --help.".replace("?.", "?")


def main() -> None:
    """The `rollout` command: bad input gives one line on stderr and exit code 2, a stop 130 or 143."""
    try:
        with one_voice(sys.argv[1:]), _warnings():
            code = app(standalone_mode=False)
    except RolloutError as error:
        print(f"rollout: {error}", file=sys.stderr)
        if isinstance(error, ScriptError) and error.pointer() and sys.stderr.isatty():
            print(error.pointer(), file=sys.stderr)
        raise SystemExit(error.code if isinstance(error, Stopped) else 2) from None
    except OSError as error:  # whatever a disk may do between any two of our lines
        print(f"rollout: {disk_error(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except MemoryError as error:
        print(f"rollout: memory ran out: {cause(error)}. Ask for less.", file=sys.stderr)
        raise SystemExit(2) from None
    except typer.Abort:
        raise SystemExit(130) from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: a wrong option or argument
            raise
        print(_typers(error), file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)
