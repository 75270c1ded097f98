"""Exact metrics of what happens at a prompt change and at a cut, in a world whose truth is known."""

from torch import Tensor

from rollout.benchmarks.metrics.facts import Facts, facts
from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Score
from rollout.slots import Block

__all__ = [
    "REACT",
    "action_after_cut",
    "identity_after_cut",
    "letting_go",
    "over_changes",
    "reacted",
    "reaction",
    "scene_changed",
    "scene_reached",
]

REACT = 15
"""Latent frames within which a prompt change must show; who has not reacted by then counts as 15."""


def _windows(present: Facts, block: Block) -> Tensor | None:
    """The actions of the windows that begin at a block and up to 15 frames later, before the next event.

    None where the next event, or the end, leaves no room for all of them: who is watched for less cannot be late.
    """
    last = block.start + REACT
    if last + present.world.properties["action"].span > present.until(block, "action"):
        return None
    half = present.world.properties["action"].span // 2
    return present.seen.values["action"][block.start + half : last + half + 1]


def _first(shows: Tensor) -> int:
    return int(shows.int().argmax()) if bool(shows.any()) else REACT


def over_changes(sample: Sample, *, old: bool = False) -> dict[Block, int]:
    """Frames from each change of action until a window shows the new one, or no longer shows the `old`; at most 15.

    A change that is followed by another event, or by the end, before 15 windows have begun is not in it.
    """
    present, reactions = facts(sample), {}
    labels = present.asked("action")
    for block in present.changes("action"):
        windows = _windows(present, block)
        if windows is not None:
            shows = windows != labels[block.start - 1] if old else windows == labels[block.start]
            reactions[block] = _first(shows)
    return reactions


def reaction(sample: Sample) -> Score | None:
    """Reaction time: latent frames from a prompt change to the first 7-frame window that shows the new action, at most 15."""
    reactions = over_changes(sample)
    return Score(mean(reactions.values())) if reactions else None


def reacted(sample: Sample) -> Score | None:
    """The share of prompt changes that show within 15 latent frames."""
    present = facts(sample)
    labels = present.asked("action")
    windows = [(_windows(present, b), labels[b.start]) for b in present.changes("action")]
    shows = [float((window == label).any()) for window, label in windows if window is not None]
    return Score(mean(shows)) if shows else None


def letting_go(sample: Sample) -> Score | None:
    """Latent frames from a prompt change to the first 7-frame window without the old action, at most 15."""
    reactions = over_changes(sample, old=True)
    return Score(mean(reactions.values())) if reactions else None


def scene_changed(sample: Sample) -> Score | None:
    """Frames after a cut's block whose background is not the one before the cut."""
    present, shares = facts(sample), []
    labels, visible = present.seen.values["background"], present.truth.visible["background"]
    for block in present.cuts:
        before = labels[: block.start][visible[: block.start]]
        rows = slice(block.end, present.until(block, "action"))
        after = labels[rows][visible[rows]]
        if len(after) and len(before):
            shares.append((after != before[-1]).float().mean().item())
    return Score(mean(shares)) if shares else None


def _under_cuts(sample: Sample, name: str) -> Score | None:
    """The share of frames after each cut's block that are right, where that is determined."""
    present, shares = facts(sample), []
    errors = present.errors(name)
    for block in present.cuts:
        stretch = errors[block.end : present.until(block, "action")]
        stretch = stretch[~stretch.isnan()]
        if len(stretch):
            shares.append(1 - stretch.mean().item())
    return Score(mean(shares)) if shares else None


def scene_reached(sample: Sample) -> Score | None:
    """Frames after a cut's block with the background that the cut's prompt names."""
    return _under_cuts(sample, "background")


def identity_after_cut(sample: Sample) -> Score | None:
    """Frames after a cut's block whose subject is the one before it: does it survive?"""
    return _under_cuts(sample, "identity")


def action_after_cut(sample: Sample) -> Score | None:
    """Frames after a cut's block, in whole windows of the trackers, that show the prompt's action."""
    return _under_cuts(sample, "action")
