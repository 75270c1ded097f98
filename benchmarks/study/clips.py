"""The videos of runs, and which of them can be shown side by side: another strategy, and all else the same."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from rollout.benchmarks.plan import CellPlan, Plan, read_plan
from rollout.benchmarks.report.videos import size
from rollout.benchmarks.store import Store
from rollout.benchmarks.study.questions import Kind
from rollout.errors import OutputError
from rollout.files import inside
from rollout.run.record import RunFolder, RunRecord
from rollout.strategies.presets import PRESETS
from rollout.strategy import Strategy
from rollout.timeline import Use

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
    record: RunRecord = field(compare=False)

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
        members = list(_clips(run))
        if not members:
            raise OutputError(f"{run} has no finished video. Run its suite first.")
        for folder, name, record in members:
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


def _clips(run: Path) -> Iterator[tuple[Path, str | None, RunRecord]]:
    """Folder, the strategy's name where the run gives it one, and record."""
    if (run / "plan.json").is_file():
        plan, store = read_plan(run), Store(run)
        for cell in plan.cells:
            strategy = plan.strategies[cell.strategy]
            if strategy.role in ("truth", "swap"):  # no strategy's video
                continue
            if store.video(cell.address) is not None:
                folder = store.folder(cell.address)
                yield folder, _named(plan, cell), RunFolder.open(folder).record
        return
    inside(run / "video.mp4", run)
    yield run, None, RunFolder.open(run).record


def _named(plan: Plan, cell: CellPlan) -> str:
    """A cell's strategy, with the value of the axis where that is in it."""
    if not plan.strategies[cell.strategy].changes or plan.axis is None or cell.axis is None:
        return cell.strategy
    return f"{cell.strategy}, {plan.axis.name} {plan.axis.values[cell.axis]}"


def _clip(folder: Path, name: str | None, record: RunRecord) -> Clip:
    changes = [event.change.strategy for event in record.events if isinstance(event.change, Use)]
    if len(changes) < len(record.events):
        raise OutputError(
            f"{folder} was steered while it ran, so that its script does not say what it shows. Leave it out."
        )
    script, backend = record.script, record.backend
    scene = (
        [[shot.prompt, shot.begin, shot.end, shot.cut] for shot in script.shots],
        record.seed,
        [backend.name, backend.weights, backend.dtype],
        record.schedule_data,
        msgspec.to_builtins(record.prefix),
        [record.timings.get("frames"), script.fps],
        size(folder / "video.mp4"),
    )
    strategies = [record.strategy, *changes]
    label = name or " then ".join(map(_name, strategies))
    data = [strategy.to_dict() for strategy in strategies]
    return Clip(folder, label, _text(data if changes else data[0]), tuple(map(_text, scene)), record)


def _name(strategy: Strategy) -> str:
    """A preset's name, or the strategy as text."""
    return next((name for name, preset in PRESETS.items() if preset.strategy == strategy), str(strategy))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def find_pairs(clips: Sequence[Clip], questions: Kind | None) -> tuple[list[Pair], list[str]]:
    """Every two clips of one scene, and a line for each clip that has no partner. Raises OutputError without a pair."""
    scenes: dict[tuple[str, ...], list[Clip]] = {}
    for clip in clips:
        scenes.setdefault(clip.scene, []).append(clip)
    alone = [members[0] for members in scenes.values() if len(members) == 1]
    notes = [f"{clip.folder} is left out: {_lonely(clip, clips)}" for clip in alone]
    pairs = [Pair(a, b, questions or _kind(a)) for members in scenes.values() for a, b in combinations(members, 2)]
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
        (other, [differences for differences, x, y in zip(ELSE, clip.scene, other.scene, strict=True) if x != y])
        for other in others
    ]
    other, differences = min(apart, key=lambda each: len(each[1]))
    return f"{clip.folder} and {other.folder} differ in {', '.join(differences)}"


def _kind(clip: Clip) -> Kind:
    return "action" if len({shot.prompt for shot in clip.record.script.shots}) > 1 else "long"


def choose(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    """At most `most` pairs in random order and sides: strategies meet equally often, and scenes come equally often."""
    draw, counts = Random(seed), Counter[Any]()
    left, selection = draw.sample(pairs, len(pairs)), list[Pair]()
    while left and len(selection) < most:
        pair = min(left, key=lambda p: (counts[frozenset((p.a.name, p.b.name))], counts[p.a.scene]))
        left.remove(pair)
        counts.update([frozenset((pair.a.name, pair.b.name)), pair.a.scene])
        selection.append(Pair(pair.b, pair.a, pair.questions) if draw.random() < 0.5 else pair)
    return draw.sample(selection, len(selection))
