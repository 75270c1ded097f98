"""Suite files: what they say, what is refused and where, which scripts they draw, which cells they plan."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.backends import BACKENDS, Entry
from rollout.backends.sprites.grammar import parse
from rollout.benchmarks.cell import places
from rollout.benchmarks.metrics.events import REACT
from rollout.benchmarks.results import section
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.suites.axis import in_seconds
from rollout.benchmarks.suites.draws import draws
from rollout.benchmarks.suites.lines import line_of
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.suites.suite import SPACING, Axis, shipped
from rollout.benchmarks.summary import summarise
from rollout.errors import SuiteError
from rollout.registry import find, names
from rollout.script import Script
from rollout.timeline import blocks_of
from tests.finished_run import write_run

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


def test_a_suite_may_come_from_windows(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(("\ufeff" + GOOD).replace("\n", "\r\n").encode())
    assert load_suite(str(file)).scripts == load_suite(write(tmp_path, GOOD)).scripts


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


COMPARING = [name for name in shipped() if not name.startswith("model-")]
"""Suites that compare strategies; the others say how good the model is."""


@pytest.mark.parametrize("name", COMPARING)
def test_every_comparison_has_controls_and_prompts_for_a_mark(name: str) -> None:
    suite = load_suite(name, metrics=False)
    roles = Counter(arm.control for arm in suite.controls.values())
    assert {"truth", "oracle", "amnesia"} <= set(roles)
    assert roles["swap"] or not suite.marks
    assert len(suite.scripts) >= LEAST or name == "smoke"
    assert all(claim.source for claim in suite.claims)
    assert suite.claims or not suite.marks or name in ("smoke", "head")
    assert suite.fixed == (name == "action-control")


def test_the_suites_fit_their_budgets() -> None:
    """Latent frames, about 68 a second on one core: all suites in 83 minutes, the two long ones in 15, no other in over 10."""
    frames = {name: load_suite(name, metrics=False).frames for name in shipped()}
    long = {"recall", "long-horizon"}
    assert max(frames[name] for name in long) < 60_000
    assert frames["smoke"] < 2_000
    assert max(n for name, n in frames.items() if name not in long) < 40_000
    assert sum(frames.values()) < 340_000


@pytest.mark.parametrize("name", [n for n in COMPARING if "reaction" in load_suite(n, metrics=False).metrics])
def test_a_reaction_is_watched_for_fifteen_windows(name: str) -> None:
    """A change that is followed by another, or by a cut or the end, within 15 + 7 frames has no reaction."""
    suite, spec = load_suite(name, metrics=False), find("backends", "sprites").spec()
    for script in suite.scripts:
        blocks = list(blocks_of(Script.parse(script), spec, first=suite.prefix))
        prompts = [parse(prompt).action for prompt in Script.parse(script).prompts]
        change = next(b.start for a, b in pairwise(blocks) if prompts[a.prompt] != prompts[b.prompt])
        ends = [b.start for b in blocks if b.cut and b.start > change] + [blocks[-1].end]
        assert min(ends) - change >= REACT + 7


def test_a_suite_without_marks_compares_nothing(tmp_path: Path) -> None:
    assert not load_suite("grid", metrics=False).marks
    text = GOOD.replace("draw = 2", "draw = 2\nmarks = false")
    with pytest.raises(SuiteError, match="Leave claims out"):
        load_suite(write(tmp_path, text))
    scores = {name: {"x": np.full((12, 1), float(n))} for n, name in enumerate(("base", "more"))}
    found = summarise(write_run(tmp_path / "run", scores, marks=False)).to_dict()
    assert found["metrics"]["x"]["pairs"] == []
    assert "Nothing is marked: the suite is for a look" in section(tmp_path / "run")


def test_every_preset_runs_in_the_suite_of_systems() -> None:
    texts = set(load_suite("long-horizon", metrics=False).strategies)
    # causal-forcing is self-forcing with other blocks and steps, which a suite does not vary
    assert set(names("presets")) - {"causal-forcing"} <= texts


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
    "unknown extractor": ('["action", "drift@pool9"]', '["action", "position:6"]', 5, "pool8, lite0"),
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
    "fixed is yes or no": ("fixed = 1\nmetrics", "metrics", 5, "'fixed' is true or false"),
    "an axis that is none": ("[axis]\n\n[fill]", "[fill]", 9, "[axis] is empty"),
    "two axes": ("[axis]\na = [1]\nb = [2]\n\n[fill]", "[fill]", 9, "[axis] has a, b"),
    "an empty axis": ("[axis]\ndelay = []\n\n[fill]", "[fill]", 10, "the axis 'delay' is empty"),
    "an axis that is no list": ("[axis]\ndelay = 3\n\n[fill]", "[fill]", 10, "a list of numbers, not 3"),
    "an axis of words": ("[axis]\ndelay = [3, 'six']\n\n[fill]", "[fill]", 10, "'six', which is no finite number"),
    "an axis of truths": ("[axis]\ndelay = [true]\n\n[fill]", "[fill]", 10, "no finite number"),
    "an infinite axis": ("[axis]\ndelay = [3, inf]\n\n[fill]", "[fill]", 10, "no finite number"),
    "an axis twice": ("[axis]\ndelay = [3, 6, 3.0]\n\n[fill]", "[fill]", 10, "has 3.0 twice"),
    "an axis that is filled in": ("[axis]\ncolour = [3]\n\n[fill]", "[fill]", 10, "a list of [fill]"),
    "an axis of no use": ("[axis]\ndelay = [3]\n\n[fill]", "[fill]", 10, "nothing has {delay} in it"),
    "a hole without an axis": (
        '"relativistic sink:window={window}+keep"',
        '"relativistic sink:window=12+keep"',
        14,
        "there is no [axis]. Add window = [...]",
    ),
    "frames that are no block": (
        "jumps[4f]",
        "jumps[1.5s]",
        2,
        "[4f] is no whole number of blocks of 3 frames. Use [3f], [6f]",
    ),
    "no frames": ("jumps[0f]", "jumps[1.5s]", 2, "Use [3f]"),
    "at without an axis": ('metric = "action"\nat = 3', 'metric = "action"', 23, "which has no [axis]"),
    "unknown control": ("[controls]\ntruht = true\n\n[[claims]]", "[[claims]]", 18, "Did you mean 'truth'?"),
    "truth is yes or no": ("[controls]\ntruth = 'yes'\n\n[[claims]]", "[[claims]]", 18, "truth is true or false"),
    "an oracle that knows nothing": (
        "[controls]\noracle = 'relativistic oracle:first=4,last=2+keep'\n\n[[claims]]",
        "[[claims]]",
        18,
        "control 'oracle': oracle: the frames 4 to 2 are none",
    ),
    "an oracle that does not fit": (
        "[controls]\noracle = 'online oracle:window=24+keep'\n\n[[claims]]",
        "[[claims]]",
        18,
        "control 'oracle': positions 'online'",
    ),
    "amnesia is no text": (
        "[controls]\namnesia = true\n\n[[claims]]",
        "[[claims]]",
        18,
        "the control 'amnesia' is a text",
    ),
    "swap of nobody": ("[controls]\nswap = ['tall']\n\n[[claims]]", "[[claims]]", 18, "short, long, published"),
    "swap is a list": ("[controls]\nswap = 'short'\n\n[[claims]]", "[[claims]]", 18, "'swap' is a list of texts"),
    "a strategy called truth": (
        "truth = 'memrope'\n[controls]\ntruth = true\n\n[[claims]]",
        "\n[[claims]]",
        17,
        "is the name of a control, and a strategy's",
    ),
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


AXIS = GOOD.replace("jumps[1.5s]", "jumps[6f] | a {colour} circle spins[{delay}f#]").replace(
    "[fill]", "[axis]\ndelay = [3, 12, 6]\n\n[fill]"
)
CONTROLS = """[controls]
truth = true
oracle = "relativistic oracle:window=21,first=0,last=5+keep"
amnesia = "relativistic fifo:window=6+keep"
swap = ["short", "published"]

