"""What all executors share: attempts, and how tasks are handed to workers that may die."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rollout.benchmarks.executors.work import Setup, Task, Worker
from rollout.errors import RolloutError

__all__ = ["TRIES", "Attempt", "Executor", "Gone", "Hand", "again", "attempt", "begin", "share"]

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

    @property
    def workers(self) -> int:
        """How many run side by side at most."""
        ...

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """Attempts as they end. Raises RolloutError where no worker can be started."""
        ...


def attempt(worker: Worker, task: Task, name: str, number: int) -> Attempt:
    """One try, with whatever it raises as its outcome; cells that failed together are tried again one by one."""
    begun = time.monotonic()
    try:
        return Attempt(task, "done", name, number, worker.do(task))
    except Exception as error:
        why, last = f"{type(error).__name__}: {error}", not task.beside
        return Attempt(task, "failed", name, number, time.monotonic() - begun, why, last)


def again(attempt_before: Attempt) -> list[tuple[Task, int]]:
    """The tasks that follow an attempt that was not the last, and their number: each cell alone, to tell who is to blame."""
    if attempt_before.last:
        return []
    number = 1 if attempt_before.task.beside else attempt_before.number + 1
    return [(cell, number) for cell in attempt_before.task.cells]


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
                attempt_of_hand = _listen(hand)
                if attempt_of_hand is not None:
                    waiting.extend(again(attempt_of_hand))
                    yield attempt_of_hand
    finally:
        for hand in crew:
            hand.end()


def _listen(hand: Hand) -> Attempt | None:
    """An attempt that ended, by itself or with its worker. Raises RolloutError where the worker cannot start."""
    try:
        message = hand.receive()
    except Gone as how:
        return _bury(hand, str(how))
    if isinstance(message, str):
        raise RolloutError(message)
    hand.ready, hand.starts, hand.task = True, 0, None
    return message


def _bury(hand: Hand, how: str) -> Attempt | None:
    """The attempt that died with its worker. Raises RolloutError where one worker after another dies as it starts."""
    lost, hand.task, hand.lives = hand.task, None, False
    hand.end()
    if not hand.ready and hand.starts >= TRIES:
        raise RolloutError(f"the worker {hand.name} died {TRIES} times before it was ready: {how}. Use fewer workers.")
    if lost is None:
        return None
    task, number, begun = lost
    last = number >= TRIES and not task.beside
    why = f"given up, it killed {number} workers; the last died: {how}" if last else f"the worker died: {how}"
    return Attempt(task, "died", hand.name, number, time.monotonic() - begun, why, last)
