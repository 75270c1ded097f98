"""Writing and reading video: a streaming mp4 with a soft subtitle track, WebVTT, and contact sheets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rollout.errors import OutputError

Frames = NDArray[np.uint8]
"""Pixel frames (N, height, width, 3)."""

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
"""The least ASS header that FFmpeg's text subtitle encoders start from."""


@dataclass(frozen=True)
class Subtitle:
    """One line of text, shown from `begin` to `end` seconds."""

    begin: float
    end: float
    text: str


class VideoWriter:
    """Writes an H.264 mp4 as frames come, fragmented so that it plays while it grows; or FFV1, which loses nothing.

    Frames smaller than 256 pixels are enlarged by a whole factor, nearest neighbour. `exact`, for an .mkv, keeps every
    pixel as it is. The file is NAME.partial.mp4 until `close`, and is removed when the block ends in an error.
    """

    def __init__(
        self, path: Path, fps: float, *, least: int = 256, subtitles: bool = False, exact: bool = False
    ) -> None:
        self.path, self.partial = path, path.with_suffix(f".partial{path.suffix}")
        self.frames, self._least = 0, 1 if exact else least
        self._rate = Fraction(fps).limit_denominator(1001)
        try:
            self.partial.touch()  # av itself opens the file at its first packet
            growing = {} if exact else {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
            self._file = av.open(str(self.partial), "w", options=growing)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(f"the video {self.partial} cannot be written: {error}. Choose another --out.") from error
        if exact:
            self._stream = self._file.add_stream("ffv1", rate=self._rate)
            self._stream.pix_fmt = "bgr0"
        else:
            self._stream = self._file.add_stream(
                "libx264", rate=self._rate, options={"crf": "16", "preset": "veryfast", "bf": "0"}
            )
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.gop_size = max(1, round(fps))
        self._waiting: list[Subtitle] = []
        self._text = self._file.add_stream("mov_text") if subtitles else None
        if self._text is not None:
            self._text.time_base = Fraction(1, 1_000_000)
            self._text.codec_context.subtitle_header = ASS_HEADER

    def write(self, frames: Frames) -> None:
        """Append frames (N, height, width, 3). Raises OutputError."""
        scale = max(1, -(-self._least // min(frames.shape[1:3])))
        for frame in frames.repeat(scale, 1).repeat(scale, 2) if scale > 1 else frames:
            if self.frames == 0:
                self._stream.height, self._stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = self.frames, 1 / self._rate
            self._mux(self._stream.encode(picture))
            self.frames += 1
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self.subtitle(line)

    def subtitle(self, line: Subtitle) -> None:
        """Add a line to the soft subtitle track."""
        if self._text is None or not line.text:
            return
        if not self.frames:  # the first packet fixes the picture's size
            self._waiting.append(line)
            return
        begin, length = (round(s * 1_000_000) for s in (line.begin, line.end - line.begin))
        safe = line.text.replace("\n", " ").replace("{", "(").replace("}", ")")
        made = SubtitleSet.create(f"0,0,Default,,0,0,0,,{safe}".encode(), 0, length // 1000, begin)
        packet = self._text.codec_context.encode_subtitle(made)
        packet.stream, packet.pts, packet.dts, packet.duration = self._text, begin, begin, length
        packet.time_base = Fraction(1, 1_000_000)
        self._mux([packet])

    def _mux(self, packets: Sequence[Any]) -> None:
        try:
            self._file.mux(packets)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(
                f"the video {self.partial} cannot be written any further: {error}. Free some space."
            ) from error

    def close(self) -> None:
        """Finish the file and give it its name, once every frame is found in it. Raises OutputError."""
        try:
            if self.frames:
                self._mux(self._stream.encode())
            self._file.close()
            self._verify()
            self.partial.replace(self.path)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(f"the video {self.path} could not be finished: {error}. Free some space.") from error
        finally:
            self.partial.unlink(missing_ok=True)

    def _verify(self) -> None:
        """av closes a file without a word when the disk is full: count what is there."""
        with av.open(str(self.partial)) as file:
            found = sum(packet.size > 0 for packet in file.demux(video=0)) if file.streams.video else 0
        if found != self.frames:
            raise OutputError(f"the video {self.path} holds {found} of {self.frames} frames. Free some space.")

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            self._file.close()
        finally:
            self.partial.unlink(missing_ok=True)


def read_video(path: Path, *, most: int | None = None) -> Frames:
    """All frames (N, height, width, 3) of a video file, at most `most`. Raises OutputError."""
    return np.stack(list(islice(stream_video(path), most)))


def stream_video(path: Path) -> Iterator[Frames]:
    """The frames (height, width, 3) of a video file one by one. Raises OutputError."""
    none = True
    try:
        with av.open(str(path)) as file:
            for frame in file.decode(video=0):
                none = False
                pixels: Frames = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]  # rgb24 is uint8
                yield pixels
    except (OSError, av.FFmpegError, IndexError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}. Give an mp4 or another video file.") from error
    if none:
        raise OutputError(f"{path} holds no frames. Give a video with at least one.")


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


def webvtt(lines: Sequence[Subtitle]) -> str:
    """Subtitles as a WebVTT file's text."""

    def clock(seconds: float) -> str:
        ms = round(seconds * 1000)
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    def plain(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    cues = [f"{clock(line.begin)} --> {clock(line.end)}\n{plain(line.text)}\n" for line in lines if line.text]
    return "\n".join(["WEBVTT\n", *cues])


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet: a frame, its caption, and whether a switch or a cut opens here."""

    frame: Frames
    caption: str
    mark: str = ""


MARKS = {"switch": (240, 170, 40), "cut": (230, 60, 60)}


def contact_sheet(tiles: Sequence[Tile], *, columns: int = 8, size: int = 128) -> Image.Image:
    """A sheet of captioned frames; a coloured bar over a tile marks a prompt switch (amber) or a cut (red)."""
    gap, label = 8, 16
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (gap + columns * (size + gap), gap + rows * (size + label + gap)), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for n, tile in enumerate(tiles):
        x, y = gap + n % columns * (size + gap), gap + n // columns * (size + label + gap)
        picture = Image.fromarray(tile.frame)
        if max(picture.size) > size:
            picture.thumbnail((size, size))
        else:
            scale = size // max(picture.size)
            picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        sheet.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))
        if tile.mark:
            draw.rectangle((x, y - 5, x + size - 1, y - 2), fill=MARKS[tile.mark])
        draw.text((x, y + size + 2), _fit(draw, font, tile.caption, size), fill=(40, 40, 40), font=font)
    return sheet


def _fit(draw: ImageDraw.ImageDraw, font: Any, text: str, width: int) -> str:
    """The text, cut with an ellipsis to `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text.rstrip() + "…"
