"""Training clips of the sprite world: what the model sees of time, scenes, light, windows and sinks.

Three kinds of clip. `steady`: consecutive frames. `skip`: once, time jumps ahead by k frames, positions say so (never
beyond the trained horizon), and the scene is another with probability 1 - exp(-k / SCENE_LIFE); the subject and its
action go on. `hidden`: time or the scene jumps and positions do not say so, as a re-dated sink or the frames before a
cut look to later blocks; the block in which it happens carries no loss, so that the model is never taught to do it.
The prompt's subject and action are constant within a clip: cached frames always predict the action.

Over any kind lie nights of whole blocks, and landmarks that move to the column that a prompt names. A `plain` model sees
no hidden jump and no window smaller than the clip: it stands for a model on which a method is put without training.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rollout.backends.sprites.grammar import MARKS, SLOTS
from rollout.backends.sprites.world import DAY, NIGHT, SCENE, SCENE_LIFE, World, move_mark, sample_world

__all__ = [
    "BLOCK",
    "HORIZON",
    "LENGTHS",
    "SHARES",
    "UNNAMED",
    "Clip",
    "Dice",
    "Moved",
    "frame_mask",
    "sample_clip",
    "with_nights",
]

BLOCK = 3
HORIZON = 21
LENGTHS = (3, 9, 15, 21)
SHARES = (0.25, 0.15, 0.25, 0.35)
"""How often each length of a steady clip is drawn; the shortest teach the first block, the hardest."""
UNNAMED = 0.3
"""The share of clips whose prompts leave out colour, shape or both."""


@dataclass(frozen=True)
class Clip:
    """A batch of clips that share positions, masks and noise structure."""

    world: World
    time: Tensor
    """(B, F) the world's time of each frame."""
    positions: tuple[int, ...]
    """F temporal RoPE indices."""
    tokens: Tensor
    """(B, F, 6) text tokens, one prompt a block."""
    learn: Tensor
    """(F,) bool: frames that carry loss."""
    marked: Tensor
    """(B, F) bool: the prompt names the landmark's column."""
    visible: Tensor
    """(2F, 2F) bool over [clean | noisy] frames: who attends to whom."""


class Dice:
    """Plain numbers from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def share(self) -> float:
        """Uniform in 0..1."""
        return torch.rand((), generator=self.generator).item()

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def choose(self, shares: tuple[float, ...]) -> int:
        """An index with these shares."""
        return int(torch.multinomial(torch.tensor(shares), 1, generator=self.generator))


class Moved(NamedTuple):
    """A world whose landmarks moved, and the column that each block's prompt names (B, F; -1: silent)."""

    world: World
    column: Tensor


