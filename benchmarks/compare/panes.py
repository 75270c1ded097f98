"""One picture of a comparison: the prompt, a pane a run with its strip, and a shared timeline."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rollout.benchmarks.compare.rows import Change, changes, rows
from rollout.benchmarks.compare.runs import Run
from rollout.benchmarks.compare.strip import (
    BETWEEN,
    FAINT,
    GOOD,
    INK,
    PAPER,
    SOFT,
    TRACK,
    Draw,
    column,
    fit,
    font,
    heights,
    lane,
    scales,
    strip,
    tall,
    ticks,
)
from rollout.benchmarks.metrics.events import REACT
from rollout.run.record import Segment
from rollout.run.video import Frames

__all__ = ["EDGE", "GAP", "LEFT", "Stage", "pane"]

LEFT, EDGE, GAP = 70, 20, 18
"""Pixels: the margin that holds the rows' names, the other edges, and between panes."""
HEAD, PROMPT, BAR, STATUS, LANE, AXIS = 44, 20, 26, 28, 24, 20
"""Pixels high: the shared prompt, a pane's own, its name, what its strip's first row comes to, a lane, the seconds."""
NEW = 1.0
"""Seconds for which a new prompt or a cut is pointed out."""
LARGE = 480
"""Pixels that a frame is wide at most; pixel art is enlarged up to 256."""


def pane(size: tuple[int, int], room: int) -> tuple[int, int]:
    """Width and height of a pane for frames (height, width): a whole factor larger, or smaller where there is no room."""
    height, width = size
    scale = room // width if width <= room else room / width
    return round(width * scale), round(height * scale)


