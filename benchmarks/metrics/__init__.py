"""Metrics by name: `action`, `consistency@dino-vitb16` (with its extractor), `action:42` (the 15 frames before frame 42)."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rollout.benchmarks.metrics import cost, events, truth, video, world
from rollout.benchmarks.metrics.features import check_extractor, label
from rollout.benchmarks.metrics.score import Better, Curve, Metric, Score
from rollout.benchmarks.metrics.span import SPAN, until
from rollout.errors import SpecError
from rollout.registry import find, names

if TYPE_CHECKING:
    from rollout.benchmarks.metrics.sample import Sample

__all__ = ["METRICS", "NEIGHBOURS", "SPAN", "Curve", "Metric", "Score", "metric", "of_neighbours"]

VBENCH = "VBench, arXiv 2311.17982"
OF_FEATURES: dict[str, tuple[Callable[[str], Callable[["Sample"], Score | None]], str, Better, str, str]] = {
    "consistency": (video.consistency, "cosine", "higher", "video", VBENCH),
    "consistency_long": (
        video.consistency_long,
        "cosine",
        "higher",
        "video",
        "VBench-Long, in the code of arXiv 2311.17982",
    ),
    "consistency_from_truth": (truth.consistency_from_truth, "cosine", "zero", "world", VBENCH),
    "drift": (video.drift, "cosine a minute", "higher", "video", ""),
}
"""Metrics that compare features, made for an extractor: with unit, what is better, what they need, and source."""


NEIGHBOURS = ("consistency", "consistency_long", "cut_sharpness", "dynamic", "flicker", "seam", "smoothness")
"""Kinds that compare neighbouring frames: of the same content at another frame rate they have another value."""
MATTERS = {
    "share": 0.05,
    "px": 0.5,
    "frames": 1.0,
    "brightness": 0.02,
    "degrees": 1.0,
    "ratio": 0.05,
    "cosine": 0.01,
    "cosine a minute": 0.02,
}
"""Differences that matter, by unit: one frame in twenty, half a pixel, one frame of reaction, ..."""


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


def _of_world(kind: str, name: str, unit: str = "share", label: str = "") -> Metric:
    """A metric of one property or group of a world, `KIND@NAME` unless it is called otherwise."""
    make = world.OF_PROPERTY[kind]
    better: Better = "higher" if kind in ("right", "recall", "new") else "lower"
    return replace(
        _of(make(name), unit, better, "world", name=label or f"{kind}@{name}"), about=f"{name}: {_about(make)}"
    )


def _of_features(kind: str, extractor: str) -> Metric:
    """A metric that compares an extractor's features, `KIND@EXTRACTOR`."""
    make, unit, better, needs, source = OF_FEATURES[kind]
    return replace(_of(make(extractor), unit, better, needs, source, f"{kind}@{label(extractor)}"), about=_about(make))


SHARES = ("identity", "colour", "shape", "action", "light", "background", "ground", "landmark", "mark")
"""Properties and groups of a world whose share of right frames is a metric under their own name."""
ERRORS = {"position": "px", "tint": "brightness", "hue": "degrees"}
"""Properties whose mean error is one, and its unit."""
SCENE = ("background", "ground", "landmark")
_ALL = [
    *(_of_world("right", name, "share", name) for name in SHARES),
    *(_of_world("error", name, unit, name) for name, unit in ERRORS.items()),
    *(_of_world(kind, name) for kind in ("recall", "new", "old", "neither") for name in SCENE),
    replace(_of(world.recall(), "share", "higher", "world", name="recall"), about=_about(world.recall)),
    _of(world.moved, "share", "higher", "world"),
    _of(world.slip, "frames", "higher", "world"),
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
    *(_of_features(kind, "pool8") for kind in OF_FEATURES),
]
METRICS = {m.name: m for m in _ALL}


def of_neighbours(name: str) -> bool:
    """Whether a metric's value depends on the video's frame rate."""
    return re.split("[@:]", name)[0] in NEIGHBOURS


def metric(name: str) -> Metric:
    """A metric by its full name. Raises SpecError for a name, an extractor or a span that is none, BackendError."""
    base, colon, span = name.rpartition(":") if re.search(r":\d+$", name) else (name, "", "")
    kind, at, extractor = base.partition("@")
    if at and kind in OF_FEATURES and base not in METRICS:
        check_extractor(extractor)
        entry = _of_features(kind, extractor)
    elif at and kind in world.OF_PROPERTY and base not in METRICS:
        entry = _of_property(kind, extractor)
    else:
        entry = find("metrics", base)
        if not isinstance(entry, Metric):
            raise SpecError(f"the metric {base!r} is no rollout.benchmarks.metrics.Metric but {entry!r}.")
    if not colon:
        return entry
    return replace(entry, name=f"{entry.name}:{span}", measure=until(entry, int(span)), uses=entry.modules)


def _of_property(kind: str, name: str) -> Metric:
    """A metric of any property that a backend's world has. Raises SpecError."""
    worlds = [entry.world for entry in (find("backends", backend) for backend in names("backends"))]
    for place in worlds:
        if place is not None and (name in place.properties or name in place.groups):
            world_property = place.properties.get(name)
            return _of_world(kind, name, "share" if world_property is None or kind != "error" else world_property.unit)
    raise SpecError(f"no backend's world has the property {name!r}, so there is no metric '{kind}@{name}'.")
