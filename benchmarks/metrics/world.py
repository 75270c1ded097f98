"""Exact metrics: the sprite world's truth is known, so what a video shows can be right or wrong, frame by frame."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rollout.backends.sprites.grammar import Caption, parse
from rollout.backends.sprites.trackers import WINDOW, Seen, torus, track
from rollout.backends.sprites.world import CENTRE, GROUNDS, World, motion, seeded_world
from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Curve, Score
from rollout.slots import Block

REACT = 15
"""Latent frames within which a prompt change must show; who has not reacted by then counts as 15."""
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


def _share(found: Facts, right: Tensor, valid: Tensor) -> Score | None:
    """The share of generated frames that are right, and its curve; frames that are not valid do not count."""
    rows = range(found.begin, found.frames)
    values = [float(right[f]) if valid[f] else None for f in rows]
    return Score(mean(v for v in values if v is not None), Curve([float(f) for f in rows], values, "frame"))


def _as_asked(sample: Sample, *names: str) -> Score | None:
    found = facts(sample)
    right = torch.ones(found.frames, dtype=torch.bool)
    valid = torch.ones(found.frames, dtype=torch.bool)
    for name in names:
        wanted = found.asked(name)
        right &= getattr(found.seen, name)[0] == wanted
        valid &= wanted >= 0
    return _share(found, right, valid)


def colour(sample: Sample) -> Score | None:
    """Frames whose sprite has the prompt's colour."""
    return _as_asked(sample, "colour")


def shape(sample: Sample) -> Score | None:
    """Frames whose sprite has the prompt's shape."""
    return _as_asked(sample, "shape")


def identity(sample: Sample) -> Score | None:
    """Frames whose sprite has the prompt's colour and shape."""
    return _as_asked(sample, "colour", "shape")


def action(sample: Sample) -> Score | None:
    """Frames whose 7-frame window, all under one prompt, shows the prompt's action."""
    found = facts(sample)
    wanted = found.asked("action")
    near = found.shot.unfold(0, WINDOW, 1) if found.frames >= WINDOW else found.shot[None, :]
    whole = torch.ones(found.frames, dtype=torch.bool)
    whole[HALF : HALF + len(near)] = (near == near[:, :1]).all(1)
    return _share(found, found.seen.action[0] == wanted, whole & (wanted >= 0))


def background(sample: Sample) -> Score | None:
    """Frames with the background that the prompt names; where it names none, that of the start, up to the first cut."""
    found = facts(sample)
    wanted, start = found.asked("background"), _start(found, "background")
    silent = wanted < 0
    valid = ~silent | (torch.arange(found.frames) < found.known)
    return _share(found, found.seen.background[0] == torch.where(silent, start, wanted), valid)


def ground(sample: Sample) -> Score | None:
    """Frames with the ground height of the start, up to the first cut; no prompt says it, only the cache can carry it."""
    found = facts(sample)
    start = GROUNDS[int(found.world.ground[0, 0])] if found.world is not None else _start(found, "ground")
    return _share(found, found.seen.ground[0] == start, torch.arange(found.frames) < found.known)


def landmark(sample: Sample) -> Score | None:
    """Frames with the landmark (place and ink) of the start, up to the first cut; no prompt says it."""
    found = facts(sample)
    right = (found.seen.place[0] == _start(found, "place")) & (found.seen.ink[0] == _start(found, "ink"))
    return _share(found, right, torch.arange(found.frames) < found.known)


def _start(found: Facts, name: str) -> int:
    """A property of the scene at the start: the true one, or what most of the first generated block's frames show."""
    if found.world is not None:
        return int(getattr(found.world, name)[0, 0])
    return int(getattr(found.seen, name)[0, found.begin : found.begin + 3].mode().values)


def position(sample: Sample) -> Score | None:
    """Pixels between the sprite and its true place, up to the first change of action or cut; from true blocks only."""
    found = facts(sample)
    if found.world is None:
        return None
    x, y, _, _ = motion(found.world.action[:, None], found.world.phase[:, None], torch.arange(found.frames)[None])
    error = torch.hypot(torus(found.seen.x - CENTRE[0] - x), found.seen.y - CENTRE[1] - y)[0]
    return _share(found, error, torch.arange(found.frames) < found.undisturbed)


