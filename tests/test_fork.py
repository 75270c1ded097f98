"""Forks: one history under other strategies, prompts and seeds; what is carried over, and what is refused."""

import itertools
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from typer.testing import Result as Invoked

from rollout import Script, Strategy, generate, preset
from rollout.cli import app
from rollout.errors import BackendError, CompositionError, OutputError, RolloutError, ScriptError
from rollout.handover import taken_over
from rollout.loop import Result, Rollout
from rollout.plan import Step, simulate, steps
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.latents import LatentsWriter, read_latents
from rollout.run.recipe import Recipe
from rollout.run.video import read_video
from rollout.slots import Role
from rollout.strategies.presets import PRESETS
from rollout.text import Json
from rollout.timeline import Event, Prompt, Use, blocks_of, moments
from rollout.views import Horizon
from tests.conftest import STATES, micro_backend, seldom
from tests.test_rules import policies

A, B, C = "a red circle jumps", "a blue square spins on olive", "a red circle walks right"
SCRIPT = f"{A}[3.375s] | {B}[1.875s] ; one | two"


@cache
def backend() -> Any:
    return micro_backend(torch.float32)


pytestmark = pytest.mark.usefixtures("small_videos")


def finish(job: Job) -> dict[str, Any]:
    job.folder.mkdir(exist_ok=True, parents=True)
    for _ in job.run():
        pass
    return json.loads((job.folder / "run.json").read_text())


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A preset's finished run, which its forks read and leave alone."""

    @cache
    def parent(name: str) -> Path:
        folder = tmp_path_factory.mktemp("parent")
        finish(Job(backend(), Recipe(preset(name), SCRIPT, seed=3), folder, latents=True))
        return folder

    return parent


@pytest.fixture
def parent(parents: Callable[[str], Path]) -> Path:
    """That of the first preset."""
    return parents("infinity-rope")


def forked(history: History, block: int, folder: Path, **how: Any) -> dict[str, Any]:
    made = history.branch(block, backend().spec, **how)
    given_frames = history.latents[: block * 3]
    return finish(Job(backend(), made, folder, latents=True, history=given_frames))


def latents(folder: Path) -> torch.Tensor:
    return read_latents(folder / "latents.safetensors")


@pytest.mark.parametrize(
    ("name", "block"),
    seldom(
        itertools.product(PRESETS, (1, 9, 13)),
        {*itertools.product(STATES, (9,)), *itertools.product(("longlive",), (1, 13))},
    ),
)
def test_a_fork_that_changes_nothing_is_the_run_itself(
    tmp_path: Path, parents: Callable[[str], Path], name: str, block: int
) -> None:
    """Clean passes alone rebuild the cache, prompt changes and all, bit for bit."""
    parent = parents(name)
    record = forked(History.of(parent), block, tmp_path / "b")
    assert record["digests"] == json.loads((parent / "run.json").read_text())["digests"]
    assert record["history"] == block
    assert record["costs"]["forwards"] < 5 * 14


def test_other_prompts_and_seeds_share_the_history_and_part_from_there(tmp_path: Path, parent: Path) -> None:
    history = History.of(parent)
    whole = latents(parent)
    for n, how in enumerate(({"prompt": f"{C}[1.5s]"}, {"seed": 4}, {"prompt": f"{A}[1.5s#] ; three"})):
        record = forked(history, 6, tmp_path / str(n), **how)
        found = latents(tmp_path / str(n))
        assert torch.equal(found[:18], whole[:18])
        assert (found[18:21] - whole[18:21]).abs().max() > 1e-5, how
        assert record["events"] == []
    shots = record["script"]["shots"]
    assert [(s["prompt"], s["frames"], s["cut"]) for s in shots] == [(A, [0, 18], False), (A, [18, 30], True)]
    assert (tmp_path / "2" / "subtitles.vtt").read_text().count("-->") == 2


def test_a_switch_of_strategy_is_an_event_and_comes_back_on_rerun(tmp_path: Path, parent: Path) -> None:
    history = History.of(parent)
    other = Strategy.from_text("online ema:window=9,sink=1+recache")
    record = forked(history, 6, tmp_path / "b", strategy=other, prompt=f"{B}[2.25s]")
    assert record["events"] == [{"block": 6, "kind": "strategy", "value": [other.to_dict()]}]
    again = Recipe.from_dict(record)
    given_frames = latents(tmp_path / "b")[:18]
    assert finish(Job(backend(), again, tmp_path / "c", history=given_frames))["digests"] == record["digests"]
    live = generate(backend(), preset("infinity-rope"), f"{A}[2.25s] | {B}[2.25s]", seeds=3)
    found = []
    for result in live:
        found.append(result.latents[0])
        if result.block.index == 5:
            live.use(other)
    assert torch.equal(torch.cat(found), latents(tmp_path / "b"))


