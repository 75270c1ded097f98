"""Files that appear whole under their names or not at all, and that are never written through a link.

A folder may come from anywhere: what lies in it under a name that is written to may be a link to somewhere else.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError

from rollout.errors import OutputError
from rollout.temporary import NO_LINKS, lock, temporary
from rollout.text import cause

__all__ = [
    "alone",
    "check_folder",
    "fingerprint",
    "inner_folder",
    "inside",
    "link_or_copy",
    "new_file",
    "new_folder",
    "new_tree",
    "numbered_folder",
    "output_folder",
    "own_file",
    "sync",
    "write_text",
    "write_whole",
]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it, over a link too. Raises OutputError."""
    try:
        with temporary(path) as partial:
            write(partial)
            sync(partial)
            partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path} cannot be written: {cause(error)}. Choose another place or free some space."
        ) from error


def new_file(path: Path) -> None:
    """Put an empty file in place of whatever has the name, for what opens it by name. Raises OSError."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666))


def own_file(path: Path) -> None:
    """See to it that a file can be written to where it is, and nothing else with it. Raises OutputError, OSError.

    One that has further names (hard links) becomes a copy; what is a link, or no file, is refused.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no file"
        raise OutputError(f"{path} is {kind}, and nothing is written through one. Remove it, or put the file there.")
    if status.st_nlink > 1:
        write_whole(path, lambda partial: shutil.copyfile(path, partial))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second, new name; a copy where the disk has no hard links. Symbolic links are followed. Raises OSError.

    Both names are one file from then on: whoever changes either puts a new file in its place, as `write_whole` does.
    """
    real = source.resolve(strict=True)
    try:
        os.link(real, target)
    except FileExistsError:
        raise  # a copy would be written into what lies there
    except OSError:
        with real.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer)


def inside(path: Path, folder: Path) -> Path:
    """A path below a folder, which no link leads out of it: what is handed on is the folder's own. Raises OutputError."""
    try:
        if path.resolve().is_relative_to(folder.resolve()):
            return path
    except (OSError, RuntimeError):  # a link to itself
        pass
    raise OutputError(f"{path} leads out of {folder}. Put the file there, or leave it out.")


@contextmanager
def new_tree(path: Path, option: str = "--out") -> Iterator[Path]:
    """A folder to fill beside `path`, which takes its name at the end, whole or not at all. Raises OutputError.

    What an earlier process left there when it was killed is removed. `option` is what the path was given by, which an error
    names.
    """
    try:
        if path.is_symlink():
            raise OutputError(f"{path} is a link. Choose another {option}.")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"{path} exists and is not empty. Choose another {option}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path, folder=True) as partial:
            yield partial
            if os.name != "posix" and path.exists():  # elsewhere an empty folder gives way by itself
                path.rmdir()
            partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path} cannot be written: {cause(error)}. Choose another {option} or free some space."
        ) from error


def sync(path: Path) -> None:
    """Bring a file to the disk: a rename alone may survive a power cut without its content. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time writes into a folder; the lock dies with its process. Raises OutputError."""
    if os.name != "posix":  # no lock there
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be read: {cause(error)}. Choose another --out.") from error
    try:
        try:
            lock(handle)
        except BlockingIOError as error:
            raise OutputError(f"another run is writing to {folder}. Wait for it, or choose another --out.") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole. Raises OutputError."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def check_folder(path: Path, *, force: bool = False) -> None:
    """Refuse what `new_folder` would, and make nothing. Raises OutputError."""
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, not a folder. Choose another --out.")
        if path.is_dir() and any(path.iterdir()) and not force:
            raise OutputError(f"the folder {path} is not empty. Choose another --out, or add --force to write into it.")
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be read: {cause(error)}. Choose another --out.") from error


def new_folder(path: Path, *, force: bool = False) -> Path:
    """Make an output folder; one that holds files is refused without `force`. Raises OutputError."""
    check_folder(path, force=force)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with temporary(path / "probe"):
            pass
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be written: {cause(error)}. Choose another --out.") from error
    return path


def inner_folder(path: Path, *, force: bool = True) -> Path:
    """As `new_folder`, of a folder inside an output folder, which a link would lead out of. Raises OutputError."""
    if path.is_symlink():
        raise OutputError(f"{path} is a link, and nothing is written through one. Remove it.")
    return new_folder(path, force=force)


def numbered_folder(parent: Path) -> Path:
    """Make the first of parent/001, parent/002, ... that does not exist; of two runs at once each gets its own.

    Raises OutputError.
    """
    number = 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder = parent / f"{number:03d}"
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder
    except OSError as error:
        raise OutputError(f"no folder can be made in {parent}: {cause(error)}. Choose another --out.") from error


def output_folder(out: Path | None, *, force: bool = False) -> Path:
    """The folder `out`, made as `new_folder` does; without one a new number in `out`. Raises OutputError."""
    return numbered_folder(Path("out")) if out is None else new_folder(out, force=force)


def fingerprint(files: Iterable[Path]) -> str:
    """A hash of the files' folders, names, sizes and first MiB: enough for weights, whose headers lie there."""
    digest = sha256()
    for file in sorted(files):
        digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
    return digest.hexdigest()
