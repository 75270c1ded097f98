"""Executors: where tasks run. One protocol; `serial` in this process, `local` in processes, `ray` on a cluster."""

import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, Protocol

from rollout.benchmarks.work import Setup, Task, Worker
from rollout.errors import RolloutError

TRIES = 3
"""Workers that one cell may kill before it is given up, and starts of one worker that may fail in a row."""


@dataclass(frozen=True)
class Attempt:
    """How one try of a task ended; `last` says that no other follows.

    `done`; `failed`: the rollout raised, and would again; `died`: the worker vanished, and another tries unless `last`.
    """

    task: Task
    outcome: Literal["done", "failed", "died"]
    worker: str
    number: int
    seconds: float
    why: str = ""
    last: bool = True


class Executor(Protocol):
    """Runs tasks somewhere; every task gets exactly one last attempt."""

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """Attempts as they end. Raises RolloutError where no worker can be started."""
        ...


@dataclass(frozen=True)
class Serial:
    """One after another, in this process."""

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """In the order of the tasks."""
        worker = Worker(setup)
        if tasks:
            _ = worker.backend  # a model that does not load fails the run, not every cell
        for task in tasks:
            yield attempt(worker, task, "serial", 1)


@dataclass(frozen=True)
class Local:
    """One process a device, or `workers` processes on the CPU; each loads the model once, and is replaced when it dies."""

    workers: int = 2
    devices: tuple[str, ...] = ()

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """In the order in which they end."""
        places = self.devices or (setup.device,) * max(1, self.workers)
        crew = [_Process(f"local-{n}", setup.on(device)) for n, device in enumerate(places[: len(tasks)])]

        def heard() -> list[Hand]:
            ready = wait([process.pipe for process in crew if process.lives])
            return [process for process in crew if process.pipe in ready]

        yield from share(tasks, crew, heard)


def attempt(worker: Worker, task: Task, name: str, number: int) -> Attempt:
    """One try, with whatever it raises as its outcome."""
    begun = time.monotonic()
    try:
        return Attempt(task, "done", name, number, worker.do(task))
    except Exception as error:
        return Attempt(task, "failed", name, number, time.monotonic() - begun, f"{type(error).__name__}: {error}")


def begin(setup: Setup) -> Worker | str:
    """A worker that has loaded its model, or why there is none."""
    try:
        worker = Worker(setup)
        _ = worker.backend
    except Exception as error:
        return str(error) if isinstance(error, RolloutError) else f"{type(error).__name__}: {error}"
    return worker


class Gone(Exception):
    """A worker died; the text says how."""


class Hand(ABC):
    """A worker as the driver sees it: it starts, does one task at a time, may die, and is started again."""

    name: str
    lives = ready = False
    starts = 0
    task: tuple[Task, int, float] | None = None
    """What it is at: the task, the number of the try and since when."""

    @abstractmethod
    def start(self) -> None:
        """Begin to start a fresh worker."""

    @abstractmethod
    def send(self, task: Task, number: int) -> None:
        """Hand it a task; a death is for `receive` to find."""

    @abstractmethod
    def receive(self) -> Attempt | str | None:
        """What it said: an attempt, why it cannot start, or None for ready. Raises Gone."""

    @abstractmethod
    def end(self) -> None:
        """End the worker, whatever state it is in."""


def share(tasks: Sequence[Task], crew: Sequence[Hand], heard: Callable[[], Iterable[Hand]]) -> Iterator[Attempt]:
    """Hand tasks one at a time to whoever is idle; `heard` waits for workers that have something to say, or died."""
    waiting = deque((task, 1) for task in tasks)
    try:
        while waiting or any(hand.task for hand in crew):
            for hand in crew:
                if waiting and not hand.lives:
                    hand.lives, hand.ready, hand.starts = True, False, hand.starts + 1
                    hand.start()
                elif waiting and hand.ready and hand.task is None:
                    task, number = waiting.popleft()
                    hand.task = (task, number, time.monotonic())
                    hand.send(task, number)
            for hand in heard():
                tried = _listen(hand)
                if tried is not None:
                    if not tried.last:
                        waiting.append((tried.task, tried.number + 1))
                    yield tried
    finally:
        for hand in crew:
            hand.end()


def _listen(hand: Hand) -> Attempt | None:
    """An attempt that ended, by itself or with its worker. Raises RolloutError where the worker cannot start."""
    try:
        said = hand.receive()
    except Gone as how:
        return _bury(hand, str(how))
    if isinstance(said, str):
        raise RolloutError(said)
    hand.ready, hand.starts, hand.task = True, 0, None
    return said


def _bury(hand: Hand, how: str) -> Attempt | None:
    """The attempt that died with its worker. Raises RolloutError where one worker after another dies as it starts."""
    lost, hand.task, hand.lives = hand.task, None, False
    hand.end()
    if not hand.ready and hand.starts >= TRIES:
        raise RolloutError(f"the worker {hand.name} died {TRIES} times before it was ready: {how}. Use fewer workers.")
    if lost is None:
        return None
    task, number, begun = lost
    last = number >= TRIES
    why = f"given up, it killed {number} workers; the last died: {how}" if last else f"the worker died: {how}"
    return Attempt(task, "died", hand.name, number, time.monotonic() - begun, why, last)


class _Process(Hand):
    """A worker process and the pipe to it."""

    pipe: Connection
    process: BaseProcess | None = None

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self.setup = name, setup

    def start(self) -> None:
        # spawn: a fork of a process with torch's threads, or with a GPU, hangs
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.name, self.setup, theirs), name=self.name, daemon=True)
        resource_tracker.ensure_running()  # here: its own start unblocks SIGINT
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the driver's, who ends them all
        try:
            process.start()
            self.process = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            theirs.close()

    def send(self, task: Task, number: int) -> None:
        with suppress(OSError):
            self.pipe.send((task, number))

    def receive(self) -> Attempt | str | None:
        try:
            said: Attempt | str | None = self.pipe.recv()
        except (EOFError, OSError) as error:
            assert self.process is not None
            self.process.join(5)
            code = self.process.exitcode
            how = "its pipe broke" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
            raise Gone(how) from error
        return said

    def end(self) -> None:
        if self.process is None:
            return
        self.pipe.close()
        self.process.terminate()
        self.process.join(5)
        self.process.kill()
        self.process.join()


def _serve(name: str, setup: Setup, pipe: Connection) -> None:
    """A worker's life: say ready (None), then an Attempt a task; a text says why it cannot start."""
    threading.Thread(target=_die_with_driver, daemon=True).start()
    with suppress(EOFError, OSError):  # the driver has gone
        worker = begin(setup)
        if isinstance(worker, str):
            pipe.send(worker)
            return
        pipe.send(None)
        while True:
            task, number = pipe.recv()
            pipe.send(attempt(worker, task, name, number))


def _die_with_driver() -> None:
    """End this process when the driver is gone: an orphan would finish a cell that the next run has begun."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
