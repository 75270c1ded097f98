"""Snapshots: one safetensors file from which a rollout goes on bit for bit. Nothing in it is run or unpickled."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rollout.documents import check_depth
from rollout.errors import OutputError
from rollout.files import write_whole
from rollout.run.recipe import Recipe
from rollout.text import cause
from rollout.timeline import Event

__all__ = [
    "DAMAGE",
    "Snapshot",
    "damaged",
    "flatten",
    "newest_snapshot",
    "part",
    "read_snapshot",
    "snapshot_path",
    "snapshots",
    "under",
    "unflatten",
]

FORMAT = "rollout-snapshot-1"
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError)
"""What reading a snapshot that was changed may come to."""
KEPT = 2
"""The last ones that stay: one of them was whole when the other was being written."""


@dataclass(frozen=True)
class Snapshot:
    """`state` is JSON: recipe, versions, state of rollout, decoder and output; `tensors` what belongs to it."""

    block: int
    """Blocks that are done."""
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def recipe(self) -> Recipe:
        """The run's, with what came from outside so far. Raises OutputError, SpecError."""
        try:
            recipe, rollout = Recipe.from_dict(self.state["recipe"]), self.state["rollout"]
            log = rollout["progress" if "progress" in rollout else "timeline"]["events"]  # the first edition's, today's
            past = tuple(map(Event.from_dict, log))
            return replace(recipe, events=past + tuple(event for event in recipe.events if event not in past))
        except DAMAGE as error:
            raise damaged(f"of block {self.block}", error) from error

    def write(self, folder: Path) -> Path:
        """Write snapshot-NNNNNN.safetensors whole, and remove all but the last two. Raises OutputError."""
        path = snapshot_path(folder, self.block)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        state = json.dumps(self.state, ensure_ascii=False)
        head = {"format": FORMAT, "snapshot": state, "digest": sha256(state.encode()).hexdigest()}
        write_whole(path, lambda partial: save_file(tensors, partial, metadata=head))
        for old in snapshots(folder)[KEPT:]:
            old.unlink(missing_ok=True)
        return path


def snapshot_path(folder: Path, block: int) -> Path:
    """Where the snapshot after so many blocks is, or will be."""
    return folder / f"snapshot-{block:06d}.safetensors"


def snapshots(folder: Path, *, after: int = -1) -> list[Path]:
    """The snapshots of a folder, the newest first: those of later blocks."""
    numbers = [(int(match[1]), path) for path in folder.glob("snapshot-*") if (match := _NAME.fullmatch(path.name))]
    return [path for number, path in sorted(numbers, reverse=True) if number > after]


_NAME = re.compile(r"snapshot-(\d{6,12})\.safetensors")


def read_snapshot(path: Path) -> Snapshot:
    """A snapshot file; what its tensors are is checked where they are used. Raises OutputError."""
    match = _NAME.fullmatch(path.name)
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT or match is None:
                raise ValueError(f"its format is not {FORMAT}")
            if head["digest"] != sha256(head["snapshot"].encode()).hexdigest():
                raise ValueError("its content is not what was written")
            state = json.loads(head["snapshot"])
            check_depth(state)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(state, dict):
            raise ValueError("it holds no object")
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise damaged(path, error) from error
    return Snapshot(int(match[1]), state, tensors)


def newest_snapshot(folder: Path) -> Snapshot:
    """The newest snapshot of a folder that can be read. Raises OutputError."""
    problem = OutputError(f"{folder} holds no snapshot. Start again, with --snapshot-every N to be able to go on.")
    for number, path in enumerate(snapshots(folder)):
        try:
            return read_snapshot(path)
        except OutputError as error:
            problem = problem if number else error
    raise problem


def damaged(path: object, error: Exception) -> OutputError:
    """What to say of a snapshot that cannot be used."""
    why = f"{error} is missing" if isinstance(error, KeyError) else cause(error)[:200]
    return OutputError(f"the snapshot {path} cannot be used: {why}. Use an earlier one.")


def flatten(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A state of dicts, lists, numbers and tensors as JSON; its tensors go to `tensors` under names from `name` on."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": {str(key): flatten(v, tensors, f"{name}.{key}") for key, v in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [flatten(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]}
    return value


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The way back. Raises KeyError, ValueError."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: unflatten(v, tensors) for key, v in inner.items()}
    if kind == "list":
        return [unflatten(v, tensors) for v in inner]
    raise ValueError(f"it holds a {kind[:40]!r}")


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under NAME., without it."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def under(tensors: Mapping[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors with NAME. before their names."""
    return ((f"{name}.{key}", tensor) for key, tensor in tensors.items())
