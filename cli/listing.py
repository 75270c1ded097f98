"""Lists for people: names with what is short, and below it what is long; wrapped for a terminal, whole in a pipe."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

__all__ = ["listed"]

INDENT, NARROWEST = 4, 20


def listed(head: str, texts: Iterable[str]) -> Iterator[str]:
    """The lines of one entry. The head is never wrapped: it is what one copies."""
    yield head
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for text in texts:
        plain = " ".join(text.split())
        if width is None:
            wrapped = [plain]
        else:  # words stay whole: file names, links and compositions hold hyphens
            wrapped = textwrap.wrap(
                plain, max(NARROWEST, width - INDENT), break_long_words=False, break_on_hyphens=False
            )
        yield from (" " * INDENT + line for line in wrapped)
