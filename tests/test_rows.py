"""Cells as rows of one rollout: the same bits as alone, and each to blame for itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.backends.sprites import spec
from rollout.benchmarks.executors.base import Attempt, again
from rollout.benchmarks.executors.local import Serial
from rollout.benchmarks.executors.rows import MOST, in_batches
from rollout.benchmarks.executors.work import Setup, Task, Worker
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.run import Run
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.reader import load_suite

SUITE = """
scripts = ["a {colour} circle jumps[{n}f] | a {colour} circle stands[6f]"]
draw = 3
metrics = ["identity", "forwards", "kv_mib", "seconds_per_frame"]

[axis]
n = [3, 6]

[fill]
colour = ["red", "green", "blue"]

[strategies]
"flush" = "relativistic sink:window=6,sink=1+flush"
"memory" = "online ema:window=9,sink=1+recache"
"""


def make_run(folder: Path, suite: str = SUITE, *, together: bool) -> Run:
    """The suite, its cells together or one by one."""
    (folder / "pair.toml").write_text(suite)
    return Run(
        load_suite(str(folder / "pair.toml")), folder, Setup(str(folder), "sprites"), Serial(), together=together
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of cells that went together."""
    run = make_run(tmp_path_factory.mktemp("together"), together=True)
    assert all(tried.outcome == "done" and tried.last for tried in run.attempts())
    return run


def cells(run: Run) -> dict[str, dict[str, Any]]:
    return {p.name: json.loads((p / "run.json").read_text()) for p in sorted(run.store.cells.iterdir())}


def test_rows_give_the_bits_and_the_budget_of_cells_alone(tmp_path: Path, together: Run) -> None:
    alone = make_run(tmp_path, together=False)
    assert all(tried.outcome == "done" and tried.last for tried in alone.attempts())
    ours, theirs = cells(together), cells(alone)
    assert set(ours) == set(theirs)
    rows = [record["costs"]["rows"] for record in ours.values()]
    assert max(rows) == 3
    assert rows.count(1) >= 2, "the first cell of each strategy stays alone"
    for address, record in ours.items():
        assert record["digests"] == theirs[address]["digests"]
        for name in ("forwards", "kv_bytes", "held_bytes", "rotated_bytes", "encoded"):
            ignored = {"seconds": 0} if name == "encoded" else {}
            both = [cell["costs"][name] for cell in (record, theirs[address])]
            assert both[0] == both[1] or both[0] | ignored == both[1] | ignored, name
    assert not together.missing()


def test_times_of_several_rows_are_those_of_none(together: Run) -> None:
    timed = {
        record["costs"]["rows"]: metric("seconds_per_frame").measure(sample_of_run(together.store.folder(address)))
        for address, record in cells(together).items()
    }
    assert timed[1] is not None
    assert timed[3] is None


def task(n: int, *, strategy: str = "a", frames: str = "3", **more: Any) -> Task:
    policy = {"kind": strategy, "window": 6}
    script = f"x[{int(frames) / 8}s]"
    cell = {"strategy": {"policy": policy}, "script": script, "steps": 4, "prefix": 0, "donor": None, **more}
    return Task(f"{strategy}{n}", cell, ("identity",))


def test_only_what_is_alike_goes_together() -> None:
    tasks = [task(n) for n in range(40)] + [task(n, strategy="b", frames=f) for n, f in enumerate("3639")]
    tasks += [task(90, donor={"text": "x", "seed": 1, "block": 1}), replace(task(91), scored=True)]
    tasks += [replace(task(92), spec={**task(92).spec, "strategy": None})]
    batches = in_batches(tasks, spec())
    assert sorted(cell.address for batch in batches for cell in batch.cells) == sorted(t.address for t in tasks)
    for batch in batches:
        assert len({cell.spec["script"] for cell in batch.cells}) == 1
        assert len({json.dumps(cell.spec["strategy"]) for cell in batch.cells}) == 1
        assert len(batch.cells) <= MOST
        if any(cell.scored or cell.spec["donor"] or cell.spec["strategy"] is None for cell in batch.cells):
            assert len(batch.cells) == 1
    assert [len(batch.cells) for batch in batches if batch.address.startswith("a")][:4] == [1, 16, 16, 7]


def test_a_large_model_stays_alone() -> None:
    from rollout.backends.wan import spec as wan

    batches = in_batches([task(n) for n in range(4)], wan())
    assert [len(batch.cells) for batch in batches] == [1, 1, 1, 1]


def test_cells_that_failed_together_are_tried_one_by_one() -> None:
    batch = replace(task(0), beside=(task(1), task(2)))
    failed = Attempt(batch, "failed", "w", 1, 0.0, "why", last=False)
    assert [(cell.address, cell.beside, number) for cell, number in again(failed)] == [
        ("a0", (), 1),
        ("a1", (), 1),
        ("a2", (), 1),
    ]
    assert again(replace(failed, last=True)) == []


def test_one_bad_cell_does_not_take_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = make_run(tmp_path, SUITE.replace("[3, 6]", "[3]"), together=True)
    bad = together.places[2].cell.address
    add = Store.add

    def fail(store: Store, folder: Path, scores: Any, known: Any = None) -> None:
        if json.loads((folder / "spec.json").read_text())["script"] == together.places[2].cell.script:
            raise RuntimeError("this script cannot be scored")
        add(store, folder, scores, known)

    monkeypatch.setattr(Store, "add", fail)
    last = {tried.task.address: tried.outcome for tried in together.attempts() if tried.last}
    assert len(last) == together.total
    assert last[bad] == "failed"
    assert list(last.values()).count("done") == together.total - 2  # both strategies meet that script
    assert isinstance(Worker(together.setup), Worker)
