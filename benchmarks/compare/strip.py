"""Strips of time: what the metrics say under a pane, and what was asked and when. Finished pictures, shown as time goes."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from rollout.benchmarks.compare.rows import Row
from rollout.run.record import Segment

__all__ = [
    "BETWEEN",
    "FAINT",
    "FIRST",
    "GOOD",
    "INK",
    "LEVEL",
    "LEVELS",
    "PAPER",
    "SOFT",
    "TRACK",
    "Draw",
    "column",
    "fit",
    "font",
    "heights",
    "lane",
    "mix",
    "scales",
    "strip",
    "tall",
    "ticks",
]

Draw = ImageDraw.ImageDraw
PAPER, INK, SOFT, FAINT, TRACK = "#fdfdfb", "#1f2328", "#6b7178", "#a0a5a9", "#dfdfd9"
GOOD, LEVEL = "#009e73", "#0072b2"
"""Okabe and Ito's bluish green for what is as asked, and blue for levels."""
ROW, FIRST, LEVELS, BETWEEN = 7, 12, 22, 7
"""Pixels: a row's height, the first row's, that of a row of levels, and what is between two."""


@cache
def font(size: int, *, bold: bool = False) -> Any:
    """The face of the project's other pictures."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def fit(text: str, width: float, face: Any) -> str:
    """The text, cut with an ellipsis to `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def column(frame: int, frames: int, width: int) -> int:
    """The pixel at which a frame begins, of `width` for all frames."""
    return frame * width // frames


def heights(rows: Sequence[Row]) -> list[int]:
    """Pixels of each row."""
    bare = [FIRST] + [ROW] * (len(rows) - 1)
    return [LEVELS if row.unit else height for row, height in zip(rows, bare[: len(rows)], strict=True)]


def tall(rows: Sequence[Row]) -> int:
    """Pixels of a whole strip."""
    return sum(heights(rows)) + BETWEEN * max(0, len(rows) - 1)


def strip(
    rows: Sequence[Row], segments: Sequence[Segment], frames: int, width: int, tops: Sequence[float]
) -> Image.Image:
    """A run's rows over time: full colour is 1, the pale track 0, a thin line where there is nothing to say.

    `tops` is where the scale of each row of levels ends.
    """
    picture = Image.new("RGB", (width, tall(rows)), PAPER)
    draw, y = ImageDraw.Draw(picture), 0
    for row, height, top in zip(rows, heights(rows), tops, strict=True):
        for x in range(width):
            first = x * frames // width
            values = row.values[first : max(first + 1, (x + 1) * frames // width)]
            numbers = [value for value in values if value is not None]
            if numbers:
                _column(draw, x, y, height, sum(numbers) / len(numbers), top if row.unit else None)
            elif values:
                draw.point((x, y + height - 1 if row.unit else y + height // 2), TRACK)
        y += height + BETWEEN
    for segment in segments:
        if segment.kind:
            rule(draw, column(segment.begin, frames, width), 0, tall(rows), segment.kind)
    return picture


def _column(draw: Draw, x: int, y: int, height: int, value: float, top: float | None) -> None:
    if top is None:
        share = min(1.0, max(0.0, value))
        draw.line((x, y, x, y + height - 1), mix(TRACK, GOOD, share))
        return
    rise = round(min(1.0, value / top) * (height - 1))
    draw.line((x, y + height - 1, x, y + height - 1 - rise), LEVEL)


def scales(rows: Sequence[Sequence[Row]]) -> list[float]:
    """Where the scale of each row ends, one for all runs: at a whole number that holds every level."""
    values = [[v for row in group for v in row.values if v is not None] for group in zip(*rows, strict=True)]
    return [
        max(group[0].least, math.ceil(max(numbers)))
        for group, numbers in zip(zip(*rows, strict=True), values, strict=True)
    ]


def mix(a: str, b: str, share: float) -> tuple[int, ...]:
    """The colour `share` of the way from one to another."""
    pairs = zip(ImageColor.getrgb(a), ImageColor.getrgb(b), strict=True)
    return tuple(round(p + (q - p) * share) for p, q in pairs)


def rule(draw: Draw, x: int, top: int, bottom: int, kind: str, colour: str = INK) -> None:
    """A cut's rule is solid, a new prompt's dashed."""
    if kind == "cut":
        draw.line((x, top, x, bottom - 1), colour)
        return
    for y in range(top, bottom, 5):
        draw.line((x, y, x, min(y + 2, bottom - 1)), colour)


def ticks(frames: int, fps: float, width: int) -> list[tuple[int, str]]:
    """Whole seconds that have room: pixel and text."""
    seconds = frames / fps
    step = next(s for s in _steps() if seconds / s * 44 <= width)
    return [(column(round(s * fps), frames, width), f"{s} s") for s in range(0, math.floor(seconds) + 1, step)]


def _steps() -> Any:
    yield from (size * scale for scale in (1, 10, 100, 1000, 10**4, 10**5, 10**6) for size in (1, 2, 5))


def lane(
    segments: Sequence[Segment], frames: int, width: int, height: int, now: int | None, size: int = 12
) -> Image.Image:
    """The prompts over time; the one in force at frame `now` stands out."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    for segment in segments:
        x, end = column(segment.begin, frames, width), column(segment.end, frames, width)
        here = now is not None and segment.begin <= now < segment.end
        draw.rectangle((x, 0, end - 2, height - 1), fill=TRACK if here else "#f3f3ef")
        colour = INK if here else SOFT
        if segment.kind:
            rule(draw, x, 0, height, segment.kind)
        text = fit(segment.prompt, end - x - 12, font(size))
        draw.text((x + 7, height // 2), text, colour, font(size), anchor="lm")
    return picture
