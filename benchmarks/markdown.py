"""Text inside Markdown: names and sentences of suites, prompts and folders are shown as they are, whatever they hold."""

import re

__all__ = ["as_code", "as_text"]

SIGNS = re.compile(r"[\\`*\[\]|~$#!{}]|(?<!\w)_|_(?!\w)|^[-+=]|^\d+(?=[.)](?:\s|$))")
"""What begins something of Markdown's own: code, stress, a link, a cell, mathematics, a heading, a list."""
UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What would move a terminal's cursor, or is no text at all."""
TAGS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(text: str) -> str:
    """Text as Markdown shows it as it is, on one line: it has no cell, tag, link, stress or heading of its own."""
    line = _line(text)
    signs = SIGNS.sub(lambda sign: f"{sign[0]}\\" if sign[0].isdigit() else f"\\{sign[0]}", line)
    return re.sub("[&<>]", lambda tag: TAGS[tag[0]], signs)


def as_code(text: str) -> str:
    """The same, set as code, in a cell of a table too."""
    line = _line(text)
    return f"`{line}`" if re.fullmatch("[^`|]+", line) else f"<code>{as_text(line)}</code>"


def _line(text: str) -> str:
    return UNPRINTED.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
