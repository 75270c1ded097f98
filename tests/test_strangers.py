"""A folder from a stranger is data: what it says leads nowhere else, and takes no more than what it is."""

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rollout import preset
from rollout.backends import load_backend
from rollout.backends.sprites.model import Shape
from rollout.backends.sprites.weights import FORMAT
from rollout.backends.wan.folder import digest_weights, read_config
from rollout.benchmarks.export import export_vbench
from rollout.benchmarks.leaderboard import write_leaderboard
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.plan import read_plan
from rollout.benchmarks.report import write_report
from rollout.benchmarks.report.figures import curves, pictures
from rollout.benchmarks.store import Store
from rollout.benchmarks.study.answers import read_answers, read_key
from rollout.benchmarks.study.build import build_study
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.summary import summarise
from rollout.cli import main
from rollout.documents import MOST
from rollout.errors import BackendError, OutputError, RolloutError, SpecError, SuiteError
from rollout.files import inside
from rollout.prompts import read_prompts
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.snapshot import Snapshot, read_snapshot
from rollout.run.video import VideoWriter
from rollout.strategies.heads import read_map
from tests.conftest import examples, micro_backend
from tests.finished_run import write_run
from tests.test_bad_input import ODD, change, places

DEEP = "[" * 3000 + "]" * 3000
FIFO = "SPEC fifo"
A = "a red circle jumps"


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    scores = {name: {"error": np.arange(12.0).reshape(6, 2)} for name in ("sink", "fifo")}
    return write_run(tmp_path / "bench", scores, answers={"obey": "error"})


def changed(file: Path, *path: Any, to: Any) -> Path:
    """A JSON file with another value at a path; a change of a file without one is that of its text."""
    if not path:
        file.unlink(missing_ok=True)
        if to == FIFO:
            os.mkfifo(file)
        else:
            file.write_text(to)
        return file
    data = json.loads(file.read_text())
    change(data, path, to)
    file.write_text(json.dumps(data))
    return file


def one_line(act: Callable[[], object], says: str, kind: type[RolloutError] = OutputError) -> None:
    with pytest.raises(kind) as caught:
        act()
    assert says in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_address_leads_nowhere_else(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("video.mp4", "DONE", "metrics.jsonl"):
        (outside / name).write_text("")
    changed(bench / "plan.json", "cells", 0, "address", to="../../outside")
    for act in (
        lambda: write_report(bench),
        lambda: export_vbench([bench], tmp_path / "export", long=True),
        lambda: write_leaderboard([bench], tmp_path / "board"),
        lambda: build_study([bench], tmp_path / "study"),
    ):
        one_line(act, "plan.json cannot be read: Expected `str` matching regex")
    sys.argv = ["rollout", "bench", "report", str(bench)]
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"bench", "outside"}
    assert not (bench / "report").exists()
    for address in ("../../outside", "0" * 15, "0" * 17, "0" * 15 + "\n", "A" * 16, "/" + "0" * 15):
        one_line(lambda address=address: Store(bench).folder(address), "is no cell's address")


@pytest.mark.parametrize("link", ["video.mp4", "cell", "cells"])
def test_a_video_that_lies_elsewhere_is_not_handed_out(link: str, bench: Path, tmp_path: Path) -> None:
    store, address = Store(bench), json.loads((bench / "plan.json").read_text())["cells"][0]["address"]
    (store.folder(address) / "video.mp4").write_text("mine")
    place = {"video.mp4": store.folder(address) / link, "cell": store.folder(address), "cells": store.cells}[link]
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    if link == "cell":
        assert store.video(address) is None  # a link is no cell
        return
    says = "leads out of"
    one_line(lambda: store.video(address), says)
    one_line(lambda: export_vbench([bench], tmp_path / "export", long=True), says)
    one_line(lambda: build_study([bench], tmp_path / "study"), says)
    assert not (tmp_path / "export").exists()