class Stage:
    """Draws a comparison frame by frame, `room` pixels for the width of a pane."""

    def __init__(self, runs: Sequence[Run], room: int | None = None) -> None:
        self.runs, self.frames, self.fps = runs, max(run.frames for run in runs), runs[0].sample.fps
        self.pane = pane(runs[0].size, room or (256 if runs[0].size[1] <= 256 else LARGE))
        self.columns = len(runs) if len(runs) <= 4 else 3
        self._rows, self._changes = rows(runs), [changes(run) for run in runs]
        lanes = {run.segments: run for run in runs}
        self._lanes: list[tuple[Segment, ...]] = list(lanes)
        self._shared = len(lanes) == 1
        above = BAR + (0 if self._shared else PROMPT)
        self._status = STATUS if any(self._changes) else 8
        cell = above + self.pane[1] + self._status + tall(self._rows[0]) + GAP
        lines = -(-len(runs) // self.columns)
        self._top = HEAD if self._shared else EDGE // 2
        self._line = self._top + lines * cell
        self._across = self.columns * self.pane[0] + (self.columns - 1) * GAP
        height = self._line + len(self._lanes) * (LANE + 4) + AXIS + EDGE // 2
        width = LEFT + self._across + EDGE
        self.size = (width + width % 2, height + height % 2)
        """Width and height, even as H.264 needs them."""
        self._corners = [
            (LEFT + n % self.columns * (self.pane[0] + GAP), self._top + n // self.columns * cell + above)
            for n in range(len(runs))
        ]
        self._tops = scales(self._rows)
        self._strips = [
            strip(mine, run.segments, self.frames, self.pane[0], self._tops)
            for mine, run in zip(self._rows, runs, strict=True)
        ]
        self._ground = self._still()

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Where a run's frames are: left, top, right, bottom."""
        x, y = self._corners[number]
        return x, y, x + self.pane[0], y + self.pane[1]

    def draw(self, frame: int, pictures: Sequence[Frames]) -> Image.Image:
        """The comparison at a pixel frame, from each run's frame (height, width, 3)."""
        canvas = self._ground.copy()
        draw = ImageDraw.Draw(canvas)
        for n, (run, picture) in enumerate(zip(self.runs, pictures, strict=True)):
            x, y = self._corners[n]
            small = self._scaled(picture)
            if frame >= run.frames:
                small = Image.blend(small, Image.new("RGB", self.pane, PAPER), 0.6)
            canvas.paste(small, (x, y))
            if frame >= run.frames:
                draw.text((x + self.pane[0] // 2, y + self.pane[1] // 2), "ended", INK, font(14), anchor="mm")
            if not self._shared:
                self._asked(draw, run, frame, x, y - PROMPT + 4, self.pane[0], 12)
            self._reacted(draw, self._changes[n], run, frame, x, y + self.pane[1] + self._status // 2)
            below, here = y + self.pane[1] + self._status, column(frame + 1, self.frames, self.pane[0])
            canvas.paste(self._strips[n].crop((0, 0, here, self._strips[n].height)), (x, below))
            draw.line((x + here, below - 3, x + here, below + self._strips[n].height + 2), INK)
        if self._shared:
            self._asked(draw, self.runs[0], frame, LEFT, HEAD // 2 + 1, self._across, 17)
        self._timeline(canvas, draw, frame)
        return canvas

    def _scaled(self, picture: Frames) -> Image.Image:
        how = Image.Resampling.NEAREST if self.pane[0] >= picture.shape[1] else Image.Resampling.LANCZOS
        return Image.fromarray(np.ascontiguousarray(picture)).resize(self.pane, how)

    def _still(self) -> Image.Image:
        """What does not move: names, rows' names, seconds."""
        canvas = Image.new("RGB", self.size, PAPER)
        draw = ImageDraw.Draw(canvas)
        for n, (run, (x, y)) in enumerate(zip(self.runs, self._corners, strict=True)):
            bar = y - BAR // 2 - 2 - (0 if self._shared else PROMPT)
            draw.text((x, bar), fit(run.name, self.pane[0], font(14, bold=True)), INK, font(14, bold=True), anchor="lm")
            y += self.pane[1] + self._status
            for row, height, top in zip(self._rows[n], heights(self._rows[n]), self._tops, strict=True):
                low = y + (height - 1 if row.unit else height // 2)
                draw.line((x, low, x + self.pane[0] - 1, low), TRACK)
                if n % self.columns == 0:
                    draw.text((x - 8, y + height // 2 - 7 * bool(row.unit)), row.name, SOFT, font(11), anchor="rm")
                if n % self.columns == 0 and row.unit:
                    draw.text((x - 8, y + height // 2 + 6), f"to {top:g} {row.unit}", FAINT, font(10), anchor="rm")
                y += height + BETWEEN
        y = self._line + len(self._lanes) * (LANE + 4)
        for x, text in ticks(self.frames, self.fps, self._across):
            draw.line((LEFT + x, y - 2, LEFT + x, y + 1), FAINT)
            draw.text((LEFT + x, y + 4), text, SOFT, font(11), anchor="ma" if x else "la")
        shared_frames = min(run.given for run in self.runs)
        if shared_frames:
            draw.rectangle((LEFT, y - 2, LEFT + column(shared_frames, self.frames, self._across) - 1, y), FAINT)
            draw.text((LEFT - 8, y - 2), "given", FAINT, font(10), anchor="rm")
        return canvas

    def _asked(self, draw: Draw, run: Run, frame: int, x: int, y: int, width: int, size: int) -> None:
        """The prompt in force, and for a while that it is new."""
        segment = _at(run.segments, frame)
        if segment is None:
            return
        new = segment.kind and frame - segment.begin < NEW * self.fps
        text = fit(segment.prompt, width - 90 * bool(new), font(size))
        draw.text((x, y), text, INK, font(size), anchor="lm")
        if new:
            x += round(font(size).getlength(text)) + 10
            word, face = ("cut" if segment.kind == "cut" else "new prompt"), font(11, bold=True)
            draw.rounded_rectangle((x, y - 9, x + face.getlength(word) + 12, y + 8), 8, INK)
            draw.text((x + 6, y), word, PAPER, face, anchor="lm")

    def _reacted(self, draw: Draw, changes_of_run: Sequence[Change], run: Run, frame: int, x: int, y: int) -> None:
        """Whether the last change of action shows yet, and after how long."""
        last = next((change for change in reversed(changes_of_run) if change.frame <= frame), None)
        if last is None:
            return
        shows = last.shown is not None and frame >= last.shown
        waits = frame - last.frame
        text = f"not yet: {_frames(waits)}" if waits < REACT else f"not within {REACT} frames"
        if shows:
            text = f"obeyed after {_frames(last.reaction)}" if last.reaction else "obeyed at once"
        draw.ellipse(
            (x + 1, y - 5, x + 11, y + 5), fill=GOOD if shows else None, outline=GOOD if shows else SOFT, width=2
        )
        draw.text((x + 18, y), text, INK, font(13, bold=shows), anchor="lm")

    def _timeline(self, canvas: Image.Image, draw: Draw, frame: int) -> None:
        y, here = self._line, LEFT + column(2 * frame + 1, 2 * self.frames, self._across)
        for segments in self._lanes:
            canvas.paste(lane(segments, self.frames, self._across, LANE, frame), (LEFT, y))
            y += LANE + 4
        draw.rectangle((LEFT, y - 6, here, y - 5), INK)
        draw.polygon(((here - 5, self._line - 9), (here + 5, self._line - 9), (here, self._line - 3)), INK)


def _at(segments: Sequence[Segment], frame: int) -> Segment | None:
    return next((s for s in segments if s.begin <= frame < s.end), None)


def _frames(count: int) -> str:
    return f"{count} frame" + "s" * (count != 1)
