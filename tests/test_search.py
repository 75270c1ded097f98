"""The search for compositions: what it draws goes, a stopped one goes on, and what it may see is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout.benchmarks.executors import local
from rollout.benchmarks.executors.local import Serial
from rollout.benchmarks.search import Search, draw_strategy
from rollout.benchmarks.suites.reader import load_suite
from rollout.cli import app
from rollout.errors import SpecError, SuiteError
from rollout.strategy import Strategy
from tests.test_kills import Quick


def small(prompts: int = 4) -> Any:
    suite = load_suite("obey-and-remember")
    return replace(suite, scripts=suite.scripts[:prompts])


@pytest.mark.parametrize(
    ("sees", "prompts", "says"),
    [
        (("obey", "rember"), 4, "cannot see 'rember'. Did you mean 'remember'"),
        (("obey", "obey"), 4, "the same twice"),
        ((), 4, "nothing"),
        (("obey",), 2, "half are held out"),
    ],
)
def test_what_it_cannot_see_is_refused(tmp_path: Path, sees: tuple[str, ...], prompts: int, says: str) -> None:
    with pytest.raises(SuiteError, match=says.replace("?", r"\?")):
        Search(small(prompts), sees, tmp_path / "x", Serial())
    assert not (tmp_path / "x").exists()


def test_a_suite_that_does_not_measure_it_is_refused(tmp_path: Path) -> None:
    suite = replace(small(), metrics=("recall",), primary="recall")
    with pytest.raises(SuiteError, match="does not measure reaction"):
        Search(suite, ("obey",), tmp_path / "x", Serial())


def test_what_is_drawn_is_a_strategy_or_says_why_not() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds: set[str] = set()
    refusals: list[str] = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(120):
        try:
            strategy = draw_strategy(study.ask())
        except SpecError as error:
            refusals.append(str(error))
            continue
        assert Strategy.from_text(str(strategy)) == strategy
        kinds.add(strategy.policy.kind)
    assert kinds == {"fifo", "sink", "ema", "ema-sink", "anchor", "deep"}
    assert 0 < len(refusals) < 100
    assert not any("\n" in text for text in refusals)


def test_a_stopped_search_goes_on_and_its_cells_are_ordinary_ones(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    job = Search(small(), ("remember", "kv_bytes"), tmp_path, Serial())
    first = job.run(1)
    before = [trial.values for trial in first.trials]
    study = Search(small(), ("remember", "kv_bytes"), tmp_path, Serial()).run(2)
    assert [trial.values for trial in study.trials][: len(before)] == before
    assert len(study.trials) == 2
    front = job.front(study)
    for text, (remembered, mib) in front.items():
        again = job.means({"again": Strategy.from_text(text)}, held_out=False)["again"]
        assert again == {"remember": remembered, "kv_bytes": mib}
        assert not any(r >= remembered and m < mib for r, m in front.values())


def test_the_command_writes_its_front_and_what_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("rollout.benchmarks.search.names", lambda group: ["infinity-rope", "causal-forcing"])
    monkeypatch.setattr(local, "Serial", Quick)
    words = [
        "bench",
        "search",
        "--trials",
        "2",
        "--prompts",
        "4",
        "--see",
        "remember,kv_bytes",
        "--out",
        str(tmp_path / "s"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "s" / "search.json").read_text())
    assert data["sees"] == ["remember", "kv_bytes"]
    assert {row["against"] for row in data["held_out"]} <= {"infinity-rope"}
    assert (tmp_path / "s" / "held-out" / "report" / "index.html").is_file()
