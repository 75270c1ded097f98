"""One rollout over several processes: started here or by torchrun, they speak with one voice and end together."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from rollout.errors import BackendError, RolloutError, Stopped
from rollout.registry import find

__all__ = ["Parallel", "is_first", "launched", "one_voice", "several"]

Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel", min=1, metavar="N", help="Roll out on N processes, each with a GPU of its own, wan only."
    ),
]
COMMANDS = ("gen", "resume")
"""Those that several processes can carry out as one."""
GRACE = 10.0
"""Seconds in which a process ends by itself once another has failed; one that waits for a GPU may not."""
SPAWNED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""The variables that torchrun sets."""
FAILURES, END = "rollout/failures", "rollout/end"
"""Where processes tell each other that they fail."""


def launched() -> int:
    """As how many processes torchrun, or who else sets its variables, started this one: 1 for a process by itself."""
    count = os.environ["WORLD_SIZE"] if os.environ.keys() >= SPAWNED else "1"
    return int(count) if count.isdecimal() else 1


def several(count: int | None, backend: str) -> bool:
    """Whether this process is one of several that roll out together.

    Where `count` are asked for and none are there, starts them, waits, and exits as they do. Raises BackendError.
    """
    here = launched()
    if here == 1 and (count or 1) == 1:
        return False
    if "parallel" not in signature(find("backends", backend).source.load).parameters:
        raise BackendError(f"the backend '{backend}' runs in one process. Leave --parallel and torchrun out.")
    if here == 1:
        raise typer.Exit(_launch(count or 1))
    if count not in (None, here):
        raise BackendError(f"--parallel {count} does not fit the {here} processes that torchrun started. Leave it out.")
    return True


def is_first(spread: bool) -> bool:
    """Whether this process is the first of several, or one by itself: known before they have found each other."""
    return not spread or os.environ["RANK"] == "0"


@contextmanager
def one_voice(arguments: Sequence[str]) -> Iterator[None]:
    """Of several processes that are one rollout only the first speaks, or the one that fails first; then all end.

    Raises BackendError for a command that torchrun cannot spread.
    """
    if launched() == 1:
        yield
        return
    number, command = int(os.environ["RANK"]), next(iter(arguments), "")
    if command not in COMMANDS:
        if "TORCHELASTIC_RUN_ID" in os.environ and not command.startswith("-"):
            if number:
                raise SystemExit(2)
            raise BackendError(f"rollout {command} runs in one process. Start it without torchrun.")
        yield  # somebody else's variables
        return
    from rollout.ranks import join_ranks

    ranks = join_ranks()
    with _Ends(number, ranks.count) as ends, ExitStack() as stack:
        if number:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
            for ignored in (signal.SIGINT, signal.SIGTERM):  # the first process says when all stop
                signal.signal(ignored, signal.SIG_IGN)
        try:
            yield
            ranks.leave()
        except BaseException as error:
            code = _code_of(error)
            atexit.register(_leave, code)  # whatever waits for a process that is gone
            if (isinstance(error, Stopped) and number) or not ends.fail():
                raise SystemExit(code) from None
            raise


def _code_of(error: BaseException) -> int:
    """The exit code that `main` gives an error."""
    if isinstance(error, Stopped):
        return error.code
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return 130
    bad_input = isinstance(error, RolloutError | OSError) or hasattr(error, "format_message")  # typer's own
    return 2 if bad_input else 1


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Ends:
    """Ends this process where another has failed, also while it waits for that one."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def fail(self) -> bool:
        """Tell all processes to end; whether this is the first to say so."""
        with suppress(RuntimeError):  # who has the store is gone, and said why
            return _fail(self._store, self.count)
        return False

    @cached_property
    def _store(self) -> Any:
        return _store()

    def _watch(self) -> None:
        with suppress(RuntimeError):  # the process that has the store is gone
            _store().wait([f"{END}/{self.number}"], timedelta(days=1000))
        if not self._left.wait(GRACE):
            os._exit(2)

    def __enter__(self) -> "_Ends":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        with suppress(RuntimeError):
            self._store.set(f"{END}/{self.number}", "left")
        self._thread.join(GRACE)


def _store(host: str | None = None, port: int | None = None) -> Any:
    """Where processes tell each other things: a connection of its own, since one that waits is of no other use.

    With a host it is made there, at a port that is free for 0, and reached at that address alone.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # as documented

    options: dict[str, Any] = {"wait_for_workers": False, "timeout": timedelta(seconds=GRACE)}
    if host is None:
        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, **options)
    with socket.create_server((host, port or 0)) as listener:
        free = listener.getsockname()[1]
        # the store would listen on all interfaces, whatever host it is given
        return TCPStore(host, free, is_master=True, master_listen_fd=listener.detach(), **options)


def _fail(store: Any, count: int) -> bool:
    """Tell all processes to end; whether nobody has said so before."""
    first = store.add(FAILURES, 1) == 1
    for number in range(count):
        store.set(f"{END}/{number}", "failed")
    return bool(first)


def _shared(count: int, port: int) -> dict[str, str]:
    """The environment of `count` processes on this machine whose store is at a port of 127.0.0.1."""
    own = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's, as torchrun's is
        "WORLD_SIZE": str(count),
    }
    unless_said = {
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # pages of warnings where this process is killed
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
    }
    loopback = _loopback()
    if loopback is not None:  # else they listen at this machine's own address, for all in its network
        unless_said |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    return unless_said | os.environ | own


def _loopback() -> str | None:
    """The interface that leads nowhere but to this machine, where it has one of a usual name."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


def _launch(count: int) -> int:
    """This command as `count` processes on this machine; the exit code of the first, or of one that failed."""
    store = _store("127.0.0.1", 0)
    shared = _shared(count, store.port)
    command = [sys.executable, "-m", "rollout", *sys.argv[1:]]
    processes: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells them by itself

    def stop(number: int, frame: object) -> None:
        if processes:
            processes[0].terminate()

    signal.signal(signal.SIGTERM, stop)
    try:
        for number in range(count):
            own = {"RANK": str(number), "LOCAL_RANK": str(number)}
            processes.append(subprocess.Popen(command, env=shared | own))  # noqa: S603
        return _wait(processes, store)
    finally:
        signal.signal(signal.SIGINT, before)
        for process in processes:
            if process.poll() is None:
                process.kill()


def _wait(processes: "Sequence[subprocess.Popen[bytes]]", store: Any) -> int:
    """Until all have ended; once one has failed the others get a while to do so by themselves."""
    deadline = None
    while True:
        codes = [process.poll() for process in processes]
        failed = next((number for number, code in enumerate(codes) if code), None)
        if failed is not None and deadline is None:
            deadline = time.monotonic() + 2 * GRACE
            if _fail(store, len(processes)):  # it had no time to say anything
                print(
                    f"rollout: process {failed} of {len(processes)} ended with {_ended(codes[failed])}.",
                    file=sys.stderr,
                )
        if None not in codes or (deadline is not None and time.monotonic() > deadline):
            break
        time.sleep(0.05)
    code = codes[0] or next(filter(None, codes), 0)
    return code if code >= 0 else 128 - code


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, which a system also sends where memory runs out" if name == "SIGKILL" else name
