"""A finished video as an animated picture, for pages and chats that play no mp4."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.files import write_whole
from rollout.run.video import frames_in, stream_video, video_fps

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["KINDS", "LARGEST", "LEAST", "PICTURES", "WIDTH", "moving_picture"]

KINDS = {"gif": "GIF", "webp": "WEBP"}
"""Formats by the ending of their files."""
TICK = {"gif": 10, "webp": 1}
"""Milliseconds in which a format counts."""
PICTURES, WIDTH = 240, 480
"""Pictures, and pixels across, at most: a longer video is thinned out evenly, a wider one scaled down."""
LARGEST = 8_000_000
"""Bytes at most: what is larger is made smaller, down to LEAST pixels across, and then thinned out further."""
LEAST = 120


def moving_picture(video: Path, path: Path) -> int:
    """Write a video as an animated GIF or WebP, by the path's ending, that plays for ever in its own time; its pictures.

    Raises OutputError.
    """
    frames, fps, kind = frames_in(video), video_fps(video), path.suffix[1:]
    step = -(-frames // PICTURES)
    pictures, width = _pictures(video, max(1, step), WIDTH), WIDTH
    while True:
        times = [TICK[kind] * round(1000 * at / fps / TICK[kind]) for at in range(0, frames, step)]
        times.append(TICK[kind] * round(1000 * frames / fps / TICK[kind]))
        data = _encoded(pictures, [end - begin for begin, end in pairwise(times)], kind)
        if len(data) <= LARGEST or len(pictures) <= 2:
            write_whole(path, partial(Path.write_bytes, data=data))
            return len(pictures)
        width = min(width, pictures[0].width)
        if width > LEAST:
            width = max(LEAST, round(width * min(0.8, sqrt(LARGEST / len(data)))))
            pictures = [_narrowed(picture, width) for picture in pictures]
        else:
            pictures, step = pictures[::2], 2 * step


def _pictures(video: Path, step: int, width: int) -> "list[Image.Image]":
    """Every step-th frame, at most so wide."""
    from PIL import Image

    frames = (frame for number, frame in enumerate(stream_video(video)) if number % step == 0)
    return [_narrowed(Image.fromarray(frame), width) for frame in frames]


def _narrowed(picture: "Image.Image", width: int) -> "Image.Image":
    """A picture that is at most so wide."""
    from PIL import Image

    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)


def _encoded(pictures: "Sequence[Image.Image]", lasts: Sequence[int], kind: str) -> bytes:
    """Pictures that last so many milliseconds each, as a file's content."""
    data = BytesIO()
    first, *rest = pictures
    first.save(data, KINDS[kind], save_all=True, append_images=rest, duration=list(lasts), loop=0)
    return data.getvalue()
