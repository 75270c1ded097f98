"""What holds at which block is known in one place: plans, running rollouts, records and forks agree."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout import Script, Strategy, generate, preset
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.errors import CompositionError, RolloutError
from rollout.plan import steps
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.strategies import Flush, Keep, Recache
from rollout.strategies.presets import PRESETS
from rollout.timeline import Cut, Event, Once, Prompt, Timeline, Use, blocks_of, moments, reigns, retrace
from rollout.views import Horizon
from tests.conftest import micro_backend

A, B, C = "a red circle jumps", "a blue square spins on olive", "a red circle walks right"


@cache
def backend() -> Any:
    return micro_backend(torch.float32)


shots = st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 4), st.booleans()), min_size=1, max_size=4)
changes = st.one_of(
    st.sampled_from([A, B, C]).map(lambda text: Prompt((text,))),
    st.just(Cut()),
    st.sampled_from([Flush(), Flush(last=2), Keep(), Recache()]).map(Once),
    st.sampled_from(sorted(PRESETS)).map(lambda name: Use(preset(name))),
)
events = st.lists(st.builds(Event, st.integers(0, 9), changes), max_size=6)


def script_of(parts: list[tuple[str, int, bool]]) -> Script:
    text = " | ".join(f"{prompt}[{0.375 * n}s{'#' * cut}]" for prompt, n, cut in parts)
    return Script.parse(text, goes_on=True)


def planned(script: Script, name: str, happen: list[Event]) -> tuple[list[Any], Timeline]:
    timeline = moments(script, backend().spec, preset(name), happen)
    spec = backend().spec
    return list(steps(timeline, spec, horizon=Horizon(last=script.count(spec) - 1))), timeline


@settings(max_examples=40, deadline=None)
@given(shots, st.sampled_from(sorted(PRESETS)), events)
@example(((A, 1, False), (B, 1, False), (C, 2, False)), "dummy-forcing", [Event(3, Use(preset("dummy-forcing")))])
def test_a_rollout_has_the_slots_that_its_timeline_has(parts: Any, name: str, happen: list[Event]) -> None:
    script = script_of(parts)
    try:
        plan, timeline = planned(script, name, happen)
        run = generate(backend(), preset(name), script, events=happen)
    except CompositionError:  # a strategy that cannot take over
        return
    results = list(run)
    count = 2 if "heads" in preset(name).policy.needs else len(plan)  # then heads go apart, as they look
    assert [(r.block, r.slots, r.placement) for r in results][:count] == [
        (s.block, s.slots, s.placement) for s in plan[:count]
    ]
    assert run.timeline.log == timeline.log
    assert run.strategy == timeline.strategy
    blocks, prompts = retrace(script, backend().spec, run.timeline.log)
    assert blocks == tuple(r.block for r in results)
    assert [prompts[block.prompt] for block in blocks] == [r.prompts[0] for r in results]


@settings(max_examples=25, deadline=None)
@given(shots, st.sampled_from(sorted(PRESETS)), events)
def test_what_is_pushed_while_it_runs_is_what_the_log_repeats(parts: Any, name: str, happen: list[Event]) -> None:
    script = script_of(parts)
    try:
        run = generate(backend(), preset(name), script)
    except CompositionError:  # too short to roll
        return
    results = []
    for index in range(run.blocks):
        for event in happen:
            if event.block == index:
                with suppress(CompositionError):
                    push(run, event)
        results.append(next(run))
    log = [Event.from_dict(json.loads(json.dumps(event.to_dict()))) for event in run.timeline.log]
    assert log == run.timeline.log
    again = list(generate(backend(), preset(name), script, events=log))
    assert [(r.block, r.slots) for r in again] == [(r.block, r.slots) for r in results]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(again, results, strict=True))


def push(run: Any, event: Event) -> None:
    match event.change:
        case Prompt(texts):
            run.prompt(*texts)
        case Cut():
            run.cut()
        case Once(switch):
            run.switch(switch)
        case Use(strategy):
            run.use(strategy)


def test_of_two_changes_of_a_kind_the_last_counts_and_each_strategy_reigns_from_its_block() -> None:
    timeline = moments(Script.parse(f"{A}[3s]"), backend().spec, preset("memrope"))
    for text in (B, C):
        timeline.push(Prompt((text,)))
    assert next(timeline).texts == (C,)
    assert timeline.log == [Event(0, Prompt((C,)))]
    uses = [Event(5, Use(preset("longlive"))), Event(2, Use(preset("self-forcing")))]
    assert reigns(preset("memrope"), uses) == (
        (0, preset("memrope")),
        (2, preset("self-forcing")),
        (5, preset("longlive")),
    )


def test_a_prompt_from_outside_lasts_until_the_scripts_next_shot() -> None:
    script = Script.parse(f"{A}[1.125s] | {B}[1.125s]")
    timeline = moments(script, backend().spec, preset("memrope"), [Event(1, Prompt((C,)))])
    rows = [(moment.texts[0], moment.block.prompt, moment.block.switch) for moment in timeline]
    assert rows == [(A, 0, False), (C, 2, True), (C, 2, False), (B, 1, True), (B, 1, False), (B, 1, False)]
    assert [block.switch for block in blocks_of(script, backend().spec)] == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    "data",
    [
        {"block": -1, "kind": "cut", "value": []},
        {"block": True, "kind": "cut", "value": []},
        {"block": 1, "kind": "jump", "value": []},
        {"block": 1, "kind": "prompt", "value": []},
        {"block": 1, "kind": "prompt", "value": [3]},
        {"block": 1, "kind": "switch", "value": []},
        {"block": 1, "kind": "switch", "value": ["flush:last=-1"]},
        {"block": 1, "kind": "strategy", "value": [{"positions": {"kind": "absolute"}}]},
        {"block": 1, "kind": "strategy"},
    ],
)
def test_an_event_that_is_none_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, RolloutError)):
        Event.from_dict(data)


def test_text_of_the_first_edition_and_json_of_today_are_one_event() -> None:
    flush, memory = Event(8, Once(Flush(last=1))), Event(9, Use(preset("memrope")))
    assert flush.to_dict() == {"block": 8, "kind": "switch", "value": [{"kind": "flush", "last": 1}]}
    assert Event.from_dict({"block": 8, "kind": "switch", "value": ["flush:last=1"]}) == flush
    assert memory.to_dict()["value"] == [preset("memrope").to_dict()]
    assert Event.from_dict({"block": 9, "kind": "strategy", "value": [str(preset("memrope"))]}) == memory


def rolled(folder: Path, recipe: Recipe, **options: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    for _ in Job(backend(), recipe, folder, latents=True, **options).run():
        pass
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def test_after_a_flush_for_one_block_a_fork_knows_that_the_memory_is_gone(tmp_path: Path) -> None:
    """The flush of the live page's button: another number of rates can take over where the streams were dropped."""
    strategy, other = (Strategy.from_text(f"online ema:window=12{rates}+keep") for rates in ("", ",rates=0.05"))
    recipe = Recipe(strategy, f"{A}[6s]", seed=3, events=(Event(8, Once(Flush(last=1))),))
    rolled(tmp_path / "run", recipe)
    history = History.of(tmp_path / "run")
    branch = history.branch(9, backend().spec, strategy=other)
    record = rolled(tmp_path / "fork", branch, history=history.latents[:27])
    assert [event["block"] for event in record["events"]] == [8, 9]
    assert record["digests"] != json.loads((tmp_path / "run" / "run.json").read_text())["digests"]
    calm = replace(history, recipe=replace(recipe, events=()))
    with pytest.raises(CompositionError, match="2 streams of memory"):
        calm.branch(9, backend().spec, strategy=other)


def test_a_fork_costs_as_many_passes_a_generated_block_as_its_parent(tmp_path: Path) -> None:
    rolled(tmp_path / "run", Recipe(preset("infinity-rope"), f"{A}[6s]", seed=3))
    history = History.of(tmp_path / "run")
    rolled(tmp_path / "fork", history.branch(8, backend().spec), history=history.latents[:24])
    scores = [metric("forwards").measure(sample_of_run(tmp_path / name)) for name in ("run", "fork")]
    assert [score.value for score in scores] == [5.0, 5.0]
