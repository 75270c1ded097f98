"""Names and prompts that look like a page's own code, in every page that shows one: nothing runs, and they are read as text."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rollout import preset, registry
from rollout.benchmarks.leaderboard import write_leaderboard
from rollout.benchmarks.report import write_report
from rollout.benchmarks.study.build import build_study
from rollout.cli import app
from rollout.plan import simulate
from rollout.script import Script
from rollout.show.explain.picture import told
from rollout.show.live.wire import Order
from rollout.strategies.presets import Preset
from rollout.strategy import Strategy
from rollout.timeline import blocks_of
from tests.browsing import becomes, painted
from tests.finished_run import BACKEND, MACHINE, write_run
from tests.test_escapes import backend
from tests.test_export import finished

RUN = "</script><script>ran()</script><img src=x onerror=ran()>"
PROMPT = f"p {RUN}\"'><svg onload=ran()> `${{ran()}}` {{{{7*7}}}} <!-- &amp"
"""As a prompt, in one line and without characters of the grammar."""
NAME = f'n {RUN}" onmouseover=ran() "'
"""As the name of a strategy, a suite, a metric or a folder's owner."""


@contextmanager
def visited(browser: Any, address: str) -> Iterator[Any]:
    """A tab at an address: in the end nothing of a name has run, and no element or attribute is one's."""
    context = browser.new_context(viewport={"width": 900, "height": 800})
    context.add_init_script("window.times = 0; window.ran = () => { window.times += 1; };")
    tab, asked = context.new_page(), []
    tab.on("dialog", lambda dialog: asked.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url) if request.url.endswith("/x") else None)
    tab.goto(address)
    try:
        yield tab
        painted(tab)
        assert asked == []
        assert tab.evaluate("window.times") == 0
        foreign = "img[src=x], svg[onload], [onerror], [onmouseover], a[href^='javascript']"
        assert tab.evaluate(f"[...document.querySelectorAll(`{foreign}`)].map(e => e.outerHTML)") == []
        assert tab.evaluate("[...document.scripts].map(s => s.text.trim()).filter(t => t.startsWith('ran('))") == []
    finally:
        context.close()


def page_text(tab: Any) -> str:
    """All that a page has as text, its own code and styles left out, and its titles and labels."""
    return str(
        tab.evaluate(
            """[...document.querySelectorAll("*")].filter(e => !["SCRIPT", "STYLE"].includes(e.tagName)).flatMap(e => [
                ...[...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data),
                e.title?.baseVal ?? e.title, e.ariaLabel, e.alt, e.value]).join("").replace(/\\s+/g, " ")"""
        )
    )


def hostile_run(folder: Path, suite: str) -> Path:
    """A finished run of two strategies whose every name, sentence and prompt is hostile; its videos have one frame."""
    scores = {name: {NAME: np.linspace(at, at + 1, 12)[:, None]} for at, name in ((0.0, "plain"), (0.5, NAME))}
    backend, machine = BACKEND | {"weights": NAME}, MACHINE | {"processor": NAME}
    claim = {"says": NAME, "source": NAME, "better": NAME, "than": "plain", "metric": NAME}
    metric = {"name": NAME, "unit": NAME, "better": "higher", "about": NAME, "source": NAME, "matters": 0.05}
    strategy, spec = preset("infinity-rope"), registry.find("backends", "sprites").spec()
    steps = list(told(simulate(strategy, blocks_of(Script.parse(PROMPT + "[1.5s]"), spec), spec)))
    said = {name: {"spec": strategy.to_dict(), "text": str(strategy), "steps": steps} for name in ("plain", NAME)}
    write_run(
        folder,
        scores,
        controls=said,  # type: ignore[arg-type]
        suite=suite,
        about=NAME,
        scripts=[f"{PROMPT} {n}[1.5s]" for n in range(12)],
        backend=backend,
        machine=machine,
        claims=[claim],
        metrics=[metric],
        answers={"obey": NAME},
        skipped={NAME: NAME},
        arguments=["--add", NAME],
    )
    for cell in json.loads((folder / "plan.json").read_text())["cells"]:
        home = folder / "cells" / cell["address"]
        if cell["prompt"] < 2:
            finished(home / "run", PROMPT + "[1.5s]")
            for path in (home / "run").iterdir():
                path.rename(home / path.name)
    return folder