def test_a_fork_of_a_fork_and_of_a_prefix(tmp_path: Path) -> None:
    from rollout import load_backend

    sprites = load_backend()
    job = Job(sprites, Recipe(preset("infinity-rope"), f"{C} on navy[1.5s]", prefix="2"), tmp_path / "a", latents=True)
    first = finish(job)
    history = History.of(tmp_path / "a")
    assert history.first == 2
    again = history.branch(4, sprites.spec)
    record = finish(Job(sprites, again, tmp_path / "b", latents=True, history=history.latents[:12]))
    assert record["digests"] == first["digests"]
    assert record["prefix"] is None
    second = History.of(tmp_path / "b")
    third = second.branch(5, sprites.spec, prompt=f"{A}[0.75s]")
    assert [shot.blocks(sprites.spec) for shot in Script.parse(third.text).shots] == [5, 2]


def test_an_unfinished_run_can_be_forked_up_to_its_snapshot(tmp_path: Path) -> None:
    job = Job(backend(), Recipe(preset("infinity-rope"), SCRIPT, seed=3), tmp_path, latents=True)
    running = job.run()
    for result in running:
        if result.block.index == 5:
            job.stop()
            with pytest.raises(RolloutError, match="stopped"):
                next(running)
            break
    history = History.of(tmp_path)
    spec = backend().spec
    assert len(history.latents) == 18
    assert history.block(1.1, spec) == 3
    with pytest.raises(OutputError, match=r"--at 3 is not within the history: forks are possible from 0.375s to 2.25s"):
        history.block(3, spec)
    for bad in (0, -1, 1e12, float("nan"), float("inf")):
        with pytest.raises(OutputError, match="not within"):
            history.block(bad, spec)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A preset's run that was broken off, with snapshots."""

    @cache
    def broken_off(name: str) -> Path:
        folder = tmp_path_factory.mktemp("unfinished")
        recipe = Recipe(preset(name), f"{A}[2.25s] | {B}[3s#]", seed=3, events=(Event(4, Prompt((C,))),))
        running = Job(backend(), recipe, folder, latents=True, every=6).run()
        for result in running:
            if result.block.index == 12:
                break
        running.close()
        return folder

    return broken_off


@pytest.mark.parametrize(
    ("name", "block"),
    seldom(itertools.product(PRESETS, (6, 9)), {*itertools.product(STATES, (9,)), ("infinity-rope", 6)}),
)
def test_a_fork_starts_from_the_nearest_snapshot(
    tmp_path: Path, unfinished: Callable[[str], Path], name: str, block: int
) -> None:
    """Bit for bit the run that encodes its whole history, with fewer passes."""
    history = History.of(unfinished(name))
    nearest = history.nearest(block)
    if name == "rolling-forcing":  # its snapshots hold blocks that are half denoised
        assert nearest is None
        return
    assert nearest is not None
    assert nearest.block == 6
    assert history.nearest(5) is None
    branch = history.branch(block, backend().spec, strategy=preset("memrope") if name == "longlive" else None, seed=4)
    records = []
    for folder, shared in (("whole", None), ("shared", nearest)):
        (tmp_path / folder).mkdir()
        job = Job(
            backend(), branch, tmp_path / folder, latents=True, history=history.latents[: block * 3], shared=shared
        )
        records.append(finish(job))
    assert records[0]["digests"] == records[1]["digests"]
    assert torch.equal(latents(tmp_path / "whole"), latents(tmp_path / "shared"))
    costs = [record["costs"] for record in records]
    assert [cost["encoded"]["blocks"] for cost in costs] == [block, block]
    generated = [cost["forwards"] - cost["encoded"]["forwards"] for cost in costs]
    assert generated[0] == generated[1]
    assert costs[1]["encoded"]["forwards"] <= costs[0]["encoded"]["forwards"] - 6
    pixels = [read_video(tmp_path / folder / "video.mp4") for folder in ("whole", "shared")]
    assert (pixels[0] == pixels[1]).all()


def test_where_the_script_ends_the_fork_needs_a_prompt(parent: Path) -> None:
    history = History.of(parent)
    with pytest.raises(ScriptError, match="Say with --prompt"):
        history.branch(14, backend().spec)
    assert history.branch(14, backend().spec, prompt=C).text.endswith(f"| {C} ; one | two | ")


FIRST = list(PRESETS)[:8]
"""The presets that change into each other; the others are tried from and to one of them."""
CHANGES = [*itertools.permutations(FIRST, 2)] + [
    pair for name in PRESETS if name not in FIRST for pair in ((name, "infinity-rope"), ("longlive", name))
]
LESS = {"self-forcing": 0, "infinite-forcing": 1, "infinity-rope": 1, "infinity-rope-released": 1}
"""Sinks of the first presets that hold fewer than three."""


