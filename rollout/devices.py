"""Devices, dtypes and memory, with errors that a user understands."""

import time
from pathlib import Path

import torch
from torch import Tensor

from rollout.errors import BackendError
from rollout.text import cause

__all__ = ["DTYPES", "Peak", "find_device", "find_dtype", "free_bytes", "now", "staged"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def find_device(name: torch.device | str) -> torch.device:
    """The device, tried with a tensor. Raises BackendError."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackendError(f"the device {str(name)!r} is not there: {cause(error)}. Use cpu.") from error
    return device


def find_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype by name; None is bfloat16 on an accelerator and float32 on a CPU. Raises BackendError."""
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise BackendError(f"there is no dtype {name!r}. Use one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def now(device: torch.device) -> float:
    """Seconds of a clock that only runs forward, once the device is idle."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()


def staged(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on the device, by a copy that the host does not wait for."""
    device = torch.device(device)
    if device.type in ("cpu", "mps"):
        return tensor.to(device)
    # from memory that the system might page out the driver copies only while the host stands still
    return tensor.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a new tensor could take, or None where the platform does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


class Peak:
    """The most memory since it was made: allocated on a GPU; resident on Linux, which can forget an earlier peak."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._fresh = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            # 5 resets the peak of resident memory (VmHWM), see proc(5).
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._fresh = False

    def bytes(self) -> int | None:
        """Bytes, None where the platform does not say."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if not self._fresh:
            return None
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
