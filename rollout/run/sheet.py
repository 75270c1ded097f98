"""Contact sheets: a long video at a glance, in a bounded number of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rollout.loop import Result
from rollout.run.video import Frames

__all__ = ["SHEET", "Sheet", "Tile", "contact_sheet", "thumbnail"]

SHEET = 40
"""Tiles of a contact sheet at most."""


class Sheet:
    """Collects a contact sheet: the blocks at which something happens, and others evenly between."""

    def __init__(self, blocks: int) -> None:
        self._every = max(1, -(-blocks // SHEET))
        self._tiles: list[tuple[bool, Tile]] = []

    def add(self, result: Result, frames: Frames, seconds: float) -> None:
        """Offer a block's middle frame."""
        block = result.block
        mark = "cut" if block.cut else "switch" * block.switch
        if mark or block.index % self._every == 0:
            tile = Tile(thumbnail(frames[len(frames) // 2]), f"{seconds:.1f}s · {result.prompts[0]}", mark)
            self._tiles.append((bool(mark), tile))
            while len(self._tiles) > SHEET:  # a script of thousands of switches
                plain = [i for i, (opening, _) in enumerate(self._tiles) if not opening]
                del self._tiles[plain[len(plain) // 2] if plain else len(self._tiles) // 2]

    def draw(self) -> Image.Image:
        """The sheet as a picture."""
        return contact_sheet([tile for _, tile in self._tiles])

    def state(self) -> tuple[list[list[str]], dict[str, Tensor]]:
        """Captions and marks, and pictures by number."""
        tiles = [tile for _, tile in self._tiles]
        return [[t.caption, t.mark] for t in tiles], {str(i): torch.from_numpy(t.frame) for i, t in enumerate(tiles)}

    def restore(self, captions: Sequence[Sequence[str]], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state. Raises KeyError, ValueError."""
        tiles = [Tile(tensors[str(i)].numpy(), str(caption), str(mark)) for i, (caption, mark) in enumerate(captions)]
        if any(t.frame.ndim != 3 or t.frame.dtype != "uint8" or t.mark not in ("", "cut", "switch") for t in tiles):
            raise ValueError("its contact sheet holds no pictures")
        self._tiles = [(bool(tile.mark), tile) for tile in tiles]


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet: a frame, its caption, and whether a switch or a cut opens here."""

    frame: Frames
    caption: str
    mark: str = ""


MARKS = {"switch": (240, 170, 40), "cut": (230, 60, 60)}


TILE = 128
"""Pixels of a contact sheet's pictures."""


def thumbnail(frame: Frames, size: int = TILE) -> Frames:
    """A frame (height, width, 3) brought into size x size pixels, pixel art by a whole factor."""
    picture = Image.fromarray(frame)
    if max(picture.size) > size:
        picture.thumbnail((size, size))
    else:
        scale = size // max(picture.size)
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    return np.array(picture)


def contact_sheet(tiles: Sequence[Tile], *, columns: int = 8, size: int = TILE) -> Image.Image:
    """A sheet of captioned frames; a coloured bar over a tile marks a prompt switch (amber) or a cut (red)."""
    gap, label = 8, 16
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (gap + columns * (size + gap), gap + rows * (size + label + gap)), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for n, tile in enumerate(tiles):
        x, y = gap + n % columns * (size + gap), gap + n // columns * (size + label + gap)
        picture = Image.fromarray(thumbnail(tile.frame, size))
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
