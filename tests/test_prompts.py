"""Files of prompts: a run a line, each what the line alone gives, as a whole that goes on with the same command."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rollout.backend import Spec
from rollout.cli import main
from rollout.cli.prompts import default_folder
from rollout.errors import RolloutError, ScriptError
from rollout.files import alone
from rollout.prompts import read_prompts
from rollout.run.job import Job
from rollout.script import Script, planned
from tests.conftest import micro_backend
from tests.test_script import SPRITES, WAN

A, B = "a red circle jumps", "a blue square spins"


def texts(tmp_path: Path, content: str, name: str = "prompts.txt", spec: Spec = WAN) -> list[str]:
    path = tmp_path / name
    path.write_bytes(content.encode())
    return [line.text(spec) for line in read_prompts(path)]


def test_one_script_a_line_of_any_system(tmp_path: Path) -> None:
    content = f"\ufeff# two runs\r\n{A}[1s] | {B}[1s#] ; one | two\r\n\r\n  # a remark\r\n\ta neon street\\; rain \r\n"
    assert texts(tmp_path, content) == [f"{A}[1s] | {B}[1s#] ; one | two", r"a neon street\; rain"]
    assert [line.number for line in read_prompts(tmp_path / "prompts.txt")] == [2, 5]


LINES: dict[str, tuple[dict[str, Any], str]] = {
    "one prompt, as it is": ({"prompt": "a street; rain [wide]"}, r"a street\; rain \[wide\]"),
    "LongLive's file": ({"prompts": ["a", "b; c"]}, r"a | b\; c"),
    "LongLive's file and configuration": (
        {"prompts": ["a", "b", "c"], "switch_frame_indices": [48, 96], "num_output_frames": 144},
        "a[12s] | b[12s] | c[12s]",
    ),
    "its configuration as text, its code's name": (
        {"prompts_list": ["a", "b"], "switch_frame_indices": " 48 "},
        "a[12s] | b",
    ),
    "a length alone": ({"prompt": "a", "num_output_frames": 21}, "a[5.25s]"),
    "seconds": ({"prompts": ["a", "b"], "durations": [5, 2.5]}, "a[5s] | b[2.5s]"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_of_json_is_a_script(case: str, tmp_path: Path) -> None:
    line, script = LINES[case]
    assert texts(tmp_path, json.dumps(line) + "\r\n", "prompts.jsonl") == [script]


def test_switches_fall_on_the_frames_that_are_named(tmp_path: Path) -> None:
    """On every clock: a latent frame is 4 pixel frames of Wan, and one of the sprites."""
    line = json.dumps({"prompts": ["a", "b"], "switch_frame_indices": [6], "num_output_frames": 15})
    for spec in (WAN, SPRITES):
        (text,) = texts(tmp_path, line, "prompts.jsonl", spec)
        assert [shot.frames for shot in planned(Script.parse(text), spec)] == [(0, 6), (6, 15)]


REFUSED = {
    "a duration behind a semicolon": ("a street; true colours[5s]", "txt", 1, "stands after ';'"),
    "prose": (f"{A}\n\na street; true colours", "txt", 3, r"Write '\;' for a semicolon"),
    "no script": (f"{A}\n{B}[5s", "txt", 2, "never closed"),
    "JSON in a text": ('{"prompt": "a"}', "txt", 1, "Call the file .jsonl"),
    "no JSON": ('{"prompt": "a"}\n{"prompt": ', "jsonl", 2, "switch_frame_indices"),
    "no object": ("[]", "jsonl", 1, "Expected `object`, got `array`"),
    "another key": ('{"prompt": "a", "seed": 3}', "jsonl", 1, "unknown field `seed`. Write"),
    "no prompt": ('{"durations": [1]}', "jsonl", 1, "has prompts once"),
    "no prompts": ('{"prompts": []}', "jsonl", 1, "has prompts once"),
    "prompts twice": ('{"prompt": "a", "prompts": ["a"]}', "jsonl", 1, "has prompts once"),
    "an empty prompt": ('{"prompts": ["a", " "]}', "jsonl", 1, "has no prompt"),
    "a control character": ('{"prompt": "a\\u0000"}', "jsonl", 1, "control character"),
    "too few durations": ('{"prompts": ["a", "b"], "durations": [1]}', "jsonl", 1, "1 durations for 2 prompts"),
    "no duration": ('{"prompt": "a", "durations": [0]}', "jsonl", 1, "0 seconds"),
    "seconds and frames": ('{"prompt": "a", "durations": [1], "num_output_frames": 3}', "jsonl", 1, "not both"),
    "too few switches": ('{"prompts": ["a", "b"], "switch_frame_indices": []}', "jsonl", 1, "0 switch_frame_indices"),
    "no switches": ('{"prompts": ["a", "b"], "num_output_frames": 9}', "jsonl", 1, "Add switch_frame_indices"),
    "switches that fall": (
        '{"prompts": ["a", "b", "c"], "switch_frame_indices": [6, 6]}',
        "jsonl",
        1,
        "0, 6, 6 do not rise",
    ),
    "a switch behind the end": (
        '{"prompts": ["a", "b"], "switch_frame_indices": [9], "num_output_frames": 9}',
        "jsonl",
        1,
        "0, 9, 9 do not rise",
    ),
    "switches in words": ('{"prompts": ["a", "b"], "switch_frame_indices": "six"}', "jsonl", 1, "is 'six'"),
    "half a block": ('{"prompts": ["a", "b"], "switch_frame_indices": [50]}', "jsonl", 1, "Use 48 or 51"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_is_none_is_named(case: str, tmp_path: Path) -> None:
    content, ending, number, says = REFUSED[case]
    with pytest.raises(ScriptError) as refused:
        texts(tmp_path, content, f"prompts.{ending}")
    assert str(refused.value).startswith(f"{tmp_path / 'prompts'}.{ending}:{number}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_error_in_a_line_points_into_it(tmp_path: Path) -> None:
    with pytest.raises(ScriptError) as refused:
        texts(tmp_path, f"{A}\n  a street; rain[5s]")
    assert refused.value.pointer() == "a street; rain[5s]\n        ^"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    for name, says in (
        ("latin.txt", "UTF-8"),
        ("empty.txt", "no prompts"),
        ("none.txt", "not a file"),
        (".", "not a file"),
    ):
        with pytest.raises(ScriptError, match=says):
            read_prompts(tmp_path / name)


# the whole


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The micro model in place of any; one entry for each time that it is loaded."""
    count: list[str] = []

    def load(name: str, **options: Any) -> Any:
        count.append(name)
        model = micro_backend(torch.float32)
        model.digest = "micro"
        return model

    monkeypatch.setattr("rollout.backends.load_backend", load)
    monkeypatch.chdir(tmp_path)
    save_file({"latents": torch.ones(3, 6, 2, 2)}, "start.safetensors")
    return count


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rollout", "gen", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def digests(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())["digests"]


