"""Every table says which way of a metric is better, as the metric itself declares."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rollout.backends.sprites import spec
from rollout.benchmarks.leaderboard import write_leaderboard
from rollout.benchmarks.metrics import METRICS
from rollout.benchmarks.metrics.score import ARROWS, READ, directed
from rollout.benchmarks.report import write_report
from rollout.benchmarks.results import write_results
from rollout.cli.bench import _told as told_of_run
from rollout.plan import simulate
from rollout.script import Script
from rollout.show.explain.picture import told
from rollout.strategies.presets import preset
from rollout.timeline import blocks_of
from tests.finished_run import write_run

BETTER = {"recall": "higher", "reaction": "lower", "seam": "one", "seam_motion": "zero", "dynamic": "neither"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.linspace(0.1, 0.9, 12).reshape(12, 1)
    scores = {name: dict.fromkeys(BETTER, values + n / 10) for n, name in enumerate(("longlive", "memrope"))}
    backend = spec()
    steps = {
        name: list(told(simulate(preset(name), blocks_of(Script.parse("a[1.5s]"), backend), backend)))
        for name in scores
    }
    said = {name: {"spec": preset(name).to_dict(), "text": str(preset(name)), "steps": steps[name]} for name in scores}
    folder = tmp_path_factory.mktemp("run") / "little"
    return write_run(folder, scores, better=BETTER, controls=said, answers={"remember": "recall"})  # type: ignore[arg-type]


def test_there_is_a_sign_and_a_word_for_every_declaration() -> None:
    assert ARROWS.keys() == READ.keys() == set(BETTER.values()) == {m.better for m in METRICS.values()}
    assert directed("px", "lower") == "px ↓"
    assert directed("share", "neither") == "share"


def test_the_markdown_of_results(finished: Path, tmp_path: Path) -> None:
    write_results([finished], tmp_path / "RESULTS.md")
    heads = re.search(r"^\| strategy \| window \| (.*) \|$", (tmp_path / "RESULTS.md").read_text(), re.M)
    assert heads is not None
    assert heads[1].replace("\\", "").split(" | ") == [
        directed(f"{name}, px", better) for name, better in BETTER.items()
    ]


def test_the_pages_of_a_run_and_of_several(finished: Path, tmp_path: Path) -> None:
    write_leaderboard([finished], tmp_path / "board")
    for page in (write_report(finished), tmp_path / "board" / "index.html"):
        text = page.read_text()
        for better in BETTER.values() if page.parent.name == "report" else ("higher",):
            assert better == "neither" or f'{ARROWS[better]}</span><span class="aside">, {READ[better]}</span>' in text
    line = json.loads((tmp_path / "board" / "leaderboard.jsonl").read_text().splitlines()[0])
    assert line["answers"]["remember"]["better"] == "higher"
    assert "remember_better" in (tmp_path / "board" / "leaderboard.csv").read_text().splitlines()[0]


def test_the_table_after_a_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_of_run(finished)
    assert "recall, px ↑" in capsys.readouterr().out.splitlines()[0]


def test_a_run_whose_first_metric_has_no_figure_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"reaction": np.full((3, 1), np.nan), "recall": np.ones((3, 1))}
    told_of_run(write_run(tmp_path / "run", {"fifo": values, "sink": values}))
    assert "reaction has no figure in these rollouts; the report has the other metrics" in capsys.readouterr().out
