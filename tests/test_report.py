"""The report of a benchmark run: what its files say, and how it behaves in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from rollout.benchmarks.executors.local import Serial
from rollout.benchmarks.executors.work import Setup
from rollout.benchmarks.report import figures, vega, write_report
from rollout.benchmarks.report.charts import curves, scatter
from rollout.benchmarks.report.labels import beside, spread
from rollout.benchmarks.report.look import FOCUS, looks
from rollout.benchmarks.report.numbers import figure, interval, places, show
from rollout.benchmarks.report.tables import against, columns, groups
from rollout.benchmarks.run import Run
from rollout.benchmarks.suites.reader import load_suite
from rollout.plan import simulate
from rollout.registry import find
from rollout.script import Script
from rollout.show.explain.picture import Marks, draw, marks, runs, told
from rollout.strategies.presets import preset
from rollout.timeline import blocks_of
from tests.browsing import at_once

HOSTILE = '<script>alert(1)</script> & "$x$"'
SUITE = """
name = "tiny"
about = "Two strategies & a <i>few</i> frames"
scripts = [
  "a red circle walks right on navy[1.125s] | a red circle jumps on navy[3s] | a red circle jumps on olive[1.125s#]",
  "a green square stands on teal[1.125s] | a green square spins on teal[3s] | a green square spins on grey[1.125s#]",
]
prefix = 1
steps = 2
metrics = ["reaction", "action", "drift@pool8", "seconds_per_frame", "kv_mib"]
baseline = "plain"

[strategies]
"plain" = "self-forcing"
'<script>alert(1)</script> & "$x$"' = "infinity-rope"

[[claims]]
says = "Flushing <em>obeys</em> sooner"
source = "arXiv 2511.20649"
better = '<script>alert(1)</script> & "$x$"'
than = "plain"
metric = "reaction"
"""


class Page(HTMLParser):
    """Elements with their attributes, and whatever is not closed in order."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "wbr", "source"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def specs_of(text: str) -> dict[str, Any]:
    """The charts of a page, by their keys."""
    parts = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', text, re.S)
    return {key: json.loads(spec) for key, spec in parts if key != "scenes"}