def test_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert inside(tmp_path / "a" / "x", tmp_path) == tmp_path / "a" / "x"
    for name in ("a/../../x", "loop/x"):
        one_line(lambda name=name: inside(tmp_path / name, tmp_path), "leads out of")


PLANS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "deep": ((), DEEP, "nests more than 64 levels"),
    "deep in a place": (("skipped",), {"a": json.loads("[" * 90 + "]" * 90)}, "nests more than 64 levels"),
    "a pipe": ((), FIFO, "it is no file"),
    "no number": ((), '{"seeds": NaN}', "malformed"),
    "a strategy that is none": (("cells", 0, "strategy"), "x", "its cell needs 'x'"),
    "a baseline that is none": (("baseline",), "x", "its baseline needs 'x'"),
    "a metric that is none": (("primary",), "x", "its primary metric needs 'x'"),
    "a claim of nothing": (
        ("claims",),
        [{"says": "", "source": "", "better": "sink", "than": "fifo", "metric": "x"}],
        "its claim needs 'x'",
    ),
    "no machine": (("machine",), {}, "its machine needs 'processor'"),
    "a seed that is none": (("cells", 0, "seed"), 2, "of value, prompt and seed (0, 0, 2) of (1, 6, 2)"),
    "a negative prompt": (("cells", 0, "prompt"), -1, "Expected `int` >= 0"),
    "a value of no axis": (("cells", 0, "axis"), 1, "of value, prompt and seed (1, 0, 0)"),
    "many seeds": (("seeds",), list(range(10_000)), "it has 24 cells for 60000 of each strategy"),
    "an axis without scripts": (("axis",), {"name": "d", "values": [1], "scripts": []}, "its axis has 1 values"),
    "an axis of other scripts": (
        ("axis",),
        {"name": "d", "values": [1], "scripts": [["a"]]},
        "other numbers of scripts",
    ),
    "no pace": (("backend", "fps"), -1, "Expected `float` >= 0"),
    "a long prefix": (("prefix",), 10**9, "Expected `int` <= 1000"),
    "a large picture": (("strategies", "sink", "steps"), [{"slots": [10**9]}], "has more than 100000 frames"),
}


@pytest.mark.parametrize("case", PLANS)
def test_plans(case: str, bench: Path) -> None:
    path, value, says = PLANS[case]
    changed(bench / "plan.json", *path, to=value)
    one_line(lambda: read_plan(bench), says)


SCORES = {
    "too large for a mean": ('{"metric": "error", "value": 1e300}', "Expected `float` <= 1"),
    "half of a curve": (
        '{"metric": "error", "value": 1, "curve": {"unit": "s", "x": [1], "y": []}}',
        "a curve has 1 places and 0 values",
    ),
    "a number that is none": ('{"metric": "error", "value": NaN}', "malformed"),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores(case: str, bench: Path) -> None:
    text, says = SCORES[case]
    address = min(path.name for path in (bench / "cells").iterdir())
    file = changed(bench / "cells" / address / "metrics.jsonl", to=f"{text}\n")
    one_line(lambda: summarise(bench), f"{file}:1: ")
    one_line(lambda: summarise(bench), says)


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data(), value=ODD | st.just(10**12) | st.just(10**30) | st.just(1e300), drop=st.booleans())
def test_a_plan_that_says_something_else(
    tmp_path_factory: pytest.TempPathFactory, choice: Any, value: Any, drop: bool
) -> None:
    """It is read as one, or refused in a line."""
    folder = tmp_path_factory.mktemp("plan") / "bench"
    scores = {name: {"error": np.arange(2.0).reshape(1, 2)} for name in ("sink", "fifo")}
    write_run(folder, scores, answers={"obey": "error"})
    data = json.loads((folder / "plan.json").read_text())
    change(data, choice.draw(st.sampled_from(places(data))), value, drop=drop)
    (folder / "plan.json").write_text(json.dumps(data))
    says = ""
    try:
        summarise(folder)
        write_leaderboard([folder], folder.with_name("board"), formats=("csv", "jsonl", "latex"))
    except RolloutError as error:
        says = str(error)
    assert "\n" not in says
    assert len(says) < 900


