"""What a worker does: hold the model, roll a cell out, score it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rollout.backend import Backend
from rollout.backends import load_backend
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.store import Store
from rollout.errors import RolloutError
from rollout.job import Job
from rollout.recipe import Recipe
from rollout.record import read_record, write_record
from rollout.registry import load_plugin
from rollout.sampler import Schedule
from rollout.strategy import Strategy


@dataclass(frozen=True)
class Task:
    """One cell to roll out and score, or only to score by further metrics."""

    address: str
    spec: Mapping[str, Any]
    metrics: tuple[str, ...]


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
        """Do a task; seconds. Raises RolloutError; whatever happens, the cell is whole or not there."""
        begun = time.monotonic()
        if self.store.done(task.address):
            known = self.store.scores(task.address)
            folder = self.store.folder(task.address)
            self.store.add(folder, _scores(folder, task.metrics), known)
        else:
            with self.store.writing(task.address, task.spec) as folder:
                self._roll(task.spec, folder)
                self.store.add(folder, _scores(folder, task.metrics))
        return time.monotonic() - begun

    def _roll(self, spec: Mapping[str, Any], folder: Path) -> None:
        weights = getattr(self.backend, "digest", None)
        if weights != spec["backend"]["weights"]:
            planned = spec["backend"]["weights"]
            raise RolloutError(f"the weights here are {weights}, and {planned} in the plan. Run the suite again.")
        recipe = Recipe(
            Strategy.from_dict(spec["strategy"]),
            spec["script"],
            spec["seed"],
            Schedule.of(spec["steps"]),
            str(spec["prefix"]) if spec["prefix"] else None,
            self.setup.backend,
            self.setup.device,
            self.setup.options,
        )
        job = Job(self.backend, recipe, folder, exact=True)
        peak = Peak(self.backend.device)
        for _ in job.run():
            pass
        record = read_record(folder)
        record["costs"]["peak_bytes"] = peak.bytes()
        write_record(folder, record)


class Peak:
    """The most memory since it was made: allocated on a GPU; resident on Linux, which can forget an earlier peak."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._fresh = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._fresh = False

    def bytes(self) -> int | None:
        """Bytes, None where the platform does not say."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if not self._fresh:
            return None
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def _scores(folder: Path, metrics: Sequence[str]) -> dict[str, Any]:
    sample = sample_of_run(folder)
    found = [metric(name) for name in metrics]
    return {m.name: m.measure(sample) for m in found}
