"""Controls: a cache that keeps what the answer needs, and one that gets another video's memory."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from rollout import generate
from rollout.backends import BACKENDS, load_backend
from rollout.backends.sprites.codec import fit_codec
from rollout.backends.sprites.weights import Sprites
from rollout.benchmarks.controls.policies import Oracle
from rollout.benchmarks.controls.truth import film_truth
from rollout.benchmarks.executors.local import Serial
from rollout.benchmarks.executors.work import Setup
from rollout.benchmarks.export import export_vbench
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.plan import CellPlan, read_plan
from rollout.benchmarks.report import write_report
from rollout.benchmarks.results import section
from rollout.benchmarks.run import Run
from rollout.benchmarks.store import Store
from rollout.benchmarks.study.clips import find_clips
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.summary import summarise
from rollout.cache import KVCache
from rollout.errors import OutputError, RolloutError
from rollout.loop import Rollout
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.prefix import true_latents
from rollout.run.recipe import Donor, Recipe
from rollout.run.record import RunFolder
from rollout.run.video import read_video
from rollout.slots import Role
from rollout.strategies import Absolute, Ema, Fifo, Keep, Online, Recache, Relativistic, Sink
from rollout.strategy import Strategy
from tests.conftest import MICRO, micro_backend

SUITE = """name = "little"
about = "a night"
scripts = ["a {colour} circle {action} by day[3f] | at night[{delay}f] | a {colour} circle {action} by day[3f]"]
draw = 2
prefix = 1
metrics = ["recall@ground", "position", "kv_mib", "seam"]
baseline = "sinks"
primary = "recall@ground"

[axis]
delay = [3, 6]

[fill]
colour = ["red", "blue"]
action = ["jumps", "spins"]

[strategies]
sinks = "relativistic sink:window=9,sink=3+keep"
memory = "online ema:window=9,sink=0+keep"

[controls]
truth = true
oracle = "relativistic oracle:window=12,first=0,last=5+keep"
amnesia = "relativistic fifo:window=6+keep"
swap = ["sinks", "memory"]

[[claims]]
says = "memory is better after 6 frames"
source = "nobody"
better = "memory"
than = "sinks"
metric = "recall@ground"
at = 6
"""
OWN, OTHER = "a red circle jumps[3s] | a red circle spins[1.5s]", "a blue square spins[3s] | a blue square jumps[1.5s]"
PINNING = [
    Strategy(Relativistic(), Sink(6, 1), Keep()),
    Strategy(Absolute(), Sink(12, 3), Recache()),
    Strategy(Online(), Ema(12, 3, (0.1, 0.3)), Keep()),
    Strategy(Online(), Ema(9, 0, (0.3,)), Keep()),
    Strategy(Relativistic(), Oracle(12, 0, 3), Keep()),
]


def pair(backend: Sprites, strategy: Strategy, exchange: int | None = None) -> Rollout:
    return generate(backend, strategy, [OWN, OTHER], seeds=[1, 2], exchange=exchange)


def latents(run: Rollout) -> Tensor:
    return torch.cat([result.latents for result in run], 1)


def held(cache: KVCache) -> list[Tensor]:
    return [x.clone() for slot in range(len(cache.slots)) for layer in range(2) for x in cache.raw(slot, layer)]


def pinned(cache: KVCache) -> list[int]:
    return [i for i, slot in enumerate(cache.slots) if slot.role is not Role.RECENT]


@pytest.mark.parametrize("strategy", PINNING, ids=str)
def test_an_exchange_moves_the_pinned_slots_alone_and_twice_is_the_identity(micro: Sprites, strategy: Strategy) -> None:
    run = pair(micro, strategy)
    list(islice(run, 7))
    cache = run.cache
    before, stored = held(cache), [x.clone() for x in (*cache._store.keys, *cache._store.values)]
    cache.exchange(pinned(cache))
    for n, (was, now) in enumerate(zip(before, held(cache), strict=True)):
        moved = n // 4 in pinned(cache)  # two layers of keys and values a slot
        assert torch.equal(now, was.flip(0) if moved else was)
        assert not moved or not torch.equal(now, was)
    cache.exchange(pinned(cache))
    assert all(map(torch.equal, before, held(cache)))
    assert all(map(torch.equal, stored, (*cache._store.keys, *cache._store.values)))


@pytest.mark.parametrize("strategy", PINNING, ids=str)
def test_a_video_goes_on_as_if_the_other_had_made_its_memory(micro: Sprites, strategy: Strategy) -> None:
    """Row 0 after the exchange equals a rollout alone whose pinned rows are written by the other video's rollout."""
    at = 8
    both = latents(pair(micro, strategy, at))
    own, other = (generate(micro, strategy, s, seeds=n) for s, n in ((OWN, 1), (OTHER, 2)))
    parts = [result.latents for result in islice(own, at)]
    list(islice(other, at))
    for i in pinned(own.cache):
        mine, theirs = own.cache._entries[i], other.cache._entries[i]
        assert mine.row == theirs.row
        for ours, others in zip(
            (own.cache._store.keys, own.cache._store.values),
            (other.cache._store.keys, other.cache._store.values),
            strict=True,
        ):
            for a, b in zip(ours, others, strict=True):
                a[:, mine.row] = b[:, theirs.row]
        mine.copy = theirs.copy
    own.cache._changed(own.cache.slots, own.cache._entries)
    parts += [result.latents for result in own]
    torch.testing.assert_close(both[:1], torch.cat(parts, 1), rtol=0, atol=1e-8)
    plain = latents(pair(micro, strategy))
    assert torch.equal(both[:, : 3 * at], plain[:, : 3 * at])
    assert (both - plain)[:, 3 * at :].abs().max() > 1e-3


