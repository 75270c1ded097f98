"""rollout bench: run a suite, see what it shows."""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.composition import Presets, Strategies
from rollout.cli.leaderboard import leaderboard
from rollout.cli.line import CommandLine
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.plan import plan
from rollout.cli.reports import report, results
from rollout.cli.result import AsJson, result
from rollout.cli.search import search
from rollout.cli.speed import speed
from rollout.cli.suites import SuiteName, added, ls, validate
from rollout.errors import SuiteError
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.benchmarks.executors.base import Attempt, Executor
    from rollout.benchmarks.run import Run

__all__ = ["CLUSTER", "Where", "app", "run"]

app = typer.Typer(no_args_is_help=True, help="Compare strategies: suites, reports, speed.")

CLUSTER = 10_000
"""Workers on a cluster where no number is given: as many as fit."""


class Where(StrEnum):
    """Where cells run."""

    SERIAL = "serial"
    LOCAL = "local"
    RAY = "ray"


def run(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where cells are kept; default: runs/SUITE.")] = None,
    executor: Annotated[Where, typer.Option(help="This process, processes here, or a Ray cluster.")] = Where.LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes or actors on CPUs; default: all cores, --threads each.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda (every GPU, one process each), cuda:1, ...")] = "cpu",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join: auto, or HOST:6379.")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="The backend's weights.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Compute every cell again.")] = False,
    add_seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Extend a finished run by N more seeds, which it keeps.")
    ] = None,
    preset: Presets = None,
    add: Strategies = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Roll out and score a suite, or go on with it.

    Cells that are there are not computed again.
    """
    load_plugins(plugin)
    from dataclasses import replace

    from rollout.benchmarks.executors.work import Setup
    from rollout.benchmarks.run import Run
    from rollout.benchmarks.suites.reader import load_suite
    from rollout.devices import find_device
    from rollout.registry import find

    definition = load_suite(suite, extra=dict(added(preset, add)))
    if model is not None:
        located = find("backends", definition.backend).located(model)  # for workers and records, wherever they are
        definition = replace(definition, options={**definition.options, "model": located})
    if executor is not Where.RAY:  # a cluster's GPUs are not this machine's
        find_device(device)
    folder = out or Path("runs") / definition.name
    plugins = tuple(str(path.resolve()) for path in plugin or ())
    setup = Setup(str(folder.resolve()), definition.backend, definition.options, device, threads, plugins)
    count = workers or (CLUSTER if address else max(1, (os.cpu_count() or 1) // threads))
    with result(to) as target:
        job = _with_seeds(
            Run(
                definition,
                folder,
                setup,
                _executor(executor, count, device, address),
                again=again,
                arguments=_arguments(model, [*(preset or ()), *(add or ())], plugin),
            ),
            add_seeds,
        )
        failures = _carry_out(
            job, executor, "the same command without --add-seeds" if add_seeds else "the same command"
        )
        target.give(_told(folder))
        if failures:
            raise SystemExit(1)


def _carry_out(job: "Run", executor: Where, command: str) -> int:
    """Roll out what is missing; 1 where cells have failed. `command` goes on from there."""
    for name, text in job.dropped().items():
        print(
            f"{name!r} was in this folder's run and is not in this one: its rollouts stay, and the report leaves it out. "
            f"Add --add {shlex.quote(f'{name}={text}')} to keep it, and the --plugin that it needs."
        )
    missing = job.total if job.again else len(job.missing())
    place = f"{executor.value}, into {job.out}"
    print(f"{job.suite.name}: {job.total} cells, {job.total - missing} there, {missing} to do; {place}")
    try:
        failures = sum(attempt.outcome != "done" for attempt in _watch(job, missing) if attempt.last)
    except KeyboardInterrupt:
        left = len(job.missing())
        print(f"stopped with {job.total - left} of {job.total} cells done; {command} goes on from there")
        raise SystemExit(130) from None
    if failures:
        print(f"{failures} cells failed; {job.out / 'attempts.jsonl'} says why, and {command} tries them again")
    return int(failures > 0)


def _arguments(model: str | None, add: list[str] | None, plugin: list[Path] | None) -> tuple[str, ...]:
    """What changes the run beside suite and folder, as it was given."""
    values: dict[str, Sequence[object]] = {
        "--model": [model] if model else [],
        "--add": add or [],
        "--plugin": plugin or [],
    }
    return tuple(word for option in values for value in values[option] for word in (option, str(value)))


def _with_seeds(job: "Run", more: int | None) -> "Run":
    """The run under the seeds that were added to it before, and `more`."""
    from dataclasses import replace

    from rollout.benchmarks.seeds import added_before, check_whole, more_seeds

    plan_suite = job.suite
    before = added_before(plan_suite, job.out)
    if before:
        print(f"with the seeds that were added before: {', '.join(map(str, before))}")
        job = replace(job, suite=replace(plan_suite, seeds=plan_suite.seeds + before), added=before)
    if more is None:
        return job
    if not (job.out / "plan.json").is_file():
        raise SuiteError(
            f"there is no run in {job.out} to add seeds to. Leave --add-seeds out, or set seeds in the suite."
        )
    check_whole({task.address for task in job.missing()}, job.out)
    fresh = more_seeds(job.suite.seeds, more)
    print(f"adding the seed{'s' * (len(fresh) > 1)} {', '.join(map(str, fresh))}")
    return replace(job, suite=replace(plan_suite, seeds=job.suite.seeds + fresh), added=before + fresh)


def _executor(where: Where, workers: int, device: str, address: str | None) -> "Executor":
    from rollout.benchmarks.executors.local import Local, Serial

    if address is not None and where is not Where.RAY:
        raise SuiteError("--address joins a Ray cluster. Add --executor ray.")
    if where is Where.SERIAL:
        return Serial()
    if where is Where.RAY:
        from rollout.benchmarks.executors.on_ray import Ray

        return Ray(workers=workers, address=address)
    if device == "cuda":
        import torch

        return Local(devices=tuple(f"cuda:{n}" for n in range(torch.cuda.device_count())))
    return Local(workers, () if device == "cpu" else (device,))


def _watch(job: "Run", missing: int) -> "Iterator[Attempt]":
    """Attempts, under a progress bar, or with plain lines where no terminal looks on."""
    cells, last_line, begun = 0, time.monotonic(), time.monotonic()
    if sys.stdout.isatty():
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        speed = TextColumn("{task.fields[fps]:,.0f} frames/s")
        columns = (BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("cells"), *columns) as bar:
            task = bar.add_task("", total=missing, fps=0.0)
            for attempt in job.attempts():
                if attempt.outcome != "done":
                    bar.console.print(_trouble(attempt))
                cells += attempt.last
                bar.update(task, completed=cells, fps=_frames_a_second(job, cells, begun))
                yield attempt
        return
    for attempt in job.attempts():
        cells += attempt.last
        if attempt.outcome != "done":
            print(_trouble(attempt), flush=True)
        if time.monotonic() - last_line > 10:
            last_line = time.monotonic()
            left = (last_line - begun) / max(cells, 1) * (missing - cells)
            print(
                f"{cells} of {missing} cells, {_frames_a_second(job, cells, begun):,.0f} frames a second, {left:.0f}s left",
                flush=True,
            )
        yield attempt


def _trouble(attempt: "Attempt") -> str:
    task = attempt.task
    after = "" if attempt.last else "; it is tried again"
    return f"cell {task.address} ({task.spec['script'][:60]}) {attempt.outcome}: {attempt.why}{after}"


def _frames_a_second(job: "Run", cells: int, begun: float) -> float:
    """Latent frames that were generated and scored, taking a cell for the suite's mean."""
    return cells * job.suite.frames / job.total / max(time.monotonic() - begun, 1e-6)