CHANGED = Script.parse(f"{A}[6s] | {B}[3s]")
AT = 16
"""The block at which a preset changes into another, long after its window is full."""


@cache
def halfway(name: str) -> tuple[list[Result], tuple[Json, dict[str, torch.Tensor]]]:
    """A preset's blocks before the change, and what it goes on from."""
    run = generate(backend(), preset(name), CHANGED)
    return list(itertools.islice(run, AT)), run.state()


def from_halfway(name: str) -> Rollout:
    """That run, at the change."""
    run = generate(backend(), preset(name), CHANGED)
    state, tensors = halfway(name)[1]
    run.restore(json.loads(json.dumps(state)), {key: tensor.clone() for key, tensor in tensors.items()})
    return run


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_every_change_of_preset_runs_or_says_why_not(old: str, new: str) -> None:
    spec = backend().spec
    changes = [Event(AT, Use(preset(new)))]
    horizon = Horizon(last=CHANGED.count(spec) - 1)
    planned: list[Step] = []
    reason = ""
    try:
        planned += steps(moments(CHANGED, spec, preset(old), changes), spec, horizon=horizon)
    except CompositionError as error:
        reason = str(error)
    run = from_halfway(old)
    if reason:
        assert not (old in FIRST and new in FIRST) or LESS.get(old, 3) < LESS.get(new, 3)
        assert "Encode the history again" in reason or "Start a rollout of its own" in reason
        with pytest.raises(CompositionError, match=re.escape(reason)):
            run.use(preset(new))
        return
    assert all(len(s.slots) + 3 <= preset(new).stored for s in planned[AT:])
    run.use(preset(new))
    results = [*halfway(old)[0], *run]
    for result, step in zip(results, planned, strict=True):
        assert (result.slots, result.placement) == (step.slots, step.placement)
        assert torch.isfinite(result.latents).all()
    assert run.cache.window == preset(new).stored


def test_what_is_carried_over() -> None:
    spec = backend().spec
    text = {"memory": "online ema:window=12,sink=3+keep", "fifo": "absolute fifo:window=9+keep"}

    def cached(strategy: str, blocks: int) -> Any:
        plan = blocks_of(Script.parse(A + "[99s]"), spec)
        steps = simulate(Strategy.from_text(strategy), itertools.islice(plan, blocks), spec)
        return list(steps)[-1].after

    slots = cached(text["memory"], 10)
    to = {
        "absolute fifo+keep": [(Role.RECENT, f) for f in range(23, 30)],
        "relativistic sink:window=9,sink=1+flush": [(Role.SINK, 0), *((Role.RECENT, f) for f in range(23, 30))],
        "online ema:window=15,sink=2+keep": [(Role.SINK, 0), (Role.SINK, 1)]
        + [(Role.MEMORY, 22)] * 2
        + [(Role.RECENT, f) for f in range(23, 30)],
    }
    for other, wanted in to.items():
        edit = taken_over(Strategy.from_text(other), slots, 30, spec)
        assert [(s.role, s.frame) for s in edit.slots] == wanted
        edit.check(len(slots))
    with pytest.raises(CompositionError, match="2 streams of memory, and policy 'ema' has 1"):
        taken_over(Strategy.from_text("online ema:window=12,sink=3,rates=0.1+keep"), slots, 30, spec)
    with pytest.raises(CompositionError, match="frame 0 would be a sink of policy 'sink'"):
        taken_over(Strategy.from_text("online sink+keep"), cached(text["fifo"], 10), 30, spec)
    early = taken_over(Strategy.from_text(text["fifo"]), cached(text["memory"], 2), 6, spec)
    assert [(s.role, s.frame) for s in early.slots] == [(Role.RECENT, f) for f in range(6)]  # nothing was lost yet
    late = taken_over(Strategy.from_text("online sink:window=9,sink=3+keep"), cached("absolute fifo+keep", 3), 9, spec)
    assert [s.role for s in late.slots] == [Role.SINK] * 3 + [Role.RECENT] * 6


@given(policies, policies, st.integers(1, 14))
def test_any_policy_takes_over_from_any_or_says_why(old: Any, new: Any, block: int) -> None:
    from rollout.strategies import Keep, Online

    spec = backend().spec
    one, other = Strategy(Online(), old, Keep()), Strategy(Online(), new, Keep())
    script = Script.parse(A + "[6s]")
    try:
        planned = list(steps(moments(script, spec, one, [Event(block, Use(other))]), spec))
    except CompositionError:
        return
    for step in planned[block:]:
        assert len(step.slots) + 3 <= new.window
        roles = {slot.frame: slot.role for slot in step.slots if slot.role is not Role.MEMORY}
        sinks = int(getattr(new, "sink", 0))
        first = int(getattr(new, "first", 0))  # an oracle's
        assert all((role is Role.SINK) == (first <= frame < first + sinks) for frame, role in roles.items())


