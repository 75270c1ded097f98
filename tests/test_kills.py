"""Commands that are killed at steps of the file system: the same command gives what one that nobody killed gives.

A study and an export, a live session and an import are tried in their own files, rollouts at any pass in test_resume.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout.benchmarks import report, search
from rollout.benchmarks.executors import local
from rollout.benchmarks.executors.base import Attempt
from rollout.benchmarks.executors.work import Setup, Task
from rollout.benchmarks.leaderboard import write_leaderboard
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.score import Score
from rollout.benchmarks.report import write_report
from rollout.benchmarks.results import write_results
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.suites.suite import Suite
from rollout.cli import app
from rollout.errors import OutputError
from rollout.files import alone
from tests.processes import killed_at
from tests.test_hostile_names import NAME, hostile_run

FEW = [pytest.param(43), pytest.param(1, marks=pytest.mark.slow)]
"""Every so many steps: a few in all tests, and each in the slow ones."""
Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The files of a folder, hidden ones too, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_points(command: Callable[[], object], begin: Callable[[], None], stride: int, least: int) -> Iterator[int]:
    """Kill a command at every so many of its steps, of which it has at least so many, each time from the beginning."""
    for step in itertools.count(1, stride):
        begin()
        if not killed_at(step, command):
            assert step > least
            return
        yield step


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed but for its report."""
    return hostile_run(tmp_path_factory.mktemp("runs") / "run", NAME)


@pytest.fixture(params=[False, True], ids=["first", "again"])
def earlier(request: pytest.FixtureRequest) -> bool:
    """Whether an earlier result with other words is there."""
    return bool(request.param)


def reworded(run: Path, to: Path) -> Path:
    """A copy of a run whose suite says something else."""
    shutil.copytree(run, to)
    plan = json.loads((to / "plan.json").read_text())
    (to / "plan.json").write_text(json.dumps(plan | {"about": "earlier", "planned": "2025-01-01"}))
    return to


@pytest.mark.parametrize("stride", FEW)
def test_a_report(stride: int, earlier: bool, run: Path, tmp_path: Path) -> None:
    before: Files = {}
    if earlier:
        write_report(reworded(run, tmp_path / "run"))
        before = files_of(tmp_path / "run" / "report")
    write_report(run)
    whole, folder = files_of(run / "report"), run / "report"
    assert whole != before

    def begin() -> None:
        shutil.rmtree(folder)
        if earlier:
            shutil.copytree(tmp_path / "run" / "report", folder)

    for _ in killed_points(lambda: write_report(run), begin, stride, 20):
        for path, content in files_of(folder).items():
            assert content in (before.get(path), whole.get(path)) or ".partial" in path
        write_report(run)
        assert files_of(folder) == whole


@pytest.mark.parametrize("stride", FEW)
def test_a_leaderboard(stride: int, earlier: bool, run: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", Files()
    if earlier:
        write_leaderboard([reworded(run, tmp_path / "run")], tmp_path / "earlier")
        before = files_of(tmp_path / "earlier")
    write_leaderboard([run], tmp_path / "whole")
    whole = files_of(tmp_path / "whole")

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if earlier:
            shutil.copytree(tmp_path / "earlier", out)

    for _ in killed_points(lambda: write_leaderboard([run], out, force=earlier), begin, stride, 20):
        if not earlier:
            assert files_of(out) in ({}, whole)
        for path, content in files_of(out).items():
            assert content in (before.get(path), whole.get(path)) or ".partial" in path
        with suppress(OutputError):  # where it is there already, as it must be told
            write_leaderboard([run], out, force=earlier)
        assert files_of(out) == whole
        assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_results(earlier: bool, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    write_results([run], page)
    whole, before = page.read_bytes(), b""
    if earlier:
        write_results([reworded(run, tmp_path / "run")], page)
        before = page.read_bytes()

    def begin() -> None:
        page.unlink(missing_ok=True)
        if earlier:
            page.write_bytes(before)

    for _ in killed_points(lambda: write_results([run], page), begin, 1, 2):
        assert (page.read_bytes() if page.exists() else b"") in (before, whole)
        write_results([run], page)
        assert page.read_bytes() == whole
        assert {path.name for path in tmp_path.iterdir()} <= {"RESULTS.md", "run"}


class Quick:
    """An executor whose cells hold numbers that follow from their addresses, and that rolls nothing out."""

    workers = 1

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        store = Store(Path(setup.root))
        for cell in [cell for task in tasks for cell in task.cells]:
            with store.writing(cell.address, cell.spec) as folder:
                known = {one.name: one.code for one in map(metric, cell.metrics)}
                store.add(
                    folder,
                    {name: (Score(int(cell.address[:4], 16) / 2**16), code) for name, code in known.items()},
                )
            yield Attempt(cell, "done", "quick", 1, 1.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite of four prompts, and searches that look at few rivals and roll nothing out."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(search, "names", lambda group: ["infinity-rope"])
    monkeypatch.setattr(local, "Serial", Quick)
    monkeypatch.setattr(report, "write_report", lambda run: run)  # which has its own test
    suite = load_suite("obey-and-remember")
    return replace(suite, scripts=suite.scripts[:4])


def drawn(suite: Suite, out: Path, trials: int = 0) -> list[tuple[Any, Any]]:
    """What the trials of a search were, and came to; more of them first."""
    job = search.Search(suite, ("obey", "remember"), out, Quick())
    return [(trial.user_attrs, trial.values) for trial in job.finished(job.run(trials))]


def test_a_search_that_is_stopped_after_any_trial_draws_the_same(small: Suite, tmp_path: Path) -> None:
    """Beyond the first generation, whose twelve are drawn by chance alone."""
    whole = drawn(small, tmp_path / "whole", 20)
    assert sum(values is not None for _, values in whole) > 12
    for trials in (1, 5, 19, 20):
        parts = drawn(small, tmp_path / "parts", trials)
        assert parts == whole[:trials]


def test_a_search_is_one_process_s(small: Suite, tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(OutputError, match="another run is writing"):
        drawn(small, tmp_path)


@pytest.mark.parametrize(("trials", "stride"), [(2, 83), pytest.param(14, 29, marks=pytest.mark.slow)])
def test_a_search(trials: int, stride: int, small: Suite, tmp_path: Path) -> None:
    """The same compositions in the same order, the same front, and the same cells."""

    def command(out: Path = tmp_path / "out") -> None:
        words = (
            "bench",
            "search",
            "--trials",
            str(trials),
            "--prompts",
            "4",
            "--see",
            "obey,remember",
            "--out",
            str(out),
        )
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.exception or result.output

    def outcome(out: Path) -> tuple[Any, ...]:
        cells = {path.relative_to(out).as_posix() for path in out.glob("*/cells/*")}
        return drawn(small, out), cells, (out / "search.json").read_bytes()

    command(tmp_path / "whole")
    whole, out = outcome(tmp_path / "whole"), tmp_path / "out"
    for _ in killed_points(command, lambda: shutil.rmtree(out, ignore_errors=True), stride, 100):
        command()
        assert outcome(out) == whole
        assert [path for path in out.rglob("*") if path.name.endswith((".partial", ".lock"))] == []
