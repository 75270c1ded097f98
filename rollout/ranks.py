"""Ranks: processes that are one rollout, each with the keys and values of its own heads (Ulysses, arXiv 2309.14509)."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rollout.devices import DTYPES
from rollout.errors import BackendError, RolloutError
from rollout.text import cause

__all__ = ["PATIENCE", "Ranks", "join_ranks", "leads"]

PATIENCE = timedelta(days=30)
"""How long processes wait for the first one, which may wait for a person; one that has ended is noticed at once."""


def join_ranks() -> "Ranks":
    """This process among those that were started with it: all must call this. Raises BackendError."""
    try:
        if not dist.is_initialized():
            on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
        return Ranks(dist.new_group(backend="gloo", timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise BackendError(
            f"the processes of this rollout do not find each other: {cause(error)}. Start them with torchrun."
        ) from error


def leads(ranks: "Ranks | None") -> bool:
    """Whether this process encodes, decodes and writes: one by itself, or the first of several."""
    return ranks is None or ranks.first


class Ranks:
    """This process's `number` among `count` that are one rollout; the first, number 0, encodes, decodes and writes.

    All do the same in the same order. `control`: a group of gloo, for what lies on the CPU. Where another process has
    ended, all methods that wait for it raise BackendError.
    """

    def __init__(self, control: Any = None) -> None:
        self.number, self.count = dist.get_rank(), dist.get_world_size()
        self._control = control

    @property
    def first(self) -> bool:
        """Whether this is the process that encodes, decodes and writes."""
        return self.number == 0

    def heads(self, total: int) -> range:
        """The heads that are held here, of a model that has `total`, a number that `count` divides."""
        share = total // self.count
        return range(self.number * share, (self.number + 1) * share)

    def device(self, name: str) -> str:
        """The device as this process names it; `cuda` is a GPU of its own. Raises BackendError where there are too few."""
        device = torch.device(name)
        if device.type != "cuda":
            return name
        if device.index is not None:
            raise BackendError(f"{self.count} processes cannot share {name}. Say --device cuda: each takes its own.")
        local = int(os.environ.get("LOCAL_RANK", self.number))
        if local >= torch.cuda.device_count():
            raise BackendError(
                f"process {self.number} needs a GPU of its own, and there are {torch.cuda.device_count()} here. Start fewer."
            )
        torch.cuda.set_device(
            local
        )  # what `cuda` means from here on, to NCCL too; records of all processes say the same
        return name

    def share(self, value: Any) -> Any:
        """The first process's value, JSON, in all of them."""
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        with _together():
            dist.broadcast(size, 0, group=self._control)
            data = data if self.first else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._control)
        return json.loads(bytes(data.tolist()))

    def once(self, compute: Callable[[], Tensor], device: torch.device) -> Tensor:
        """A tensor that the first process alone computes, in all of them; what it raises, all raise."""
        tensor, problem = torch.empty(0), None
        if self.first:
            try:
                tensor = compute()
            except RolloutError as error:
                self.share({"error": str(error)})
                raise
            problem = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        about = self.share(problem)
        if "error" in about:
            raise RolloutError(about["error"])
        data = tensor.cpu() if self.first else torch.empty(about["shape"], dtype=DTYPES[about["dtype"]])
        with _together():
            dist.broadcast(_as_bytes(data := data.contiguous()), 0, group=self._control)
        return data.to(device)

    def exchange(self, x: Tensor) -> Tensor:
        """x (count, ...) with a part for every process, to the parts (count, ...) that every process has for this one."""
        x = x.contiguous()
        out = torch.empty_like(x)
        with _together():
            dist.all_to_all_single(out, x)
        return out

    def join(self, x: Tensor, dim: int) -> Tensor:
        """The parts of all processes, which are of one size, along a dimension, in all of them."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.count)]
        with _together():
            dist.all_gather(parts, x)
        return torch.cat(parts, dim)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, in all of them."""
        total = x.clone()
        with _together():
            dist.all_reduce(total)
        return total

    def collect(self, x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """The parts of all processes, of these sizes along a dimension, in the first one, on the CPU; elsewhere x."""
        part = x.detach().cpu().contiguous()
        parts = [part]
        with _together():
            if not self.first:
                if part.numel():
                    dist.send(_as_bytes(part), 0, group=self._control)
                return part
            for number, size in enumerate(sizes[1:], 1):
                shape = list(part.shape)
                shape[dim] = size
                parts.append(part.new_empty(shape))
                if parts[-1].numel():
                    dist.recv(_as_bytes(parts[-1]), number, group=self._control)
        return torch.cat(parts, dim)

    def leave(self) -> None:
        """Wait until all processes are here, and part."""
        with _together():
            dist.barrier(group=self._control)
        dist.destroy_process_group()


def _as_bytes(x: Tensor) -> Tensor:
    """The same memory: gloo knows few kinds of numbers."""
    return x.view(-1).view(torch.uint8)


@contextmanager
def _together() -> Iterator[None]:
    """Say in one line that another process is gone."""
    try:
        yield
    except torch.OutOfMemoryError:  # its own
        raise
    except RuntimeError as error:
        raise BackendError(
            "another process of this rollout has ended. If it said nothing, its memory may have run out."
        ) from error
