"""Temporary files and folders: new ones under names that nobody can know, locked while they are filled, and gone at the end."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

__all__ = ["LOCKS", "NAME", "NO_LINKS", "TOKEN", "lock", "remove_leftovers", "stem", "temporary"]

NAME = 255
"""Bytes of a file's name at most, on every file system."""
TOKEN = 16
"""Random digits of a temporary name: nobody can have put a link there before."""
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
"""Opens no link, where the system has that."""
LOCKS = os.name == "posix"
"""Whether the system locks what is open."""


@contextmanager
def temporary(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A file or folder to fill beside `path`, new and locked, and gone at the end unless it was renamed. Raises OSError.

    What an earlier process left there when it was killed is removed.
    """
    remove_leftovers(path.parent, path.name)
    partial, handle = _begin(path, folder)
    try:
        yield partial
    finally:
        if handle is not None:
            os.close(handle)
        _remove(partial)


def _begin(path: Path, folder: bool) -> tuple[Path, int | None]:
    """A temporary file or folder of this process, and the handle that locks it."""
    while True:
        partial = path.with_name(f".{stem(path.name)}.{token_hex(TOKEN // 2)}.partial")
        try:
            handle = _made(partial, folder)
        except FileNotFoundError:
            if folder and path.parent.is_dir():  # another process took it for a leftover before it was locked
                continue
            raise
        if handle is None or _ours(partial, handle):
            return partial, handle
        os.close(handle)


def _made(partial: Path, folder: bool) -> int | None:
    """The handle of a new file or folder; none where what is open cannot be renamed."""
    if folder:
        partial.mkdir()
        return os.open(partial, os.O_RDONLY | NO_LINKS) if LOCKS else None
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666)
    if LOCKS:
        return handle
    os.close(handle)
    return None


def _ours(partial: Path, handle: int) -> bool:
    """Whether it is locked, and still there: no other process took it for a leftover before."""
    with suppress(OSError):  # where there are no locks nothing is taken for a leftover
        lock(handle)
    try:
        return os.path.samestat(os.fstat(handle), partial.lstat())
    except FileNotFoundError:
        return False


def stem(name: str) -> str:
    """As much of a name as a temporary one has room for."""
    room = NAME - len(f"..{'0' * TOKEN}.partial")
    return os.fsencode(name)[:room].decode(errors="ignore")


def lock(handle: int) -> None:
    """Have an open file or folder for this process alone, until the handle is closed.

    Raises BlockingIOError where another process has it, OSError on a file system without locks.
    """
    import fcntl  # only posix has it

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half-written in a folder, of all names or of one; what a living one fills stays."""
    begin = rf"\.{re.escape(stem(name))}" if name else r"\..*"
    pattern = re.compile(rf"{begin}\.[0-9a-f]{{{TOKEN}}}\.partial", re.DOTALL)
    with suppress(OSError):
        for leftover in [path for path in folder.iterdir() if pattern.fullmatch(path.name)]:
            with suppress(OSError):
                _remove_leftover(leftover)


def _remove_leftover(path: Path) -> None:
    mode = path.lstat().st_mode
    if not LOCKS or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe waits for ever
        return
    handle = os.open(path, os.O_RDONLY | NO_LINKS)
    try:
        lock(handle)
        _remove(path)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove a temporary file or folder, if it is still there."""
    with suppress(OSError):
        path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
