"""rollout export: names that file systems take, models kept apart, and a folder that is whole or not there."""

import csv
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rollout import preset
from rollout.benchmarks import export
from rollout.benchmarks.export import export_frames, export_tables, export_vbench
from rollout.cli import app
from rollout.errors import OutputError, SpecError
from rollout.registry import find
from rollout.run.record import RunFolder
from rollout.run.video import VideoWriter
from rollout.script import Script, planned
from tests.conftest import run_record
from tests.finished_run import write_run
from tests.processes import killed_at
from tests.test_script import SPRITES

CHINESE = "一位穿着银色外套的女子在雨夜走过霓虹闪烁的街道" * 4


def finished(
    folder: Path,
    text: str = "a cat[1s]",
    strategy: str = "memrope",
    model: str | None = None,
    frames: int = 1,
    **backend: Any,
) -> Path:
    """A finished run of one frame, or of `frames` that grow lighter."""
    folder.mkdir(parents=True)
    with VideoWriter(folder / "video.mp4", 8.0) as video:
        video.write(
            np.full((frames, 64, 64, 3), 1, np.uint8) * 20 * np.arange(frames, dtype=np.uint8)[:, None, None, None]
        )
    shots = [
        {"prompt": shot.prompt, "asked_seconds": shot.asked_seconds, "cut": shot.cut, "subtitle": shot.subtitle}
        | {"blocks": shot.blocks, "frames": shot.frames, "begin": shot.begin, "end": shot.end}
        for shot in planned(Script.parse(text), SPRITES)
    ]
    options = {} if model is None else {"model": model}
    record = run_record(
        strategy=preset(strategy).to_dict(),
        schedule={"steps": [1.0], "shift": 5.0, "context": 0.0},
        script={"text": text, "shots": shots, "fps": 8.0, "stride": 1},
        backend={"name": "sprites", "device": "cpu", "options": options, "weights": "w"} | backend,
        timings={"frames": frames},
    )
    RunFolder.finish(folder, record)
    return folder


def named(strategy: str) -> str:
    """The folder of a preset's videos."""
    return re.sub(r"[: ]", "-", str(preset(strategy)))


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_name_is_as_long_in_bytes_as_file_systems_take(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(n), CHINESE + end) for n, end in enumerate(("[1s]", "一[1s]"))]
    (name,) = export_vbench(runs, tmp_path / "out")
    videos = sorted(path.name for path in (tmp_path / "out" / name).glob("*.mp4"))
    assert [video[-6:] for video in videos] == ["-0.mp4", "-1.mp4"]
    assert all(200 < len(os.fsencode(video)) <= 255 for video in videos)
    prompts = json.loads((tmp_path / "out" / name / "prompts.json").read_text())
    assert sorted(prompts.values()) == [CHINESE, CHINESE + "一"]
    assert sorted(prompts) == videos


def test_a_prompt_is_exported_whole_whatever_it_says(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", r"a wet street\; rain \| fog[1s] | b[1s] ; one | two")
    (name,) = export_vbench([run], tmp_path / "out")
    prompts = json.loads((tmp_path / "out" / name / "prompts.json").read_text())
    assert prompts == {"a wet street_ rain _ fog-0.mp4": "a wet street; rain | fog"}


def test_names_differ_where_capitals_do_not_count(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(n), text) for n, text in enumerate(("A cat[1s]", "a cat[1s]", "a cat-0.mp4[1s]"))]
    (name,) = export_vbench(runs, tmp_path / "out")
    prompts = json.loads((tmp_path / "out" / name / "prompts.json").read_text())
    assert prompts == {"A cat-0.mp4": "A cat", "a cat-1.mp4": "a cat", "a cat-0.mp4-0.mp4": "a cat-0.mp4"}


def test_models_are_kept_apart(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a"),
        finished(tmp_path / "b", model="/weights/one.safetensors", weights="1"),
        finished(tmp_path / "c", model="/other/one.safetensors", weights="2"),
        finished(tmp_path / "d", model="/weights/Wan2.1-T2V-1.3B", weights="3", name="wan"),
        finished(tmp_path / "e", strategy="longlive"),
    ]
    memrope, longlive = (named(name) for name in ("memrope", "longlive"))
    assert export_vbench(runs[:1], tmp_path / "one") == {memrope: 1}
    assert export_vbench([*runs, runs[0]], tmp_path / "out") == {
        f"{memrope}-sprites": 1,
        f"{memrope}-sprites-one": 1,
        f"{memrope}-sprites-one-2": 1,
        f"{memrope}-wan-Wan2.1-T2V-1.3B": 1,
        f"{longlive}-sprites": 1,
    }


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    for number in ("001", "002"):
        finished(tmp_path / "runs" / number, f"cat {number}[1s]")
    assert sum(export_vbench([tmp_path / "runs"], tmp_path / "out").values()) == 2


