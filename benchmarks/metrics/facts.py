"""What a rollout in a known world shows and what it should show, latent frame by latent frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from rollout.benchmarks.metrics.sample import Sample
from rollout.errors import SpecError
from rollout.run.recipe import PrefixRecord
from rollout.slots import Block
from rollout.world import Act, Seen, Truth, World

__all__ = ["Facts", "facts"]


@dataclass(frozen=True)
class Facts:
    """One rollout's frames as the trackers see them, and as its prompts, its start and its cuts determine them.

    A rollout that began with true blocks is judged by their world; another by what its prompts name, and what they leave
    open by what its first block showed.
    """

    world: World
    seen: Seen
    truth: Truth
    true_start: bool
    """It began with true blocks."""
    blocks: tuple[Block, ...]
    named: tuple[Mapping[str, int], ...]
    """What each prompt names, by property."""
    shot: Tensor
    """(F,) the number of each frame's prompt."""
    begin: int
    """First generated frame."""

    @property
    def frames(self) -> int:
        return len(self.shot)

    @property
    def cuts(self) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if block.cut)

    def changes(self, name: str) -> tuple[Block, ...]:
        """Blocks at which the prompts name another value of a property."""
        pairs = pairwise(self.blocks)
        return tuple(b for a, b in pairs if self.named[a.prompt].get(name) != self.named[b.prompt].get(name))

    def until(self, block: Block, *names: str) -> int:
        """The end of the stretch that begins at a block: the next cut or change of a property, or the end."""
        events = [*self.cuts, *(change for name in names for change in self.changes(name))]
        return min([*(event.start for event in events if event.start > block.start), self.frames])

    def asked(self, name: str) -> Tensor:
        """(F,) what each frame's prompt names of a property; -1 where it is silent."""
        return torch.tensor([names.get(name, -1) for names in self.named])[self.shot]

    def parts(self, name: str) -> tuple[str, ...]:
        """The properties of a name: itself, or a group's. Raises SpecError."""
        if name in self.world.properties:
            return (name,)
        if name in self.world.groups:
            return self.world.groups[name]
        names = ", ".join((*self.world.properties, *self.world.groups))
        raise SpecError(f"this world has no property {name!r}. It has {names}.")

    def expected(self, name: str) -> tuple[Tensor, Tensor]:
        """The values that a property should have (F, ...), and where that is determined and visible (F,)."""
        return self.truth.values[name], self.truth.known[name] & self.truth.visible[name]

    def errors(self, name: str) -> Tensor:
        """(F,) errors of a property, or the worst of a group's; NaN where it cannot be judged."""
        parts = [self._errors(part) for part in self.parts(name)]
        return torch.stack(parts).amax(0) if len(parts) > 1 else parts[0]

    def _errors(self, name: str) -> Tensor:
        true, mask = self.expected(name)
        error = self.world.error(name, self.seen, true).float()
        span = self.world.properties[name].span
        return error.masked_fill(~(mask & self.steady(span)), torch.nan)

    def steady(self, span: int) -> Tensor:
        """(F,) frames whose `span` frames around them lie under one prompt; at both ends the nearest whole window."""
        steady = torch.ones(self.frames, dtype=torch.bool)
        if 1 < span <= self.frames:
            near = self.shot.unfold(0, span, 1)
            constant = (near == near[:, :1]).all(1)
            half = span // 2
            steady[half : half + len(near)] = constant
        return steady

    def hidden_before(self, name: str) -> Tensor:
        """(F,) frames that show a property again after generated frames that did not."""
        visible = self.truth.visible[name]
        mask = torch.arange(self.frames) >= self.begin
        return visible & ((~visible & mask).int().cumsum(0) > 0)


def facts(sample: Sample) -> Facts:
    """Track a rollout in a known world; once a sample. Raises SpecError."""
    if "world" not in sample.facts:
        sample.facts["world"] = _facts(sample)
    facts_of_sample: Facts = sample.facts["world"]
    return facts_of_sample


def acts(blocks: Sequence[Block], prompts: Sequence[str]) -> tuple[Act, ...]:
    """The stretches of blocks under one prompt, or between cuts."""

    def key(block: Block) -> tuple[int, int]:
        return block.prompt, sum(b.cut for b in blocks if b.index <= block.index)

    stretches = [list(stretch) for _, stretch in groupby(blocks, key)]
    return tuple(Act(prompts[s[0].prompt], sum(b.frames for b in s), s[0].cut) for s in stretches)


def _facts(sample: Sample) -> Facts:
    world, blocks = sample.world, sample.blocks
    if world is None:
        raise SpecError("this video is of no world whose truth is known. Leave its metrics out.")
    record = sample.record
    true_start = record is not None and isinstance(record.prefix, PrefixRecord) and bool(record.prefix.blocks)
    begin = sample.given * blocks[0].frames
    readings = world.track(np.stack(list(sample.frames())))
    start = None if true_start else _start(world, readings, slice(begin, begin + blocks[0].frames))
    return Facts(
        world=world,
        seen=readings,
        truth=world.truth(acts(blocks, sample.prompts), 0 if record is None else record.seed, start),
        true_start=true_start,
        blocks=blocks,
        named=tuple(world.parse(prompt) for prompt in sample.prompts),
        shot=torch.tensor([b.prompt for b in blocks for _ in range(b.frames)]),
        begin=begin,
    )


def _start(world: World, readings: Seen, frames: slice) -> dict[str, int]:
    """What most of some frames show, by property: only labels that can be read."""
    labels = {}
    for name, prop in world.properties.items():
        labels_read = readings.values[name][frames]
        labels_read = labels_read[labels_read >= 0] if prop.unit == "share" else labels_read[:0]
        if len(labels_read):
            labels[name] = int(labels_read.mode().values)
    return labels
