"""Executors on this machine: `Serial` in this process, `Local` in processes of its own."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rollout.benchmarks.executors.base import Attempt, Gone, Hand, again, attempt, begin, share
from rollout.benchmarks.executors.work import Setup, Task, Worker

__all__ = ["Local", "Serial"]


@dataclass(frozen=True)
class Serial:
    """One after another, in this process."""

    workers = 1

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """In the order of the tasks."""
        worker = Worker(setup)
        if tasks:
            _ = worker.backend  # a model that does not load fails the run, not every cell
        waiting = deque((task, 1) for task in tasks)
        while waiting:
            task, number = waiting.popleft()
            outcome = attempt(worker, task, "serial", number)
            waiting.extend(again(outcome))
            yield outcome


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
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the driver's, who ends them all
        try:
            process.start()
            self.process = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()

    def send(self, task: Task, number: int) -> None:
        with suppress(OSError):
            self.pipe.send((task, number))

    def receive(self) -> Attempt | str | None:
        try:
            message: Attempt | str | None = self.pipe.recv()
        except (EOFError, OSError) as error:
            assert self.process is not None
            self.process.join(5)
            code = self.process.exitcode
            if code is None:
                raise Gone("its pipe broke") from error
            raise Gone(f"signal {-code}" if code < 0 else f"exit code {code}") from error
        return message

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
