"""The command in a process of its own, forked from this one: a new interpreter takes seconds to import torch."""

import errno
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from rollout.cli import main
from rollout.errors import RolloutError

__all__ = ["Forked", "fork", "full_at", "killed_at", "until"]

ADDS = {"os.mkdir", "os.link", "os.symlink"}
MOVES = {"os.rename", "os.rmdir", "os.remove", "os.chmod", "os.utime", "os.truncate", "shutil.rmtree", "fcntl.flock"}


def until(holds: Callable[[], bool], seconds: float = 200) -> None:
    """Look until it is so: it may take as long as a machine that does much else makes it take."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def fork(act: Callable[[], int]) -> int:
    """Do something in a child process, which ends with the exit code that it gives; the child's number."""
    # Garbage of this process must not be collected in the child: a video frame waits there for threads that only this has.
    gc.disable()
    pid = os.fork()
    if pid == 0:
        gc.freeze()
    gc.enable()
    if pid == 0:
        code = 1
        try:
            code = act()
        finally:
            os._exit(code)
    return pid


def killed_at(step: int, run: Callable[[], object]) -> bool:
    """Whether a process of its own that does `run` ended at its `step`-th change of the file system, as if killed."""
    left = step

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        left -= event in ADDS | MOVES or _writes(event, args)
        if left == 0:
            os._exit(9)  # nothing of Python's is cleaned up

    def act() -> int:
        sys.dont_write_bytecode = True  # what is imported there is no part of it
        sys.addaudithook(watch)
        run()
        return 0

    code = os.waitstatus_to_exitcode(os.waitpid(fork(act), 0)[1])
    assert code in (0, 9)
    return code == 9


def full_at(step: int, run: Callable[[], object]) -> str | None:
    """What a process of its own that does `run` ends with where the disk is full from its `step`-th new file on.

    The line of a RolloutError, or another error's traceback; None where it ended well.
    """
    left, here = step, os.getpid()

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if os.getpid() != here and (event in ADDS or _writes(event, args)):
            left -= 1
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with TemporaryFile("w+") as said:

        def act() -> int:
            sys.dont_write_bytecode = True
            sys.addaudithook(watch)
            try:
                run()
            except RolloutError as error:
                said.write(str(error))
            except BaseException:
                traceback.print_exc(file=said)
            else:
                return 0
            said.flush()
            return 2

        code = os.waitstatus_to_exitcode(os.waitpid(fork(act), 0)[1])
        said.seek(0)
        assert code in (0, 2)
        return said.read() if code else None


def _writes(event: str, args: tuple[Any, ...]) -> bool:
    """Whether an audit event is a file that is opened to be written to."""
    if event != "open" or str(args[0]).startswith("/dev/"):
        return False
    _, mode, flags = args
    if mode is None:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return bool(set("wxa+") & set(mode))


class Forked:
    """`rollout ARGS` in a child process, its signal handlers, streams, folder and environment as a shell gives them."""

    def __init__(self, *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._files = [TemporaryFile("w+"), TemporaryFile("w+")]  # noqa: SIM115  # as long as somebody reads them
        self._status: int | None = None
        self.pid = fork(lambda: _run(args, self._files, cwd, env or {}))

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        self._wait(os.WNOHANG)
        return self._status is not None

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, once it has ended; that of a signal is negative."""
        self._wait(0)
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._read(0)

    @property
    def stderr(self) -> str:
        """What it has complained about so far."""
        return self._read(1)

    def _wait(self, options: int) -> None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            self._status = status if pid else None

    def _read(self, number: int) -> str:
        # not by seeking: the child writes at the position that it shares with this process
        descriptor = self._files[number].fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()


def _run(args: Sequence[str], files: Sequence[IO[str]], cwd: Path | None, env: Mapping[str, str]) -> int:
    """What the child does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for file, number in zip(files, (1, 2), strict=True):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["rollout", *args]
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