def test_a_window_that_nobody_can_try_out(tmp_path: Path) -> None:
    """A leaderboard goes by what such a strategy says, and does not roll its cache over."""
    from rollout.benchmarks.leaderboard.join import composition
    from rollout.registry import find

    data = preset("longlive").to_dict()
    data["policy"]["window"] = 10**12
    assert composition(data, find("backends", "sprites").spec()) == json.dumps(data, sort_keys=True)


def plan_of(steps: Any) -> dict[str, Any]:
    strategy = {"text": "x", "spec": None, "steps": steps, "window": 6}
    return {"scripts": ["a[1s]"], "backend": {"trained": 21}, "strategies": {"sink": strategy}}


@pytest.mark.parametrize("steps", [[], [{}], [{"block": 0, "placement": 1, "slots": []}], [None], ["x"]])
def test_a_picture_of_steps_that_are_none(steps: Any) -> None:
    one_line(lambda: list(pictures({"plan": plan_of(steps)}, {}, None)), "the steps of 'sink' are none")


def test_a_metric_without_a_value_along_an_axis_has_no_chart() -> None:
    metric = {
        "name": "drift",
        "unit": "cosine a minute",
        "curves": {},
        "sweep": {"axis": "d", "values": [1], "curves": {}},
    }
    assert list(curves({"metrics": {"drift": metric}}, {}, [])) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for _ in Job(micro_backend(torch.float32), Recipe(preset("infinity-rope"), f"{A}[1.125s]"), folder).run():
        pass
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


