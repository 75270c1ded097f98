"""The pictures of `rollout explain`: that page, PNG and sentences say what the steps say, and how the page behaves."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise, product
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
from rollout.errors import OutputError, RolloutError
from rollout.registry import registered
from rollout.script import Script
from rollout.show.explain.cells import cells as cells_of
from rollout.show.explain.cells import differ
from rollout.show.explain.overlay import COLUMNS, SIDES, paint
from rollout.show.explain.page import LONGEST, Side, page, sides
from rollout.show.explain.views import Mark, Sight, compare, sights
from rollout.show.explain.words import ranges
from rollout.strategies.presets import PRESETS, Preset
from rollout.strategy import Strategy
from rollout.timeline import blocks_of
from rollout.views import Horizon
from tests.browsing import becomes, painted
from tests.conftest import seldom

SPEC = spec()
SHOW = "a red circle walks right on navy[4s] | a red circle jumps on navy[4s] | a red circle spins on olive[4s#]"
HOSTILE = '</script><script>alert("1")</script> & <b>x</b> \u2028'
ODD = (
    "relativistic fifo:window=30+recache:sink=rebuild,attention=bidirectional",
    "relativistic:head=12,cut=40/0 ema:window=12,sink=3,rates=0.01/0.1/0.5+flush:last=2",
    "absolute sink:window=9,sink=0+flush:last=0",
)
PLAIN = [
    name
    for name, entry in PRESETS.items()
    if set(entry.strategy.refinements) <= {"spectrum"} and entry.strategy.policy.kind in ("fifo", "sink", "ema")
]
"""The presets whose passes read all that is cached, whole frames at their own dates; the others are REFINED ones."""
ALL = (*PLAIN, *ODD)
ARCHIVE, DEEP = "absolute archive:window=12+keep", "absolute deep:dates=own+keep"
ROLLING = "online sink:window=24,sink=3+keep reads=newest order=rolling"
COMMIT = "absolute sink:window=12,sink=3+keep reads=commit:recent=9"
REFINED = (ARCHIVE, DEEP, ROLLING, COMMIT)
AVERAGES = (
    "absolute anchor+keep",
    "online ema-sink+keep",
    "online deep+flush",
    "absolute deep:recent=3,budget=14+keep",
)


def run(*args: str) -> Result:
    # another test in this process may have set the width of a terminal
    return CliRunner().invoke(app, ["explain", *args], env={"COLUMNS": "160"})


def refused(*args: str) -> str:
    result = run(*args)
    assert isinstance(result.exception, RolloutError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def horizon(script: str) -> Horizon:
    return Horizon(4, 0, Script.parse(script).count(SPEC) - 1)


def seen(name: str, script: str = SHOW) -> list[Sight]:
    return list(sights(Strategy.of(name), blocks_of(Script.parse(script), SPEC), SPEC, horizon=horizon(script)))


def rolled(*names: str, script: str = SHOW) -> list[Side]:
    return sides([(name, Strategy.of(name)) for name in names], Script.parse(script), SPEC, horizon=horizon(script))


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


def explained(name: str, *args: str, script: str = SHOW) -> str:
    """What the command prints for a strategy with refinements, which goes by a preset's name."""
    with registered("presets", "mine", Preset(Strategy.of(name), "", "")):
        result = run(script, "--preset", "mine", *args)
    assert result.exit_code == 0, result.exception
    return result.output


