"""Bad input: one clear line, exit code 2, no traceback, nothing half-written. One row a case."""

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rollout import Strategy, generate, preset
from rollout.backends.sprites.weights import Sprites
from rollout.cli import main
from rollout.errors import RolloutError, Stopped
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.snapshot import read_snapshot, snapshots
from tests.conftest import examples, micro_backend

A = "a red circle jumps"
SHORT = f"{A}[0.4s]"


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a command prints; run as `rollout` runs it."""
    sys.argv = ["rollout", *args]
    with pytest.raises(SystemExit) as caught:
        main()
    out, state = capsys.readouterr()
    assert caught.value.code == 2, out + state
    assert state.count("\n") == 1, state
    assert state.startswith("rollout: ")
    assert len(state) < 700
    assert "Traceback" not in state
    return state


SCRIPTS = {
    "empty": ("", "the script is empty"),
    "blank": ("   ", "the script is empty"),
    "only subtitles": ("; hello", "the script is empty"),
    "unclosed": ("a[5s", "never closed"),
    "unopened": ("a 5s]", "without its '['"),
    "nested": ("a[[5s]]", "text follows the duration"),
    "no duration": ("a[]", "no duration"),
    "no unit": ("a[5]", "no duration"),
    "negative": ("a[-5s]", "no number of seconds"),
    "zero": ("a[0s]", "more than 0 seconds"),
    "nan": ("a[nans]", "no number of seconds"),
    "infinite": ("a[infs]", "no number of seconds"),
    "scientific": ("a[1e9s]", "no number of seconds"),
    "too long to be meant": ("a[1000000000s]", "longer than a rollout can be"),
    "other digits": ("a[٥s]", "no number of seconds"),
    "a mark outside the brackets": ("a[5s]#", "text follows the duration"),
    "text after": ("a[5s] b", "text follows the duration"),
    "two durations": ("a[5s][3s]", "text follows the duration"),
    "no prompt": ("a[5s] | ", "has no prompt"),
    "more subtitles than segments": ("a[5s] ; one | two", "2 subtitles for 1 segments"),
    "two semicolons": ("a ; b ; c", "one ';'"),
    "a megabyte": ("a" * 1_000_000, "1000000 characters"),
    "a control character": ("a\x07b", "control character"),
    "a null": ("a\x00b", "control character"),
    "an override of direction": ("a\u202eb", "control character"),
    "right to left": ("رجل يمشي[1s]", "does not know the word 'رجل'"),
    "emoji": ("a red 🔴 jumps[1s]", "does not know the word '🔴'"),
    "half of a surrogate": ("a red \udc80[1s]", "control character"),
    "other words": ("a red dog[1s]", "does not know the word 'dog'"),
    "days of blocks": ("|".join([f"{A}[9999999s]"] * 20), "the longest is"),
    "another table's end": (f"{A}[200s]", "would fail at second 128.0"),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_scripts(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = SCRIPTS[case]
    more = ["--preset", "self-forcing"] if "table" in case else []
    assert says in refused(capsys, "gen", text, "--out", str(tmp_path / "out"), *more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--pos", "relative"], "no positions called 'relative'. Did you mean 'relativistic'"),
        (["--cache", "snik"], "no policy or switch called 'snik'. Did you mean 'sink'"),
        (["--cache", "sink+ema"], "two policies"),
        (["--cache", "keep+flush"], "two switches"),
        (["--cache", "sink+"], "not POLICY+SWITCH"),
        (["--cache", "sink:wimdow=3"], "no field 'wimdow'. Its fields are window, sink"),
        (["--cache", "sink:window=big"], 'window is a whole number, not "big"'),
        (["--cache", "sink:window=6.5"], "window is a whole number"),
        (["--cache", "sink:window"], "no FIELD=VALUE"),
        (["--cache", "sink:window=6,window=7"], "twice"),
        (["--cache", "sink:window=-1"], "window"),
        (["--cache", "sink:window=99999999999"], "MiB of keys and values"),
        (["--cache", "ema:pool=all"], "one of 'token', 'frame'"),
        (["--cache", "ema:rates=0.1/x"], "rates is a number"),
        (["--cache", "ema:rates=2"], "outside"),
        (["--cache", "ema:rates=0"], "outside"),
        (["--cache", "ema:rates=-0.1"], "outside"),
        (["--cache", "ema", "--pos", "absolute"], "Use positions='online'"),
        (["--cache", "sink:window=3,sink=1"], "at least 4"),
        (["--pos", "relativistic:cut=1/2/3"], "takes to/keep"),
        (["--pos", "relativistic:head=40"], "40"),
        (["--preset", "longlife"], "Did you mean 'longlive'"),
        (["--backend", "wam"], "no backend called"),
        (["--plugin", "missing.py"], "missing.py does not exist"),
        (["--device", "cuda:99"], "is not there"),
        (["--device", "meta"], "is not there"),
        (["--device", "potato"], "is not there"),
        (["--dtype", "float7"], "no dtype 'float7'"),
        (["--model", "missing.safetensors"], "are not a file"),
        (["--steps", "0"], "too few"),
        (["--steps", "1000000000"], "more than the 1000 levels"),
        (["--steps", "many"], "--steps"),
        (["--shift", "0"], "shift 0"),
        (["--context-noise", "1000"], "context noise 1000"),
        (["--shift", "nan"], "shift nan must be a number above 0"),
        (["--shift", "inf"], "shift inf must be a number above 0"),
        (["--context-noise", "nan"], "context noise nan"),
        (["--context-noise", "inf"], "context noise inf"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "Invalid value for '--seed'"),
        (["--seed", str(2**64)], "Invalid value for '--seed'"),
        (["--seed", "nan"], "--seed"),
        (["--prefix", "missing.mp4"], "not a file"),
        (["--prefix", "0"], "no number of true blocks"),
        (["--snapshot-every", "0"], "--snapshot-every"),
        (["--threads", "0"], "--threads"),
        (["--nonsense"], "No such option: --nonsense"),
        (["--height", "64"], "no option 'height'"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else None,
)
def test_options(args: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, "gen", SHORT, "--out", str(tmp_path / "out"), *args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("attn", SHORT),
        ("compare", SHORT),
        ("live", "--no-open"),
        ("fork", ".", "--at", "1"),
        ("study", "build", "."),
        ("bench", "search"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_another_one_would_equal_is_refused_everywhere(
    command: tuple[str, ...], seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *command, "--out", str(tmp_path / "out"), "--seed", str(seed))
    assert "Invalid value for '--seed'" in line
    with pytest.raises(RolloutError, match="not within 0"):
        generate(micro_backend(torch.float32), preset("infinity-rope"), f"{A}[1s]", seeds=seed)
    with pytest.raises(RolloutError, match="not within 0"):
        Recipe(preset("infinity-rope"), A, seed)


@pytest.mark.parametrize("free", ["nan", "inf"])
def test_memory_that_is_no_number_is_refused(free: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--free" in refused(capsys, "doctor", "--free", free)


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    from safetensors import safe_open

    from rollout.backends.sprites import weights_file

    with safe_open(weights_file(), "pt") as file:
        head = file.metadata()
    tensors = load_file(weights_file())
    change(tensors)
    save_file(tensors, path, metadata=head)


def rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["other"] = tensors.pop(next(iter(tensors)))


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = tensors[name][:-1].contiguous()


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a directory as weights": ("--model", lambda path: path.mkdir(), "are not a file"),
    "empty weights": ("--model", lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
    "weights with a wrong magic": ("--model", lambda path: path.write_bytes(b"GGUF" * 99), "cannot be read"),
    "weights cut off": ("--model", lambda path: weights(path, lambda t: None) or cut_off(path), "cannot be read"),
    "a pickle as weights": ("--model", lambda path: bomb(path), "cannot be read"),
    "weights with another tensor": ("--model", lambda path: weights(path, rename), "not hold a whole sprite model"),
    "weights of another shape": ("--model", lambda path: weights(path, reshape), "not hold a whole sprite model"),
    "weights of another model": ("--model", lambda path: save_file({"x": torch.ones(1)}, path), "another model"),
    "weights of the first edition": (
        "--model",
        lambda path: save_file({"x": torch.ones(1)}, path, metadata={"format": "rollout-sprites-1", "shape": "{}"}),
        "of the first edition, whose world had no nights",
    ),
    "a directory as prefix": ("--prefix", lambda path: path.mkdir(), "is not a file"),
    "a text as prefix": ("--prefix", lambda path: path.write_text("no"), "cannot be read as safetensors"),
    "a pickle as prefix": ("--prefix", lambda path: bomb(path), "cannot be read as safetensors"),
    "other latents": ("--prefix", lambda path: save_file({"latents": torch.ones(3, 2, 2, 2)}, path), "has the shape"),
    "latents of the first edition": (
        "--prefix",
        lambda path: save_file({"latents": torch.ones(3, 64, 4, 4)}, path),
        "3, 64, 4, 4); sprites takes (frames, 112, 4, 4)",
    ),
    "half a block": ("--prefix", lambda path: save_file({"latents": torch.ones(2, 112, 4, 4)}, path), "whole blocks"),
    "no latents": ("--prefix", lambda path: save_file({"x": torch.ones(1)}, path), "no 'latents'"),
    "unreadable": ("--prefix", lambda path: unreadable(path), "cannot be read"),
}


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_name("ran"))))


def unreadable(path: Path) -> None:
    save_file({"latents": torch.ones(3, 112, 4, 4)}, path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option, make, says = FILES[case]
    given_file = tmp_path / "in.safetensors"
    make(given_file)
    assert says in refused(capsys, "gen", SHORT, "--out", str(tmp_path / "out"), option, str(given_file))
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_text_that_says_it_is_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.mp4").write_text("no")
    state = refused(capsys, "gen", SHORT, "--out", str(tmp_path / "out"), "--prefix", str(tmp_path / "in.mp4"))
    assert "cannot be read as a video" in state
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_output_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert "is a file, not a folder" in refused(capsys, "gen", SHORT, "--out", str(tmp_path / "file"))
    assert "cannot be written" in refused(capsys, "gen", SHORT, "--out", str(tmp_path / "file" / "below"))
    assert "is not empty" in refused(capsys, "gen", SHORT, "--out", str(full))
    assert "cannot be written" in refused(capsys, "gen", SHORT, "--out", "/proc/nowhere")
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_a_read_only_place(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Read-only file system" in refused(capsys, "gen", SHORT, "--out", str(read_only / "run"))


RUNS = {
    "missing": (lambda folder: None, "is not a folder", "run.json is missing", "run.json is missing"),
    "a file": (lambda folder: folder.write_text(""), "is not a folder", "run.json cannot be read", "cannot be read"),
    "empty": (lambda folder: folder.mkdir(), "holds no snapshot", "run.json is missing", "run.json is missing"),
    "no JSON": (lambda folder: record(folder, "{"), "", "run.json cannot be read", "run.json cannot be read"),
    "no object": (lambda folder: record(folder, "[]"), "", "holds no object", "holds no object"),
    "an empty record": (lambda folder: record(folder, "{}"), "", "the record is damaged", "the record is damaged"),
}


def record(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "run.json").write_text(text)


@pytest.mark.parametrize("case", RUNS)
def test_folders_of_runs(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, resume, rerun, fork = RUNS[case]
    make(tmp_path / "run")
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    if resume:
        assert resume in refused(capsys, "resume", run)
    assert rerun in refused(capsys, "rerun", run)
    assert fork in refused(capsys, "fork", run, "--at", "1", "--out", out)
    assert not (tmp_path / "out").exists()


def test_a_run_without_latents_is_not_forked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    sys.argv = ["rollout", "gen", f"{A}[1.5s]", "--out", run, "--threads", "1", "--preset", "self-forcing"]
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    capsys.readouterr()
    assert "Give a file that --latents wrote" in refused(capsys, "fork", run, "--at", "1", "--out", out)
    assert "Missing option '--at'" in refused(capsys, "fork", run, "--out", out)
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    found["backend"]["weights"] = "0123456789abcdef"
    (tmp_path / "run" / "run.json").write_text(json.dumps(found))
    assert "the weights here are" in refused(capsys, "rerun", run)
    found["backend"]["options"] = {"trust_remote_code": True}
    (tmp_path / "run" / "run.json").write_text(json.dumps(found))
    assert "'trust_remote_code' is none of a backend's" in refused(capsys, "rerun", run)


@cache
def backend() -> Sprites:
    return micro_backend(torch.float32)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the snapshot of a run that was stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    strategy = Strategy.from_text("online ema:window=9,sink=1+recache")
    job = Job(backend(), Recipe(strategy, f"{A}[3s] ; hello"), folder, latents=True)
    running = job.run()
    for _ in range(6):
        next(running)
    job.stop()
    with pytest.raises(Stopped):
        next(running)
    return folder


def copied(source: Path, to: Path) -> Path:
    for path in source.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return snapshots(to)[0]


def go_on(path: Path) -> None:
    """Resume, which either works or says why not, in one line."""
    state = ""
    try:
        job = Job.resumed(backend(), read_snapshot(path), path.parent)
        for _, _ in zip(range(2), job.run(), strict=False):
            pass
    except RolloutError as error:
        state = str(error)
    assert "\n" not in state
    assert len(state) < 700


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), cut=st.booleans(), byte=st.integers(0, 255))
def test_a_snapshot_with_other_bytes(
    snapshot: Path, tmp_path_factory: pytest.TempPathFactory, at: float, cut: bool, byte: int
) -> None:
    path = copied(snapshot, tmp_path_factory.mktemp("fuzz"))
    data = bytearray(path.read_bytes())
    head = 8 + struct.unpack("<Q", data[:8])[0]
    place = int(at * (head - 1))  # in the header: what follows is numbers, of which any are possible
    if cut:
        del data[place:]
    else:
        data[place] = byte
    path.write_bytes(data)
    go_on(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*path, key))
    return found


def change(data: Any, place: Sequence[Any], value: Any, *, drop: bool = False) -> None:
    """Put another value at a place of JSON, or drop what is there."""
    *outer, last = place
    for key in outer:
        data = data[key]
    if drop:
        del data[last]
    else:
        data[last] = value


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just("../../etc/passwd"),
    st.lists(st.integers(-3, 99), max_size=3),
)


@settings(max_examples=examples(75), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data(), value=ODD, drop=st.booleans())
def test_a_snapshot_that_says_something_else(
    snapshot: Path, tmp_path_factory: pytest.TempPathFactory, choice: Any, value: Any, drop: bool
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    folder = place / "above" / "run"
    folder.mkdir(parents=True)
    path = copied(snapshot, folder)
    found = read_snapshot(path)
    state = json.loads(json.dumps(found.state))
    change(state, choice.draw(st.sampled_from(places(state))), value, drop=drop)
    replace(found, state=state).write(path.parent)
    go_on(path)
    assert [*place.iterdir(), *folder.parent.iterdir()] == [folder.parent, folder]  # nothing was written outside


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data(), how=st.sampled_from(["drop", "cut", "type", "flat"]))
def test_a_snapshot_with_other_tensors(
    snapshot: Path, tmp_path_factory: pytest.TempPathFactory, choice: Any, how: str
) -> None:
    path = copied(snapshot, tmp_path_factory.mktemp("fuzz"))
    found = read_snapshot(path)
    tensors = dict(found.tensors)
    name = choice.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    changed = {"cut": tensor[:0], "type": tensor.to(torch.float16), "flat": tensor.flatten()}
    if how != "drop":
        tensors[name] = changed[how].contiguous()
    replace(found, tensors=tensors).write(path.parent)
    go_on(path)


def test_a_pickle_that_says_it_is_a_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    bomb(folder / "snapshot-000003.safetensors")
    bomb(folder / "latents.safetensors")
    sys.argv = ["rollout", "resume", str(folder)]
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "cannot be used" in capsys.readouterr().err
    with pytest.raises(RolloutError):
        read_latents(folder / "latents.safetensors")
    assert not (folder / "ran").exists()


@given(st.text(alphabet=":=/,+.0123456789abcdefghijklmnopqrstuvwxyz ", max_size=40))
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    for one in (text, f"relativistic:{text} sink+flush", f"online ema:{text}+keep", f"absolute sink+{text}"):
        try:
            strategy = Strategy.from_text(one)
        except RolloutError as error:
            state = str(error)
            assert "\n" not in state
            assert len(state) < 700
        else:
            assert Strategy.from_text(str(strategy)) == strategy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(choice=st.data(), value=JSON)
def test_any_json_is_a_strategy_or_a_spec_error(choice: Any, value: Any) -> None:
    state = json.loads(json.dumps(preset("memrope").to_dict()))
    change(state, choice.draw(st.sampled_from(places(state))), value)
    try:
        strategy = Strategy.from_dict(state)
    except RolloutError:
        return
    assert Strategy.from_dict(strategy.to_dict()) == strategy
