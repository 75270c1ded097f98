"""rollout bench, score and export as a user types them: a suite from file to table, again, changed, and extended."""

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

from rollout.benchmarks.report import write_report
from rollout.benchmarks.results import BEGIN, END, write_results
from rollout.benchmarks.store import Store
from rollout.benchmarks.summary import summarise
from rollout.cli import app
from rollout.errors import OutputError, RolloutError, SuiteError

OWN = Path(__file__).parent.parent / "docs" / "own.py"
SUITE = """name = "little"
about = "Two strategies on three prompts"
scripts = ["a {colour} circle walks right[1.5s] | a {colour} circle jumps[1.5s]"]
draw = 3
prefix = 1
metrics = ["action", "seam", "kv_mib", "forwards", "switch_ms"]
baseline = "keep"
primary = "action"

[fill]
colour = ["red", "blue", "green"]

[strategies]
keep = "relativistic sink:window=9+keep"
recache = "relativistic sink:window=9+recache"

[[claims]]
says = "recache acts sooner"
source = "arXiv 2509.22622"
better = "recache"
than = "keep"
metric = "action"
"""


def rollout(*args: str) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def bench(folder: Path, *more: str) -> Result:
    return rollout("bench", "run", folder / "little.toml", "--out", folder / "run", "--executor", "serial", *more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "little.toml").write_text(SUITE)
    result = bench(folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def finished(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in (folder / "run" / "cells").glob("*/DONE")}


def test_a_run_leaves_whole_cells(made: Path) -> None:
    plan = json.loads((made / "run" / "plan.json").read_text())
    assert len(plan["cells"]) == len(finished(made)) == 6
    for cell in plan["cells"]:
        folder = made / "run" / "cells" / cell["address"]
        assert {p.name for p in folder.iterdir()} >= {"spec.json", "run.json", "metrics.jsonl", "video.mp4", "DONE"}
        rows = {row["metric"]: row for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}
        assert list(rows) == ["action", "seam", "kv_mib", "forwards", "switch_ms"]
        assert rows["forwards"]["value"] == pytest.approx(5 if cell["strategy"] == "keep" else 5 + 3 / 8)
        assert rows["action"]["curve"]["unit"] == "frame"
        versions = json.loads((folder / "run.json").read_text())["versions"]
        assert versions["torch"]
    assert (made / "run" / "suite.toml").read_text() == SUITE


def test_again_computes_nothing(copy: Path) -> None:
    before = finished(copy)
    result = bench(copy)
    assert "6 cells, 6 there, 0 to do" in result.output
    assert "claims: 1 inconclusive" in result.output
    assert finished(copy) == before


def test_a_run_goes_on_after_its_log_was_cut_off(copy: Path) -> None:
    log = copy / "run" / "attempts.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])
    result = bench(copy)
    assert result.exit_code == 0, result.output
    lines = log.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == whole[: whole.rindex(b"\n", 0, -1) + 1]
    assert json.loads(lines[-1])["event"] == "run"
    assert rollout("bench", "report", copy / "run").exit_code == 0


def test_a_changed_strategy_gets_its_own_cells_alone(copy: Path) -> None:
    before = finished(copy)
    (copy / "little.toml").write_text(
        SUITE.replace('"relativistic sink:window=9+recache"', '"online sink:window=9+recache"')
    )
    result = bench(copy)
    assert "6 cells, 3 there, 3 to do" in result.output
    after = finished(copy)
    assert len(after) == 9
    assert {k: after[k] for k in before} == before


def test_a_further_metric_is_scored_without_rolling_out(copy: Path) -> None:
    before = finished(copy)
    (copy / "little.toml").write_text(SUITE.replace('"seam",', '"seam", "identity", "drift@pool8",'))
    result = bench(copy)
    assert result.exit_code == 0, result.output
    assert finished(copy) == before
    store = Store(copy / "run")
    for address in before:
        assert set(store.scores(address)) == {
            "action",
            "seam",
            "kv_mib",
            "forwards",
            "switch_ms",
            "identity",
            "drift@pool8",
        }


def test_a_score_of_other_code_is_measured_again(copy: Path) -> None:
    before, victim = finished(copy), sorted((copy / "run" / "cells").iterdir())[0]
    scores = victim / "metrics.jsonl"
    rows = {row["metric"]: row for row in map(json.loads, scores.read_text().splitlines())}
    assert all(row["code"] for row in rows.values())
    stale = rows["action"] | {"value": 99.0, "code": "an earlier edition"}
    scores.write_text("".join(json.dumps(row) + "\n" for row in (rows | {"action": stale}).values()))
    assert "6 cells, 5 there, 1 to do" in bench(copy).output
    again = {row["metric"]: row for row in map(json.loads, scores.read_text().splitlines())}
    assert again == rows
    assert finished(copy) == before, "the video stays"


def test_a_cell_that_is_broken_off_is_computed_and_leftovers_go(copy: Path) -> None:
    cells = copy / "run" / "cells"
    victim = sorted(cells.iterdir())[0]
    (victim / "DONE").unlink()
    (cells / f".{victim.name}.{'0' * 16}.partial").mkdir()
    assert "6 cells, 5 there, 1 to do" in bench(copy).output
    assert (victim / "DONE").is_file()
    assert not list(cells.glob(".*"))


def test_a_strategy_of_ones_own_joins_a_suite(copy: Path) -> None:
    result = bench(copy, "--plugin", OWN, "--add", "mine=folded dilated:window=9+flush")
    assert result.exit_code == 0, result.output
    assert "9 cells, 6 there, 3 to do" in result.output
    assert "mine" in result.output
    found = summarise(copy / "run").to_dict()
    assert found["metrics"]["action"]["means"]["mine"]["n"] == 3
    assert found["plan"]["strategies"]["mine"]["spec"]["policy"]["kind"] == "dilated"
    assert rollout("bench", "report", copy / "run").exit_code == 0
    page = (copy / "run" / "report" / "index.html").read_text()
    assert "folded" in page
    assert "dilated" in page
    edited = copy / "own.py"
    edited.write_text(OWN.read_text().replace("thin = [i", "thin: list[int] = [i"))
    again = bench(copy, "--plugin", edited, "--add", "mine=folded dilated:window=9+flush")
    assert "9 cells, 6 there, 3 to do" in again.output  # the code of a rule is part of its cells' address


def test_a_run_is_extended_by_seeds_and_keeps_them(copy: Path) -> None:
    before = finished(copy)
    more = bench(copy, "--add-seeds", "1")
    assert more.exit_code == 0, more.output
    assert "adding the seed 1" in more.output
    assert "12 cells, 6 there, 6 to do" in more.output
    after = finished(copy)
    assert {k: after[k] for k in before} == before
    plan = json.loads((copy / "run" / "plan.json").read_text())
    assert (plan["seeds"], plan["added_seeds"]) == ([0, 1], [1])
    plain = bench(copy)
    assert "with the seeds that were added before: 1" in plain.output
    assert "12 cells, 12 there, 0 to do" in plain.output
    assert summarise(copy / "run").to_dict()["metrics"]["action"]["means"]["keep"]["n"] == 6
    shutil.rmtree(next((copy / "run" / "cells").iterdir()))
    unfinished = bench(copy, "--add-seeds", "1")
    assert isinstance(unfinished.exception, OutputError)
    assert "lacks 1 of its rollouts" in str(unfinished.exception)


def test_the_summary_compares_in_pairs(made: Path) -> None:
    found = summarise(made / "run").to_dict()
    assert found["done"] == found["total"] == 6
    assert found["groups"] == {9: ["keep", "recache"]}
    pair = found["metrics"]["action"]["pairs"][0]
    assert (pair["a"], pair["b"], pair["n"], pair["verdict"]) == ("recache", "keep", 3, "inconclusive")
    assert pair["reason"] == "3 prompts, and 10 are the least for a mark"
    means = found["metrics"]["action"]["means"]
    assert pair["mean"] == pytest.approx(means["recache"]["mean"] - means["keep"]["mean"], abs=1e-6)
    assert found["claims"][0]["shows"] == "inconclusive"
    curve = found["metrics"]["action"]["curves"]["keep"]
    assert len(curve["x"]) == len(curve["mean"]) == 24


def test_results_go_between_their_marks(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text(f"# Mine\n\nkept\n\n{BEGIN}\nstale\n{END}\n\nalso kept\n")
    for _ in range(2):
        assert rollout("bench", "results", made / "run", "--to", page).exit_code == 0
    text = page.read_text()
    assert text.startswith("# Mine\n\nkept\n")
    assert text.endswith("\n\nalso kept\n")
    assert "stale" not in text
    assert text.count("## little") == 1
    assert "| recache acts sooner | arXiv 2509.22622 |" in text
    assert "weights `" in text
    page.write_text(text.replace("## little", "## another"))
    with pytest.raises(OutputError, match=r"these runs do not have: another\. .*--force"):
        write_results([made / "run"], page)
    assert rollout("bench", "results", made / "run", "--to", page, "--force").exit_code == 0
    assert page.read_text() == text
    page.write_text("# Mine\n")
    with pytest.raises(OutputError, match="lacks the marks"):
        write_results([made / "run"], page)


def test_results_show_names_as_text(copy: Path) -> None:
    """Of the suite, its strategies, claims and machine, wherever they stand."""
    plan, page = copy / "run" / "plan.json", copy / "RESULTS.md"
    name = "<img src=x onerror=alert(1)>|`*re*`\n# cache"
    text = plan.read_text()
    for word in ("recache", "recache acts sooner", "arXiv 2509.22622", "little", "Two strategies on three prompts"):
        assert f'"{word}"' in text
        text = text.replace(f'"{word}"', json.dumps(name))
    plan.write_text(text)
    write_results([copy / "run"], page)
    shown = MarkdownIt("commonmark").enable("table").render(page.read_text())
    assert "<img" not in shown
    cells = [html.unescape(cell) for cell in re.findall("<t[dh]>(.*?)</t[dh]>", shown)]
    line = " ".join(name.split())
    assert sum(cell == line for cell in cells) == 3 + 2 + 1, "at a glance, the claim, the table"
    assert [html.unescape(title) for title in re.findall("<h[12]>(.*?)</h[12]>", shown)] == [
        "Results",
        "The claims at a glance",
        line,
    ]
    assert f"<p>{html.escape(line, quote=False)}.</p>" in shown


def test_an_unfinished_run_gives_no_results(copy: Path) -> None:
    shutil.rmtree(next((copy / "run" / "cells").iterdir()))
    with pytest.raises(OutputError, match="5 of 6 cells"):
        write_results([copy / "run"], copy / "RESULTS.md")


def test_a_page_of_an_unfinished_run_says_so(copy: Path) -> None:
    page = write_report(copy / "run").read_text(encoding="utf-8")
    assert "Unfinished" not in page
    assert "so far</p>" not in page
    shutil.rmtree(next((copy / "run" / "cells").iterdir()))
    page = write_report(copy / "run").read_text(encoding="utf-8")
    assert "Unfinished: 5 of 6 rollouts so far." in page
    assert "so far</p>" in page


def test_the_page_says_what_runs_all_of_it_again(copy: Path) -> None:
    """With rules and strategies of one's own, from the run's own record; and what would leave them out says so."""
    plugin, added = copy / "my rule.py", "mine=relativistic dilated:window=9+flush"
    plugin.write_text(OWN.read_text())
    result = bench(copy, "--plugin", plugin, "--add", added)
    assert result.exit_code == 0, result.output
    page = write_report(copy / "run").read_text(encoding="utf-8")
    command = shlex.split(html.unescape(re.search("<code>(rollout bench run .*?)</code>", page)[1]))
    assert command[3:] == [
        *(str(copy / "run" / "suite.toml"), "--out", str(copy / "run"), "--add", added, "--plugin", str(plugin)),
    ]
    again = rollout(*command[1:], "--executor", "serial")
    assert "9 cells, 9 there, 0 to do" in again.output
    assert "is not in this one" not in again.output
    without = bench(copy)
    assert "'mine' was in this folder's run and is not in this one" in without.output
    assert f"--add '{added}'" in without.output


def test_cells_that_fail_are_told_and_tried_again(copy: Path) -> None:
    plugin = copy / "bad.py"
    bad = "        raise ValueError('no room')\n"
    plugin.write_text(
        OWN.read_text().replace("        sinks, recent = of_role", bad + "        sinks, recent = of_role")
    )
    options = ("--plugin", plugin, "--add", "mine=relativistic dilated:window=9+flush")
    result = bench(copy, *options)
    assert isinstance(result.exception, ValueError)  # the plan already asks the strategy
    plugin.write_text(OWN.read_text().replace("return admit(block, self.sink)", "return admit(block, self.sink)[:2]"))
    for _ in range(2):
        result = bench(copy, *options)
        assert result.exit_code == 1
        assert "3 cells failed" in result.output
        assert "2 slots were admitted for a clean pass of [3] frames" in result.output
    assert len(summarise(copy / "run").to_dict()["failed"]) == 3


def test_one_run_at_a_time_writes(copy: Path) -> None:
    with Store(copy / "run").alone():
        result = bench(copy)
    assert isinstance(result.exception, OutputError)
    assert "another run is writing" in str(result.exception)


@pytest.mark.parametrize(
    ("args", "fix"),
    [
        (("bench", "run", "nowhere"), "There are action-control"),
        (("bench", "run", "smoke", "--add", "mine"), "no preset called 'mine'"),
        (("bench", "run", "smoke", "--strategy", "mine="), "no NAME=TEXT"),
        (("bench", "run", "smoke", "--strategy", "a=lol", "--strategy", "a=memrope"), "two strategies are called 'a'"),
        (("bench", "run", "smoke", "--add", "mine=relativistic"), "infinity-rope"),
        (("bench", "run", "smoke", "--add", "memrope=absolute fifo+keep"), "Choose another"),
        (("bench", "run", "smoke", "--address", "auto"), "--executor ray"),
        (("bench", "run", "smoke", "--device", "cuda:99"), "Use cpu"),
        (("bench", "run", "smoke", "--add-seeds", "1"), "Leave --add-seeds out"),
        (("bench", "report", "nowhere"), "no plan.json"),
        (("bench", "results", "nowhere"), "no plan.json"),
        (("score", "nowhere.mp4"), "not a file"),
        (("score", "."), "run.json is missing"),
        (("export", ".", "--out", "x"), "not the folder of a run"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = rollout(*args)
    assert isinstance(result.exception, RolloutError), result.output
    text = str(result.exception)
    assert "\n" not in text
    assert fix in text
    assert not list(tmp_path.iterdir())


def test_validate_says_what_would_run(made: Path) -> None:
    result = rollout("bench", "validate", made / "little.toml", "--plugin", OWN, "--add", "mine=folded dilated+keep")
    assert "3 strategies x 3 prompts x 1 seed = 9 rollouts" in result.output
    assert "mine: folded dilated+keep" in result.output
    assert isinstance(rollout("bench", "validate", "x.toml").exception, SuiteError)
    assert "long-horizon" in rollout("bench", "ls").output


def test_any_video_is_scored_and_a_run_knows_more(made: Path) -> None:
    cell = next(p.parent for p in (made / "run" / "cells").glob("*/DONE"))
    alone = json.loads(rollout("score", cell / "video.mp4", "--json").output)[0]["scores"]
    whole = json.loads(rollout("score", cell, "--json").output)[0]["scores"]
    assert {"consistency@pool8", "flicker", "smoothness@linear", "dynamic@difference"} <= set(alone)
    assert {"seam", "action", "forwards"} <= set(whole) - set(alone)
    assert alone["consistency@pool8"]["value"] == pytest.approx(whole["consistency@pool8"]["value"], abs=0.02)
    table = rollout("score", cell / "video.mp4", cell, "--metrics", "flicker,seam").output
    assert "flicker" in table
    assert "seam" in table


def test_vbench_finds_its_folder(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "vbench"
    result = rollout("export", made / "run", "--format", "vbench", "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["keep", "recache"]
    prompts = json.loads((out / "keep" / "prompts.json").read_text())
    assert len(prompts) == 3
    for name, prompt in prompts.items():
        assert name == f"{prompt}-0.mp4"
        assert (out / "keep" / name).stat().st_size > 1000
    assert isinstance(rollout("export", made / "run", "--out", out).exception, OutputError)


def test_vbench_long_is_for_videos_of_five_seconds_and_more(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert rollout("gen", "a red circle jumps[5.25s]", "--out", run).exit_code == 0
    with pytest.raises(OutputError, match=r"lasts 5\.2 s.*--format vbench-long"):
        raise rollout("export", made / "run", run, "--out", tmp_path / "out").exception
    assert not (tmp_path / "out").exists()
    result = rollout("export", run, made / "run", "--format", "vbench-long", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = [path.name for path in (tmp_path / "out").rglob("*.*") if path.is_file()]
    assert sorted(names).count("a red circle jumps-0.mp4") == 1
    assert len(names) == 7
    assert all(name.endswith(".mp4") for name in names)
