"""How a folder stands to a run that is asked for: it holds it, holds a part of it from which it goes on, or is free."""

import re
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path

from rollout.backend import Backend
from rollout.errors import OutputError
from rollout.run.job import FILES, UNFINISHED, Job
from rollout.run.prefix import source_of
from rollout.run.recipe import PrefixRecord, Recipe, content
from rollout.run.record import RunFolder
from rollout.run.resume import go_on
from rollout.run.snapshot import Snapshot, read_snapshot, snapshots
from rollout.text import Json

__all__ = ["Request", "Standing"]

OURS = re.compile(rf"{'|'.join(map(re.escape, (*FILES, *UNFINISHED)))}|snapshot-\d+\.safetensors|\..*\.partial")
"""Files that a run writes, and that a killed one leaves."""


class Standing(Enum):
    """What is there of a run: all, a snapshot, or nothing that counts."""

    FINISHED = "finished"
    BEGUN = "begun"
    FREE = "free"


class Request:
    """A run that is asked for, and where. `latents`, `every` and `pictures` as a job has them."""

    def __init__(
        self,
        backend: Backend,
        recipe: Recipe,
        folder: Path,
        *,
        latents: bool = False,
        every: int | None = None,
        pictures: tuple[str, ...] = (),
    ) -> None:
        self.backend, self.recipe, self.folder = backend, recipe, folder
        self.latents, self.every, self.pictures = latents, every, pictures

    def standing(self, *, force: bool = False) -> Standing:
        """What is there of it. Raises OutputError for a folder with anything else, unless that may be overwritten."""
        if self.folder.is_symlink():
            raise OutputError(f"{self.folder} is a link, and nothing is written through one. Remove it.")
        if not self.folder.exists():
            return Standing.FREE
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file, not a folder. Choose another --out.")
        problem = self.difference()
        if not problem and (self.folder / RunFolder.FILE).is_file():
            return Standing.FINISHED
        if not problem and any(map(self._is_of, self._read())):
            return Standing.BEGUN
        strange = [path.name for path in self.folder.iterdir() if not OURS.fullmatch(path.name)]
        problem = problem or (f"it has {sorted(strange)[0]!r}, which is nothing of a run" if strange else "")
        if problem and not force:
            raise OutputError(
                f"{self.folder} holds something else: {problem}. Choose another --out, or add --force to write over it."
            )
        return Standing.FREE

    def difference(self) -> str:
        """What tells a finished run from this one; nothing where there is none, or where it is this one."""
        if not (self.folder / RunFolder.FILE).is_file():
            return ""
        record = RunFolder.open(self.folder).record
        if record.strategy_data is None:
            return "a world's own video"
        then = record.recipe.to_dict() | {"prefix": content(record.prefix)}
        if record.backend.weights != self.backend.digest:
            return f"its weights are {record.backend.weights}, not {self.backend.digest}"
        if self.latents and not (self.folder / "latents.safetensors").is_file():
            return "it has no latents"
        return _difference(then, self._asked())

    def job(self) -> Job:
        """The run, from the newest snapshot that can be gone on from, else from the beginning. Raises RolloutError.

        Only for who has the folder alone.
        """
        job = go_on(self.backend, self.folder, fits=self._is_of)
        if job is None:
            job = Job(self.backend, self.recipe, self.folder, latents=self.latents, every=self.every)
        job.pictures, job.locked = self.pictures, True
        return job

    def _read(self) -> Iterator[Snapshot]:
        """The snapshots that can be read, the newest first."""
        for path in snapshots(self.folder):
            with suppress(OutputError):
                yield read_snapshot(path)

    def _is_of(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is of this run."""
        with suppress(OutputError, KeyError, TypeError):
            job = snapshot.state["job"]
            prefix = None if job["prefix"] is None else PrefixRecord(**job["prefix"])
            then = Recipe.from_dict(snapshot.state["recipe"]).to_dict() | {"prefix": content(prefix)}
            same = snapshot.state["weights"] == self.backend.digest and job["latents"] == self.latents
            return bool(same) and not _difference(then, self._asked())
        return False

    def _asked(self) -> Json:
        asked = self.recipe.to_dict() | {"prefix": content(source_of(self.recipe.prefix))}
        return asked | {"backend": asked["backend"] | {"device": str(self.backend.device)}}


def _difference(then: Json, now: Json) -> str:
    """The first field in which two recipes differ, and how; nothing where they do not."""
    name = next((name for name in now if then.get(name) != now[name]), None)
    if name is None:
        return ""
    if isinstance(now[name], int | str):
        return f"its {name} is {then.get(name)}, not {now[name]}"
    return f"it has another {name}"
