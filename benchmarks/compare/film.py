"""A comparison as files: compare.mp4, and on request compare.webp, small enough for the top of a page."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from rollout.benchmarks.compare.panes import EDGE, GAP, LEFT, Stage
from rollout.benchmarks.compare.runs import Run
from rollout.files import write_whole
from rollout.run.video import Frames, VideoWriter

__all__ = ["BYTES", "REST", "WIDTH", "film", "webp"]

WIDTH, PICTURES, BYTES = 800, 240, 1_500_000
"""Of a webp: pixels wide, pictures and bytes at most."""
REST = 1200
"""Milliseconds for which the last picture stays, before it plays again."""
QUALITIES = (None, 90, 75, 55, 35)
"""Tried in turn until it is small enough; None loses nothing."""


def film(stage: Stage, path: Path) -> Iterator[int]:
    """Write the video frame by frame, none of them held; yields how many are done. Raises OutputError."""
    with VideoWriter(path, stage.fps, subtitles=stage.runs[0].subtitles) as writer:
        for frame, pictures in enumerate(_in_step(stage.runs, stage.frames)):
            picture = stage.draw(frame, pictures)
            writer.write(_array(picture)[None])
            yield frame + 1


def webp(runs: Sequence[Run], path: Path) -> tuple[int, int]:
    """Write an animated WebP of at most 1.5 MB; pictures and bytes. Raises OutputError."""
    columns = len(runs) if len(runs) <= 4 else 3
    stage = Stage(runs, (WIDTH - LEFT - EDGE - GAP * (columns - 1)) // columns)
    every = -(-stage.frames // PICTURES)
    pictures = [
        (frame, stage.draw(frame, picture))
        for frame, picture in enumerate(_in_step(runs, stage.frames))
        if frame % every == 0 or frame == stage.frames - 1
    ]
    while True:
        for quality in QUALITIES:
            write_whole(path, partial(_save, pictures, stage.frames, stage.fps, quality))
            size = path.stat().st_size
            if size <= BYTES or len(pictures) <= 2:
                return len(pictures), size
        pictures = pictures[::2]


def _save(
    pictures: Sequence[tuple[int, Image.Image]], frames: int, fps: float, quality: int | None, path: Path
) -> None:
    lasts = [b - a for a, b in pairwise([*(frame for frame, _ in pictures), frames])]
    first, *rest = [picture for _, picture in pictures]
    how: dict[str, Any] = {"lossless": True, "quality": 70} if quality is None else {"quality": quality}
    durations = [round(1000 * n / fps) for n in lasts]
    durations[-1] += REST
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, method=4, **how)


def _in_step(runs: Sequence[Run], frames: int) -> Iterator[tuple[Frames, ...]]:
    return islice(zip(*(run.video() for run in runs), strict=True), frames)


def _array(picture: Image.Image) -> Frames:
    import numpy as np

    return np.asarray(picture)
