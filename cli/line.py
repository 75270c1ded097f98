"""A command line as it may be written beside what its options are declared as: --json alone, and older names."""

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from rollout.cli.result import OPTION, STDOUT

__all__ = ["OLDER", "CommandLine"]

OLDER = {"--to": "--out", "--pane": "--strategy"}
"""Options by the names that they once had, which help does not show."""


class CommandLine(TyperCommand):
    """Reads --json alone as --json -: a word after it is its file if it is - or ends in .json.

    Where the command takes no arguments any word is; --json=FILE takes any name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write all of it as declared."""
        names = {name for parameter in self.params for name in parameter.opts}
        words = self._today(args, names)
        return super().parse_args(ctx, list(self._json(words) if OPTION in names else words))

    def _today(self, args: list[str], names: set[str]) -> Iterator[str]:
        """Options under today's names; what follows -- is none."""
        end = args.index("--") if "--" in args else len(args)
        for word in args[:end]:
            name, equals, value = word.partition("=")
            known = name not in names and OLDER.get(name) in names
            yield f"{OLDER[name]}{equals}{value}" if known else word
        yield from args[end:]

    def _json(self, args: Iterator[str]) -> Iterator[str]:
        alone = not any(parameter.param_type_name == "argument" for parameter in self.params)
        words = list(args)
        n = 0
        while n < len(words):
            word, n = words[n], n + 1
            if word == "--":
                yield from words[n - 1 :]
                return
            if word != OPTION:
                yield word
                continue
            following = words[n] if n < len(words) else ""
            belongs = following == STDOUT or following.endswith(".json") or (alone and following[:1] not in ("", "-"))
            yield f"{OPTION}={following if belongs else STDOUT}"
            n += belongs