def rows_of(spec: dict[str, Any], *fields: str) -> list[dict[str, Any]]:
    """The rows of a chart's data that have these fields."""
    return [row for rows in spec["datasets"].values() for row in rows if all(field in row for field in fields)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    (root / "tiny.toml").write_text(SUITE)
    out = root / "out"
    job = Run(load_suite(str(root / "tiny.toml")), out, Setup(str(out), "sprites"), Serial())
    assert all(attempt.outcome == "done" for attempt in job.attempts())
    write_report(out)
    return out


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    parsed = Page()
    parsed.feed((run / "report" / "index.html").read_text(encoding="utf-8"))
    return parsed


def test_the_page_is_well_formed_and_its_ids_are_its_own(page: Page) -> None:
    assert not page.wrong
    assert not page.open
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointers = {i for _, a in page.found for k in ("aria-labelledby", "for") if k in a for i in a[k].split()}
    pointers |= {a["href"][1:] for _, a in page.found if a.get("href", "").startswith("#")}
    assert pointers <= set(ids)
    headings = [tag for tag, _ in page.found if tag in ("h1", "h2", "h3")]
    assert headings.count("h1") == 1
    assert headings[0] == "h1"


def test_nothing_is_fetched_from_elsewhere(run: Path, page: Page) -> None:
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert text.count(str(vega())) == 1
    assert not re.search(r"(https?:)?//\w+\.\w+", text.replace(str(vega()), ""))  # its own addresses are only names
    assert "@import" not in text
    for _, attrs in page.found:
        for key in ("src", "href"):
            target = urlparse(attrs.get(key, ""))
            assert target.scheme in ("", "data")
            assert not target.netloc
            if target.path and not target.scheme:
                assert (run / "report" / unquote(target.path)).is_file()


def test_names_and_prompts_are_text(run: Path, page: Page) -> None:
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    for wrong in ("<script>alert", "<i>few", "<em>obeys"):
        assert wrong not in text
    scripts = [attrs for tag, attrs in page.found if tag == "script"]
    assert len([attrs for attrs in scripts if "type" not in attrs]) == 3
    specs = specs_of(text)
    assert len(specs) >= 6
    assert HOSTILE in {row["strategy"] for spec in specs.values() for row in rows_of(spec, "strategy")}
    assert "&lt;script&gt;alert" in text.replace("<wbr>", "")


def test_the_summary_beside_it_says_the_same(run: Path) -> None:
    found = json.loads((run / "report" / "summary.json").read_text(encoding="utf-8"))
    assert found["done"] == found["total"] == 4
    assert found["claims"][0]["shows"] == "inconclusive"
    assert "2 prompts, and 10 are the least for a mark" in (run / "report" / "index.html").read_text(encoding="utf-8")


def test_a_moved_folder_keeps_its_videos(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run / "report", tmp_path / "elsewhere")
    data = re.search(r'id="scenes">(.*?)</script>', (moved / "index.html").read_text(encoding="utf-8"), re.S)
    assert data is not None
    scenes = json.loads(data[1])["scenes"]
    shown = [tile["src"] for scene in scenes for tile in scene["tiles"]]
    assert len(shown) == 4
    assert all((moved / src).stat().st_size > 1000 for src in shown)
    assert [shot["begin"] for shot in scenes[0]["shots"]] == [0.0, 1.5, 4.5]
    assert not any(path.is_symlink() for path in moved.rglob("*"))


def test_a_second_report_replaces_the_first(run: Path) -> None:
    stale = run / "report" / "videos" / "0123456789abcdef.mp4"
    stale.write_bytes(b"old")
    before = sorted(p.name for p in (run / "report" / "videos").glob("*.mp4") if p != stale)
    write_report(run)
    assert sorted(p.name for p in (run / "report" / "videos").iterdir()) == before


def test_an_unfinished_run_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    part = shutil.copytree(run, tmp_path / "part")
    plan = json.loads((part / "plan.json").read_text())
    lost = next(c["address"] for c in plan["cells"] if c["strategy"] == HOSTILE)
    shutil.rmtree(part / "cells" / lost)
    event = {"time": "now", "event": "failed", "cell": lost, "why": "CacheError: <full>", "last": True}
    with (part / "attempts.jsonl").open("a") as log:
        log.write(json.dumps(event) + "\n")
    text = write_report(part).read_text(encoding="utf-8")
    assert "1 rollout failed" in text
    assert "CacheError: &lt;full&gt;" in text
    assert "3 of 4 done" in text


def test_a_run_whose_videos_are_gone_is_still_reported(run: Path, tmp_path: Path) -> None:
    part = shutil.copytree(run, tmp_path / "part")
    for video in part.glob("cells/*/video.mp4"):
        video.unlink()
    text = write_report(part).read_text(encoding="utf-8")
    assert "Paired differences" in text
    assert 'id="player"' not in text
    assert not list((part / "report" / "videos").iterdir())


def test_numbers() -> None:
    assert show(-0.0001, 2) == "0.00"
    assert show(-1.234, 1, signed=True) == "−1.2"
    assert show(1234.5, 0) == "1,234"
    assert (figure(0.012345), figure(13.75), figure(0), figure(150.4)) == ("0.0123", "13.8", "0", "150")
    assert places([{"low": 0.6, "high": 0.7, "mean": 0.65}]) == 3
    assert places([{"low": 3, "high": 3, "mean": 3.25}]) == 2
    assert interval({"low": -1, "high": 2.5}, 1) == "[−1.0, 2.5]"


def test_a_run_of_one_prompt_is_drawn_without_intervals() -> None:
    found = found_of(3)
    bare = {"low": None, "high": None}
    metric = found["metrics"]["m"]
    metric["pairs"] = [{**pair, **bare} for pair in metric["pairs"]]
    metric["means"] = {name: {**mean, **bare} for name, mean in metric["means"].items()}
    seen = looks(found["plan"], metric)
    forests = list(figures.forests(found, seen))
    assert len(forests) == 2
    assert [row["numbers"] for row in rows_of(forests[0]["spec"], "numbers")] == ["+1.00 [one prompt]"] * 2
    assert all(row["low"] == row["high"] == row["mean"] for row in rows_of(forests[0]["spec"], "numbers"))
    points = [(look, metric["means"][name], metric["means"][name]) for name, look in seen.items()]
    spec = scatter(points, xlabel="x", ylabel="y")
    assert [(row["x"], row["left"], row["low"]) for row in rows_of(spec, "dx")] == [(n, n, n) for n in (0.0, 1.0, 2.0)]
    assert interval({**bare, "mean": 1.0}, 2) == "[one prompt]"
    assert against(metric, "s0", "s2")["low"] is None


def test_letters_stay_apart_and_inside() -> None:
    spots = spread([0.5, 0.5, 0.51, 0.99, 1.0], 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(spots))
    assert max(spots) <= 1
    points = [(0.0, 0.0), (0.0, 2.0), (100.0, 0.0)]
    placed = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(points, beside(points), strict=True)]
    assert all(max(abs(a - x), abs(b - y)) >= 8 for a, b in placed for x, y in points)
    assert all(max(abs(a - c), abs(b - d)) >= 8 for n, (a, b) in enumerate(placed) for c, d in placed[:n])


