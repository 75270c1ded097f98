"""Runs as the leaderboard reads them: their plans, scores and strategies, apart by weights and device."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rollout.backend import Spec
from rollout.benchmarks.leaderboard.join import Timing, alike, composition
from rollout.benchmarks.plan import Plan, read_plan
from rollout.benchmarks.statistics import Grid
from rollout.benchmarks.store import Scores, Store
from rollout.benchmarks.summary import score_cube, scores_of
from rollout.errors import OutputError, RolloutError
from rollout.registry import find
from rollout.script import Script
from rollout.text import Json
from rollout.timeline import blocks_of

__all__ = ["Finished", "apart", "read_runs"]


@dataclass(frozen=True, eq=False)
class Finished:
    """A run with its plan, and the scores of its cells by address."""

    folder: Path
    plan: Plan
    scores: Mapping[str, Scores]

    @property
    def suite(self) -> str:
        """The suite's name."""
        return self.plan.suite

    @property
    def answers(self) -> Mapping[str, str]:
        """The metric that answers each use."""
        return self.plan.answers

    @cached_property
    def total(self) -> int:
        """Cells of the whole run."""
        return self.plan.rollouts

    @property
    def rollouts(self) -> int:
        """Rollouts of a strategy at most."""
        return len(self.plan.scripts) * len(self.plan.seeds)

    @cached_property
    def spec(self) -> Spec | None:
        """The backend's geometry; None where the backend is not at hand."""
        try:
            spec: Spec = find("backends", self.plan.backend.name).spec()
        except RolloutError:
            return None
        return spec

    @cached_property
    def strategies(self) -> dict[str, str]:
        """Name here by composition, controls and compositions that change along the axis left out."""
        names: dict[str, str] = {}
        for name, arm in self.plan.strategies.items():
            if not arm.role and not arm.changes and arm.spec is not None:
                names.setdefault(composition(arm.spec, self.spec), name)
        return names

    @cached_property
    def specs(self) -> dict[str, Json]:
        """JSON form by composition."""
        return {key: self.plan.strategies[name].spec or {} for key, name in self.strategies.items()}

    def named(self, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Name here of each of these compositions, or that of the strategy whose rollouts it would have here."""
        names = dict(self.strategies)
        for key, data in specs.items():
            twins = (twin for twin, spec in self.specs.items() if alike(data, spec, self.spec, self.timings))
            twin = key if key in names else next(twins, None)
            if twin is not None:
                names[key] = self.strategies[twin]
        return names

    @cached_property
    def timings(self) -> frozenset[Timing]:
        """The blocks of its scripts, each pattern once."""
        if self.spec is None:
            return frozenset()
        axis = self.plan.axis
        texts = {text for level in (axis.scripts if axis else [self.plan.scripts]) for text in level}
        return frozenset(tuple(blocks_of(Script.parse(t), self.spec, first=self.plan.prefix)) for t in texts)

    @cached_property
    def changing(self) -> list[str]:
        """Strategies that are another composition at each value of the axis."""
        return [n for n, arm in self.plan.strategies.items() if arm.changes and not arm.role]

    @cached_property
    def switches(self) -> bool:
        """A prompt changes, so that what a switch costs is in the costs."""
        return any(len(Script.parse(text).shots) > 1 for text in self.plan.scripts[:1])

    def cubes(self, metric: str) -> dict[str, Grid]:
        """Values (values of the axis or 1, prompts, seeds) under a metric, by the names here."""
        return {name: score_cube(self.plan, self.scores, name, metric) for name in self.plan.strategies}

    @property
    def home(self) -> str:
        """Identity of the weights and the device, which are not mixed."""
        backend = self.plan.backend
        hardware = None if backend.device == "cpu" else self.plan.machine.get("gpu")
        parts = [backend.name, backend.options, backend.weights, backend.device, hardware]
        return json.dumps(parts, sort_keys=True)


def read_runs(folders: Sequence[Path]) -> list[Finished]:
    """The runs of these folders, each once. Raises OutputError for none, and for one without a finished cell."""
    if not folders:
        raise OutputError("there are no runs to rank. Give the folders of finished runs.")
    once: dict[Path, Path] = {}
    for folder in folders:
        once.setdefault(folder.resolve(), folder)
    runs = []
    for folder in once.values():
        plan = read_plan(folder)
        scores = scores_of(plan, Store(folder))
        if not scores:
            raise OutputError(f"{folder} has no finished cell. Run the suite first: rollout bench run {plan.suite}")
        runs.append(Finished(folder, plan, scores))
    if not any(run.answers for run in runs):
        suites = ", ".join(dict.fromkeys(run.suite for run in runs))
        raise OutputError(
            f"no run answers a use: {suites}. Give their suites a table [answers], such as obey = 'reaction', and run them "
            "again: cells that are there are not computed again."
        )
    return runs


def apart(runs: Sequence[Finished]) -> list[list[Finished]]:
    """The runs of the same weights on the same device together, in the order of their first."""
    homes: dict[str, list[Finished]] = {}
    for run in runs:
        homes.setdefault(run.home, []).append(run)
    return list(homes.values())
