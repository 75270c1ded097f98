"""Figures as SVG inside a page: no ids that collide, the page's colours and fonts, few bytes."""

import re
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from markupsafe import Markup

from rollout.benchmarks.report.look import INK, PAPER, Look
from rollout.show.explain.picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inline", "swatch"]

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
ROLES = {colour: f"var(--{role})" for role, colour in COLOURS.items() if role != "folded"}
CSS = {INK: "currentColor", PAPER: "var(--paper)", **ROLES}
RECTANGLE = r"M(N) (N)L(N) \2L\3 (N)L\1 \4z".replace("N", r"[-\d.]+")
NUMBERS = ("d", "x", "y", "width", "height", "transform")


def inline(figure: "Figure", *, key: str, title: str, about: str) -> Markup:
    """A figure for the page; `key` is its own among the page's figures, `title` and `about` are read aloud."""
    from matplotlib import rc_context

    buffer, nothing = StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314  # what was just written
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', buffer.getvalue()))
    for element in root.iter():
        _clean(element, key, used)
    _drop_styles(root)
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    root.attrib = {
        "class": "chart",
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-about",
    }
    for tag, text in (("desc", about), ("title", title)):
        told = ET.Element(tag, {"id": f"{key}-{'title' if tag == 'title' else 'about'}"})
        told.text = text
        root.insert(0, told)
    return Markup(re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode")))  # noqa: S704  # ET escaped the texts


def _clean(element: ET.Element, key: str, used: set[str]) -> None:
    """One element: plain names, its own ids, two decimals, the page's colours."""
    element.tag = element.tag.removeprefix(SVG)
    name = element.attrib.pop("id", "")
    series = re.fullmatch(r"series-(\d+)(-quiet)?", name)
    if series:
        element.set("data-series", series[1])
        element.set("class", "quiet" if series[2] else "series")
    elif name in used:
        element.set("id", f"{key}-{name}")
    if f"{LINK}href" in element.attrib:
        element.set("href", f"#{key}-" + element.attrib.pop(f"{LINK}href")[1:])
    for attribute, value in element.attrib.items():
        if attribute in NUMBERS:
            element.set(attribute, _short(value))
        elif attribute == "clip-path":
            element.set(attribute, value.replace("#", f"#{key}-"))
        elif attribute == "style":
            element.set(attribute, re.sub("#[0-9a-f]{6}", _colour, re.sub(r"font-family: [^;]+;? ?", "", value)))
    if element.attrib.get("transform", "").startswith("rotate(0 ") or element.attrib.get("transform") == "":
        del element.attrib["transform"]


def _short(numbers: str) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), numbers)
    text = re.sub(r"\s*\n", "", re.sub(r"(?<=[A-Za-z]) ", "", text)).replace("rotate(-0 ", "rotate(0 ").strip()
    return re.sub(RECTANGLE, r"M\1 \2H\3V\4H\1z", text)


def _colour(match: re.Match[str]) -> str:
    colour = match[0]
    return f"var(--s{int(colour[5:], 16)})" if colour.startswith("#0103") else CSS.get(colour, colour)


def _drop_styles(root: ET.Element) -> None:
    """Remove metadata and the style sheet for `*`, which would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "style" or child.tag.endswith("metadata") or (child.tag == "defs" and not _kept(child)):
                parent.remove(child)


def _kept(defs: ET.Element) -> bool:
    return any(child.tag != "style" for child in defs)


def swatch(look: Look) -> Markup:
    """A strategy's line and marker, for legends."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    style = MarkerStyle(look.marker)
    shape = style.get_path().transformed(style.get_transform())
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    parts: Iterable[str] = (
        letters[code] + (" ".join(f"{12 + 7 * n if i % 2 == 0 else 6 - 7 * n:.2f}" for i, n in enumerate(numbers)))
        if code != Path.CLOSEPOLY
        else "Z"
        for numbers, code in shape.iter_segments()
    )
    return Markup(
        '<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true" style="color:var(--s{})">'
        '<path d="M0 6H24" fill="none" stroke="currentColor" stroke-width="1.6" stroke-dasharray="{}"/>'
        '<path d="{}" fill="currentColor"/></svg>'
    ).format(look.tone, " ".join(f"{n:g}" for n in look.dash) or "none", Markup(" ").join(parts))
