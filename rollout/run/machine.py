"""On what a run was made: interpreter, platform, processor, packages. What differs there may differ in the last bits."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rollout.ranks import Ranks

__all__ = ["changed", "machine"]

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "av")


def machine(device: torch.device | None = None, ranks: Ranks | None = None) -> dict[str, str | int]:
    """Interpreter, platform, processor, packages and threads; and the number of processes, where they were several."""
    facts: dict[str, str | int] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }
    if device is not None and device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    if ranks is not None:
        facts["processes"] = ranks.count
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def changed(then: object, device: torch.device, ranks: Ranks | None = None) -> list[str]:
    """What of interpreter, machine and packages is not as a record says: results may differ there in their last bits."""
    if not isinstance(then, Mapping):
        return ["the record does not say on what it ran"]
    now = machine(device, ranks)
    names = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    alone = {"processes": 1}
    return [f"{name} was {then.get(name, alone.get(name))} and is {now.get(name, alone.get(name))}" for name in names]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
