"""The run record: everything that a rollout's result depends on, as JSON."""

import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rollout import __version__
from rollout.backend import Backend, Spec
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
            "kv_bytes": run.cache.bytes,
            "rotated_bytes": run.cache.rotated,
            "switch_seconds": run.switch_seconds,
        },
        "versions": versions(backend),
    }


def versions(backend: Backend) -> dict[str, Any]:
    """Interpreter, platform, packages and threads."""
    import torch

    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
    if backend.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(backend.device)
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
