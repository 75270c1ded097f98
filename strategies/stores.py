"""Stores: in which form keys and values are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rollout.backend import Spec
from rollout.errors import BackendError
from rollout.refinements import StoreDefaults

if TYPE_CHECKING:
    from torch import Tensor, device, dtype

    from rollout.coded import Coded
    from rollout.store import Store

__all__ = ["STORES", "Dense", "Fp8", "Host", "Int8"]


@dataclass(frozen=True)
class Dense(StoreDefaults):
    """Keys and values in the model's own numbers, on its device."""

    kind: ClassVar[str] = "dense"

    def code(self, device: "device | str") -> "type[Coded] | None":
        """The form of the buffers; None: plain tensors. Raises BackendError where the device does not have it."""
        return None

    def new(
        self,
        spec: Spec,
        rows: int,
        batch: int,
        dtype: "dtype",
        device: "device | str",
        multipliers: "Tensor | None" = None,
        heads: Sequence[int] | None = None,
    ) -> "Store":
        """Buffers of that form."""
        from rollout.store import Store

        return Store(spec, rows, batch, dtype, device, multipliers, heads, code=self.code(device))


@dataclass(frozen=True)
class Int8(Dense):
    """Eight bits a number, with a scale a token, head and group of channels (as LLM caches do, arXiv 2402.02750)."""

    kind: ClassVar[str] = "int8"
    tolerance: ClassVar[float] = 0.1

    def code(self, device: "device | str") -> "type[Coded] | None":
        """Whole numbers and scales."""
        from rollout.coded import Int8 as Coded

        return Coded

    def frame_bytes(self, spec: Spec, itemsize: int) -> int:
        """A byte a number, and three scales a token and head: keys have two groups of channels, values one."""
        return spec.layers * spec.tokens * spec.heads * (2 * spec.head_dim + 3 * 4)


@dataclass(frozen=True)
class Fp8(Dense):
    """Floating-point numbers of eight bits (torch.float8_e4m3fn), where the device has them."""

    kind: ClassVar[str] = "fp8"
    tolerance: ClassVar[float] = 0.5

    def code(self, device: "device | str") -> "type[Coded] | None":
        """Numbers of eight bits."""
        import torch

        from rollout.coded import Float8

        try:
            torch.zeros(1, device=device).to(torch.float8_e4m3fn).to(torch.float32)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise BackendError(f"the device {device} has no 8-bit floating-point numbers. Use --store int8.") from error
        return Float8

    def frame_bytes(self, spec: Spec, itemsize: int) -> int:
        """A byte a number."""
        return 2 * spec.layers * spec.tokens * spec.heads * spec.head_dim


@dataclass(frozen=True)
class Host(Dense):
    """Keys and values in the host's memory, copied to the device for each layer's attention: slower, and as large as that is."""

    kind: ClassVar[str] = "host"
    on_host: ClassVar[bool] = True

    def code(self, device: "device | str") -> "type[Coded] | None":
        """The same numbers elsewhere."""
        from rollout.coded import Hosted

        return Hosted


STORES = {rule.kind: rule for rule in (Dense, Int8, Fp8, Host)}
