"""Reading video: frames upright, each with its time, as they are decoded; and what a viewer sees at another rate."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from rollout.errors import OutputError

__all__ = ["Frames", "Shown", "at_rate", "decoded", "frames_in", "read_video", "stream_video", "video_fps"]

Frames = NDArray[np.uint8]
"""Pixel frames (N, height, width, 3)."""
SLACK = 10
"""A frame counts as shown so many parts of its length before its time: containers round to milliseconds."""


@dataclass(frozen=True)
class Shown:
    """A decoded frame: its time in seconds since the first, the width of a pixel over its height, and how to get its pixels."""

    time: Fraction
    pixel_aspect: Fraction
    pixels: Callable[[], Frames]
    """(height, width, 3), upright; converted from the codec's form only when asked for."""


def decoded(path: Path) -> Iterator[Shown]:
    """The frames of a video file one by one. Raises OutputError, also where their size changes."""
    size: tuple[int, int] | None = None
    begin, time = Fraction(0), Fraction(-1)
    try:
        matrix, converter = _matrix(path), VideoReformatter()
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            length = 1 / Fraction(stream.average_rate or 25)
            for number, frame in enumerate(file.decode(stream)):
                stamp = _stamp(frame)
                if size is None:
                    size, begin = (frame.width, frame.height), stamp or Fraction(0)
                elif (frame.width, frame.height) != size:
                    raise OutputError(
                        f"{path} changes its size at frame {number}, from {size[0]}x{size[1]} to "
                        f"{frame.width}x{frame.height}. Encode it again at one size."
                    )
                later = time + length if time >= 0 else Fraction(0)
                # a raw stream has no times, and a damaged one may jump back
                time = later if stamp is None or stamp - begin <= time else stamp - begin
                yield _shown(time, Fraction(stream.sample_aspect_ratio or 1), matrix, frame, converter)
    except (OSError, av.FFmpegError, IndexError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}. Give an mp4 or another video file.") from error
    if size is None:
        raise OutputError(f"{path} holds no frames. Give a video with at least one.")


def _stamp(frame: av.VideoFrame) -> Fraction | None:
    """A frame's time in its file, seconds."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


Matrix = tuple[int, int, int, int]
"""(a, b, c, d): a pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift. Phones turn their videos so."""


def _shown(
    time: Fraction, pixel_aspect: Fraction, matrix: Matrix, frame: av.VideoFrame, converter: VideoReformatter
) -> Shown:
    """A frame as its file asks to show it; one converter serves a file, since each begins with threads of its own."""
    a, b, c, d = matrix
    on_its_side = abs(b) + abs(c) > abs(a) + abs(d)

    def pixels() -> Frames:
        picture: Frames = converter.reformat(frame, format="rgb24").to_ndarray()  # type: ignore[assignment]  # rgb24 is uint8
        if on_its_side:
            picture = picture.swapaxes(0, 1)
        down, across = (b, c) if on_its_side else (d, a)
        return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])

    return Shown(time, 1 / pixel_aspect if on_its_side else pixel_aspect, pixels)


def _matrix(path: Path) -> Matrix:
    """How a video lies. `frame.rotation` does not tell a mirrored picture from a turned one.

    Of a frame that is read for this alone: one whose side data were looked at is in a cycle with them, and lies in memory
    until Python looks for cycles; with the threads of a conversion at hand that never ends in a forked process.
    """
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0), None)
    side_data: Any = () if frame is None else frame.side_data  # a container, whatever PyAV's types say
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return 1, 0, 0, 1


def at_rate(frames: Iterable[Shown], rate: float, fps: float) -> Iterator[Shown]:
    """Of frames, about `rate` a second, those that are shown at 0, 1/fps, 2/fps ... seconds.

    A frame is shown until the next one comes, the last for 1/rate. Nothing is mixed: some are left out, or come again.
    """
    source, wanted = (Fraction(number).limit_denominator(1001) for number in (rate, fps))
    slack = min(1 / source, 1 / wanted) / SLACK
    count, shown, end = 0, None, Fraction(0)
    for frame in frames:
        while shown is not None and count / wanted + slack < frame.time:
            yield shown
            count += 1
        shown, end = frame, frame.time + 1 / source
    while shown is not None and count / wanted + slack < end:
        yield shown
        count += 1


def stream_video(path: Path) -> Iterator[Frames]:
    """The frames (height, width, 3) of a video file one by one, upright. Raises OutputError."""
    return (frame.pixels() for frame in decoded(path))


def read_video(path: Path, *, most: int | None = None) -> Frames:
    """All frames (N, height, width, 3) of a video file, at most `most`. Raises OutputError."""
    return np.stack(list(islice(stream_video(path), most)))


def frames_in(path: Path) -> int:
    """The frames of a video file, 0 where it cannot be read."""
    try:
        with av.open(str(path)) as file:
            return sum(packet.size > 0 for packet in file.demux(video=0))
    except (OSError, av.FFmpegError, IndexError):
        return 0


def video_fps(path: Path) -> float:
    """Frames a second of a video file. Raises OutputError."""
    try:
        with av.open(str(path)) as file:
            rate = file.streams.video[0].average_rate
    except (OSError, av.FFmpegError, IndexError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}. Give an mp4 or another video file.") from error
    if not rate:
        raise OutputError(f"{path} does not say its frames a second. Give an mp4 or another video file.")
    return float(rate)
