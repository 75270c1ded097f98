"""The pictures of `rollout explain`: that page, PNG and sentences say what the steps say, and how the page behaves."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from rollout.backends.sprites import spec
from rollout.cli import app
from rollout.cli.options import find_strategy
from rollout.errors import OutputError, RolloutError
from rollout.script import Script
from rollout.show.explain.cells import cells as cells_of
from rollout.show.explain.cells import differ, ranges
from rollout.show.explain.overlay import COLUMNS, SIDES, paint
from rollout.show.explain.page import LONGEST, Side, page, sides
from rollout.show.explain.views import Mark, View, compare, views
from rollout.strategies.presets import PRESETS
from rollout.timeline import blocks_of

SPEC = spec()
SHOW = "a red circle walks right on navy[4s] | a red circle jumps on navy[4s] | a red circle spins on olive[4s#]"
HOSTILE = '</script><script>alert("1")</script> & <b>x</b> \u2028'
ODD = (
    "relativistic fifo:window=30+recache:sink=rebuild,attention=bidirectional",
    "relativistic:head=12,cut=40/0 ema:window=12,sink=3,rates=0.01/0.1/0.5+flush:last=2",
    "absolute sink:window=9,sink=0+flush:last=0",
)
ALL = (*PRESETS, *ODD)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["explain", *args])


def refused(*args: str) -> str:
    result = run(*args)
    assert isinstance(result.exception, RolloutError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def seen(name: str, script: str = SHOW) -> list[View]:
    return list(views(find_strategy(name), blocks_of(Script.parse(script), SPEC), SPEC))


def rolled(*names: str, script: str = SHOW) -> list[Side]:
    return sides([(name, find_strategy(name)) for name in names], Script.parse(script), SPEC)


def html(*names: str, script: str = SHOW) -> str:
    return page(rolled(*names, script=script), Script.parse(script), SPEC, text=script, command="rollout explain")


def data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("name", ALL)
def test_the_page_holds_what_json_says(name: str, tmp_path: Path) -> None:
    pos, _, cache = name.partition(" ")
    which = ["--pos", pos, "--cache", cache] if cache else ["--preset", name]
    assert run(SHOW, *which, "--html", str(tmp_path / "page.html")).exit_code == 0
    told = data((tmp_path / "page.html").read_text(encoding="utf-8"))
    rows = [
        {
            "block": n,
            "start": block[0],
            "prompt": block[1],
            "switch": bool(block[2]),
            "cut": bool(block[3]),
            "slots": [{"role": ("sink", "memory", "recent")[role], "frame": frame} for role, frame, _ in step["slots"]],
            "placement": {"slots": [index for *_, index in step["slots"]], "block": step["own"]},
        }
        for n, (block, step) in enumerate(zip(told["blocks"], told["sides"][0]["steps"], strict=True))
    ]
    assert rows == json.loads(run(SHOW, *which, "--json").output)


@pytest.mark.parametrize(("first", "second"), list(combinations(ALL, 2)))
def test_differences_are_those_of_sets(first: str, second: str) -> None:
    """Against plain sets made from the steps' JSON."""
    for a, b in zip(seen(first), seen(second), strict=True):
        found, steps = compare(a, b), (a.step.to_dict(), b.step.to_dict())
        held = [{s["frame"] for s in step["slots"] if s["role"] != "memory"} for step in steps]
        only = [{n for kind, n in found.of(Mark.ONLY, side) if kind == "frame"} for side in (0, 1)]
        assert only == [held[0] - held[1], held[1] - held[0]]
        away = [
            {
                s["frame"]: step["placement"]["block"][-1] - p
                for s, p in zip(step["slots"], step["placement"]["slots"], strict=True)
            }
            | {step["start"] + i: step["placement"]["block"][-1] - p for i, p in enumerate(step["placement"]["block"])}
            for step in steps
            if not any(s["role"] == "memory" for s in step["slots"])
        ]
        if len(away) == 2:
            moved = {n for _, n in found.of(Mark.MOVED)}
            assert moved == {n for n in away[0].keys() & away[1].keys() if away[0][n] != away[1][n]}
            assert moved == {n for _, n in found.of(Mark.MOVED, 1)}


def test_a_strategy_does_not_differ_from_itself() -> None:
    for name in ALL:
        assert all(compare(a, b).same for a, b in zip(seen(name), seen(name), strict=True))


def made(first: str, second: str, block: int) -> list[tuple[str, int]]:
    return compare(seen(first)[block], seen(second)[block]).of(Mark.MADE)


