"""--json: a command's result on stdout and nothing else there, or whole in a file; --out, and the names that options had."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.cli.line import CommandLine
from rollout.errors import OutputError
from tests.finished_run import write_run

A = "a red circle jumps"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answer(*args: object) -> Any:
    """What stdout holds, all of it."""
    done = run(*args)
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a suite, without a model."""
    values = np.linspace(0.1, 0.9, 12).reshape(12, 1)
    scores = {name: {"reaction": values + n / 10} for n, name in enumerate(("fifo", "sink"))}
    return write_run(tmp_path_factory.mktemp("run") / "little", scores, suite="smoke", answers={"obey": "reaction"})


def commands(finished: Path, out: Path) -> dict[str, tuple[object, ...]]:
    return {
        "explain": ("explain", "a[1s]"),
        "coherence": ("explain", "a[1s]", "--coherence"),
        "ls": ("ls", "switches"),
        "cite": ("cite", "lol"),
        "doctor": ("doctor",),
        "bench ls": ("bench", "ls"),
        "bench validate": ("bench", "validate", "smoke"),
        "bench plan": ("bench", "plan", "smoke", "--see", "reaction=0.1", "--out", finished),
        "bench results": ("bench", "results", finished, "--out", out / "RESULTS.md"),
        "bench leaderboard": ("bench", "leaderboard", finished, "--out", out / "board", "--force"),
    }


def kinds(data: Any) -> Any:
    return sorted(data) if isinstance(data, dict) else kinds(data[0])


def test_stdout_has_the_result_alone_and_a_file_has_the_same(finished: Path, tmp_path: Path) -> None:
    for name, args in commands(finished, tmp_path).items():
        bare, dash = answer(*args, "--json"), answer(*args, "--json", "-")
        file = tmp_path / "result.json"
        done = run(*args, "--json", file)
        assert done.exit_code == 0, (name, done.output)
        assert done.stdout.strip(), name  # what is for people is still said
        assert kinds(json.loads(file.read_text())) == kinds(bare) == kinds(dash), name
        if name != "doctor":  # which says how much memory is free
            assert json.loads(file.read_text()) == bare == dash, name
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_results_say_what_is_printed(finished: Path, tmp_path: Path) -> None:
    args = commands(finished, tmp_path)
    assert [row["name"] for row in answer(*args["ls"], "--json")] == ["keep", "flush", "recache"]
    plan = answer(*args["bench plan"], "--json")
    assert (plan["metric"], plan["difference"], plan["prompts"]) == ("reaction", 0.1, 12)
    (results,) = answer(*args["bench results"], "--json")
    assert results["metrics"]["reaction"]["means"].keys() == {"fifo", "sink"}
    assert {row["strategy"] for row in answer(*args["bench leaderboard"], "--json")} == {"fifo"}  # one spec, so one row
    doctor = answer("doctor", "--preset", "memrope", "--json")
    assert (doctor["strategy"], doctor["runs"]) == ("memrope", True)
    validated = answer(*args["bench validate"], "--json")
    assert validated["rollouts"] == 28
    assert validated["baseline"] in validated["strategies"]


def test_a_run_its_comparison_and_its_repetition(tmp_path: Path) -> None:
    for n, cache in enumerate(("keep", "flush")):
        assert run("gen", f"{A}[0.375s]", "--cache", cache, "--threads", 1, "--out", tmp_path / f"{n}").exit_code == 0
    compared = answer(
        "compare", f"x={tmp_path / '0'}", f"y={tmp_path / '1'}", "--out", tmp_path / "both", "--json", "-"
    )
    assert list(compared["runs"]) == ["x", "y"]
    metric = next(line for line in compared["metrics"] if line["name"] == "forwards")
    assert metric["better"] == "lower"
    assert metric["values"].keys() == {"x", "y"}
    repeated = answer("rerun", tmp_path / "0", "--json", "-")
    assert repeated["equal"] is True
    assert repeated["same"]["frames"] is True
    record = json.loads((tmp_path / "0" / "run.json").read_text())
    (tmp_path / "0" / "run.json").write_text(json.dumps(record | {"seed": 1}))
    again = run("rerun", tmp_path / "0", "--json", "-")
    assert (again.exit_code, json.loads(again.stdout)["equal"]) == (1, False)
    looks = answer("attn", f"{A}[0.75s]", "--threads", 1, "--out", tmp_path / "attn", "--json")
    assert all(Path(file).is_file() for file in looks["files"])
    assert looks["summary"][0]["frames"] == [0, 6]


def test_a_word_after_json_is_its_file_where_it_looks_like_one(tmp_path: Path) -> None:
    assert len(answer("explain", "--json", "a[1s]")) == 3
    assert answer("ls", "--json", "switches")[0]["name"] == "keep"
    assert run("ls", "switches", f"--json={tmp_path / 'any name'}").exit_code == 0
    assert len(json.loads((tmp_path / "any name").read_text())) == 3
    assert run("explain", "--", "--json").output.startswith("relativistic")  # a script of that name


def test_a_place_that_cannot_be_is_said_before_anything_is_done(tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "x.json", tmp_path / "folder.json"):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        done = run("attn", f"{A}[0.375s]", "--out", tmp_path / "attn", "--json", place)
        assert isinstance(done.exception, OutputError)
    assert not (tmp_path / "attn").exists()
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere")
    assert run("ls", "--json", tmp_path / "link.json").exit_code == 0
    assert not (tmp_path / "elsewhere").exists()  # nothing is written through a link


def test_every_place_for_output_is_called_out_and_older_names_go_on(finished: Path, tmp_path: Path) -> None:
    text = run("bench", "results", "--help").output + run("weights", "import", "--help").output
    assert text.count("--out") == 2
    assert "--to " not in text
    assert run("bench", "results", finished, "--to", tmp_path / "R.md").exit_code == 0
    assert run("bench", "results", finished, f"--to={tmp_path / 'S.md'}").exit_code == 0
    assert (tmp_path / "R.md").read_text() == (tmp_path / "S.md").read_text()
    assert "--pane" not in run("live", "--help").output
    assert "no preset called 'nothing'" in str(run("live", "--no-open", "--pane", "nothing").exception)


def test_every_command_that_has_a_result_takes_json() -> None:
    """Commands whose result is a folder say in its record what there is to know."""
    folders = {"gen", "resume", "fork", "live", "export", "build", "import", "show"}

    def walk(group: Any) -> Any:
        for name, command in group.commands.items():
            yield from walk(command) if hasattr(command, "commands") else [(name, command)]

    import typer

    for name, command in walk(typer.main.get_command(app)):
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) == (name not in folders), name
        assert "--json" not in options or isinstance(command, CommandLine), name
