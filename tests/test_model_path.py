"""Where a record says that its weights are: a run can be taken up from any folder."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from rollout import load_backend, preset
from rollout.backends.sprites import weights_file
from rollout.cli import main
from rollout.errors import Stopped
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.run.snapshot import read_snapshot, snapshots

SHORT = "a red circle jumps[1s]"


def command(*args: str) -> int:
    sys.argv = ["rollout", *args]
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def recorded(folder: Path) -> str | None:
    options = json.loads((folder / "run.json").read_text())["backend"]["options"]
    return options.get("model")


def test_a_relative_model_is_recorded_absolute_and_one_that_moved_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    shutil.copyfile(weights_file("plain"), here / "base.safetensors")
    monkeypatch.chdir(here)
    assert command("gen", SHORT, "--model", "base.safetensors", "--latents", "--out", "run") == 0
    assert recorded(here / "run") == str(here / "base.safetensors")
    monkeypatch.chdir(elsewhere)
    assert command("rerun", str(here / "run")) == 0
    (here / "base.safetensors").rename(elsewhere / "moved.safetensors")
    capsys.readouterr()
    fork = ("fork", str(here / "run"), "--at", "0.375", "--prompt", SHORT)
    for args in (("rerun", str(here / "run")), fork):
        assert command(*args) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert f"The record has the model '{here / 'base.safetensors'}': say with --model where that is now." in line
    assert command("rerun", str(here / "run"), "--model", "moved.safetensors", "--out", "again") == 0
    assert command(*fork, "--model", "moved.safetensors", "--out", "forked") == 0
    for folder in ("again", "forked"):
        assert recorded(elsewhere / folder) == str(elsewhere / "moved.safetensors")


def test_a_run_that_goes_on_with_a_moved_model_records_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots that are written on the way as well: the next one who takes it up need not be told again."""
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    shutil.copyfile(weights_file("plain"), old)
    recipe = Recipe(preset("infinity-rope"), "a red circle jumps[2s]", options={"model": str(old)})
    job = Job(load_backend("sprites", model=str(old)), recipe, tmp_path / "run", every=1)
    (tmp_path / "run").mkdir()

    def stopped(job: Job) -> None:
        job.stop()  # after a block
        with pytest.raises(Stopped):
            list(job.run())

    stopped(job)
    old.rename(new)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("rollout.cli.resume.roll", stopped)
        assert command("resume", "run", "--model", "new.safetensors", "--device", "cpu:0") == 0
    stored = read_snapshot(snapshots(tmp_path / "run")[0]).state["recipe"]["backend"]
    assert (stored["options"], stored["device"]) == ({"model": str(new)}, "cpu:0")
    assert command("resume", "run") == 0
    assert recorded(tmp_path / "run") == str(new)
    assert command("rerun", "run") == 0


def test_a_model_that_ships_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    assert command("gen", "a red circle jumps[0.4s]", "--model", "plain", "--out", "run") == 0
    assert recorded(tmp_path / "run") == "plain"