def steps(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(explained(name, "--json"))
    return rows


def rows_of(name: str, block: int) -> dict[str, str]:
    """The rows of a block, of a word that comes twice the first."""
    window = Strategy.of(name).policy.window
    return dict(reversed(cells_of(seen(name)[block], window=window, trained=21)))


def as_json(block: list[Any], step: dict[str, Any], number: int) -> dict[str, Any]:
    """A page's block in the form of --json: what is not read comes back to its place in the cache."""
    dates = dict(step.get("dates", ()))
    slots = [(role, frame, dates.get(n), index) for n, (role, frame, index) in enumerate(step["slots"])]
    for place, role, frame, date in step.get("unread", ()):
        slots.insert(place, (role, frame, date, None))
    names = ("sink", "memory", "recent")
    return {
        "block": number,
        "start": block[0],
        "prompt": block[1],
        "switch": bool(block[2]),
        "cut": bool(block[3]),
        "slots": [
            {"role": names[role], "frame": frame} | ({} if date is None else {"date": date})
            for role, frame, date, _ in slots
        ],
        "placement": {"slots": [index for *_, index in slots], "block": step["own"] + step.get("ahead", [])},
    }


@pytest.mark.parametrize("name", [*REFINED, *AVERAGES])
def test_the_page_of_a_refined_strategy_holds_what_json_says(name: str) -> None:
    page_data = data(html(name))
    drawn = page_data["sides"][0]["steps"]
    for n, (row, block, step) in enumerate(zip(steps(name), page_data["blocks"], drawn, strict=True)):
        commit = row.pop("commit", None)
        assert row == as_json(block, step, n)
        assert ("clean pass" in dict(step["says"])) is (commit is not None)
        if commit is not None:
            read = {s["frame"] for s, p in zip(row["slots"], commit["slots"], strict=True) if p is not None}
            assert numbers(step["read"]) == read


def test_an_archive_is_stored_and_its_copies_are_read() -> None:
    """The copies run to and fro over the nine frames of the archive (Rolling Sink, arXiv 2602.07775)."""
    for row in steps(ARCHIVE):
        oldest = row["start"] + 3 - 12
        for slot, index in zip(row["slots"], row["placement"]["slots"], strict=True):
            date = slot.get("date", slot["frame"])
            assert index == (date if date >= oldest else None)
            if "date" in slot:
                assert slot["role"] == "recent"
                assert slot["frame"] == [*range(9), *reversed(range(9))][date % 18]
        assert "commit" not in row
    row = rows_of(ARCHIVE, 8)
    assert row["archive"] == "0–2 as 18–20: copies in place; drops 18–20"
    assert row["cache"] == "drops 5–3 as 12–14: window 12 is full"
    assert row["unread"] == "sink 0–8: stored, not read"
    assert row["in time"] == "2–0 as 15–17, 0–2 as 18–20: 24–26 back, seen 6–11 back"
    assert rows_of(ARCHIVE, 4)["cache"] == "nothing leaves: 9 + 3 of 12, 3 more stored"
    table = explained(ARCHIVE)
    assert re.search(r"^ +8 +24-26 +24-26 +\(0-8 not read\) +2-0 as 15-17 0-2 as 18-20 21-23 +15-23 *$", table, re.M)
    assert "clean pass" not in table
    assert "Holds sink 0–8, 2–0 as 15–17, 0–2 as 18–20, 21–23, at 15–23;" in html(ARCHIVE)


def test_chosen_tokens_say_of_which_frames_and_by_what() -> None:
    rows = [rows_of(DEEP, block) for block in range(33)]
    text = "the best 2 frames' worth of tokens of {}, by participation, each at its own index"
    assert rows[7]["picks"] == text.format("10–19")
    assert rows[9]["picks"] == text.format("memory (2), 20–25")
    assert [n for n, row in enumerate(rows) if "picks" in row][:4] == [7, 9, 11, 13]
    assert "each at its own index" not in rows_of("online deep+keep", 7)["picks"]
    at_seven = cells_of(seen(DEEP)[7], window=21, trained=21)
    assert ("in time", "sink 0–9 as 5–14: 14–23 back, seen 9–18 back") in at_seven
    assert ("in time", "memory: each token at its own index") in at_seven
    assert not any("share index" in says for _, says in at_seven)
    assert [slot["date"] for slot in steps(DEEP)[7]["slots"][:10]] == list(range(5, 15))
    assert data(html(DEEP))["sides"][0]["steps"][7]["picked"] == [10, 11]
    table = explained(DEEP)
    assert re.search(r"^ +7 +21-23 +21-23 +0-9 +5-14 +best 2 of 10-19 +own +20 +20 *$", table, re.M)
    assert re.search(r"^ +8 +24-26 +24-26 +0-9 +5-14 +≤19 ≤19 +own +20-23 +20-23 *$", table, re.M)


def test_blocks_that_are_denoised_together_are_shown_ahead() -> None:
    rows, drawn = steps(ROLLING), data(html(ROLLING))["sides"][0]["steps"]
    for n, (row, step) in enumerate(zip(rows, drawn, strict=True)):
        assert len(row["placement"]["block"]) == 3 * min(4, 33 - n)
        assert len(step.get("ahead", ())) == 3 * min(3, 32 - n)
    assert rows_of(ROLLING, 3)["together"] == "with blocks 4–6, each a step noisier, at 12–20"
    assert rows_of(ROLLING, 31)["together"] == "with block 32, a step noisier, at 18–20"
    assert "together" not in rows_of(ROLLING, 32)
    assert rows_of(ROLLING, 4)["unread"] == "3–5: stored, not read by noisy passes"
    assert rows_of(ROLLING, 8)["clean pass"] == "reads 6–23 alone, at 0–17; own frames at 18–20"
    assert rows[8]["commit"] == {"slots": [None] * 3 + list(range(18)), "block": [18, 19, 20]}
    table = explained(ROLLING)
    assert re.search(r"^ +8 +24-26 \(ahead 27-35\) +9-11 \(12-20\) .*18-23 \(6-17 not read\)", table, re.M)
    assert "reads 6-23 alone" in table
    with registered("presets", "mine", Preset(Strategy.of(ROLLING), "", "")):
        assert "denoises 4 blocks at once" in refused("a[0.75s]", "--preset", "mine")


def test_what_the_clean_pass_reads_is_told_where_it_reads_otherwise() -> None:
    for row in steps(COMMIT):
        frames, noisy = [slot["frame"] for slot in row["slots"]], row["placement"]["slots"]
        read = [index if frame >= row["start"] - 9 else None for frame, index in zip(frames, noisy, strict=True)]
        assert row.get("commit", row["placement"])["slots"] == read
        assert ("commit" in row) is (row["block"] > 3)
    assert rows_of(COMMIT, 8)["clean pass"] == "reads 18–23 alone"
    alone = "absolute sink:window=12,sink=3+keep reads=commit:recent=0"
    assert rows_of(alone, 8)["clean pass"] == "reads its own block alone"
    table = explained(COMMIT)
    assert "clean pass" in next(line for line in table.splitlines() if line.startswith("block"))
    assert re.search(r"^ +6 +18-20 .* reads 12-17 alone *$", table, re.M)
    assert "the same, each block later" in table


def test_a_clean_pass_that_reads_otherwise_is_a_difference() -> None:
    plain = "absolute sink:window=12,sink=3+keep"
    early, late = (compare(seen(plain)[n], seen(COMMIT)[n]) for n in (3, 8))
    assert early.same
    assert not late.same
    assert differ(late) == [
        ("held", "both 0–2, 18–23"),
        ("clean pass", "A reads sink 0–2, 18–23; B reads 18–23"),
    ]
    rows = json.loads(run(SHOW, "--preset", "longlive", "--against", COMMIT, "--json").output)
    assert rows[8]["b"] == steps(COMMIT)[8]


def test_a_copy_is_told_from_the_frame_that_it_copies() -> None:
    """At block 5 the archive's frames 6-8 are read, and again as 9-11."""
    archive, plain = seen(ARCHIVE)[5], seen("absolute fifo:window=12+keep")[5]
    assert [key for key in archive.indices() if key[0] == "copy"] == [("copy", 9), ("copy", 10), ("copy", 11)]
    assert dict(differ(compare(archive, plain)))["held"] == "A alone copies dated 9–11; B alone 9–11; both 6–8, 12–14"
    assert compare(archive, archive).same


def test_sinks_that_average_or_are_pinned_say_so() -> None:
    assert rows_of("online ema-sink+keep", 4)["sinks"] == "6–8 into sink 0–2, weight 0.001"
    pinned = [n for n in range(33) if "sinks" in rows_of("absolute anchor+keep", n)]
    assert pinned == [24]
    assert rows_of("absolute anchor+keep", 24)["sinks"] == "69–71 pinned"


@pytest.mark.parametrize("name", [*REFINED, *AVERAGES])
def test_a_refined_strategy_draws(name: str) -> None:
    plan = Script.parse(SHOW)
    single, pair = paint(rolled(name), plan, SPEC), paint(rolled(name, "memrope"), plan, SPEC)
    for figure in (single, pair):
        figure.canvas.draw()
    for role, frames in (("unread", lambda sight: {slot.frame for slot in sight.unread}), ("ahead", lambda s: s.ahead)):
        expected = {(n, frame) for n, sight in enumerate(seen(name)) for frame in frames(sight)}
        if role == "unread":  # an archive's frame that a copy shows is no empty place
            expected -= {(n, slot.frame) for n, sight in enumerate(seen(name)) for slot, _ in sight.read}
        assert cells(single, "holds", role) == expected
        assert bool(cells(single, "dates", role)) is (role == "ahead" and bool(expected))


def test_a_page_carries_only_the_code_that_it_needs() -> None:
    plain, refined = html("memrope"), html(DEEP)
    for word in ("//#", "Written", "hatched", "What the cached frames read"):
        assert word not in plain
        assert (word in refined) is (word != "//#")
    assert "<code>newest</code>" in html(ROLLING)  # its rules come with what they say
    assert "<code>rolling</code>" in html(ROLLING)


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


@pytest.mark.parametrize("name", [*ALL, *REFINED, *AVERAGES])
def test_every_frame_that_goes_is_named(name: str) -> None:
    strategy = Strategy.of(name)
    for sight in seen(name):
        held = {s.frame for s in sight.before if s.role != "memory"}
        held |= set(sight.step.replay.frames if sight.step.replay else ())
        rows = cells_of(sight, window=strategy.policy.window, trained=21)
        rows = [(word, re.sub(r"\d+(–\d+)? as \d+(–\d+)?", "", text)) for word, text in rows]  # copies go, frames stay
        named = [numbers(text.partition("drops ")[2].partition(": window")[0]) for _, text in rows]
        named += [numbers(text.partition(" into ")[0]) for word, text in rows if word in ("memory", "sinks")]
        named += [
            numbers(text.partition("tokens of ")[2].partition(", by")[0]) for word, text in rows if word == "picks"
        ]
        stays = {s.frame for s in sight.step.slots if s.role != "memory"}  # frames become sinks, or candidates again
        assert set().union(*named) - stays == held - stays


def test_cells_at_the_events_of_the_papers() -> None:
    rope, memory = (
        [dict(reversed(cells_of(sight, window=12, trained=21))) for sight in seen(name)]
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


SCRIPTS = ("x[0.3s]", "a[1s#] | a[1s#] | b[0.4s] | b[3s#]", "|".join(f"p{n}[0.375s]" for n in range(30)))


@pytest.mark.parametrize(
    ("name", "script"),
    seldom(
        [*product(ALL, (SHOW,)), *product(("longlive", "memrope", ODD[0]), SCRIPTS)],
        [*product(("infinity-rope", "memrope", *ODD), (SHOW,)), *product(("longlive",), SCRIPTS)],
    ),
)
def test_everything_draws(name: str, script: str) -> None:
    plan = Script.parse(script)
    blocks = list(blocks_of(plan, SPEC))
    single = paint(rolled(name, script=script), plan, SPEC)
    both = paint(rolled(name, "infinity-rope", script=script), plan, SPEC)
    both.canvas.draw()
    for figure in (single, both):
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
        {(sight.step.block.index, s.frame) for sight in seen(name) for s in sight.step.slots}
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

    def show(*names: str, script: str = SHOW, text: str | None = None, **more: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(text or html(*names, script=script), encoding="utf-8")
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
    tab.locator("#live", has_text="67–68 at 19–20").wait_for(state="attached")
    tab.focus("#at")
    tab.keyboard.press("ArrowLeft")
    assert tab.input_value("#at") == "21"
    assert "block 21 of 32" in tab.get_attribute("#at", "aria-valuetext")
    tab.locator("#shots button").nth(1).click()
    assert tab.inner_text("#where").startswith("Block 11")
    tab.locator(".map svg").hover(position={"x": 5, "y": 20})
    becomes(tab, "document.getElementById('where').textContent.startsWith('Block 0')")
    tab.click("#play")
    becomes(tab, "+document.getElementById('at').value >= 2")
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


@pytest.mark.parametrize(
    "names", [("memrope",), ("infinity-rope", "longlive"), ODD[:2], ("rolling-sink", "rolling-forcing")]
)
def test_in_a_browser_nothing_is_wider_than_a_phone(opened: Any, names: tuple[str, ...]) -> None:
    tab = opened.show(*names)
    for block in ("0", "4", "11", "21", "22", "32"):
        tab.evaluate(
            f"const at = document.getElementById('at'); at.value = {block}; at.dispatchEvent(new Event('input'))"
        )
        painted(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        hidden = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
        assert max(tab.evaluate(hidden)) <= 0, block  # nothing to scroll sideways for, not inside the page either
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.emulate_media(color_scheme="dark")
    becomes(tab, f"getComputedStyle(document.body).backgroundColor !== {light!r}")
    assert opened.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_two_strategies_fit_a_desk_and_a_phone(opened: Any, scheme: str) -> None:
    tab = opened.show("infinity-rope", "longlive")
    tab.emulate_media(color_scheme=scheme)
    for width in (1280, 360):
        tab.set_viewport_size({"width": width, "height": 800})
        painted(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        cell = tab.locator("td[data-of='B: longlive']").first
        cell.scroll_into_view_if_needed()
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        named = tab.evaluate("getComputedStyle(document.querySelector('td[data-of]'), '::before').content")
        assert named == ("none" if width == 1280 else '"A: infinity-rope"')
    ink, paper = (
        tab.evaluate(f"getComputedStyle(document.querySelector('.losses')).{side}")
        for side in ("color", "backgroundColor")
    )
    assert ink != paper
    assert tab.inner_text(".losses").startswith("The cut in block 22 (8.25s) moves no index under positions 'absolute'")
    assert opened.wrong == []


def test_in_a_browser_a_long_script_stays_usable(opened: Any) -> None:
    script = f"a[{LONGEST // 2 * 0.375}s] | {HOSTILE}[{LONGEST // 2 * 0.375}s#]"
    text = html("memrope", "infinite-forcing", script=script)
    assert len(text) < 4 * 2**20
    assert text.count("<tr") < 60
    tab = opened.show(text=text)
    assert tab.inner_text("#where").startswith("Block 1500: a cut")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.inner_text("#where").startswith("Block 2999")
    assert opened.wrong == []


def at_block(tab: Any, block: int) -> None:
    tab.evaluate(f"const at = document.getElementById('at'); at.value = {block}; at.dispatchEvent(new Event('input'))")


def test_in_a_browser_what_is_read_and_what_is_stored_are_told_apart(opened: Any) -> None:
    tab = opened.show(ARCHIVE, ROLLING, reduced_motion="reduce")
    at_block(tab, 8)
    for number, name in enumerate((ARCHIVE, ROLLING)):
        unread = seen(name)[8].unread
        assert tab.locator(f"#unread-{number} span").all_inner_texts() == [str(slot.frame) for slot in unread]
    tiles = tab.evaluate(
        "[...document.querySelectorAll('#stage .tile')].map(t => [t.classList[1], t.querySelector('text').textContent])"
    )
    copies, read = ["2", "1", "0", "0", "1", "2"], [str(frame) for frame in (21, 22, 23)]
    own = [["block", str(frame)] for frame in (24, 25, 26)]
    assert tiles[:12] == [["recent", frame] for frame in copies + read] + own
    assert tiles[12:] == [
        *(["sink", str(frame)] for frame in range(3)),
        *(["recent", str(frame)] for frame in range(18, 24)),
        *own,
        *(["ahead", str(frame)] for frame in range(27, 36)),
    ]
    assert tab.locator("#stage .dated").count() == len(copies)
    assert "0–2: written with block 0, which read itself alone" in tab.text_content("#written-0")
    assert "21–23: written with block 7, which read 3–20" in tab.text_content("#written-1")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.wrong == []


def test_in_a_browser_frames_that_were_encoded_again_say_so(opened: Any) -> None:
    tab = opened.show("absolute sink:window=12,sink=3+recache reads=commit", reduced_motion="reduce")
    at_block(tab, 12)
    assert "30–32: encoded again at block 11" in tab.text_content("#written-0")
    assert "0–2: written with block 0, which read itself alone" in tab.text_content("#written-0")
    assert "33–35: written with block 11" in tab.text_content("#written-0")
    assert opened.wrong == []


def test_without_scripts_the_text_is_all_there(opened: Any) -> None:
    tab = opened.show("infinity-rope", java_script_enabled=False)
    assert not tab.is_visible("#step")
    assert "flush; keeps sink 0, 32" in tab.inner_text("table")
