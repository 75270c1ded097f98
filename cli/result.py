"""A command's result as JSON: on stdout with nothing else there, or whole in a file beside what is printed."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer

from rollout.errors import OutputError
from rollout.files import write_whole

__all__ = ["OPTION", "STDOUT", "AsJson", "Result", "result"]

STDOUT = "-"
OPTION = "--json"
AsJson = Annotated[
    str | None,
    typer.Option(
        OPTION,
        metavar="FILE|-",
        help="The result as JSON: into NAME.json too, or by - to stdout, and nothing else there.",
    ),
]


@dataclass(frozen=True)
class Result:
    """Where a result goes: a file's name, - for stdout, or None for nowhere."""

    to: str | None
    stdout: TextIO

    @property
    def alone(self) -> bool:
        """It goes to stdout, so that nothing is to be printed for people."""
        return self.to == STDOUT

    def give(self, data: object) -> None:
        """Write it as JSON. Raises OutputError."""
        self._write(json.dumps(data, indent=1).splitlines(keepends=True))

    def give_rows(self, rows: Iterable[object]) -> None:
        """Write a list with an object a line, as they come. Raises OutputError."""
        self._write(_list(rows))

    def _write(self, pieces: Iterable[str]) -> None:
        if self.to is None:
            return
        if self.alone:
            for piece in pieces:
                self.stdout.write(piece)
            self.stdout.write("\n")
            return

        def fill(path: Path) -> None:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(pieces)
                file.write("\n")

        write_whole(Path(self.to), fill)


def _list(rows: Iterable[object]) -> Iterator[str]:
    yield "["
    for n, row in enumerate(rows):
        yield (",\n " if n else "") + json.dumps(row)
    yield "]"


@contextmanager
def result(to: str | None) -> Iterator[Result]:
    """Where a command's result goes; what is printed meanwhile goes to stderr where the result has stdout for itself.

    Raises OutputError at once for a file that could not be written in the end.
    """
    if to is not None and to != STDOUT:
        path = Path(to)
        if not path.parent.is_dir() or path.is_dir() or not path.name:
            raise OutputError(f"--json {to!r} is no file in a folder that exists. Give another, or - for stdout.")
    target = Result(to, sys.stdout)
    with redirect_stdout(sys.stderr) if target.alone else nullcontext():
        yield target
