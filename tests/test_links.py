"""A folder may come from anywhere: nothing is written through a link that lies in it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollout import preset
from rollout.benchmarks.leaderboard import write_leaderboard
from rollout.benchmarks.report import write_report
from rollout.benchmarks.store import Store
from rollout.errors import OutputError, Stopped
from rollout.files import inner_folder, new_folder, new_tree, own_file, write_text, write_whole
from rollout.run.job import FILES, UNFINISHED, Job
from rollout.run.latents import LatentsWriter
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.snapshot import read_snapshot, snapshots
from rollout.run.standing import Request
from rollout.run.video import VideoWriter
from rollout.temporary import remove_leftovers, temporary
from tests.conftest import micro_backend
from tests.finished_run import write_run
from tests.processes import fork

RECIPE = Recipe(preset("infinity-rope"), "a red circle jumps[2.25s] ; hello", seed=5)
MINE = "mine: nobody else may write here"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside of the folder that a stranger sent."""
    path = tmp_path / "victim"
    path.write_text(MINE)
    return path


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """The folder that a stranger sent."""
    folder = tmp_path / "sent"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_written_over_a_link_and_not_through_it(victim: Path, sent: Path) -> None:
    for name in ("run.json", ".run.json.partial"):
        (sent / name).symlink_to(victim)
    write_text(sent / "run.json", "{}")
    assert (sent / "run.json").read_text() == "{}"
    assert not (sent / "run.json").is_symlink()
    os.link(victim, sent / "contact.png")
    write_text(sent / "contact.png", "a picture")
    assert victim.read_text() == MINE


