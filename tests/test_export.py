"""rollout export: names that file systems take, models kept apart, and a folder that is whole or not there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout import preset
from rollout.benchmarks import export
from rollout.benchmarks.export import export_vbench
from rollout.errors import OutputError
from rollout.run.record import RunFolder
from rollout.run.video import VideoWriter
from rollout.script import Script, planned
from tests.conftest import run_record
from tests.processes import killed_at
from tests.test_script import SPRITES

CHINESE = "一位穿着银色外套的女子在雨夜走过霓虹闪烁的街道" * 4


def finished(
    folder: Path, text: str = "a cat[1s]", strategy: str = "memrope", model: str | None = None, **backend: Any
) -> Path:
    """A finished run of one frame."""
    folder.mkdir(parents=True)
    with VideoWriter(folder / "video.mp4", 8.0) as video:
        video.write(np.zeros((1, 64, 64, 3), np.uint8))
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
        timings={"frames": 1},
    )
    RunFolder.finish(folder, record)
    return folder


def named(strategy: str) -> str:
    """The folder of a preset's videos."""
    return str(preset(strategy)).replace(":", "_")


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
        f"{memrope}, sprites": 1,
        f"{memrope}, sprites one": 1,
        f"{memrope}, sprites one (2)": 1,
        f"{memrope}, wan Wan2.1-T2V-1.3B": 1,
        f"{longlive}, sprites": 1,
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
