"""The leaderboard over several runs: joins, marks, the front, what it says, and its files."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rollout.benchmarks.leaderboard import FILES, write_leaderboard
from rollout.benchmarks.leaderboard.board import Row, Section, sections
from rollout.benchmarks.leaderboard.columns import column_of, turned
from rollout.benchmarks.leaderboard.join import composition, preset_of
from rollout.benchmarks.leaderboard.latex import escape
from rollout.benchmarks.leaderboard.lines import lines_of
from rollout.benchmarks.leaderboard.records import as_csv, as_jsonl
from rollout.benchmarks.leaderboard.runs import read_runs
from rollout.benchmarks.report import vega
from rollout.benchmarks.suites.answers import USES
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.suites.suite import SUITES, shipped, strategy_of
from rollout.cli import app
from rollout.errors import OutputError, RolloutError, SuiteError
from rollout.registry import find
from tests.finished_run import BACKEND, MACHINE, write_run

SPEC = find("backends", "sprites").spec()
CHANGE = "a red circle jumps[1.5s] | a red circle spins[1.5s]"
STILL = "a red circle jumps[3s]"
UNITS = {"kv_mib": "MiB", "seconds_per_frame": "s", "forwards": "a block", "reaction": "frames"}
LESS = ("reaction", "kv_mib", "seconds_per_frame", "forwards", "tint:210")


def run(
    folder: Path,
    answers: Mapping[str, str],
    values: Mapping[str, tuple[str | None, Mapping[str, float]]],
    *,
    noise: float = 0.02,
    prompts: int = 16,
    seeds: int = 1,
    script: str = CHANGE,
    controls: Mapping[str, Mapping[str, str]] | None = None,
    seed: int = 0,
    exact: bool = True,
    **plan: Any,
) -> Path:
    """A run of strategies {name: (text, {metric: mean})}; costs are the same for every prompt, all else is noisy.

    `exact`: the means over the run are those, not those behind it.
    """
    rng = np.random.default_rng(seed)

    def draw(spread: float) -> np.ndarray:
        values = rng.normal(0, spread, (prompts, seeds))
        return values - values.mean() * exact

    common = draw(1)
    scores, said = {}, {}
    for name, (text, means) in values.items():
        own = {m: mean + noise * (common + draw(0.5)) for m, mean in means.items()}
        scores[name] = own | {m: np.full(common.shape, means[m]) for m in UNITS if m in means and m != "reaction"}
        said[name] = {"text": text or name} | (controls or {}).get(name, {})
        strategy = strategy_of(text) if text else None
        said[name] |= {"spec": strategy.to_dict() if strategy else None, "window": strategy and strategy.policy.window}
    names = dict.fromkeys(metric for means in scores.values() for metric in means)
    empty = np.full((prompts, seeds), np.nan)
    scores = {name: {metric: own.get(metric, empty) for metric in names} for name, own in scores.items()}
    metrics = [
        {
            "name": name,
            "unit": UNITS.get(name, "share"),
            "better": "lower" if name in LESS else "higher",
            "about": f"What {name} is.",
            "source": "",
            "matters": 0.05,
        }
        for name in names
    ]
    whole = {"suite": folder.name, "scripts": [script] * prompts, "metrics": metrics, "answers": dict(answers)} | plan
    return write_run(folder, scores, controls=said, **whole)


def only(folders: list[Path], **options: Any) -> Section:
    (section,) = sections(folders, **options)
    return section


def row_of(section: Section, name: str) -> Row:
    return next(row for row in (*section.rows, *section.references) if row.name == name)


def says(section: Section, use: str) -> str:
    return next(str(line) for line in lines_of(section) if line.use == use)


FIFO, SINK, EMA = "relativistic fifo:window=12+keep", "relativistic sink:window=12,sink=3+keep", "memrope"


# What a suite answers


def test_every_use_is_answered_by_one_shipped_suite() -> None:
    answers = [use for name in shipped() for use in load_suite(name, metrics=False).answers]
    assert sorted(answers) == sorted(USES)


@pytest.mark.parametrize(
    ("table", "line", "fix"),
    [
        ('[answers]\nobay = "reaction"\n', 2, "unknown key 'obay'. Did you mean 'obey'? There are obey, remember"),
        ('[answers]\nobey = "racetion"\n', 2, "none of the metrics: reaction, dynamic@difference"),
        ("[answers]\nobey = 3\n", 2, "obey is answered by 3"),
        ('[answers]\nobey = "dynamic@difference"\n', 2, "neither direction of it is better"),
        ('answers = "reaction"\n', 1, "'answers' is a table"),
        ('marks = false\n[answers]\nobey = "reaction"\n', 2, "a suite without marks answers no use"),
    ],
)
def test_unknown_uses_and_metrics_are_refused_with_their_line(tmp_path: Path, table: str, line: int, fix: str) -> None:
    path = tmp_path / "mine.toml"
    rest = '[strategies]\na = "memrope"\n'
    begin = f'scripts = ["{CHANGE}"]\nmetrics = ["reaction", "dynamic@difference"]\n'
    path.write_text(begin + table + rest)
    with pytest.raises(SuiteError, match=re.escape(fix)) as caught:
        load_suite(str(path))
    assert f"mine.toml:{line + 2}:" in str(caught.value)


def test_the_answers_are_kept(tmp_path: Path) -> None:
    text = (SUITES / "action-control.toml").read_text()
    (tmp_path / "mine.toml").write_text(text)
    assert load_suite(str(tmp_path / "mine.toml")).answers == {"obey": "reaction"}


# Joins


def identity(text: str) -> str:
    return composition(strategy_of(text).to_dict(), SPEC)


def test_a_composition_is_what_it_decides() -> None:
    assert identity("infinity-rope") == identity("relativistic sink:window=6,sink=1+flush")
    assert preset_of(identity("relativistic sink:window=6,sink=1+flush"), SPEC) == "infinity-rope"
    assert preset_of(identity(FIFO), SPEC) == ""
    different = [
        "relativistic:cut=5/1 sink:window=6,sink=1+flush",
        "relativistic sink:window=6,sink=1+keep",
        "relativistic sink:window=6,sink=1+recache",
        "relativistic sink:window=6,sink=1+flush:last=2",
        "relativistic sink:window=9,sink=1+flush",
        "online ema+keep",
        "online ema:rates=0.1+keep",
        "online ema:pool=frame+keep",
        "absolute fifo+keep",
        "online fifo+keep",
    ]
    assert len({identity(text) for text in different} | {identity("infinity-rope")}) == len(different) + 1


def test_a_rule_that_is_not_at_hand_goes_by_its_json() -> None:
    data = strategy_of(FIFO).to_dict() | {"policy": {"kind": "elsewhere", "window": 3}}
    assert (
        composition(data, SPEC) == composition(dict(reversed(data.items())), SPEC) == json.dumps(data, sort_keys=True)
    )
    assert composition(data, None) != composition(strategy_of(FIFO).to_dict(), None)


def test_runs_are_joined_by_composition_and_named_by_preset_or_shortest(tmp_path: Path) -> None:
    first = run(
        tmp_path / "first",
        {"obey": "reaction"},
        {
            "flush 6/1": ("relativistic sink:window=6,sink=1+flush", {"reaction": 4.0}),
            "a long name": (FIFO, {"reaction": 9}),
        },
    )
    second = run(
        tmp_path / "second",
        {"remember": "recall"},
        {"infinity-rope": ("infinity-rope", {"recall": 0.9}), "fifo": (FIFO, {"recall": 0.2})},
    )
    section = only([first, second])
    assert [row.name for row in section.rows] == ["infinity-rope", "fifo"]
    assert all(set(row.cells) == {"obey", "remember"} for row in section.rows)
    assert row_of(section, "fifo").cells["obey"].name == "a long name"


def test_one_name_for_two_compositions_is_told_apart(tmp_path: Path) -> None:
    first = run(tmp_path / "first", {"obey": "reaction"}, {"mine": (SINK, {"reaction": 4.0})})
    second = run(tmp_path / "second", {"remember": "recall"}, {"mine": (FIFO, {"recall": 0.9})})
    names = {row.name for row in only([first, second]).rows}
    assert names == {f"mine ({text})" for text in (SINK, FIFO)}


def test_where_no_prompt_changes_a_switch_is_none(tmp_path: Path) -> None:
    flush = SINK.replace("keep", "flush")
    first = run(
        tmp_path / "first", {"obey": "reaction"}, {"flush": (flush, {"reaction": 4.0}), "fifo": (FIFO, {"reaction": 9})}
    )
    values = {"keep": (SINK, {"tint:210": 0.5}), "fifo": (FIFO, {"tint:210": 0.9})}
    still = run(tmp_path / "still", {"identity": "tint:210"}, values, script=STILL)
    section = only([first, still])
    cell = row_of(section, "flush").cells["identity"]
    assert (cell.stands_in, cell.name, cell.mean) == (True, "keep", row_of(section, "keep").cells["identity"].mean)
    assert "obey" not in row_of(section, "keep").cells
    assert section.columns["identity"].tested == 1
    assert says(section, "identity").count("tint:210") == 1
    assert "1 other does the same there" in says(section, "identity")
    losing = {"flush": (flush, {"new": 0.1, "action": 0.1}), "fifo": (FIFO, {"new": 0.5, "action": 0.5})}
    more = run(tmp_path / "more", {"follow": "new", "cut": "action"}, losing)
    best = run(
        tmp_path / "best", {"long": "action"}, {"keep": (SINK, {"action": 0.9}), "fifo": (FIFO, {"action": 0.1})}
    )
    section = only([still, more, best])
    assert [row.name for row in section.rows] == ["fifo", "keep", "flush"]
    assert re.search(r": flush \(tint:210 [^)]*1 other does", says(section, "identity"))  # it has the most answers

    changes = run(tmp_path / "changes", {"identity": "tint:210"}, values)
    assert "identity" not in row_of(only([first, changes]), "flush").cells


def test_the_same_folder_twice_counts_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "first", {"obey": "reaction"}, {"fifo": (FIFO, {"reaction": 9.0})})
    assert len(read_runs([folder, tmp_path / "x" / ".." / "first", folder])) == 1


def test_of_two_runs_that_answer_a_use_the_larger_counts(tmp_path: Path) -> None:
    def make(name: str, recall: float, prompts: int, *more: str) -> Path:
        values = {text: (text, {"recall": recall}) for text in (FIFO, SINK, *more)}
        return run(tmp_path / name, {"remember": "recall"}, values, prompts=prompts)

    small, long, wide = make("small", 0.1, 12), make("long", 0.4, 24), make("wide", 0.7, 12, EMA)
    again = make("again", 0.9, 24)

    def answering(*folders: Path) -> str:
        return only(list(folders)).columns["remember"].run.suite

    assert answering(small, long) == "long"
    assert answering(small, long, wide) == "wide"
    assert answering(long, again) == "long"
    assert answering(again, long) == "again"
    note = next(note for note in only([small, long]).notes if "also answered" in note)
    assert "small" in note


def test_weights_and_devices_are_not_mixed(tmp_path: Path) -> None:
    values = {"fifo": (FIFO, {"recall": 0.1}), "sink": (SINK, {"recall": 0.9})}
    homes = {
        "default": {},
        "plain": {"backend": {**BACKEND, "options": {"model": "plain"}, "weights": "fedcba9876543210"}},
        "retrained": {"backend": {**BACKEND, "weights": "00000000"}},
        "gpu": {"backend": {**BACKEND, "device": "cuda"}, "machine": {**MACHINE, "gpu": "H100"}},
    }
    folders = [run(tmp_path / name, {"remember": "recall"}, values, **plan) for name, plan in homes.items()]
    again = run(
        tmp_path / "again", {"obey": "reaction"}, {"fifo": (FIFO, {"reaction": 9.0})}, machine={**MACHINE, "cores": 64}
    )
    made = sections([*folders, again])
    assert [len(section.runs) for section in made] == [2, 1, 1, 1]
    assert [section.title for section in made] == [
        "sprites, default weights, on cpu",
        "sprites, plain weights, on cpu",
        "sprites, default weights, on cpu",
        "sprites, default weights, on cuda",
    ]
    assert {record["weights"] for record in records_of(made)} == {"0123456789abcdef", "fedcba9876543210", "00000000"}


# Marks, and what cannot be told


def records_of(made: list[Section]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in as_jsonl(made).splitlines()]


def test_marks_are_against_one_baseline_in_every_column(tmp_path: Path) -> None:
    first = run(
        tmp_path / "first",
        {"remember": "recall"},
        {"sink": (SINK, {"recall": 0.9}), "fifo": (FIFO, {"recall": 0.2}), "memrope": (EMA, {"recall": 0.9})},
        baseline="fifo",
    )
    second = run(
        tmp_path / "second",
        {"obey": "reaction"},
        {"fifo": (FIFO, {"reaction": 9.0}), "memrope": (EMA, {"reaction": 9.5})},
        baseline="fifo",
    )
    third = run(
        tmp_path / "third",
        {"long": "action"},
        {"sink": (SINK, {"action": 0.5}), "x": ("longlive", {"action": 0.4})},
        baseline="x",
    )
    section = only([first, second, third])
    assert section.baseline.name == "fifo"  # as often there as sink and memrope, and the suites' own
    words = {row.name: {use: c.verdict.word for use, c in row.cells.items() if c.verdict} for row in section.rows}
    assert words == {
        "sink": {"remember": "better"},
        "memrope": {"remember": "better", "obey": "worse"},
        "fifo": {},
        "longlive": {},
    }
    assert "long: no marks, since fifo is not in third." in section.notes
    chosen = only([first, second, third], baseline="sink")
    assert row_of(chosen, "fifo").cells["remember"].verdict.word == "worse"  # type: ignore[union-attr]
    with pytest.raises(OutputError, match=r"no strategy 'nobody' to compare with. Use one of .*fifo"):
        sections([first, second], baseline="nobody")


def test_bold_is_unbeaten_where_anything_is_beaten(tmp_path: Path) -> None:
    means = {"sink": (SINK, 0.9), "memrope": (EMA, 0.9), "fifo": (FIFO, 0.2)}
    folder = run(tmp_path / "a", {"remember": "recall"}, {n: (text, {"recall": v}) for n, (text, v) in means.items()})
    assert {row.name for row in only([folder]).rows if row.cells["remember"].best} == {"sink", "memrope"}
    same = run(tmp_path / "b", {"remember": "recall"}, {n: (text, {"recall": 0.5}) for n, (text, _) in means.items()})
    assert not any(row.cells["remember"].best for row in only([same]).rows)


def test_verdicts_are_corrected_for_the_pairs_of_a_column(tmp_path: Path) -> None:
    """Of strategies that differ in nothing, of which some would be marked one by one, none is."""
    texts = [f"relativistic fifo:window={6 + 3 * n}+keep" for n in range(12)]
    marked, alone = 0, 0
    for seed in range(12):
        values = {text: (text, {"recall": 0.5}) for text in texts}
        folder = run(tmp_path / str(seed), {"remember": "recall"}, values, seed=seed, noise=0.5, exact=False)
        (read,) = read_runs([folder])
        column = column_of(read, "recall", {})
        assert column is not None
        assert column.tested == 66
        words = [verdict.word for pair, verdict in column.verdicts.items() if pair[0] < pair[1]]
        marked += "better" in words or "worse" in words
        names = list(read.strategies.values())
        alone += any(column.judge.compared(a, b).decided for a in names for b in names if a < b)
    assert alone > 6
    assert marked <= 2


def test_turning_a_verdict_twice_gives_it_back(tmp_path: Path) -> None:
    values = {"sink": (SINK, {"recall": 0.9}), "fifo": (FIFO, {"recall": 0.2})}
    column = column_of(*read_runs([run(tmp_path / "a", {"remember": "recall"}, values)]), "recall", {})
    assert column is not None
    (a, b) = column.means
    forth, back = column.verdicts[a, b], column.verdicts[b, a]
    assert (forth.word, back.word) == ("better", "worse")
    assert turned(back) == forth
    assert back.low <= back.difference <= back.high < 0


CONTROLS = {"oracle": {"control": "oracle"}, "amnesia": {"control": "amnesia"}, "truth": {"control": "truth"}}


def controlled(folder: Path, amnesia: float, **means: float) -> Path:
    values: dict[str, tuple[str | None, Mapping[str, float]]] = {
        "sink": (SINK, {"recall": means.get("sink", 0.9), "kv_mib": 2.0}),
        "memrope": (EMA, {"recall": means.get("memrope", 0.9), "kv_mib": 3.0}),
        "truth": (None, {"recall": 1.0}),
        "oracle": ("relativistic oracle:last=11+keep", {"recall": 0.9}),
        "amnesia": ("relativistic fifo:window=6+keep", {"recall": amnesia}),
        "theirs": (EMA, {"recall": means.get("swapped", 0.2)}),
    }
    roles = {**CONTROLS, "theirs": {"control": "swap", "of": "memrope"}}
    return run(folder, {"remember": "recall"}, values, controls=roles, noise=0.01)


def test_a_column_that_cannot_tell_says_so_everywhere(tmp_path: Path) -> None:
    blind = only([controlled(tmp_path / "blind", 0.9)])
    assert blind.columns["remember"].blind == "amnesia and oracle are equivalent"
    assert "remember: this model cannot tell (amnesia and oracle are equivalent)." in blind.notes
    assert says(blind, "remember").endswith("this model cannot tell (amnesia and oracle are equivalent).")
    assert all(row.front for row in blind.rows)  # or bytes alone would decide
    write_leaderboard([tmp_path / "blind"], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert '<span class="verdict cannot-tell">this model cannot tell</span>' in page
    told = [record["answers"]["remember"]["cannot_tell"] for record in records_of([blind])]
    assert set(told) == {"amnesia and oracle are equivalent"}

    seeing = only([controlled(tmp_path / "seeing", 0.2)])
    assert seeing.columns["remember"].blind == ""
    assert "cannot tell" not in says(seeing, "remember")
    assert not row_of(seeing, "memrope").front


def test_a_difference_that_is_seen_proves_itself(tmp_path: Path) -> None:
    section = only([controlled(tmp_path / "a", 0.9, sink=0.5)])
    assert section.columns["remember"].blind == ""
    assert says(section, "remember").startswith("For what goes out of sight and comes back: memrope (")


def test_controls_stand_apart_and_are_not_ranked(tmp_path: Path) -> None:
    section = only([controlled(tmp_path / "a", 0.2)])
    assert [row.name for row in section.rows] == ["sink", "memrope"]
    assert [(row.name, row.control) for row in section.references] == [
        ("truth", "truth"),
        ("oracle", "oracle"),
        ("amnesia", "amnesia"),
        ("memrope (swapped)", "swap"),
    ]
    compared = {row.name: row.cells["remember"] for row in section.references}
    assert (compared["amnesia"].against, compared["amnesia"].verdict.word) == ("oracle", "worse")  # type: ignore[union-attr]
    assert (compared["memrope (swapped)"].against, compared["truth"].verdict) == ("memrope", None)
    assert all(name not in says(section, "remember") for name in ("truth", "oracle", "amnesia", "swapped"))
    assert [record["front"] for record in records_of([section])] == [True, False, None, None, None, None]


# The front


def fronts(tmp_path: Path, *values: tuple[str, str, dict[str, float]], **answers: str) -> dict[str, tuple[str, ...]]:
    answers = answers or {"remember": "recall", "long": "action"}
    folder = run(tmp_path / "front", answers, {name: (text, means) for name, text, means in values}, noise=0.01)
    section = only([folder])
    assert all(row.front == (not row.dominated_by) for row in section.rows)
    return {row.name: row.dominated_by for row in section.rows}


def means(recall: float, kv: float, action: float = 0.5) -> dict[str, float]:
    return {"recall": recall, "action": action, "kv_mib": kv}


def test_cheaper_and_equivalent_or_better_dominates(tmp_path: Path) -> None:
    front = fronts(
        tmp_path,
        ("cheap", FIFO, means(0.9, 1.0)),
        ("equal, dearer", SINK, means(0.9, 2.0)),
        ("worse, dearer", "longlive", means(0.5, 2.0)),
        ("better, dearer", EMA, means(1.2, 3.0)),
    )
    assert front["cheap"] == front["memrope"] == ()
    assert front["equal, dearer"] == ("cheap",)
    assert set(front["longlive"]) == {"cheap", "equal, dearer"}


def test_better_at_the_same_price_dominates_and_equal_at_the_same_price_does_not(tmp_path: Path) -> None:
    front = fronts(
        tmp_path,
        ("a", FIFO, means(0.9, 2.0)),
        ("b", SINK, means(0.9, 2.01)),  # within one per cent
        ("c", "longlive", means(0.5, 2.0)),
    )
    assert (front["a"], front["b"], set(front["longlive"])) == ((), (), {"a", "b"})


def test_worse_in_one_use_does_not_dominate(tmp_path: Path) -> None:
    front = fronts(tmp_path, ("a", FIFO, means(0.9, 1.0, 0.5)), ("b", SINK, means(0.5, 2.0, 0.9)))
    assert front == {"a": (), "b": ()}


def test_what_is_not_certain_does_not_dominate(tmp_path: Path) -> None:
    values = {"a": (FIFO, means(0.9, 1.0)), "b": (SINK, means(0.9, 2.0))}
    loud = run(tmp_path / "loud", {"remember": "recall"}, values, noise=0.5)
    few = run(tmp_path / "few", {"remember": "recall"}, values, noise=0.001, prompts=9)
    for folder in (loud, few):
        assert all(row.front for row in only([folder]).rows)


def test_who_was_not_tried_where_another_was_does_not_dominate_it(tmp_path: Path) -> None:
    both = run(tmp_path / "both", {"remember": "recall"}, {"a": (FIFO, means(0.9, 1.0)), "b": (SINK, means(0.5, 2.0))})
    one = run(tmp_path / "one", {"long": "action"}, {"b": (SINK, means(0.5, 2.0))})
    assert not row_of(only([both]), "b").front
    assert row_of(only([both, one]), "b").front
    other = run(tmp_path / "other", {"long": "action"}, {"a": (FIFO, means(0.5, 1.0)), "c": (EMA, means(0.2, 1.0))})
    assert not row_of(only([both, other]), "b").front


def test_without_known_bytes_nobody_dominates(tmp_path: Path) -> None:
    values = {"a": (FIFO, {"recall": 0.9, "kv_mib": 1.0}), "b": (SINK, {"recall": 0.5})}
    section = only([run(tmp_path / "a", {"remember": "recall"}, values)])
    assert all(row.front for row in section.rows)
    assert "KV not measured" not in says(section, "remember")
    assert row_of(section, "b").costs == {}


# Costs


def test_bytes_are_the_most_and_times_those_of_one_run(tmp_path: Path) -> None:
    cost = {"seconds_per_frame": 0.01, "forwards": 5.0, "kv_mib": 2.0}
    still = run(
        tmp_path / "still",
        {"identity": "tint:210"},
        {n: (text, {"tint:210": 0.1, **cost}) for n, text in (("sink", SINK), ("fifo", FIFO), ("memrope", EMA))},
        script=STILL,
    )
    recache = {"reaction": 4.0, "seconds_per_frame": 0.02, "forwards": 5.5, "kv_mib": 1.5}
    change = run(tmp_path / "change", {"obey": "reaction"}, {"sink": (SINK, recache), "fifo": (FIFO, recache)})
    section = only([still, change])
    costs = {kind: cost.value.mean for kind, cost in row_of(section, "sink").costs.items()}
    assert costs == pytest.approx({"kv": 2.0, "ms": 60.0, "passes": 5.5})
    assert row_of(section, "memrope").costs["ms"].run.suite == "still"
    write_leaderboard([still, change], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Times and passes are those of change, but <sup>a</sup> of still" in page
    assert '<span class="mean" title="still">30.0<sup>a</sup></span>' in page


@pytest.mark.parametrize("workers", [1, 2])
def test_times_under_load_are_said_to_be_so(tmp_path: Path, workers: int) -> None:
    values = {"fifo": (FIFO, {"recall": 0.1, "seconds_per_frame": 0.01})}
    folder = run(tmp_path / "a", {"remember": "recall"}, values, workers=workers)
    write_leaderboard([folder], tmp_path / "out")
    assert ("under load" in (tmp_path / "out" / "index.html").read_text()) == (workers == 2)


# What it says


def test_the_best_are_named_cheapest_first(tmp_path: Path) -> None:
    values = {
        "dear": (SINK, {"recall": 0.9, "kv_mib": 3.0}),
        "cheap": (FIFO, {"recall": 0.9, "kv_mib": 1.25}),
        "bad": ("longlive", {"recall": 0.2, "kv_mib": 0.5}),
    }
    line = says(only([run(tmp_path / "a", {"remember": "recall"}, values)]), "remember")
    begin = "For what goes out of sight and comes back (2 that are not told apart, cheapest first): cheap (recall 0.9"
    assert line.startswith(begin)
    assert re.search(
        r"cheap \(recall [\d.]+ \[[\d.]+, [\d.]+\]; KV 1.25 MiB\), dear \(recall .*; KV 3.00 MiB\)\.$", line
    )
    values["best"] = (EMA, {"recall": 1.5, "kv_mib": 9.0})
    line = says(only([run(tmp_path / "b", {"remember": "recall"}, values)]), "remember")
    assert line.startswith("For what goes out of sight and comes back: memrope (recall 1.5")


def test_a_subject_that_must_stay_is_asked_for_where_it_is_measured(tmp_path: Path) -> None:
    values = {
        "soonest": (SINK, {"reaction": 3.0, "identity": 0.2}),
        "soon": (FIFO, {"reaction": 5.0, "identity": 0.95}),
        "late": (EMA, {"reaction": 9.0, "identity": 0.96}),
    }
    kept = says(only([run(tmp_path / "a", {"obey": "reaction"}, values)]), "obey")
    assert kept.startswith("For prompt changes with a subject that must stay: soon (reaction 5.")
    assert "identity 0.9" in kept
    unseen = {name: (text, {"reaction": means["reaction"]}) for name, (text, means) in values.items()}
    assert says(only([run(tmp_path / "b", {"obey": "reaction"}, unseen)]), "obey").startswith(
        "For prompt changes: soonest ("
    )


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    values = {"a": (FIFO, {"recall": 0.9}), "b": (SINK, {"recall": 0.1})}
    few = only([run(tmp_path / "few", {"remember": "recall"}, values, prompts=9)])
    assert "(too few prompts to say which: 9, and 10 are the least): " in says(few, "remember")
    assert "remember: nothing is marked (9 prompts, and 10 are the least)." in few.notes
    assert says(few, "cut") == "For cuts to another scene: not measured by these runs."
    assert "No run answers obey, follow, identity, cut and long." in few.notes
    alone = only([run(tmp_path / "alone", {"remember": "recall"}, {"a": (FIFO, {"recall": 0.9})})])
    assert "(nothing else was run): a (recall 0.9" in says(alone, "remember")
    assert "KV not measured" in says(alone, "remember")
    values["c"] = ("longlive", {"recall": 0.12})
    close = only([run(tmp_path / "c", {"remember": "recall"}, {n: values[n] for n in "bc"}, noise=0.2)])
    assert "cannot tell" in says(close, "remember")


def test_strategies_that_change_along_the_axis_are_left_out(tmp_path: Path) -> None:
    values = {"a": (FIFO, {"recall": 0.9}), "b": (SINK, {"recall": 0.1})}
    folder = run(tmp_path / "a", {"remember": "recall"}, values)
    plan = json.loads((folder / "plan.json").read_text())
    plan["axis"] = {"name": "window", "values": [6], "scripts": [plan["scripts"]]}
    plan["strategies"]["b"]["specs"] = [plan["strategies"]["b"]["spec"]]
    (folder / "plan.json").write_text(json.dumps(plan))
    section = only([folder])
    assert [row.name for row in section.rows] == ["a"]
    assert "b of a left out: another composition at each value of window." in section.notes


# Files


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Several runs, and their leaderboard."""
    home = tmp_path_factory.mktemp("board")
    cost = {"kv_mib": 2.0, "seconds_per_frame": 0.02, "forwards": 5.0}
    nasty = "<b>a&b</b> 50% #1_x [y] {z} \\ ~ ^ $"
    first = run(
        home / "first",
        {"obey": "reaction"},
        {nasty: (FIFO, {"reaction": 9.0, **cost}), "memrope": (EMA, {"reaction": 5.0, **cost, "kv_mib": 3.0})},
    )
    second = controlled(home / "second", 0.2)
    return [first, second], write_and(home / "out", [first, second])


