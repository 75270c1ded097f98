"""Exact metrics: where a world's truth is known, what a frame shows is right or wrong."""

from collections.abc import Callable

import torch
from torch import Tensor

from rollout.benchmarks.metrics.facts import Facts, facts
from rollout.benchmarks.metrics.sample import Sample, mean
from rollout.benchmarks.metrics.score import Curve, Score

__all__ = ["OF_PROPERTY", "error", "moved", "neither", "new", "old", "recall", "right", "seam_motion", "slip"]

Measure = Callable[[Sample], Score | None]
SLIP = 4.0
"""Pixels that a sprite jumps off its path, from one frame to the next, when it slips: twice a walker's step."""


def _over(present: Facts, values: Tensor) -> Score:
    """The mean over generated frames of values (F,), NaN where they do not count, and their curve."""
    rows = range(present.begin, present.frames)
    curve = [None if values[f].isnan() else float(values[f]) for f in rows]
    return Score(mean(value for value in curve if value is not None), Curve([float(f) for f in rows], curve, "frame"))


def right(name: str) -> Measure:
    """Frames that show a property, or all of a group, as prompts, start and cuts determine it; hidden ones do not count."""

    def measure(sample: Sample) -> Score | None:
        present = facts(sample)
        return _over(present, 1 - present.errors(name))

    return measure


def error(name: str) -> Measure:
    """How far a property is from its true value, over the frames in which that is known; from true blocks only."""

    def measure(sample: Sample) -> Score | None:
        present = facts(sample)
        return _over(present, present.errors(name)) if present.true_start else None

    return measure


def recall(name: str | None = None) -> Measure:
    """Frames that are right once they can be seen again after frames in which they could not: what the cache brought back.

    Without a name the mean over all that the world hides.
    """

    def measure(sample: Sample) -> Score | None:
        present = facts(sample)
        names = present.world.scene if name is None else (name,)
        scores = [_over(present, _again(present, 1 - present.errors(n), n)) for n in names]
        values = [score.value for score in scores if score.value is not None]
        if len(values) < len(names):
            return None
        return scores[0] if name is not None else Score(mean(values))

    return measure


def _again(present: Facts, values: Tensor, name: str) -> Tensor:
    """Values where a property shows again, NaN elsewhere."""
    again = torch.stack([present.hidden_before(part) for part in present.parts(name)]).all(0)
    return values.masked_fill(~again, torch.nan)


def new(name: str) -> Measure:
    """Frames that show, once visible again, what stood there last: the scene after its change."""
    return _came_back(name, lambda newest, oldest: newest)


def old(name: str) -> Measure:
    """Frames that show, once visible again, what stood there first: the scene before its change."""
    return _came_back(name, lambda newest, oldest: oldest & ~newest)


def neither(name: str) -> Measure:
    """Frames that show, once visible again, neither the scene after its change nor the one before."""
    return _came_back(name, lambda newest, oldest: ~newest & ~oldest)


def _came_back(name: str, choose: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """The share of frames, visible again, that `choose` picks of (equal to the newest, equal to the oldest) scene."""

    def measure(sample: Sample) -> Score | None:
        present = facts(sample)
        newest = torch.zeros(present.frames)
        oldest, differ = newest.clone(), torch.zeros(present.frames, dtype=torch.bool)
        for part in present.parts(name):
            last, first = _last_seen(present, part), _first(present, part)
            newest = torch.maximum(newest, present.world.error(part, present.seen, last).float())
            oldest = torch.maximum(oldest, present.world.error(part, present.seen, first).float())
            differ |= last != first
        mask = ~newest.isnan() & ~oldest.isnan() & differ
        matches = choose(newest == 0, oldest == 0).float()
        score = _over(present, _again(present, matches.masked_fill(~mask, torch.nan), name))
        return None if score.value is None else score

    return measure


def _last_seen(present: Facts, name: str) -> Tensor:
    """(F,) what stood there last: the truth where it is known, else what most frames showed before they were hidden."""
    truth = present.truth
    values = truth.values[name].clone()
    unknown = ~truth.known[name]
    if not bool(unknown.any()):
        return values
    visible = truth.visible[name] & unknown
    hidden_yet = (~truth.visible[name] & unknown).int().cumsum(0) > 0
    labels = present.seen.values[name][visible & ~hidden_yet]
    labels = labels[labels >= 0]
    values[unknown] = int(labels.mode().values) if len(labels) else -1
    return values


def _first(present: Facts, name: str) -> Tensor:
    """(F,) what stood there first."""
    values = present.truth.values[name]
    return values[:1].expand_as(values)


def moved(sample: Sample) -> Score | None:
    """Blocks that first name the landmark's column, by day, whose last visible frame shows it there."""
    present, shares = facts(sample), []
    errors = present.errors("mark")
    for block in present.changes("mark"):
        if "mark" in present.named[block.prompt]:
            stretch = errors[block.start : block.end]
            stretch = stretch[~stretch.isnan()]
            shares += [1 - float(stretch[-1])] if len(stretch) else []
    return Score(mean(shares)) if shares else None


def slip(sample: Sample) -> Score | None:
    """The first frame at which the sprite is suddenly off its path; the number of frames where that never happens."""
    present = facts(sample)
    if not present.true_start:
        return None
    off = present.errors("position")
    jumps = (off[1:] - off[:-1]).abs() > SLIP  # false beside NaN
    frames = (jumps.nonzero() + 1).flatten()
    frame_count = int((~off.isnan()).sum())
    first = [*frames.tolist(), frame_count][0]
    return Score(float(first)) if frame_count else None


def seam_motion(sample: Sample) -> Score | None:
    """Motion continuity: pixels by which the sprite's path bends more at block seams than within blocks; 0 is unseen.

    The bend is the second difference of the centre; seams of prompt changes and cuts are left out.
    """
    present = facts(sample)
    place = present.seen.values["position"]
    step = present.world.difference("position", place[1:], place[:-1])
    bend = torch.linalg.vector_norm(step[1:] - step[:-1], dim=-1)  # bend[i] is centred on frame i + 1
    starts, events = ({b.start for b in blocks} for blocks in (sample.blocks, sample.events))
    seams: list[float] = []
    rest: list[float] = []
    for centre in range(max(1, present.begin), present.frames - 1):
        opens = {centre, centre + 1} & starts
        if not opens & events:
            (seams if opens else rest).append(bend[centre - 1].item())
    return Score(sum(seams) / len(seams) - sum(rest) / len(rest)) if seams and rest else None


OF_PROPERTY: dict[str, Callable[[str], Measure]] = {
    "right": right,
    "error": error,
    "recall": recall,
    "new": new,
    "old": old,
    "neither": neither,
}
"""Metrics of any property or group of a world, as `recall@ground`."""
