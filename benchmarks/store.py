"""The store: a folder a cell, named by its content, whole or not there; nothing that was computed is computed again."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from rollout.benchmarks.metrics.score import Score
from rollout.documents import append_line, read_lines
from rollout.errors import OutputError
from rollout.files import alone, inner_folder, inside, new_folder, write_text
from rollout.run.record import RunFolder, RunRecord
from rollout.temporary import remove_leftovers, temporary
from rollout.text import Json

__all__ = ["ADDRESS", "Address", "AttemptRecord", "CellScore", "CurveRecord", "Scores", "Store"]

ATTEMPTS = "attempts.jsonl"
ADDRESS = r"\A[0-9a-f]{16}\Z"
"""What a cell is called: it names a folder, and must lead nowhere else."""
Address = Annotated[str, Meta(pattern=ADDRESS)]
Value = Annotated[float, Meta(ge=-1e15, le=1e15)]
"""A score: of more nobody can take a mean."""
Axis = Annotated[tuple[Value, ...], Meta(max_length=200_000)]


class CurveRecord(Struct, frozen=True):
    """A value over time; `unit` is that of x: "frame" (latent) or "s"."""

    unit: str
    x: Axis
    y: tuple[Value | None, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"a curve has {len(self.x)} places and {len(self.y)} values")


class CellScore(Struct, frozen=True):
    """A cell under one metric: its value, the identity of the code that gave it, its curve where it has one."""

    metric: str
    value: Value | None
    code: str = ""
    curve: CurveRecord | UnsetType = UNSET


Scores = dict[str, CellScore]
"""A cell's scores by metric."""


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """A line of the attempt log: the start of a run, or an attempt at a cell and how it ended."""

    time: str = ""
    event: str
    cell: str | UnsetType = UNSET
    worker: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    rows: int | UnsetType = UNSET
    why: str | UnsetType = UNSET
    last: bool | UnsetType = UNSET

    @property
    def failure(self) -> bool:
        """The last attempt at a cell, and it is not there."""
        return bool(self.last) and self.event != "done"

    def to_dict(self) -> Json:
        """As JSON."""
        data: Json = msgspec.to_builtins(self)
        return data


class Store:
    """`root`/cells/ADDRESS with spec.json, run.json (versions and costs), metrics.jsonl, the videos and DONE."""

    def __init__(self, root: Path) -> None:
        self.root, self.cells = root, root / "cells"

    def folder(self, address: str) -> Path:
        """Where a cell is, or will be. Raises OutputError for what is no address."""
        if not re.match(ADDRESS, address):
            raise OutputError(f"{address[:40]!r} is no cell's address, which has 16 digits. Run the suite again.")
        return self.cells / address

    def video(self, address: str) -> Path | None:
        """A cell's video, where there is one. Raises OutputError for one that is not the store's."""
        path = self.folder(address) / "video.mp4"
        return inside(path, self.root) if self.done(address) and path.is_file() else None

    def done(self, address: str) -> bool:
        """The cell is whole, and here: a link leads to what nobody of this run wrote."""
        folder = self.folder(address)
        return not folder.is_symlink() and (folder / "DONE").is_file()

    def lacking(self, address: str, metrics: Mapping[str, str]) -> list[str]:
        """The metrics (by name: the identity of their code) that a cell has yet to be scored by, or was by other code.

        All of them where there is no cell.
        """
        if not self.done(address):
            return list(metrics)
        scores = self.scores(address)
        return [name for name, code in metrics.items() if name not in scores or scores[name].code != code]

    def scores(self, address: str) -> Scores:
        """A cell's scores. Raises OutputError."""
        return {row.metric: row for row in read_lines(self.folder(address) / "metrics.jsonl", CellScore)}

    def record(self, address: str) -> RunRecord:
        """A cell's run record. Raises OutputError."""
        return RunFolder.open(self.folder(address)).record

    @contextmanager
    def writing(self, address: str, spec: Mapping[str, Any]) -> Iterator[Path]:
        """A folder to fill; it becomes the cell when the block ends well, and vanishes when it does not. Raises OSError."""
        with temporary(self.folder(address), folder=True) as partial:
            write_text(partial / "spec.json", json.dumps(spec, indent=1, ensure_ascii=False) + "\n")
            yield partial
            write_text(partial / "DONE", json.dumps({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n")
            if not self.done(address):  # another process may have been as fast
                self.forget(address)
                partial.rename(self.folder(address))

    def add(self, folder: Path, scores: Mapping[str, tuple[Score | None, str]], known: Scores | None = None) -> None:
        """Write a cell's metrics.jsonl: what is known, and each new score with the identity of the code that gave it."""
        rows = [row for name, row in (known or {}).items() if name not in scores]
        for name, (score, code) in scores.items():
            curve = None if score is None else score.curve
            value = None if score is None else score.value
            rows.append(CellScore(name, value, code, UNSET if curve is None else CurveRecord(**curve.to_dict())))
        write_text(folder / "metrics.jsonl", "".join(json.dumps(msgspec.to_builtins(row)) + "\n" for row in rows))

    def forget(self, address: str) -> None:
        """Remove a cell."""
        folder = self.folder(address)
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> None:
        """Remove what workers that were killed left behind. Only under `alone`."""
        remove_leftovers(self.cells)

    def log(self, **event: Any) -> None:
        """Append to the attempt log, attempts.jsonl: one line an event. Raises OutputError."""
        append_line(self.root / ATTEMPTS, {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event})

    def attempts(self) -> list[AttemptRecord]:
        """The attempt log. Raises OutputError."""
        return read_lines(self.root / ATTEMPTS, AttemptRecord)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One run at a time writes here; the lock dies with its process. Raises OutputError."""
        new_folder(self.root, force=True)
        with alone(self.root):
            inner_folder(self.cells)
            yield
