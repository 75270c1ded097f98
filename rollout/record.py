"""The run record: everything that a rollout's result depends on, as JSON."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rollout import __version__
from rollout.backend import Backend, Spec
from rollout.loop import Rollout
from rollout.script import Script
from rollout.video import Subtitle

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "av")


def planned(script: Script, spec: Spec, *, first: int = 0) -> list[dict[str, Any]]:
    """The script's shots as they are rolled out: asked and rounded seconds, blocks, true frames and times."""
    shots, block = [], 0
    for number, shot in enumerate(script.shots):
        count = shot.blocks(spec) + (first if number == 0 else 0)
        start, end = block * spec.block, (block + count) * spec.block
        shots.append(
            {
                "prompt": shot.prompt,
                "asked_seconds": shot.seconds,
                "cut": shot.cut,
                "subtitle": shot.subtitle,
                "blocks": count,
                "frames": [start, end],
                "begin": spec.pixel_frames(start) / spec.fps,
                "end": spec.pixel_frames(end) / spec.fps,
            }
        )
        block += count
    return shots


def subtitles(script: Script, spec: Spec, *, first: int = 0) -> list[Subtitle]:
    """The script's subtitles on the true frames."""
    return [Subtitle(s["begin"], s["end"], s["subtitle"]) for s in planned(script, spec, first=first) if s["subtitle"]]


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
            "shots": planned(script, spec, first=run.first),
            "fps": spec.fps,
            "stride": spec.stride,
        },
        "schedule": {"steps": list(run.schedule.steps), "shift": run.schedule.shift, "context": run.schedule.context},
        "seed": seed,
        "prefix": prefix,
        "events": [{"block": e.block, "kind": e.kind, "value": list(e.value)} for e in run.events],
        "timings": timings,
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
