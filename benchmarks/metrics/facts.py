"""What a rollout of the sprite world shows and what its prompts ask, latent frame by latent frame."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rollout.backends.sprites.grammar import Caption, parse
from rollout.backends.sprites.trackers import WINDOW, Seen, track
from rollout.backends.sprites.world import World, seeded_world
from rollout.benchmarks.metrics.sample import Sample
from rollout.slots import Block

HALF = WINDOW // 2


@dataclass(frozen=True)
class Facts:
    """One rollout's frames as the trackers see them, and what its prompts ask, latent frame by latent frame.

    `world` is the true world of a rollout that began with true blocks, else None. `shot` numbers each frame's prompt.
    """

    seen: Seen
    captions: tuple[Caption, ...]
    shot: Tensor
    world: World | None
    begin: int
    """First generated frame."""
    known: int
    """Frames before the first cut: the scene is that of the start."""
    undisturbed: int
    """Frames before the first change of action or cut: the path is that of the start."""
    changes: tuple[Block, ...]
    """Blocks at which the action changes."""
    cuts: tuple[Block, ...]

    @property
    def frames(self) -> int:
        return len(self.shot)

    def until(self, block: Block) -> int:
        """The end of the stretch that begins at a block: the next prompt change or cut, or the end."""
        later = [b.start for b in (*self.changes, *self.cuts) if b.start > block.start]
        return min([*later, self.frames])

    def asked(self, name: str) -> Tensor:
        """(F,) what each frame's prompt names of "colour", "shape", "action" or "background"; -1 where it is silent."""
        named = [getattr(caption, name) for caption in self.captions]
        return torch.tensor([-1 if value is None else value for value in named])[self.shot]


def facts(sample: Sample) -> Facts:
    """Track a rollout of the sprite world; once a sample."""
    if "world" not in sample.facts:
        sample.facts["world"] = _facts(sample)
    found: Facts = sample.facts["world"]
    return found


def _facts(sample: Sample) -> Facts:
    video = torch.from_numpy(np.stack(list(sample.frames()))).permute(0, 3, 1, 2).float().div(255)
    captions = tuple(parse(prompt) for prompt in sample.prompts)
    blocks, frames = sample.blocks, len(video)
    true = (sample.record.get("prefix") or {}).get("blocks")
    changes = [b for a, b in pairwise(blocks) if captions[a.prompt].action != captions[b.prompt].action]
    cuts = [b for b in blocks if b.cut]
    return Facts(
        seen=track(video[None]),
        captions=captions,
        shot=torch.tensor([b.prompt for b in blocks for _ in range(b.frames)]),
        world=seeded_world(captions[0], frames, int(sample.record["seed"])) if true else None,
        begin=sample.given * blocks[0].frames,
        known=min([b.start for b in cuts] or [frames]),
        undisturbed=min([b.start for b in (*changes, *cuts)] or [frames]),
        changes=tuple(changes),
        cuts=tuple(cuts),
    )
