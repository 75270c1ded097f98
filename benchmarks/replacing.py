"""A folder of results that is whole or not there, and takes the place of an earlier one in one step."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.errors import OutputError
from rollout.files import new_tree
from rollout.temporary import stem, temporary
from rollout.text import cause

__all__ = ["replacing"]


@contextmanager
def replacing(out: Path, what: str, foreign: Callable[[Path], Path | None], *, force: bool) -> Iterator[Path]:
    """A folder to fill that becomes `out` at the end; with `force` an earlier one there gives way at that moment.

    `what` it is in a word, and `foreign` the first path in a folder that is no part of such a one, or None. A process that
    is killed leaves the earlier one or the new one, and the next call finishes. Raises OutputError.
    """
    earlier = out.with_name(f".{stem(out.name)}.earlier")
    try:
        _settle(out, earlier, foreign)
        if not out.is_dir() or not any(out.iterdir()):
            with new_tree(out, "--out") as partial:
                yield partial
            return
        if not force:
            raise OutputError(f"{out} is not empty. Choose another --out, or add --force to replace an earlier {what}.")
        if out.is_symlink():
            raise OutputError(f"{out} is a link. Choose another --out.")
        if (strange := foreign(out)) is not None:
            raise OutputError(
                f"{strange} is no part of an earlier {what}, which --force would replace. Choose another --out."
            )
        with temporary(out, folder=True) as partial:
            yield partial
            out.rename(earlier)
            partial.rename(out)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {cause(error)}. Choose another --out or free some space."
        ) from error
    shutil.rmtree(earlier, ignore_errors=True)


def _settle(out: Path, earlier: Path, foreign: Callable[[Path], Path | None]) -> None:
    """Bring back, or remove, what a process left that was killed while it replaced a folder. Raises OSError."""
    if not earlier.is_dir() or earlier.is_symlink() or foreign(earlier) is not None:
        return
    if out.exists():
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        earlier.rename(out)
