"""The store: a folder a cell, named by its content, whole or not there; nothing that was computed is computed again."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.benchmarks.metrics.score import Score
from rollout.errors import OutputError
from rollout.files import alone, new_folder, write_text
from rollout.run.record import RunFolder, RunRecord

__all__ = ["Found", "Store"]

Found = dict[str, dict[str, Any]]
"""A cell's scores by metric: {"value": ..., "code": ..., "curve": {"unit", "x", "y"} or absent}."""


class Store:
    """`root`/cells/ADDRESS with spec.json, run.json (versions and costs), metrics.jsonl, the videos and DONE."""

    def __init__(self, root: Path) -> None:
        self.root, self.cells = root, root / "cells"

    def folder(self, address: str) -> Path:
        """Where a cell is, or will be."""
        return self.cells / address

    def done(self, address: str) -> bool:
        """The cell is whole."""
        return (self.folder(address) / "DONE").is_file()

    def lacking(self, address: str, metrics: Mapping[str, str]) -> list[str]:
        """The metrics (by name: the identity of their code) that a cell has yet to be scored by, or was by other code.

        All of them where there is no cell.
        """
        if not self.done(address):
            return list(metrics)
        known = self.scores(address)
        return [name for name, code in metrics.items() if name not in known or known[name].get("code") != code]

    def scores(self, address: str) -> Found:
        """A cell's scores."""
        path = self.folder(address) / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return {row.pop("metric"): row for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(f"{path} cannot be read: {error}. Remove its folder and run the suite again.") from error

    def record(self, address: str) -> RunRecord:
        """A cell's run record. Raises OutputError."""
        return RunFolder.open(self.folder(address)).record

    @contextmanager
    def writing(self, address: str, spec: Mapping[str, Any]) -> Iterator[Path]:
        """A folder to fill; it becomes the cell when the block ends well, and vanishes when it does not."""
        partial = self.cells / f".{address}.{uuid.uuid4().hex[:8]}"
        new_folder(partial)
        try:
            write_text(partial / "spec.json", json.dumps(spec, indent=1, ensure_ascii=False) + "\n")
            yield partial
            write_text(partial / "DONE", json.dumps({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n")
            if not self.done(address):  # another process may have been as fast
                shutil.rmtree(self.folder(address), ignore_errors=True)
                partial.rename(self.folder(address))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def add(self, folder: Path, scores: Mapping[str, tuple[Score | None, str]], known: Found | None = None) -> None:
        """Write a cell's metrics.jsonl: what is known, and each new score with the identity of the code that gave it."""
        rows = [{"metric": name, **row} for name, row in (known or {}).items() if name not in scores]
        for name, (score, code) in scores.items():
            row: dict[str, Any] = {"metric": name, "value": None if score is None else score.value, "code": code}
            if score is not None and score.curve is not None:
                row["curve"] = score.curve.to_dict()
            rows.append(row)
        write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def forget(self, address: str) -> None:
        """Remove a cell."""
        shutil.rmtree(self.folder(address), ignore_errors=True)

    def clean(self) -> None:
        """Remove what workers that were killed left behind. Only under `alone`."""
        for left in self.cells.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def log(self, **event: Any) -> None:
        """Append to the attempt log, attempts.jsonl: one line an event, in one write."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n"
        with (self.root / "attempts.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def attempts(self) -> list[dict[str, Any]]:
        """The attempt log."""
        path = self.root / "attempts.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One run at a time writes here; the lock dies with its process. Raises OutputError."""
        new_folder(self.root, force=True)
        self.cells.mkdir(exist_ok=True)
        with alone(self.root):
            yield
