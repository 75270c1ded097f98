"""How large a run must be, and a run that is extended by seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rollout.benchmarks.power import Spread, needed_prompts, needed_seeds, plan_run, spread
from rollout.benchmarks.seeds import added_before, check_whole, more_seeds
from rollout.benchmarks.statistics import compare
from rollout.benchmarks.suites.reader import load_suite
from rollout.cli import app
from rollout.errors import OutputError, RolloutError, SuiteError
from tests.finished_run import write_run

SUITE = """name = "little"
scripts = ["a {colour} circle jumps[1.5s]"]
draw = 12
metrics = ["action"]
[fill]
colour = ["red", "blue"]
[strategies]
base = "relativistic sink+keep"
other = "relativistic sink:window=12+keep"
"""


def rollout(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_variances_are_taken_apart() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 2, (4000, 1))
    over = spread(np.zeros((4000, 3)), prompts + rng.normal(0, 1, (4000, 3)))
    assert over.between == pytest.approx(4, rel=0.1)
    assert over.within == pytest.approx(1, rel=0.1)
    single = spread(np.zeros((4000, 1)), prompts + rng.normal(0, 1, (4000, 1)))
    assert single.between == pytest.approx(5, rel=0.1)
    assert single.within is None
    missing = prompts + rng.normal(0, 1, (4000, 3))
    missing[rng.random((4000, 3)) < 0.3] = np.nan
    assert spread(np.zeros((4000, 3)), missing).between == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("seeds", [1, 4])
def test_a_run_of_the_planned_size_sees_the_difference(seeds: int) -> None:
    rng = np.random.default_rng(1)
    prompts = needed_prompts(Spread(0.5, 1.0), 0.6, seeds)
    words = []
    for _ in range(600):
        noise = rng.normal(0, 0.5**0.5, (prompts, 1)) + rng.normal(0, 1, (prompts, seeds))
        words.append(compare(0 * noise, noise + 0.6, matters=0.01).word)
    assert 0.74 < words.count("better") / 600 < 0.9
    assert needed_prompts(Spread(0.5, 1.0), 0.6, 100) < prompts
    assert needed_prompts(Spread(0.0, 0.0), 0.6, 1) == 10
    assert needed_prompts(Spread(1e6, 1.0), 0.6, 1) is None


def test_seeds_of_a_population_see_the_difference() -> None:
    rng = np.random.default_rng(2)
    seeds = needed_seeds(1.0, 0.4, 12)
    own = rng.normal(0, 3, (12, 1))
    own -= own.mean()
    words = [
        compare(np.zeros((12, seeds)), own + 0.4 + rng.normal(0, 1, (12, seeds)), matters=0.01, fixed=True).word
        for _ in range(600)
    ]
    assert 0.74 < words.count("better") / 600 < 0.9


def pilot(folder: Path, prompts: int = 12, seeds: int = 2, **more: object) -> Path:
    rng = np.random.default_rng(3)
    values = {
        name: {"action": rng.normal(0, 1, (prompts, 1)) * wide + rng.normal(0, 1, (prompts, seeds))}
        for name, wide in (("base", 0), ("other", 0.1), ("wild", 3), ("oracle", 90))
    }
    return write_run(folder, values, controls={"oracle": {"control": "oracle"}}, **more)  # type: ignore[arg-type]


def test_along_an_axis_a_prompt_takes_several_rollouts(tmp_path: Path) -> None:
    run = pilot(tmp_path / "run")
    plain = plan_run(run, "little", "action", 1.0)
    plan = json.loads((run / "plan.json").read_text())
    more = [
        cell | {"address": f"f{cell['address'][1:]}", "axis": 1} for cell in plan["cells"] if cell["strategy"] != "base"
    ]
    cells = [cell | {"axis": 0} for cell in plan["cells"]] + more
    axis = {"name": "delay", "values": [3, 6], "scripts": [plan["scripts"]] * 2}
    (run / "plan.json").write_text(json.dumps(plan | {"cells": cells, "axis": axis}))
    swept = plan_run(run, "little", "action", 1.0)
    assert [size.rollouts for size in swept.sizes] == [size.rollouts / 4 * 7 for size in plain.sizes]


def test_a_pilot_says_what_a_run_takes(tmp_path: Path) -> None:
    planned = plan_run(pilot(tmp_path / "run", seconds=30), "little", "action", 1.0)
    assert planned.pair == ("wild", "base")
    assert [size.seeds for size in planned.sizes] == [1, 2, 4, 8]
    for size in planned.sizes:
        assert size.rollouts == 4 * size.prompts * size.seeds
        assert size.new == size.rollouts - 4 * 12 * min(2, size.seeds)
        assert size.minutes == pytest.approx(size.new * 30 / 2 / 60)
    assert planned.sizes[0].prompts > planned.sizes[-1].prompts > 12
    easy = plan_run(tmp_path / "run", "little", "action", planned.visible * 1.001)
    assert any(size.prompts <= 12 and size.seeds == 2 for size in easy.sizes)
    assert not planned.notes


def test_a_pilot_of_few_prompts_and_one_seed_says_that_it_is_a_rough_guide(tmp_path: Path) -> None:
    planned = plan_run(pilot(tmp_path / "run", 4, 1), "little", "action", 1.0)
    assert [size.seeds for size in planned.sizes] == [1]
    assert any("rough guide" in note for note in planned.notes)
    assert any("one seed" in note for note in planned.notes)


def test_a_population_is_planned_in_seeds(tmp_path: Path) -> None:
    planned = plan_run(pilot(tmp_path / "run", fixed=True), "little", "action", 0.2)
    assert [(size.prompts, size.seeds > 2) for size in planned.sizes] == [(12, True)]
    assert any("only seeds" in note for note in planned.notes)


def test_a_cell_that_was_scored_again_counts_by_its_rollout(tmp_path: Path) -> None:
    run = pilot(tmp_path / "run", seconds=30)
    before = plan_run(run, "little", "action", 1.0)
    lines = (run / "attempts.jsonl").read_text().splitlines()
    again = [json.dumps(json.loads(line) | {"seconds": 0.1}) for line in lines]
    (run / "attempts.jsonl").write_text("\n".join([*lines, *again]) + "\n")
    assert plan_run(run, "little", "action", 1.0) == before


def test_the_command_prints_a_short_table(tmp_path: Path) -> None:
    (tmp_path / "little.toml").write_text(SUITE)
    pilot(tmp_path / "run")
    done = rollout("bench", "plan", tmp_path / "little.toml", "--see", "action=1", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "4 strategies x 12 prompts x 2 seeds could have seen" in done.output
    assert "(wild against base varies most)" in done.output
    assert "minutes" in done.output
    hopeless = rollout("bench", "plan", tmp_path / "little.toml", "--see", "action=1e-6", "--out", tmp_path / "run")
    assert "no run of a sensible size" in hopeless.output


@pytest.mark.parametrize(
    ("suite", "see", "out", "fix"),
    [
        ("little.toml", "action=1", "nowhere", "there is no pilot in nowhere. Run one first: rollout bench run"),
        ("smoke", "action=1", None, "there is no pilot in runs/smoke"),
        ("little.toml", "action", "run", "METRIC=DIFFERENCE"),
        ("little.toml", "action=0", "run", "above 0"),
        ("little.toml", "action=nan", "run", "above 0"),
        ("little.toml", "reaction=1", "run", "Use one of action"),
        ("smoke", "action=1", "run", "a run of little, not of smoke"),
        ("little.toml", "action=1", "one", "no two prompts"),
        ("nowhere.toml", "action=1", "run", "is not a file"),
    ],
)
def test_bad_plans_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, see: str, out: str | None, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "little.toml").write_text(SUITE)
    pilot(tmp_path / "run")
    pilot(tmp_path / "one", prompts=1)
    done = rollout("bench", "plan", suite, "--see", see, *(("--out", out) if out else ()))
    assert isinstance(done.exception, RolloutError), done.output
    assert fix in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_added_seeds_stay_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "little.toml").write_text(SUITE)
    suite = load_suite(str(tmp_path / "little.toml"))
    assert added_before(suite, tmp_path / "nowhere") == ()
    run = pilot(tmp_path / "run", added_seeds=[0, 1, 4])
    assert added_before(suite, run) == (1, 4)  # the suite has seed 0 itself
    pilot(tmp_path / "other", added_seeds=[1], suite="other")
    assert added_before(suite, tmp_path / "other") == ()
    assert more_seeds((0, 1, 3), 3) == (2, 4, 5)
    with pytest.raises(SuiteError, match="too many"):
        more_seeds((0, 1), 999)


def test_seeds_are_added_to_what_is_whole(tmp_path: Path) -> None:
    run = pilot(tmp_path / "run")
    check_whole(set(), run)
    with pytest.raises(OutputError, match=r"lacks 2 of its rollouts\. Finish it first"):
        check_whole({"a", "b"}, run)
    with (run / "attempts.jsonl").open("a") as log:
        for cell in ("a", "b"):
            log.write(json.dumps({"event": "failed", "cell": cell, "seconds": 1, "last": True}) + "\n")
    check_whole({"a", "b"}, run)
