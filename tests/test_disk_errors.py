"""Whatever a disk does at any moment, a command ends in one line that names the file, and exit code 2."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rollout import preset
from rollout.cli import app, main
from rollout.errors import OutputError
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.text import disk_error
from tests.conftest import micro_backend
from tests.finished_run import write_run
from tests.processes import fork

EVENTS = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.truncate",
}
SHORT = "a red circle jumps[0.4s]"


def command(folder: Path, args: tuple[str, ...], step: int) -> tuple[int, str, int]:
    """A command in a process of its own whose `step`-th look at files below a folder fails.

    Its exit code, what it says on stderr, and how many looks there were.
    """
    looks = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal looks
        if event not in EVENTS or not isinstance(values[0], str | Path) or str(folder) not in str(values[0]):
            return
        looks += 1
        if looks == step:
            raise OSError(errno.EIO, os.strerror(errno.EIO), values[0])

    def act() -> int:
        os.dup2(said.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.argv, code = ["rollout", *args], 0
        sys.dont_write_bytecode = True  # of what it imports
        os.chdir(folder)
        sys.addaudithook(watch)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stderr.flush()
            counted.write(f"{looks}")
            counted.flush()
        return code

    with TemporaryFile("w+") as said, TemporaryFile("w+") as counted:
        code = os.waitstatus_to_exitcode(os.waitpid(fork(act), 0)[1])
        said.seek(0)
        counted.seek(0)
        return code, said.read(), int(counted.read())


def bench(folder: Path) -> None:
    scores = {name: {"error": np.arange(12.0).reshape(6, 2)} for name in ("sink", "fifo")}
    write_run(folder / "bench", scores, answers={"obey": "error"})


def run(folder: Path) -> None:
    (folder / "run").mkdir()
    job = Job(micro_backend(torch.float32), Recipe(preset("infinity-rope"), SHORT), folder / "run")
    for _ in job.run():
        pass


COMMANDS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "explain": (lambda folder: None, ("explain", SHORT, "--html", "{}/a.html", "--png", "{}/a.png")),
    "gen": (
        lambda folder: None,
        ("gen", SHORT, "--out", "{}/out", "--latents", "--threads", "1", "--snapshot-every", "1"),
    ),
    "bench results": (bench, ("bench", "results", "{}/bench", "--to", "{}/results.md")),
    "bench leaderboard": (bench, ("bench", "leaderboard", "{}/bench", "--out", "{}/out")),
    "export": (run, ("export", "{}/run", "--format", "vbench", "--out", "{}/out")),
    "score": (run, ("score", "{}/run", "--metrics", "kv_mib")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fails_at_any_look_at_it_gives_one_line(name: str, tmp_path: Path) -> None:
    prepare, args = COMMANDS[name]
    place, before = tmp_path / "place", tmp_path / "before"
    before.mkdir()
    prepare(before)
    words = tuple(word.format(place) for word in args)

    def failing(step: int) -> tuple[int, str, int]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        return command(place, words, step)

    shutil.copytree(before, place)
    CliRunner().invoke(app, words)  # here: what it imports is at hand in its children then
    code, said, looks = failing(0)
    assert (code, said) == (0, "")
    assert looks
    codes = []
    for step in sorted({1 + n * (looks - 1) // 4 for n in range(5)}):
        code, said, _ = failing(step)
        codes.append(code)
        assert (code, said.count("\n")) in ((0, 0), (2, 1)), said
        if code:
            assert said.startswith("rollout: ")
            assert "Input/output error" in said
            assert str(place) in said
    assert 2 in codes


def test_a_read_only_place_for_a_page(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--html", "--png"):
        path = read_only / "page"
        assert ended(capsys, "explain", SHORT, option, str(path)) == (
            f"rollout: {path} cannot be written: Read-only file system. Choose another place or free some space.\n"
        )


def ended(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a command says that ends with exit code 2."""
    sys.argv = ["rollout", *args]
    with pytest.raises(SystemExit) as caught:
        main()
    out, said = capsys.readouterr()
    assert caught.value.code == 2, out + said
    return said


def test_a_folder_that_is_removed_while_it_is_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def roll_out() -> None:
        for result in Job(micro_backend(torch.float32), Recipe(preset("memrope"), "a[3s]"), folder, every=2).run():
            if result.block.index == 2:
                shutil.rmtree(folder)

    with pytest.raises(
        OutputError, match=r"video\.partial\.mp4 cannot be written: No such file or directory\. Is its folder"
    ):
        roll_out()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Free some space."),
        (OSError(errno.ENOENT, "No such file", "a/b"), "a/b: No such file. Was it moved or removed meanwhile?"),
        (OSError(errno.EROFS, "Read-only file system", b"a/b"), "a/b: Read-only file system. Choose another place."),
        (OSError("of no file\nat all"), "of no file. Is the disk still there?"),
    ],
)
def test_what_a_disk_says(
    error: OSError, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes up and nobody says more of it."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("rollout.cli.explain.blocks_of", fail)
    assert disk_error(error) == says
    assert ended(capsys, "explain", SHORT) == f"rollout: {says}\n"


def test_what_fits_in_no_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.cli.explain.blocks_of", lambda *_: np.empty(10**18))
    assert ended(capsys, "explain", SHORT).startswith("rollout: memory ran out: Unable to allocate ")
