"""The loop: a strategy, a backend and a script to latent blocks, one result a block."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollout.backend import Backend
from rollout.cache import KVCache, kv_bytes
from rollout.devices import free_bytes, now
from rollout.errors import BackendError, RolloutError, ScriptError
from rollout.plan import Step, chunks, decide, reach, replayed
from rollout.sampler import Noise, Schedule, sample, seeded
from rollout.script import Script
from rollout.slots import Block, Edit, Placement, Replay, Slot
from rollout.strategy import Strategy


@dataclass(frozen=True)
class Result:
    """One finished block: its clean latents (B, F, C, H, W) and the slots and placement it was denoised against."""

    block: Block
    latents: Tensor
    slots: tuple[Slot, ...]
    placement: Placement
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """What came from outside while the rollout ran, and the block at which it took effect."""

    block: int
    kind: str
    value: tuple[str, ...] = ()


class Rollout(Iterator[Result]):
    """A running rollout: iterate for its blocks; `prompt` and `cut` act from the next block on.

    `events` logs what came from outside, so that the run can be repeated exactly; `cache` is its KVCache; `blocks` counts
    the planned blocks and `first` those given as a prefix; `forwards` counts the model's passes so far, and
    `switch_seconds` holds what each prompt change or cut took, replays included.
    """

    def __init__(
        self,
        backend: Backend,
        strategy: Strategy,
        scripts: Sequence[Script],
        *,
        noise: Noise | None = None,
        seeds: Sequence[int] = (0,),
        schedule: Schedule | None = None,
        prefix: Tensor | None = None,
        endless: bool = False,
    ) -> None:
        spec = backend.spec
        self.backend, self.strategy, self.schedule = backend, strategy, schedule or Schedule()
        batch = max(len(scripts), len(seeds))
        self.batch = batch
        rows = _rows(scripts, batch, "scripts")
        _same_plan(rows)
        self._noise = noise or seeded(_rows(seeds, batch, "seeds"), spec.latent, device=backend.device)
        self._prefix = _prefix(prefix, backend, batch)
        self.first = first = 0 if self._prefix is None else self._prefix.shape[1] // spec.block
        self.blocks = rows[0].count(spec) + first
        strategy.check(spec, self.blocks * spec.block)
        self._plan = rows[0].blocks(spec, first=first)
        self._endless = endless
        self._texts = [tuple(script.prompts[n] for script in rows) for n in range(len(rows[0].shots))]
        self._encoded: dict[str, Tensor] = {text: backend.encode(text) for texts in self._texts for text in texts}
        ready: Callable[[], None] | None = getattr(backend, "ready", None)
        if ready is not None:
            ready()  # a backend may free its text encoder now
        self.cache = _cache(backend, strategy.policy.window, batch)
        self._prompt: tuple[tuple[str, ...], Tensor] | None = None
        self._latents: dict[int, Tensor] = {}
        self._shot = self._current = 0
        self._wanted: tuple[str, ...] | None = None
        self._cut = False
        self._last: Block | None = None
        self._block: Block | None = None
        self._step: Step | None = None
        self._prepared = 0
        self.events: list[Event] = []
        self.forwards = 0
        self.switch_seconds: list[float] = []

    def prompt(self, *texts: str) -> None:
        """From the next block on, roll out this prompt (one for all, or one a batch row). Raises PromptError."""
        wanted = tuple(_rows(texts, self.batch, "prompts"))
        for text in wanted:
            self._encoded[text] = self.backend.encode(text)
        self._wanted = wanted

    def cut(self) -> None:
        """Make the next block a hard cut."""
        self._cut = True

    def __next__(self) -> Result:
        """The next block; one that failed is tried again. Raises StopIteration, CacheError, RolloutError."""
        self._block = self._block or self._next_block()
        if self._step is None:
            self._step = decide(self.strategy, self.cache.slots, self._block, self.backend.spec)
            self._prepared = 0
        result = self._run(self._step)
        self._block, self._step, self._last = None, None, result.block
        return result

    @torch.no_grad()
    def _run(self, step: Step) -> Result:
        cache, block = self.cache, step.block
        texts = self._texts[block.prompt]
        if self._prompt is None or self._prompt[0] != texts:  # one tensor a prompt: backends keep its keys and values
            self._prompt = texts, torch.cat([self._encoded[text] for text in texts])
        prompt = self._prompt[1]
        if self._prepared == 0:  # a block that is tried again is not prepared again
            if step.switch is not None:
                begun = now(self.backend.device)
                self._switch(step.switch, step.replay, prompt, block.frames)
                self.switch_seconds.append(now(self.backend.device) - begun)
            self._prepared = 1
        if self._prepared == 1:
            cache.apply(step.room)
            self._prepared = 2
        given = None if self._prefix is None else self._prefix[:, block.start : block.end]
        if given is not None and given.shape[1]:
            x0 = given
        else:
            x0 = sample(self.backend, block, self._noise, prompt, cache.reader(step.placement), self.schedule)
            self.forwards += len(self.schedule.steps)
        self._encode(x0, prompt, step.placement, step.admitted)
        cache.commit(step.admitted)
        self._remember(block, x0)
        return Result(block, x0, step.slots, step.placement, texts)

    def _encode(self, x0: Tensor, prompt: Tensor, placement: Placement, slots: Sequence[Slot]) -> None:
        """The clean pass: write the block's keys and values."""
        self.backend.denoise(x0, self.schedule.context, prompt, self.cache.writer(placement, slots))
        self.forwards += 1

    def _switch(self, edit: Edit, replay: Replay | None, prompt: Tensor, frames: int) -> None:
        """Apply the edit and encode the replayed frames again; a cache left half-way is marked unusable."""
        if replay is None:
            self.cache.apply(edit)
            return
        missing = [f for f in replay.frames if f not in self._latents]
        if missing:
            raise RolloutError(
                f"frame {missing[0]} is to be encoded again, but only the last {self.cache.window} frames are held."
            )
        passes = chunks(self.strategy, edit.slots, replay, frames, reach(self.strategy, self.backend.spec))
        slots = iter(replayed(replay, frames))
        try:
            self.cache.apply(edit)
            for part, placement in passes:
                admitted = [next(slots) for _ in part]
                self._encode(torch.cat([self._latents[f] for f in part], 1), prompt, placement, admitted)
                self.cache.commit(admitted)
        except BaseException:
            self.cache.fail("a replay stopped half-way")
            raise

    def _remember(self, block: Block, x0: Tensor) -> None:
        """Hold the clean latents of the last `window` frames and of whatever is cached."""
        for i in range(block.frames):
            self._latents[block.start + i] = x0[:, i : i + 1]
        held = {slot.frame for slot in self.cache.slots}
        for frame in [f for f in self._latents if f < block.end - self.cache.window and f not in held]:
            del self._latents[frame]

    def _next_block(self) -> Block:
        last, planned = self._last, next(self._plan, None)
        if planned is None:
            if not self._endless or last is None:
                raise StopIteration
            planned = Block(last.index + 1, last.end, last.frames, self._shot)
            self.strategy.check(self.backend.spec, planned.end)
        if planned.prompt != self._shot:  # the script's own next shot ends a prompt from outside
            self._shot = self._current = planned.prompt
        if self._wanted is not None:
            self._texts.append(self._wanted)
            self._current = len(self._texts) - 1
            self.events.append(Event(planned.index, "prompt", self._wanted))
            self._wanted = None
        if self._cut:
            self.events.append(Event(planned.index, "cut"))
        cut, self._cut = planned.cut or (self._cut and planned.index > 0), False
        switch = last is not None and self._texts[self._current] != self._texts[last.prompt]
        return replace(planned, prompt=self._current, switch=switch, cut=cut)