def test_a_run_without_its_video_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "a"), finished(tmp_path / "b")]
    (runs[1] / "video.mp4").unlink()
    with pytest.raises(OutputError, match=r"b has no video\.mp4\. Make the run again, or leave it out\."):
        export_vbench(runs, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_force_replaces_an_export_and_nothing_else(tmp_path: Path) -> None:
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b", "a dog[1s]", "longlive")
    out = tmp_path / "out"
    export_vbench([first], out)
    with pytest.raises(OutputError, match="add --force to replace an earlier export"):
        export_vbench([second], out)
    export_vbench([second], out, force=True)
    assert files(out) == [f"{named('longlive')}/a dog-0.mp4", f"{named('longlive')}/prompts.json"]
    (out / "mine.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"out/mine\.txt is no part of an earlier export, which --force would replace"
    ):
        export_vbench([first], out, force=True)
    assert (out / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


class Full(OSError):
    """What a disk without space says."""

    def __init__(self) -> None:
        super().__init__(28, "No space left on device")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_a_full_disk_leaves_nothing_under_the_final_name(
    at: int, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its files, and with --force the earlier export stays as it was; then it is run again."""
    runs = [
        finished(tmp_path / "runs" / str(n), f"cat {n}[1s]", name) for n, name in enumerate(("memrope", "longlive"))
    ]
    out, count = tmp_path / "out", 0
    if force:
        export_vbench(runs[:1], out)
    before = files(out)

    def full(write: Any) -> Any:
        def step(*args: Any) -> None:
            nonlocal count
            count += 1
            if count > at:
                raise Full
            write(*args)

        return step

    with monkeypatch.context() as disk:
        disk.setattr(export, "link_or_copy", full(export.link_or_copy))
        disk.setattr(export, "write_text", full(export.write_text))
        with pytest.raises(OutputError, match=r"No space left on device. Choose another --out or free some space"):
            export_vbench(runs, out, force=force)
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["out", "runs"] if force else ["runs"])
    assert len(export_vbench(runs, out, force=force)) == 2


@pytest.mark.parametrize("force", [False, True])
def test_killed_anywhere_an_export_is_the_earlier_one_or_the_new_one(force: bool, tmp_path: Path) -> None:
    runs = [finished(tmp_path / "runs" / str(n), f"cat {n}[1s]") for n in range(2)]
    out, steps = tmp_path / "out", 0
    export_vbench(runs, tmp_path / "whole")
    while True:
        shutil.rmtree(out, ignore_errors=True)
        if force:
            export_vbench(runs[:1], out)
        if not killed_at(steps + 1, lambda: export_vbench(runs, out, force=force)):
            break
        steps += 1
        assert len(files(out)) in ((0, 2, 3) if force else (0, 3))
        if force and not out.exists():  # between two names, where the next start finds it
            with pytest.raises(OutputError, match="add --force"):
                export_vbench(runs, out)
        export_vbench(runs, out, force=True)
        assert files(out) == files(tmp_path / "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs", "whole"]
    assert steps > 6


def bare(name: str) -> bool:
    """A shell takes the name as it is."""
    return shlex.quote(name) == name and not name.startswith(("-", "~", "="))


@pytest.mark.parametrize("strategy", ["memrope", "infinity-rope-released", "rolling-forcing", "lol", "causal-forcing"])
def test_folders_need_no_quotes(strategy: str, tmp_path: Path) -> None:
    runs = [finished(tmp_path / "a", strategy=strategy, model="/my weights/(one) $x.safetensors")]
    runs.append(finished(tmp_path / "b", strategy=strategy, model="/weights/two", weights="2"))
    names = export_vbench(runs, tmp_path / "out")
    assert len(names) == 2
    assert all(bare(name) for name in names), names


def test_frames_are_pictures_of_the_models_own_size(tmp_path: Path) -> None:
    world = find("backends", "sprites").world.name
    runs = [finished(tmp_path / str(n), "a 'cat' & a dog[1s]", frames=9, world=world) for n in range(2)]
    (name,) = counts = export_frames(runs, tmp_path / "out", every=4)
    assert counts == {name: 6}
    places = sorted((tmp_path / "out" / name).iterdir())
    assert [place.name for place in places] == ["a-cat-a-dog-0", "a-cat-a-dog-1"]
    for place in places:
        assert bare(place.name)
        pictures = sorted(place.iterdir())
        assert [picture.name for picture in pictures] == ["000000.png", "000004.png", "000008.png"]
        values = [np.asarray(Image.open(picture)) for picture in pictures]
        assert all(value.shape == (64, 64, 3) for value in values)
        assert np.allclose([value.mean() for value in values], [0, 80, 160], atol=4)
    assert files(tmp_path / "out")
    export_vbench(runs, tmp_path / "out", force=True)
    assert not list((tmp_path / "out").rglob("*.png"))


def measured(folder: Path) -> Path:
    values = np.linspace(0.1, 0.9, 12).reshape(12, 1)
    scores = {
        name: {"recall": values + n, "re_action": 3 * values - n} for n, name in enumerate(("a & b", "sink", "blind"))
    }
    scores["sink"]["re_action"][3] = np.nan
    controls = {"blind": {"control": "amnesia"}}
    return write_run(folder, scores, better={"re_action": "lower"}, unit="%", controls=controls)


def test_tables_of_a_run_hold_the_same_numbers_in_every_format(tmp_path: Path) -> None:
    run = measured(tmp_path / "my run")
    assert export_tables([run], tmp_path / "out", ["csv", "jsonl", "latex"]) == {
        "my-run": ["cells.csv", "cells.jsonl", "means.csv", "means.jsonl", "means.tex"]
    }
    place = tmp_path / "out" / "my-run"
    for name in ("cells", "means"):
        with (place / f"{name}.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        lines = [json.loads(line) for line in (place / f"{name}.jsonl").read_text().splitlines()]
        assert table == [{key: "" if value is None else str(value) for key, value in line.items()} for line in lines]
    cells = [json.loads(line) for line in (place / "cells.jsonl").read_text().splitlines()]
    assert len(cells) == 36
    (lost,) = (cell for cell in cells if cell["re_action"] is None)
    assert (lost["strategy"], lost["prompt"], lost["script"]) == ("sink", 3, "prompt 3[1.5s]")
    means = {(row["strategy"], row["metric"]): row for row in map(json.loads, (place / "means.jsonl").open())}
    sink = means["sink", "re_action"]
    assert (sink["better"], sink["verdict"], sink["n"], sink["control"]) == ("lower", "better", 11, None)
    assert sink["difference"] == pytest.approx(-1, abs=1e-6)
    assert means["blind", "recall"]["control"] == "amnesia"
    text = (place / "means.tex").read_text()
    assert r" & recall $\uparrow$ & re\_action $\downarrow$ \\" in text
    assert r"a \& b & 0.50 {\scriptsize [0.33, 0.67]} & " in text
    assert text.index(r"\midrule" + "\nblind") > text.index("sink & ")
    assert text.count(r"\\") == 5
    assert "^{+}$ {" in text


def test_only_a_benchmark_run_has_tables(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no benchmark run, so that it has no table"):
        export_tables([finished(tmp_path / "a")], tmp_path / "out", ["csv"])
    assert not (tmp_path / "out").exists()


def test_the_command_takes_tables_together_and_the_rest_alone(tmp_path: Path) -> None:
    def export(*args: object) -> Any:
        return CliRunner().invoke(app, ["export", *map(str, args)])

    run = measured(tmp_path / "run")
    done = export(run, "--out", tmp_path / "out", "--format", "csv,latex")
    assert done.output == f"{tmp_path / 'out' / 'run'}: cells.csv, means.csv, means.tex\n"
    for layout, says in {"cvs": "Did you mean 'csv'", "png,csv": "more than one thing", "": "no format ''"}.items():
        wrong = export(run, "--out", tmp_path / "other", "--format", layout)
        assert isinstance(wrong.exception, SpecError)
        assert says in str(wrong.exception)
    assert not (tmp_path / "other").exists()
    video = finished(tmp_path / "a", frames=3)
    assert export(video, "--out", tmp_path / "png", "--format", "png", "--every", "2").output.endswith(": 2 pictures\n")
