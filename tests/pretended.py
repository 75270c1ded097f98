"""A GPU that is not there: tensors that say they are on one and compute on the CPU, and a count of what would wait.

Real numbers go through, so that what a rollout gives there can be compared with the CPU's, and what it decides by a tensor's
value it decides as ever. An operator that mixes devices raises, as it would on a GPU.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if not hasattr(getattr(torch._C, "_acc", None), "register_python_privateuseone_device_guard"):
    pytest.skip("this PyTorch lets no device be made in Python", allow_module_level=True)

GPU = torch.device("privateuseone:0")

WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "_unique2", "masked_select", "item")
"""Operators whose result, or its size, the host waits for."""
INDEXES = ("index", "index_put_", "index_put", "_index_put_impl_")
CROSSES = ("copy_", "_to_copy", *INDEXES)
"""Operators that may see tensors of both devices."""


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGpu":
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"OnGpu({self.inner!r})"

    def tolist(self) -> Any:
        """Numbers for the host, which waits for them."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on the pretended GPU, outside of it")


class Pretended(TorchDispatchMode):
    """While it is entered the GPU is there. `waits` and `passes` count copies and values by kind and place.

    The host waits for a value, and for a copy, but that one from pinned memory that says non_blocking passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.passes: Counter[tuple[str, str]] = Counter()
        self._pinned: WeakSet[Any] = WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__.split(".")[0]
        tensors = list(_tensors((*args, *kwargs.values())))
        here = [x for x in tensors if isinstance(x, OnGpu)]
        there = [x for x in tensors if not isinstance(x, OnGpu)]
        target = kwargs.get("device")
        self._check(func, name, here, there)
        self._count(name, args, kwargs, here, there)
        if kwargs.pop("pin_memory", False) or name == "_pin_memory":
            pinned = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs)
            self._pinned.add(pinned.untyped_storage())
            return pinned
        if name == "is_pinned":
            return args[0].untyped_storage() in self._pinned
        if target is not None:
            kwargs["device"] = "cpu"
        if name == "_conj":  # a mark that the dispatcher has passed already when it comes here
            func = torch.ops.aten.conj_physical.default
        result = func(*map(_inner, args), **{key: _inner(value) for key, value in kwargs.items()})
        if func._schema.is_mutable and not isinstance(result, tuple | list):
            return args[0] if result is not None and "out" not in kwargs else kwargs.get("out", result)
        on_gpu = torch.device(target).type == GPU.type if target is not None else bool(here)
        return _outer(result) if on_gpu else result

    def _check(self, func: Any, name: str, here: list[Tensor], there: list[Tensor]) -> None:
        """Raise where tensors on both devices meet; a number in a tensor of the CPU may go along."""
        if here and name not in CROSSES and any(x.ndim for x in there):
            raise RuntimeError(f"{func} was given tensors on {GPU} and on the CPU")

    def _count(self, name: str, args: Any, kwargs: Any, here: list[Tensor], there: list[Tensor]) -> None:
        if here and name in WAITS:
            self.waits["value", _place()] += 1
        elif name == "_to_copy" and kwargs.get("device") is not None:
            goes, comes = torch.device(kwargs["device"]).type == GPU.type, isinstance(args[0], OnGpu)
            if goes != comes:
                self._copied(args[0], goes, bool(kwargs.get("non_blocking")))
        elif name == "copy_" and isinstance(args[0], OnGpu) != isinstance(args[1], OnGpu):
            self._copied(args[1], isinstance(args[0], OnGpu), len(args) > 2 and bool(args[2]))
        elif name in INDEXES and here and any(x.ndim for x in there):
            self.waits["to the GPU", _place()] += 1  # rows as a list

    def _copied(self, source: Tensor, goes: bool, non_blocking: bool) -> None:
        kind = "to the GPU" if goes else "to the host"
        pinned = goes and source.untyped_storage() in self._pinned
        (self.passes if pinned and non_blocking else self.waits)[kind, _place()] += 1

    def clear(self) -> None:
        """Count anew."""
        self.waits.clear()
        self.passes.clear()


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _inner(value: Any) -> Any:
    """As the CPU computes with it; torch.utils._pytree does the same in three times the time of all operators."""
    if isinstance(value, OnGpu):
        return value.inner
    return type(value)(map(_inner, value)) if isinstance(value, list | tuple) else value


def _outer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return OnGpu(value)
    return type(value)(map(_outer, value)) if isinstance(value, list | tuple) else value


def _place() -> str:
    """The innermost function of the package that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("rollout.") and module != "rollout.devices":
            return f"{module.removeprefix('rollout.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


class _Guard(torch._C._acc.DeviceGuard):
    """What PyTorch asks for the device that is current: there is one."""

    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


@cache
def _registered() -> ModuleType:
    """Have PyTorch know the device, once a process; without the hooks that would make it everybody's accelerator."""
    module = ModuleType("torch.privateuseone")
    module._lazy_init = lambda: None  # type: ignore[attr-defined]
    # torch.manual_seed asks every device that is known
    module._is_in_bad_fork, module.manual_seed_all = lambda: False, lambda seed: None  # type: ignore[attr-defined]
    torch._register_device_module(GPU.type, module)
    torch._C._acc.register_python_privateuseone_device_guard(_Guard())
    return module


@contextmanager
def pretended() -> Iterator[Pretended]:
    """An accelerator for the time being, without gradients; PyTorch need not be built for one."""
    mode, module = Pretended(), _registered()
    module.synchronize = lambda device=None: mode.waits.update({("all", _place()): 1})  # type: ignore[attr-defined]
    # torch.tensor(numbers, device=...) makes the tensor on the CPU and copies it, where a mode sees that
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with torch.no_grad(), mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
