"""The arguments of a rollout, validated, one row a batch element."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollout.backend import Backend, BackendDefaults
from rollout.cache import KVCache
from rollout.devices import free_bytes
from rollout.errors import BackendError, CompositionError, RolloutError, ScriptError
from rollout.handover import check_handover
from rollout.lanes import Lane, lanes_here
from rollout.members import lacks
from rollout.memory import ahead, cache_bytes
from rollout.registry import find
from rollout.sampler import Schedule
from rollout.script import Script
from rollout.strategy import REFINEMENTS, Strategy
from rollout.timeline import Event, reigns

__all__ = [
    "check_members",
    "check_memory",
    "check_strategies",
    "given_latents",
    "heads_here",
    "named_strategy",
    "new_caches",
    "rows",
    "same_plan",
]

T = TypeVar("T")


def named_strategy(strategy: Strategy | str, backend: Backend) -> tuple[Strategy, Schedule | None]:
    """The strategy that is given or named, and the noise levels of its own that a preset's name brings along.

    Raises SpecError, and CompositionError where the preset denoises blocks of another size than the backend.
    """
    if not isinstance(strategy, str) or " " in strategy.strip():
        return Strategy.of(strategy), None
    name, block = strategy.strip(), backend.spec.block
    entry = find("presets", name)
    if entry.block not in (None, block):
        raise CompositionError(
            f"the preset '{name}' denoises blocks of {entry.block}, and the backend '{backend.spec.name}' is loaded with blocks "
            f"of {block}. Load it with block={entry.block}, or give preset('{name}') to keep its blocks."
        )
    return entry.strategy, entry.schedule


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


def check_memory(backend: Backend, strategy: Strategy, batch: int, steps: int = 4) -> None:
    """Raise BackendError where the device has too little free memory for the frames that a strategy caches."""
    spec, itemsize = backend.spec, backend.dtype.itemsize
    frames = strategy.stored + ahead(strategy, spec, steps)
    need = cache_bytes(strategy, spec, itemsize, batch * backend.rows, steps, heads_here(backend))
    place = torch.device("cpu") if strategy.store.on_host else backend.device
    free = free_bytes(place)
    if free is not None and need > free:
        raise BackendError(
            f"{frames} cached frames take {need / 2**20:,.0f} MiB of keys and values; {place} has {free / 2**20:,.0f} "
            "free. Use a smaller window, batch or size, or --store int8."
        )


def heads_here(backend: Backend) -> range:
    """The heads whose keys and values this process holds."""
    heads = backend.spec.heads
    return range(heads) if backend.ranks is None else backend.ranks.heads(heads)


def check_strategies(
    backend: Backend, strategy: Strategy, events: Sequence[Event], blocks: int, batch: int, steps: int = 4
) -> int:
    """The most frames that a rollout's strategies cache; each is checked over the frames for which it is in force.

    Raises CompositionError, BackendError.
    """
    in_order = reigns(strategy, events)
    ends = [*(begin for begin, _ in in_order[1:]), blocks]
    for (_, ruling), end in zip(in_order, ends, strict=True):
        check_handover(strategy, ruling, backend.spec)
        ruling.check(backend.spec, max(1, min(end, blocks)) * backend.spec.block)
        check_memory(backend, ruling, batch, steps)
    return max(ruling.stored for _, ruling in in_order)


def new_caches(
    backend: Backend,
    strategy: Strategy,
    lanes: Sequence[Lane],
    batch: int,
    steps: int,
    *,
    window: int | None = None,
) -> tuple[KVCache, ...]:
    """The cache of a strategy on a backend, or one a lane. Raises BackendError where the device has too little free memory."""
    check_memory(backend, strategy, batch, steps)
    here, ranks = heads_here(backend), backend.ranks
    multipliers = None
    if strategy.spectrum.kind != REFINEMENTS["spectrum"]:
        by_head = strategy.spectrum.multipliers(backend.spec)
        by_head = by_head if len(by_head) == 1 else by_head[here.start : here.stop]
        multipliers = torch.tensor(by_head, dtype=torch.float64)

    def new(strategy: Strategy, window_size: int, heads: Sequence[int] | None) -> KVCache:
        return KVCache(
            backend.spec,
            window_size,
            batch * backend.rows,
            ahead=ahead(strategy, backend.spec, steps),
            needs=strategy.policy.needs,
            multipliers=multipliers,
            store=strategy.store,
            heads=heads,
            ranks=ranks,
            dtype=backend.dtype,
            device=backend.device,
            attention=backend.attention or scaled_dot_product_attention,
        )

    if not lanes:
        counts = None if ranks is None else [len(here)] * backend.spec.layers
        return (new(strategy, strategy.stored if window is None else window, counts),)
    parts = [
        (strategy.of_lane(lane), [len(heads) for heads in lane.heads])
        for lane in lanes_here(lanes, ranks, backend.spec)
    ]
    return tuple(new(part, part.stored, counts) for part, counts in parts)
