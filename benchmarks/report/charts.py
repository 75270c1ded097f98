"""Charts: data in, a figure out, in stand-in colours and small enough to be legible on a phone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.benchmarks.report.axes import LETTER, WIDTH, above, font, letters, named, panel, short, size, whole
from rollout.benchmarks.report.look import INK, PAPER, Look
from rollout.benchmarks.report.numbers import interval, places, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["scatter"]

EVENTS = {"switch": (0, (3, 2)), "cut": "-"}
DECIDED = ("better", "worse", "differs")


@dataclass(frozen=True)
class Row:
    """One paired difference of a forest plot: `look`'s strategy less the one with the letter `other`."""

    look: Look
    other: str
    found: Mapping[str, Any]


def forest(rows: Sequence[Row], *, unit: str, better: str, names: bool = True) -> "Figure":
    """Differences with their intervals around a line at zero, the first row on top; filled where the verdict is clear."""
    texts = [_numbers(row.found) for row in rows]
    aside = 0.1 + LETTER / 72 * max(map(len, texts))
    step = 0.36 if names else 0.2
    axes = panel(step * len(rows), left=0.1 if names else 0.5, right=0.1 if names else aside, top=0.22)
    spans = [_span(row.found) for row in rows]
    reach = max(max(abs(low), abs(high), 1e-9) for low, high in spans) * 1.06
    axes.set(xlim=(-reach, reach), ylim=(len(rows), 0), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=INK, linewidth=0.9)
    for n, row in enumerate(rows):
        y, look, found = n + (0.72 if names else 0.5), row.look, row.found
        fill = look.colour if found["verdict"] in DECIDED else PAPER
        dot: dict[str, Any] = {"ms": size(look, 5.5), "mfc": fill, "mec": look.colour, "mew": 1.3}
        axes.plot(spans[n], [y, y], color=look.colour, lw=1.8, gid=look.row)
        axes.plot([found["mean"]], [y], look.marker, gid=look.row, **dot)
        (_named if names else _lettered)(axes, n, row, texts[n])
    axes.set_xlabel(f"difference, {unit}", **font(labelpad=3))
    if better != "neither":
        words = ("worse", "better →") if better == "higher" else ("← better", "worse")
        for x, word, side in ((-6, words[0], "right"), (6, words[1], "left")):
            style = font(ha=side, alpha=0.75)
            axes.annotate(word, (0, 1), (x, 4), axes.get_xaxis_transform(), "offset points", **style)
    return whole(axes)


def _span(found: Mapping[str, Any]) -> tuple[float, float]:
    """An interval, or the mean alone where there is none."""
    return (found["mean"],) * 2 if found["low"] is None else (found["low"], found["high"])


def _numbers(found: Mapping[str, Any]) -> str:
    """A difference and its interval, with digits of its own: a small one and a large one stand side by side."""
    decimals = places([found])
    return f"{show(found['mean'], decimals, signed=True)} {interval(found, decimals, signed=True)}"


def _named(axes: "Axes", n: int, row: Row, numbers: str) -> None:
    """A row's letter and name above its interval, and its numbers across from them."""
    beside, style = axes.get_yaxis_transform(), font(va="center")
    axes.annotate(
        row.look.letter, (0, n + 0.3), xycoords=beside, **font(va="center", color=row.look.colour, weight="bold")
    )
    axes.annotate(
        short(row.look.name, int((WIDTH * 72 - 40) / LETTER) - len(numbers)),
        (0, n + 0.3),
        (11, 0),
        beside,
        "offset points",
        **style,
    )
    axes.text(1, n + 0.3, numbers, transform=beside, ha="right", **style)
    if n:
        axes.axhline(n, color=INK, alpha=0.1, lw=0.6)


def _lettered(axes: "Axes", n: int, row: Row, numbers: str) -> None:
    """Two letters to the left of an interval, its numbers to the right."""
    beside, style = axes.get_yaxis_transform(), font(va="center")
    axes.text(-0.03, n + 0.5, f"{row.look.letter} − {row.other}", transform=beside, ha="right", **style)
    axes.text(1.03, n + 0.5, numbers, transform=beside, **style)


