"""Exact metrics of what happens at a prompt change and at a cut, on the sprite world."""

import torch
from torch import Tensor

from rollout.backends.sprites.trackers import WINDOW
from rollout.benchmarks.metrics.facts import HALF, Facts, facts
from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Score
from rollout.slots import Block

REACT = 15
"""Latent frames within which a prompt change must show; who has not reacted by then counts as 15."""


def _windows(found: Facts, block: Block) -> Tensor:
    """The actions of the windows that begin at a block and up to 15 frames later, before the next event."""
    last = min(found.until(block) - WINDOW, block.start + REACT)
    return found.seen.action[0, block.start + HALF : last + HALF + 1]


def _first(shows: Tensor) -> int:
    return int(shows.int().argmax()) if bool(shows.any()) else REACT


def over_changes(sample: Sample, *, old: bool = False) -> dict[Block, int]:
    """Frames from each change of action until a window shows the new one, or no longer shows the `old`; at most 15.

    A change that is followed too soon by another event, or by the end, is not in it.
    """
    found, out = facts(sample), {}
    asked = found.asked("action")
    for block in found.changes:
        windows = _windows(found, block)
        if len(windows):
            out[block] = _first(windows != asked[block.start - 1] if old else windows == asked[block.start])
    return out


def reaction(sample: Sample) -> Score | None:
    """Reaction time: latent frames from a prompt change to the first 7-frame window that shows the new action, at most 15."""
    found = over_changes(sample)
    return Score(mean(found.values())) if found else None


def reacted(sample: Sample) -> Score | None:
    """The share of prompt changes that show within 15 latent frames."""
    found = facts(sample)
    asked = found.asked("action")
    windows = [(_windows(found, b), asked[b.start]) for b in found.changes]
    shows = [float((seen == wanted).any()) for seen, wanted in windows if len(seen)]
    return Score(mean(shows)) if shows else None


def letting_go(sample: Sample) -> Score | None:
    """Latent frames from a prompt change to the first 7-frame window without the old action, at most 15."""
    found = over_changes(sample, old=True)
    return Score(mean(found.values())) if found else None


def scene_changed(sample: Sample) -> Score | None:
    """Frames after a cut's block whose background is not the one before the cut."""
    found, shares = facts(sample), []
    seen = found.seen.background[0]
    for block in found.cuts:
        after = seen[block.end : found.until(block)]
        if len(after):
            shares.append((after != seen[block.start - 1]).float().mean().item())
    return Score(mean(shares)) if shares else None


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
