"""Writing video: a streaming mp4 with a soft subtitle track, and WebVTT; what reads it is at hand here too."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

from rollout.errors import OutputError
from rollout.files import new_file, write_whole
from rollout.run.reading import Frames, frames_in, read_video, stream_video, video_fps
from rollout.text import cause

__all__ = [
    "Frames",
    "Subtitle",
    "VideoWriter",
    "frames_in",
    "read_video",
    "stream_video",
    "video_fps",
    "webvtt",
]

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

LONGEST = 2**16 - 1
"""Bytes of a subtitle in an mp4, which counts them in two bytes."""
GROWING = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
"""An mp4 that plays while it grows: all frames but the last are on the disk."""


@dataclass(frozen=True)
class Subtitle:
    """One line of text, shown from `begin` to `end` seconds."""

    begin: float
    end: float
    text: str


class VideoWriter:
    """Writes an H.264 mp4 as frames come, which plays while it grows; or FFV1, which loses nothing.

    Frames smaller than 256 pixels are enlarged by a whole factor, nearest neighbour. `exact`, for an .mkv, keeps every
    pixel as it is. The file is NAME.partial.mp4 until `close`, which adds the soft subtitle track; when the block ends in
    an error it is removed, unless `kept` is set. `keep` frames of an earlier NAME.partial.mp4 stay, as they were encoded.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        *,
        least: int = 256,
        subtitles: Sequence[Subtitle] = (),
        exact: bool = False,
        keep: int = 0,
    ) -> None:
        self.path, self.partial = path, path.with_suffix(f".partial{path.suffix}")
        self.earlier = path.with_suffix(f".earlier{path.suffix}")
        self.frames, self.kept, self.subtitles = 0, False, tuple(line for line in subtitles if line.text)
        self._least, self._exact = 1 if exact else least, exact
        self._rate = Fraction(fps).limit_denominator(1001)
        try:
            if keep and self.left(path) != self.earlier:
                self.left(path).replace(self.earlier)
            new_file(self.partial)  # av itself opens the file at its first packet, by its name
            self._file = av.open(str(self.partial), "w", options={} if exact else GROWING)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(
                f"the video {self.partial} cannot be written: {cause(error)}. Choose another --out."
            ) from error
        if exact:
            self._stream = self._file.add_stream("ffv1", rate=self._rate)
            self._stream.pix_fmt = "bgr0"
        else:
            # one thread and no lookahead: every frame is on the disk at once, and the bytes depend on no core count
            options = {"crf": "16", "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
            self._stream = self._file.add_stream("libx264", rate=self._rate, options=options)
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.gop_size = max(1, round(fps))
        if keep:
            self._take(keep)

    @staticmethod
    def left(path: Path) -> Path:
        """Where the frames of an earlier writer of `path` are: it may be finished where the run is not.

        Where a writer was killed while it took over an earlier file, nothing newer counts.
        """
        partial, earlier = (path.with_suffix(f".{word}{path.suffix}") for word in ("partial", "earlier"))
        return next((file for file in (earlier, partial) if file.exists()), path)

    @staticmethod
    def held(file: Path, most: int) -> int:
        """The frames of a file, up to so many, that a writer can take over."""
        count = 0
        with suppress(OSError, av.FFmpegError, IndexError), av.open(str(file)) as container:
            for _ in islice(_packets(container), most):
                count += 1
        return count

    def _take(self, keep: int) -> None:
        """Take over the first frames of the earlier file without decoding them. Raises OutputError."""
        try:
            with av.open(str(self.earlier)) as file:
                video = file.streams.video[0]
                self._stream.height, self._stream.width = video.height, video.width
                to_annex_b = BitStreamFilterContext("h264_mp4toannexb", video)  # as the encoder gives its packets
                for packet in islice(_packets(file), keep):
                    for piece in to_annex_b.filter(packet):
                        piece.stream = self._stream
                        self._mux([self._dated(piece, self.frames)])
                    self.frames += 1
        except (OSError, av.FFmpegError, IndexError) as error:
            raise OutputError(f"{self.earlier} cannot be read as a video: {cause(error)}. Start again.") from error
        if self.frames < keep:
            raise OutputError(
                f"{self.earlier} holds {self.frames} of the {keep} frames before the snapshot. Start again."
            )
        self.earlier.unlink()

    def _dated(self, packet: Any, frame: int) -> Any:
        """A packet with its time, which that of a file that was cut off may not know: there are no B-frames."""
        packet.time_base, packet.pts, packet.dts, packet.duration = 1 / self._rate, frame, frame, 1
        return packet

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

    def _mux(self, packets: Sequence[Any]) -> None:
        try:
            self._file.mux(packets)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(
                f"the video {self.partial} cannot be written any further: {cause(error)}. Free some space."
            ) from error

    def close(self) -> None:
        """Finish the file and give it its name, once every frame is found in it. Raises OutputError."""
        try:
            if self.frames:
                self._mux(self._stream.encode())
            self._file.close()
            if self._exact:
                self._whole(self.partial)
                self.partial.replace(self.path)
            else:
                write_whole(self.path, self._final)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(
                f"the video {self.path} could not be finished: {cause(error)}. Free some space."
            ) from error
        if not self._exact:
            self.partial.unlink(missing_ok=True)

    def _final(self, path: Path) -> None:
        """The same packets with the subtitles, the index at its head: what every player and browser can seek in."""
        with (
            av.open(str(self.partial)) as file,
            av.open(str(path), "w", "mp4", options={"movflags": "faststart"}) as result,
        ):
            source = file.streams.video[0]
            video = result.add_stream_from_template(source)
            text = result.add_stream("mov_text") if self.subtitles else None
            if text is not None:
                text.time_base, text.codec_context.subtitle_header = Fraction(1, 1_000_000), ASS_HEADER
            lines = list(self.subtitles)
            for frame, packet in enumerate(p for p in file.demux(source) if p.size):
                packet.stream = video
                result.mux(self._dated(packet, frame))
                while text is not None and lines and lines[0].begin <= frame / self._rate:
                    result.mux(_packet(lines.pop(0), text))
        self._whole(path)

    def _whole(self, path: Path) -> None:
        """av closes a file without a word when the disk is full: count what is there."""
        frames = frames_in(path)
        if frames != self.frames:
            raise OutputError(f"the video {self.path} holds {frames} of {self.frames} frames. Free some space.")

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
            else:
                self._file.close()
        except (OSError, av.FFmpegError):
            pass  # the error that ended the block says more
        finally:
            if not self.kept:
                with suppress(OSError):
                    self.partial.unlink(missing_ok=True)


def _packets(file: Any) -> Iterator[Any]:
    """A video's packets, a frame each."""
    return (packet for packet in file.demux(file.streams.video[0]) if packet.size)


def _packet(line: Subtitle, stream: Any) -> Any:
    """A subtitle as a packet of a mov_text stream in microseconds: its length in two bytes, and the text as it is.

    FFmpeg's own encoder would read it as ASS, where braces and backslashes are commands.
    """
    begin, length = (round(s * 1_000_000) for s in (line.begin, line.end - line.begin))
    text = line.text.replace("\n", " ").encode()[:LONGEST].decode(errors="ignore").encode()  # no half a character
    packet = av.Packet(len(text).to_bytes(2, "big") + text)
    packet.stream, packet.pts, packet.dts, packet.duration = stream, begin, begin, length
    packet.time_base = Fraction(1, 1_000_000)
    return packet


def webvtt(lines: Sequence[Subtitle]) -> str:
    """Subtitles as a WebVTT file's text."""

    def clock(seconds: float) -> str:
        ms = round(seconds * 1000)
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    def plain(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    cues = [f"{clock(line.begin)} --> {clock(line.end)}\n{plain(line.text)}\n" for line in lines if line.text]
    return "\n".join(["WEBVTT\n", *cues])
