"""Runs of the first edition, whose records and snapshots lack what costs and worlds have today: used or refused, in one line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from rollout import preset
from rollout.benchmarks.metrics import METRICS, metric
from rollout.benchmarks.metrics.sample import FOREIGN, applies, sample_of_run
from rollout.cli import app
from rollout.errors import OutputError
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.snapshot import Snapshot, read_snapshot, snapshots
from rollout.run.video import VideoWriter
from tests.conftest import micro_backend

A, B = "a red circle jumps", "a blue square spins on olive"
SCRIPT = f"{A}[2.25s] | {B}[1.125s]"
STRATEGY = "memrope"


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def finish(job: Job) -> dict[str, Any]:
    for _ in job.run():
        pass
    record: dict[str, Any] = json.loads((job.folder / "run.json").read_text())
    return record


def rolled(folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir()
    recipe = more.pop("recipe", None) or Recipe(preset(STRATEGY), SCRIPT, seed=5)
    return finish(Job(micro_backend(torch.float32), recipe, folder, latents=True, **more))


def age_record(folder: Path) -> None:
    """Make a run's record what the first edition wrote."""
    record = json.loads((folder / "run.json").read_text())
    del record["costs"]["encoded"], record["costs"]["held_bytes"], record["backend"]["world"]
    (folder / "run.json").write_text(json.dumps(record))


def change_snapshot(folder: Path, change: Callable[[dict[str, Any]], object]) -> Snapshot:
    """Change what the newest snapshot says of its rollout."""
    newest = read_snapshot(snapshots(folder)[0])
    state = json.loads(json.dumps(newest.state))
    change(state["rollout"])
    replace(newest, state=state).write(folder)
    return read_snapshot(snapshots(folder)[0])


def age(rollout: dict[str, Any]) -> None:
    """Make the state of a rollout without events what the first edition wrote."""
    timeline, costs = rollout.pop("timeline"), rollout.pop("costs")
    del costs["encoded"], costs["held_bytes"]
    rollout["progress"] = {
        **costs,
        "last": {"index": timeline["blocks"] - 1},
        "block": None,
        "prepared": 0,
        "events": timeline["events"],
    }
    rollout |= {"wanted": None, "cut": False, "once": None, "use": None}
    for slot in rollout["cache"]["slots"]:
        del slot["scene"]


FILES = Path(__file__).parent / "first_edition"
"""What the first edition wrote of a run with one change of each kind, stopped after 6 blocks of 9: files of its own."""


def test_a_run_that_the_first_edition_left_goes_on_with_all_that_had_been_changed(tmp_path: Path) -> None:
    for name in ("snapshot-000006.safetensors", "video.partial.mp4", "latents.partial.safetensors"):
        shutil.copy(FILES / name, tmp_path / name)
    history = History.of(tmp_path)
    (snapshot,) = snapshots(tmp_path)
    before_it = read_snapshot(snapshot)
    record = finish(Job.resumed(micro_backend(torch.float32), before_it, tmp_path))
    job = before_it.state["job"]
    assert record["timings"]["generate_seconds"] > job["seconds"] - job["writing"] > 0, "what it took before counts"
    finished = json.loads((FILES / "run.finished.json").read_text())
    assert [event["kind"] for event in record["events"]] == ["prompt", "cut", "strategy", "switch"]
    before, after = (Recipe.from_dict(data) for data in (finished, record))
    assert before.events == after.events == history.recipe.events
    latents, expected = (read_latents(folder / "latents.safetensors") for folder in (tmp_path, FILES))
    assert torch.allclose(latents, expected, atol=1e-4)
    assert (latents - latents.roll(3, 0)).abs().max() > 0.1
    assert record["costs"]["forwards"] == finished["costs"]["forwards"]


def stopped(folder: Path) -> None:
    """A run that ends after 7 blocks, whose newest snapshot is at 5."""
    folder.mkdir()
    recipe = Recipe(preset(STRATEGY), SCRIPT, seed=5)
    running = Job(micro_backend(torch.float32), recipe, folder, latents=True, every=5).run()
    for result in running:
        if result.block.index == 6:
            break
    running.close()


