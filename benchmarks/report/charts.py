"""Charts as Vega-Lite: data in, a specification out, in the page's colours and as wide as its place in the page."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from rollout.benchmarks.report.labels import beside, spread
from rollout.benchmarks.report.look import Look
from rollout.benchmarks.report.numbers import interval, places, show

__all__ = ["Row", "Spec", "cumulative", "curves", "forest", "scatter"]

Spec = dict[str, Any]
Line = tuple[Look, Mapping[str, Any]]
"""A strategy's look, and its `x`, `mean`, `low` and `high`: lists of one length, with None where there is nothing."""
Range = tuple[float, float]
NARROW, HEIGHT, LETTER = 280, 210, 13
"""Pixels: the width on a phone and the height within the axes, and what a letter takes of it."""
DECIDED = ("better", "worse", "differs")
PAPER, INK = "var(--paper)", "var(--ink)"
BAND = ("mean", "low", "high")
WORDS = {"switch": "new prompt", "cut": "cut"}
PICKED = "picked"
"""A chart's parameter with the letters of the strategies that the legend singles out."""
AWAY, FAINT = f"length({PICKED}) && indexof({PICKED}, datum.letter) < 0", f"!length({PICKED}) && datum.quiet"


@dataclass(frozen=True)
class Axis:
    """A channel of place, and what it covers; a bit around it where that is a single value."""

    channel: type[alt.X] | type[alt.Y]
    low: float
    high: float
    title: str | None = None

    def __post_init__(self) -> None:
        """Widen an empty axis."""
        if self.low == self.high:
            object.__setattr__(self, "low", self.low - 0.5)
            object.__setattr__(self, "high", self.high + 0.5)

    def of(self, field: str) -> Any:
        """The channel with a field of the data."""
        scale = alt.Scale(domain=[self.low, self.high], nice=False, zero=False)
        return self.channel(field=field, type="quantitative", title=self.title, scale=scale)

    def part(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Row:
    """One paired difference of a forest plot: `look`'s strategy less the one with the letter `other`."""

    look: Look
    other: str
    pair: Mapping[str, Any]


def forest(rows: Sequence[Row], *, unit: str, better: str, names: bool = True) -> Spec:
    """Differences with their intervals around a line at zero, the first row on top; filled where the verdict is clear."""
    spans = [_span(row.pair) for row in rows]
    reach = max(max(abs(low), abs(high)) for low, high in spans) * 1.06 or 1
    values = [
        _strategy(row.look)
        | {
            "quiet": False,
            "row": n,
            "words": n + 0.3,
            "middle": n + 0.72,
            "name": row.look.name if names else f"− {row.other}",
        }
        | {"mean": row.pair["mean"], "low": low, "high": high, "numbers": _numbers(row.pair)}
        | {"verdict": row.pair["verdict"], "clear": row.pair["verdict"] in DECIDED, "other": row.other}
        for n, (row, (low, high)) in enumerate(zip(rows, spans, strict=True))
    ]
    colour, shape, _ = _channels([row.look for row in rows])
    x = Axis(alt.X, -reach, reach, f"difference, {unit}")
    middle, words, between = (
        alt.Y(f"{field}:Q", axis=None, scale=alt.Scale(domain=[len(rows), 0], nice=False))
        for field in ("middle", "words", "row")
    )
    base = _data(values).encode(y=middle, color=colour, opacity=_opacity(1, 0.1))
    fill = alt.condition("datum.clear", colour, alt.value(PAPER))
    about = ["strategy:N", "numbers:N", "verdict:N"]
    dots = base.mark_point(size=60, strokeWidth=1.5).encode(x=x.of("mean"), shape=shape, fill=fill, tooltip=about)
    bars = base.mark_rule(strokeWidth=2).encode(x=x.of("low"), x2="high:Q")
    zero = _data([{}]).mark_rule(color=INK).encode(x=alt.datum(0))
    rules = _data([{"row": n} for n in range(1, len(rows))]).mark_rule(color="var(--rule)").encode(y=between)
    above = base.encode(y=words)
    letters = above.mark_text(align="left", fontWeight="bold").encode(x=alt.value(0), text="letter:N")
    limit: dict[str, Any] = {"expr": "width - 11 - 6.6 * length(datum.numbers)"}
    beside = above.mark_text(align="left", dx=14, limit=limit).encode(
        x=alt.value(0), text="name:N", color=alt.value(INK)
    )
    numbers = above.mark_text(align="right").encode(x=alt.value("width"), text="numbers:N", color=alt.value(INK))
    return _spec([zero, rules, bars, dots, *_words(better), letters, beside, numbers], 34 * len(rows))


def _words(better: str) -> list[alt.Chart]:
    """Which side of zero is the better one."""
    sides = {"higher": ("worse", "better →"), "neither": ()}.get(better, ("← better", "worse"))
    style: list[dict[str, Any]] = [{"align": "right", "dx": -6}, {"align": "left", "dx": 6}]
    return [
        _data([{}]).mark_text(**where, dy=-9, color="var(--muted)").encode(x=alt.datum(0), y=alt.value(0), text=alt.value(word))
        for word, where in zip(sides, style, strict=False)
    ]  # fmt: skip


def _numbers(pair: Mapping[str, Any]) -> str:
    """A difference and its interval, with digits of its own: a small one and a large one stand side by side."""
    decimals = places([pair])
    return f"{show(pair['mean'], decimals, signed=True)} {interval(pair, decimals, signed=True)}"


def curves(
    lines: Sequence[Line], *, xlabel: str, share: bool = False, events: Sequence[tuple[float, str]] = ()
) -> Spec:
    """Means with their bands; letters name the lines at their ends, and rules stand at `events`, of a place and a kind."""
    first = lines[0][1]["x"]
    x = Axis(alt.X, first[0], max((at for _, at, _ in _ends(lines)), default=first[-1]), xlabel)
    y = Axis(alt.Y, *_reach([v for _, curve in lines for k in BAND for v in curve[k] if v is not None], share))
    return _lines(lines, x, y, [*_rules(events, x)], band=0.14 if len(lines) <= 4 else 0.07)


def cumulative(values: Sequence[tuple[Look, Sequence[float]]], *, limit: float, xlabel: str) -> Spec:
    """The share of rollouts whose value is reached by x, up to `limit`, at which nothing had happened."""
    lines = []
    for look, times in values:
        before = sorted(v for v in times if v < limit)
        share = [(n + 1) / len(times) for n in range(len(before))]
        mean = [0.0, *share, len(before) / len(times)]
        lines.append((look, {"x": [0.0, *before, limit], "mean": mean, "low": mean, "high": mean}))
    return _lines(lines, Axis(alt.X, -0.1, limit, xlabel), Axis(alt.Y, -0.02, 1.04), [], step=True)


def _lines(
    lines: Sequence[Line], x: Axis, y: Axis, rules: list[alt.Chart], *, band: float = 0, step: bool = False
) -> Spec:
    """A line a strategy over its band, with a marker here and there and its letter at the end."""
    colour, shape, dash = _channels([look for look, _ in lines])
    values = [_strategy(look) | {key: _rounded(curve[key]) for key in ("x", *BAND)} for look, curve in lines]
    base = _data(values).transform_flatten(["x", *BAND]).encode(x=x.of("x"), color=colour)
    bands = base.mark_area(clip=True).encode(y=y.of("low"), y2="high:Q", opacity=_opacity(band, 0.01, picked=0.2))
    style: dict[str, Any] = {"interpolate": "step-after"} if step else {}
    means = base.mark_line(strokeWidth=1.6, clip=True, **style).encode(
        y=y.of("mean"), strokeDash=dash, opacity=_opacity(1, 0.1)
    )
    marks = _data(_marks(lines)).mark_point(size=34, opacity=1, filled=True).encode(
        x=x.of("x"), y=y.of("mean"), color=colour, shape=shape, opacity=_opacity(1, 0.1),
        tooltip=["strategy:N", alt.Tooltip("x:Q", title=x.title), "mean:Q", "interval:N"],
    )  # fmt: skip
    return _spec([*([bands] if band else []), means, marks, *rules, *_letters(lines, x, y, colour)], HEIGHT)


def _marks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Some points of every line, not the same ones, to mark."""
    every = max(1, len(lines[0][1]["x"]) // 7)
    return [
        _strategy(look) | {"x": x, "mean": mean, "interval": interval(value, places([value]))}
        for n, (look, curve) in enumerate(lines)
        for x, mean, low, high in list(zip(*(curve[k] for k in ("x", *BAND)), strict=True))[
            n * every // len(lines) :: every
        ]
        if mean is not None
        for value in [{"mean": mean, "low": low, "high": high}]
    ]


def _ends(lines: Sequence[Line]) -> list[tuple[Look, float, float]]:
    """Where each line that is shown in full ends."""
    points = [
        (look, [(x, y) for x, y in zip(curve["x"], curve["mean"], strict=True) if y is not None])
        for look, curve in lines
        if not look.quiet
    ]
    return [(look, *points_there[-1]) for look, points_there in points if points_there]


def _letters(lines: Sequence[Line], x: Axis, y: Axis, colour: Any) -> list[alt.Chart]:
    """A letter beside each line's end, apart from one another, each with a hair to its end."""
    height = y.high - y.low
    ends = sorted(_ends(lines), key=lambda line: line[2])
    gap = min(LETTER / HEIGHT, 1 / max(1, len(ends)))
    spots = spread([y.part(value) for _, _, value in ends], gap)
    values = [
        _strategy(look) | {"text": look.letter, "x": at, "y": value, "spot": y.low + spot * height}
        for (look, at, value), spot in zip(ends, spots, strict=True)
    ]
    if len(ends) > 3 and ends[-1][2] - ends[0][2] < height / 50:
        values = [{**values[0], "letter": None, "text": "all", "spot": values[0]["y"]}]
        colour = alt.value(INK)  # no strategy's own
    # beyond the axes: the chart leaves room for whatever is drawn there
    base = _data(values).transform_calculate(beyond=str(x.high + (x.high - x.low) * 0.05)).encode(color=colour)
    hairs = base.mark_rule(opacity=0.6).encode(
        x=x.of("x"), y=y.of("y"), x2="beyond:Q", y2="spot:Q", opacity=_opacity(0.5, 0.1)
    )
    texts = base.mark_text(align="left", dx=2, fontWeight="bold").encode(
        x=x.of("beyond"), y=y.of("spot"), text="text:N", opacity=_opacity(1, 0.1)
    )
    return [hairs, texts]


def _rules(events: Sequence[tuple[float, str]], x: Axis) -> list[alt.Chart]:
    """Dashed rules at new prompts and solid ones at cuts, with their names if they are few."""
    inside = [(at, kind) for at, kind in events if at <= x.high]
    if not inside:
        return []
    base = _data([{"x": at, "kind": kind, "word": WORDS[kind]} for at, kind in inside]).encode(x=x.of("x"))
    dash = alt.condition("datum.kind == 'cut'", alt.value([1, 0]), alt.value([4, 3]))
    rules = base.mark_rule(color=INK, opacity=0.7).encode(strokeDash=dash)
    texts = base.mark_text(color=INK, dy=-8).encode(y=alt.value(0), text="word:N")
    return [rules, texts] if len(events) <= 3 else [rules]


def scatter(
    points: Sequence[tuple[Look, Mapping[str, Any], Mapping[str, Any]]],
    *,
    xlabel: str,
    ylabel: str,
    hollow: Collection[Look] = (),
) -> Spec:
    """Two metrics against each other: means with both intervals; letters name the points, of which some are hollow."""
    colour, shape, _ = _channels([look for look, _, _ in points])
    x = Axis(alt.X, *_reach([v for _, value, _ in points for v in _span(value)]), xlabel)
    y = Axis(alt.Y, *_reach([v for _, _, value in points for v in _span(value)]))
    places = [(NARROW * x.part(a["mean"]), -HEIGHT * y.part(b["mean"])) for _, a, b in points]
    values = [
        _strategy(look)
        | {"x": a["mean"], "left": _span(a)[0], "right": _span(a)[1], "hollow": look in hollow}
        | {"y": b["mean"], "low": _span(b)[0], "high": _span(b)[1], "dx": dx, "dy": dy}
        | {"text": "" if look.quiet else look.letter}
        for (look, a, b), (dx, dy) in zip(points, beside(places), strict=True)
    ]
    base = _data(values).encode(color=colour, opacity=_opacity(1, 0.1), x=x.of("x"), y=y.of("y"))
    faint = base.encode(opacity=_opacity(0.55, 0.05))
    fill = alt.condition("datum.hollow", alt.value(PAPER), colour)
    dots = base.mark_point(size=75, strokeWidth=1.3).encode(
        shape=shape,
        fill=fill,
        tooltip=["strategy:N", alt.Tooltip("x:Q", title=xlabel), alt.Tooltip("y:Q", title=ylabel)],
    )
    where: dict[str, Any] = {"dx": {"expr": "datum.dx"}, "dy": {"expr": "datum.dy"}}
    letters = base.mark_text(fontWeight="bold", **where).encode(text="text:N")
    across = faint.mark_rule().encode(x=x.of("left"), x2="right:Q")
    upright = faint.mark_rule().encode(y=y.of("low"), y2="high:Q")
    return _spec([across, upright, dots, letters], HEIGHT, title=ylabel)


def _span(value: Mapping[str, Any]) -> Range:
    """An interval, or the mean alone where there is none."""
    return (value["mean"], value["mean"]) if value["low"] is None else (value["low"], value["high"])


def _reach(values: Sequence[float], share: bool = False) -> Range:
    """What an axis covers: all values and a little more, or for shares the upper half or the whole."""
    if share:
        return (-0.04, 1.06) if min(values, default=0) < 0.5 else (0.48, 1.03)
    low, high = min(values, default=0), max(values, default=1)
    more = (high - low) * 0.07
    return low - more, high + more


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    """Values with as many digits as can be seen."""
    return [None if value is None else float(f"{value:.4g}") for value in values]


def _strategy(look: Look) -> dict[str, Any]:
    return {"letter": look.letter, "strategy": look.name, "quiet": look.quiet}


def _data(values: Sequence[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(values)))


def _channels(looks: Sequence[Look]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Colour, marker and dash by letter."""
    once = list(dict.fromkeys(looks))
    letters = [look.letter for look in once]

    def scale(values: list[Any]) -> dict[str, Any]:
        return {"field": "letter", "type": "nominal", "legend": None, "scale": alt.Scale(domain=letters, range=values)}

    return (
        alt.Color(**scale([look.colour for look in once])),
        alt.Shape(**scale([look.shape for look in once])),
        alt.StrokeDash(**scale([list(look.dash) or [1, 0] for look in once])),
    )


def _opacity(usual: float, away: float, *, picked: float | None = None) -> alt.Opacity:
    """Less for strategies that others are singled out from, and for those that are not among the best."""
    tests: list[dict[str, Any]] = [{"test": AWAY, "value": away}, {"test": FAINT, "value": 0.16 * usual}]
    if picked is not None:
        tests.append({"test": f"length({PICKED})", "value": picked})
    return alt.Opacity(value=usual, condition=tests)


def _spec(layers: Sequence[alt.Chart], height: int, title: str | None = None) -> Spec:
    """The specification without what the page says once for all charts."""
    chart = alt.layer(*layers).properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    if title is not None:
        chart = chart.properties(title=alt.TitleParams(title, anchor="start", frame="bounds"))
    spec: Spec = chart.add_params(alt.param(name=PICKED, value=[])).to_dict()
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}
