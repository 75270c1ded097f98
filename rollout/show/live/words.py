"""What an error says on a page: errors speak of options and of Python, and here there are buttons."""

import re

__all__ = ["for_page"]

BUTTONS = (
    (r"Encode the history again.*", "Choose another strategy in its list, and press Use."),
    (r"Start a rollout of its own.*", "Choose another strategy in its list, and press Use."),
    (
        r"Shorten the script or use .*",
        "Choose a strategy with relativistic or online positions in its list, and press Use.",
    ),
    (r"Choose another --out or free some space.*", "Free some space, and press Save again."),
    (r"Choose another --out.*", "Press Save again once that is mended."),
    (r"Wait for it, or choose another --out.*", "Wait for it, and press Save again."),
)
"""Advice that has a button here."""


def for_page(text: str) -> str:
    """An error's text without options of the command line: such a sentence names a button, or is left out."""
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", text)
    return " ".join(filter(None, map(_sentence, sentences)))


def _sentence(text: str) -> str:
    for pattern, says in BUTTONS:
        if re.fullmatch(pattern, text):
            return says
    return "" if re.search(r"(^|[\s('])--[a-z]", text) else text