def generate(
    backend: Backend,
    strategy: Strategy,
    script: str | Script | Sequence[str | Script],
    *,
    seeds: int | Sequence[int] = 0,
    noise: Noise | None = None,
    schedule: Schedule | None = None,
    prefix: Tensor | None = None,
    endless: bool = False,
) -> Rollout:
    """Roll out a script block by block: an iterator of results whose prompt can be changed while it runs.

    Several scripts (of one timing) or seeds make a batch. `prefix` (F or B, F, C, H, W) gives the first blocks instead of
    noise. `endless` goes on under the last prompt. Raises ScriptError, PromptError, CompositionError.
    """
    given = [script] if isinstance(script, str | Script) else list(script)
    scripts = [Script.parse(s) if isinstance(s, str) else s for s in given]
    return Rollout(
        backend,
        strategy,
        scripts,
        seeds=[seeds] if isinstance(seeds, int) else list(seeds),
        noise=noise,
        schedule=schedule,
        prefix=prefix,
        endless=endless,
    )


T = TypeVar("T")


def _rows(values: Sequence[T], batch: int, what: str) -> list[T]:
    """One value a batch row: all of them, or one for all."""
    if len(values) not in (1, batch):
        raise RolloutError(f"{len(values)} {what} do not fit a batch of {batch}. Give one, or one a row.")
    return list(values) * (batch if len(values) == 1 else 1)


def _cache(backend: Backend, window: int, batch: int) -> KVCache:
    """A cache for a backend. Raises BackendError where its memory is not there."""
    need, free = kv_bytes(backend.spec, window, batch, backend.dtype), free_bytes(backend.device)
    if free is not None and need > free:
        raise BackendError(
            f"{window} cached frames take {need / 2**20:,.0f} MiB of keys and values; {backend.device} has {free / 2**20:,.0f} "
            "free. Use a smaller window, batch or size."
        )
    attention = getattr(backend, "attention", scaled_dot_product_attention)
    return KVCache(backend.spec, window, batch, dtype=backend.dtype, device=backend.device, attention=attention)


def _same_plan(scripts: Sequence[Script]) -> None:
    plans = {tuple((shot.seconds, shot.cut) for shot in script.shots) for script in scripts}
    if len(plans) > 1:
        raise ScriptError("the scripts of a batch differ in timing. Give all the same durations and cuts.")


def _prefix(prefix: Tensor | None, backend: Backend, batch: int) -> Tensor | None:
    if prefix is None:
        return None
    spec = backend.spec
    rows = prefix if prefix.ndim == 5 else prefix[None]
    if rows.ndim != 5 or tuple(rows.shape[2:]) != spec.latent or rows.shape[0] not in (1, batch) or rows.shape[1] == 0:
        raise RolloutError(
            f"the prefix has the shape {tuple(prefix.shape)}; {spec.name} takes (frames, {', '.join(map(str, spec.latent))})."
        )
    if rows.shape[1] % spec.block:
        raise RolloutError(f"the prefix has {rows.shape[1]} frames; give whole blocks of {spec.block}.")
    return rows.expand(batch, -1, -1, -1, -1).to(backend.device, backend.dtype)