[[claims]]"""


def test_an_axis_fills_scripts_and_strategies_value_by_value(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, AXIS.replace("window=12", "window={delay}").replace("3, 12", "9, 12")))
    assert suite.axis == Axis("delay", (9, 12, 6))
    assert [level.value for level in suite.along] == [9, 12, 6]
    assert [level.arms["long"].strategy.policy.window for level in suite.along] == [9, 12, 6]
    assert len({str(level.arms["short"].strategy) for level in suite.along}) == 1
    for level, seconds in zip(suite.along, ("1.125", "1.5", "0.75"), strict=True):
        assert sorted(level.scripts) == [
            f"a {colour} circle jumps[0.75s] | a {colour} circle spins[{seconds}s#]" for colour in ("blue", "red")
        ]
    first = [script.split()[1] for script in suite.scripts]
    assert all([script.split()[1] for script in level.scripts] == first for level in suite.along)
    assert suite.cells == 3 * 2 * 3
    seen = list(places(suite))
    assert [place.axis for place in seen[:6]] == [0, 0, 0, 1, 1, 1]
    assert len({place.cell.address for place in seen}) == suite.cells - 2, "long is short at 6"
    assert {place.axis for place in places(load_suite(write(tmp_path, GOOD)))} == {None}


def test_what_the_axis_does_not_touch_is_rolled_out_once(tmp_path: Path) -> None:
    text = GOOD.replace("window=12", "window={window}").replace("[fill]", "[axis]\nwindow = [9, 12]\n\n[fill]")
    suite = load_suite(write(tmp_path, text))
    addresses = {name: {p.cell.address for p in places(suite) if p.strategy == name} for name in suite.strategies}
    assert {name: len(found) for name, found in addresses.items()} == {"short": 2, "long": 4, "published": 2}
    assert suite.frames == (2 + 4 + 2) * 12


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("delay = [3, 12, 6]", "delay = [3, 7]", 2, r"at delay = 7: \[7f\] is no whole number of blocks"),
        ("delay = [3, 12, 6]", "delay = [-3]", 2, r"\[-3f#\] is no duration"),
        ("window=12", "window={delay}", 17, r"at delay = 3: window 3"),
        ("window=12", "window={other}", 17, r"has \{other\}, and \[axis\] has delay"),
        ('metric = "action"\n', 'metric = "action"\nat = 5\n', 26, "whose delay is 3, 12, 6"),
        ('metric = "action"\n', 'metric = "action"\nat = true\n', 26, "Name one of its values"),
    ],
)
def test_what_does_not_fit_an_axis_is_refused(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in AXIS
    file = write(tmp_path, AXIS.replace(old, new, 1))
    with pytest.raises(SuiteError, match=says) as refused:
        load_suite(file)
    assert str(refused.value).startswith(f"{file}:{line}: "), str(refused.value)


def test_a_claim_may_be_made_at_a_value_of_the_axis(tmp_path: Path) -> None:
    second = GOOD[GOOD.index("[[claims]]") :].replace("says", "at = 12\nsays")
    suite = load_suite(write(tmp_path, AXIS + second))
    assert [claim.at for claim in suite.claims] == [None, 12]
    wrong = write(tmp_path, AXIS + second.replace("at = 12", "at = 13"))
    with pytest.raises(SuiteError, match=r"suite\.toml:27: "):  # the second claim's own line
        load_suite(wrong)


@given(st.integers(1, 400), st.sampled_from(["sprites", "wan"]))
def test_frames_are_seconds_of_whole_blocks(blocks: int, backend: str) -> None:
    spec = find("backends", backend).spec()
    script = in_seconds(f"a\\; \\[5f\\][{3 * blocks}f] | b[ 6f # ] ; \\[9f\\]", spec)
    assert script.endswith("; \\[9f\\]"), "a subtitle is no duration"
    first, second = Script.parse(script).shots
    assert first.prompt == "a; [5f]"
    assert (first.blocks(spec), second.blocks(spec), second.cut) == (blocks, 2, True)


def test_controls_are_rolled_out_like_strategies(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD.replace("[[claims]]", CONTROLS)))
    assert list(suite.strategies) == ["short", "long", "published"]
    names = ["truth", "oracle", "amnesia", "short (swapped)", "published (swapped)"]
    assert list(suite.controls) == names
    assert [arm.control for arm in suite.controls.values()] == ["truth", "oracle", "amnesia", "swap", "swap"]
    assert suite.controls["published (swapped)"].of == "published"
    assert suite.cells == 8 * 2
    cells = {p.strategy: p.cell for p in places(suite) if p.prompt == 0}
    truth = cells["truth"]
    assert truth.strategy is None
    assert set(truth.backend) == {"name", "options", "code"}, "it does not depend on weights"
    assert cells["oracle"].strategy["policy"] == {"kind": "oracle", "window": 21, "first": 0, "last": 5}
    own, swapped = cells["short"], cells["short (swapped)"]
    assert own.donor is None
    assert swapped.donor == {"text": suite.scripts[1], "seed": own.seed + SPACING, "block": 3}
    assert replace(swapped, donor=None) == own


def test_a_control_that_is_a_strategy_of_the_suite_shares_its_rollouts(tmp_path: Path) -> None:
    text = GOOD.replace("[[claims]]", '[controls]\namnesia = "relativistic sink+keep"\n\n[[claims]]')
    cells = {p.strategy: p.cell.address for p in places(load_suite(write(tmp_path, text))) if p.prompt == 0}
    assert cells["amnesia"] == cells["short"]


def test_a_donor_has_the_same_timing(tmp_path: Path) -> None:
    two = GOOD.replace('jumps[1.5s]"', 'jumps[1.5s]", "a {colour} circle jumps[0.75s] | a {colour} circle spins[1.5s]"')
    suite = load_suite(write(tmp_path, two.replace("draw = 2", "draw = 5").replace("[[claims]]", CONTROLS)))
    donors = [p.cell.donor for p in places(suite) if p.strategy == "short (swapped)"]
    assert [donor["seed"] for donor in donors] == [2000, 3000, 4000, 1000, 0]
    assert [donor["text"] for donor in donors] == [suite.scripts[n] for n in (2, 3, 4, 1, 0)]
    assert [donor["block"] for donor in donors] == [3, 4, 3, 4, 3]  # the last shot's first, or the middle one
    with pytest.raises(SuiteError, match="no other script has the timing of"):
        load_suite(write(tmp_path, two.replace("draw = 2", "draw = 3").replace("[[claims]]", CONTROLS)))


def test_truth_needs_a_world(tmp_path: Path) -> None:
    text = GOOD.replace('name = "little"', 'name = "little"\nbackend = "wan"').replace("prefix = 2\n", "")
    text = text.replace('"action", "position:6"', '"flicker"').replace('primary = "action"', 'primary = "flicker"')
    text = text.replace('metric = "action"', 'metric = "flicker"').replace(
        "[[claims]]", "[controls]\ntruth = true\n[[claims]]"
    )
    file = write(tmp_path, text)
    with pytest.raises(SuiteError, match="'wan' has no world whose truth is known") as refused:
        load_suite(file)
    assert str(refused.value).startswith(f"{file}:18: ")


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
    two = text + "[[claims]]\nat = 1\nsays = 2\n"
    assert line_of(two, "claims", "says", nth=1) == 11
    assert line_of(two, "claims", nth=1) == 9
    assert line_of(two, "claims", "missing", nth=1) == 9


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


def test_a_cells_address_holds_the_models_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(write(tmp_path, GOOD.replace("[[claims]]", CONTROLS)))
    before = {(p.strategy, p.prompt): p.cell.address for p in places(suite)}
    own = Entry.code
    for changed, touched in (("model", {name for name, _ in before} - {"truth"}), ("world", {"truth"})):

        def edited(entry: Entry, part: str = "model", changed: str = changed) -> str:
            return "edited" if part == changed else own(entry, part)

        monkeypatch.setattr(Entry, "code", edited)
        after = {(p.strategy, p.prompt): p.cell.address for p in places(suite)}
        assert {name for (name, n), address in after.items() if before[name, n] != address} == touched


def test_the_code_of_a_backend_is_that_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = BACKENDS["sprites"]
    assert entry.code() != entry.code("world")
    assert entry.code() == BACKENDS["sprites"].code()
    assert len({BACKENDS["wan"].code(), BACKENDS["wan"].code("world")}) == 1, "it has no world: all its files"
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("SOURCES = {'model': ('model',)}\nspec = load = dict\n")
    (package / "model.py").write_text("x = 1\n")
    (package / "other.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = Entry("mine", "mine")
    model, world = mine.code(), mine.code("world")
    (package / "other.py").write_text("y = 2\n")
    assert (mine.code() == model, mine.code("world") == world) == (True, False)
    (package / "model.py").write_text("x = 2\n")
    assert mine.code() != model


def test_every_strategy_sees_the_same_prompts_and_seeds(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD.replace("prefix", "seeds = [3, 5]\nprefix", 1)))
    seen: dict[str, list[tuple[str, int]]] = {}
    for place in places(suite):
        seen.setdefault(place.strategy, []).append((place.cell.script, place.cell.seed))
    assert len({tuple(pairs) for pairs in seen.values()}) == 1
    pairs = next(iter(seen.values()))
    assert len({seed for _, seed in pairs}) == len(pairs)


def test_the_suites_are_listed_without_torch() -> None:
    code = (
        "import sys; from rollout.benchmarks.suites.reader import load_suite; "
        "from rollout.benchmarks.suites.suite import shipped; "
        "print([load_suite(name, metrics=False).cells for name in shipped()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
