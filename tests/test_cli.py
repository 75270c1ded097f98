"""The command line: what it writes, what it prints, and one clear line with exit code 2 for bad input."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.cli.composition import named, own_terms
from rollout.cli.ls import Group
from rollout.cli.model import Choice
from rollout.cli.options import reload_backend
from rollout.errors import RolloutError
from rollout.run.record import RunFolder
from rollout.run.video import read_video
from rollout.strategies.presets import PRESETS
from rollout.strategy import REFINEMENTS
from tests.conftest import micro_backend
from tests.processes import Forked

A, B = "a red circle jumps", "a blue square spins on olive"


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def gen(out: Path, script: str = f"{A}[1.125s] | {B}[0.75s#] ; first | second", *more: str) -> Result:
    return run("gen", script, "--out", str(out), "--threads", "1", *more)


def refused(*args: str) -> str:
    result = run(*args)
    assert isinstance(result.exception, RolloutError), result.output
    text = str(result.exception)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_gen_writes_everything(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    result = gen(out, f"{A}[1.125s] | {B}[0.75s#] ; first | second", "--latents", "--seed", "7")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "contact.png",
        "latents.safetensors",
        "run.json",
        "subtitles.vtt",
        "video.mp4",
    ]
    latents = load_file(out / "latents.safetensors")["latents"]
    assert latents.shape == (15, 112, 4, 4)
    assert read_video(out / "video.mp4").shape == (15, 256, 256, 3)
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 7
    assert record["schedule"] == {"steps": [1.0, 0.75, 0.5, 0.25], "shift": 5.0, "context": 0.0}
    assert record["strategy"] == PRESETS["infinity-rope"].strategy.to_dict() | {
        "positions": {"kind": "relativistic", "head": None, "cut": {"to": 20, "keep": 1}}
    }
    assert [(s["blocks"], s["frames"], s["cut"]) for s in record["script"]["shots"]] == [
        (3, [0, 9], False),
        (2, [9, 15], True),
    ]
    assert record["backend"]["weights"]
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "00:00:01.125 --> 00:00:01.875\nsecond" in (out / "subtitles.vtt").read_text()
    assert "15 frames" in result.output


def test_the_same_command_gives_the_same_latents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert gen(tmp_path / name, A + "[0.75s]", "--latents").exit_code == 0
    a, b = (load_file(tmp_path / n / "latents.safetensors")["latents"] for n in ("a", "b"))
    assert torch.equal(a, b)


def test_force_leaves_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    assert gen(tmp_path, A + "[0.4s] ; words", "--latents").exit_code == 0
    assert gen(tmp_path, A + "[0.4s]", "--force").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contact.png", "run.json", "video.mp4"]


def test_prefix_files_that_do_not_work(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    for name, says in (("x.safetensors", "no 'latents'"), ("y.safetensors", "cannot be read"), ("y.mp4", "not a file")):
        assert says in refused("gen", A, "--prefix", str(tmp_path / name), "--out", str(tmp_path / "out"))
    (tmp_path / "text.py").write_text("")
    assert "no Python file" in refused("ls", "--plugin", str(tmp_path / "x.safetensors"))


def test_the_mp4_carries_the_subtitles(tmp_path: Path) -> None:
    import av

    assert gen(tmp_path / "out").exit_code == 0
    with av.open(str(tmp_path / "out" / "video.mp4")) as file:
        texts = [bytes(p)[2:].decode() for p in file.demux(file.streams.subtitles[0]) if p.size > 2]
    assert texts == ["first", "second"]


def test_the_schedule_can_be_set(tmp_path: Path) -> None:
    options = ["--latents", "--steps", "2", "--shift", "3", "--context-noise", "50"]
    assert gen(tmp_path / "a", A + "[0.75s]", *options).exit_code == 0
    assert gen(tmp_path / "b", A + "[0.75s]", "--latents").exit_code == 0
    a, b = (load_file(tmp_path / n / "latents.safetensors")["latents"] for n in ("a", "b"))
    assert not torch.allclose(a, b)
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["schedule"] == {"steps": [1.0, 0.5], "shift": 3.0, "context": 50.0}


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "not empty" in refused("gen", A + "[0.4s]", "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert gen(tmp_path, A + "[0.4s]", "--force").exit_code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_prefixes(tmp_path: Path) -> None:
    assert gen(tmp_path / "a", A + "[0.75s]", "--prefix", "2", "--latents").exit_code == 0
    first = load_file(tmp_path / "a" / "latents.safetensors")["latents"]
    assert first.shape[0] == 12
    save_file({"latents": first[:6].contiguous()}, tmp_path / "start.safetensors")
    assert (
        gen(tmp_path / "b", A + "[0.75s]", "--prefix", str(tmp_path / "start.safetensors"), "--latents").exit_code == 0
    )
    torch.testing.assert_close(load_file(tmp_path / "b" / "latents.safetensors")["latents"], first)
    assert gen(tmp_path / "c", A + "[0.4s]", "--prefix", str(tmp_path / "a" / "video.mp4"), "--latents").exit_code == 0
    video = load_file(tmp_path / "c" / "latents.safetensors")["latents"]
    assert video.shape[0] == 15
    # 4:2:0 and H.264 in between: close, not equal
    assert (video[:12] - first).abs().mean() < 0.2 * first.std()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, small_videos: None) -> None:
    """Commands load the micro model in the place of the embedded one, as fast as its files are."""
    backend = micro_backend(torch.float32)
    monkeypatch.setattr("rollout.backends.load_backend", lambda *_, **__: backend)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_generates(name: str, tmp_path: Path) -> None:
    """Past the trained length, on a model whose time is that of the embedded one."""
    done = gen(tmp_path / "out", f"{A}[3s] | {B}[0.75s]", "--preset", name)
    assert done.exit_code == 0, done.output
    assert "30 frames" in done.output


@pytest.mark.parametrize(
    ("args", "strategy"),
    [
        ([], "relativistic:cut=20/1 sink+flush"),
        (["--cache", "flush"], "relativistic sink+flush"),
        (["--cache", "recache"], "relativistic sink+recache"),
        (["--cache", "ema:rates=0.01/0.1"], "relativistic ema+keep"),
        (["--pos", "online"], "online sink+flush"),
        (
            ["--pos", "relativistic:head=21,cut=20/1", "--cache", "sink:window=12,sink=3+flush:last=1"],
            "relativistic:head=21,cut=20/1 sink:window=12,sink=3+flush",
        ),
        (["--preset", "memrope", "--cache", "fifo"], "online fifo+keep"),
        (["--preset", "longlive", "--pos", "online"], "online sink:window=12,sink=3+recache"),
        (["--cache", "flush:last=2+sink:window=9"], "relativistic sink:window=9+flush:last=2"),
        (["--pos", "relativistic:head=null,cut=null/2"], "relativistic:cut=null/2 sink+flush"),
    ],
)
def test_the_vocabulary(args: list[str], strategy: str) -> None:
    assert run("explain", "a[1s]", *args).output.splitlines()[0].startswith(strategy + "  on sprites")


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """A limit on file size, which fails a write as a full disk does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BLOCK = 3 * 112 * 4 * 4 * 4
"""Bytes of a block's latents."""


