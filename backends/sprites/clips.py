"""Training clips of the sprite world: what the model sees of time, scenes, windows and sinks.

Three kinds of clip. `plain`: consecutive frames. `skip`: once, time jumps ahead by k frames, positions say so (never
beyond the trained horizon), and the scene is another with probability 1 - exp(-k / SCENE_LIFE); the subject and its
action go on. `hidden`: time or the scene jumps and positions do not say so, as a re-dated sink or the frames before a
cut look to later blocks; the block in which it happens carries no loss, so that the model is never taught to do it.
The prompt's subject and action are constant within a clip: cached frames always predict the action.
"""

import math
from bisect import bisect
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rollout.backends.sprites.grammar import SLOTS
from rollout.backends.sprites.world import SCENE_LIFE, World, sample_world

BLOCK = 3
HORIZON = 21


@dataclass(frozen=True)
class Clip:
    """A batch of clips that share positions, masks and noise structure."""

    world: World
    time: Tensor
    """(B, F) the world's time of each frame."""
    positions: tuple[int, ...]
    """F temporal RoPE indices."""
    tokens: Tensor
    """(B, F, 4) text tokens, one prompt a block."""
    learn: Tensor
    """(F,) bool: frames that carry loss."""
    visible: Tensor
    """(2F, 2F) bool over [clean | noisy] frames: who attends to whom."""


def sample_clip(generator: torch.Generator, frames_per_batch: int = 80) -> Clip:
    """Draw one batch; `frames_per_batch` bounds clips x frames, so that every step costs about the same."""

    def rand() -> float:
        return torch.rand((), generator=generator).item()

    def randint(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    kind = rand()
    if kind < 0.6:
        frames = (BLOCK, 9, HORIZON)[bisect((0.45, 0.75), rand())]  # short ones teach the first block, the hardest
    elif kind < 0.85:
        frames = (6, 9, 12, 15)[randint(0, 3)]
    else:
        frames = (9, 12, HORIZON)[randint(0, 2)]
    batch = max(1, frames_per_batch // frames)
    world = sample_world(batch, frames, generator)
    step = torch.ones(batch, frames, dtype=torch.long)
    step[:, 0] = 0
    learn = torch.ones(frames, dtype=torch.bool)
    positions = list(range(frames))
    sink, recent = None, None
    if 0.6 <= kind < 0.85:
        at, skip = randint(1, frames - 1), randint(1, HORIZON - frames)
        step[:, at] += skip
        positions[at:] = [p + skip for p in positions[at:]]
        world = _change_scene(world, at, 1 - math.exp(-skip / SCENE_LIFE), generator)
    elif kind >= 0.85 and rand() < 0.5:  # the first frames are a sink of long ago
        sink = at = (1, 3)[randint(0, 1)]
        step[:, at] += torch.randint(0, 64, (batch,), generator=generator)
        recent = randint(2, 18)
        learn[at // BLOCK * BLOCK : at // BLOCK * BLOCK + BLOCK] = False
    elif kind >= 0.85:  # an undated scene change
        at = randint(1, frames - 2)
        step[:, at] += randint(0, 20)
        world = _change_scene(world, at, 0.8, generator)
        learn[at // BLOCK * BLOCK : at // BLOCK * BLOCK + BLOCK] = False
    if sink is None and rand() < 0.4:
        sink, recent = (0, 1, 3)[randint(0, 2)], (1, randint(1, 9))[randint(0, 1)]
    return Clip(
        world=world,
        time=step.cumsum(1),
        positions=tuple(positions),
        tokens=_prompts(world, generator),
        learn=learn,
        visible=frame_mask(frames, sink or 0, recent or frames),
    )


def _change_scene(world: World, at: int, probability: float, generator: torch.Generator) -> World:
    batch = len(world.colour)
    other = sample_world(batch, world.frames, generator)
    changed = torch.rand(batch, 1, generator=generator) < probability
    after = changed & (torch.arange(world.frames) >= at)
    scene = {
        name: torch.where(after, getattr(other, name), getattr(world, name))
        for name in ("background", "ground", "place", "ink")
    }
    return replace(world, **scene)


def _prompts(world: World, generator: torch.Generator) -> Tensor:
    """Tokens (B, F, 4): a block's prompt names its last frame's background, or the clip's prompts name none."""
    batch, frames = world.background.shape
    last = torch.arange(frames) // BLOCK * BLOCK + BLOCK - 1
    subject = (world.colour, world.shape, world.action)
    named = torch.stack([*(s[:, None].expand(batch, frames) for s in subject), world.background[:, last]], -1) + 1
    silent = torch.rand(batch, 1, len(SLOTS), generator=generator) < torch.tensor([0.03, 0.03, 0.03, 0.5])
    silent |= torch.rand(batch, 1, 1, generator=generator) < 0.02
    sizes = torch.tensor([0, *(1 + len(words) for words in SLOTS[:-1])]).cumsum(0)
    return named.masked_fill(silent, 0) + sizes


def frame_mask(frames: int, sink: int, recent: int) -> Tensor:
    """Teacher forcing in one pass over [clean | noisy] frames (2F, 2F).

    A clean frame sees its own block and, of the clean frames before it, the first `sink` and the last `recent`; a
    noisy frame sees the same clean frames and its own noisy block.
    """
    frame = torch.arange(frames)
    start = frame // BLOCK * BLOCK
    past = frame[None] < start[:, None]
    kept = past & ((frame[None] < sink) | (frame[None] >= start[:, None] - recent))
    own = start[None] == start[:, None]
    nothing = torch.zeros_like(own)
    return torch.cat([torch.cat([kept | own, nothing], 1), torch.cat([kept, own], 1)])