def test_what_was_averaged_or_encoded_otherwise_is_told() -> None:
    assert made("memrope", "memrope-released", 4) == [("memory", 0), ("memory", 1)]
    assert made("memrope", "memrope-released", 3) == []
    fold, drop = "online ema:pool=frame,displaced=fold+keep", "online ema:pool=frame,displaced=drop+keep"
    assert made(fold, drop, 20) == [("memory", 0), ("memory", 1)]
    kept, again = "absolute sink:window=12,sink=3+keep", "longlive"
    assert made(kept, again, 10) == []
    assert made(kept, again, 11) == [("frame", n) for n in range(27, 33)]
    assert made("longlive-released", again, 11) == [("frame", n) for n in range(27, 33)]
    assert made(kept, again, 13) == []  # all of them are gone again


def test_a_mere_shift_of_all_indices_is_no_difference() -> None:
    for a, b in zip(
        seen("online fifo:window=12+keep", "x[9s]"), seen("absolute fifo:window=12+keep", "x[9s]"), strict=True
    ):
        found = compare(a, b)
        assert found.same
        assert found.shift == max(0, a.step.block.end - 12)
    assert "cannot tell" in dict(differ(found))["in time"]


def numbers(text: str) -> set[int]:
    """The frames of a cell's list, the count of memory streams left out."""
    text = re.sub(r"\(\d+\)", "", text)
    return {n for a, b in re.findall(r"(\d+)(?:–(\d+))?", text) for n in range(int(a), int(b or a) + 1)}


@pytest.mark.parametrize("name", ALL)
def test_every_frame_that_goes_is_named(name: str) -> None:
    strategy = find_strategy(name)
    for view in seen(name):
        held = {s.frame for s in view.before if s.role != "memory"}
        held |= set(view.step.replay.frames if view.step.replay else ())
        rows = cells_of(view, window=strategy.policy.window, trained=21)
        named = [numbers(text.partition("drops ")[2].partition(": window")[0]) for _, text in rows]
        named += [numbers(text.partition(" into ")[0]) for word, text in rows if word == "memory"]
        assert set().union(*named) == held - {s.frame for s in view.step.slots if s.role != "memory"}


def test_cells_at_the_events_of_the_papers() -> None:
    rope, memory = (
        [dict(reversed(cells_of(view, window=12, trained=21))) for view in seen(name)]
        for name in ("infinity-rope", "memrope")
    )
    assert rope[11]["new prompt"] == "flush; keeps sink 0, 32; drops 28–31"
    assert rope[22]["RoPE cut"] == "67–68 at 19–20, not 4–5; 66 stays at 3; this block only"
    assert rope[20]["in time"] == "sink 0: 62 back, seen 5 back"
    assert memory[4]["memory"] == "3–7 into new memory (2), token by token"
    assert memory[5]["memory"] == "8–10 into memory (2), weight 0.01, 0.1, token by token"
    recache = cells_of(seen("longlive")[11], window=12, trained=21)[0]
    assert recache == ("new prompt", "recache 24–32, block by block; keeps sink 0–2")
    assert ("horizon", "keys up to 98 back; trained: 20") in cells_of(seen("longlive")[32], window=12, trained=21)
    assert any("share index 0" in text for _, text in cells_of(seen(ODD[0])[20], window=30, trained=21))


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_name_exactly_their_numbers(found: set[int]) -> None:
    assert numbers(f"frames {ranges(sorted(found))}") == found


def test_a_streams_weights_sum_to_one() -> None:
    for name in ("memrope", "memrope-released", ODD[1]):
        steps = data(html(name))["sides"][0]["steps"]
        mixes = [row for step in steps for row in step.get("mix", [])]
        assert mixes
        assert all(sum(w for _, w in row["old"] + row["new"]) == pytest.approx(1) for row in mixes)


SCRIPTS = (SHOW, "x[0.3s]", "a[1s#] | a[1s#] | b[0.4s] | b[3s#]", "|".join(f"p{n}[0.375s]" for n in range(30)))


@pytest.mark.parametrize("script", SCRIPTS, ids=["show", "one block", "cuts", "every block"])
@pytest.mark.parametrize("name", ALL)
def test_everything_draws(name: str, script: str) -> None:
    plan = Script.parse(script)
    blocks = list(blocks_of(plan, SPEC))
    single = paint(rolled(name, script=script), plan, SPEC)
    both = paint(rolled(name, "infinity-rope", script=script), plan, SPEC)
    for figure in (single, both):
        figure.canvas.draw()
        lines = [line.get_gid() for axes in figure.axes for line in axes.lines]
        for event, count in (
            ("cut", sum(b.cut for b in blocks)),
            ("switch", sum(b.switch and not b.cut for b in blocks)),
        ):
            assert sum(str(gid).endswith(f"-{event}") for gid in lines) == count * (2 if figure is single else 4)
    assert len(data(html(name, "memrope", script=script))["blocks"]) == len(blocks)


