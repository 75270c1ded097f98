"""The run record: everything that a rollout's result depends on, as JSON."""

import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rollout import __version__
from rollout.backend import Spec
from rollout.loop import Rollout
from rollout.script import Script, planned
from rollout.video import Subtitle

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "av")


def subtitles(script: Script, spec: Spec, *, first: int = 0) -> list[Subtitle]:
    """The script's subtitles on the true frames."""
    plan = planned(script, spec, first=first)
    return [Subtitle(shot.begin, shot.end, shot.subtitle) for shot in plan if shot.subtitle]


def record(
    run: Rollout, script: Script, *, text: str, seed: int, prefix: dict[str, Any] | None, timings: dict[str, float]
) -> dict[str, Any]:
    """The record of a finished rollout."""
    spec, backend = run.backend.spec, run.backend
    return {
        "rollout": __version__,
        "strategy": run.strategy.to_dict(),
        "backend": {
            "name": spec.name,
            "weights": getattr(backend, "digest", None),
            "device": str(backend.device),
            "dtype": str(backend.dtype).removeprefix("torch."),
        },
        "script": {
            "text": text,
            "shots": [asdict(shot) for shot in planned(script, spec, first=run.first)],
            "fps": spec.fps,
            "stride": spec.stride,
        },
        "schedule": {"steps": list(run.schedule.steps), "shift": run.schedule.shift, "context": run.schedule.context},
        "seed": seed,
        "prefix": prefix,
        "events": [{"block": e.block, "kind": e.kind, "value": list(e.value)} for e in run.events],
        "timings": timings,
        "costs": {
            "forwards": run.forwards,
            "blocks": run.blocks,
            "given": run.first,
            "kv_bytes": run.cache.bytes,
            "rotated_bytes": run.cache.rotated,
            "switch_seconds": run.switch_seconds,
        },
        "versions": machine(backend.device),
    }


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
