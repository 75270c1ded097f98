"""What Markdown shows of names: themselves, in one place, with no mark of their own."""

import html
import re
from dataclasses import fields
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rollout.benchmarks.compare.table import Line, markdown
from rollout.benchmarks.markdown import as_code, as_text
from rollout.benchmarks.speed import flat, overhead, rollouts

HOSTILE = "<img src=x onerror=alert(1)> a|b\n\n# `c` *d* _e_ [f](javascript:g) &lt; ~~h~~ $i$ </code> ![j](k) \\"
LINE = " ".join(HOSTILE.split())
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
"""As GitHub reads it."""
TEXTS = st.text(st.sampled_from("ab1 \n\t\\`*_[](){}|~$#!<>&;:.-+=\"'\x07é")) | st.text()


def words(page: str) -> str:
    """What a page of HTML shows, line breaks aside."""
    return " ".join(html.unescape(re.sub("<[^>]*>", "", page)).split())


@given(TEXTS)
@example(HOSTILE)
@example("1. a")
@example("12) a")
@example("+ a")
@example("---")
@example("# a #")
def test_a_text_is_shown_as_it_is_wherever_it_stands(text: str) -> None:
    line = re.sub("[\x00-\x1f\x7f-\x9f]", "�", " ".join(text.split()))
    shown = as_text(text)
    assert "\n" not in shown
    page = PARSER.render(shown)
    assert html.unescape(page) == (f"<p>{line}</p>\n" if line else "")
    assert page.count("<") == 2 * bool(line)
    code = PARSER.render(f"x {as_code(text)} x")
    assert words(code) == " ".join(f"x {line} x".split())
    assert re.sub("[^<>]*(<[^>]*>)[^<>]*", r"\1", code) == "<p><code></code></p>"
    table = PARSER.render(f"| a | b |\n|---|---|\n| {shown} | {as_code(text)} |\n")
    cells = re.findall("<td>(.*?)</td>", table)
    assert [words(cell) for cell in cells] == [line, line]
    assert table.count("<tr>") == 2
    assert "<" not in cells[0]


@pytest.mark.parametrize(
    "plain", ["self-forcing", "drift@X of 210 frames", "window=12,sink=3", "a_b", "0.5 px (arXiv 1)"]
)
def test_a_name_that_says_nothing_to_markdown_stays_readable(plain: str) -> None:
    assert as_text(plain) == plain
    assert as_code(plain) == f"`{plain}`"


def run(**fields: object) -> SimpleNamespace:
    record = SimpleNamespace(
        script=SimpleNamespace(text=HOSTILE), seed=0, backend=SimpleNamespace(name=HOSTILE), **fields
    )
    return SimpleNamespace(
        name=HOSTILE, record=record, segments=(), strategy=HOSTILE, folder=SimpleNamespace(name=HOSTILE)
    )


def test_a_comparison_shows_names_prompts_and_folders_as_text() -> None:
    page = PARSER.render(markdown([run(), run()], [Line(HOSTILE, HOSTILE, (1.0, 2.0), "neither")]))  # type: ignore[arg-type]
    assert set(re.findall("<(/?[a-z]+)", page)) <= {
        end + tag for tag in ["p", "code", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"] for end in ("", "/")
    }
    assert (
        re.findall("<(?!/)[^>]* [^>]*>", page)
        == ['<th style="text-align:right">'] * 2 + ['<td style="text-align:right">'] * 2
    )
    assert words(page).count(LINE) == 2 + 2 + 2 + 2 * 3
    assert page.count("<tr>") == 2


def test_tables_of_speed_show_names_as_text() -> None:
    point = flat.Point(1, 1.0, 1.0, 1, 1)
    row = overhead.Row("float32", 6, HOSTILE, 1.0, 1.0, 1.0, 1.0)
    for page in (
        flat.points_table({HOSTILE: [point]}),
        overhead.tables([row], []),
        rollouts.tables([rollouts.Row(HOSTILE, 6, *[1.0] * (len(fields(rollouts.Row)) - 2))]),
    ):
        cells = re.findall("<td>(.*?)</td>", PARSER.render(page))
        assert LINE in map(words, cells)
        assert "<" not in "".join(cells)
