"""Executors: the same results everywhere; what is killed costs an attempt, and never a whole cell."""

import fcntl
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from rollout import registry
from rollout.benchmarks.executors import local as here
from rollout.benchmarks.executors import on_ray
from rollout.benchmarks.executors.base import TRIES, Attempt, Executor, Gone, Hand, share
from rollout.benchmarks.executors.local import Local, Serial
from rollout.benchmarks.executors.on_ray import Ray
from rollout.benchmarks.executors.work import Setup, Task
from rollout.benchmarks.run import Run
from rollout.benchmarks.suites.reader import load_suite
from rollout.errors import RolloutError
from rollout.registry import load_plugin
from tests.sockets import LOOPBACK, family, listening

LONG, SHORT = "a red circle walks right[0.75s]", "a blue square jumps[0.375s]"
PLUGIN = """
import fcntl
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rollout.registry import register
from rollout.strategies.policies import Sink


class Deadly(Sink):
    def make_room(self, slots, frames):
        if slots and os.getpid() != int(os.environ["DRIVER"]):  # the second block, in a worker
            self.strike()
        return super().make_room(slots, frames)


@register("policies", "once")
@dataclass(frozen=True)
class Once(Deadly):
    kind: ClassVar[str] = "once"

    def strike(self):
        try:
            Path(__file__).with_name("struck").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


@register("policies", "stopped")
@dataclass(frozen=True)
class Stopped(Deadly):
    kind: ClassVar[str] = "stopped"

    def strike(self):
        pid = Path(__file__).with_name("stopped")
        if not pid.exists():
            pid.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)


@register("policies", "held")
@dataclass(frozen=True)
class Held(Deadly):
    kind: ClassVar[str] = "held"

    def strike(self):
        Path(__file__).with_name("held").touch()
        while Path(__file__).with_name("hold").exists():
            time.sleep(0.05)


@register("policies", "always")
@dataclass(frozen=True)
class Always(Deadly):
    kind: ClassVar[str] = "always"

    def strike(self):
        os.kill(os.getpid(), signal.SIGKILL)


@register("policies", "stuck")
@dataclass(frozen=True)
class Stuck(Deadly):
    kind: ClassVar[str] = "stuck"

    def strike(self):
        with Path(__file__).with_name(f"{os.getpid()}.stuck").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until this process ends
            while True:
                time.sleep(60)
"""
DRIVER = """
import os
import signal
import sys
from pathlib import Path

os.environ["DRIVER"] = str(os.getpid())
signal.signal(signal.SIGINT, signal.default_int_handler)

from rollout.benchmarks.executors.local import Local
from rollout.benchmarks.executors.on_ray import Ray
from rollout.benchmarks.suites.reader import load_suite
from rollout.benchmarks.run import Run
from rollout.benchmarks.executors.work import Setup
from rollout.registry import load_plugin

suite, plugin, out, executor, workers = sys.argv[1:]
load_plugin(Path(plugin))
executor = {"local": Local, "ray": Ray}[executor](workers=int(workers))
run = Run(load_suite(suite), Path(out), Setup(out, "sprites", plugins=(plugin,)), executor)
for _ in run.attempts():
    pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Policies that kill or hold their process, for this test."""
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    monkeypatch.setattr(registry, "_added", {group: {} for group in registry.GROUPS})
    path = tmp_path / "deadly.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    return path


@pytest.fixture
def imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local workers are forked from a process that has imported torch, which takes a new interpreter seconds."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([here.__name__, "rollout.backends.sprites.weights"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: server)


def write_suite(path: Path, *policies: str) -> Path:
    strategies = "".join(f'{policy} = "relativistic {policy}:window=6,sink=1+flush"\n' for policy in policies)
    path.write_text(
        f'scripts = ["{LONG}", "{SHORT}"]\nmetrics = ["action", "identity"]\n[strategies]\n{strategies}',
        encoding="utf-8",
    )
    return path


def make_run(suite: Path, out: Path, plugin: Path, executor: Executor) -> Run:
    return Run(load_suite(str(suite)), out, Setup(str(out), "sprites", plugins=(str(plugin),)), executor)


def finished(out: Path) -> dict[str, int]:
    """When each whole cell was finished."""
    return {done.parent.name: done.stat().st_mtime_ns for done in (out / "cells").glob("[!.]*/DONE")}


def logged(out: Path) -> int:
    """The cells that the driver has written down as done."""
    log = out / "attempts.jsonl"
    return log.read_text().count('"done"') if log.exists() else 0