def curves(
    lines: Sequence[tuple[Look, Mapping[str, Any]]],
    *,
    xlabel: str,
    share: bool = False,
    events: Sequence[tuple[float, str]] = (),
) -> "Figure":
    """Means with their bands; letters name the lines at their ends."""
    import numpy as np

    axes = panel(2.0, right=0.3, top=0.2 if events else 0.12)
    ends, every = [], max(1, len(lines[0][1]["x"]) // 7)
    for n, (look, curve) in enumerate(lines):
        x, mean, low, high = (np.array(curve[k], dtype=float) for k in ("x", "mean", "low", "high"))
        axes.fill_between(
            x, low, high, color=look.colour, alpha=0.14 if len(lines) <= 4 else 0.07, lw=0, gid=f"{look.gid}"
        )
        start = (n * every) // len(lines)
        style: dict[str, Any] = {
            "ls": (0, look.dash) if look.dash else "-",
            "marker": look.marker,
            "ms": size(look, 3.6),
            "markevery": (start, every),
        }
        axes.plot(x, mean, color=look.colour, lw=1.4, gid=look.gid, **style)
        known = np.flatnonzero(np.isfinite(mean))
        if len(known) and not look.quiet:
            ends.append((look, float(x[known[-1]]), float(mean[known[-1]])))
    inside = [x for _, x, _ in ends] or [lines[0][1]["x"][-1]]
    axes.set_xlim(lines[0][1]["x"][0], max(inside))
    if share:
        least = min((y for _, curve in lines for y in curve["low"] if y is not None), default=0)
        axes.set_ylim(*((-0.04, 1.06) if least < 0.5 else (0.48, 1.03)))
    for at, kind in [event for event in events if event[0] <= max(inside)]:
        axes.axvline(at, color=INK, lw=0.9, ls=EVENTS[kind], alpha=0.7)
        word = "cut" if kind == "cut" else "new prompt"
        if len(events) <= 3:
            axes.annotate(word, (at, 1), (0, 3), axes.get_xaxis_transform(), "offset points", **font(ha="center"))
    axes.set_xlabel(xlabel, **font(labelpad=3))
    letters(axes, ends)
    return whole(axes)


def cumulative(values: Sequence[tuple[Look, Sequence[float]]], *, limit: float, xlabel: str) -> "Figure":
    """The share of rollouts whose value is reached by x, up to `limit`, at which nothing had happened."""
    axes = panel(2.0, right=0.3)
    ends = []
    for n, (look, found) in enumerate(values):
        some = sorted(v for v in found if v < limit)
        x = [0.0, *some, limit]
        y = [0.0, *((i + 1) / len(found) for i in range(len(some))), len(some) / len(found)]
        dash: Any = (0, look.dash) if look.dash else "-"
        every = (n % max(1, len(x) // 4), max(1, len(x) // 4))
        axes.plot(
            x,
            y,
            color=look.colour,
            lw=1.5,
            ls=dash,
            drawstyle="steps-post",
            marker=look.marker,
            ms=size(look, 3.6),
            markevery=every,
            gid=look.gid,
        )
        if not look.quiet:
            ends.append((look, limit, y[-1]))
    axes.set(xlim=(-0.1, limit), ylim=(-0.02, 1.04))
    axes.set_xlabel(xlabel, **font(labelpad=3))
    letters(axes, ends)
    return whole(axes)


def scatter(
    points: Sequence[tuple[Look, Mapping[str, Any], Mapping[str, Any]]],
    *,
    xlabel: str,
    ylabel: str,
    hollow: Collection[Look] = (),
) -> "Figure":
    """Two metrics against each other: means with both intervals; letters name the points, of which some are hollow."""
    axes = panel(2.2, left=0.46, top=0.3)
    for look, x, y in points:
        style: dict[str, Any] = {"color": look.colour, "lw": 1, "alpha": 0.55, "gid": look.gid}
        axes.plot(_span(x), [y["mean"]] * 2, **style)
        axes.plot([x["mean"]] * 2, _span(y), **style)
        axes.plot(
            [x["mean"]],
            [y["mean"]],
            look.marker,
            color=look.colour,
            ms=size(look, 6),
            mfc=PAPER if look in hollow else look.colour,
            mec=look.colour if look in hollow else PAPER,
            mew=1.3 if look in hollow else 0.4,
            gid=look.gid,
            zorder=3,
        )
    axes.margins(0.1)
    axes.set_xlabel(xlabel, **font(labelpad=3))
    axes.text(0, 1, ylabel, transform=axes.transAxes + above(axes, 7), **font(ha="left"))
    named(axes, [(look, x["mean"], y["mean"]) for look, x, y in points if not look.quiet])
    return whole(axes)
