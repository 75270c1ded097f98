"""JSON that others may have written: plain files of bounded size and depth; and files that grow by a line of it at a time."""

import json
import logging
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rollout.errors import OutputError
from rollout.files import own_file
from rollout.temporary import NO_LINKS
from rollout.text import cause

__all__ = [
    "DEEPEST",
    "MOST",
    "append_line",
    "check_depth",
    "levels",
    "mend_end",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_lines",
]

MOST = 64 * 2**20
"""Bytes of a file that is read whole."""
DEEPEST = 64
"""Levels to which JSON may nest: what goes through it calls itself for each."""
T = TypeVar("T")
_log = logging.getLogger("rollout")


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """A file's content. Raises OSError, and ValueError for what is larger, or no file: a pipe would never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError, also where it nests too deeply."""
    try:
        value = msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError(f"it nests more than {DEEPEST} levels deep") from error
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError for a value, as JSON or TOML gives it, that nests too deeply."""
    for number, level in enumerate(levels(value)):
        if number == DEEPEST and any(isinstance(item, dict | list) for item in level):
            raise ValueError(f"it nests more than {DEEPEST} levels deep")


def levels(value: Any) -> Iterator[list[Any]]:
    """A value as JSON or TOML gives it, then all that stands in it, then all in that, and so on: nothing calls itself."""
    level = [value]
    while level:
        yield level
        nested = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [member for members in nested for member in members]


def read_json(path: Path, kind: type[T], *, most: int = MOST) -> T:
    """A JSON file's value, of this kind. Raises OSError, ValueError."""
    data = read_bytes(path, most).removeprefix(BOM_UTF8)  # editors of Windows write a mark first
    return msgspec.convert(parse_json(data), kind)


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """The values of a file of JSON lines, none where there is no file. Raises OutputError, which names the line.

    A last line that whatever wrote it was cut off in is left out, and the log says so.
    """
    try:
        *lines, last = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {cause(error)}. Remove it.") from error
    if _is_whole(last):
        lines.append(last)
    elif last:
        _log.warning("%s: its last line is cut off, and is left out", path)
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                values.append(msgspec.convert(parse_json(line), kind))
            except ValueError as error:
                raise OutputError(f"{path}:{number}: {cause(error)}. Remove the line.") from error
    return values


def append_line(path: Path, value: Any) -> None:
    """Add a line of JSON to a file of ours, whole or not at all; one that was cut off goes first. Raises OutputError."""
    line = json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"
    try:
        mend_end(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINKS, 0o666)
        try:
            size = os.fstat(handle).st_size
            if os.write(handle, line) < len(line):
                os.ftruncate(handle, size)
                raise OSError("No space left on device")
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {cause(error)}. Free some space.") from error


def mend_end(path: Path) -> None:
    """See to it that a file of JSON lines, if it is there, is ours and ends with a whole line: what was cut off goes.

    Raises OutputError, OSError.
    """
    if not path.is_symlink() and not path.exists():
        return
    own_file(path)
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        last = file.read().rpartition(b"\n")[2]
        if _is_whole(last):
            file.write(b"\n")
        else:
            _log.warning("%s: its last line is cut off, and is removed", path)
            file.truncate(size - len(last))


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end is an object that lacks nothing else."""
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
