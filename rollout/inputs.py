"""The arguments of a rollout, validated, one row a batch element."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollout.backend import Backend, BackendDefaults
from rollout.cache import KVCache, kv_bytes
from rollout.devices import free_bytes
from rollout.errors import BackendError, RolloutError, ScriptError
from rollout.members import lacks
from rollout.script import Script
from rollout.strategy import Strategy
from rollout.timeline import Event, reigns

__all__ = ["check_members", "check_memory", "check_strategies", "given_latents", "new_cache", "rows", "same_plan"]

T = TypeVar("T")


def rows(values: Sequence[T], batch: int, noun: str) -> list[T]:
    """One value a batch row: all of them, or one for all."""
    if len(values) not in (1, batch):
        raise RolloutError(f"{len(values)} {noun} do not fit a batch of {batch}. Give one, or one a row.")
    return list(values) * (batch if len(values) == 1 else 1)


def same_plan(scripts: Sequence[Script]) -> None:
    """Raise ScriptError where the scripts of a batch differ in timing."""
    plans = {tuple((shot.seconds, shot.cut) for shot in script.shots) for script in scripts}
    if len(plans) > 1:
        raise ScriptError("the scripts of a batch differ in timing. Give all the same durations and cuts.")


def given_latents(latents: Tensor | None, backend: Backend, batch: int, noun: str) -> Tensor | None:
    """Latents (F or B, F, C, H, W) of whole blocks as (B, F, C, H, W), where they lie. Raises RolloutError."""
    if latents is None:
        return None
    spec = backend.spec
    batch_latents = latents if latents.ndim == 5 else latents[None]
    shape = batch_latents.shape
    if batch_latents.ndim != 5 or tuple(shape[2:]) != spec.latent or shape[0] not in (1, batch) or shape[1] == 0:
        raise RolloutError(
            f"the {noun} has the shape {tuple(latents.shape)}; {spec.name} takes (frames, "
            f"{', '.join(map(str, spec.latent))})."
        )
    if shape[1] % spec.block:
        raise RolloutError(f"the {noun} has {shape[1]} frames; give whole blocks of {spec.block}.")
    return batch_latents.expand(batch, -1, -1, -1, -1)


def check_members(backend: Backend) -> None:
    """Raise BackendError that names the members of the protocol that a backend lacks, and the mixin that has them."""
    lack = lacks(backend, Backend, BackendDefaults)
    if lack:
        raise BackendError(f"the backend {type(backend).__name__} {lack}")


def check_memory(backend: Backend, window: int, batch: int) -> None:
    """Raise BackendError where the device has too little free memory for `window` cached frames."""
    need, free = kv_bytes(backend.spec, window, batch, backend.dtype), free_bytes(backend.device)
    if free is not None and need > free:
        raise BackendError(
            f"{window} cached frames take {need / 2**20:,.0f} MiB of keys and values; {backend.device} has {free / 2**20:,.0f} "
            "free. Use a smaller window, batch or size."
        )


def check_strategies(backend: Backend, strategy: Strategy, events: Sequence[Event], blocks: int, batch: int) -> int:
    """The largest window of a rollout's strategies; each is checked over the frames for which it is in force.

    Raises CompositionError, BackendError.
    """
    in_order = reigns(strategy, events)
    ends = [*(begin for begin, _ in in_order[1:]), blocks]
    for (_, ruling), end in zip(in_order, ends, strict=True):
        ruling.check(backend.spec, max(1, min(end, blocks)) * backend.spec.block)
        check_memory(backend, ruling.policy.window, batch)
    return max(ruling.policy.window for _, ruling in in_order)


def new_cache(backend: Backend, window: int, batch: int) -> KVCache:
    """A cache for a backend. Raises BackendError where the device has too little free memory."""
    check_memory(backend, window, batch)
    attention = backend.attention or scaled_dot_product_attention
    return KVCache(backend.spec, window, batch, dtype=backend.dtype, device=backend.device, attention=attention)
