"""Executors: where tasks run. One protocol; `serial` in this process, `local` in processes, `ray` on a cluster."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, Protocol

from rollout.benchmarks.work import Setup, Task, Worker
from rollout.errors import RolloutError

TRIES = 3
"""Workers that one cell may kill before it is given up."""


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


def attempt(worker: Worker, task: Task, name: str, number: int) -> Attempt:
    """One try, with whatever it raises as its outcome."""
    begun = time.monotonic()
    try:
        return Attempt(task, "done", name, number, worker.do(task))
    except Exception as error:
        return Attempt(task, "failed", name, number, time.monotonic() - begun, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Local:
    """One process a device, or `workers` processes on the CPU; each loads the model once, and is replaced when it dies."""

    workers: int = 2
    devices: tuple[str, ...] = ()

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """In the order in which they end."""
        waiting = deque((task, 1) for task in tasks)
        places = self.devices or (setup.device,) * min(self.workers, len(tasks))
        crew = [_Process(f"local-{n}", setup.on(device)) for n, device in enumerate(places)]
        try:
            while waiting or any(p.busy for p in crew):
                for process in crew:
                    if waiting and process.ready:
                        process.give(*waiting.popleft())
                yield from self._collect(crew, waiting)
        finally:
            for process in crew:
                process.stop()

    def _collect(self, crew: "Sequence[_Process]", waiting: "deque[tuple[Task, int]]") -> Iterator[Attempt]:
        """Wait for the next event: an attempt that ended, a worker that is ready, a worker that died."""
        heard = wait([p.pipe for p in crew], timeout=60)
        for process in crew:
            if process.pipe not in heard:
                continue
            try:
                said = process.pipe.recv()
            except (EOFError, OSError):
                lost = process.restart()
                if lost is None:
                    raise RolloutError(
                        f"the worker {process.name} died before its first cell. Try --executor serial."
                    ) from None
                task, number, seconds = lost
                last = number >= TRIES
                why = f"killed its worker {number} times" if last else "the worker died"
                yield Attempt(task, "died", process.name, number, seconds, why, last)
                if not last:
                    waiting.append((task, number + 1))
                continue
            if isinstance(said, str):
                raise RolloutError(said)
            process.heard(said)
            if isinstance(said, Attempt):
                yield said


class _Process:
    """A worker process and the pipe to it."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self.setup = name, setup
        self.task: tuple[Task, int, float] | None = None
        self._start()

    def _start(self) -> None:
        # spawn: a fork of a process with torch's threads, or with a GPU, hangs
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(self.name, self.setup, theirs), name=self.name, daemon=True
        )
        self.process.start()
        theirs.close()
        self.ready = False

    @property
    def busy(self) -> bool:
        return self.task is not None

    def give(self, task: Task, number: int) -> None:
        self.task, self.ready = (task, number, time.monotonic()), False
        with suppress(OSError):  # a worker that just died is noticed when it is listened to
            self.pipe.send((task, number))

    def heard(self, said: Attempt | None) -> None:
        self.task, self.ready = None, True

    def restart(self) -> tuple[Task, int, float] | None:
        """Replace a dead worker; the task, try and seconds that it took along."""
        lost, self.task = self.task, None
        self.process.join()
        if lost is not None:
            self._start()
            return lost[0], lost[1], time.monotonic() - lost[2]
        return None

    def stop(self) -> None:
        with suppress(OSError):
            self.pipe.close()
        self.process.terminate()
        self.process.join()


def _serve(name: str, setup: Setup, pipe: Connection) -> None:
    """A worker's life: say ready (None), then an Attempt a task; a text says why it cannot start."""
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    with suppress(KeyboardInterrupt, EOFError, OSError):
        try:
            worker = Worker(setup)
            _ = worker.backend
        except RolloutError as error:
            pipe.send(str(error))
            return
        pipe.send(None)
        while True:
            task, number = pipe.recv()
            pipe.send(attempt(worker, task, name, number))


def _die_with(parent: int) -> None:
    """End this process when the driver is gone: an orphan would finish a cell that the next run has begun."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