def test_without_pinned_slots_nothing_changes(micro: Sprites) -> None:
    strategy = Strategy(Relativistic(), Fifo(9), Keep())
    assert torch.equal(latents(pair(micro, strategy)), latents(pair(micro, strategy, 8)))


def test_a_block_that_failed_after_the_exchange_is_not_exchanged_again(
    micro: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = pair(micro, PINNING[0], 4), latents(pair(micro, PINNING[0], 4))
    parts = [result.latents for result in islice(run, 4)]
    with monkeypatch.context() as broken:
        broken.setattr(type(micro), "denoise", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(run)
    assert torch.equal(torch.cat([*parts, *(result.latents for result in run)], 1), whole)


@pytest.mark.parametrize(("scripts", "block"), [([OWN], 4), ([OWN, OTHER], 0), ([OWN, OTHER], 12)])
def test_an_exchange_takes_two_videos_and_a_block_within(micro: Sprites, scripts: list[str], block: int) -> None:
    with pytest.raises(RolloutError, match="cannot exchange their memory before block"):
        generate(micro, PINNING[0], scripts, seeds=[1] * len(scripts), exchange=block)


def test_a_job_writes_its_own_video_and_says_whose_memory_it_got(tmp_path: Path) -> None:
    micro = micro_backend(torch.float32, replace(MICRO, grid=(4, 4)), fit_codec(MICRO.channels, clips=100))
    donor = Donor(OTHER, 2, 8)
    recipe = Recipe(PINNING[0], OWN, 1, prefix="2", donor=donor)
    job = Job(micro, recipe, tmp_path, latents=True)
    found = torch.cat([result.latents for result in job.run()], 1)
    assert found.shape[0] == 2
    start = torch.stack([true_latents(micro, s.partition("[")[0], 2, n) for s, n in ((OWN, 1), (OTHER, 2))])
    run = generate(micro, PINNING[0], [OWN, OTHER], seeds=[1, 2], prefix=start, exchange=8)
    assert torch.equal(found, latents(run))
    assert torch.equal(read_latents(tmp_path / "latents.safetensors"), found[0])
    record = RunFolder.open(tmp_path).record
    assert record.to_dict()["donor"] == {"text": OTHER, "seed": 2, "block": 8}
    assert record.recipe == recipe
    with pytest.raises(OutputError, match="another video's memory"):
        History.of(tmp_path).branch(9, micro.spec)
    assert "donor" not in Recipe(PINNING[0], OWN).to_dict()


def cell_of(script: str, seed: int, prefix: int) -> dict[str, Any]:
    return {"script": script, "seed": seed, "prefix": prefix, "backend": {"name": "sprites", "options": {}, "code": ""}}


@pytest.mark.parametrize("prefix", [0, 2])
def test_the_truth_is_right_in_everything(tmp_path: Path, prefix: int) -> None:
    entry = BACKENDS["sprites"]
    script = (
        "a red circle walks right on navy by day[3s] | a red circle walks right at night[1.5s] | a red circle walks right "
        "by day mark left[1.5s] ; one | two | three"
    )
    assert entry.world is not None
    film_truth(entry.world, entry.spec(), cell_of(script, 7, prefix), tmp_path)
    sample = sample_of_run(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "video.mp4",
        "frames.mkv",
        "contact.png",
        "subtitles.vtt",
        "run.json",
    }
    assert len(list(sample.frames())) == 3 * prefix + 48
    for name in ("identity", "action", "background", "light", "recall", "recall@landmark", "moved"):
        assert metric(name).measure(sample).value == 1, name
    if prefix:  # from text alone no place is known
        assert metric("position").measure(sample).value < 0.5
        assert metric("slip").measure(sample).value == 54
    assert RunFolder.open(tmp_path).record.strategy_data is None


def test_another_seed_is_another_truth(tmp_path: Path) -> None:
    entry, frames = BACKENDS["sprites"], []
    for seed in (1, 2, 1):
        folder = tmp_path / str(len(frames))
        folder.mkdir()
        film_truth(entry.world, entry.spec(), cell_of("jumps[0.75s]", seed, 1), folder)
        frames.append(RunFolder.open(folder).record.digests["frames"])
    assert frames[0] == frames[2] != frames[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an axis and all controls."""
    root = tmp_path_factory.mktemp("controls")
    (root / "little.toml").write_text(SUITE)
    out = root / "run"
    run = Run(load_suite(str(root / "little.toml")), out, Setup(str(out), "sprites"), Serial())
    assert all(attempt.outcome == "done" for attempt in run.attempts())
    return out


def test_a_run_with_an_axis_and_controls_leaves_a_cell_for_each(finished: Path) -> None:
    plan, store = json.loads((finished / "plan.json").read_text()), Store(finished)
    assert plan["axis"]["name"] == "delay"
    assert plan["axis"]["values"] == [3, 6]
    assert {name: (s.get("control"), s.get("of")) for name, s in plan["strategies"].items()} == {
        "sinks": (None, None),
        "memory": (None, None),
        "truth": ("truth", None),
        "oracle": ("oracle", None),
        "amnesia": ("amnesia", None),
        "sinks (swapped)": ("swap", "sinks"),
        "memory (swapped)": ("swap", "memory"),
    }
    assert len(plan["cells"]) == 7 * 2 * 2
    assert {cell["axis"] for cell in plan["cells"]} == {0, 1}
    for cell in plan["cells"]:
        scores, record = store.scores(cell["address"]), store.record(cell["address"])
        assert record.script.text == read_plan(finished).script_of(msgspec.convert(cell, CellPlan))
        control = plan["strategies"][cell["strategy"]].get("control")
        assert (scores["kv_mib"].value is None) == (control in ("truth", "swap")), "no model, or two videos"
        assert ("donor" in record.to_dict()) == (control == "swap")
        if control == "truth":
            assert scores["recall@ground"].value == 1
            assert scores["position"].value < 0.5


def test_a_swapped_cell_is_what_the_exchange_gives(finished: Path) -> None:
    plan, store = json.loads((finished / "plan.json").read_text()), Store(finished)
    backend = load_backend("sprites")
    cell = next(c for c in plan["cells"] if c["strategy"] == "sinks (swapped)" and c["prompt"] == 1)
    record = store.record(cell["address"])
    donor, strategy = record.donor, record.strategy
    assert donor.text == plan["axis"]["scripts"][0][0]
    texts, seeds = [record.script.text, donor.text], [record.seed, donor.seed]
    start = torch.stack([true_latents(backend, s.partition("[")[0], 1, n) for s, n in zip(texts, seeds, strict=True)])
    run = generate(backend, strategy, texts, seeds=seeds, prefix=start, exchange=donor.block)
    frames = torch.cat([backend.decoder().push(result.latents[0]) for result in run])
    assert donor.block == 3
    assert np.array_equal(frames.numpy(), read_video(store.folder(cell["address"]) / "frames.mkv"))


def test_the_summary_of_an_axis_has_curves_means_over_it_and_claims_at_a_value(finished: Path) -> None:
    summary, plan = summarise(finished).to_dict(), json.loads((finished / "plan.json").read_text())
    recall, store = summary["metrics"]["recall@ground"], Store(finished)

    def values(name: str, axis: int) -> list[float]:
        cells = [c for c in plan["cells"] if (c["strategy"], c["axis"]) == (name, axis)]
        return [store.scores(c["address"])["recall@ground"].value for c in cells]

    for name, curve in recall["sweep"]["curves"].items():
        each = [np.mean(values(name, axis)) for axis in (0, 1)]
        assert curve["mean"] == pytest.approx(each, abs=1e-6)
        assert recall["means"][name]["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert recall["sweep"]["values"] == [3, 6]
    assert recall["curves"] == {}
    claim = summary["claims"][0]
    assert claim["mean"] == pytest.approx(np.mean(values("memory", 1)) - np.mean(values("sinks", 1)), abs=1e-6)
    assert claim["means"]["than"] == pytest.approx(np.mean(values("sinks", 1)), abs=1e-6)
    assert {(p["a"], p["b"]) for p in recall["pairs"]} == {("memory", "sinks")}, "controls are compared elsewhere"
    assert summary["groups"][None] == ["truth"]


def test_a_run_with_controls_is_reported_exported_and_listed(finished: Path, tmp_path: Path) -> None:
    page = write_report(finished).read_text()
    assert "recall@ground over delay" in page
    assert "control: truth" in page
    text = section(finished)
    assert "| sinks | " in text
    assert "| strategy | delay 3 | delay 6 | half-life |" in text
    assert "2 values of delay" in text
    clips, _ = find_clips([finished])
    assert {clip.name for clip in clips} == {"sinks", "memory", "oracle", "amnesia"}
    assert export_vbench([finished], tmp_path / "out")["truth"] == 4