def write_and(out: Path, folders: list[Path]) -> Path:
    write_leaderboard(folders, out)
    return out


def test_csv_and_jsonl_hold_the_same_numbers(board: tuple[list[Path], Path]) -> None:
    _, out = board
    lines = list(csv.DictReader(StringIO((out / "leaderboard.csv").read_text())))
    objects = [json.loads(line) for line in (out / "leaderboard.jsonl").read_text().splitlines()]
    assert [line["strategy"] for line in lines] == [record["strategy"] for record in objects]
    assert len(lines) == 3 + 4
    numbers = 0
    for line, record in zip(lines, objects, strict=True):
        for use in USES:
            answer = record["answers"].get(use, {})
            for part in ("mean", "low", "high", "n", "verdict", "metric", "suite"):
                known = answer.get(part)
                assert line[f"{use}_{part}"] == ("" if known is None else str(known))
                numbers += known is not None
        for kind, name in (("kv", "mean"), ("ms", "mean"), ("passes", "mean")):
            known = record["costs"].get(kind, {}).get(name)
            assert line[f"{kind}_{name}"] == ("" if known is None else str(known))
    assert numbers > 30


def test_latex_and_page_round_these_numbers(board: tuple[list[Path], Path]) -> None:
    _, out = board
    latex, page = (out / "leaderboard.tex").read_text(), (out / "index.html").read_text()
    objects = [json.loads(line) for line in (out / "leaderboard.jsonl").read_text().splitlines()]
    for record in objects:
        for answer in record["answers"].values():
            for text in (latex, page):
                spans = re.findall(r"\[([\d.]+), ([\d.]+)\]", text)
                assert any(
                    round(answer["low"], len(low.partition(".")[2])) == float(low)
                    and round(answer["high"], len(high.partition(".")[2])) == float(high)
                    for low, high in spans
                )
    rows = latex.split(r"\midrule")[1].split(r"\\")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    assert all(len(re.findall(r"(?<!\\)&", row)) == 5 for row in rows[:-1])
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in latex


