"""The picture of frame-level attention maps: who looks at whom, with what is a sink, a memory, and where something changed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.show.attention.map import ROLES, FrameMap
from rollout.show.explain.picture import COLOURS, INK, LINE, SIZE, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

__all__ = ["draw"]

SHADES = ("#edf4fa", "#56b4e9", "#0072b2", "#08243c")
"""From nothing to much; what was not cached is white."""
LEFT, RIGHT, BELOW, GAP, BAR = 0.5, 0.62, 0.4, 0.3, 0.09
"""Inches: margins (on the right the scale), what is between panels, the scale's width."""
STREAM = 0.13
"""Inches of a memory's column."""
LETTER = 0.54 * SIZE / 72
"""Inches of a letter, on average."""


def draw(maps: Sequence[FrameMap], titles: Sequence[str] = (), *, width: float | None = None) -> "Figure":
    """Maps side by side on one scale: a row a frame that looks, a column a frame looked at, memories apart on the left.

    `width` in inches; default: 4.6 for one map, 9 for more.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.figure import Figure

    wide = width or (4.6 if len(maps) == 1 else 9.0)
    strips = [STREAM * len(frame_map.labels) + (0.08 if frame_map.labels else 0) for frame_map in maps]
    side = (wide - LEFT - RIGHT - GAP * (len(maps) - 1) - sum(strips)) / len(maps)
    top = LINE * (2.4 + 1.4 * bool(titles))
    height = BELOW + side + top
    figure = Figure(figsize=(wide, height), facecolor="white")
    shades = LinearSegmentedColormap.from_list("attention", SHADES)
    norm = PowerNorm(
        0.5, 0, max([float(m.max()) for frame_map in maps for m in (frame_map.M, frame_map.memory) if m.size] + [1e-6])
    )
    x = LEFT
    for n, (frame_map, strip) in enumerate(zip(maps, strips, strict=True)):
        axes = figure.add_axes(((x + strip) / wide, BELOW / height, side / wide, side / height))
        _panel(axes, frame_map, shades, norm)
        _changes(axes, frame_map, side)
        if frame_map.labels:
            box = (x / wide, BELOW / height, STREAM * len(frame_map.labels) / wide, side / height)
            _memory(figure.add_axes(box, sharey=axes), frame_map, shades, norm)
            axes.tick_params(labelleft=False)
        if n < len(titles):
            place = (x / wide, 1 - 0.04 / height)
            figure.text(*place, titles[n], **_font(size=SIZE + 0.5, weight="bold", va="top"))
        x += strip + side + GAP
    figure.text(0.01, (BELOW + side / 2) / height, "the frame that looks", **_font(rotation=90, va="center"))
    _scale(figure, (1 - (RIGHT - 0.12) / wide, BELOW / height, BAR / wide, side / height), shades, norm)
    return figure


def _font(**more: Any) -> dict[str, Any]:
    return {"size": SIZE - 0.5, "color": INK, "parse_math": False, **more}


def _plain(axes: "Axes") -> None:
    axes.spines[:].set(color=INK, alpha=0.35, linewidth=0.7)
    axes.tick_params(labelsize=SIZE - 0.5, labelcolor=INK, color=(0, 0, 0, 0), length=2, pad=1)


def _panel(axes: "Axes", frame_map: FrameMap, shades: "Colormap", norm: "Normalize") -> None:
    """The map itself, its sinks under a bar of their colour, rows of given frames grey."""
    from matplotlib.ticker import MaxNLocator

    _plain(axes)
    shares = np.ma.masked_where((frame_map.roles == 0) | ~frame_map.watched[:, None], frame_map.M)
    axes.imshow(shares, cmap=shades, norm=norm, aspect="auto")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    for first, last in runs(np.flatnonzero(~frame_map.watched).tolist()):
        axes.axhspan(first - 0.5, last + 0.5, color=INK, alpha=0.07, lw=0)
        inside = _font(ha="right", va="center", transform=axes.get_yaxis_transform())
        axes.text(0.98, (first + last) / 2, "given", **inside)
    apart = f", {frame_map.seconds[-1] - frame_map.seconds[-2]:.3g} s each" if len(frame_map.seconds) > 1 else ""
    axes.set_xlabel(f"the frame looked at{apart}", size=SIZE - 0.5, color=INK, labelpad=2)
    sinks = runs(np.flatnonzero((frame_map.roles == ROLES.index("sink")).any(0)).tolist())
    for first, last in sinks:
        _bar(axes, first, last, "sink", len(frame_map.M))
    if sinks:
        _above(axes, sinks[0][0], "sink", 0)


def _above(axes: "Axes", column: int, text: str, line: int) -> None:
    """Words over a map, from a column on; line 0 is the lowest."""
    offset = (0, 72 * (0.08 + LINE * line))
    axes.annotate(text, (column - 0.5, 1), offset, axes.get_xaxis_transform(), "offset points", **_font())


def _bar(axes: "Axes", first: int, last: int, role: str, frames: int) -> None:
    """A bar over columns in the colour of their role, wide enough to be seen."""
    from matplotlib.patches import Rectangle

    size = max(last - first + 1, 0.008 * frames), 0.015
    over: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False, "gid": role}
    axes.add_patch(Rectangle((first - 0.5, 1.006), *size, color=COLOURS[role], lw=0, **over))


def _memory(axes: "Axes", frame_map: FrameMap, shades: "Colormap", norm: "Normalize") -> None:
    """The memory's streams, a column each, blank where there is none."""
    _plain(axes)
    axes.imshow(np.ma.masked_equal(frame_map.memory, 0), cmap=shades, norm=norm, aspect="auto")
    axes.set_xticks(
        range(len(frame_map.labels)), [label.removeprefix("memory ") for label in frame_map.labels], rotation=90
    )
    axes.set_xlabel("memory", size=SIZE - 0.5, color=INK, labelpad=2)
    _bar(axes, 0, len(frame_map.labels) - 1, "memory", 0)


def _changes(axes: "Axes", frame_map: FrameMap, side: float) -> None:
    """Lines where a prompt changed (dashed) and where a cut fell (solid), named above as far as there is room."""
    edges = [change.frame for change in frame_map.changes] + [len(frame_map.M)]
    for change, (a, b) in zip(frame_map.changes, pairwise(edges), strict=True):
        style: Any = "-" if change.kind == "cut" else (0, (3, 2))
        for line in (axes.axvline, axes.axhline):
            line(change.frame - 0.5, color=INK, lw=0.8, ls=style, alpha=0.6, gid=change.kind)
        names = f"{change.kind}: {change.cache}", change.kind
        letters = ((b - a) / len(frame_map.M) * side + GAP * (b == edges[-1])) / LETTER
        _above(axes, a, next((name for name in names if len(name) <= letters), ""), 1)


def _scale(figure: "Figure", box: tuple[float, float, float, float], shades: "Colormap", norm: "Normalize") -> None:
    """The scale of shares, in percent."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import PercentFormatter

    axes = figure.add_axes(box)
    bar = figure.colorbar(ScalarMappable(norm, shades), cax=axes, format=PercentFormatter(1, decimals=0))
    high = float(norm.vmax or 1)
    bar.set_ticks([t for t in (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1) if t <= high])
    bar.outline.set_visible(False)
    _plain(axes)
    axes.set_title("share", size=SIZE - 0.5, color=INK, pad=4, loc="left")