def test_rebuild_is_the_new_strategy_from_the_beginning(tmp_path: Path, parent: Path) -> None:
    history = History.of(parent)
    with pytest.raises(CompositionError, match="frame 1 would be a sink"):
        history.branch(9, backend().spec, strategy=preset("memrope"))
    record = forked(history, 9, tmp_path / "b", strategy=preset("memrope"), rebuild=True)
    assert record["strategy"] == preset("memrope").to_dict()
    assert record["events"] == []
    by_hand = generate(backend(), preset("memrope"), SCRIPT, seeds=3, history=latents(parent)[:27])
    assert torch.equal(torch.cat([r.latents[0] for r in by_hand]), latents(tmp_path / "b"))


def test_a_refused_change_leaves_a_live_rollout_as_it_was(micro: Any) -> None:
    run = generate(micro, preset("self-forcing"), A + "[6s]")
    for _ in range(10):
        next(run)
    with pytest.raises(CompositionError, match="no longer holds"):
        run.use(preset("memrope"))
    huge = Strategy.from_text("absolute fifo:window=999999999999+keep")
    with pytest.raises(BackendError, match="MiB of keys and values"):
        run.use(huge)
    with pytest.raises(BackendError, match="MiB of keys and values"):
        generate(micro, preset("self-forcing"), A, events=[Event(3, Use(huge))])
    assert len(list(run)) == 6
    assert run.timeline.log == []


def cli(*args: str) -> Invoked:
    return CliRunner().invoke(app, list(args))


def test_the_commands(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert cli("gen", f"{C} on navy[2.25s]", "--out", run, "--latents", "--threads", "1", "--seed", "4").exit_code == 0
    out = str(tmp_path / "forks")
    done = cli(
        "fork",
        run,
        "--at",
        "1.5",
        "--cache",
        "keep",
        "--cache",
        "flush",
        "--prompt",
        f"{A}[0.75s]",
        "--reads",
        "commit",
        "--out",
        out,
    )
    assert done.exit_code == 0, done.output
    assert "after block 4 (1.5s)" in done.output
    records = [json.loads((tmp_path / "forks" / n / "run.json").read_text()) for n in ("1", "2")]
    assert [r["costs"]["blocks"] for r in records] == [6, 6]
    changes = [event["value"] for r in records for event in r["events"] if event["kind"] == "strategy"]
    assert len(changes) == 2
    assert all('"commit"' in json.dumps(change) for change in changes)
    assert records[0]["digests"] != records[1]["digests"]
    again = cli("rerun", str(tmp_path / "forks" / "1"))
    assert (again.exit_code, again.output.count("the same, bit for bit")) == (0, 2), again.output
    kept = cli("rerun", run, "--out", str(tmp_path / "again"))
    assert (kept.exit_code, (tmp_path / "again" / "video.mp4").read_bytes()) == (
        0,
        (tmp_path / "run" / "video.mp4").read_bytes(),
    )


def test_rerun_finds_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli("gen", f"{C} on navy[1.5s]", "--out", str(folder), "--latents", "--threads", "1").exit_code == 0
    record = json.loads((folder / "run.json").read_text())
    record["events"] = [{"block": 2, "kind": "prompt", "value": [A]}]
    record["versions"]["numpy"] = "0.1"
    (folder / "run.json").write_text(json.dumps(record))
    done = cli("rerun", str(folder))
    assert done.exit_code == 1
    assert "latents: DIFFERENT" in done.output
    assert "the first block that differs is 2 (0.75s)" in done.output
    assert "numpy was 0.1 and is" in done.output
    del record["digests"]
    (folder / "run.json").write_text(json.dumps(record))
    assert "no digests" in str(cli("rerun", str(folder)).exception)


def test_latents_on_disk(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "latents.safetensors"
    frames = torch.randn(9, 2, 3, 4)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        with LatentsWriter(path) as writer:
            for i in range(3):
                writer.write(frames[3 * i : 3 * i + 3].to(dtype))
                assert torch.equal(read_latents(writer.partial), frames[: 3 * i + 3].to(dtype))
                assert torch.equal(load_file(writer.partial)["latents"], frames[: 3 * i + 3].to(dtype))
        assert torch.equal(load_file(path)["latents"], frames.to(dtype))
    path.rename(tmp_path / "latents.partial.safetensors")
    with LatentsWriter(path, keep=6) as writer:
        writer.write(torch.ones(3, 2, 3, 4, dtype=torch.float64))
    assert torch.equal(load_file(path)["latents"][:6], frames[:6].double())
    assert bool((load_file(path)["latents"][6:] == 1).all())
    for content in (b"", b"\x00" * 7, b"\xff" * 300, path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(OutputError, match="no latents in"):
            read_latents(path)
