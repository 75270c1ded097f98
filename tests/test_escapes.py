"""Prompts with characters of the grammar: plain where people read them, escaped where a script is text, the same run."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from rollout import preset
from rollout.cli import app
from rollout.errors import Stopped
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.snapshot import read_snapshot, snapshots
from rollout.script import Script
from rollout.show.live.pane import Pane, first_text
from tests.conftest import micro_backend

STREET, PLAIN = r"a street\; rain \| fog \[wide\]", "a street; rain | fog [wide]"
TEXT = STREET + "[1.5s] | night\r\n falls\\; snow[1.5s] ; one\\; two | 1 \\| 2"
SHOTS = [(PLAIN, "one; two"), ("night falls; snow", "1 | 2")]


@cache
def backend() -> Any:
    """The micro model, which takes any words: those that it does not know say nothing to it."""
    model = micro_backend(torch.float32)
    known_words = {PLAIN: "a red circle jumps"}

    def encode(prompt: str) -> Tensor:
        assert "\\" not in prompt
        return type(model).encode(model, known_words.get(prompt, "a blue square spins"))

    model.encode = encode  # type: ignore[method-assign]
    return model


def finish(job: Job) -> dict[str, Any]:
    job.folder.mkdir(exist_ok=True)
    for _ in job.run():
        pass
    return json.loads((job.folder / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("escapes") / "run"
    finish(Job(backend(), Recipe(preset("infinity-rope"), TEXT), folder, latents=True))
    return folder


def said(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(shot["prompt"], shot["subtitle"]) for shot in record["script"]["shots"]]


def test_a_record_has_the_script_as_text_and_the_prompts_as_they_are(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["script"]["text"] == TEXT
    assert said(record) == SHOTS
    cues = (finished / "subtitles.vtt").read_text().split("\n\n")[1:]
    assert [cue.split("\n")[1] for cue in cues] == ["one; two", "1 | 2"]


def test_a_fork_and_its_text_say_the_same(finished: Path, tmp_path: Path) -> None:
    history, spec = History.of(finished), backend().spec
    same = history.branch(2, spec)
    assert [(shot.prompt, shot.subtitle) for shot in Script.parse(same.text).shots] == SHOTS
    other = history.branch(2, spec, prompt=r"then \[cut\]\; end[0.75s#]")
    record = finish(Job(backend(), other, tmp_path / "fork", latents=True, history=history.latents[:6]))
    assert said(record) == [SHOTS[0], ("then [cut]; end", "")]
    assert Script.parse(record["script"]["text"]).shots[1].cut


def test_a_resumed_run_has_its_prompts_and_captions(finished: Path, tmp_path: Path) -> None:
    job = Job(backend(), Recipe(preset("infinity-rope"), TEXT), tmp_path, latents=True)
    running = job.run()
    next(running)
    job.stop()
    with pytest.raises(Stopped):
        next(running)
    (path, *_) = snapshots(tmp_path)
    snapshot = read_snapshot(path)
    assert snapshot.state["recipe"]["script"]["text"] == TEXT
    assert snapshot.state["output"]["sheet"][0][0] == f"0.0s · {PLAIN}"
    record = finish(Job.resumed(backend(), snapshot, tmp_path))
    assert record["digests"] == json.loads((finished / "run.json").read_text())["digests"]
    assert said(record) == SHOTS


def test_a_prompt_from_outside_is_no_script(tmp_path: Path) -> None:
    job = Job(backend(), Recipe(preset("infinity-rope"), "a[2s]"), tmp_path, latents=True)
    job.rollout.prompt(PLAIN)
    assert finish(job)["events"][0]["value"] == [PLAIN]


def test_explain_shows_the_prompt() -> None:
    shown = CliRunner().invoke(app, ["explain", TEXT, "--preset", "infinity-rope"])
    assert shown.exit_code == 0, shown.output
    assert f"{PLAIN}  (subtitle: one; two)" in shown.output
    assert "\\" not in shown.output


def test_a_live_run_is_saved_with_the_prompts_that_were_typed(tmp_path: Path) -> None:
    """The first one is a script on the command line, the others are typed as they are."""
    text = first_text(STREET, backend())
    pane = Pane(1, backend(), Recipe(preset("infinity-rope"), text), tmp_path / "pane")
    pane.advance()
    pane.run.prompt("night; snow | fog")
    assert pane.advance().result.prompts == ("night; snow | fog",)
    (tmp_path / "saved").mkdir()
    pane.save(tmp_path / "saved")
    record = RunFolder.open(tmp_path / "saved").record
    assert [segment.prompt for segment in record.segments(backend().spec)] == [PLAIN, "night; snow | fog"]
    again = Job(backend(), record.recipe, tmp_path / "again")
    assert finish(again)["digests"] == record.digests