def sample_clip(generator: torch.Generator, frames_per_batch: int = 63, *, plain: bool = False) -> Clip:
    """Draw one batch; `frames_per_batch` bounds clips x frames, so that every step costs about the same."""
    dice = Dice(generator)
    kind = ("steady", "skip", "hidden")[dice.choose((0.75, 0.25, 0.0) if plain else (0.6, 0.25, 0.15))]
    if kind == "steady":
        frames = LENGTHS[dice.choose(SHARES)]
    elif kind == "skip":
        frames = (6, 9, 12, 15)[dice.between(0, 3)]
    else:
        frames = (9, 12, HORIZON)[dice.between(0, 2)]
    batch = max(1, frames_per_batch // frames)
    world = sample_world(batch, frames, generator)
    world, column = _with_moves(world, generator) if kind == "steady" else Moved(world, torch.full((batch, frames), -1))
    step = torch.ones(batch, frames, dtype=torch.long)
    step[:, 0] = 0
    learn = torch.ones(frames, dtype=torch.bool)
    positions = list(range(frames))
    sink, recent = None, None
    if kind == "skip":
        at, skip = dice.between(1, frames - 1), dice.between(1, HORIZON - frames)
        step[:, at] += skip
        positions[at:] = [p + skip for p in positions[at:]]
        world = _change_scene(world, at, 1 - math.exp(-skip / SCENE_LIFE), generator)
    elif kind == "hidden" and dice.share() < 0.5:  # the first frames are a sink of long ago
        sink = at = (1, 3)[dice.between(0, 1)]
        step[:, at] += torch.randint(0, 64, (batch,), generator=generator)
        recent = dice.between(2, 18)
        learn[at // BLOCK * BLOCK : at // BLOCK * BLOCK + BLOCK] = False
    elif kind == "hidden":  # an undated scene change
        at = dice.between(1, frames - 2)
        step[:, at] += dice.between(0, 20)
        world = _change_scene(world, at, 0.8, generator)
        learn[at // BLOCK * BLOCK : at // BLOCK * BLOCK + BLOCK] = False
    if not plain and sink is None and dice.share() < 0.3:
        sink, recent = (0, 1, 3)[dice.between(0, 2)], (1, dice.between(1, 9))[dice.between(0, 1)]
    world = with_nights(world, generator)
    return Clip(
        world=world,
        time=step.cumsum(1),
        positions=tuple(positions),
        tokens=_prompts(world, column, generator),
        learn=learn,
        marked=column >= 0,
        visible=frame_mask(frames, sink or 0, recent or frames),
    )


def with_nights(world: World, generator: torch.Generator) -> World:
    """One night of whole blocks in three of four clips, between days; one in ten of these begins by night.

    Clips shorter than three blocks are all night in one of ten cases, so that a first block can be dark.
    """
    batch, blocks = len(world.colour), world.frames // BLOCK
    block = torch.arange(world.frames) // BLOCK
    draw = torch.rand(3, batch, 1, generator=generator)
    if blocks < 3:
        night = (draw[0] < 0.1).expand(batch, world.frames)
    else:
        dusk = 1 + (draw[1] * (blocks - 2)).floor()  # 1 .. blocks - 2
        dawn = dusk + 1 + (draw[2] * (blocks - 1 - dusk)).floor()  # dusk + 1 .. blocks - 1
        dusk = torch.where(draw[0] < 0.075, 0, dusk)
        night = (draw[0] < 0.75) & (block >= dusk) & (block < dawn)
    return replace(world, light=torch.where(night, NIGHT, DAY))


def _with_moves(world: World, generator: torch.Generator) -> Moved:
    """In two of five clips some blocks' prompts name the landmark's column; it moves there and stays there."""
    batch, blocks = len(world.colour), world.frames // BLOCK
    block = torch.arange(world.frames) // BLOCK
    draw = torch.rand(3, batch, 1, generator=generator)
    begin = (draw[1] * blocks).floor()
    end = begin + 1 + (draw[2] * (blocks - begin)).floor()
    moves = draw[0] < 0.4
    column = torch.randint(len(MARKS), (batch, 1), generator=generator)
    place = torch.where(moves & (block >= begin), move_mark(world.place, column), world.place)
    columns = torch.where(moves & (block >= begin) & (block < end), column, -1)
    return Moved(replace(world, place=place), columns)


def _change_scene(world: World, at: int, probability: float, generator: torch.Generator) -> World:
    batch = len(world.colour)
    other = sample_world(batch, world.frames, generator)
    redraw = torch.rand(batch, 1, generator=generator) < probability
    after = redraw & (torch.arange(world.frames) >= at)
    scene = {name: torch.where(after, getattr(other, name), getattr(world, name)) for name in SCENE}
    return replace(world, **scene)


def _prompts(world: World, column: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens (B, F, 6): a block's prompt names its last frame's background, or the clip's prompts name none.

    Night is always named, day in half of the clips; the landmark's column where it moves.
    """
    batch, frames = world.background.shape
    last = torch.arange(frames) // BLOCK * BLOCK + BLOCK - 1
    subject = (world.colour, world.shape, world.action)
    scene = (world.background[:, last], world.light, column)
    labels = torch.stack([*(s[:, None].expand(batch, frames) for s in subject), *scene], -1) + 1
    silent = torch.rand(batch, 1, len(SLOTS), generator=generator) < torch.tensor([0, 0, 0.03, 0.5, 0.5, 0])
    leave = torch.rand(2, batch, 1, generator=generator)
    silence = leave[0] < UNNAMED
    silent[..., 0] = silence & (leave[1] < 2 / 3)  # colour, both or shape: a third each
    silent[..., 1] = silence & (leave[1] > 1 / 3)
    silent = silent.expand(batch, frames, -1).clone()
    silent[..., :4] |= torch.rand(batch, 1, 1, generator=generator) < 0.02
    silent[..., 4] &= world.light == DAY
    sizes = torch.tensor([0, *(1 + len(words) for words in SLOTS[:-1])]).cumsum(0)
    return labels.masked_fill(silent, 0) + sizes


def frame_mask(frames: int, sink: int, recent: int) -> Tensor:
    """Teacher forcing in one pass over [clean | noisy] frames (2F, 2F).

    A clean frame sees its own block and, of the clean frames before it, the first `sink` and the last `recent`; a
    noisy frame sees the same clean frames and its own noisy block.
    """
    frame = torch.arange(frames)
    start = frame // BLOCK * BLOCK
    past = frame[None] < start[:, None]
    visible = past & ((frame[None] < sink) | (frame[None] >= start[:, None] - recent))
    same_block = start[None] == start[:, None]
    nothing = torch.zeros_like(same_block)
    return torch.cat([torch.cat([visible | same_block, nothing], 1), torch.cat([visible, same_block], 1)])