def _told(folder: Path) -> Json:
    """Tell the primary metric of every strategy, in a few lines, and how many claims show; the whole summary as JSON."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.metrics.score import directed
    from rollout.benchmarks.results import because
    from rollout.benchmarks.summary import summarise

    summary = summarise(folder)
    plan = summary.plan
    primary = summary.metrics[plan.primary]
    table = Table(box=None, pad_edge=False, header_style="bold")
    baseline = plan.baseline
    head = directed(f"{primary.plan.name}, {primary.plan.unit}", primary.plan.better)
    for name in ("strategy", head, f"against {baseline}", "", "why"):
        table.add_column(name, no_wrap=name != "why")
    for name, mean in primary.means.items():
        verdict = primary.against(name, baseline)
        gap = _with_interval(verdict.to_dict()) if verdict else ""
        role = "baseline" if name == baseline else plan.strategies[name].role
        word, why = (verdict.word, because(verdict.to_dict())) if verdict else (role, "")
        table.add_row(name, _with_interval(mean.to_dict()), gap, word, why)
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    Console(soft_wrap=False, markup=False, width=width).print(table)
    if not primary.means:
        print(f"{primary.plan.name} has no figure in these rollouts; the report has the other metrics")
    if summary.claims:
        counts = Counter(claim.shows for claim in summary.claims)
        print("claims: " + ", ".join(f"{count} {shows}" for shows, count in counts.most_common()))
    print(f"now: rollout bench report {shlex.quote(str(folder))}")
    return summary.to_dict()


def _with_interval(claim: Mapping[str, Any]) -> str:
    from rollout.benchmarks.results import number

    return f"{number(claim['mean'])} [{number(claim['low'])}, {number(claim['high'])}]"


app.command("ls", cls=CommandLine)(ls)
app.command("validate", cls=CommandLine)(validate)
app.command("run", cls=CommandLine)(run)
app.command("report", cls=CommandLine)(report)
app.command("plan", cls=CommandLine)(plan)
app.command("results", cls=CommandLine)(results)
app.command("leaderboard", cls=CommandLine)(leaderboard)
app.command("search", cls=CommandLine)(search)
app.command("speed", cls=CommandLine)(speed)
