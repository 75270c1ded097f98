"""Metrics of any video. Formulas of VBench (arXiv 2311.17982) where it has one; the extractor is named, never implied."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Curve, Score

__all__ = [
    "LONG",
    "SLOPE",
    "consistency",
    "consistency_long",
    "cut_sharpness",
    "drift",
    "dynamic",
    "flicker",
    "seam",
    "smoothness",
]

MOST = 600
"""Frames between which drift is measured; a longer video is thinned out evenly."""
SLOPE = 10.0
"""Seconds from which on drift has a figure. Stretches of one rollout of 40 s have +3.3, +2.0, +0.9 and +0.1 at 2, 4, 6 and 8 s.

At 10 s it is -0.03, at 15 s and more 0.01 to 0.02, and 0.001 for the whole.
"""
LONG = 5.0
"""Seconds from which on VBench scores a video by VBench-Long."""
CLIP = 2
"""Seconds of VBench-Long's clips where it asks for consistency."""
WITHIN = {"clip-vitb32": 0.8}
"""What VBench-Long lets consistency within clips weigh: for backgrounds, which it compares by CLIP, and else SUBJECT."""
SUBJECT = 0.7


def consistency(extractor: str) -> Callable[[Sample], Score | None]:
    """VBench's subject (DINO) and background (CLIP) consistency; a video that stands still has 1, whatever it shows.

    The mean over frames of half the cosine to the frame before plus half the cosine to the first, each clamped at 0.
    """

    def measure(sample: Sample) -> Score | None:
        features = sample.features(extractor)
        if len(features) < 2:
            return None
        likeness = _likeness(features)
        return Score(likeness.mean().item(), Curve(_times(sample, len(features))[1:], likeness.tolist(), "s"))

    return measure


def _likeness(features: Tensor) -> Tensor:
    """(N - 1,) of unit vectors (N, D): each one's likeness to the one before it and to the first, in equal parts."""
    before = (features[1:] * features[:-1]).sum(-1).clamp_min(0)
    first = (features[1:] @ features[0]).clamp_min(0)
    return (before + first) / 2


def consistency_long(extractor: str) -> Callable[[Sample], Score | None]:
    """VBench-Long's consistency: within clips of 2 s, and from clip to clip by their first frames; of 5 s and more alone.

    Both by VBench's formula, weighted .7 and .3 (.8 and .2 for CLIP), as its published scripts do it (`--dev_flag`); a
    last clip that is too short begins earlier. VBench-Long takes DINOv2 and DreamSim from clip to clip, where this stays
    with one extractor, and does not map their scale; on request it also splits at cuts, which this does not. The curve
    is the consistency within each clip.
    """

    def measure(sample: Sample) -> Score | None:
        features = sample.features(extractor)
        length = CLIP * int(sample.fps)
        if length < 2 or len(features) < LONG * sample.fps:
            return None
        starts = list(range(0, len(features) - length + 1, length))
        if len(features) % length:
            starts.append(len(features) - length)
        inside = [_likeness(features[start : start + length]).mean().item() for start in starts]
        across = _likeness(features[starts]).mean().item()
        weight = WITHIN.get(extractor, SUBJECT)
        value = weight * sum(inside) / len(inside) + (1 - weight) * across
        return Score(value, Curve([start / sample.fps for start in starts], inside, "s"))

    return measure


def drift(extractor: str) -> Callable[[Sample], Score | None]:
    """How similarity falls with distance in time: the slope of the mean cosine between frames d apart, per minute.

    The curve is that mean cosine against d in seconds; the slope is a least-squares line's from one second on, up to
    three quarters of the video, each distance weighing by the pairs that it has. A video of under 10 s has none: over
    seconds the slope is that of a walk across the picture, and not of a minute.
    """

    def measure(sample: Sample) -> Score | None:
        features = sample.features(extractor)
        step = -(-len(features) // MOST)
        thin = features[::step]
        n, second = len(thin), step / sample.fps
        cosines = thin @ thin.T
        distances = range(1, max(2, 3 * n // 4))
        if n < 3:
            return None
        curve = [torch.diagonal(cosines, d).mean().item() for d in distances]
        times = np.array([d * second for d in distances])
        late = times >= 1
        length = len(features) / sample.fps
        if length < SLOPE or late.sum() < 3:
            why = f"{length:.3g} s are too short for a slope of a minute: from {SLOPE:g} s on"
            return Score(None, Curve(times.tolist(), curve, "s"), why)
        pairs = np.sqrt([n - d for d in distances])
        slope = np.polyfit(times[late], np.array(curve)[late], 1, w=pairs[late])[0]
        return Score(float(slope) * 60, Curve(times.tolist(), curve, "s"))

    return measure


def flicker(sample: Sample) -> Score | None:
    """VBench's temporal flickering without its choice of static videos: 1 - mean |difference of neighbours| / 255.

    A video that stands still has 1, and one that moves has less.
    """
    change = sample.changes.mean
    return Score(1 - change.mean() / 255) if len(change) else None


def smoothness(sample: Sample) -> Score | None:
    """VBench's motion smoothness, linear interpolation for its network: 1 - mean |frame - mean of its neighbours| / 255.

    As there over every second frame: the first, third, ... are what is interpolated between, the others what is compared. A
    video that stands still has 1.
    """
    bend = sample.changes.bend[::2]  # centred on frames 1, 3, ...
    return Score(1 - bend.mean() / 255) if len(bend) else None


def dynamic(sample: Sample) -> Score | None:
    """How much moves: the mean over frames of the 95th percentile of |difference to the frame before| / 255.

    VBench asks whether the strongest 5% of a network's optical flow pass a threshold; this is weight-free and graded.
    """
    strong = sample.changes.strong
    return Score(strong.mean() / 255) if len(strong) else None


def seam(sample: Sample) -> Score | None:
    """Discontinuity at block seams: mean change across them over mean change elsewhere.

    1 is unseen, and neither more nor less is better: strategies are compared by how far their means are from 1. Prompt
    changes and cuts are left out of both.
    """
    change = sample.changes.mean
    at = [p - 1 for p in sample.seams if 0 < p <= len(change)]
    events = {sample.pixel(b.start) - 1 for b in sample.events}
    begin = sample.pixel(sample.blocks[sample.given].start) if at else 0
    rest = sorted(set(range(begin, len(change))) - events - set(at))
    if not at or not rest or not change[rest].mean():
        return None
    return Score(float(change[at].mean() / change[rest].mean()))


def cut_sharpness(sample: Sample) -> Score | None:
    """How much of a cut happens between two neighbouring frames: 1 is a hard cut, 0 is none.

    Changes above the video's median, over the boundaries of the cut's block and the next: the largest over their sum.
    """
    change = sample.changes.mean
    if not len(change):
        return None
    usual, shares = float(np.median(change)), []
    for block in sample.blocks:
        if block.cut:
            first, last = sample.pixel(block.start) - 1, sample.pixel(block.end + block.frames) - 1
            above = np.clip(change[first:last] - usual, 0, None)
            shares.append(float(above.max() / above.sum()) if above.sum() > 0 else 0.0)
    return Score(sum(shares) / len(shares)) if shares else None


def _times(sample: Sample, count: int) -> list[float]:
    return [i / sample.fps for i in range(count)]
