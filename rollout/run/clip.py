"""A video or a picture as a model takes it: at its frame rate and size, frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollout.backend import Spec
from rollout.errors import OutputError
from rollout.run.video import Frames, clock, video_fps
from rollout.text import cause

__all__ = ["CLOSE", "LONGEST", "PICTURES", "Clip", "read_clip"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CLOSE = 0.05
"""How far shapes may differ: a video that is wider or taller by so much is cropped at its sides, another is refused."""
LONGEST = 10_000
"""Frames that are read at most."""


@dataclass(frozen=True)
class Clip:
    """Frames (N, height, width, 3) of a model's size and rate, and what was done to them, if anything."""

    frames: Frames
    changes: tuple[str, ...] = ()


def read_clip(path: Path, spec: Spec) -> Clip:
    """A video at the model's frame rate and size, or a picture as its one frame. Raises OutputError.

    At another rate each frame is the one that the video shows at its time; of another shape it is scaled and cropped
    around its middle where the shapes differ by 5% at most.
    """
    if path.suffix.lower() in PICTURES:
        return _picture(path, spec)
    rate, changes = video_fps(path), []
    frames: Iterator[Frames] = (frame for _, frame in clock(path))
    if abs(rate / spec.fps - 1) > 0.01:
        frames = _at_rate(clock(path), rate, spec.fps)
        changes.append(f"{rate:g} frames a second taken at {spec.fps:g}")
    fit, pictures = None, []
    for frame in frames:
        fit = fit or _Fit.of(path, (frame.shape[0], frame.shape[1]), spec.size)
        pictures.append(fit.apply(frame))
        if len(pictures) == LONGEST:
            break
    if fit is not None and fit.says:
        changes.append(fit.says)
    return Clip(np.stack(pictures), tuple(changes))


def _at_rate(frames: Iterator[tuple[float, Frames]], rate: float, fps: float) -> Iterator[Frames]:
    """Of frames with their times, each shown for 1/rate seconds at least, those that are shown every 1/fps seconds."""
    count, end, shown = 0, 0.0, None
    for time, frame in frames:
        while shown is not None and count / fps < time - 1e-6:
            yield shown
            count += 1
        shown, end = frame, time + 1 / rate
    while shown is not None and count / fps < end - 1e-6:
        yield shown
        count += 1


@dataclass(frozen=True)
class _Fit:
    """How frames come to a size: scaled to `scaled` (height, width), then cropped to `size`."""

    size: tuple[int, int]
    scaled: tuple[int, int]
    says: str = ""

    @classmethod
    def of(cls, path: Path, shape: tuple[int, int], size: tuple[int, int] | None) -> "_Fit":
        if size is None or shape == size:
            return cls(shape, shape)
        height, width = shape
        ratio = (width / height) / (size[1] / size[0])
        if not 1 - CLOSE <= ratio <= 1 + CLOSE:
            raise OutputError(
                f"{path} is {width}x{height}, and the model runs at {size[1]}x{size[0]}, another shape. Crop it "
                "to that shape, or choose --height and --width."
            )
        scale = max(size[0] / height, size[1] / width)
        scaled = max(size[0], round(height * scale)), max(size[1], round(width * scale))
        return cls(size, scaled, f"{width}x{height} scaled to {size[1]}x{size[0]}")

    def apply(self, frame: Frames) -> Frames:
        if frame.shape[:2] != self.scaled:
            from PIL import Image

            smaller = self.scaled[0] < frame.shape[0]
            how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC  # the mean of what falls on a pixel
            picture = Image.fromarray(frame).resize(self.scaled[::-1], how)
            frame = np.asarray(picture)
        top, left = ((a - b) // 2 for a, b in zip(self.scaled, self.size, strict=True))
        return frame[top : top + self.size[0], left : left + self.size[1]]


def _picture(path: Path, spec: Spec) -> Clip:
    """A picture as a video of one frame, for models whose first block is one frame."""
    from PIL import Image, ImageOps

    if spec.block != 1:
        frames = spec.pixel_frames(spec.block)
        raise OutputError(
            f"{path} is one frame, and this model's blocks are {spec.block} latent frames, {frames} frames of video at the "
            "start. Give a video, or a model that goes frame by frame (--block 1)."
        )
    try:
        with Image.open(path) as image:
            frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as a picture: {cause(error)}. Give a PNG or JPEG.") from error
    fit = _Fit.of(path, (frame.shape[0], frame.shape[1]), spec.size)
    return Clip(fit.apply(frame)[None], (fit.says,) if fit.says else ())
