"""Functions, and the command line, run by several processes that are one rollout, over gloo on this machine."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rollout.cli.parallel import _store
from rollout.ranks import Ranks, join_ranks
from tests.processes import Forked, fork, until

__all__ = ["Ended", "command", "spread"]


@dataclass(frozen=True)
class Ended:
    """What a process's command line came to."""

    code: int
    out: str
    err: str


def spread(count: int, function: Callable[[Ranks], Any], folder: Path) -> list[Any]:
    """What a function of Ranks returns in each of `count` processes; `folder` is where they meet."""
    folder.mkdir(parents=True, exist_ok=True)

    def work(number: int) -> int:
        sys.stderr = (folder / f"{number}.err").open("w")
        try:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=count)
            torch.save(function(join_ranks()), folder / f"{number}.pt")
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        return 0

    alive = {fork(lambda number=number: work(number)) for number in range(count)}  # type: ignore[misc]

    def ended() -> bool:
        for process in list(alive):
            if os.waitpid(process, os.WNOHANG)[0]:
                alive.discard(process)
        return not alive

    try:
        until(ended, 120)
    finally:
        for process in alive:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    missing = [number for number in range(count) if not (folder / f"{number}.pt").is_file()]
    assert not missing, "\n".join((folder / f"{number}.err").read_text() for number in missing)
    return [torch.load(folder / f"{number}.pt") for number in range(count)]


def _ended(process: Forked) -> bool:
    return process.ended


def command(count: int, arguments: Sequence[object], more: Mapping[str, str] | None = None) -> list[Ended]:
    """`rollout ARGUMENTS` as torchrun starts it, in `count` processes; `more` variables are theirs too."""
    store = _store("127.0.0.1", 0)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count),
    }
    own = [{**(more or {}), **shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    processes = [Forked(*map(str, arguments), env=env) for env in own]
    try:
        until(lambda: all(map(_ended, processes)), 120)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                if not process.ended:
                    process.signal(signal.SIGKILL)
    return [Ended(process.wait(), process.stdout, process.stderr) for process in processes]
