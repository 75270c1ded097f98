"""Running a job where somebody may look on, and may want it to stop."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rollout.errors import Stopped

if TYPE_CHECKING:
    from rollout.loop import Result
    from rollout.run.job import Job

__all__ = ["bar", "watch"]

EVERY = 5.0
"""Seconds between two plain lines."""
ECHO = 1.0
"""Seconds in which torchrun hands on a Ctrl-C that its processes have had from the terminal."""


def watch(job: "Job", each: "Callable[[Result], None] | None" = None) -> tuple[float, int]:
    """Run a job under a progress bar, or with plain lines where no terminal looks on; seconds and pixel frames made."""
    spec, blocks, begun = job.backend.spec, job.rollout.blocks, time.monotonic()
    start = job.rollout.done
    end = frames = 0
    with _stoppable(job), bar(blocks, start) as advance:
        for result in job.run():
            if each is not None:
                each(result)
            end = spec.pixel_frames(result.block.end)
            frames = end - spec.pixel_frames(start * spec.block)
            advance(
                result.block.index + 1,
                frames / (time.monotonic() - begun),
                spec.pixel_frames(blocks * spec.block) - end,
            )
    return time.monotonic() - begun, frames


Advance = Callable[[int, float, int], None]
"""(done, frames a second, frames left)."""


@contextmanager
def bar(total: int, start: int = 0, unit: str = "block") -> Iterator[Advance]:
    """A progress bar, or plain lines where no terminal looks on."""
    if not sys.stdout.isatty():
        yield _lines(total, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[fps]:.1f} fps")
    columns = (TextColumn(f"{unit}s"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=total, completed=start, fps=0.0)
        yield lambda done, fps, left: progress.update(task, completed=done, fps=fps)


def _lines(total: int, unit: str) -> Advance:
    last_line = time.monotonic()

    def advance(blocks: int, fps: float, left: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line > EVERY:
            last_line = time.monotonic()
            print(f"{unit} {blocks} of {total}, {fps:.1f} fps, {left / fps:.0f}s left", flush=True)

    return advance


@contextmanager
def _stoppable(job: "Job") -> Iterator[None]:
    """Ctrl-C or SIGTERM finishes the block and writes a snapshot; a second one ends at once."""
    if not job.leads:  # the process that leads says when all stop
        yield
        return
    signal_number, first_at = 0, 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal signal_number, first_at
        if signal_number and job.backend.ranks is not None and time.monotonic() - first_at < ECHO:
            return
        if signal_number:
            raise KeyboardInterrupt
        signal_number, first_at = number, time.monotonic()
        job.stop()
        print("stopping after this block; once more stops at once", file=sys.stderr, flush=True)

    alone = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    except Stopped as error:
        error.code = 128 + (signal_number or signal.SIGINT)
        raise
    except KeyboardInterrupt:
        raise _at_once(job, signal_number or signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_once(job: "Job", number: int) -> Stopped:
    from rollout.run.snapshot import snapshots

    left = snapshots(job.folder)
    if left:
        error = Stopped(
            f"stopped at once; {left[0].name} is the last snapshot. Go on with: rollout resume {job.folder}"
        )
    else:
        error = Stopped("stopped at once, and nothing was kept. Start again.")
    error.code = 128 + number
    return error
