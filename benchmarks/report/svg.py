"""Figures as SVG inside a page: no ids that collide, the page's colours and fonts, few bytes."""

import re
from io import StringIO
from typing import TYPE_CHECKING

from markupsafe import Markup

from rollout.show.explain.picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "WIDTH", "inline"]

INK, WIDTH = "#010203", 3.8
"""The stand-in for the colour of the page's text, which follows light and dark, and inches."""
PAGE = {INK: "currentColor"} | {colour: f"var(--{role})" for role, colour in COLOURS.items() if role != "folded"}
ELSEWHERE = r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|xlink:(?=href)|font-family: [^;]+;? ?"
"""What a file of its own needs and a page does not."""


def inline(figure: "Figure", *, key: str, title: str, about: str) -> Markup:
    """A figure for the page; `key` is its own among the page's figures, `title` and `about` are read aloud."""
    from matplotlib import rc_context

    buffer = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = re.sub(ELSEWHERE, "", buffer.getvalue(), flags=re.DOTALL)
    ids = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r' id="([\w-]+)"', lambda m: m[0] if m[1] in ids else "", text)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{key}-", text)
    text = re.sub("#[0-9a-f]{6}", lambda m: PAGE.get(m[0], m[0]), text)
    text = re.sub("<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d+", _short, tag[0]), text)
    text = re.sub(r">\s+<", "><", re.sub(r"(?<=[A-Za-z]) (?=[-\d.]+ [-\d.]+\s*\n)|\s*\n(?=[A-Zz])", "", text))
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    body = Markup(text[text.index(">") + 1 :])  # noqa: S704  # matplotlib escaped the texts
    head = Markup('<svg class="chart" {} role="img" aria-label="{}">')
    return head.format(Markup(box[0]), f"{title}. {about}") + body  # noqa: S704  # four numbers


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