def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.usefixtures("imported_before")
@pytest.mark.parametrize(
    ("executor", "policies"),
    [
        (Local(workers=1), ("sink", "once", "stopped", "always")),
        (Ray(workers=1), ("once", "stopped")),  # several workers are the next test's
        pytest.param(Ray(workers=1), ("sink", "once", "stopped", "always"), marks=pytest.mark.slow),
    ],
    ids=["local", "ray", "ray-given-up"],
)
def test_a_dead_worker_costs_an_attempt(
    tmp_path: Path,
    plugin: Path,
    executor: Executor,
    policies: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if isinstance(executor, Ray):
        pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    suite = write_suite(tmp_path / "suite.toml", *policies)
    run = make_run(suite, tmp_path / "out", plugin, executor)
    addresses = {(place.strategy, place.prompt): place.cell.address for place in run.places}

    tried, sockets = [], set()
    waker = Thread(target=wake, args=(tmp_path / "stopped", 4 if isinstance(executor, Ray) else 1))
    waker.start()
    for attempt in run.attempts():
        tried.append(attempt)
        sockets |= listening(os.getpid())
    waker.join()
    assert {address for address, _ in sockets} <= LOOPBACK
    if isinstance(executor, Ray):
        assert len(sockets) > 4, "its processes were looked at"
    outcomes = {key: [t.outcome for t in tried if t.task.address == a] for key, a in addresses.items()}
    deaths = {("once", 0): ["died", "done"], ("always", 0): ["died"] * TRIES}
    assert outcomes == {key: deaths.get(key, ["done"]) for key in addresses}
    assert all(t.last == (t.outcome == "done" or t.number == TRIES) for t in tried)
    assert all(f"given up, it killed {TRIES} workers" in t.why for t in tried if t.number == TRIES)
    log = [record for record in run.store.attempts() if record.event != "run"]
    assert [(e.cell, e.event, e.attempt) for e in log] == [(t.task.address, t.outcome, t.number) for t in tried]
    printed = [line for text in capfd.readouterr() for line in text.splitlines()]
    assert [line for line in printed if "(raylet" not in line] == [], "but for what Ray says of a worker that died"
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list((tmp_path / "home").iterdir())

    whole = finished(tmp_path / "out")
    assert set(whole) == set(addresses.values()) - {addresses.get(("always", 0))}
    alone = make_run(suite, tmp_path / "serial", plugin, Serial())
    assert [t.outcome for t in alone.attempts()] == ["done"] * len(addresses)
    for address in whole:
        assert run.store.scores(address) == alone.store.scores(address) != {}

    write_suite(suite, *(policy for policy in policies if policy != "always"))
    again = make_run(suite, tmp_path / "out", plugin, executor)
    assert list(again.attempts()) == []
    assert finished(tmp_path / "out") == whole
    assert not list((tmp_path / "out" / "cells").glob(".*"))


def wake(pid: Path, seconds: float) -> None:
    """Let a worker that stopped itself, and put its number into a file, go on; Ray's heartbeats are 3 s apart."""
    until(lambda: pid.exists() and bool(pid.read_text()))
    process = Path("/proc", pid.read_text(), "stat")
    until(lambda: process.read_text().rpartition(")")[2].split()[0] == "T")
    time.sleep(seconds)
    os.kill(int(pid.read_text()), signal.SIGCONT)


@pytest.mark.parametrize(
    ("name", "workers", "stop", "done"),
    [
        ("local", 2, signal.SIGKILL, 3),
        ("local", 1, signal.SIGINT, 1),
        pytest.param("ray", 2, signal.SIGKILL, 3, marks=pytest.mark.xdist_group("ray")),
    ],
    ids=["local", "local-ctrl-c", "ray"],
)
def test_workers_end_with_their_driver(
    tmp_path: Path, plugin: Path, name: str, workers: int, stop: signal.Signals, done: int
) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    suite, out = write_suite(tmp_path / "suite.toml", "sink", "stuck"), tmp_path / "out"
    command = [sys.executable, "-c", DRIVER, str(suite), str(plugin), str(out), name, str(workers)]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until(
            lambda: driver.poll() is not None or (len(finished(out)) == logged(out) == done and bool(stuck(tmp_path)))
        )
        assert driver.poll() is None
        (os.killpg if stop == signal.SIGINT else os.kill)(driver.pid, stop)
        driver.wait(60)
        until(lambda: not stuck(tmp_path))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(10)
    assert (tmp_path / "log").read_text().count("Traceback") == (stop == signal.SIGINT)
    whole = finished(out)
    assert len(whole) == done
    assert len(list((out / "cells").glob(".*"))) == (stop != signal.SIGINT)  # what is interrupted cleans up

    run = make_run(suite, out, plugin, Serial())
    assert [(t.outcome, t.number) for t in run.attempts()] == [("done", 1)] * (4 - done)
    addresses = {place.cell.address for place in run.places}
    assert {cell.name for cell in (out / "cells").iterdir()} == set(finished(out)) == addresses
    assert whole.items() <= finished(out).items()
    assert [record.event for record in run.store.attempts()].count("done") == 4


def stuck(folder: Path) -> list[Path]:
    """The locks that a living process holds."""
    held = []
    for path in folder.glob("*.stuck"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path)
    return held


COMMAND = """
import os
import sys

os.environ["DRIVER"] = str(os.getpid())
from rollout.cli import main

sys.argv[0] = "rollout"
main()
"""


@pytest.mark.slow
def test_a_ray_whose_head_was_killed_is_said_in_a_line_and_the_same_command_goes_on(
    tmp_path: Path, plugin: Path
) -> None:
    """Left to itself Ray aborts the driver a minute later, without a word of what to do."""
    pytest.importorskip("ray")
    suite, out = write_suite(tmp_path / "suite.toml", "held"), tmp_path / "out"
    words = ["bench", "run", str(suite), "--out", str(out), "--plugin", str(plugin), "--executor", "ray"]
    (tmp_path / "hold").touch()
    with (tmp_path / "stderr").open("w") as stderr, (tmp_path / "stdout").open("w") as stdout:
        command = [sys.executable, "-c", COMMAND, *words, "--workers", "1"]
        driver = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        try:
            until(lambda: driver.poll() is not None or (tmp_path / "held").exists())
            os.kill(one_of(driver.pid, "gcs_server"), signal.SIGKILL)
            assert driver.wait(100) == 2
        finally:
            driver.kill()
            driver.wait(10)
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith("rollout: Ray at 127.0.0.1:")
    assert line.endswith("has ended, and with it the run. What is done is kept: the same command goes on.")
    done = finished(out)
    (tmp_path / "hold").unlink()
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (again.returncode, again.stderr) == (0, "")
    assert len(finished(out)) == 2
    assert done.items() <= finished(out).items()
    assert not list((out / "cells").glob(".*")), "what the killed workers left goes as their cells are made"


def one_of(process: int, name: str) -> int:
    """The number of a process's child, or of one of theirs, that runs a program of this name."""
    return next(member for member in family(process) if name in Path(f"/proc/{member}/cmdline").read_text())


def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, out, clock = write_suite(tmp_path / "suite.toml", "sink"), tmp_path / "out", itertools.count(0, -3600)
    strftime = time.strftime
    for name, scale in (("time", 1), ("time_ns", 10**9)):
        monkeypatch.setattr(time, name, lambda scale=scale: (2_000_000_000 + next(clock)) * scale)
    monkeypatch.setattr(time, "strftime", lambda form: strftime(form, time.gmtime(time.time())))
    tried = list(make_run(suite, out, plugin, Serial()).attempts())
    assert [attempt.outcome for attempt in tried] == ["done", "done"]
    run = make_run(suite, out, plugin, Serial())
    assert list(run.attempts()) == []
    records = run.store.attempts()
    dates = [record.time for record in records]
    assert dates == sorted(dates, reverse=True) != sorted(dates)
    assert all(record.seconds > 0 for record in records if record.event == "done")
    for attempt in tried:
        timings = run.store.record(attempt.task.address).timings
        assert min(timings["decode_and_write_seconds"], timings["seconds"]) > 0


TASKS = [Task(str(n), {}, ()) for n in range(3)]


@pytest.mark.usefixtures("imported_before")
def test_a_model_that_does_not_load_ends_the_run(tmp_path: Path) -> None:
    setup = Setup(str(tmp_path), "sprites", {"model": str(tmp_path / "missing.safetensors")})
    for executor in (Serial(), Local()):
        with pytest.raises(RolloutError, match=r"missing\.safetensors are not a file"):
            list(executor.run(setup, TASKS))
    said = on_ray._Actor().begin(setup, ".")
    assert "missing.safetensors are not a file" in str(said)
    elsewhere = on_ray._Actor().begin(Setup(str(tmp_path / "other"), "sprites"), ".")
    assert "does not see" in str(elsewhere)


class Fake(Hand):
    """A worker that says what it is told to; None is ready, a Gone is how it dies."""

    def __init__(self, *says: str | Gone | None) -> None:
        self.name, self.says = "fake", deque(says)
        self.started = self.ended = 0

    def start(self) -> None:
        self.started += 1

    def send(self, task: Task, number: int) -> None:
        self.says.appendleft("done")

    def receive(self) -> Attempt | str | None:
        said = self.says.popleft()
        if said == "done":
            assert self.task is not None
            return Attempt(self.task[0], "done", self.name, self.task[1], 0.0)
        if isinstance(said, Gone):
            raise said
        return said

    def end(self) -> None:
        self.ended += 1


def test_a_worker_that_never_becomes_ready_ends_the_run() -> None:
    hand = Fake(*[Gone("signal 9")] * TRIES)
    with pytest.raises(RolloutError, match=f"died {TRIES} times before it was ready: signal 9"):
        list(share(TASKS, [hand], lambda: [hand]))
    assert hand.started == TRIES
    assert hand.ended >= TRIES


def test_a_worker_that_cannot_start_ends_the_run() -> None:
    busy, broken = Fake(None), Fake("no such model")
    turns = iter([[busy], [broken]])
    with pytest.raises(RolloutError, match=r"^no such model$"):
        list(share(TASKS, [busy, broken], lambda: next(turns)))
    assert busy.ended == broken.ended == 1


def test_a_worker_that_becomes_ready_late_is_forgiven() -> None:
    hand = Fake(*[Gone("signal 9")] * (TRIES - 1), None)
    assert [a.outcome for a in share(TASKS, [hand], lambda: [hand])] == ["done"] * 3


def test_an_idle_worker_that_dies_loses_nothing() -> None:
    busy, idle = Fake(None), Fake(None, Gone("signal 9"))
    turns = iter([[busy], [idle], [idle], [busy]])
    assert [a.outcome for a in share(TASKS[:1], [busy, idle], lambda: next(turns))] == ["done"]
    assert (idle.started, idle.ended) == (1, 2)


def test_no_more_workers_than_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fake(name: str, setup: Setup) -> Fake:
        made.append(f"{name} {setup.device}")
        return Fake()

    def spent(tasks: object, crew: object, heard: object) -> Iterator[Attempt]:
        return iter(())

    monkeypatch.setattr(here, "_Process", fake)
    monkeypatch.setattr(here, "share", spent)
    for local, count in ((Local(workers=8), 3), (Local(workers=0), 3), (Local(devices=("a", "b")), 3), (Local(), 0)):
        list(local.run(Setup(".", "sprites"), TASKS[:count]))
    assert made == ["local-0 cpu", "local-1 cpu", "local-2 cpu", "local-0 cpu", "local-0 a", "local-1 b"]


def test_no_tasks_start_nothing() -> None:
    assert [list(kind().run(Setup("nowhere", "sprites"), [])) for kind in (Serial, Local, Ray)] == [[], [], []]


def test_ray_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RolloutError, match=r"Ray is not installed. pip install 'rollout-video\[ray\]'"):
        list(Ray().run(Setup(".", "sprites"), TASKS))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:1", "no Ray cluster answers at ray://127.0.0.1:1"),
        ("somewhere", "'somewhere' is no address of a Ray cluster"),
    ],
)
def test_a_cluster_that_is_not_there(address: str, says: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(RolloutError, match=says):
        list(Ray(address=address).run(Setup(".", "sprites"), TASKS))


def test_a_ray_that_others_would_reach_is_ended_at_once() -> None:
    pytest.importorskip("ray")
    ended: list[bool] = []
    ray = SimpleNamespace(
        __version__="9",
        init=lambda **_: None,
        shutdown=lambda: ended.append(True),
        util=SimpleNamespace(get_node_ip_address=lambda: "192.0.2.2"),
    )
    with pytest.raises(RolloutError, match=r"Ray 9 listens on 192\.0\.2\.2, .* Use --executor local"):
        on_ray._joined(ray, None, cpus=1).__enter__()
    assert ended == [True]


def test_a_cluster_without_room_is_refused_at_once() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 7.0, "GPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    ray = SimpleNamespace(nodes=lambda: nodes)
    assert (on_ray._places(ray, "CPU", 2), on_ray._places(ray, "GPU", 1)) == (3, 2)
    with pytest.raises(RolloutError, match="no node of the Ray cluster has 8 CPU; the most is 7"):
        on_ray._places(ray, "CPU", 8)
    del nodes[0]
    with pytest.raises(RolloutError, match="has 1 GPU; the most is 0"):
        on_ray._places(ray, "GPU", 1)
