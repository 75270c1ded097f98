"""Exact metrics: the sprite world's truth is known, so what a frame shows is right or wrong."""

import torch
from torch import Tensor

from rollout.backends.sprites.trackers import WINDOW, torus
from rollout.backends.sprites.world import CENTRE, GROUNDS, motion
from rollout.benchmarks.metrics.facts import HALF, Facts, facts
from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Curve, Score


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


def seam_motion(sample: Sample) -> Score | None:
    """Motion continuity: pixels by which the sprite's path bends more at block seams than within blocks; 0 is unseen.

    The bend is the second difference of the centre; seams of prompt changes and cuts are left out.
    """
    found = facts(sample)
    x, y = found.seen.x[0], found.seen.y[0]
    dx, dy = torus(x[1:] - x[:-1]), y[1:] - y[:-1]
    bend = torch.hypot(dx[1:] - dx[:-1], dy[1:] - dy[:-1])  # bend[i] is centred on frame i + 1
    starts, events = ({b.start for b in blocks} for blocks in (sample.blocks, sample.events))
    seams: list[float] = []
    rest: list[float] = []
    for centre in range(max(1, found.begin), found.frames - 1):
        opens = {centre, centre + 1} & starts
        if not opens & events:
            (seams if opens else rest).append(bend[centre - 1].item())
    return Score(sum(seams) / len(seams) - sum(rest) / len(rest)) if seams and rest else None
