"""What is executed: the passes of a backend over one cache, and the clean latents that a replay may ask for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Attend, Backend
from rollout.cache import KVCache
from rollout.costs import Costs, count
from rollout.devices import now, staged
from rollout.errors import BackendError, CompositionError, RolloutError
from rollout.facts import HEADS
from rollout.inputs import new_caches
from rollout.lanes import HeadMasses, Lane, check_lanes, joined, lanes_here
from rollout.plan import Step, chunks, replayed
from rollout.sampler import Noise, Schedule
from rollout.slots import Block, Edit, View
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.views import reach

__all__ = ["Engine"]


class Engine:
    """Executes steps, and decides nothing: `cache` is the rollout's KVCache, `costs` what it took so far.

    `hold`: the frames whose clean latents stay at least, for a replay; `first`: the first block that is sampled.
    """

    def __init__(
        self,
        backend: Backend,
        schedule: Schedule,
        noise: Noise,
        strategy: Strategy,
        *,
        batch: int,
        hold: int,
        first: int = 0,
    ) -> None:
        self.backend, self.schedule, self.batch, self.hold, self.first = backend, schedule, batch, hold, first
        self.lanes = strategy.policy.lanes(backend.spec, None)
        self._heads = self._heads_of(self.lanes)
        self._masses: HeadMasses | None = None
        """What heads were sorted by, where that was on the way."""
        self.caches = new_caches(backend, strategy, self.lanes, batch, len(schedule.steps))
        self.costs = Costs()
        self._noise = noise
        self._features: dict[str, Tensor] = {}
        self._prompts: dict[tuple[tuple[str, ...], ...], Tensor] = {}
        self._latents: dict[int, Tensor] = {}
        self._reader: tuple[list[View], Attend] | None = None
        """The views of the last noisy pass and its attention, which serves as long as they stay."""
        self._begun: dict[int, Tensor] = {}
        """Of blocks that are half denoised: their latents, noised to their next level."""

    @property
    def cache(self) -> KVCache:
        """The cache, of the first lane where there are several."""
        return self.caches[0]

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        self.caches = (cache,)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values, of all lanes."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def extra_bytes(self) -> int:
        """Bytes of raw copies, of all lanes."""
        return sum(cache.extra_bytes for cache in self.caches)

    @property
    def rotated(self) -> int:
        """Bytes that were rotated so far, in all lanes."""
        return sum(cache.rotated for cache in self.caches)

    def regroup(self, strategy: Strategy) -> None:
        """Give heads lanes of their own, once their policy knows which."""
        masses = self.cache.masses
        if self.lanes or HEADS not in strategy.policy.needs or not masses:
            return
        shares = torch.stack([masses[layer] for layer in sorted(masses)]).tolist()
        numbers = tuple(tuple(map(tuple, layer)) for layer in shares)
        lanes = strategy.policy.lanes(self.backend.spec, numbers)
        if lanes:
            check_lanes(lanes, self.backend.spec)
            self._masses, heads = numbers, self._heads_of(lanes)
            self.caches = tuple(
                self.cache.of_heads(index, strategy.of_lane(lane).stored, lane.policy.needs)
                for lane, index in zip(lanes, heads, strict=True)
            )
            self.lanes, self._heads = lanes, heads

    def _heads_of(self, lanes: Sequence[Lane]) -> list[list[Tensor]]:
        """The heads of each lane that are held here by layer, as indices on the device."""
        device, here = self.backend.device, lanes_here(lanes, self.backend.ranks, self.backend.spec)
        return [[staged(torch.tensor(heads, dtype=torch.long), device) for heads in lane.heads] for lane in here]

    def _attend(self, attends: Sequence[Attend]) -> Attend:
        return joined(attends, self._heads) if self.lanes else attends[0]

    def encode(self, *prompts: tuple[str, ...]) -> None:
        """Have the text features of prompts at hand. Raises PromptError."""
        for text in {text: None for texts in prompts for text in texts}:
            if text not in self._features:
                self._features[text] = self.backend.encode(text)

    def hand_over(self, edit: Edit, strategy: Strategy) -> None:
        """Make the cache another strategy's. Raises CacheError, and then nothing has happened."""
        if self.lanes or strategy.policy.lanes(self.backend.spec, None):
            raise CompositionError("heads that have slots of their own cannot be handed over to another strategy.")
        if strategy.stored > self.cache.window:
            self.cache.resize(strategy.stored, self.cache.ahead)
        self.cache.apply(edit)
        self.cache.needs = strategy.policy.needs
        self.hold = max(self.hold, strategy.stored)

    @torch.no_grad()
    def switch(self, step: Step, strategy: Strategy, texts: tuple[str, ...]) -> None:
        """Do what a prompt change or a cut does to the cache."""
        if step.switch is not None:
            begun = now(self.backend.device)
            self._switch(step, strategy, self._prompt_of([texts]))
            self.costs.switch_seconds.append(now(self.backend.device) - begun)

    def _switch(self, step: Step, strategy: Strategy, prompt: Tensor) -> None:
        """Apply the edit and encode the replayed frames again; a cache left half-way is marked unusable."""
        replay, block = step.replay, step.block
        missing = [frame for frame in (replay.frames if replay else ()) if frame not in self._latents]
        if missing:
            raise RolloutError(f"frame {missing[0]} is to be encoded again, but only the last {self.hold} are held.")
        if replay is None:
            self._apply([part.switch for part in step.by_lane])
            return
        if step.lanes:
            raise CompositionError(
                "heads that have slots of their own cannot be encoded again. Use switch='keep' or 'flush'."
            )
        edit = step.switch
        assert edit is not None
        slots = iter(replayed(replay, block.frames, block.scene, block.prompt))
        try:
            self.cache.apply(edit)
            for part, placement in chunks(
                strategy, edit.slots, replay, block.frames, reach(strategy, self.backend.spec)
            ):
                members = [next(slots) for _ in part]
                latents = torch.cat([self._latents[f] for f in part], 1)
                self.backend.denoise(latents, self.schedule.context, prompt, self.cache.writer(placement, members))
                self.costs.forwards += 1
                self.cache.commit(members)
        except BaseException:
            self.cache.fail("a replay stopped half-way")
            raise

    def _apply(self, edits: Sequence[Edit | None]) -> None:
        """An edit a lane; all lanes or none."""
        begun = False
        try:
            for cache, edit in zip(self.caches, edits, strict=True):
                assert edit is not None
                cache.apply(edit)
                begun = True
        except BaseException:
            self._fail_lanes(begun, "an edit")
            raise

    def _fail_lanes(self, begun: bool, action: str) -> None:
        """Mark lanes unusable of which the first has changed and others have not."""
        if begun:
            for cache in self.caches:
                cache.fail(f"{action} stopped half-way")

    def make_room(self, step: Step, strategy: Strategy) -> None:
        """Make room for a block in the strategy's window."""
        self._apply([part.room for part in step.by_lane])
        frames = strategy.stored
        if (
            self.cache.window > frames and not step.room.picks and not self.lanes
        ):  # of the strategy before, which held more
            self.cache.resize(frames, self.cache.ahead)

    @torch.no_grad()
    def block(self, step: Step, texts: Sequence[tuple[str, ...]], latents: Tensor | None) -> Tensor:
        """Sample a block, or take its `latents`, and commit it; its clean latents (B, F, C, H, W). Raises BackendError.

        `texts`: the prompts of the block and of those that its passes see ahead.
        """
        block, replaying = step.block, latents is not None
        begun = now(self.backend.device) if replaying else 0.0  # waits for the device, so not where a block is sampled
        levels_before, self._reader = dict(self._begun), None
        try:
            latents = self._clean(step, texts) if latents is None else self._encoded(step, texts, latents)
            self._write(step, latents, self._prompt_of(texts[:1]))
            self._check_finite(latents, block)
            self._commit(step)
        except BaseException:
            self._begun = levels_before  # so that it can be tried again
            raise
        self._hold(block, latents)
        if replaying:
            self.costs.add_encoded(self.rotated, now(self.backend.device) - begun)
        self.costs.add_held(self.bytes + self.extra_bytes)
        return latents

    def _clean(self, step: Step, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """A block's clean latents, after its noisy passes."""
        for n in range(len(step.passes) - 1):
            self._noisy(step, n, texts)
        return self._begun.pop(step.block.index)

    def _encoded(self, step: Step, texts: Sequence[tuple[str, ...]], latents: Tensor) -> Tensor:
        """Latents as they are, in a cache that is left as if they had been sampled, bit for bit.

        Blocks ahead go on to their next level, and picks that wait for queries get those of the first noisy pass.
        """
        if len(step.passes[-2][0].blocks) > 1:
            self._clean(step, texts)
            return latents
        for cache, part in zip(self.caches, step.by_lane, strict=True):
            cache.reader(part.placement)  # rows come to lie as they did, since sums depend on their order
        if any(part.room.picks for part in step.by_lane):
            call, block = step.passes[0][0], step.block
            x = torch.cat([self._fresh(_block(index, block), 0) for index in call.blocks], 1)
            self._denoise(x, [self.schedule.levels[0][0]] * len(call.blocks), step, 0, texts)
        return latents

    def _noisy(self, step: Step, n: int, texts: Sequence[tuple[str, ...]]) -> None:
        """The nth noisy pass: each of its blocks goes on to its next level, or is clean."""
        call, block = step.passes[n][0], step.block
        schedule = self.schedule.of_block(call.blocks[0] - self.first)
        levels = [schedule.levels[level] for level in call.levels]
        x = [
            self._fresh(_block(index, block), 0) if level == 0 else self._begun[index]
            for index, level in zip(call.blocks, call.levels, strict=True)
        ]
        flow = self._denoise(torch.cat(x, 1) if len(x) > 1 else x[0], [t for t, _ in levels], step, n, texts)
        after = {}
        for index, level, latents, part in zip(
            call.blocks, call.levels, x, torch.split(flow, block.frames, 1), strict=True
        ):
            fresh = partial(self._fresh, _block(index, block))
            after[index] = schedule.step(latents, part, level, fresh)
        self._begun |= after

    def _fresh(self, block: Block, step: int) -> Tensor:
        """Noise (B, F, C, H, W) of a block. Raises RolloutError where its source gives another shape."""
        noise, shape = self._noise(block, step), (self.batch, block.frames, *self.backend.spec.latent)
        if not isinstance(noise, Tensor) or tuple(noise.shape) != shape:
            answer = (
                f"the shape {tuple(noise.shape)}"
                if isinstance(noise, Tensor)
                else f"no tensor but {type(noise).__name__}"
            )
            raise RolloutError(
                f"the noise of block {block.index} at step {step} has {answer}; {self.backend.spec.name} takes {shape}: videos, "
                "frames, channels, height, width. Have noise(block, step) return that."
            )
        return noise.to(self.backend.device)

    def _denoise(
        self, x: Tensor, times: Sequence[float], step: Step, n: int, texts: Sequence[tuple[str, ...]]
    ) -> Tensor:
        """The flow of the nth pass's blocks at their timesteps."""
        t: float | Tensor = times[0]
        frames = step.block.frames
        if len(set(times)) > 1:
            levels = torch.tensor(times, dtype=torch.float64).repeat_interleave(frames).expand(len(x), -1)
            t = staged(levels, x.device)
        prompt = self._prompt_of(texts[: len(times)], frames)
        views = [part.passes[n][1] for part in step.by_lane]
        if self._reader is None or self._reader[0] != views:
            attends = [cache.reader(view) for cache, view in zip(self.caches, views, strict=True)]
            self._reader = views, self._attend(attends)
        flow = self.backend.denoise(x, t, prompt, self._reader[1])
        self.costs.forwards += 1
        return flow

    def _write(self, step: Step, latents: Tensor, prompt: Tensor) -> None:
        """The clean pass: write the keys and values of a block."""
        lanes = zip(self.caches, step.by_lane, strict=True)
        attend = self._attend([cache.writer(part.commit, part.admitted) for cache, part in lanes])
        self.backend.denoise(latents, self.schedule.context, prompt, attend)
        self.costs.forwards += 1

    def _commit(self, step: Step) -> None:
        """Make slots of what was written; all lanes or none."""
        begun = False
        try:
            for cache, part in zip(self.caches, step.by_lane, strict=True):
                cache.commit(part.admitted)
                begun = True
        except BaseException:
            self._fail_lanes(begun, "a commit")
            raise

    def _check_finite(self, latents: Tensor, block: Block) -> None:
        """Raise BackendError for a block that is not finite, before it is committed: no later block would be."""
        if not bool(latents.isfinite().all()):
            spec = self.backend.spec
            raise BackendError(
                f"the backend '{spec.name}' gave NaN or infinite latents in block {block.index} (frames {block.start}.."
                f"{block.end - 1}, {spec.seconds(block.start):.1f}s). Try another dtype or fewer changes to the schedule."
            )

    def _prompt_of(self, texts: Sequence[tuple[str, ...]], frames: int = 1) -> Tensor:
        """The features of one prompt (B, tokens, dim), or where blocks differ one a frame (B, F, tokens, dim).

        One tensor as long as it lasts: backends keep its keys and values.
        """
        key = tuple(texts) if len(set(texts)) > 1 else (texts[0],)
        if key not in self._prompts:
            features = [torch.cat([self._features[text] for text in row]) for row in key]
            if len(features) == 1:
                self._prompts = {key: features[0]}
            else:  # the prompts that blocks ahead begin with, beside the one in force
                self._prompts[key] = torch.stack(features, 1).repeat_interleave(frames, 1)
        return self._prompts[key]

    def _hold(self, block: Block, latents: Tensor) -> None:
        """Hold the clean latents of the last frames, as many as a replay may ask for, and of whatever is cached."""
        for i in range(block.frames):
            self._latents[block.start + i] = latents[:, i : i + 1]
        frames = {slot.frame for cache in self.caches for slot in cache.slots}
        for frame in [f for f in self._latents if f < block.end - self.hold and f not in frames]:
            del self._latents[frame]

    def remember(self, latents: Tensor) -> None:
        """Hold the newest of the clean latents (B, F, C, H, W) of all frames so far that are not held."""
        frames = latents.shape[1]
        for frame in range(max(0, frames - self.hold), frames):
            self._latents.setdefault(frame, latents[:, frame : frame + 1].to(self.backend.device))

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """Cache, held latents and costs, as JSON and as tensors on the CPU. Raises CacheError."""
        states = [cache.state() for cache in self.caches]
        frames = sorted(self._latents)
        state: Json = {
            "window": self.cache.window,
            "cache": states[0][0],
            "held": frames,
            "costs": self.costs.to_dict(),
        }
        state |= {"begun": sorted(self._begun)} if self._begun else {}
        tensors = {f"cache.{name}": tensor for name, tensor in states[0][1].items()}
        if self.lanes:
            state |= {"lanes": [part for part, _ in states], "masses": self._masses}
            for n, (_, more) in enumerate(states[1:], 1):
                tensors |= {f"lane{n}.{name}": tensor for name, tensor in more.items()}
        tensors |= {"held": torch.cat([self._latents[f].cpu() for f in frames], 1)} if frames else {}
        return state, tensors | {f"begun.{index}": x.cpu() for index, x in self._begun.items()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], strategy: Strategy) -> None:
        """Go back to a state under the strategy in force, or change nothing.

        Raises ValueError, KeyError, TypeError, RolloutError.
        """
        costs, frames, window = Costs.from_dict(state["costs"]), list(state["held"]), int(state["window"])
        latent = self.backend.spec.latent
        latents = tensors["held"] if frames else torch.zeros(self.batch, 0, *latent)
        if latents.shape != (self.batch, len(frames), *latent):
            raise ValueError(f"the held latents are {tuple(latents.shape)}")
        begun = {count(index): tensors[f"begun.{index}"].to(self.backend.device) for index in state.get("begun", ())}
        size = (self.batch, self.backend.spec.block, *latent)
        if any(x.shape != size for x in begun.values()):
            raise ValueError("its half denoised blocks have another size")
        masses = state.get("masses")
        self._masses = (
            None if masses is None else tuple(tuple(tuple(map(float, row)) for row in part) for part in masses)
        )
        lanes = strategy.policy.lanes(self.backend.spec, self._masses)
        parts = state["lanes"] if lanes else [state["cache"]]
        caches = new_caches(self.backend, strategy, lanes, self.batch, len(self.schedule.steps), window=window)
        for n, (cache, part) in enumerate(zip(caches, parts, strict=True)):
            cache.restore(part, dict(_without(f"lane{n}." if n else "cache.", tensors)))
        self.lanes, self._heads = lanes, self._heads_of(lanes)
        self.caches, self.costs, self.hold, self._begun = caches, costs, max(self.hold, window), begun
        self._latents = {int(f): latents[:, i : i + 1].to(self.backend.device) for i, f in enumerate(frames)}


def _block(index: int, like: Block) -> Block:
    """A block by its index alone, as noise knows it."""
    return like if index == like.index else Block(index, index * like.frames, like.frames)


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    return ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))