def test_names_are_text_on_the_page_and_in_latex(board: tuple[list[Path], Path]) -> None:
    _, out = board
    page = (out / "index.html").read_text()
    assert "<b>a&b" not in page
    assert "&lt;b&gt;a&amp;b" in page
    latex = (out / "leaderboard.tex").read_text()
    name = r"\textless{}b\textgreater{}a\&b\textless{}/b\textgreater{} 50\% \#1\_x {[}y{]} \{z\} \textbackslash{} "
    assert name + r"\textasciitilde{} \textasciicircum{} \$" in latex
    assert escape("a\n% b") == r"a \% b"


def test_the_page_asks_for_nothing(board: tuple[list[Path], Path]) -> None:
    _, out = board
    page = (out / "index.html").read_text().replace(str(vega()), "")  # which asks only where a chart's data says so
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)|url\((?!#)|@import|fetch\(|XMLHttpRequest""", page)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES.values())


def test_an_unfinished_run_is_shown_with_a_warning(tmp_path: Path, board: tuple[list[Path], Path]) -> None:
    folder = controlled(tmp_path / "part", 0.2)
    lacking = next(iter((folder / "cells").iterdir()))
    (lacking / "DONE").unlink()
    (section,) = write_leaderboard([folder], tmp_path / "out")
    says_so = "part has 95 of 96 rollouts"
    for name in FILES.values():
        assert says_so in (tmp_path / "out" / name).read_text()
        assert says_so not in (board[1] / name).read_text()
    assert len(section.rows) == 2
    for cell in (folder / "cells").iterdir():
        (cell / "DONE").unlink(missing_ok=True)
    with pytest.raises(OutputError, match=r"part has no finished cell. Run the suite first"):
        write_leaderboard([folder], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_runs_that_answer_nothing_are_refused_or_only_cost(tmp_path: Path) -> None:
    mute = run(tmp_path / "mute", {}, {"fifo": (FIFO, {"recall": 0.9, "kv_mib": 7.0})})
    with pytest.raises(OutputError, match=r"no run answers a use: mute. Give their suites a table \[answers\]"):
        sections([mute])
    with pytest.raises(OutputError, match="no runs to rank"):
        sections([])
    other = run(tmp_path / "other", {"remember": "recall"}, {"fifo": (FIFO, {"recall": 0.9})})
    section = only([mute, other])
    assert row_of(section, "fifo").costs["kv"].value.mean == 7.0
    assert any(note.startswith("mute answers no use") for note in section.notes)
    plan = json.loads((mute / "plan.json").read_text())
    del plan["answers"]  # as runs of an older rollout have it
    (mute / "plan.json").write_text(json.dumps(plan))
    assert only([mute, other]).columns.keys() == {"remember"}


def test_a_metric_without_a_value_is_no_column(tmp_path: Path) -> None:
    values = {
        "fifo": (FIFO, {"recall": float("nan"), "action": 0.5}),
        "sink": (SINK, {"recall": float("nan"), "action": 0.4}),
    }
    folder = run(tmp_path / "a", {"remember": "recall", "long": "action", "cut": "gone"}, values)
    assert only([folder]).columns.keys() == {"long"}
    with pytest.raises(OutputError, match="have no value of the metrics that answer a use"):
        sections([run(tmp_path / "b", {"remember": "recall"}, values)])


def test_all_is_written_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "a", {"remember": "recall"}, {"fifo": (FIFO, {"recall": 0.9})})
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_leaderboard([folder], out)
    write_leaderboard([folder], out, force=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {*FILES.values(), "mine.txt"}

    def full(path: Path, text: str) -> None:
        if path.suffix == ".jsonl":
            raise OutputError("the disk is full.")
        path.write_text(text)

    more = run(tmp_path / "b", {"long": "action"}, {"fifo": (FIFO, {"action": 0.9})})
    with monkeypatch.context() as patch:
        patch.setattr("rollout.benchmarks.leaderboard.write_text", full)
        with pytest.raises(OutputError, match="full"):
            write_leaderboard([folder, more], out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    write_leaderboard([more], out, formats=["csv"], force=True)
    assert {path.name for path in out.iterdir()} == {"leaderboard.csv", "mine.txt"}


def test_the_table_of_one_model_is_the_same_again(board: tuple[list[Path], Path], tmp_path: Path) -> None:
    folders, out = board
    write_leaderboard(folders, tmp_path / "again")
    for name in FILES.values():
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert as_csv(sections(folders)) == (out / "leaderboard.csv").read_text()


# The command


def test_the_command_says_the_lines_and_the_files(board: tuple[list[Path], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "leaderboard", *map(str, board[0]), "--out", str(out), "--format", "csv, jsonl"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "sprites, default weights, on cpu; marks are against memrope"
    assert sum(line.startswith("  For ") for line in lines) == len(USES)
    assert [Path(line).name for line in lines[-2:]] == ["leaderboard.csv", "leaderboard.jsonl"]
    assert {path.name for path in out.iterdir()} == {"leaderboard.csv", "leaderboard.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--format", "docx"], "no format 'docx'. Use any of html, csv, jsonl, latex"),
        (["--format", ""], "Use any of html"),
        (["--baseline", "nobody"], "no strategy 'nobody'"),
    ],
)
def test_bad_words_are_refused_and_nothing_is_written(
    board: tuple[list[Path], Path], tmp_path: Path, arguments: list[str], why: str
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", "leaderboard", *map(str, board[0]), "--out", str(out), *arguments])
    assert isinstance(result.exception, RolloutError)
    assert why in str(result.exception)
    assert not out.exists()


def test_no_runs_and_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "leaderboard", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["bench", "leaderboard", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "is not the folder of a benchmark run" in str(result.exception)
    assert not (tmp_path / "out").exists()


# In a browser


@pytest.fixture
def opened(browser: Any, board: tuple[list[Path], Path]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="light")
    page = context.new_page()
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((board[1] / "index.html").as_uri())
    yield page
    context.close()


def test_in_a_browser_it_fits_a_phone_and_a_desk_in_light_and_dark(opened: Any) -> None:
    grounds = set()
    for width in (360, 1280):
        opened.set_viewport_size({"width": width, "height": 740})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            grounds.add(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    assert opened.problems == []
    assert len(opened.asked) == 1
    opened.wait_for_function("document.querySelectorAll('[data-spec] svg').length === 2")
    assert opened.locator(".lines > li").count() == len(USES)