RECORDS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "deep": ((), DEEP, "nests more than 64 levels"),
    "deep in a place": (("attention",), json.loads('{"a":' * 90 + "1" + "}" * 90), "nests more than 64 levels"),
    "a pipe": ((), FIFO, "it is no file"),
    "many blocks": (("costs", "blocks"), 10**12, "Expected `int` <= 1000000"),
    "fewer blocks than none": (("costs", "given"), -1, "Expected `int` >= 0"),
    "more given than there are": (("costs", "given"), 4, "of 3 blocks 4 were given"),
    "more encoded than there are": (("costs", "encoded", "blocks"), 9, "9 encoded"),
    "a history of more": (("history",), 4, "of 3 blocks 4 are another run's"),
    "no pace": (("script", "fps"), 0, "Expected `float` > 0"),
    "no stride": (("script", "stride"), 0, "Expected `int` >= 1"),
    "no shots": (("script", "shots"), [], "it has no shots"),
    "a shot without blocks": (("script", "shots", 0, "blocks"), 0, "a shot of 0 blocks"),
    "a shot of many frames": (("script", "shots", 0, "frames"), [0, 10**12], "has the frames 0 to 1000000000000"),
    "a shot that runs backwards": (("script", "shots", 0, "frames"), [9, 0], "has the frames 9 to 0"),
    "a video of many frames": (("timings", "frames"), 10**12, "its video has 1000000000000 frames"),
    "a video of half a frame": (("timings", "frames"), 8.5, "its video has 8.5 frames"),
    "another length": (("timings", "frames"), 8, "its script takes 9 frames, and its video has 8"),
    "another script": (("script", "text"), f"{A}[3s]", "its script takes 24 frames, and its video has 9"),
    "days of script": (
        ("script", "text"),
        "|".join([f"{A}[9999999s]"] * 3),
        "no run that is read has more than 1000000",
    ),
    "a true start that was none": (("costs", "given"), 3, "its script takes 18 frames"),
    "no schedule": (("schedule", "steps"), 10**12, "its schedule: Expected `array`"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records(case: str, run: Path) -> None:
    path, value, says = RECORDS[case]
    changed(run / "run.json", *path, to=value)
    one_line(lambda: (sample_of_run(run), RunFolder.open(run).record.recipe), says)


def test_another_video(run: Path) -> None:
    with VideoWriter(run / "video.mp4", 8.0) as video:
        video.write(np.zeros((6, 16, 16, 3), np.uint8))
    one_line(lambda: sample_of_run(run), "video.mp4 has 6 frames, and its record says 9")


def test_a_record_without_frames_shows_no_video(run: Path) -> None:
    changed(run / "run.json", "timings", to={})
    one_line(lambda: RunFolder.open(run).record.frames, "does not say how many frames")


def header(**fields: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [3, 6, 2, 2], "data_offsets": [0, 288]} | fields
    return json.dumps({"latents": entry}).encode()


LATENTS = {
    "deep": b'{"latents":' + DEEP.encode() + b"}",
    "negative": header(shape=[3, -6, -2, 2]),
    "huge": header(shape=[10**30, 6, 2, 2]),
    "huge across": header(shape=[3, 10**12, 10**12, 10**12]),
    "no frames": header(shape=[0, 6, 2, 2]),
    "nothing across": header(shape=[3, 0, 2, 2]),
    "no numbers": header(shape=[3, "6", 2, 2]),
    "infinite": header(shape=[3, float("inf"), 2, 2]),
    "halves": header(shape=[3, 6.5, 2, 2]),
    "true": header(shape=[True, 6, 2, 2]),
    "flat": header(shape=[72]),
    "no shape": header(shape=3),
    "before the file": header(data_offsets=[-(10**30), 288]),
    "behind the file": header(data_offsets=[10**30, 288]),
    "between two numbers": header(data_offsets=[1, 289]),
    "no place": header(data_offsets=[]),
    "another dtype": header(dtype="F8"),
    "a list of dtypes": header(dtype=["F32"]),
    "a list": b"[]",
}


@pytest.mark.parametrize("case", LATENTS)
def test_headers_of_latents(case: str, tmp_path: Path) -> None:
    head = LATENTS[case].ljust(8 * -(-len(LATENTS[case]) // 8))
    (tmp_path / "latents.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(288))
    if case == "huge":  # of which the file holds three
        assert len(read_latents(tmp_path / "latents.safetensors")) == 3
        return
    one_line(lambda: read_latents(tmp_path / "latents.safetensors"), "no latents in")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_latents_that_are_no_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "latents.safetensors")
    one_line(lambda: read_latents(tmp_path / "latents.safetensors"), "it is no file")


def test_a_snapshot_that_nests(tmp_path: Path) -> None:
    deep = json.loads('{"dict":' * 80 + "1" + "}" * 80)
    path = Snapshot(3, {"output": {"decoder": deep}}, {"x": torch.zeros(1)}).write(tmp_path)
    one_line(lambda: read_snapshot(path), "it nests more than 64 levels deep")


SUITE = """
scripts = ["a red circle {action}[3s]"]
metrics = ["action"]
%s
[fill]
action = ["jumps"]
[strategies]
x = "longlive"
"""
SUITES: dict[str, tuple[str, str]] = {
    "deep lists": (f"x = {DEEP}", "nests too deeply"),
    "deep tables": (f"{'a.' * 90}b = 1", "nests more than 64 levels"),
    "a pipe": (FIFO, "is not a file"),
    "no text": ("\0", "not valid TOML"),
    "many seeds": (SUITE % "seeds = 1_000_000_000_000", "asks for 1,000,000,000,000 cells"),
    "more seeds than numbers": (SUITE % "seeds = 1001", "seeds is 1001"),
    "many draws": (SUITE % "draw = 100_000\nseeds = 1000", "asks for 100,000,000 cells"),
    "many draws alone": (SUITE % "draw = 1_000_000", "draw is 1000000"),
    "many values": (
        (SUITE % "").replace('["jumps"]', str([f"jumps{n}" for n in range(40)])).replace("{action}", "{action.20}"),
        "{action.20} can be drawn in 335,367,",
    ),
    "a place that is no number": (
        (SUITE % "").replace("{action}", "{action." + "9" * 5000 + "}"),
        "which [fill] does not",
    ),
    "a large grid": (
        "\n".join([SUITE % "", "[grid]", *(f"{axis} = {['x'] * 200}" for axis in ("positions", "policy", "switch"))]),
        "asks for 8,000,001 cells",
    ),
}


@pytest.mark.parametrize("case", SUITES)
def test_suites(case: str, tmp_path: Path) -> None:
    text, says = SUITES[case]
    file = changed(tmp_path / "s.toml", to=text)
    one_line(lambda: load_suite(str(file), metrics=False), says, SuiteError)


MAPS = {
    "deep.json": (DEEP, "nests more than 64 levels"),
    "pipe.json": (FIFO, "it is no file"),
    "number.json": ("3", "not iterable"),
    "long.csv": ("x" * 200_000, "field larger than field limit"),
    "nul.csv": ("far,\udc80", "can't decode"),
}


@pytest.mark.parametrize("name", MAPS)
def test_head_maps(name: str, tmp_path: Path) -> None:
    text, says = MAPS[name]
    file = tmp_path / name
    if text == FIFO:
        os.mkfifo(file)
    else:
        file.write_bytes(text.encode(errors="surrogateescape"))
    one_line(lambda: read_map(file), says, SpecError)


def large(path: Path) -> Path:
    """A file that takes no space and does not end soon."""
    with path.open("wb") as file:
        file.truncate(MOST + 1)
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("plan.json", lambda path: read_plan(path.parent)),
        ("run.json", lambda path: RunFolder.open(path.parent)),
        ("key.json", read_key),
        ("answers.json", lambda path: read_answers([path], None)),
        ("s.toml", lambda path: load_suite(str(path))),
        ("map.json", read_map),
        ("prompts.jsonl", read_prompts),
        ("attempts.jsonl", lambda path: Store(path.parent).attempts()),
    ],
)
def test_files_that_are_too_large_or_none(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    one_line(lambda: read(large(tmp_path / name)), "has more than", RolloutError)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RolloutError, match=r"no file|not a file|no suite"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["dim", "layers", "grid", "heads"])
def test_weights_of_a_model_that_fits_in_no_memory(name: str, tmp_path: Path) -> None:
    fields = vars(Shape()) | {name: (10**9, 10**9) if name == "grid" else 10**9}
    head = {"format": FORMAT, "shape": json.dumps(fields)}
    save_file({"model.x": torch.zeros(9)}, tmp_path / "w.safetensors", metadata=head)
    one_line(
        lambda: load_backend("sprites", model=str(tmp_path / "w.safetensors")), "are none of a model", BackendError
    )


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors.index.json"])
def test_a_wan_folder_that_nests(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    folder.mkdir()
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12}
    changed(folder / "config.json", to=json.dumps(sizes))
    changed(folder / name, to=DEEP)
    one_line(lambda: read_config(tmp_path), "it nests more than 64 levels deep", BackendError)


@pytest.mark.parametrize("head", [DEEP, '{"x": {"dtype": "F32", "shape": [9], "data_offsets": [99, 0]}}'])
def test_a_header_of_weights_that_is_none(head: str, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(struct.pack("<Q", len(head)) + head.encode() + bytes(99))
    one_line(lambda: digest_weights(tmp_path), "diffusion_pytorch_model.safetensors", BackendError)


def test_weights_of_a_model_that_the_file_is_too_small_for(tmp_path: Path) -> None:
    fields = vars(Shape()) | {"dim": 2**12, "layers": 1}
    head = {"format": FORMAT, "shape": json.dumps(fields)}
    save_file({"model.x": torch.zeros(9)}, tmp_path / "w.safetensors", metadata=head)
    one_line(
        lambda: load_backend("sprites", model=str(tmp_path / "w.safetensors")), "it holds no model of", BackendError
    )
