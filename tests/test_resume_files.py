"""A run goes on from what its files can satisfy, and only once nobody else goes on with it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rollout import load_backend, preset
from rollout.cli import app
from rollout.errors import OutputError
from rollout.files import alone
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.resume import begin_again, go_on
from rollout.run.snapshot import read_snapshot, snapshots
from rollout.run.standing import Request, Standing
from rollout.run.video import VideoWriter, frames_in
from tests.conftest import micro_backend

BLOCKS = 8
RECIPE = Recipe(preset("infinity-rope"), f"a red circle jumps[{BLOCKS * 0.375}s] ; hello", seed=5)

pytestmark = pytest.mark.usefixtures("small_videos")


@cache
def backend() -> Any:
    return micro_backend(torch.float32)


def finish(job: Job) -> dict[str, str]:
    for _ in job.run():
        pass
    return RunFolder.open(job.folder).record.digests


def broken_off(job: Job, block: int) -> Path:
    """The folder of a run that ended after a block, as a kill ends it: what it had begun stays."""
    running = job.run()
    for result in running:
        if result.block.index == block:
            break
    job.folder.joinpath("kept").mkdir()
    for path in job.folder.glob("*.*"):
        shutil.copy(path, job.folder / "kept")
    running.close()
    for path in job.folder.glob("kept/*"):
        path.replace(job.folder / path.name)
    job.folder.joinpath("kept").rmdir()
    return job.folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(Job(backend(), RECIPE, folder, latents=True))
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after block 6, with snapshots after 4 and 6."""
    folder = broken_off(Job(backend(), RECIPE, tmp_path_factory.mktemp("half"), latents=True, every=2), 6)
    assert [read_snapshot(path).block for path in snapshots(folder)] == [6, 4]
    return folder


@pytest.fixture
def run(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "run")


