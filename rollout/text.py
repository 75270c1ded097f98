"""Small things that many places need: the form of JSON, what went wrong, what may have been meant, what a rule says of itself."""

import errno
import inspect
import os
import re
from collections.abc import Iterable
from itertools import takewhile
from operator import eq
from typing import Any

__all__ = ["STEM", "WHAT_TO_DO", "Json", "cause", "disk_error", "first_paragraph", "hint", "nearest"]

Json = dict[str, Any]
"""An object on its way to or from a file, a page or a wire: the form of a value, whose meaning a type says."""


def cause(error: BaseException) -> str:
    """The first line of a foreign error: what the system says of a file, else the message, else the error's kind."""
    lines = (getattr(error, "strerror", None) or str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


WHAT_TO_DO = {
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some space.",
    errno.EROFS: "Choose another place.",
    errno.EACCES: "Choose another place, or ask who owns it.",
    errno.EPERM: "Choose another place, or ask who owns it.",
    errno.ENOENT: "Was it moved or removed meanwhile?",
}
"""For what the system says of a file."""


def disk_error(error: OSError) -> str:
    """What the system says of a file, with its path and what to do, in one line."""
    path = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{path}{cause(error)}. {WHAT_TO_DO.get(error.errno or 0, 'Is the disk still there?')}"


STEM = 6
"""Letters at least that two words begin with to be forms of one, such as relative and relativistic."""


def hint(name: str, names: Iterable[str]) -> str:
    """The words "Did you mean 'NAME'? " of the nearest known name; nothing where none differs by a slip alone."""
    near = nearest(name, names)
    return "" if near is None else f"Did you mean {near!r}? "


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name that is nearest; None where none differs by a slip alone."""
    near = [(sum(edits), known) for known in names if (edits := _slips(name.casefold(), known.casefold()))]
    return min(near)[1] if near else None


def _slips(name: str, known: str) -> list[int]:
    """The edits of each word of a name where every word is near its counterpart, else nothing."""
    words, others = (re.split(r"[^\w.]|_", text[:100]) for text in (name, known))
    if len(words) != len(others):
        return []
    edits = [_edits(word, other) for word, other in zip(words, others, strict=True)]
    near = all(map(_near, words, others, edits))
    return edits if near else []


def _near(word: str, other: str, edits: int) -> bool:
    """A slip of the finger, or another form of the word; another number is another thing."""
    number, other_number = (re.sub(r"\D", "", text) for text in (word, other))
    if number and other_number and number != other_number:
        return False
    stem = len(list(takewhile(bool, map(eq, word, other))))
    # the first letter is wrong only where it changed its place: 'clip' means no 'slip'
    first = stem > 0 or word[:2] == other[:2][::-1]
    return (edits <= max(1, len(word) // 3) and first) or stem >= max(STEM, 3 * len(word) // 4)


def _edits(word: str, other: str) -> int:
    """Letters that are inserted, left out, replaced or swapped with their neighbour (the optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(word):
        earlier, before, row = before, row, [i + 1]
        for j, opposite in enumerate(other):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (letter != opposite)))
            if i and j and letter == other[j - 1] and word[i - 1] == opposite:
                row[-1] = min(row[-1], earlier[j - 1] + 1)
    return row[-1]


def first_paragraph(item: object) -> str:
    """The first paragraph of a docstring on one line, without marks for code."""
    return " ".join((inspect.getdoc(item) or "").split("\n\n")[0].replace("`", "").split())