def cells(figure: Any, panel: str, role: str) -> set[tuple[int, int]]:
    """(block, number) pairs that lie in a panel's marks."""
    axes = next(a for a in figure.axes if a.get_label() == panel)
    found = set()
    for patch in (p for p in axes.patches if p.get_gid() == f"{panel}-{role}"):
        for polygon in patch.get_path().to_polygons():
            (left, low), (right, high) = polygon.min(0), polygon.max(0)
            found |= {(round((left + right) / 2), n) for n in range(400) if low - 1e-6 <= n <= high + 1e-6}
    return found


def test_the_overlay_marks_what_only_one_holds() -> None:
    figure = paint(rolled("infinity-rope", "longlive"), Script.parse(SHOW), SPEC)
    held = [
        {(v.step.block.index, s.frame) for v in seen(name) for s in v.step.slots}
        for name in ("infinity-rope", "longlive")
    ]
    assert cells(figure, "frames", "a") == held[0] - held[1]
    assert cells(figure, "frames", "b") == held[1] - held[0]
    assert cells(figure, "frames", "both") == held[0] & held[1]
    assert {b for b, _ in cells(figure, "a", "sink")} == set(range(2, 33))  # another distance from the third block on
    assert cells(figure, "a", "block") == {(22, 3)}  # the frame that a cut leaves behind
    assert {p.get_gid() for axes in figure.axes for p in axes.patches} >= {"away-a", "away-b"}
    legend = next(a for a in figure.axes if a.get_label() == "legend")
    assert {"only A holds it", "only B", "both", "sink", "recent"} <= {t.get_text() for t in legend.texts}


