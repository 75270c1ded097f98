"""Metrics by name: `action`, `consistency@dino-vitb16` (with its extractor), `action:42` (the 15 frames before frame 42)."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rollout.benchmarks.metrics import cost, events, video, world
from rollout.benchmarks.metrics.features import check_extractor, label
from rollout.benchmarks.metrics.sample import mean
from rollout.benchmarks.metrics.score import Better, Curve, Metric, Score
from rollout.errors import SpecError
from rollout.registry import find

if TYPE_CHECKING:
    from rollout.benchmarks.metrics.sample import Sample

__all__ = ["METRICS", "Curve", "Metric", "Score", "metric"]

SPAN = 15
"""Latent frames that a metric's `:N` form looks at."""
EXTRACTING: dict[str, Callable[[str], Callable[["Sample"], Score | None]]] = {
    "consistency": video.consistency,
    "drift": video.drift,
}
"""Metrics that compare features, made for an extractor."""


MATTERS = {"share": 0.005, "px": 0.02, "frames": 0.1, "ratio": 0.01, "cosine": 0.002, "cosine a minute": 0.01}
"""Differences that are worth a word, by unit: half a frame in a hundred, a fiftieth of a pixel, ..."""


def _about(function: object) -> str:
    return " ".join((inspect.getdoc(function) or "").split())


def _of(
    function: Callable[["Sample"], Score | None],
    unit: str,
    better: Better,
    needs: str,
    source: str = "",
    name: str = "",
) -> Metric:
    about, matters = _about(function), MATTERS.get(unit, 0.0)
    return Metric(name or function.__name__, function, unit, better, about, source, needs, matters)  # type: ignore[arg-type]


VBENCH = "VBench, arXiv 2311.17982"
_ALL = [
    *(
        _of(f, "share", "higher", "world")
        for f in (world.identity, world.colour, world.shape, world.action, world.background, world.ground)
    ),
    _of(world.landmark, "share", "higher", "world"),
    _of(world.position, "px", "lower", "world"),
    _of(events.reaction, "frames", "lower", "world"),
    _of(events.reacted, "share", "higher", "world"),
    _of(events.letting_go, "frames", "lower", "world"),
    _of(events.scene_changed, "share", "higher", "world", "RoPE Cut, arXiv 2511.20649"),
    _of(events.scene_reached, "share", "higher", "world", "RoPE Cut, arXiv 2511.20649"),
    _of(events.identity_after_cut, "share", "higher", "world"),
    _of(events.action_after_cut, "share", "higher", "world"),
    _of(world.seam_motion, "px", "zero", "world"),
    _of(video.cut_sharpness, "share", "higher", "plan"),
    _of(video.seam, "ratio", "one", "plan"),
    _of(video.flicker, "share", "higher", "video", VBENCH),
    _of(video.smoothness, "share", "higher", "video", VBENCH, "smoothness@linear"),
    _of(video.dynamic, "share", "neither", "video", VBENCH, "dynamic@difference"),
    *(_of(f, unit, "lower", "record", "", name) for name, (f, unit) in cost.COSTS.items()),
    *(
        replace(_of(make("pool8"), unit, "higher", "video", source, f"{name}@pool8"), about=_about(make))
        for (name, make), unit, source in zip(
            EXTRACTING.items(), ("cosine", "cosine a minute"), (VBENCH, ""), strict=True
        )
    ),
]
METRICS = {m.name: m for m in _ALL}


def metric(name: str) -> Metric:
    """A metric by its full name. Raises SpecError for a name, an extractor or a span that is none."""
    base, colon, span = name.rpartition(":") if re.search(r":\d+$", name) else (name, "", "")
    kind, at, extractor = base.partition("@")
    if at and kind in EXTRACTING and base not in METRICS:
        check_extractor(extractor)
        like = METRICS[f"{kind}@pool8"]
        found = replace(like, name=f"{kind}@{label(extractor)}", measure=EXTRACTING[kind](extractor))
    else:
        found = find("metrics", base)
        if not isinstance(found, Metric):
            raise SpecError(f"the metric {base!r} is no rollout.benchmarks.metrics.Metric but {found!r}.")
    return replace(found, name=f"{found.name}:{span}", measure=_until(found, int(span))) if colon else found


def _until(whole: Metric, end: int) -> Callable[["Sample"], Score | None]:
    """A metric over the 15 latent frames before frame `end`: the mean of its curve there."""

    def measure(sample: "Sample") -> Score | None:
        found = whole.measure(sample)
        if found is None:
            return None
        if found.curve is None:
            raise SpecError(
                f"the metric {whole.name!r} has no curve over time, so ':{end}' means nothing. Leave it out."
            )
        low, high = float(end - SPAN), float(end)
        if found.curve.unit == "s":
            low, high = sample.seconds(max(0, end - SPAN)), sample.seconds(end)
        return Score(
            mean(y for x, y in zip(found.curve.x, found.curve.y, strict=True) if y is not None and low <= x < high)
        )

    return measure