def _windows(found: Facts, block: Block) -> Tensor:
    """The actions of the windows that begin at a block and up to 15 frames later, before the next event."""
    last = min(found.until(block) - WINDOW, block.start + REACT)
    return found.seen.action[0, block.start + HALF : last + HALF + 1]


def _first(shows: Tensor) -> int:
    return int(shows.int().argmax()) if bool(shows.any()) else REACT


def _over_changes(sample: Sample, *, old: bool) -> list[int]:
    """Frames from each change until a window shows the new action, or no longer shows the old one."""
    found, out = facts(sample), []
    for block in found.changes:
        windows = _windows(found, block)
        if len(windows):
            before, after = (found.captions[n].action for n in (int(found.shot[block.start - 1]), block.prompt))
            out.append(_first(windows != before if old else windows == after))
    return out


def reaction(sample: Sample) -> Score | None:
    """Reaction time: latent frames from a prompt change to the first 7-frame window that shows the new action, at most 15."""
    found = _over_changes(sample, old=False)
    return Score(mean(found)) if found else None


def reacted(sample: Sample) -> Score | None:
    """The share of prompt changes that show within 15 latent frames."""
    found = facts(sample)
    shows = [
        bool((_windows(found, b) == found.captions[b.prompt].action).any())
        for b in found.changes
        if len(_windows(found, b))
    ]
    return Score(mean(float(s) for s in shows)) if shows else None


def letting_go(sample: Sample) -> Score | None:
    """Latent frames from a prompt change to the first 7-frame window without the old action, at most 15."""
    found = _over_changes(sample, old=True)
    return Score(mean(found)) if found else None


def _after_cuts(sample: Sample, name: str) -> Score | None:
    """A share over the frames from the end of each cut's block to the next event."""
    found, shares = facts(sample), []
    for block in found.cuts:
        rows = slice(block.end, found.until(block))
        seen = getattr(found.seen, name)[0]
        before = seen[block.start - 1]
        if len(seen[rows]):
            shares.append((seen[rows] != before).float().mean().item())
    return Score(mean(shares)) if shares else None


def scene_changed(sample: Sample) -> Score | None:
    """Frames after a cut's block whose background is not the one before the cut."""
    return _after_cuts(sample, "background")


def _under_cuts(sample: Sample, *names: str, edge: int = 0) -> Score | None:
    """The share of frames after each cut's block that are as the prompt asks; `edge` frames at both ends left out."""
    found, shares = facts(sample), []
    for block in found.cuts:
        rows = slice(block.end + edge, found.until(block) - edge)
        wanted = [getattr(found.captions[block.prompt], name) for name in names]
        if None in wanted or rows.start >= rows.stop:
            continue
        right = torch.stack([getattr(found.seen, n)[0, rows] == w for n, w in zip(names, wanted, strict=True)])
        shares.append(right.all(0).float().mean().item())
    return Score(mean(shares)) if shares else None


def scene_reached(sample: Sample) -> Score | None:
    """Frames after a cut's block with the background that the cut's prompt names."""
    return _under_cuts(sample, "background")


def identity_after_cut(sample: Sample) -> Score | None:
    """Frames after a cut's block whose sprite has the prompt's colour and shape: does the subject survive?"""
    return _under_cuts(sample, "colour", "shape")


def action_after_cut(sample: Sample) -> Score | None:
    """Frames after a cut's block, in whole 7-frame windows, that show the prompt's action."""
    return _under_cuts(sample, "action", edge=HALF)


def seam_motion(sample: Sample) -> Score | None:
    """Motion continuity: pixels by which the sprite's path bends more at block seams than within blocks; 0 is unseen.

    The bend is the second difference of the centre; seams of prompt changes and cuts are left out.
    """
    found = facts(sample)
    x, y = found.seen.x[0], found.seen.y[0]
    dx, dy = torus(x[1:] - x[:-1]), y[1:] - y[:-1]
    bend = torch.hypot(dx[1:] - dx[:-1], dy[1:] - dy[:-1])  # bend[i] is centred on frame i + 1
    events = {b.start for b in sample.events}
    seams, rest = [], []
    for centre in range(max(1, found.begin), found.frames - 1):
        opens = {centre, centre + 1} & {b.start for b in sample.blocks}
        if not opens & events:
            (seams if opens else rest).append(bend[centre - 1].item())
    return Score(sum(seams) / len(seams) - sum(rest) / len(rest)) if seams and rest else None