def test_a_png_opens_and_has_the_colours(tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    two.write_bytes(b"old")
    assert "33 blocks" in run(SHOW, "--preset", "memrope", "--png", str(one)).output
    assert run(SHOW, "--preset", "memrope", "--against", "infinite-forcing", "--png", str(two)).exit_code == 0
    for path, colours in ((one, ("#e69f00", "#cc79a7", "#56b4e9")), (two, (SIDES["a"], SIDES["both"], "#e69f00"))):
        with Image.open(path) as opened:
            assert opened.format == "PNG"
            assert opened.width == 1296
            shades = {rgb for count, rgb in opened.convert("RGB").getcolors(2**24) if count > 200}
        for colour in colours:
            wanted = tuple(bytes.fromhex(colour[1:]))
            assert any(max(abs(a - b) for a, b in zip(wanted, rgb, strict=True)) < 9 for rgb in shades), colour
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    shown = ["a[1s]", "--html", str(tmp_path / "page.html")]
    assert "no preset called 'memrop'. Did you mean 'memrope" in refused(*shown, "--against", "memrop")
    assert "averages keys" in refused(*shown, "--against", "absolute ema+keep")
    assert "two policies" in refused(*shown, "--against", "online sink+ema")
    assert "position table" in refused("a[200s]", *shown[1:], "--against", "self-forcing")
    assert "cannot be written: No such file" in refused("a[1s]", "--png", str(tmp_path / "none" / "x.png"))
    assert "cannot be written" in refused("a[1s]", "--html", str(tmp_path / "folder.html"))
    assert f"shows {LONGEST} at most" in refused(f"a[{LONGEST}s]", *shown[1:])
    assert f"shows {COLUMNS} at most" in refused(f"a[{COLUMNS}s]", "--png", str(tmp_path / "x.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_a_page_too_large_to_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.show.explain.page.LARGEST", 2**20)
    with pytest.raises(OutputError, match=r"would hold [2-9] MiB, more than 1"):
        html("relativistic fifo:window=300+keep", script="a[200s]")


def test_text_and_json_of_two() -> None:
    text = run(SHOW, "--preset", "infinity-rope", "--against", "longlive").output
    assert "B alone 1–2, 27–31" in text
    assert "the same, each block later" in text
    rows = json.loads(run(SHOW, "--preset", "memrope", "--against", "memrope-released", "--json").output)
    assert rows[4]["made"] == [["memory", 0], ["memory", 1]]
    assert rows[4]["only"] == [[], []]
    assert rows[4]["a"] == json.loads(run(SHOW, "--preset", "memrope", "--json").output)[4]


def coherent(*args: str) -> dict[str, Any]:
    found = run(*args, "--coherence", "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


def test_coherence_says_when_a_sink_looks_near_again() -> None:
    """60 frames: 57 after the sink the clock comes round as at no other distance that training never saw."""
    told = coherent("a red circle walks right[7.5s]", "--pos", "absolute", "--cache", "sink:window=6,sink=1+keep")
    assert [(row["start"], row["near"], row["far"]) for row in told["blocks"]] == [
        (b, b, b + 2) for b in range(3, 60, 3)
    ]
    first, *others = told["peaks"]
    assert (first["frame"], first["distance"], first["role"], first["cached"]) == (57, 57, "sink", 0)
    assert first["second"] == 57 / 8
    assert first["coherence"] == pytest.approx(0.760, abs=1e-3)
    assert {25, 38, 44} < {peak["distance"] for peak in others}
    assert all(first["coherence"] > peak["coherence"] > 0 for peak in others)
    assert told["blocks"][-1]["coherence"] == first["coherence"]


def test_coherence_counts_what_is_seen_at_the_placed_indices() -> None:
    assert coherent(SHOW, "--preset", "infinity-rope")["peaks"] == []
    memory = coherent("a[6s]", "--preset", "memrope")
    assert {(row["near"], row["far"]) for row in memory["blocks"] if row["role"] == "memory"} == {(5, 8)}
    assert memory["peaks"] == []
    jump = coherent(SHOW, "--preset", "infinity-rope-released")
    assert [(peak["frame"], peak["distance"]) for peak in jump["peaks"]] == [(66, 45)]
    assert [row["far"] for row in jump["blocks"] if row["block"] == 22] == [47]
    plain = coherent("a[6s]", "--preset", "self-forcing")
    assert plain["blocks"] == plain["peaks"] == []


def test_coherence_as_a_table_is_short() -> None:
    drifting = ("a[60s]", "--pos", "absolute", "--cache", "sink:window=12,sink=3+keep", "--coherence")
    text = run(*drifting).output
    assert len(text.splitlines()) < 22
    assert re.search(r"^63 +7\.88 +63 +0\.81 +sink 0 *$", text, re.M)
    assert len(run(*drifting, "--all").output.splitlines()) > 160
    assert (
        "No distance is as long as the 21 trained frames" in run("a[9s]", "--preset", "memrope", "--coherence").output
    )
    assert "no sinks and no memory" in run("a[9s]", "--preset", "self-forcing", "--coherence").output


@pytest.mark.parametrize("other", [("--png", "x.png"), ("--html", "x.html"), ("--against", "memrope")])
def test_coherence_stands_alone(other: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Leave out" in refused("a[3s]", "--coherence", *other)
    assert list(tmp_path.iterdir()) == []


def test_the_documentation_shows_every_preset() -> None:
    docs = Path(__file__).parent.parent / "docs"
    text = (docs / "strategies.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\w-]+)$", text, re.M) == list(PRESETS)
    pictures = re.findall(r"\]\((strategies/.*?\.png)\)", text)
    assert {(docs / path) for path in pictures} == set((docs / "strategies").iterdir())
    assert all((docs / path).stat().st_size < 60_000 for path in pictures)
    commands = re.findall(r"^`rollout explain \"\$SCRIPT\" (.*) --png docs/(.*)`$", text, re.M)
    assert {path for _, path in commands} == set(pictures) - {"strategies/page.png"}
    assert {words.split()[1] for words, _ in commands} == set(PRESETS)


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from rollout.cli import app\n"
        f"try: app(['explain', 'a[3s] | b[3s#]', '--png', {str(tmp_path / 'x.png')!r}, '--html', {str(tmp_path / 'x.html')!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'av', 'diffusers'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_prompts_are_text_and_nothing_comes_from_elsewhere() -> None:
    text = html("memrope", "infinity-rope", script=f"{HOSTILE}[2s] | b[2s]")
    assert "<script>alert" not in text
    assert text.count("<script") == 2
    assert data(text)["prompts"][0] == " ".join(HOSTILE.split())
    assert not re.search(r"(https?:)?//\w+\.\w+", text.replace("http://www.w3.org/2000/svg", ""))


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that opens the page of strategies at 360 pixels, and whatever went wrong meanwhile."""
    contexts, wrong = [], []

    def show(*names: str, script: str = SHOW, **more: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html(*names, script=script), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="light", **more))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: wrong.append(dialog.message))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url))
        tab.goto(path.as_uri())
        return tab

    yield SimpleNamespace(show=show, wrong=wrong)
    for context in contexts:
        context.close()


def test_in_a_browser_arrow_keys_step_and_the_sentences_follow(opened: Any) -> None:
    tab = opened.show("infinity-rope")
    assert tab.inner_text("#where").startswith("Block 11: a new prompt")
    assert "flush; keeps sink 0, 32" in tab.inner_text("#say-0")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#where").startswith("Block 12")
    assert "flush" not in tab.inner_text("#say-0")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.inner_text("#where").startswith("Block 22: a cut")
    assert "67–68 at 19–20, not 4–5" in tab.inner_text("#say-0")
    tab.locator("#live", has_text="67–68 at 19–20").wait_for(state="attached", timeout=5_000)
    tab.focus("#at")
    tab.keyboard.press("ArrowLeft")
    assert tab.input_value("#at") == "21"
    assert "block 21 of 32" in tab.get_attribute("#at", "aria-valuetext")
    tab.locator("#shots button").nth(1).click()
    assert tab.inner_text("#where").startswith("Block 11")
    tab.locator(".map svg").hover(position={"x": 5, "y": 20})
    assert tab.inner_text("#where").startswith("Block 0")
    tab.click("#play")
    tab.locator("#at[aria-valuetext^='block 2 ']").wait_for(timeout=5_000)
    tab.click("#play")
    assert opened.wrong == []


def test_in_a_browser_the_ruler_shows_the_placement(opened: Any) -> None:
    tab = opened.show("infinity-rope", reduced_motion="reduce")
    for block in (11, 22, 23):
        tab.evaluate(
            f"const at = document.getElementById('at'); at.value = {block}; at.dispatchEvent(new Event('input'))"
        )
        step = seen("infinity-rope")[block].step
        shown = tab.evaluate(
            "[...document.querySelectorAll('#stage .tile')].map(t => [t.classList[1], Number(t.textContent),"
            "Number(t.querySelector('rect').getAttribute('x'))])"
        )
        order = sorted(zip(step.placement.slots + step.placement.block, range(99), strict=False))
        assert [label for _, label, _ in shown] == [s.frame for s in step.slots] + list(
            range(step.block.start, step.block.end)
        )
        places = [x for *_, x in sorted(shown, key=lambda one: one[2])]
        assert [shown[i][2] for _, i in order] == places
        gaps = [(b - a) / (y - x) for (a, b), ((x, _), (y, _)) in zip(pairwise(places), pairwise(order), strict=True)]
        assert max(gaps) - min(gaps) < 0.1  # one scale over the whole axis


def test_in_a_browser_two_rulers_mark_what_differs(opened: Any) -> None:
    tab = opened.show("infinity-rope", "longlive", reduced_motion="reduce")
    found = compare(seen("infinity-rope")[11], seen("longlive")[11])
    assert tab.locator("#stage .own-b").count() == len(found.of(Mark.ONLY, 1)) == 7
    assert tab.locator("#stage .own-a").count() == 0
    assert tab.locator("#stage .link.m").count() == len(found.of(Mark.MOVED)) == 1
    straight = tab.evaluate(
        "[...document.querySelectorAll('#stage .link:not(.m)')].map(l => l.x1.baseVal.value - l.x2.baseVal.value)"
    )
    assert straight == [0, 0, 0, 0]
    assert "B alone 1–2, 27–31" in tab.inner_text("#differ")
    assert opened.wrong == []


@pytest.mark.parametrize("names", [("memrope",), ("infinity-rope", "longlive"), ODD[:2]])
def test_in_a_browser_nothing_is_wider_than_a_phone(opened: Any, names: tuple[str, ...]) -> None:
    tab = opened.show(*names)
    for block in ("0", "4", "11", "21", "22", "32"):
        tab.evaluate(
            f"const at = document.getElementById('at'); at.value = {block}; at.dispatchEvent(new Event('input'))"
        )
        tab.wait_for_timeout(50)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert opened.wrong == []


def test_in_a_browser_a_long_script_stays_usable(opened: Any) -> None:
    script = f"a[{LONGEST // 2 * 0.375}s] | {HOSTILE}[{LONGEST // 2 * 0.375}s#]"
    text = html("memrope", "infinite-forcing", script=script)
    assert len(text) < 4 * 2**20
    assert text.count("<tr") < 60
    tab = opened.show("memrope", "infinite-forcing", script=script)
    assert tab.inner_text("#where").startswith("Block 1500: a cut")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.inner_text("#where").startswith("Block 2999")
    assert opened.wrong == []


def test_without_scripts_the_text_is_all_there(opened: Any) -> None:
    tab = opened.show("infinity-rope", java_script_enabled=False)
    assert not tab.is_visible("#step")
    assert "flush; keeps sink 0, 32" in tab.inner_text("table")