def test_curves_hold_every_value_with_gaps_letters_and_events() -> None:
    found = found_of(3)
    lines = [
        (look, {"x": [0, 1, 2], "mean": [0.1, None, n], "low": [0.0, None, n - 0.5], "high": [0.2, None, n + 0.5]})
        for n, look in enumerate(looks(found["plan"], found["metrics"]["m"]).values())
    ]
    spec = curves(lines, xlabel="seconds", events=[(1, "switch"), (1.5, "cut"), (9, "cut")])
    values = {row["letter"]: row["mean"] for row in rows_of(spec, "low", "high") if isinstance(row["mean"], list)}
    assert values == {"A": [0.1, None, 0.0], "B": [0.1, None, 1.0], "C": [0.1, None, 2.0]}
    ends = rows_of(spec, "spot")
    assert [(row["text"], row["x"], row["y"]) for row in ends] == [("A", 2, 0), ("B", 2, 1), ("C", 2, 2)]
    assert [(row["x"], row["word"]) for row in rows_of(spec, "word")] == [(1, "new prompt"), (1.5, "cut")]


def test_lines_that_end_together_are_named_once_in_the_ink_of_text() -> None:
    found = found_of(4)
    lines = [
        (look, {"x": [0, 1], "mean": [n, 1.0], "low": [n, 0.0], "high": [n, 2.0]})
        for n, look in enumerate(looks(found["plan"], found["metrics"]["m"]).values())
    ]
    spec = curves(lines, xlabel="frames", events=[])
    assert [row["text"] for row in rows_of(spec, "spot")] == ["all"]
    (texts,) = [layer for layer in spec["layer"] if layer["encoding"].get("text", {}).get("field") == "text"]
    assert texts["encoding"]["color"] == {"value": "var(--ink)"}, "no strategy's colour, and not none"


def test_a_forest_is_filled_where_a_verdict_is_clear_and_the_best_is_on_top() -> None:
    found = found_of(3)
    found["metrics"]["m"]["pairs"][1] |= {"mean": 2.0, "high": 3.0}
    seen = looks(found["plan"], found["metrics"]["m"])
    forest = next(figures.forests(found, seen))
    assert [(row["letter"], row["other"], row["clear"], row["row"]) for row in rows_of(forest["spec"], "numbers")] == [
        ("C", "A", True, 0),
        ("B", "A", False, 1),
    ]


def found_of(count: int) -> dict[str, Any]:
    """A summary of `count` strategies, each one better than the one before, two of them equivalent."""
    names = [f"s{n}" for n in range(count)]
    pairs = [
        {
            "a": b,
            "b": a,
            "mean": 1.0,
            "low": -0.5 if n == 1 else 0.5,
            "high": 2.0,
            "n": 12,
            "prompts": 12,
            "fixed": False,
            "verdict": "equivalent" if n == 1 else "better",
            "p": 0.01,
            "visible": 1.0,
            "settles": None,
            "reason": "",
        }
        for i, a in enumerate(names)
        for n, b in enumerate(names[i + 1 :], i + 1)
    ]
    means = {name: {"mean": float(n), "low": n - 1.0, "high": n + 1.0, "n": 12} for n, name in enumerate(names)}
    metric = {"name": "m", "unit": "px", "better": "higher", "about": "", "source": "", "means": means, "pairs": pairs}
    plan = {
        "strategies": {n: {"text": n, "window": 6} for n in names},
        "baseline": "s0",
        "primary": "m",
        "metrics": [metric],
    }
    return {"plan": plan, "metrics": {"m": metric}, "groups": {6: names}}


