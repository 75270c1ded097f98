"""Metrics of any video. Formulas of VBench (arXiv 2311.17982) where it has one; the extractor is named, never implied."""

from collections.abc import Callable

import numpy as np
import torch

from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Curve, Score

MOST = 600
"""Frames between which drift is measured; a longer video is thinned out evenly."""


def consistency(extractor: str) -> Callable[[Sample], Score | None]:
    """VBench's subject (DINO) and background (CLIP) consistency.

    The mean over frames of half the cosine to the frame before plus half the cosine to the first, each clamped at 0.
    """

    def measure(sample: Sample) -> Score | None:
        found = sample.features(extractor)
        if len(found) < 2:
            return None
        before = (found[1:] * found[:-1]).sum(-1).clamp_min(0)
        first = (found[1:] @ found[0]).clamp_min(0)
        each = (before + first) / 2
        return Score(each.mean().item(), Curve(_times(sample, len(found))[1:], each.tolist(), "s"))

    return measure


def drift(extractor: str) -> Callable[[Sample], Score | None]:
    """How similarity falls with distance in time: the slope of the mean cosine between frames d apart, per minute.

    The curve is that mean cosine against d in seconds; the slope is a least-squares line's from one second on, up to
    three quarters of the video, each distance weighing by the pairs that it has.
    """

    def measure(sample: Sample) -> Score | None:
        found = sample.features(extractor)
        step = -(-len(found) // MOST)
        thin = found[::step]
        n, second = len(thin), step / sample.fps
        cosines = thin @ thin.T
        distances = range(1, max(2, 3 * n // 4))
        if n < 3:
            return None
        curve = [torch.diagonal(cosines, d).mean().item() for d in distances]
        times = np.array([d * second for d in distances])
        late = times >= 1
        if late.sum() < 3:
            return Score(None, Curve(times.tolist(), curve, "s"))
        pairs = np.sqrt([n - d for d in distances])
        slope = np.polyfit(times[late], np.array(curve)[late], 1, w=pairs[late])[0]
        return Score(float(slope) * 60, Curve(times.tolist(), curve, "s"))

    return measure


def flicker(sample: Sample) -> Score | None:
    """VBench's temporal flickering without its choice of static videos: 1 - mean |difference of neighbours| / 255."""
    found = sample.changes.mean
    return Score(1 - found.mean() / 255) if len(found) else None


def smoothness(sample: Sample) -> Score | None:
    """VBench's motion smoothness, linear interpolation for its network: 1 - mean |frame - mean of its neighbours| / 255."""
    found = sample.changes.bend
    return Score(1 - found.mean() / 255) if len(found) else None


def dynamic(sample: Sample) -> Score | None:
    """How much moves: the mean over frames of the 95th percentile of |difference to the frame before| / 255.

    VBench asks whether the strongest 5% of a network's optical flow pass a threshold; this is weight-free and graded.
    """
    found = sample.changes.strong
    return Score(found.mean() / 255) if len(found) else None


def seam(sample: Sample) -> Score | None:
    """Discontinuity at block seams: mean change across them over mean change elsewhere; 1 is unseen.

    Prompt changes and cuts are left out of both.
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
    usual, found = float(np.median(change)), []
    for block in sample.blocks:
        if block.cut:
            first, last = sample.pixel(block.start) - 1, sample.pixel(block.end + block.frames) - 1
            above = np.clip(change[first:last] - usual, 0, None)
            found.append(float(above.max() / above.sum()) if above.sum() > 0 else 0.0)
    return Score(sum(found) / len(found)) if found else None


def _times(sample: Sample, count: int) -> list[float]:
    return [i / sample.fps for i in range(count)]
