"""One page and one table over all runs: which strategy for which use, at what cost."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rollout.benchmarks.leaderboard.board import Section, sections
from rollout.errors import OutputError
from rollout.files import new_folder, new_tree, write_text
from rollout.temporary import temporary
from rollout.text import cause

__all__ = ["FILES", "write_leaderboard"]

FILES = {"html": "index.html", "csv": "leaderboard.csv", "jsonl": "leaderboard.jsonl", "latex": "leaderboard.tex"}
"""The file of each format."""


def write_leaderboard(
    folders: Sequence[Path],
    out: Path,
    *,
    formats: Sequence[str] = tuple(FILES),
    baseline: str | None = None,
    force: bool = False,
) -> list[Section]:
    """Write the leaderboard of these runs into the folder `out`, all formats or none; what it says.

    With `force` an earlier leaderboard is replaced, whole. Raises OutputError.
    """
    board = sections(folders, baseline)
    writers = _writers()
    texts = {FILES[name]: writers[name](board) for name in dict.fromkeys(formats)}
    if not out.is_dir() or not any(out.iterdir()):
        with new_tree(out, "--out") as partial:
            _write(texts, partial)
        return board
    new_folder(out, force=force)
    try:
        with temporary(out / "leaderboard", folder=True) as partial:
            _write(texts, partial)
            for name in FILES.values():
                if name in texts:
                    (partial / name).replace(out / name)
                else:
                    (out / name).unlink(missing_ok=True)  # an earlier one would have other numbers
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {cause(error)}. Choose another --out.") from error
    return board


def _write(texts: Mapping[str, str], folder: Path) -> None:
    for name, text in texts.items():
        write_text(folder / name, text)


def _writers() -> Mapping[str, Callable[[Sequence[Section]], str]]:
    from rollout.benchmarks.leaderboard.latex import as_latex
    from rollout.benchmarks.leaderboard.page import as_html
    from rollout.benchmarks.leaderboard.records import as_csv, as_jsonl

    return {"html": as_html, "csv": as_csv, "jsonl": as_jsonl, "latex": as_latex}