def test_a_snapshot_of_the_first_edition_goes_on_bit_for_bit_and_its_costs_are_unknown(tmp_path: Path) -> None:
    whole = rolled(tmp_path / "whole")
    assert whole["costs"]["held_bytes"] > 0
    stopped(tmp_path / "cut")
    snapshot = change_snapshot(tmp_path / "cut", age)
    record = finish(Job.resumed(micro_backend(torch.float32), snapshot, tmp_path / "cut"))
    assert record["digests"] == whole["digests"]
    assert (record["costs"]["encoded"], record["costs"]["held_bytes"]) == (None, None)
    assert record["costs"]["forwards"] == whole["costs"]["forwards"]
    sample = sample_of_run(tmp_path / "cut")
    assert metric("kv_mib").measure(sample) is metric("forwards").measure(sample) is None


def test_a_snapshot_whose_counts_are_none_is_damaged(tmp_path: Path) -> None:
    stopped(tmp_path / "cut")
    for wrong in ({"encoded": 3}, {"encoded": {"blocks": 1}}, {"held_bytes": -1}, {"held_bytes": "much"}):
        snapshot = change_snapshot(tmp_path / "cut", lambda rollout, wrong=wrong: rollout["costs"].update(wrong))
        with pytest.raises(OutputError, match=r"cannot be used: .*Use an earlier one"):
            Job.resumed(micro_backend(torch.float32), snapshot, tmp_path / "cut")


def test_a_run_of_the_first_edition_is_forked_as_one_of_this(tmp_path: Path) -> None:
    rolled(tmp_path / "run")
    backend, digests = micro_backend(torch.float32), []
    for name in ("now", "aged"):
        history = History.of(tmp_path / "run")
        recipe = history.branch(5, backend.spec)
        record = rolled(tmp_path / name, recipe=recipe, history=history.latents[:15])
        assert record["costs"]["encoded"]["blocks"] == 5
        digests.append(record["digests"])
        if name == "now":
            age_record(tmp_path / "run")
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped model whose record is as the first edition wrote it."""
    folder = tmp_path_factory.mktemp("aged") / "run"
    done = run("gen", f"{A}[1.125s] | {B}[0.75s]", "--latents", "--threads", "1", "--out", str(folder))
    assert done.exit_code == 0, done.output
    age_record(folder)
    return folder


WORLDS = {name for name, entry in METRICS.items() if entry.needs == "world"}


def test_it_is_scored_by_what_needs_no_world_and_says_so(aged: Path) -> None:
    done = run("score", str(aged), "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr == f"{aged} {FOREIGN}\n"
    names = set(json.loads(done.stdout)[0]["scores"])
    assert {"flicker", "consistency@pool8", "seam", "switch_ms"} <= names
    assert not names & {*WORLDS, "forwards", "kv_mib", "seconds_per_frame"}


def test_commands_take_it(aged: Path, tmp_path: Path) -> None:
    again = run("rerun", str(aged))
    assert again.exit_code == 0, again.output
    forked = run("fork", str(aged), "--at", "1.125", "--cache", "keep", "--out", str(tmp_path / "fork"))
    assert forked.exit_code == 0, forked.output
    pair = [aged, tmp_path / "fork"]
    age_record(pair[1])
    compared = run("compare", *map(str, pair), "--out", str(tmp_path / "both"))
    assert compared.exit_code == 0, compared.output
    assert compared.stderr == "".join(f"{folder} {FOREIGN}\n" for folder in pair)


def video(folder: Path, side: int) -> None:
    """Lossless frames of a size."""
    with VideoWriter(folder / "frames.mkv", 8.0, exact=True) as writer:
        writer.write(np.full((15, side, side, 3), 99, np.uint8))


@pytest.mark.parametrize(
    ("world", "side", "foreign"),
    [
        ("sprites-2", None, False),
        ("sprites-1", None, True),
        ("sprites-1", 64, True),
        (None, None, True),
        (None, 32, True),
        (None, 64, False),
    ],
)
def test_a_run_is_measured_against_the_world_that_it_shows(
    aged: Path, tmp_path: Path, world: str | None, side: int | None, foreign: bool
) -> None:
    """What it says of itself counts; where it says nothing, lossless frames of the world's size are of that world."""
    record = json.loads((aged / "run.json").read_text())
    record["backend"] |= {} if world is None else {"world": world}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "video.mp4").write_bytes((aged / "video.mp4").read_bytes())
    if side is not None:
        video(tmp_path, side)
    sample = sample_of_run(tmp_path)
    assert (sample.foreign, sample.world is None) == (foreign, foreign)
    assert applies("world", sample) is not foreign


def test_a_run_of_another_model_has_no_world_to_be_of(aged: Path, tmp_path: Path) -> None:
    record = json.loads((aged / "run.json").read_text())
    record["backend"]["name"] = "wan"
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert not sample_of_run(tmp_path).foreign
