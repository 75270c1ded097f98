"""The blind study: what is handed out, what a real browser does with it, and what the answers come to."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from rollout.backends import load_backend
from rollout.benchmarks.executors.local import Serial
from rollout.benchmarks.executors.work import Setup
from rollout.benchmarks.run import Run
from rollout.benchmarks.statistics import Crossed, interval
from rollout.benchmarks.study.agreement import ordinal_alpha
from rollout.benchmarks.study.answers import Answer, Rater, read_answers, read_key
from rollout.benchmarks.study.build import WHEN, build_study
from rollout.benchmarks.study.clips import choose, find_clips, find_pairs
from rollout.benchmarks.study.order import SEEDS, showings
from rollout.benchmarks.study.score import score, score_study
from rollout.benchmarks.suites.reader import load_suite
from rollout.cli import app
from rollout.errors import OutputError, RolloutError
from rollout.registry import names
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.run.video import read_video
from rollout.strategies.presets import PRESETS, preset
from tests.browsing import at_once
from tests.processes import full_at, killed_at
from tests.test_export import finished

ACTION = "a red circle walks right on navy[0.4s] | a red circle jumps on navy[0.4s] ; infinity-rope | memrope"
LONG = "a green square stands on teal[0.4s]"
NAN = float("nan")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies on two scripts, as `rollout gen` writes them."""
    root, backend = tmp_path_factory.mktemp("runs"), load_backend("sprites")
    for name, (kind, script) in product(
        ("self-forcing", "infinity-rope", "memrope"), (("action", ACTION), ("long", LONG))
    ):
        folder = root / f"{kind}-{name}"
        folder.mkdir()
        for _ in Job(backend, Recipe(preset(name), script, seed=3), folder).run():
            pass
    return root


