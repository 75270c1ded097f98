"""What a worker does: hold the model, roll a cell out, score it."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rollout.backend import Backend
from rollout.backends import Entry, load_backend
from rollout.benchmarks.controls.truth import film_truth
from rollout.benchmarks.executors.rows import roll_rows
from rollout.benchmarks.metrics import Score, metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.store import Store
from rollout.devices import Peak
from rollout.errors import RolloutError
from rollout.registry import find, load_plugin
from rollout.run.job import Job
from rollout.run.recipe import Donor, Recipe
from rollout.sampler import Schedule
from rollout.strategy import Strategy

__all__ = ["Setup", "Task", "Worker"]


@dataclass(frozen=True)
class Task:
    """One cell to roll out and score, or only to score by further metrics."""

    address: str
    spec: Mapping[str, Any]
    metrics: tuple[str, ...]
    scored: bool = False
    """The cell is there, and lacks metrics alone."""
    beside: tuple["Task", ...] = ()
    """Cells that are rolled out with it, as further rows of one rollout."""

    @property
    def cells(self) -> tuple["Task", ...]:
        """Each cell as a task of its own."""
        return (replace(self, beside=()), *self.beside)


@dataclass(frozen=True)
class Setup:
    """What every worker needs; pickles."""

    root: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[str, ...] = ()

    def on(self, device: str) -> "Setup":
        """The same on another device."""
        return replace(self, device=device)


class Worker:
    """Loads plugins and the model once, then does tasks one after another."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        for plugin in setup.plugins:
            load_plugin(Path(plugin))
        self.setup, self.store = setup, Store(Path(setup.root))

    @cached_property
    def backend(self) -> Backend:
        """The model."""
        return load_backend(self.setup.backend, device=self.setup.device, **self.setup.options)

    def do(self, task: Task) -> float:
        """Do a task; seconds. Raises RolloutError; whatever happens, each cell is whole or not there."""
        begun = time.monotonic()
        if task.beside:
            self._together(task.cells)
        elif self.store.done(task.address):
            scores = self.store.scores(task.address)
            folder = self.store.folder(task.address)
            self.store.add(folder, _scores(folder, task), scores)
        else:
            with self.store.writing(task.address, task.spec) as folder:
                if task.spec["strategy"] is None:
                    self._film(task.spec, folder)
                else:
                    self._roll(task.spec, folder)
                self.store.add(folder, _scores(folder, task))
        return time.monotonic() - begun

    def _together(self, cells: Sequence[Task]) -> None:
        """Cells as the rows of one rollout."""
        with ExitStack() as stack:
            folders = [stack.enter_context(self.store.writing(cell.address, cell.spec)) for cell in cells]
            roll_rows(self.backend, [self._recipe(cell.spec) for cell in cells], folders)
            for cell, folder in zip(cells, folders, strict=True):
                self.store.add(folder, _scores(folder, cell))

    def _film(self, spec: Mapping[str, Any], folder: Path) -> None:
        """The world's own video."""
        entry: Entry = find("backends", self.setup.backend)
        if entry.world is None:
            raise RolloutError(f"the backend '{self.setup.backend}' has no world whose truth is known.")
        film_truth(entry.world, entry.spec(), spec, folder)

    def _recipe(self, spec: Mapping[str, Any]) -> Recipe:
        """A cell's recipe. Raises RolloutError where the weights are not those of the plan."""
        weights = self.backend.digest
        if weights != spec["backend"]["weights"]:
            expected_weights = spec["backend"]["weights"]
            raise RolloutError(
                f"the weights here are {weights}, and {expected_weights} in the plan. Run the suite again."
            )
        return Recipe(
            Strategy.from_dict(spec["strategy"]),
            spec["script"],
            spec["seed"],
            Schedule.of(spec["steps"]),
            str(spec["prefix"]) if spec["prefix"] else None,
            self.setup.backend,
            self.setup.device,
            self.setup.options,
            donor=None if spec["donor"] is None else Donor(**spec["donor"]),
        )

    def _roll(self, spec: Mapping[str, Any], folder: Path) -> None:
        peak = Peak(self.backend.device)
        job = Job(self.backend, self._recipe(spec), folder, exact=True, locked=True, peak=peak, beside=False)
        for _ in job.run():
            pass


def _scores(folder: Path, task: Task) -> dict[str, tuple[Score | None, str]]:
    """Scores, and the identity of each metric's code; what no model made, or two videos together, has no costs."""
    sample = sample_of_run(folder)
    costless = task.spec["strategy"] is None or task.spec["donor"] is not None
    metrics = [metric(name) for name in task.metrics]
    return {m.name: (None if costless and m.needs == "record" else m.measure(sample), m.code) for m in metrics}