def cut_latents(folder: Path, frames: int) -> None:
    path = folder / "latents.partial.safetensors"
    size = path.stat().st_size
    held = len(read_latents(path))
    path.write_bytes(path.read_bytes()[: size - (held - frames) * (size - 256) // held])
    assert len(read_latents(path)) == frames


def cut_video(folder: Path, frames: int) -> None:
    """Of a video that is cut off anywhere the whole frames count."""
    path = folder / "video.partial.mp4"
    data = path.read_bytes()
    fragments = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    path.write_bytes(data[: fragments[frames] + 30])
    assert VideoWriter.held(path, 99) == frames


CUTS = {
    "latents of the snapshot before": (cut_latents, 15, 4),
    "latents of no snapshot": (cut_latents, 5, None),
    "a video of the snapshot before": (cut_video, 14, 4),
    "a video of no snapshot": (cut_video, 2, None),
    "no latents": (lambda folder, _: (folder / "latents.partial.safetensors").unlink(), 0, None),
    "no video": (lambda folder, _: (folder / "video.partial.mp4").unlink(), 0, None),
}


@pytest.mark.parametrize("case", CUTS)
def test_files_that_hold_less_than_the_newest_snapshot(case: str, run: Path, whole: Path) -> None:
    cut, frames, block = CUTS[case]
    cut(run, frames)
    problems: list[OutputError] = []
    job = go_on(backend(), run, say=problems.append)
    assert (None if job is None else job.rollout.done) == block
    assert len(problems) == (1 if block else 2)
    assert all("so that snapshot-" in str(problem) or "no latents in" in str(problem) for problem in problems)
    job = job or begin_again(backend(), run)
    assert finish(job) == RunFolder.open(whole).record.digests
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
    assert (run / "latents.safetensors").read_bytes() == (whole / "latents.safetensors").read_bytes()
    assert frames_in(run / "video.mp4") == 3 * BLOCKS


def test_a_snapshot_that_is_passed_over_is_gone_once_an_earlier_one_serves(run: Path, whole: Path) -> None:
    cut_latents(run, 15)
    job = go_on(backend(), run)
    assert job is not None
    broken_off(job, 4)
    assert [read_snapshot(path).block for path in snapshots(run)] == [4]
    again = go_on(backend(), run)
    assert again is not None
    assert finish(again) == RunFolder.open(whole).record.digests


def test_a_file_of_prompts_goes_on_from_what_its_runs_hold(run: Path, whole: Path) -> None:
    request = Request(backend(), RECIPE, run, latents=True, every=2)
    cut_latents(run, 15)
    assert request.standing() is Standing.BEGUN
    assert request.job().rollout.done == 4
    cut_latents(run, 5)
    job = request.job()
    assert job.rollout.done == 0
    assert finish(job) == RunFolder.open(whole).record.digests


def test_a_fork_begins_again_with_its_history_and_not_without(half: Path, tmp_path: Path) -> None:
    history = History.of(half)
    recipe = history.branch(3, backend().spec, seed=7)

    def fork(name: str) -> Job:
        (tmp_path / name).mkdir()
        return Job(backend(), recipe, tmp_path / name, latents=True, every=1, history=history.latents[:9])

    straight = finish(fork("straight"))
    folder = broken_off(fork("fork"), 5)
    shutil.copytree(folder, tmp_path / "less")
    cut_latents(folder, 9)
    assert go_on(backend(), folder) is None
    assert finish(begin_again(backend(), folder)) == straight
    cut_latents(tmp_path / "less", 8)
    before = {path.name: path.read_bytes() for path in (tmp_path / "less").iterdir()}
    with pytest.raises(OutputError, match=r"the history that it begins with is not whole\. Fork again"):
        begin_again(backend(), tmp_path / "less")
    assert {path.name: path.read_bytes() for path in (tmp_path / "less").iterdir()} == before


def test_a_run_that_began_with_another_file_does_not_begin_again(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    start = tmp_path / "start.safetensors"
    save_file({"latents": torch.zeros(3, *backend().spec.latent)}, start)
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = Recipe(RECIPE.strategy, RECIPE.text, prefix=str(start))
    broken_off(Job(backend(), recipe, folder, every=2), 4)
    (folder / "video.partial.mp4").unlink()
    save_file({"latents": torch.ones(3, *backend().spec.latent)}, start)
    with pytest.raises(OutputError, match=r"is not what the run started from \(start\.safetensors\)\. Give that file"):
        begin_again(backend(), folder)
    start.unlink()
    with pytest.raises(OutputError, match="is not a file"):
        begin_again(backend(), folder)


def test_a_fork_is_made_from_the_newest_snapshot_that_can_be_read(run: Path) -> None:
    newest, older = snapshots(run)
    newest.write_bytes(newest.read_bytes()[:1000])
    history = History.of(run)
    assert len(history.latents) == 12
    shared = history.nearest(4)
    assert shared is not None
    assert shared.block == read_snapshot(older).block
    older.write_bytes(b"")
    assert history.nearest(4) is None
    with pytest.raises(OutputError, match=r"snapshot-000006\.safetensors cannot be used"):
        History.of(run)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model, which a command can go on with; killed after block 4, with snapshots after 4 and 2."""
    folder = tmp_path_factory.mktemp("stopped")
    return broken_off(Job(load_backend(), Recipe(RECIPE.strategy, "a red circle jumps[3s]"), folder, every=2), 4)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    recipe = Recipe(RECIPE.strategy, "a red circle jumps[3s]")
    return finish(Job(load_backend(), recipe, tmp_path_factory.mktemp("uninterrupted")))


def on(folder: Path) -> Job:
    job = go_on(load_backend(), folder)
    assert job is not None
    return job


def resumed(folder: Path) -> Any:
    return CliRunner().invoke(app, ["resume", str(folder), "--threads", "1"])


def test_a_second_resumer_is_refused_while_the_first_one_has_the_folder(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has loaded a model, let alone changed a file."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("rollout.cli.resume.reload_backend", lambda *_, **__: pytest.fail("a model was loaded"))
    with alone(folder):
        result = resumed(folder)
    assert isinstance(result.exception, OutputError)
    assert "another run is writing" in str(result.exception)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (lambda folder: finish(on(folder)), "is finished: there is nothing to go on with"),
        (lambda folder: broken_off(on(folder), 6), "going on after block 6 of 8"),
        (lambda folder: None, "going on after block 4 of 8"),
    ],
    ids=["which finished", "which was killed", "which never was"],
)
def test_a_second_resumer_goes_on_where_the_first_one_left_off(
    first: Callable[[Path], Any],
    says: str,
    stopped: Path,
    uninterrupted: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one goes on between the second one's start and the moment at which it has the folder."""
    folder = shutil.copytree(stopped, tmp_path / "run")

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        monkeypatch.setattr("rollout.files.alone", alone)
        first(path)
        with alone(path):
            yield

    monkeypatch.setattr("rollout.files.alone", late)
    result = resumed(folder)
    assert result.exit_code == 0, result.output
    assert says in result.output
    assert RunFolder.open(folder).record.digests == uninterrupted


def test_the_command_begins_again_where_nothing_is_left(
    stopped: Path, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / "video.partial.mp4").write_bytes(b"")
    result = resumed(folder)
    assert result.exit_code == 0, result.output
    assert result.output.count("holds 0 of ") == 2
    assert "beginning again" in result.output
    assert RunFolder.open(folder).record.digests == uninterrupted
    assert json.loads((folder / "run.json").read_text())["timings"]["frames"] == 24