@pytest.fixture(scope="module")
def study(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    build_study(sorted(runs.iterdir()), out, repeats=2)
    return out


def answers_of(study: Path, name: str, seed: int, answer: Callable[[str, str], int] | None = None) -> dict[str, Any]:
    """What the page saves; `answer` rates a video, by name, on a question."""
    data = json.loads((study / "key.json").read_text())
    rate = answer or (lambda video, question: 1 + (int(video, 16) + len(question)) % 5)
    told = []
    for s in showings(len(data["pairs"]), data["repeats"], seed):
        pair = data["pairs"][s.pair]
        left, right = (pair["b"], pair["a"]) if s.swapped else (pair["a"], pair["b"])
        asked = [q["name"] for q in data["questions"][pair["questions"]]]
        ratings = {q: {"left": rate(left, q), "right": rate(right, q)} for q in asked}
        sums = [sum(r[side] for r in ratings.values()) for side in ("left", "right")]
        better = "same" if sums[0] == sums[1] else "left" if sums[0] > sums[1] else "right"
        told.append(
            {"left": left, "right": right, "again": s.again, "seconds": 9, "ratings": ratings, "preference": better}
        )
    head = {"format": "video study answers 1", "study": data["study"], "rater": name, "seed": seed}
    return head | {"began": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:10:00Z", "showings": told}


def saved(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / f"answers-{data['rater']}.json"
    path.write_text(json.dumps(data))
    return path


def test_pairs_differ_in_strategy_alone(runs: Path, study: Path) -> None:
    key = json.loads((study / "key.json").read_text())
    assert len(key["pairs"]) == 6
    for pair in key["pairs"]:
        a, b = key["videos"][pair["a"]], key["videos"][pair["b"]]
        assert (a["script"], a["seed"]) == (b["script"], b["seed"])
        assert a["strategy"] != b["strategy"]
        assert pair["questions"] == ("action" if "|" in a["script"] else "long")
        assert a["strategy"] in a["run"]
    assert sorted(key["strategies"]) == ["infinity-rope", "memrope", "self-forcing"]
    assert {(key["videos"][p["a"]]["strategy"] < key["videos"][p["b"]]["strategy"]) for p in key["pairs"]} == {
        True,
        False,
    }


def test_nothing_that_is_handed_out_names_a_strategy(runs: Path, study: Path) -> None:
    """No preset, kind or run's folder in any name or text, no tag but the muxer's own in any video."""
    words = {*PRESETS, *(kind for group in ("positions", "policies", "switches") for kind in names(group))}
    words |= {"strategy", "preset", "rollout", "cache", runs.name, str(runs)}
    handed = [path for path in (study / "page").rglob("*") if path.is_file()]
    assert len(handed) == 7
    for path in handed:
        held = path.read_bytes().lower()
        relative = path.relative_to(study / "page").as_posix()
        assert re.fullmatch(r"index\.html|videos/[0-9a-f]{8}\.mp4", relative)
        for word in words:
            assert word not in relative
            if path.suffix == ".html" or len(word) > 4:  # a short word turns up in compressed pictures by chance
                assert word.encode() not in held, (path, word)
        if path.suffix == ".mp4":
            assert path.stat().st_mtime == WHEN
            for tool in (b"x264", b"lavf", b"lavc"):
                assert tool not in held
            with av.open(str(path)) as file:
                assert [stream.type for stream in file.streams] == ["video"]
                assert set(file.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
                assert file.streams[0].metadata == {"language": "und", "handler_name": "VideoHandler"}


def test_the_pictures_are_the_runs_own(study: Path) -> None:
    key = json.loads((study / "key.json").read_text())
    for name, told in key["videos"].items():
        source = read_video(Path(told["run"]) / "video.mp4")
        assert np.array_equal(read_video(study / "page" / "videos" / f"{name}.mp4"), source)


def test_the_page_needs_nothing_from_elsewhere(study: Path) -> None:
    text = (study / "page" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//\w+\.\w+|@import|<link[^>]+href=\"(?!data:)|<script[^>]+src", text)


def test_a_seed_builds_the_same_study_and_another_one_another(runs: Path, study: Path, tmp_path: Path) -> None:
    folders = sorted(runs.iterdir())
    build_study(folders, tmp_path / "same", repeats=2)
    build_study(folders, tmp_path / "other", repeats=2, seed=1)
    for path in (p for p in study.rglob("*") if p.is_file()):
        assert (tmp_path / "same" / path.relative_to(study)).read_bytes() == path.read_bytes()
    videos = [{p.name for p in (out / "page" / "videos").iterdir()} for out in (study, tmp_path / "other")]
    assert not videos[0] & videos[1]


def test_few_pairs_are_chosen_evenly(runs: Path) -> None:
    pairs, _ = find_pairs(find_clips(sorted(runs.iterdir()))[0], None)
    for seed in range(20):
        chosen = choose(pairs, 3, seed)
        assert len({frozenset((p.a.name, p.b.name)) for p in chosen}) == 3
        assert set(Counter(p.a.scene for p in chosen).values()) == {1, 2}
    assert choose(pairs, 99, 0) != choose(pairs, 99, 1)
    assert {p.questions for p in find_pairs(find_clips(sorted(runs.iterdir()))[0], "long")[0]} == {"long"}


SUITE = """
name = "tiny"
scripts = ["a red circle walks right on navy[0.4s]", "a blue square jumps on olive[0.4s]"]
seeds = 2
steps = 1
metrics = ["seconds_per_frame"]
baseline = "a plain name"

[strategies]
"a plain name" = "self-forcing"
another = "infinity-rope"
"""


def test_a_benchmark_run_makes_a_study(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE)
    out = tmp_path / "bench"
    assert all(
        a.outcome == "done"
        for a in Run(load_suite(str(tmp_path / "tiny.toml")), out, Setup(str(out), "sprites"), Serial()).attempts()
    )
    built = build_study([out], tmp_path / "study")
    assert (built.pairs, built.again, built.possible, built.notes) == (4, 2, 4, ())
    key = json.loads(built.key.read_text())
    assert {told["strategy"] for told in key["videos"].values()} == {"a plain name", "another"}
    assert len({pair["scene"] for pair in key["pairs"]}) == 4
    cell = next(out.glob("cells/*"))
    shutil.rmtree(cell)
    again = build_study([out], tmp_path / "less")
    assert again.possible == 3
    assert len(again.notes) == 1
    assert "is left out" in again.notes[0]


def changed(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy of a run whose record says something else."""
    shutil.copytree(folder, to)
    record = json.loads((to / "run.json").read_text())
    (to / "run.json").write_text(json.dumps(record | fields))
    return to


def test_runs_that_do_not_go_together_are_refused_or_told(runs: Path, tmp_path: Path) -> None:
    one, two = runs / "long-memrope", runs / "long-self-forcing"
    seed = changed(two, tmp_path / "seed", seed=4)
    cases: list[tuple[Sequence[Path], str]] = [
        ([one], "all runs have the strategy memrope"),
        ([one, seed], "differ in seed"),
        ([one, runs / "action-self-forcing"], "differ in script, length"),
        ([one, changed(two, tmp_path / "steps", schedule={"steps": [1.0]})], "differ in schedule"),
        (
            [one, changed(two, tmp_path / "live", events=[{"block": 1, "kind": "prompt", "value": ["x"]}])],
            "was steered",
        ),
        ([one, changed(two, tmp_path / "bare", script={})], "missing required field `text`"),
        ([one, tmp_path / "nothing"], "is not the folder of a run"),
    ]
    for number, (folders, says) in enumerate(cases):
        out = tmp_path / f"out{number}"
        with pytest.raises(OutputError) as told:
            build_study(folders, out)
        assert says in str(told.value)
        assert not out.exists()
    shutil.copytree(one, tmp_path / "copy")
    notes = build_study([one, two, one, seed, tmp_path / "copy"], tmp_path / "good").notes
    assert len(notes) == 2
    assert "has the same strategy" in notes[0]
    assert "differ in seed" in notes[1]


def test_a_study_that_fails_leaves_no_page_and_one_that_is_there_stays(runs: Path, tmp_path: Path) -> None:
    one, two = runs / "long-memrope", tmp_path / "two"
    shutil.copytree(runs / "long-self-forcing", two)
    video = (two / "video.mp4").read_bytes()
    (two / "video.mp4").write_bytes(video[: len(video) // 2])
    with pytest.raises(OutputError):
        build_study([one, two], tmp_path / "broken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two"]


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    """Two runs of one frame."""
    return [finished(tmp_path / "runs" / name, strategy=name) for name in ("memrope", "longlive")]


def test_a_study_gives_way_by_force_alone_and_its_key_stays(small: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_study(small, out)
    first = contents(out)
    with pytest.raises(OutputError, match="add --force to replace an earlier study"):
        build_study(small, out, seed=5)
    assert contents(out) == first
    build_study(small, out, force=True)
    assert contents(out) == first
    study = json.loads(first["key.json"])["study"]
    for seed in (5, 6):
        build_study(small, out, seed=seed, force=True)
    keys = sorted(path.name for path in out.glob("key-*.json"))
    assert f"key-{study}.json" in keys
    assert len(keys) == 2
    assert (out / f"key-{study}.json").read_bytes() == first["key.json"]
    assert read_key(out / f"key-{study}.json").study == study
    saved(out, answers_of(out, "anna", 1))
    with pytest.raises(OutputError, match=r"answers-anna\.json is no part of an earlier study, which --force would"):
        build_study(small, out, force=True)
    (out / "answers-anna.json").unlink()
    (out / "key.json").write_text("{}")
    with pytest.raises(OutputError, match=r"key\.json is no key of a study, and would be lost"):
        build_study(small, out, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


@pytest.mark.parametrize("force", [False, True])
def test_killed_anywhere_or_on_a_full_disk_a_study_is_whole_or_not_there(
    force: bool, small: list[Path], tmp_path: Path
) -> None:
    """Or, with --force, the earlier one; then the same command makes the same bytes."""
    out, whole, earlier = (tmp_path / name for name in ("out", "whole", "earlier"))

    def build(place: Path = out) -> None:
        build_study(small, place, seed=7, force=force)

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if force:
            shutil.copytree(earlier, out)

    if force:
        build_study(small, earlier)
        shutil.copytree(earlier, whole)
    build(whole)
    before, after = contents(earlier), contents(whole)
    for ended, least in ((killed_at, 12), (full_at, 6)):
        begin()
        step = 1
        while how := ended(step, build):
            assert contents(out) in (before, after) or (force and not out.exists())
            if isinstance(how, str):
                assert contents(out) == before
                assert re.fullmatch(r".* No space left on device\. Choose another .* free some space\.", how), how
            if not force and out.exists():  # it was killed when all was there
                shutil.rmtree(out)
            build()
            assert contents(out) == after
            assert {path.name for path in tmp_path.iterdir()} - {"earlier"} == {"out", "runs", "whole"}
            begin()
            step += 2 if force else 1
        assert step > least


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_orders_and_sides_are_random_and_the_seeds_own() -> None:
    """Over raters every pair is as often first and as often swapped; repeats come swapped, at the end."""
    told = [showings(6, 2, 1 + seed * 2654435761 % (SEEDS - 1)) for seed in range(3000)]
    assert told[5] == showings(6, 2, 1 + 5 * 2654435761 % (SEEDS - 1))
    assert len({tuple(t) for t in told}) > 2500
    for t in told:
        assert sorted(s.pair for s in t[:6]) == list(range(6))
        assert [(s.pair, not s.swapped, True) for s in t[:2]] == [(s.pair, s.swapped, s.again) for s in t[6:]]
    for place, pair in product(range(6), range(6)):
        share = mean(t[place].pair == pair for t in told)
        assert abs(share - 1 / 6) < 0.03
    for pair in range(6):
        assert abs(mean(next(s for s in t if s.pair == pair).swapped for t in told) - 0.5) < 0.04


def test_alpha_is_krippendorffs() -> None:
    """The worked examples of Krippendorff 2011 (repository.upenn.edu/asc_papers/43): C, ordinal, and A, binary."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    assert ordinal_alpha(np.array(observers))[0] == pytest.approx(0.815, abs=5e-4)
    binary = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]  # two values: ranks are as good as names
    assert ordinal_alpha(np.array(binary, float))[0] == pytest.approx(0.095, abs=5e-4)
    assert ordinal_alpha(np.array([[1, 2, 5], [1, 2, 5]], float)) == (1.0, "")


def test_alpha_is_none_where_it_is_not_defined() -> None:
    assert ordinal_alpha(np.array([[4.0, 4.0], [4.0, NAN]])) == (None, "everyone always answered 4")
    assert ordinal_alpha(np.array([[4.0, NAN], [NAN, 3.0]])) == (None, "no video was rated by two raters")


def test_a_crossed_bootstrap_is_as_wide_as_raters_and_scenes_make_it() -> None:
    """Values that depend on the rater alone say as much as there are raters, however many pairs each has judged."""
    draw = np.random.default_rng(1)
    by_rater = np.repeat(draw.normal(size=(40, 1)), 30, 1)
    crossed, nested = Crossed(40, list(range(30))).interval(by_rater), interval(by_rater)
    assert crossed is not None
    assert nested is not None
    half = 1.96 * by_rater[:, 0].std() / 40**0.5
    assert (crossed.high - crossed.low) / 2 == pytest.approx(half, rel=0.1)
    assert (crossed.high - crossed.low) == pytest.approx(nested.high - nested.low, rel=0.1)
    by_scene = np.tile(np.repeat(draw.normal(size=6), 5), (40, 1))
    together = Crossed(40, [n // 5 for n in range(30)]).interval(by_scene)
    apart = Crossed(40, list(range(30))).interval(by_scene)
    assert together is not None
    assert apart is not None
    assert together.high - together.low > 1.7 * (apart.high - apart.low)


def random_raters(study: Path, count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(4)
    return [answers_of(study, f"rater {n}", 7 + n, lambda *_: int(draw.integers(1, 6))) for n in range(count)]


def test_figures_are_those_of_a_plain_count(study: Path, tmp_path: Path) -> None:
    data = random_raters(study, 5)
    found = score_study([saved(tmp_path, one) for one in data], study)
    key = json.loads((study / "key.json").read_text())
    strategy = {name: told["strategy"] for name, told in key["videos"].items()}
    shown = [s for one in data for s in one["showings"] if not s["again"]]
    for question, name in product(found["questions"], found["strategies"]):
        values = [
            s["ratings"][question][side]
            for s in shown
            for side in ("left", "right")
            if strategy[s[side]] == name and question in s["ratings"]
        ]
        told = found["means"][question][name]
        assert told["mean"] == pytest.approx(mean(values), abs=1e-6)
        assert told["n"] == len(values) == 10
        assert told["low"] < told["mean"] < told["high"]
    for pair in found["pairs"]:
        met = [s for s in shown if {strategy[s["left"]], strategy[s["right"]]} == {pair["a"], pair["b"]}]
        wins = [strategy[s[s["preference"]]] for s in met if s["preference"] != "same"]
        assert pair["prefers_a"]["mean"] == pytest.approx(wins.count(pair["a"]) / len(met), abs=1e-6)
        assert pair["prefers_b"]["mean"] == pytest.approx(wins.count(pair["b"]) / len(met), abs=1e-6)
        assert pair["same"]["mean"] == pytest.approx(1 - len(wins) / len(met), abs=1e-6)
        for question, gap in pair["differences"].items():
            apart = []
            for s in met:
                if question in s["ratings"]:
                    side = "left" if strategy[s["left"]] == pair["a"] else "right"
                    other = "right" if side == "left" else "left"
                    apart.append(s["ratings"][question][side] - s["ratings"][question][other])
            assert gap["mean"] == pytest.approx(mean(apart), abs=1e-6)
            assert gap["verdict"] == "few"
            assert gap["low"] is None
    again = [(one, s) for one in data for s in one["showings"] if s["again"]]
    same = 0
    for one, s in again:
        first = next(f for f in one["showings"] if {f["left"], f["right"]} == {s["left"], s["right"]})
        same += (
            (s["preference"] == "same")
            if first["preference"] == "same"
            else (s["preference"] != "same" and s[s["preference"]] == first[first["preference"]])
        )
    assert found["repeats"]["n"] == len(again) == 10
    assert found["repeats"]["same_preference"] == pytest.approx(same / 10)


def test_raters_who_agree_and_one_alone(study: Path, tmp_path: Path) -> None:
    alike = [saved(tmp_path, answers_of(study, name, seed)) for name, seed in (("ann", 5), ("ben", 6))]
    found = score_study(alike, study)
    assert {row["alpha"] for row in found["agreement"].values()} == {1.0}
    assert found["repeats"] == {"n": 4, "same_preference": 1.0, "rating_difference": 0.0, "within_one": 1.0}
    single = score_study(alike[:1], study)
    assert all(row == {"alpha": None, "why": "there is one rater"} for row in single["agreement"].values())
    assert all(told["low"] is None for by in single["means"].values() for told in by.values())
    assert any("raters: 1" in note for note in single["notes"])


def test_a_clear_winner_is_found(study: Path) -> None:
    key = read_key(study)
    raters = []
    for seed in range(1, 13):
        answers = []
        for s in showings(len(key.pairs), key.repeats, seed):
            pair = key.pairs[s.pair]
            a, b = (5 if key.strategies[v] == "memrope" else 2 for v in (pair.a, pair.b))
            answers.append(Answer(s, dict.fromkeys(key.questions[pair.questions], (a, b)), (a > b) - (b > a), 3))
        raters.append(Rater(str(seed), seed, tuple(answers)))
    found = score(raters, key)
    for pair in found["pairs"]:
        won = {"memrope": 1.0}
        assert pair["prefers_a"]["mean"] == won.get(pair["a"], 0.0)
        assert pair["prefers_b"]["mean"] == won.get(pair["b"], 0.0)
        verdict = "better" if pair["a"] == "memrope" else "worse" if pair["b"] == "memrope" else "tie"
        assert {gap["verdict"] for gap in pair["differences"].values()} == {verdict}


def wrong(data: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """The answers with one value changed."""
    made = json.loads(json.dumps(data))
    at = made
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return made


def test_bad_answers_are_refused_in_one_line(study: Path, tmp_path: Path) -> None:
    good = answers_of(study, "ann", 5)
    action = next(n for n, s in enumerate(good["showings"]) if "text" in s["ratings"])
    rating = ("showings", action, "ratings", "text", "left")
    cases: dict[str, Any] = {
        "not whole JSON": json.dumps(good)[:-40],
        "not whole JSON (Input data was truncated": "",
        "is not the answers of a rater": "[]",
        "lacks 'seed'": json.dumps({k: v for k, v in good.items() if k != "seed"}),
        "answers the study 'other'": wrong(good, "study", to="other"),
        "rater has no name": wrong(good, "rater", to="  "),
        "seed is 0": wrong(good, "seed", to=0),
        "'seed' is true": wrong(good, "seed", to=True),
        "its seed draws": wrong(good, "seed", to=6),
        "showings and the study has 8": wrong(good, "showings", to=good["showings"][:-1]),
        "not in the key": wrong(good, "showings", 2, "left", to="nowhere"),
        "rating 6 is not within 1 and 5": wrong(good, *rating, to=6),
        "rating 0 is not within": wrong(good, *rating, to=0),
        "'left' is 2.5": wrong(good, *rating, to=2.5),
        "'left' is null": wrong(good, *rating, to=None),
        "answers overall, and is asked quality": wrong(good, "showings", action, "ratings", to={"overall": {}}),
        "'preference' is 'both'": wrong(good, "showings", 1, "preference", to="both"),
        "showing 2: its 'seconds'": wrong(good, "showings", 1, "seconds", to="9"),
        "not whole JSON (it nests more than": "[" * 100_000,
    }
    for says, data in cases.items():
        path = tmp_path / "bad.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        with pytest.raises(OutputError) as told:
            read_answers([path], read_key(study))
        text = str(told.value)
        assert says in text
        assert "\n" not in text
        assert len(text) < 400
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OutputError, match="not whole JSON"):
        read_answers([path], read_key(study))
    with pytest.raises(OutputError, match="cannot be read"):
        read_answers([tmp_path / "none.json"], read_key(study))
    ann = saved(tmp_path, good)
    for other, says in ((answers_of(study, "ANN", 6), "both of the rater"), (answers_of(study, "bob", 5), "is a copy")):
        second = tmp_path / "second.json"
        second.write_text(json.dumps(other))
        with pytest.raises(OutputError, match=says):
            read_answers([ann, second], read_key(study))


def test_a_bad_key_is_refused(study: Path, tmp_path: Path) -> None:
    good = json.loads((study / "key.json").read_text())
    for data in (
        {},
        [],
        wrong(good, "repeats", to=9),
        wrong(good, "pairs", 0, "a", to="x"),
        wrong(good, "pairs", 0, "scene", to=10**9),
        wrong(good, "questions", to={"long": {}}),
        wrong(good, "pairs", to=[]),
    ):
        (tmp_path / "key.json").write_text(json.dumps(data))
        with pytest.raises(OutputError, match="is no key of a study"):
            read_key(tmp_path)


def test_the_commands(runs: Path, tmp_path: Path) -> None:
    def command(*args: Any) -> Any:
        return CliRunner().invoke(app, ["study", *map(str, args)])

    out = tmp_path / "out"
    made = command("build", *sorted(runs.iterdir()), "--out", out, "--pairs", 4, "--repeats", 1, "--questions", "long")
    assert made.exit_code == 0, made.output
    assert "pairs: 4 of 6; shown twice: 1" in made.output
    files = [saved(out, answers_of(out, f"r{n}", n + 1)) for n in range(3)]
    told = command("score", *files)
    assert told.exit_code == 0, told.output
    for line in ("Ratings, 1 to 5", "prefer A", "Krippendorff", "pairs again", "note: "):
        assert line in told.output
    found = json.loads(command("score", *files, "--json", "--key", out / "key.json").output)
    assert found["means"]["overall"].keys() == {"self-forcing", "infinity-rope", "memrope"}
    away = saved(tmp_path, answers_of(out, "x", 9))
    refused = command("score", away)
    assert isinstance(refused.exception, RolloutError)
    assert "--key" in str(refused.exception)
    assert command("build", runs, "--out", tmp_path / "no").exception is not None


@pytest.fixture
def tab(browser: Any, study: Path) -> Iterator[Any]:
    """The page from disk at 360 pixels; nothing may go wrong, and nothing but files may be asked for."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, accept_downloads=True)
    found, wrongs = context.new_page(), []
    found.on("console", lambda message: wrongs.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: wrongs.append(str(error)))
    found.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrongs.append(r.url))
    found.goto((study / "page" / "index.html").as_uri())
    yield found
    context.close()
    assert wrongs == []


def enter(tab: Any, name: str) -> None:
    tab.focus("#name")
    tab.keyboard.type(name)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#trial:not([hidden])")


def watch(tab: Any) -> None:
    tab.keyboard.press("Space")
    tab.wait_for_function("!document.getElementById('fields').disabled", timeout=100_000)


def rows(tab: Any) -> int:
    return int(tab.locator("[role=radiogroup]").count())


def test_in_a_browser_a_study_is_answered_by_keyboard_and_scored(tab: Any, study: Path, tmp_path: Path) -> None:
    enter(tab, "Zoë  B. / 7")
    keys, given = "12345", []
    for trial in range(8):
        assert tab.inner_text("#where") == f"Pair {trial + 1} of 8"
        tab.keyboard.press("4")  # before it was watched: ignored
        assert tab.locator("input:checked").count() == 0
        watch(tab)
        count = rows(tab)
        press = [keys[(trial + n) % 5] for n in range(count - 1)] + ["123"[trial % 3]]
        for key in press:
            tab.keyboard.press(key)
        given.append(press)
        assert tab.evaluate("document.activeElement.id") == "next"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        tab.keyboard.press("Enter")
    with tab.expect_download() as download:
        tab.focus("#save")
        tab.keyboard.press("Enter")
    assert download.value.suggested_filename == "answers-Zoë-B-7.json"
    path = tmp_path / "answers.json"
    download.value.save_as(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["rater"] == "Zoë  B. / 7"
    for press, shown in zip(given, data["showings"], strict=True):
        flat = [str(r[side]) for r in shown["ratings"].values() for side in ("left", "right")]
        assert [*flat, {"left": "1", "same": "2", "right": "3"}[shown["preference"]]] == press
    (rater,) = read_answers([path], read_key(study))
    assert [answer.showing for answer in rater.answers] == showings(6, 2, rater.seed)
    assert score_study([path], study)["raters"][0]["n"] == 2


def test_in_a_browser_orders_differ_between_raters_and_follow_from_their_seed(tab: Any, study: Path) -> None:
    key = json.loads((study / "key.json").read_text())
    seen = []
    for n in range(4):
        enter(tab, f"rater {n}")
        watch(tab)
        told = tab.evaluate("JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]))")[f"rater {n}"]
        drawn = showings(len(key["pairs"]), key["repeats"], told["seed"])
        assert [(s["pair"], s["left"] == key["pairs"][s["pair"]]["b"], s["again"]) for s in told["showings"]] == [
            (s.pair, s.swapped, s.again) for s in drawn
        ]
        seen.append(tuple(drawn))
        tab.reload()
    assert len(set(seen)) == 4


def test_in_a_browser_a_closed_page_loses_nothing(tab: Any) -> None:
    enter(tab, "constructor")
    watch(tab)
    for key in "35":
        tab.keyboard.press(key)
    tab.keyboard.press("Enter")
    assert "missing" in tab.inner_text("#missing")
    shown = tab.evaluate("[...document.querySelectorAll('video')].map(v => v.getAttribute('src'))")
    tab.reload()
    tab.click("text=Go on as constructor: pair 1 of 8")
    assert tab.evaluate("[...document.querySelectorAll('video')].map(v => v.getAttribute('src'))") == shown
    assert tab.evaluate("[...document.querySelectorAll('input:checked')].map(i => i.value)") == ["3", "5"]
    assert not tab.evaluate("document.getElementById('fields').disabled")


def test_in_a_browser_without_storage_the_page_works(browser: Any, study: Path) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    tab = context.new_page()
    tab.goto((study / "page" / "index.html").as_uri())
    assert tab.is_visible("#memory")
    enter(tab, "ann")
    watch(tab)
    for _ in range(rows(tab)):
        tab.keyboard.press("2")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#where") == "Pair 2 of 8"
    context.close()


def test_in_a_browser_both_play_in_step_and_a_video_that_fails_is_told(tab: Any, study: Path) -> None:
    enter(tab, "ann")
    assert tab.is_disabled("#at")
    tab.keyboard.press("Space")
    videos = "[...document.querySelectorAll('video')]"
    playing = f"{videos}.every(v => v.currentTime > 0.15 && !v.paused)"
    in_step = f"Math.abs({videos}[0].currentTime - {videos}[1].currentTime) < 1 / 8"
    at_once(tab, f"{playing} && {in_step}", "document.getElementById('play').click()")
    assert tab.evaluate(f"{videos}.every(v => v.paused)")
    prompts = "[...document.querySelectorAll('#now span')].filter(s => getComputedStyle(s).visibility === 'visible')"
    assert tab.evaluate(f"{prompts}.length") == 1
    tab.keyboard.press("r")
    tab.wait_for_function("!document.getElementById('fields').disabled")
    tab.evaluate("document.getElementById('right').src = 'data:video/mp4,none'")
    tab.wait_for_selector("#broken:not([hidden])")
    assert "Video B cannot be played" in tab.inner_text("#broken")