@pytest.mark.parametrize("folder", [False, True])
def test_a_temporary_name_that_is_taken_is_not_used(
    victim: Path, sent: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.temporary.token_hex", lambda count: "0" * 2 * count)
    planted = sent / f".x.{'0' * 16}.partial"
    planted.symlink_to(victim.parent if folder else victim)
    with pytest.raises(FileExistsError), temporary(sent / "x", folder=folder):
        pytest.fail("a link was taken for a temporary file")
    assert planted.is_symlink(), "it is no leftover either"
    assert victim.read_text() == MINE


@pytest.mark.parametrize("letter", ["a", "ü", "字", "\udcff"])
def test_names_as_long_as_a_disk_takes_them(sent: Path, letter: str) -> None:
    name = letter * (255 // len(os.fsencode(letter)))
    write_text(sent / name, "a")
    write_text(sent / name, "b")
    assert (sent / name).read_text() == "b"
    with new_tree(sent / name[:-1]) as tree:
        (tree / "x").touch()
    assert names(sent) == {name, name[:-1]}
    with pytest.raises(OutputError, match="File name too long"):
        write_text(sent / f"{name}aa", "a")
    assert names(sent) == {name, name[:-1]}


def test_what_the_killed_left_goes_and_what_the_living_write_stays(sent: Path) -> None:
    def strike(path: Path) -> None:
        path.write_text("half")
        os._exit(0)

    os.waitpid(fork(lambda: bool(write_whole(sent / "run.json", strike))), 0)
    os.waitpid(fork(lambda: bool(write_whole(sent / "run.json.old", strike))), 0)
    assert len(names(sent)) == 2
    (sent / ".run.json.mine.partial").touch()  # no temporary name
    os.mkfifo(sent / f".run.json.{'0' * 16}.partial")  # waits for ever when it is opened
    with temporary(sent / "run.json") as living:
        write_text(sent / "run.json", "{}")
        assert living.exists()
        remove_leftovers(sent)
        assert living.exists()
    assert names(sent) == {"run.json", ".run.json.mine.partial", f".run.json.{'0' * 16}.partial"}


def test_a_folder_is_tried_out_without_touching_what_is_there(victim: Path, sent: Path) -> None:
    before = victim.stat().st_mtime_ns
    (sent / ".partial").symlink_to(victim)
    new_folder(sent, force=True)
    assert victim.stat().st_mtime_ns == before
    assert names(sent) == {".partial"}


def test_a_folder_inside_another_is_no_link(tmp_path: Path, sent: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sent / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link, and nothing is written through one"):
        inner_folder(sent / "report")
    with pytest.raises(OutputError, match="is a link, and nothing is written through one"):
        Request(backend(), RECIPE, sent / "report").standing(force=True)


def test_a_file_that_grows_is_ours_alone(victim: Path, sent: Path) -> None:
    os.link(victim, sent / "hard")
    own_file(sent / "hard")
    (sent / "hard").write_text("ours")
    assert victim.read_text() == MINE
    (sent / "soft").symlink_to(victim)
    (sent / "folder").mkdir()
    for name, kind in (("soft", "a link"), ("folder", "no file")):
        with pytest.raises(OutputError, match=f"{name} is {kind}, and nothing is written through"):
            own_file(sent / name)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_video_and_latents_begin_with_files_of_their_own(
    victim: Path, sent: Path, link: Callable[[Path, Path], None]
) -> None:
    for name in ("video.partial.mp4", "frames.partial.mkv", "latents.partial.safetensors"):
        link(victim, sent / name)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with (
        VideoWriter(sent / "video.mp4", 8.0) as video,
        VideoWriter(sent / "frames.mkv", 8.0, exact=True) as exact,
        LatentsWriter(sent / "latents.safetensors") as latents,
    ):
        video.write(frames)
        exact.write(frames)
        latents.write(torch.zeros(1, 6, 2, 2))
    assert victim.read_text() == MINE
    assert names(sent) == {"video.mp4", "frames.mkv", "latents.safetensors"}


def backend() -> Any:
    return micro_backend(torch.float32)


def stopped(folder: Path) -> Path:
    """A run that was stopped after its fourth block."""
    job = Job(backend(), RECIPE, folder, latents=True)
    running = job.run()
    for _ in range(4):
        next(running)
    job.stop()
    with pytest.raises(Stopped):
        next(running)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("half"))


def finish(job: Job) -> dict[str, str]:
    for _ in job.run():
        pass
    return RunFolder.open(job.folder).record.digests


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return finish(Job(backend(), RECIPE, tmp_path_factory.mktemp("whole"), latents=True))


def soft(outside: Path, path: Path) -> None:
    path.symlink_to(outside)


@pytest.mark.usefixtures("small_videos")
@pytest.mark.parametrize("link", [soft, os.link])
@pytest.mark.parametrize("name", ["video.partial.mp4", "video.earlier.mp4", "latents.partial.safetensors"])
def test_a_run_goes_on_without_writing_outside(
    half: Path, digests: dict[str, str], sent: Path, tmp_path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    """What it goes on from lies outside under another name, and stays as it is."""
    for path in half.iterdir():
        (sent / path.name).write_bytes(path.read_bytes())
    outside = tmp_path / "outside"
    (sent / name.replace("earlier", "partial")).rename(outside)
    link(outside, sent / name)
    before = outside.read_bytes()
    job = Job.resumed(backend(), read_snapshot(snapshots(sent)[0]), sent)
    if link is soft and "latents" in name:
        with pytest.raises(OutputError, match=r"latents.partial.safetensors is a link, and nothing is written through"):
            finish(job)
    else:
        assert finish(job) == digests
    assert outside.read_bytes() == before


@pytest.mark.usefixtures("small_videos")
@pytest.mark.parametrize("link", [soft, os.link])
def test_a_run_that_may_overwrite_a_folder_overwrites_nothing_outside(
    digests: dict[str, str], victim: Path, sent: Path, link: Callable[[Path, Path], None]
) -> None:
    growing = {*FILES, *UNFINISHED, "snapshot-000002.safetensors"}
    for name in (*growing, *(f".{name}.partial" for name in growing), ".partial"):
        link(victim, sent / name)
    new_folder(sent, force=True)
    job = Job(backend(), RECIPE, sent, latents=True, exact=True, pictures=("webp",))
    assert finish(job) == digests
    assert victim.read_text() == MINE


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    scores = {name: {"error": np.arange(12.0).reshape(6, 2)} for name in ("sink", "fifo")}
    return write_run(tmp_path / "bench", scores)


@pytest.mark.parametrize("name", ["report", "report/videos"])
def test_a_report_is_not_written_through_a_link(bench: Path, victim: Path, name: str) -> None:
    (bench / name).parent.mkdir(exist_ok=True)
    (bench / name).symlink_to(victim.parent)
    before = names(victim.parent)
    with pytest.raises(OutputError, match=f"{name} is a link"):
        write_report(bench)
    assert names(victim.parent) == before


def test_cells_that_are_a_link_are_not_cleaned(sent: Path, tmp_path: Path) -> None:
    """What begins with a dot there may be somebody's settings."""
    (tmp_path / ".settings").mkdir()
    (sent / "cells").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="cells is a link"), Store(sent).alone():
        pytest.fail("a link was taken for the cells")
    assert (tmp_path / ".settings").is_dir()


def test_a_cell_that_is_a_link_is_made_again(bench: Path, tmp_path: Path) -> None:
    store, address = Store(bench), min(names(bench / "cells"))
    store.folder(address).rename(tmp_path / "outside")
    store.folder(address).symlink_to(tmp_path / "outside")
    before = names(tmp_path / "outside")
    assert not store.done(address)
    with store.alone(), store.writing(address, {}) as folder:
        (folder / "video.mp4").touch()
    assert store.done(address)
    assert names(tmp_path / "outside") == before


def test_a_leaderboard_is_not_written_through_a_link(bench: Path, sent: Path, victim: Path) -> None:
    (sent / ".partial").symlink_to(victim.parent)
    (sent / "leaderboard.csv").symlink_to(victim)
    before = names(victim.parent)
    plan = (bench / "plan.json").read_text().replace('"claims": []', '"claims": [], "answers": {"obey": "error"}')
    (bench / "plan.json").write_text(plan)
    write_leaderboard([bench], sent, formats=("csv",), force=True)
    assert names(victim.parent) == before
    assert victim.read_text() == MINE
    assert (sent / "leaderboard.csv").read_text().startswith("model,")
