"""Finished runs that can be shown side by side, and what each is called."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rollout.benchmarks.metrics.sample import Sample, sample_of_run
from rollout.errors import OutputError
from rollout.run.record import RunRecord, Segment, subtitles
from rollout.run.video import Frames, Subtitle, frames_in
from rollout.script import Script
from rollout.specs import part_to_text
from rollout.strategies.presets import PRESETS
from rollout.strategy import AXES, REFINEMENTS, Strategy

__all__ = ["Run", "Segment", "count_fits", "different", "read_runs"]

LEAST, MOST = 2, 6
"""Panes of a comparison."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, what is known of it, its pixel frames and their height and width."""

    name: str
    folder: Path
    sample: Sample
    strategy: Strategy
    """The strategy in force at the end."""
    frames: int
    size: tuple[int, int]

    @property
    def record(self) -> RunRecord:
        """Its record."""
        assert self.sample.record is not None
        return self.sample.record

    def video(self) -> Iterator[Frames]:
        """Its frames one by one, the last one for ever. Raises OutputError."""
        for frame in self.sample.frames():
            yield frame
        while True:
            yield frame

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What was asked and when, in pixel frames, what came from outside included."""
        sample = self.sample
        assert sample.spec is not None
        return tuple(
            Segment(sample.pixel(part.begin), sample.pixel(part.end), part.prompt, part.kind)
            for part in self.record.segments(sample.spec)
        )

    @property
    def given(self) -> int:
        """Pixel frames that were given: a prefix, or the history that a fork shares with its parent."""
        blocks = max(self.sample.given, self.record.history)
        return self.sample.pixel(self.sample.blocks[blocks].start) if 0 < blocks < len(self.sample.blocks) else 0

    @property
    def subtitles(self) -> list[Subtitle]:
        """The script's subtitles, else its prompts, on the true frames."""
        sample = self.sample
        assert sample.spec is not None
        lines = subtitles(Script.parse(self.record.script.text), sample.spec, first=sample.given)
        return lines or [Subtitle(s.begin / sample.fps, s.end / sample.fps, s.prompt) for s in self.segments]


def read_runs(folders: Sequence[Path], names: Sequence[str | None]) -> list[Run]:
    """The runs of folders, in order; one without a name is called after what tells it from the others.

    Raises OutputError for runs that cannot be shown in step.
    """
    count_fits(len(folders))
    opened_runs = [_run(folder) for folder in folders]
    labels = [own_name or fallback for own_name, fallback in zip(names, _names(opened_runs), strict=True)]
    different(labels)
    runs = [Run(name, *rest) for name, (_, *rest) in zip(labels, map(_fields, opened_runs), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        for aspect, one, other in (
            ("frames a second", first.sample.fps, run.sample.fps),
            ("height and width", first.size, run.size),
        ):
            if one != other:
                raise OutputError(
                    f"{first.folder} and {run.folder} cannot be shown in step: their {aspect} are {_short(one)} and "
                    f"{_short(other)}. Give runs of one model and size."
                )
    return runs


def count_fits(panes: int) -> None:
    """Raise OutputError for fewer or more than can be compared."""
    if not LEAST <= panes <= MOST:
        raise OutputError(f"{panes} cannot be compared side by side. Give {LEAST} to {MOST} strategies or runs.")


def different(names: Sequence[str]) -> None:
    """Raise OutputError where two are called alike."""
    for name, alike in groupby(sorted(names)):
        if len(list(alike)) > 1:
            raise OutputError(f"two are called {name!r}. Give each a name of its own with NAME=.")


def _run(folder: Path) -> Run:
    sample = sample_of_run(folder)
    assert isinstance(sample.video, Path)
    assert sample.record is not None
    frames = frames_in(sample.video)
    if not frames:
        raise OutputError(f"{folder} has no finished video. Finish the run first, or leave it out.")
    strategy = sample.record.strategy_at(sample.record.costs.blocks)
    height, width = next(sample.frames()).shape[:2]
    return Run("", folder, sample, strategy, frames, (height, width))


def _fields(run: Run) -> tuple[Any, ...]:
    return run.name, run.folder, run.sample, run.strategy, run.frames, run.size


def _names(runs: Sequence[Run]) -> list[str]:
    """Presets' names; else the parts of the strategies that differ; else the folders' names."""
    # of two presets with one strategy the first is meant
    names_of_presets = {preset.strategy: name for name, preset in reversed(PRESETS.items())}
    presets = [names_of_presets.get(run.strategy, "") for run in runs]
    axes = (*AXES, *REFINEMENTS)
    parts = [tuple(part_to_text(getattr(run.strategy, axis)) for axis in axes) for run in runs]
    differ = [n for n in range(len(axes)) if len({part[n] for part in parts}) > 1]
    apart = [
        " ".join(filter(None, (part[0] * (0 in differ), "+".join(part[n] for n in differ if n)))) for part in parts
    ]
    for names in (presets, apart):
        if all(names) and len(set(names)) == len(names):
            return names
    return [run.folder.resolve().name for run in runs]


def _short(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