@pytest.mark.parametrize("size", [100, 256, 8_000, BLOCK, BLOCK + 300, 2 * BLOCK])
def test_a_full_disk_is_one_clear_line_and_leaves_no_file(tmp_path: Path, size: int) -> None:
    """In the header, before, in and after the first block, and in the second: what is left in a buffer fails again."""
    with small_disk(size):
        says = refused("gen", A + "[3s]", "--out", str(tmp_path / "out"), "--latents")
    assert re.search(r"cannot be written.*: File too large\. (Free some space|Choose another --out)", says)
    assert [p.name for p in (tmp_path / "out").iterdir() if p.stat().st_size > size or ".partial" in p.name] == []
    assert not (tmp_path / "out" / "latents.safetensors").exists()
    assert not (tmp_path / "out" / "run.json").exists()


def test_explain_json_is_the_designs() -> None:
    rows = json.loads(run("explain", f"{A}[1.5s] | {B}[0.75s#]", "--json").output)
    assert [r["block"] for r in rows] == list(range(6))
    assert rows[4] == {
        "block": 4,
        "start": 12,
        "prompt": 1,
        "switch": True,
        "cut": True,
        "slots": [{"role": "sink", "frame": 0}, {"role": "recent", "frame": 11}],
        "placement": {"slots": [0, 2], "block": [3, 19, 20]},
    }


