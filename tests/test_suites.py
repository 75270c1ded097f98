"""Suite files: what they say, what is refused and where, which scripts they draw, which cells they plan."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.benchmarks.cell import places
from rollout.benchmarks.suites.draws import draws
from rollout.benchmarks.suites.lines import line_of
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.suites.suite import shipped
from rollout.errors import SuiteError
from rollout.registry import names

GOOD = """name = "little"
scripts = ["a {colour} circle jumps[1.5s]"]
draw = 2
prefix = 2
metrics = ["action", "position:6"]
baseline = "short"
primary = "action"

[fill]
colour = ["red", "blue"]

[strategies]
short = "relativistic sink+keep"
long = "relativistic sink:window=12+keep"
published = "memrope"

[[claims]]
says = "longer is better"
source = "nobody"
better = "long"
than = "short"
metric = "action"
"""


def write(path: Path, text: str) -> str:
    file = path / "suite.toml"
    file.write_text(text)
    return str(file)


def test_a_suite_says_what_it_compares(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    assert list(suite.strategies) == ["short", "long", "published"]
    assert suite.strategies["published"].policy.kind == "ema"
    assert sorted(suite.scripts) == ["a blue circle jumps[1.5s]", "a red circle jumps[1.5s]"]
    assert suite.cells == 6
    assert suite.claims[0].better == "long"


@pytest.mark.parametrize("name", shipped())
def test_shipped_suites_are_valid(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.about


def test_the_long_horizon_runs_every_preset() -> None:
    texts = load_suite("long-horizon", metrics=False).strategies
    assert set(names("presets")) <= set(texts)


BAD = {
    "unknown key": ("drow = 2\n", "draw = 2\n", 3, "Did you mean 'draw'?"),
    "wrong type": ("draw = 'two'\n", "draw = 2\n", 3, "'draw' is a whole number"),
    "a bool is no number": ("draw = true\n", "draw = 2\n", 3, "whole number"),
    "negative": ("prefix = -1\n", "prefix = 2\n", 4, "Use 0 to 1000"),
    "not TOML": ("draw = = 2\n", "draw = 2\n", 3, "not valid TOML"),
    "unknown metric": (
        'metrics = ["action", "positron"]',
        'metrics = ["action", "position:6"]',
        5,
        "Did you mean 'position'?",
    ),
    "unknown extractor": ('["action", "drift@pool9"]', '["action", "position:6"]', 5, "pool8, dino-vitb16"),
    "no metrics": ("metrics = []", 'metrics = ["action", "position:6"]', 7, "primary"),
    "metrics that are no texts": ("metrics = [1]", 'metrics = ["action", "position:6"]', 5, "list of texts"),
    "unknown baseline": ('baseline = "tall"', 'baseline = "short"', 6, "short, long, published"),
    "unknown primary": ('primary = "colour"', 'primary = "action"', 7, "none of the metrics"),
    "bad prompt": ("a {colour} circle flies[1.5s]", "a {colour} circle jumps[1.5s]", 2, "flies"),
    "bad script": ("a {colour} circle jumps[1.5s", "a {colour} circle jumps[1.5s]", 2, "never closed"),
    "unfilled": ("a {color} circle jumps[1.5s]", "a {colour} circle jumps[1.5s]", 2, "Add color = [...]"),
    "too few values": ("a {colour.3} circle jumps[1.5s]", "a {colour} circle jumps[1.5s]", 2, "needs 3 different"),
    "impossible composition": (
        '"absolute ema+keep"',
        '"relativistic sink:window=12+keep"',
        14,
        "Use positions='online'",
    ),
    "unknown part": ('"relativistic sank+keep"', '"relativistic sink:window=12+keep"', 14, "Did you mean 'sink'?"),
    "no strategy": ('"sink"', '"relativistic sink:window=12+keep"', 14, "'long'"),
    "strategy is no text": ("long = 3", 'long = "relativistic sink:window=12+keep"', 14, "a preset or"),
    "beyond the table": ("jumps[500s]", "jumps[1.5s]", 1, "position table"),
    "unknown claim key": ('batter = "long"', 'better = "long"', 20, "Did you mean 'better'?"),
    "claim of nobody": ('than = "tall"', 'than = "short"', 21, "none of the strategies"),
    "unknown backend": ('backend = "spites"\nmetrics', "metrics", 5, "sprites"),
    "seeds twice": ("seeds = [1, 1]\nmetrics", "metrics", 5, "different numbers"),
    "a name that leaves the folder": ('name = "../../mine"', 'name = "little"', 1, "no folder's"),
    "no seeds": ("seeds = 0\nmetrics", "metrics", 5, "how many"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_suites_are_refused_with_the_line_and_the_fix(tmp_path: Path, case: str) -> None:
    new, old, line, fix = BAD[case]
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if case == "beyond the table":
        text = text.replace('short = "relativistic sink+keep"', 'short = "absolute sink+keep"')
        line = 13
    file = write(tmp_path, text)
    with pytest.raises(SuiteError) as refused:
        load_suite(file)
    assert str(refused.value).startswith(f"{file}:{line}: "), str(refused.value)
    assert fix in str(refused.value)
    assert "\n" not in str(refused.value)


GRID = GOOD.split("[strategies]")[0].replace('baseline = "short"\n', "") + "[grid]\n"


@pytest.mark.parametrize(
    ("grid", "line", "fix"),
    [
        ("positions = []\npolicy = ['sink']\nswitch = ['keep']\n", 12, "Add positions = [...]"),
        ("policy = ['sink']\nswitch = ['keep']\n", 11, "Add positions = [...]"),
        (
            "positions = ['absolute']\npolicy = ['ema']\nswitch = ['keep']\n",
            11,
            "no combination of the grid is possible",
        ),
        ("position = ['absolute']\n", 12, "Did you mean 'positions'?"),
        ("positions = ['absolute']\npolicy = ['sink:window=two']\nswitch = ['keep']\n", 13, "whole number"),
    ],
)
def test_bad_grids_are_refused(tmp_path: Path, grid: str, line: int, fix: str) -> None:
    with pytest.raises(SuiteError, match=r"suite\.toml") as refused:
        load_suite(write(tmp_path, GRID + grid))
    assert f":{line}: " in str(refused.value)
    assert fix in str(refused.value)


def test_a_grid_is_every_valid_combination(tmp_path: Path) -> None:
    grid = "positions = ['absolute', 'online']\npolicy = ['fifo', 'ema']\nswitch = ['keep', 'flush']\n"
    suite = load_suite(write(tmp_path, GRID + grid))
    assert len(suite.strategies) == 6
    assert len(suite.skipped) == 2


def test_an_empty_suite_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="nothing to compare"):
        load_suite(write(tmp_path, GOOD.split("[strategies]")[0]))
    with pytest.raises(SuiteError, match="Did you mean 'smoke'"):
        load_suite("smke")
    with pytest.raises(SuiteError, match="is not a file"):
        load_suite("nowhere/smoke.toml")


@given(st.integers(2, 5), st.integers(1, 2), st.integers(1, 4))
def test_draws_take_every_value_equally_often(values: int, k: int, rounds: int) -> None:
    fill = {"x": tuple(f"v{i}" for i in range(values))}
    template = "{x}" if k == 1 else "{x} {x.2}"
    per_round = values if k == 1 else values * (values - 1)
    found = Counter(draws((template,), fill, rounds * per_round))
    assert set(found.values()) == {rounds}
    assert len(found) == per_round
    assert list(draws((template,), fill, 3)) == list(draws((template,), fill, 3))


def test_lines_are_found() -> None:
    text = "a = 1\n\n[grid]\npositions = [\n 'x',\n]\n[[claims]]\nsays = 1\n"
    assert line_of(text, "a") == 1
    assert line_of(text, "grid", "positions") == 4
    assert line_of(text, "claims", "says") == 8
    assert line_of(text, "claims", "missing") == 7
    assert line_of(text, "missing") == 1


def test_a_cells_address_is_all_that_its_video_depends_on(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    first = {p.cell.address for p in places(suite)}
    assert len(first) == suite.cells
    assert {p.cell.address for p in places(suite)} == first
    assert {p.cell.address for p in places(replace(suite, metrics=("colour",), about="other", name="x"))} == first
    for change in ({"prefix": 0}, {"steps": 2}, {"scripts": ("a red circle spins[1.5s]", "a cyan square jumps[1.5s]")}):
        assert not first & {p.cell.address for p in places(replace(suite, **change))}
    assert not first & {p.cell.address for p in places(suite, device="cuda:1")}
    longer = load_suite(write(tmp_path, GOOD.replace("window=12", "window=15")))
    assert len(first & {p.cell.address for p in places(longer)}) == 4


def test_every_strategy_sees_the_same_prompts_and_seeds(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD.replace("prefix", "seeds = [3, 5]\nprefix", 1)))
    seen: dict[str, list[tuple[str, int]]] = {}
    for place in places(suite):
        seen.setdefault(place.strategy, []).append((place.cell.script, place.cell.seed))
    assert len({tuple(pairs) for pairs in seen.values()}) == 1
    pairs = next(iter(seen.values()))
    assert len({seed for _, seed in pairs}) == len(pairs)
