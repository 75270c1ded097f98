"""The four refinements of a strategy: spectrum, reads, order and store. Each has a default that changes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from rollout.backend import Spec
from rollout.slots import Block, Pass, Slot

if TYPE_CHECKING:  # strategies are composed without torch
    from torch import Tensor, device, dtype

    from rollout.store import Store
    from rollout.strategy import Strategy

__all__ = [
    "Order",
    "OrderDefaults",
    "Reads",
    "ReadsDefaults",
    "Spectrum",
    "SpectrumDefaults",
    "StoreDefaults",
    "StoreRule",
]


@runtime_checkable
class Spectrum(Protocol):
    """How fast do the temporal channels turn? Multipliers of their frequencies."""

    kind: ClassVar[str]

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """One row for all heads or one a head, each with a factor for every temporal pair, from the fastest on."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


@runtime_checkable
class Reads(Protocol):
    """What does a pass see of what is stored?"""

    kind: ClassVar[str]

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        """The slots, of those that the policy lets be read, that a pass reads; `block` is its oldest."""
        ...

    def bias(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[float, ...]:
        """What is added to the attention logits of the slots that are read, one number a slot, or nothing."""
        ...

    def span(self, window: int) -> int:
        """The most frames that a pass reads, its own included, of a policy with this window."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


@runtime_checkable
class Order(Protocol):
    """In which order are blocks denoised?"""

    kind: ClassVar[str]

    def joint(self, steps: int) -> int:
        """The most blocks that one pass sees, with so many denoising steps."""
        ...

    def passes(self, index: int, steps: int, last: int | None) -> tuple[Pass, ...]:
        """The passes after which block `index` is committed; the last one writes. `last`: the last block, None if open.

        Blocks are counted from the first that is generated.
        """
        ...

    def check_plan(self, steps: int, blocks: int | None) -> None:
        """Raise CompositionError where so many steps or blocks (None: without end) do not go."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


@runtime_checkable
class StoreRule(Protocol):
    """In which form are keys and values kept? `new` gives the tensors their owner."""

    kind: ClassVar[str]
    tolerance: ClassVar[float]
    """By how much attention over standard normal keys and values may be off from that over the model's own numbers."""
    on_host: ClassVar[bool]
    """Takes the host's memory, not the device's."""

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
        """A store of so many rows (frames), as `rollout.store.Store`. Raises BackendError where the device cannot hold it."""
        ...

    def frame_bytes(self, spec: Spec, itemsize: int) -> int:
        """Bytes of one frame's keys and values in every layer, for a model whose numbers take `itemsize` bytes."""
        ...

    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """As for positions."""
        ...


class _Fits:
    def check(self, strategy: "Strategy", spec: Spec | None, frames: int | None) -> None:
        """Fits everywhere."""


class SpectrumDefaults(_Fits):
    """Fits everywhere. Inherit it, and add kind and multipliers."""


class ReadsDefaults(_Fits):
    """No bias, no limit below the window. Inherit it, and add kind and which."""

    def bias(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[float, ...]:
        """Nothing."""
        return ()

    def span(self, window: int) -> int:
        """The whole window."""
        return window


class OrderDefaults(_Fits):
    """One block at a time, any number of steps. Inherit it, and add kind and passes."""

    def joint(self, steps: int) -> int:
        """One."""
        return 1

    def check_plan(self, steps: int, blocks: int | None) -> None:
        """Goes with every plan."""


class StoreDefaults(_Fits):
    """Fits everywhere, exactly and at the size of the model's numbers. Inherit it, and add kind and new."""

    tolerance: ClassVar[float] = 1e-9
    on_host: ClassVar[bool] = False

    def frame_bytes(self, spec: Spec, itemsize: int) -> int:
        """Keys and values as they are."""
        return 2 * spec.layers * spec.tokens * spec.heads * spec.head_dim * itemsize