def test_explain_shows_events_and_skips_what_repeats() -> None:
    text = run("explain", f"{A}[9s] | {B}[3s]", "--preset", "memrope").output
    assert "the same" in text
    assert len(text.splitlines()) < 25
    assert "≤64" in text
    whole = run("explain", f"{A}[9s] | {B}[3s]", "--preset", "memrope", "--all").output
    assert "the same" not in whole


def test_explain_and_help_need_no_torch() -> None:
    code = (
        "import sys; from rollout.cli import app\n"
        "try: app(['explain', 'a[3s] | b[3s#]', '--json'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'av', 'diffusers', 'matplotlib', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("group", [*Group])
def test_ls_is_whole_in_a_pipe(group: str) -> None:
    """A line a text, whatever its length: nothing is wrapped, cut or padded."""
    rows = json.loads(run("ls", group, "--json").output)
    lines = run("ls", group).output.splitlines()
    assert rows
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [row["name"] for row in rows]
    for row in rows:
        for key in {"about", "note", "source"} & set(row):
            assert not row[key] or f"    {' '.join(row[key].split())}" in lines
    assert not [line for line in lines if line != line.rstrip() or "…" in line]


@pytest.mark.parametrize("columns", [80, 40])
def test_ls_is_wrapped_between_words_for_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied, a preset's composition, stays on its line; texts are wrapped, and no word is broken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    piped = {command: run(*command).output for command in (("ls", "metrics"), ("ls", "presets"), ("bench", "ls"))}
    monkeypatch.setattr("rollout.cli.listing.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    for command, whole in piped.items():
        text = run(*command).output
        assert text.split() == whole.split()
        lines = [line for line in text.splitlines() if line.startswith(" ")]
        assert max(len(line) for line in lines if len(line.split()) > 1) <= columns
        heads = [line for line in text.splitlines() if not line.startswith(" ")]
        assert heads == [line for line in whole.splitlines() if not line.startswith(" ")]


def test_the_process(tmp_path: Path) -> None:
    """Once as a user runs it: plain lines without a terminal, one line and exit code 2 for bad input."""
    command = [sys.executable, "-m", "rollout"]
    done = subprocess.run(
        [*command, "gen", A + "[0.4s]", "--out", "out", "--threads", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "video.mp4").exists()
    bad = subprocess.run([*command, "gen", "a[5s", "--out", "bad"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("rollout: the '[' is never closed")
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "bad").exists()


def test_a_plugin_file_adds_its_rules(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from rollout import register\n"
        "from rollout.strategies.policies import Sink\n"
        "@register('policies', 'every-other')\n"
        "@dataclass(frozen=True)\n"
        "class EveryOther(Sink):\n"
        "    '''Keeps every other frame of the past.'''\n"
        "    kind: ClassVar[str] = 'every-other'\n"
    )
    env = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "rollout"]
    listed = subprocess.run(
        [*command, "ls", "policies", "--plugin", str(plugin)], capture_output=True, text=True, env=env, check=True
    )
    assert "every-other" in listed.stdout
    told = subprocess.run(
        [*command, "explain", "a[3s]", "--plugin", str(plugin), "--cache", "every-other:window=9+flush"],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert told.stdout.startswith("relativistic every-other:window=9+flush")
    plugin.write_text("1 / 0")
    assert "ZeroDivisionError" in refused("ls", "--plugin", str(plugin))


def test_an_installed_plugin_adds_its_rules(tmp_path: Path) -> None:
    """Another distribution's entry points are found by name, in every listing and spec."""
    (tmp_path / "other.py").write_text(
        "from rollout.strategies import Online\n"
        "class Mirror(Online):\n"
        "    '''Counts on from the far end.'''\n"
        "    kind = 'mirror'\n"
    )
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rollout.positions]\nmirror = other:Mirror\nbroken = other:Missing\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    command = [sys.executable, "-m", "rollout", "explain", "a[1s]", "--pos"]
    told = subprocess.run([*command, "mirror"], capture_output=True, text=True, env=env, check=True)
    assert told.stdout.startswith("mirror sink+flush")
    bad = subprocess.run([*command, "broken"], capture_output=True, text=True, env=env)
    assert bad.returncode == 2
    assert "failed to load" in bad.stderr


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads, as torch would take by itself on two cores; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("small", "two_threads")
def test_the_embedded_model_takes_one_thread_where_none_are_asked_for(tmp_path: Path) -> None:
    """A second one gains little alone, and waits for its core wherever something else runs."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("gen", A + "[0.375s]", "--out", str(one)).exit_code == 0
    assert RunFolder.open(one).record.versions["threads"] == 1
    assert run("gen", A + "[0.375s]", "--out", str(two), "--threads", "2").exit_code == 0
    record = RunFolder.open(two).record
    assert record.versions["threads"] == 2
    torch.set_num_threads(1)
    assert run("rerun", str(two)).exit_code == 0
    assert torch.get_num_threads() == 2, "a record keeps its count"
    reload_backend(record.recipe, None, {})
    assert torch.get_num_threads() == 1, "one that does not say it has the default"


def test_other_models_take_torchs_own_threads(two_threads: None) -> None:
    Choice("wan", "cpu", None).set_threads("wan")
    assert torch.get_num_threads() == 2
    Choice("wan", "cpu", 1).set_threads("wan")
    assert torch.get_num_threads() == 1


def test_the_version() -> None:
    assert run("--version").output.startswith("rollout 0.")


def test_a_rule_of_ones_own_is_everywhere(tmp_path: Path) -> None:
    """The example's policy and positional scheme, in every command that takes a plugin, in processes of their own."""
    own = ["--plugin", str(Path(__file__).parent.parent / "docs" / "own.py")]
    mine = ["--pos", "folded:near=4", "--cache", "dilated:window=9+flush"]
    commands = {
        "dilated": ["ls", "policies", *own],
        "folded": ["ls", "positions", *own],
        "folded:near=4 dilated:window=9+flush": ["explain", f"{A}[2s] | {B}[1s]", *own, *mine],
        "9 frames": ["gen", f"{A}[1.125s]", "--out", str(tmp_path / "run"), *own, *mine],
        "mine: folded": ["bench", "validate", "smoke", "--add", "mine=folded dilated+keep", *own],
    }
    for wanted, command in commands.items():
        process = Forked(*command, env={"COLUMNS": "200"})
        assert process.wait() == 0, process.stderr
        assert wanted in process.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["strategy"]["positions"] == {"kind": "folded", "near": 4}
    assert set(record["rules"]) == {"positions folded", "policy dilated"}


def test_a_record_may_hold_whatever_a_command_hands_to_a_backend() -> None:
    """Or a run with that option could not be resumed, forked or repeated."""
    from rollout.cli.model import OPTIONS
    from rollout.run import recipe

    assert set(OPTIONS) - {"backend", "device", "threads"} == set(recipe.OPTIONS)


@pytest.mark.parametrize("group", [(), ("bench",), ("study",), ("weights",)])
def test_the_first_screen_of_help_is_whole_at_80_columns(
    group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, [*group, "--help"])
    lines = result.output.split("Commands:\n")[1].splitlines()
    assert len(lines) > 1
    for line in lines:
        assert re.search(r"[a-z]\.$", line), line  # not cut
        assert re.fullmatch(r"  [a-z]+  .+", line), line  # a line each


def test_the_default_strategy_is_named_in_help_and_output(tmp_path: Path) -> None:
    assert "Default: infinity-rope." in " ".join(run("gen", "--help").output.split())
    text = f"{A}[0.375s]"
    assert (
        gen(tmp_path / "a", text)
        .output.splitlines()[0]
        .startswith("strategy: infinity-rope, the default: relativistic")
    )
    other = gen(tmp_path / "b", text, "--preset", "memrope").output.splitlines()[0]
    assert other.startswith("strategy: memrope: online ema")
    own = gen(tmp_path / "c", text, "--preset", "memrope", "--cache", "fifo:window=6").output.splitlines()[0]
    assert own.startswith("strategy: online fifo:window=6+keep;")


ONE, SEVERAL = (
    ["gen", "explain", "attn", "doctor", "fork"],
    ["compare", "live", "bench run", "bench validate", "bench search", "bench speed"],
)


@pytest.mark.parametrize("command", [*ONE, *SEVERAL])
def test_a_strategy_has_the_same_names_in_every_command(command: str) -> None:
    text = run(*command.split(), "--help").output
    options = ["--preset", "--strategy"] + ["--pos", "--cache", *map("--{}".format, REFINEMENTS)] * (command in ONE)
    for option in options:
        assert re.search(rf"^ +{option}\b", text, re.M), option


def test_a_whole_strategy_is_a_preset_or_a_text_whose_parts_options_replace() -> None:
    def first(*args: str) -> str:
        return run("explain", "a[1s]", *args).output.splitlines()[0].partition("  on ")[0]

    text = "relativistic sink:window=9+flush reads=commit"
    assert first("--strategy", text) == text
    assert first("--strategy", "memrope") == first("--preset", "memrope") == "online ema+keep"
    assert first("--strategy", text, "--cache", "fifo") == "relativistic fifo+keep reads=commit"
    assert first("--strategy", "memrope", "--reads", "commit") == "online ema+keep reads=commit"
    assert "Leave one out" in refused("explain", "a[1s]", "--preset", "memrope", "--strategy", text)
    assert "memrope" in refused("explain", "a[1s]", "--strategy", "memrop")


@pytest.mark.parametrize(
    ("text", "name", "strategy"),
    [
        ("memrope", "memrope", "memrope"),
        ("mine = memrope", "mine", "memrope"),
        ("my own=online ema:window=12+keep", "my own", "online ema:window=12+keep"),
        ("online memory=online ema:window=12+keep", "online memory", "online ema:window=12+keep"),
        *(
            (text, text, text)
            for text in ("online ema:window=9+keep", "relativistic:head=9 sink", "online ema reads=all")
        ),
    ],
)
def test_a_name_before_a_strategy_is_told_from_its_own_fields(text: str, name: str, strategy: str) -> None:
    assert named(None, [text]) == [(name, strategy)]


def test_presets_and_texts_are_one_list() -> None:
    text = "mine=online ema+keep"
    lines = run("bench", "validate", "smoke", "--preset", "longlive", "--add", "lol", "--strategy", text).output.split(
        "\n"
    )
    names = [line.strip().partition(":")[0] for line in lines]
    assert names[names.index("longlive") :][:3] == ["longlive", "lol", "mine"]


def test_a_preset_with_terms_of_its_own_is_noted_where_it_shares_those_of_others() -> None:
    notes = list(own_terms(["memrope", "causal-forcing", "rolling-forcing", "online ema+keep"]))
    assert len(notes) == 2
    assert "'causal-forcing' has blocks and noise levels of its own" in notes[0]
    assert "'rolling-forcing' has noise levels of its own" in notes[1]