def test_bold_is_better_than_all_of_its_budget() -> None:
    for count, best in ((2, []), (3, ["s2"])):
        found = found_of(count)
        rows = groups(found, looks(found["plan"], found["metrics"]["m"]))[0]["rows"]
        assert [row["look"].name for row in rows if row["cells"][0]["best"]] == best
    turned = against(found_of(3)["metrics"]["m"], "s0", "s2")
    assert {k: turned[k] for k in ("a", "b", "mean", "low", "high", "verdict")} == {
        "a": "s0", "b": "s2", "mean": -1.0, "low": -2.0, "high": -0.5, "verdict": "worse",
    }  # fmt: skip
    assert columns(found)[0]["arrow"] == "↑"


def test_many_strategies_each_have_a_look_of_their_own() -> None:
    found = found_of(44)
    each = looks(found["plan"], found["metrics"]["m"])
    assert len({look.letter for look in each.values()}) == 44
    assert len({(look.tone, look.shape, look.dash) for look in each.values()}) == 44
    assert sum(not look.quiet for look in each.values()) == FOCUS
    assert not each["s0"].quiet
    assert not each["s43"].quiet


SHOW = "a red circle walks right on navy[4s] | a red circle jumps on navy[4s] | a red circle spins on olive[4s#]"


def steps_of(name: str, script: str = SHOW) -> list[dict[str, Any]]:
    spec = find("backends", "sprites").spec()
    return list(told(simulate(preset(name), blocks_of(Script.parse(script), spec), spec)))


def covered(figure: Any, panel: str, role: str) -> set[tuple[int, int]]:
    """(block, number) pairs that lie in a panel's marks of a role."""
    axes = next(a for a in figure.axes if a.get_label() == panel)
    patch = next((p for p in axes.patches if p.get_gid() == f"{panel}-{role}"), None)
    cells = set()
    for polygon in patch.get_path().to_polygons() if patch else ():
        (left, low), (right, high) = polygon.min(0), polygon.max(0)
        cells |= {(round((left + right) / 2), n) for n in range(-1, 400) if low - 1e-6 <= n <= high + 1e-6}
    return cells


@pytest.mark.parametrize("name", ["self-forcing", "infinity-rope", "infinity-rope-released", "memrope", "longlive"])
def test_a_picture_puts_everything_where_the_placement_says(name: str) -> None:
    steps = steps_of(name)
    drawn = draw(steps, prompts=Script.parse(SHOW).prompts, seconds=0.375)
    for role in ("sink", "memory", "recent", "block"):
        wanted = {
            (step["block"], index)
            for step in steps
            for slot, index in zip(step["slots"], step["placement"]["slots"], strict=True)
            if slot["role"] == role
        }
        if role == "block":
            wanted = {(step["block"], index) for step in steps for index in step["placement"]["block"]}
        assert covered(drawn, "dates", role) == wanted, role


def test_a_picture_shows_what_happens_at_events() -> None:
    rope = draw(steps_of("infinity-rope"))
    rules = [line.get_gid() for axes in rope.axes for line in axes.lines]
    assert sorted(rules) == ["dates-cut", "dates-switch", "holds-cut", "holds-switch"]
    own = covered(rope, "dates", "block")
    assert {n for block, n in own if block == 22} == {3, 19, 20}
    assert {n for block, n in own if block == 23} == {3, 4, 5}
    recache = steps_of("longlive")
    again = [step for step in recache if step["replayed"]]
    assert [step["block"] for step in again] == [11]
    assert {block for block, _ in covered(draw(recache), "dates", "again")} == {11}
    texts = [text.get_text() for axes in draw(recache).axes for text in axes.texts]
    assert any(text.startswith("98 apart") for text in texts)


def test_a_picture_shows_what_memory_averages() -> None:
    found = marks(steps_of("memrope"), 21)
    folded = {column: (low, high) for column, low, high in found.holds["folded"]}
    assert min(folded) == 4
    assert folded[4] == (3, 6)  # frames 3..7 fold, and the memory itself is drawn at 7
    assert folded[21] == (3, 57)
    assert 22 not in folded  # a cut drops the memory
    assert isinstance(found, Marks)
    assert runs([5, 1, 2, 2, 9, 8]) == [(1, 2), (5, 5), (8, 9)]