@pytest.mark.parametrize("text", [f"<p>{RUN}", f'<p title="{NAME}">', f"<p>{PROMPT}"])
def test_in_a_browser_what_is_not_escaped_is_seen(browser: Any, tmp_path: Path, text: str) -> None:
    """A page without a policy, or these tests could not fail."""
    (tmp_path / "page.html").write_text(text)
    with pytest.raises(AssertionError), visited(browser, (tmp_path / "page.html").as_uri()):
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_run(tmp_path_factory.mktemp("runs") / "run", NAME)


def test_in_a_browser_the_report_shows_names_and_prompts_as_text(browser: Any, runs: Path) -> None:
    with visited(browser, write_report(runs).as_uri()) as tab:
        tab.wait_for_function("[...document.querySelectorAll('[data-spec]')].every(c => c.querySelector('svg'))")
        text = page_text(tab)
        assert text.count(NAME) > 10
        assert PROMPT in text
        tab.select_option("#prompt", "1")


def test_in_a_browser_the_leaderboard_shows_names_as_text(browser: Any, runs: Path, tmp_path: Path) -> None:
    write_leaderboard([runs], tmp_path / "best")
    with visited(browser, (tmp_path / "best" / "index.html").as_uri()) as tab:
        assert page_text(tab).count(NAME) > 5


def test_in_a_browser_a_study_shows_prompts_as_text(browser: Any, tmp_path: Path) -> None:
    for name in ("memrope", "longlive"):
        finished(tmp_path / name, f"{PROMPT}[1s] | {PROMPT} 2[1s]", name)
    study = build_study([tmp_path / "memrope", tmp_path / "longlive"], tmp_path / "study")
    with visited(browser, study.page.as_uri()) as tab:
        tab.fill("#name", NAME)
        tab.press("#name", "Enter")
        tab.wait_for_selector("#trial:not([hidden])")
        becomes(tab, f"document.body.innerText.includes({json.dumps(PROMPT)})")


@pytest.mark.parametrize("more", [(), ("--against", "longlive")])
def test_in_a_browser_an_explanation_shows_the_prompts_as_text(
    browser: Any, tmp_path: Path, more: tuple[str, ...]
) -> None:
    name = "n</script><script>ran()</script><img/src=x/onerror=ran()>"  # one of several words would be a composition
    registry.register("presets", name)(Preset(preset("memrope"), "", ""))
    page = tmp_path / "page.html"
    words = ["explain", f"{PROMPT}[2s] | b[2s]", "--preset", name, "--html", str(page), *more]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    with visited(browser, page.as_uri()) as tab:
        text = page_text(tab)
        assert PROMPT in text
        assert (name in text) or not more


def test_in_a_browser_a_live_session_shows_names_and_prompts_as_text(browser: Any, tmp_path: Path) -> None:
    live = pytest.importorskip("tests.test_live")
    text = "relativistic sink:window=7,sink=1+flush"
    registry.register("presets", NAME)(Preset(Strategy.from_text(text), "", ""))
    with live.serving(tmp_path / "out", backend(), (NAME, "infinity-rope")) as at, visited(browser, at.origin) as tab:
        tab.wait_for_selector("article[data-frame]")
        tab.fill("#prompt", PROMPT)
        tab.press("#prompt", "Enter")
        live.shows(tab, 1, PROMPT)
        becomes(tab, f"document.querySelector('#log li').textContent.includes({json.dumps(PROMPT)})")
        at.session.order(Order("use", 2, text))
        becomes(tab, f"document.querySelector('#log li').textContent.includes({json.dumps(NAME)})")
        tab.select_option("[data-pane='1'] select", label=NAME)
        assert page_text(tab).count(NAME) > 3