def test_each_run_is_what_its_line_alone_gives(loads: list[str], command: Command) -> None:
    scripts = [f"{A}[1.5s] | {B}[0.75s#] ; one | two", f"{B}[1.125s]", f"{A}[0.75s]"]
    Path("my prompts.txt").write_text("\n".join(scripts))
    options = ("--preset", "memrope", "--seed", "3", "--latents", "--prefix", "start.safetensors")
    code, out, err = command("--prompts", "my prompts.txt", *options)
    assert code == 0, err
    assert len(loads) == 1
    assert "3 of 3: out/my-prompts/003" in out
    for number, script in enumerate(scripts, 1):
        assert command(script, *options, "--out", f"alone/{number}")[0] == 0
        folder = Path(f"out/my-prompts/{number:03d}")
        assert digests(folder) == digests(Path(f"alone/{number}"))
        assert {path.name for path in folder.iterdir()} == {path.name for path in Path(f"alone/{number}").iterdir()}


def test_the_same_command_goes_on_where_it_was_stopped(
    loads: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of three runs; then with its snapshot gone too, as after a kill."""
    Path("p.txt").write_text(f"{A}[1s]\n{B}[3s]\n{A}[1.5s]\n")
    args = ("--prompts", "p.txt", "--out", "whole", "--snapshot-every", "2")
    assert command(*args, "--out", "straight")[0] == 0
    run = Job.run

    def stopped(job: Job) -> Any:
        for result in run(job):
            if job.rollout.blocks == 8 and result.block.index == 4:
                job.stop()
            yield result

    with monkeypatch.context() as stopping:
        stopping.setattr(Job, "run", stopped)
        code, out, err = command(*args)
    assert code == 130
    assert "stopped in run 2 of 3. The same command goes on from there." in err
    assert not Path("whole/003").exists()
    shutil.copytree("whole", "killed")
    code, out, err = command(*args)
    assert code == 0, err
    assert "3 runs into whole; 1 finished before, 1 to go on with" in out
    assert "1 of 3: whole/001 is finished" in out
    assert "2 of 3: whole/002, from its last snapshot" in out
    for path in Path("killed/002").glob("snapshot-*"):
        path.unlink()
    code, out, err = command(*args, "--out", "killed")
    assert code == 0, err
    assert "2 of 3: killed/002\n" in out
    for number in ("001", "002", "003"):
        assert digests(Path("straight", number)) == digests(Path("whole", number)) == digests(Path("killed", number))
    seen = {path: path.stat().st_mtime_ns for path in Path("whole").rglob("*") if path.is_file()}
    assert "3 finished before, 0 to go on with" in command(*args)[1]
    assert {path: path.stat().st_mtime_ns for path in Path("whole").rglob("*") if path.is_file()} == seen


def test_what_another_process_finished_meanwhile_is_not_rolled_out_again(
    loads: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at all runs and the moment at which this process has the folder."""
    Path("p.txt").write_text(f"{A}[0.4s]\n")
    assert command("--prompts", "p.txt", "--out", "theirs")[0] == 0

    @contextmanager
    def late(folder: Path) -> Iterator[None]:
        if folder.name == "001":
            shutil.copytree("theirs/001", folder, dirs_exist_ok=True)
        with alone(folder):
            yield

    monkeypatch.setattr("rollout.files.alone", late)
    code, out, err = command("--prompts", "p.txt", "--out", "ours")
    assert code == 0, err
    assert "0 finished before" in out
    assert "1 of 1: ours/001 is finished" in out
    assert Path("ours/001/run.json").read_bytes() == Path("theirs/001/run.json").read_bytes()


def test_what_is_missing_of_a_finished_run_is_added(loads: list[str], command: Command) -> None:
    Path("p.txt").write_text(f"{A}[1s]\n")
    assert command("--prompts", "p.txt")[0] == 0
    assert command("--prompts", "p.txt", "--gif")[0] == 0
    assert Path("out/p/001/video.gif").is_file()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--seed", "1"), "its seed is 0, not 1"),
        (("--preset", "memrope"), "it has another strategy"),
        (("--latents",), "it has no latents"),
        (("--prefix", "start.safetensors"), "it has another prefix"),
        (("--shift", "3"), "it has another schedule"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_runs_of_another_command_are_not_taken_for_its_own(
    change: tuple[str, ...], says: str, loads: list[str], command: Command
) -> None:
    Path("p.txt").write_text(f"{A}[1s]\n{B}[1s]\n")
    assert command("--prompts", "p.txt")[0] == 0
    shutil.rmtree("out/p/001")
    before = digests(Path("out/p/002"))
    code, _, err = command("--prompts", "p.txt", *change)
    assert code == 2
    assert re.fullmatch(rf"rollout: out/p/002 holds something else: {says}\. .*add --force to write over it\.\n", err)
    assert not Path("out/p/001").exists(), "nothing is rolled out before all is checked"
    assert command("--prompts", "p.txt", *change, "--force")[0] == 0
    assert change == ("--latents",) or digests(Path("out/p/002")) != before


def test_a_folder_with_something_else_is_left_alone(loads: list[str], command: Command) -> None:
    Path("p.txt").write_text(f"{A}[1s]\n")
    Path("out/p/001").mkdir(parents=True)
    Path("out/p/001/mine.txt").write_text("mine")
    code, _, err = command("--prompts", "p.txt")
    assert code == 2
    assert "it has 'mine.txt', which is nothing of a run" in err
    assert [path.name for path in Path("out/p/001").iterdir()] == ["mine.txt"]


def test_all_lines_are_checked_before_the_first_run(loads: list[str], command: Command) -> None:
    """By the grammar before the model is there, by the model's words and the strategy's length after."""
    for bad, args, loaded, says in (
        (f"{B}[5s", (), 0, "never closed"),
        ("a red dog[1s]", (), 1, "does not know the word 'dog'"),
        (f"{A}[200s]", ("--preset", "self-forcing"), 1, "would fail at second"),
        (f"{A}[0.4s]", ("--preset", "rolling-forcing"), 1, "5 blocks"),
    ):
        loads.clear()
        Path("p.txt").write_text(f"{A}[3s]\n{bad}\n")
        code, _, err = command("--prompts", "p.txt", *args)
        assert code == 2
        assert err.startswith("rollout: p.txt:2: ")
        assert says in err
        assert len(loads) == loaded
        assert not Path("out").exists()


def test_a_script_and_a_file_are_one_too_many(loads: list[str], command: Command) -> None:
    code, _, err = command(A, "--prompts", "p.txt")
    assert (code, loads) == (2, [])
    assert "Leave one out" in err


def test_a_default_folder_needs_no_quotes() -> None:
    names = {"my prompts (1).jsonl": "my-prompts--1", "...": "prompts", "$HOME;x.txt": "HOME-x", "été.txt": "été"}
    assert {name: default_folder(Path(name)).name for name in names} == names


def test_an_error_keeps_its_kind() -> None:
    from rollout.errors import PromptError
    from rollout.prompts import Line

    refusal = Line(Path("p.txt"), 3, A).refusal(PromptError("no such word"))
    assert isinstance(refusal, PromptError)
    assert isinstance(refusal, RolloutError)
    assert str(refusal) == "p.txt:3: no such word"


def test_the_page_says_what_is_taken(tmp_path: Path) -> None:
    """Its JSON lines are read, and its scripts."""
    page = (Path(__file__).parent.parent / "docs" / "prompts.md").read_text()
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.S)
    assert texts(tmp_path, lines, "prompts.jsonl") == [
        r"a wet street\; true colours",
        "a cat walks[5s] | the cat jumps[2.5s]",
        "a cat walks[12s] | the cat jumps[12s] | it sleeps[12s]",
    ]
    with pytest.raises(ScriptError, match="stands after"):
        Script.parse(re.findall(r"`(A wet street; .*?)` is refused", page)[0])
    (script,) = re.findall(r"Write\n`(.*?)`", page)
    assert Script.parse(script).prompts == ("A wet street; true colours.",)
