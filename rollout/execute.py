"""What is executed: the passes of a backend over one cache, and the clean latents that a replay may ask for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.costs import Costs
from rollout.devices import now
from rollout.errors import BackendError, RolloutError
from rollout.inputs import new_cache
from rollout.plan import Step, chunks, reach, replayed
from rollout.sampler import Noise, Schedule, sample
from rollout.slots import Block, Edit, Placement, Slot
from rollout.strategy import Strategy
from rollout.text import Json

__all__ = ["Engine"]


class Engine:
    """Executes steps, and decides nothing: `cache` is the rollout's KVCache, `costs` what it took so far.

    `hold`: the frames whose clean latents stay at least, for a replay.
    """

    def __init__(
        self, backend: Backend, schedule: Schedule, noise: Noise, *, batch: int, window: int, hold: int
    ) -> None:
        self.backend, self.schedule, self.batch, self.hold = backend, schedule, batch, hold
        self.cache = new_cache(backend, window, batch)
        self.costs = Costs()
        self._noise = noise
        self._features: dict[str, Tensor] = {}
        self._prompt: tuple[tuple[str, ...], Tensor] | None = None
        self._latents: dict[int, Tensor] = {}

    def encode(self, *prompts: tuple[str, ...]) -> None:
        """Have the text features of prompts at hand. Raises PromptError."""
        for text in {text: None for texts in prompts for text in texts}:
            if text not in self._features:
                self._features[text] = self.backend.encode(text)

    def hand_over(self, edit: Edit, window: int) -> None:
        """Make the cache another strategy's. Raises CacheError, and then nothing has happened."""
        if window > self.cache.window:
            self.cache.resize(window)
        self.cache.apply(edit)
        self.hold = max(self.hold, window)

    @torch.no_grad()
    def switch(self, step: Step, strategy: Strategy, texts: tuple[str, ...]) -> None:
        """Do what a prompt change or a cut does to the cache."""
        if step.switch is not None:
            begun = now(self.backend.device)
            self._switch(step, strategy, self._prompt_of(texts))
            self.costs.switch_seconds.append(now(self.backend.device) - begun)

    def _switch(self, step: Step, strategy: Strategy, prompt: Tensor) -> None:
        """Apply the edit and encode the replayed frames again; a cache left half-way is marked unusable."""
        edit, replay, block = step.switch, step.replay, step.block
        assert edit is not None
        if replay is None:
            self.cache.apply(edit)
            return
        missing = [frame for frame in replay.frames if frame not in self._latents]
        if missing:
            raise RolloutError(f"frame {missing[0]} is to be encoded again, but only the last {self.hold} are held.")
        slots = iter(replayed(replay, block.frames, block.scene))
        try:
            self.cache.apply(edit)
            for part, placement in chunks(
                strategy, edit.slots, replay, block.frames, reach(strategy, self.backend.spec)
            ):
                members = [next(slots) for _ in part]
                self._write(torch.cat([self._latents[f] for f in part], 1), prompt, placement, members)
                self.cache.commit(members)
        except BaseException:
            self.cache.fail("a replay stopped half-way")
            raise

    def make_room(self, step: Step, window: int) -> None:
        """Make room for a block in a cache of `window` frames."""
        self.cache.apply(step.room)
        if self.cache.window > window:  # of the strategy before, which held more
            self.cache.resize(window)

    @torch.no_grad()
    def block(self, step: Step, texts: tuple[str, ...], latents: Tensor | None) -> Tensor:
        """Sample a block, or take its `latents`, and commit it; its clean latents (B, F, C, H, W). Raises BackendError."""
        block, prompt, replaying = step.block, self._prompt_of(texts), latents is not None
        begun = now(self.backend.device) if replaying else 0.0  # waits for the device, so not where a block is sampled
        if latents is None:
            reader = self.cache.reader(step.placement)
            latents = sample(self.backend, block, self._noise, prompt, reader, self.schedule)
            self.costs.forwards += len(self.schedule.steps)
        self._write(latents, prompt, step.placement, step.admitted)
        self._check_finite(latents, block)
        self.cache.commit(step.admitted)
        self._hold(block, latents)
        if replaying:
            self.costs.add_encoded(self.cache.rotated, now(self.backend.device) - begun)
        self.costs.add_held(self.cache.bytes + self.cache.extra_bytes)
        return latents

    def _write(self, latents: Tensor, prompt: Tensor, placement: Placement, slots: Sequence[Slot]) -> None:
        """The clean pass: write the keys and values of a block."""
        self.backend.denoise(latents, self.schedule.context, prompt, self.cache.writer(placement, slots))
        self.costs.forwards += 1

    def _check_finite(self, latents: Tensor, block: Block) -> None:
        """Raise BackendError for a block that is not finite, before it is committed: no later block would be."""
        if not bool(latents.isfinite().all()):
            spec = self.backend.spec
            raise BackendError(
                f"the backend '{spec.name}' gave NaN or infinite latents in block {block.index} (frames {block.start}.."
                f"{block.end - 1}, {spec.seconds(block.start):.1f}s). Try another dtype or fewer changes to the schedule."
            )

    def _prompt_of(self, texts: tuple[str, ...]) -> Tensor:
        """The features of a prompt, one tensor as long as it lasts: backends keep its keys and values."""
        if self._prompt is None or self._prompt[0] != texts:
            self._prompt = texts, torch.cat([self._features[text] for text in texts])
        return self._prompt[1]

    def _hold(self, block: Block, latents: Tensor) -> None:
        """Hold the clean latents of the last frames, as many as a replay may ask for, and of whatever is cached."""
        for i in range(block.frames):
            self._latents[block.start + i] = latents[:, i : i + 1]
        frames = {slot.frame for slot in self.cache.slots}
        for frame in [f for f in self._latents if f < block.end - self.hold and f not in frames]:
            del self._latents[frame]

    def remember(self, latents: Tensor) -> None:
        """Hold the newest of the clean latents (B, F, C, H, W) of all frames so far that are not held."""
        frames = latents.shape[1]
        for frame in range(max(0, frames - self.hold), frames):
            self._latents.setdefault(frame, latents[:, frame : frame + 1].to(self.backend.device))

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """Cache, held latents and costs, as JSON and as tensors on the CPU. Raises CacheError."""
        cache, tensors = self.cache.state()
        frames = sorted(self._latents)
        state = {"window": self.cache.window, "cache": cache, "held": frames, "costs": self.costs.to_dict()}
        latents = {"held": torch.cat([self._latents[f].cpu() for f in frames], 1)} if frames else {}
        return state, {f"cache.{name}": tensor for name, tensor in tensors.items()} | latents

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, or change nothing. Raises ValueError, KeyError, TypeError, RolloutError."""
        costs, frames, window = Costs.from_dict(state["costs"]), list(state["held"]), int(state["window"])
        latent = self.backend.spec.latent
        latents = tensors["held"] if frames else torch.zeros(self.batch, 0, *latent)
        if latents.shape != (self.batch, len(frames), *latent):
            raise ValueError(f"the held latents are {tuple(latents.shape)}")
        cache = new_cache(self.backend, window, self.batch)
        cache.restore(state["cache"], dict(_without("cache.", tensors)))
        self.cache, self.costs, self.hold = cache, costs, max(self.hold, window)
        self._latents = {int(f): latents[:, i : i + 1].to(self.backend.device) for i, f in enumerate(frames)}


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    return ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))
