"""Small things that many places need: the form of JSON, what went wrong, what may have been meant, what a rule says of itself."""

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = ["Json", "cause", "first_paragraph", "hint"]

Json = dict[str, Any]
"""An object on its way to or from a file, a page or a wire: the form of a value, whose meaning a type says."""


def cause(error: BaseException) -> str:
    """The first line of a foreign error: what the system says of a file, else the message, else the error's kind."""
    lines = (getattr(error, "strerror", None) or str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


def hint(name: str, names: Iterable[str]) -> str:
    """The words "Did you mean 'NAME'? " of the closest known name; nothing where none is close."""
    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}? " if near else ""


def first_paragraph(item: object) -> str:
    """The first paragraph of a docstring on one line, without marks for code."""
    return " ".join((inspect.getdoc(item) or "").split("\n\n")[0].replace("`", "").split())
