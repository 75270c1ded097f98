"""What the charts of a report are made of: axes, text, and letters that keep out of each other's way."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from rollout.benchmarks.report.look import INK, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LETTER", "WIDTH", "above", "font", "letters", "named", "panel", "short", "size", "spread", "whole"]

WIDTH, TEXT = 3.8, 8.0
"""Inches and points."""
LETTER = 4.8
"""Points that a letter takes, or a little less."""


def size(look: Look, points: float) -> float:
    """Markers with thin arms are larger, so that they are seen as easily."""
    return points * {"*": 1.6, "P": 1.2, "X": 1.2}.get(look.marker, 1)


def short(name: str, most: int) -> str:
    """A name where there is room for `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def font(**more: Any) -> dict[str, Any]:
    """A chart's text."""
    return {"size": TEXT, "color": INK, "parse_math": False, **more}


def panel(height: float, *, left: float = 0.42, right: float = 0.12, top: float = 0.12) -> "Axes":
    """One pair of axes, `height` inches high, with as little around it as can be."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    bottom = 0.38
    whole = height + top + bottom
    figure = Figure(figsize=(WIDTH, whole))
    box = (left / WIDTH, bottom / whole, (WIDTH - left - right) / WIDTH, height / whole)
    axes: Axes = figure.add_axes(box, facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.35, linewidth=0.7)
    axes.tick_params(labelsize=TEXT, labelcolor=INK, length=0, pad=3)
    axes.grid(color=INK, alpha=0.1, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return axes


def whole(axes: "Axes") -> "Figure":
    """The figure of a panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def letters(axes: "Axes", ends: Sequence[tuple[Look, float, float]]) -> None:
    """A letter beside each line's end, apart from one another, each with a hair to its end."""
    low, high = axes.get_ylim()
    height = axes.bbox.height / whole(axes).dpi * 72
    gap = min(1.12 * TEXT / height, 1 / max(1, len(ends)))
    span = [y for _, _, y in ends] or [0]
    if len(ends) > 3 and max(span) - min(span) < (high - low) / 50:
        axes.text(1.02, (span[0] - low) / (high - low), "all", transform=axes.transAxes, **font(va="center"))
        return
    inside = sorted(((y - low) / (high - low), n) for n, (_, _, y) in enumerate(ends))
    spots = spread([y for y, _ in inside], gap)
    right = axes.get_xlim()[1]
    for (y, n), spot in zip(inside, spots, strict=True):
        look, x, value = ends[n]
        axes.annotate(
            look.letter,
            (x, value),
            (1.035, spot),
            textcoords="axes fraction",
            arrowprops=hair(look) if abs(spot - y) > gap / 2 or x < right - (right - axes.get_xlim()[0]) / 20 else None,
            gid=look.gid,
            annotation_clip=False,
            **font(color=look.colour, weight="bold", va="center"),
        )


def hair(look: Look) -> dict[str, Any]:
    """A thin line from a letter to what it names."""
    return {"arrowstyle": "-", "color": look.colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 0}


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Sorted places in 0..1 at least `gap` apart and as near to those that are wanted as a sweep up and down makes them."""
    spots = list(wanted)
    for n in range(1, len(spots)):
        spots[n] = max(spots[n], spots[n - 1] + gap)
    limit = 1.0
    for n in reversed(range(len(spots))):
        spots[n] = min(spots[n], limit)
        limit = spots[n] - gap
    return spots


def above(axes: "Axes", points: float) -> Any:
    """An offset that puts text at the figure's left edge, `points` above the axes."""
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(-0.42, points / 72, whole(axes).dpi_scale_trans)


def named(axes: "Axes", points: Sequence[tuple[Look, float, float]]) -> None:
    """Each point's letter at the first free place around it."""
    axes.autoscale_view()
    scale = 72 / whole(axes).dpi
    at = [tuple(float(v) * scale for v in axes.transData.transform((x, y))) for _, x, y in points]
    taken: list[tuple[float, float]] = []
    around = [(dx * r, dy * r) for r, dx, dy in product((8, 13, 18, 24, 30), (1, -1), (0.8, -0.8, 0.3, -0.3))]
    for (look, x, y), (px, py) in zip(points, at, strict=True):

        def crowd(move: tuple[float, float], px: float = px, py: float = py) -> float:
            spot = px + move[0], py + move[1]
            near = [max(abs(spot[0] - a), abs(spot[1] - b)) for a, b in (*at, *taken)]
            return sum(max(0.0, 8 - d) for d in near) + 0.02 * (abs(move[0]) + abs(move[1]))

        best = min(around, key=crowd)
        taken.append((px + best[0], py + best[1]))
        style = font(color=look.colour, weight="bold", ha="center", va="center")
        arrow = hair(look) if abs(best[0]) > 8 else None
        axes.annotate(look.letter, (x, y), best, textcoords="offset points", arrowprops=arrow, gid=look.gid, **style)
