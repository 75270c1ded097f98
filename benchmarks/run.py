"""Run a suite into a folder: plan the cells, do what is missing, log every attempt."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from msgspec import UNSET

from rollout import __version__
from rollout.backend import Spec
from rollout.benchmarks.cell import places
from rollout.benchmarks.controls import Arm
from rollout.benchmarks.executors.base import Attempt, Executor
from rollout.benchmarks.executors.rows import in_batches
from rollout.benchmarks.executors.work import Setup, Task
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.plan import (
    FILE,
    ArmPlan,
    AxisPlan,
    BackendPlan,
    CellPlan,
    ClaimPlan,
    MetricPlan,
    Plan,
    read_plan,
    write_plan,
)
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.suite import Suite
from rollout.files import write_text
from rollout.plan import simulate
from rollout.registry import find
from rollout.run.machine import machine
from rollout.script import Script
from rollout.show.explain.picture import told
from rollout.timeline import blocks_of

__all__ = ["Run"]

DRAWN = 120
"""Blocks of a strategy's picture at most."""


@dataclass
class Run:
    """A suite on its way into `out`: `missing` tasks are left of `total` cells."""

    suite: Suite
    out: Path
    setup: Setup
    executor: Executor
    again: bool = False
    together: bool = True
    """Cells of one strategy and timing are rows of one rollout."""
    added: tuple[int, ...] = ()
    """Those of the suite's seeds that its file does not have."""
    arguments: tuple[str, ...] = ()
    """Of the command line, for whoever wants to run it again."""

    def __post_init__(self) -> None:
        self.store = Store(self.out)
        self.spec: Spec = find("backends", self.suite.backend).spec()
        self.places = list(places(self.suite, device=self.setup.device))
        metrics = {name: metric(name) for name in self.suite.metrics}
        self.names = {m.name: name for name, m in metrics.items()}
        self.codes = {m.name: m.code for m in metrics.values()}
        self.total = len({place.cell.address for place in self.places})

    def missing(self) -> list[Task]:
        """Cells that are not there, and cells that lack metrics; a cell that two strategies share comes once."""
        tasks: dict[str, Task] = {}
        for place in self.places:
            address = place.cell.address
            if address in tasks:
                continue
            lacking = list(self.names) if self.again else self.store.lacking(address, self.codes)
            if lacking:
                metrics = tuple(self.names[n] for n in lacking)
                tasks[address] = Task(address, place.cell.to_dict(), metrics, self.store.done(address))
        return list(tasks.values())

    def dropped(self) -> dict[str, str]:
        """Strategies that the folder's run has so far and this one has not, by name, as text."""
        if not (self.out / FILE).is_file():
            return {}
        before, now = read_plan(self.out).strategies, self.suite.along[0].arms
        return {name: arm.text for name, arm in before.items() if not arm.role and name not in now}

    def attempts(self) -> Iterator[Attempt]:
        """Do what is missing. Raises RolloutError where it cannot begin."""
        with self.store.alone():
            self.store.clean()
            self._plan()
            tasks = self.missing()
            if self.again:
                for task in tasks:
                    self.store.forget(task.address)
            command = {"executor": type(self.executor).__name__.lower(), "threads": self.setup.threads}
            self.store.log(event="run", cells=len(tasks), **command)
            try:
                batches = in_batches(tasks, self.spec) if self.together else tasks
                for attempt in self.executor.run(self.setup, batches) if tasks else ():
                    for cell in attempt.task.cells:
                        share = replace(attempt, task=cell, seconds=attempt.seconds / len(attempt.task.cells))
                        self._log(share, len(attempt.task.cells))
                        yield share
            finally:
                self.store.clean()

    def _log(self, attempt: Attempt, rows: int) -> None:
        self.store.log(
            event=attempt.outcome,
            cell=attempt.task.address,
            worker=attempt.worker,
            attempt=attempt.number,
            seconds=round(attempt.seconds, 3),
            rows=rows,
            why=attempt.why,
            last=attempt.last,
        )

    def _plan(self) -> None:
        """Write plan.json and suite.toml."""
        suite = self.suite
        cell = self.places[0].cell
        plan = Plan(
            rollout=__version__,
            suite=suite.name,
            about=suite.about,
            backend=BackendPlan(**cell.backend, fps=self.spec.fps, trained=self.spec.trained),
            metrics=tuple(
                MetricPlan(m.name, m.unit, m.better, m.about, m.source, m.matters) for m in map(metric, suite.metrics)
            ),
            baseline=suite.baseline,
            primary=metric(suite.primary).name,
            answers={use: metric(name).name for use, name in suite.answers.items()},
            claims=tuple(ClaimPlan(**asdict(replace(c, metric=metric(c.metric).name))) for c in suite.claims),
            scripts=tuple(suite.scripts),
            seeds=tuple(suite.seeds),
            added_seeds=self.added,
            fixed=suite.fixed,
            marks=suite.marks,
            prefix=suite.prefix,
            axis=_axis(suite),
            strategies={name: _arm(name, suite, self.spec) for name in suite.along[0].arms},
            cells=tuple(
                CellPlan(place.cell.address, place.strategy, place.prompt, place.seed, place.axis)
                for place in self.places
            ),
            skipped=dict(suite.skipped),
            machine=machine(),
            workers=self.executor.workers,
            threads=self.setup.threads,
            planned=time.strftime("%Y-%m-%d"),
            arguments=self.arguments,
        )
        write_plan(self.out, plan)
        write_text(self.out / "suite.toml", suite.text)


def _axis(suite: Suite) -> AxisPlan | None:
    if suite.axis is None:
        return None
    return AxisPlan(suite.axis.name, tuple(suite.axis.values), tuple(tuple(level.scripts) for level in suite.along))


def _arm(name: str, suite: Suite, spec: Spec) -> ArmPlan:
    """A strategy or control for the report: its spec, its budget, and what it does to the cache over the first script.

    The budget is None where it changes along the axis, and of the world's own video; spec and steps are those at the axis'
    first value.
    """
    arm, windows = suite.along[0].arms[name], {_budget(level.arms[name], spec) for level in suite.along}
    strategy = arm.strategy
    blocks = blocks_of(Script.parse(suite.scripts[0]), spec, first=suite.prefix)
    steps = [] if strategy is None else islice(told(simulate(strategy, blocks, spec)), DRAWN)
    specs = tuple(s.to_dict() for level in suite.along if (s := level.arms[name].strategy) is not None)
    return ArmPlan(
        text=str(arm),
        spec=None if strategy is None else strategy.to_dict(),
        window=windows.pop() if len(windows) == 1 else None,
        steps=tuple(steps),
        specs=specs if arm.text else UNSET,
        control=UNSET if arm.control is None else arm.control,
        of=arm.of or UNSET,
    )


def _budget(arm: Arm, spec: Spec) -> int | None:
    return None if arm.strategy is None else arm.strategy.budget(spec)