@pytest.mark.parametrize("blocks", [1, 8, 120])
def test_a_picture_is_drawn_for_few_blocks_and_many(blocks: int) -> None:
    steps = steps_of("memrope", f"a red circle jumps[{blocks * 0.375}s]")
    assert len(steps) == blocks
    drawn = draw(steps, title="$not math$")
    assert drawn.get_size_inches()[0] == pytest.approx(4.2)
    drawn.canvas.draw()


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Any]:
    """The report, opened from disk at 360 pixels in light colours, and whatever went wrong."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="light")
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "requestfailed",
        lambda request: wrong.append(request.url) if "ERR_ABORTED" not in str(request.failure) else None,
    )
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    tab.goto((run / "report" / "index.html").as_uri())
    tab.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)", timeout=100_000)
    yield SimpleNamespace(tab=tab, wrong=wrong)
    context.close()


def test_in_a_browser_all_is_drawn_and_nothing_is_wrong(opened: Any) -> None:
    tab = opened.tab
    tab.wait_for_function("[...document.querySelectorAll('[data-spec]')].every(c => c.querySelector('svg'))")
    boxes = tab.evaluate(
        "[...document.querySelectorAll('svg.chart, .chart svg')].map(s => {const b = s.getBoundingClientRect();"
        "return [b.width, b.height, s.querySelectorAll('path').length, b.right]})"
    )
    assert len(boxes) >= 6
    assert all(width > 100 and height > 60 and paths > 0 and right <= 361 for width, height, paths, right in boxes), (
        boxes
    )
    sizes = tab.evaluate(
        "[...document.querySelectorAll('.chart svg text')].map(t => parseFloat(getComputedStyle(t).fontSize))"
    )
    assert min(sizes) >= 11
    spoken = tab.evaluate(
        "[...document.querySelectorAll('[data-spec]')].map(c => [c.getAttribute('role'), c.ariaLabel])"
    )
    assert all(role == "graphics-document" and re.search("for each|Differences", label) for role, label in spoken)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.wrong == []


def test_in_a_browser_videos_play_in_step(opened: Any) -> None:
    tab = opened.tab
    tab.select_option("#prompt", "1")
    tab.focus("#play")
    tab.keyboard.press("Enter")
    videos = "[...document.querySelectorAll('video')]"
    times = f"{videos}.map(v => v.currentTime)"
    playing = f"{videos}.every(v => v.currentTime > 0.3 && !v.paused)"
    at_once(
        tab,
        f"{playing} && Math.max(...{times}) - Math.min(...{times}) < 1 / 8",
        "document.getElementById('play').click()",
    )
    assert tab.evaluate(f"{videos}.every(v => v.paused)")
    tab.evaluate("document.getElementById('at').focus()")
    before = int(tab.input_value("#at"))
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("[...document.querySelectorAll('video')].every(v => v.paused && !v.seeking)")
    stills = tab.evaluate("[...document.querySelectorAll('video')].map(v => Math.floor(v.currentTime * 8))")
    assert set(stills) == {before + 1}
    tab.locator("#shots button").nth(2).click()
    assert "cut: a green square spins on grey" in tab.inner_text("#now")
    assert opened.wrong == []


def test_in_a_browser_colours_follow_the_system_and_the_toggle(opened: Any) -> None:
    tab = opened.tab

    def ground() -> str:
        return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    tab.emulate_media(color_scheme="dark")
    dark = ground()
    assert dark != light
    tab.focus("#theme")
    tab.keyboard.press("Enter")
    stays_light = f"getComputedStyle(document.body).backgroundColor === {light!r}"
    tab.wait_for_function(stays_light)
    tab.reload()
    tab.wait_for_function(stays_light)  # a busy machine paints late
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"


def test_in_a_browser_definitions_and_single_strategies_by_keyboard(opened: Any) -> None:
    tab = opened.tab
    tab.focus("thead a")
    assert "new action" in tab.inner_text("#tip")
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#tip")
    tab.check("#gaps")
    assert tab.locator("td .gap").first.is_visible()
    lines = "[...document.querySelectorAll('[data-spec=curve-1] .mark-line path')].map(p => p.getAttribute('opacity'))"
    tab.wait_for_function(f"{lines}.length === 2")
    assert tab.evaluate(lines) == ["1", "1"]
    tab.focus("[data-pick='B']")
    tab.keyboard.press("Space")
    tab.wait_for_function(f"{lines}.sort().join() === '0.1,1'")
    assert opened.wrong == []
