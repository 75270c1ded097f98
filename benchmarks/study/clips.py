"""The videos of runs, and which of them can be shown side by side: another strategy, and all else the same."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from rollout.benchmarks.report.videos import size
from rollout.benchmarks.run import read_plan
from rollout.benchmarks.store import Store
from rollout.benchmarks.study.questions import Kind
from rollout.errors import OutputError
from rollout.strategies.presets import PRESETS
from rollout.strategy import Strategy

__all__ = ["Clip", "Pair", "choose", "find_clips", "find_pairs"]

ELSE = ("script", "seed", "model", "schedule", "prefix", "length", "size")
"""What two videos of a pair have in common."""


@dataclass(frozen=True)
class Clip:
    """A video: its run's folder, its strategy's name and JSON, and as JSON texts whatever else it depends on."""

    folder: Path
    name: str
    strategy: str
    scene: tuple[str, ...]
    record: Mapping[str, Any] = field(compare=False)

    @property
    def video(self) -> Path:
        """The file."""
        return self.folder / "video.mp4"


@dataclass(frozen=True)
class Pair:
    """Two clips of one scene and what is asked about them."""

    a: Clip
    b: Clip
    questions: Kind


def find_clips(runs: Sequence[Path]) -> tuple[list[Clip], list[str]]:
    """The clips of runs, each strategy under one name, and a line for each that is left out. Raises OutputError."""
    clips: dict[tuple[str, ...], Clip] = {}
    names: dict[str, str] = {}
    notes = []
    for run in {path.resolve(): path for path in runs}.values():
        found = list(_clips(run))
        if not found:
            raise OutputError(f"{run} has no finished video. Run its suite first.")
        for folder, name, record in found:
            clip = _clip(folder, name, record)
            clip = replace(clip, name=names.setdefault(clip.strategy, clip.name))
            other = clips.setdefault((clip.strategy, *clip.scene), clip)
            if other.folder != clip.folder:
                notes.append(f"{clip.folder} is left out: {other.folder} has the same strategy, script and seed")
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise OutputError(
            f"two strategies of these runs are both called {twice[0]!r}. Rename one in its suite, or make two studies."
        )
    return list(clips.values()), notes


def _clips(run: Path) -> Iterator[tuple[Path, str | None, dict[str, Any]]]:
    """Folder, the strategy's name where the run gives it one, and record."""
    if (run / "plan.json").is_file():
        plan, store = read_plan(run), Store(run)
        for cell in plan["cells"]:
            folder, strategy = store.folder(cell["address"]), plan["strategies"][cell["strategy"]]
            if strategy.get("control") in ("truth", "swap"):  # no strategy's video
                continue
            if store.done(cell["address"]) and (folder / "video.mp4").is_file():
                yield folder, _named(plan, cell), _record(folder)
        return
    yield run, None, _record(run)


def _named(plan: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """A cell's strategy, with the value of the axis where that is in it."""
    name = str(cell["strategy"])
    if "specs" not in plan["strategies"][name]:
        return name
    return f"{name}, {plan['axis']['name']} {plan['axis']['values'][cell['axis']]}"


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} is no folder of 'rollout gen' or of a benchmark run: {error}.") from error
    return record


def _clip(folder: Path, name: str | None, record: dict[str, Any]) -> Clip:
    try:
        script, backend = record["script"], record["backend"]
        shots = [[shot[key] for key in ("prompt", "begin", "end", "cut")] for shot in script["shots"]]
        steered = [event for event in record.get("events", ()) if event["kind"] != "strategy"]
        changes = [event["value"][0] for event in record.get("events", ()) if event not in steered]
        if steered:
            raise OutputError(
                f"{folder} was steered while it ran, so that its script does not say what it shows. Leave it out."
            )
        scene = (
            shots,
            record["seed"],
            [backend[key] for key in ("name", "weights", "dtype")],
            record["schedule"],
            record["prefix"],
            [record["timings"]["frames"], script["fps"]],
            size(folder / "video.mp4"),
        )
        told = name or " then ".join([_name(record["strategy"]), *changes])
        text = _text([record["strategy"], *changes] if changes else record["strategy"])
        return Clip(folder, told, text, tuple(map(_text, scene)), record)
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder / 'run.json'} is no record of a run: it lacks {error}. Run it again.") from error


def _name(strategy: Mapping[str, Any]) -> str:
    """A preset's name, or the strategy as text. Raises SpecError."""
    known = (name for name, preset in PRESETS.items() if _text(preset.strategy.to_dict()) == _text(strategy))
    return next(known, None) or str(Strategy.from_dict(strategy))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def find_pairs(clips: Sequence[Clip], questions: Kind | None) -> tuple[list[Pair], list[str]]:
    """Every two clips of one scene, and a line for each clip that has no partner. Raises OutputError without a pair."""
    scenes: dict[tuple[str, ...], list[Clip]] = {}
    for clip in clips:
        scenes.setdefault(clip.scene, []).append(clip)
    alone = [some[0] for some in scenes.values() if len(some) == 1]
    notes = [f"{clip.folder} is left out: {_lonely(clip, clips)}" for clip in alone]
    pairs = [Pair(a, b, questions or _kind(a)) for some in scenes.values() for a, b in combinations(some, 2)]
    if not pairs:
        raise OutputError(
            f"there is nothing to compare: {_lonely(clips[0], clips)}. "
            "Give runs of the same script and seed under different strategies."
        )
    return pairs, notes


def _lonely(clip: Clip, clips: Sequence[Clip]) -> str:
    """Why a clip has no partner: what tells it from the clip of another strategy that is most like it."""
    others = [other for other in clips if other.strategy != clip.strategy]
    if not others:
        return f"all runs have the strategy {clip.name}"
    apart = [
        (other, [what for what, x, y in zip(ELSE, clip.scene, other.scene, strict=True) if x != y]) for other in others
    ]
    other, what = min(apart, key=lambda each: len(each[1]))
    return f"{clip.folder} and {other.folder} differ in {', '.join(what)}"


def _kind(clip: Clip) -> Kind:
    return "action" if len({shot["prompt"] for shot in clip.record["script"]["shots"]}) > 1 else "long"


def choose(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    """At most `most` pairs in random order and sides: strategies meet equally often, and scenes come equally often."""
    draw, used = Random(seed), Counter[Any]()
    left, chosen = draw.sample(pairs, len(pairs)), list[Pair]()
    while left and len(chosen) < most:
        pair = min(left, key=lambda p: (used[frozenset((p.a.name, p.b.name))], used[p.a.scene]))
        left.remove(pair)
        used.update([frozenset((pair.a.name, pair.b.name)), pair.a.scene])
        chosen.append(Pair(pair.b, pair.a, pair.questions) if draw.random() < 0.5 else pair)
    return draw.sample(chosen, len(chosen))
