"""Numbers as a reader wants them: as many digits as their intervals bear, and a true minus."""

import re
from collections.abc import Iterable, Mapping
from math import floor, log10
from statistics import median
from typing import Any

from markupsafe import Markup, escape

__all__ = ["breakable", "figure", "first_sentence", "interval", "places", "show", "ticked"]


def places(intervals: Iterable[Mapping[str, Any]]) -> int:
    """Decimals that suit values with these intervals: two digits of the usual half width."""
    intervals = list(intervals)
    halves = [half for f in intervals if f["low"] is not None and (half := (f["high"] - f["low"]) / 2) > 0]
    if halves:
        return min(5, max(0, 1 - floor(log10(median(halves)))))
    largest = max((abs(f["mean"]) for f in intervals), default=0)
    return min(5, max(0, 2 - floor(log10(largest)))) if largest > 0 else 0


def show(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A number as text."""
    if value is None:
        return "–"
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def figure(value: float) -> str:
    """A number alone: three digits that count."""
    return show(value, min(5, max(0, 2 - floor(log10(abs(value)))))) if value else "0"


def interval(data: Mapping[str, Any], decimals: int, *, signed: bool = False) -> str:
    """[low, high], or that one prompt has none."""
    if data["low"] is None:
        return "[one prompt]"
    low, high = (show(data[side], decimals, signed=signed) for side in ("low", "high"))
    return f"[{low}, {high}]"


def first_sentence(text: str) -> str:
    """What comes before the first full stop that ends a sentence."""
    return re.split(r"(?<=[.]) (?=[A-Z])", text, maxsplit=1)[0]


def ticked(text: str) -> Markup:
    """Text whose `names` are code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # the text was escaped


def breakable(name: str) -> Markup:
    """A name that may break after its punctuation."""
    out = ""
    for letter in name:
        out += escape(letter) + (Markup("<wbr>") if letter in "@_:=+,/-" else "")
    return Markup(out)  # noqa: S704  # every letter was escaped
