"""The run record: everything that a rollout's result depends on, as JSON."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rollout import __version__
from rollout.backend import Spec
from rollout.errors import OutputError
from rollout.files import write_text
from rollout.loop import Rollout
from rollout.progress import Encoded
from rollout.run.recipe import Recipe
from rollout.run.video import Subtitle
from rollout.script import Script, planned
from rollout.strategy import AXES, Strategy

__all__ = ["changed", "machine", "read_record", "record", "subtitles", "times", "write_record"]

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "av")


def subtitles(script: Script, spec: Spec, *, first: int = 0) -> list[Subtitle]:
    """The script's subtitles on the true frames."""
    plan = planned(script, spec, first=first)
    return [Subtitle(shot.begin, shot.end, shot.subtitle) for shot in plan if shot.subtitle]


def record(
    run: Rollout,
    recipe: Recipe,
    script: Script,
    *,
    prefix: dict[str, Any] | None,
    history: int,
    timings: dict[str, float],
    digests: dict[str, str],
) -> dict[str, Any]:
    """The record of a finished rollout; `history` blocks came from another run."""
    spec, backend, progress, rows = run.backend.spec, run.backend, run.progress, run.batch
    found = recipe.to_dict()
    found["backend"] |= {
        "weights": backend.digest,
        "device": str(backend.device),
        "dtype": str(backend.dtype).removeprefix("torch."),
        "world": None if backend.world is None else backend.world.name,
    }
    found["script"] |= {
        "shots": [asdict(shot) for shot in planned(script, spec, first=run.first)],
        "fps": spec.fps,
        "stride": spec.stride,
    }
    return {
        "rollout": __version__,
        **found,
        "prefix": prefix,
        "history": history,
        "events": [event.to_dict() for event in progress.events],
        "rules": rules(recipe.strategy) | rules(run.strategy),
        "digests": digests,
        "timings": timings,
        "costs": {
            "forwards": progress.forwards,
            "blocks": run.blocks,
            "given": run.first,
            "encoded": None if progress.encoded is None else _share(progress.encoded, rows),
            "rows": rows,
            "kv_bytes": run.cache.bytes // rows,
            "held_bytes": None if progress.held_bytes is None else progress.held_bytes // rows,
            "rotated_bytes": run.cache.rotated // rows,
            "switch_seconds": progress.switch_seconds,
        },
        "versions": machine(backend.device),
    }


def _share(encoded: Encoded, rows: int) -> dict[str, Any]:
    """What a row's given blocks took, of those of all rows."""
    return asdict(encoded) | {"rotated_bytes": encoded.rotated_bytes // rows}


def times(seconds: float, writing: float, frames: int) -> dict[str, float]:
    """A record's timings: `writing` of all `seconds` went into decoding and writing `frames` pixel frames."""
    return {
        "seconds": seconds,
        "decode_and_write_seconds": writing,
        "generate_seconds": seconds - writing,
        "frames": frames,
        "frames_per_second": frames / seconds,
    }


def write_record(folder: Path, found: Mapping[str, Any]) -> None:
    """Write run.json whole. Raises OutputError."""
    write_text(folder / "run.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def rules(strategy: Strategy) -> dict[str, str]:
    """The files, by content, of parts that are not rollout's own: {"policy dilated": sha256}."""
    found = {}
    for axis in AXES:
        part = getattr(strategy, axis)
        file = getattr(sys.modules.get(type(part).__module__), "__file__", None)
        if not type(part).__module__.startswith("rollout.") and file is not None:
            found[f"{axis} {part.kind}"] = sha256(Path(file).read_bytes()).hexdigest()
    return found


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Interpreter, platform, processor, packages and threads."""
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device is not None and device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def changed(then: object, device: torch.device) -> list[str]:
    """What of interpreter, machine and packages is not as a record says: results may differ there in their last bits."""
    if not isinstance(then, Mapping):
        return ["the record does not say on what it ran"]
    now = machine(device)
    names = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    return [f"{name} was {then.get(name)} and is {now.get(name)}" for name in names]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished run. Raises OutputError."""
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise OutputError(f"{folder} is not the folder of a run: run.json {why}. Give a run's folder.") from error
    if not isinstance(found, Mapping):
        raise OutputError(f"{path} holds no object. Give a run's folder.")
    return dict(found)
