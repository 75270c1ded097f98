"""A video or a picture as a model takes it: at its frame rate and size, frame by frame."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from rollout.backend import Spec
from rollout.errors import OutputError
from rollout.run.reading import Frames, at_rate, decoded, video_fps
from rollout.text import cause

__all__ = ["CLOSE", "LARGEST", "LONGEST", "PICTURES", "SAME", "Clip", "read_clip"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CLOSE = 0.05
"""How far shapes may differ: a video that is wider or taller by so much is cropped at its sides, another is refused."""
SAME = 0.01
"""Frame rates that differ by less play alike."""
LONGEST, LARGEST = 10_000, 2**30
"""Frames, and bytes of them at the model's size, that are taken at most."""


@dataclass(frozen=True)
class Clip:
    """Frames (N, height, width, 3) of a model's size and rate, and what was done to them, if anything."""

    frames: Frames
    changes: tuple[str, ...] = ()


def read_clip(path: Path, spec: Spec) -> Clip:
    """A video at the model's frame rate and size, or a picture as its one frame. Raises OutputError.

    At another rate each frame is the one that the video shows at its time; of another shape it is scaled and cropped
    around its middle where the shapes differ by 5% at most. Frames are scaled as they come, and none is read that is not
    taken.
    """
    if path.suffix.lower() in PICTURES:
        return _picture(path, spec)
    rate, changes = video_fps(path), []
    shown = decoded(path)
    if abs(rate / spec.fps - 1) > SAME:
        shown = at_rate(shown, rate, spec.fps)
        changes.append(f"{rate:g} frames a second taken at {spec.fps:g}")
    first = next(shown)  # what does not fit is refused before more is read
    pixels = first.pixels()
    fit = _Fit.of(path, (pixels.shape[0], pixels.shape[1]), spec.size, first.pixel_aspect)
    changes += [fit.says] * bool(fit.says)
    pictures = [fit.apply(pixels)]
    most = max(1, min(LONGEST, LARGEST // pictures[0].nbytes))
    pictures += [fit.apply(frame.pixels()) for frame in islice(shown, most - 1)]
    if len(pictures) == most and next(shown, None) is not None:
        changes.append(f"its first {most / spec.fps:.4g} s: no more than {most:,} frames of this size are taken")
    least = spec.pixel_frames(spec.block)
    if len(pictures) < least:
        raise OutputError(
            f"{path} lasts {len(pictures)} frames at the model's {spec.fps:g} a second, and its first block is {least}. Give "
            "a longer video."
        )
    return Clip(_stacked(pictures), tuple(changes))


def _stacked(pictures: list[Frames]) -> Frames:
    """Frames as one array; the list is emptied meanwhile, so that they are not held twice."""
    frames: Frames = np.empty((len(pictures), *pictures[0].shape), np.uint8)
    for number in reversed(range(len(frames))):
        frames[number] = pictures.pop()
    return frames


@dataclass(frozen=True)
class _Fit:
    """How frames come to a size: scaled to `scaled` (height, width), then cropped to `size`."""

    size: tuple[int, int]
    scaled: tuple[int, int]
    says: str = ""

    @classmethod
    def of(
        cls, path: Path, shape: tuple[int, int], size: tuple[int, int] | None, pixel_aspect: Fraction = Fraction(1)
    ) -> "_Fit":
        if size is None or (shape == size and pixel_aspect == 1):
            return cls(shape, shape)
        height, width = shape[0], round(shape[1] * pixel_aspect)  # as it is shown
        ratio = (width / height) / (size[1] / size[0])
        if not 1 - CLOSE <= ratio <= 1 + CLOSE:
            inside = f"{round(width / max(1, ratio))}:{round(height * min(1, ratio))}"
            raise OutputError(
                f"{path} is {width}x{height}, and the model runs at {size[1]}x{size[0]}, another shape: it is not squashed. "
                f"Crop it, such as with ffmpeg -i FILE -vf crop={inside} NEW, or give a model of several sizes --height and "
                "--width of its shape."
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
            if getattr(image, "n_frames", 1) > 1:
                raise OutputError(f"{path} is an animation. Give one picture, or an mp4.")
            if image.mode.startswith(("I", "F")):
                raise OutputError(f"{path} has more than 8 bits a channel. Save it with 8.")
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[0] != 255:
                raise OutputError(f"{path} is transparent in places. Save it with a background.")
            frame = np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OutputError(f"{path} cannot be read as a picture: {cause(error)}. Give a PNG or JPEG.") from error
    fit = _Fit.of(path, (frame.shape[0], frame.shape[1]), spec.size)
    return Clip(_stacked([fit.apply(frame)]), (fit.says,) if fit.says else ())
