"""The loop: a strategy, a backend and a script to latent blocks, one result a block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.devices import now
from rollout.errors import BackendError, RolloutError
from rollout.inputs import check_members, check_memory, given_latents, new_cache, rows, same_plan
from rollout.plan import Step, chunks, decide, reach, replayed, taken_over
from rollout.progress import Event, Progress
from rollout.sampler import Noise, Schedule, sample, seeded
from rollout.script import Script
from rollout.slots import Block, Edit, Placement, Replay, Role, Slot
from rollout.specs import part_from_text, part_to_text
from rollout.strategy import Strategy, Switch

__all__ = ["Result", "Rollout", "generate"]


@dataclass(frozen=True)
class Result:
    """One finished block: its clean latents (B, F, C, H, W) and the slots and placement it was denoised against."""

    block: Block
    latents: Tensor
    slots: tuple[Slot, ...]
    placement: Placement
    prompts: tuple[str, ...]


class Rollout(Iterator[Result]):
    """A running rollout: iterate for its blocks; `prompt`, `cut`, `switch` and `use` act from the next block on.

    `progress` says where it stands and logs what came from outside, so that the run can be repeated exactly; `cache` is
    its KVCache; `blocks` counts the planned blocks, `first` those of a prefix, `given` those that are not sampled.
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
        history: Tensor | None = None,
        events: Sequence[Event] = (),
        hold: int = 0,
        endless: bool = False,
        exchange: int | None = None,
    ) -> None:
        check_members(backend)
        spec = backend.spec
        self.backend, self.strategy, self.schedule = backend, strategy, schedule or Schedule()
        self.batch = batch = max(len(scripts), len(seeds))
        plans = rows(scripts, batch, "scripts")
        same_plan(plans)
        self._noise = noise or seeded(rows(seeds, batch, "seeds"), spec.latent, device=backend.device)
        start = given_latents(prefix, backend, batch, "prefix")
        self.first = 0 if start is None else start.shape[1] // spec.block
        self._history = given_latents(history, backend, batch, "history") if history is not None else start
        self.given = 0 if self._history is None else self._history.shape[1] // spec.block
        self.blocks = plans[0].count(spec) + self.first
        self._script = plans[0]
        self._plan = self._blocks_from(0)
        self._planned: Block | None = None
        self._endless, self._exchange = endless, exchange
        if exchange is not None and (batch != 2 or not 0 < exchange < self.blocks):
            raise RolloutError(
                f"{batch} videos of {self.blocks} blocks cannot exchange their memory before block {exchange}. Roll out two, "
                f"and name a block from 1 to {self.blocks - 1}."
            )
        self._events = tuple(events)
        changes = [event for event in events if event.kind == "strategy"]
        others = [Strategy.from_text(event.value[0]) for event in changes]
        ends = (*(event.block for event in changes), self.blocks)
        for each, end in zip((strategy, *others), ends, strict=True):  # each as long as it is in force
            each.check(spec, max(1, min(end, self.blocks)) * spec.block)
            check_memory(backend, each.policy.window, batch)
        self._hold = max(hold, *(each.policy.window for each in (strategy, *others)))
        self.progress = Progress([tuple(script.prompts[n] for script in plans) for n in range(len(plans[0].shots))])
        self._encoded: dict[str, Tensor] = {}
        self._encode_texts(*self.progress.texts, *(event.value for event in events if event.kind == "prompt"))
        backend.ready()  # it may free its text encoder now
        self.cache = new_cache(backend, strategy.policy.window, batch)
        self._prompt: tuple[tuple[str, ...], Tensor] | None = None
        self._latents: dict[int, Tensor] = {}
        self._step: Step | None = None
        self._wanted: tuple[str, ...] | None = None
        self._cut = False
        self._once: str | None = None
        self._next_strategy: Strategy | None = None

    def prompt(self, *texts: str) -> None:
        """From the next block on, roll out this prompt (one for all, or one a batch row). Raises PromptError."""
        wanted = tuple(rows(texts, self.batch, "prompts"))
        self._encode_texts(wanted)
        self._wanted = wanted

    def cut(self) -> None:
        """Make the next block a hard cut."""
        self._cut = True

    def switch(self, switch: Switch) -> None:
        """Begin the next block with this switch, a flush for example, whatever its prompt. Raises CompositionError."""
        replace(self.strategy, switch=switch).check(self.backend.spec)
        self._once = part_to_text(switch)

    def use(self, strategy: Strategy) -> None:
        """From the next block on, go on under another strategy; the cache is carried over and dated anew.

        Raises CompositionError where it does not fit the backend, or where the cache lacks what it needs, and BackendError
        where its memory is not there.
        """
        spec = self.backend.spec
        start = self.progress.next * spec.block
        strategy.check(spec, max(self.blocks * spec.block, start + spec.block))
        check_memory(self.backend, strategy.policy.window, self.batch)
        taken_over(strategy, self.cache.slots, start, spec)
        self._next_strategy = strategy

    def __next__(self) -> Result:
        """The next block; one that failed is tried again. Raises StopIteration, CacheError, RolloutError."""
        block = self.progress.block or self._begin()
        if self._step is None:
            self._step = self._decide(block)
            self.progress.prepared = 0
        given = block.index < self.given
        begun = now(self.backend.device) if given else 0.0  # waits for the device, so not where a block is sampled
        result = self._run(self._step)
        if given:
            self.progress.count_encoded(self.cache.rotated, now(self.backend.device) - begun)
        self.progress.count_held(self.cache.bytes + self.cache.extra_bytes)
        self._step = None
        self.progress.finish()
        return result

    def _decide(self, block: Block) -> Step:
        strategy, seen = self.strategy, block
        if self.progress.once is not None:
            once = part_from_text("switch", self.progress.once)
            strategy, seen = replace(strategy, switch=once), replace(block, switch=True)
        return replace(decide(strategy, self.cache.slots, seen, self.backend.spec), block=block)

    @torch.no_grad()
    def _run(self, step: Step) -> Result:
        cache, block, progress = self.cache, step.block, self.progress
        texts = progress.texts[block.prompt]
        if self._prompt is None or self._prompt[0] != texts:  # one tensor a prompt: backends keep its keys and values
            self._prompt = texts, torch.cat([self._encoded[text] for text in texts])
        prompt = self._prompt[1]
        if progress.prepared == 0:  # a block that is tried again is not prepared again
            if step.switch is not None:
                begun = now(self.backend.device)
                self._switch(step.switch, step.replay, prompt, block)
                progress.switch_seconds.append(now(self.backend.device) - begun)
            progress.prepared = 1
        if progress.prepared == 1:
            cache.apply(step.room)
            if cache.window > self.strategy.policy.window:
                cache.resize(self.strategy.policy.window)
            progress.prepared = 2
        if block.index < self.given:
            assert self._history is not None
            x0 = self._history[:, block.start : block.end].to(self.backend.device)
        else:
            x0 = sample(self.backend, block, self._noise, prompt, cache.reader(step.placement), self.schedule)
            progress.forwards += len(self.schedule.steps)
        self._encode(x0, prompt, step.placement, step.admitted)
        self._sound(x0, block)
        cache.commit(step.admitted)
        self._remember(block, x0)
        return Result(block, x0, step.slots, step.placement, texts)

    def _sound(self, x0: Tensor, block: Block) -> None:
        """Raise BackendError for a block that is not finite, before it is committed: no later block would be."""
        if not bool(x0.isfinite().all()):
            spec = self.backend.spec
            raise BackendError(
                f"the backend '{spec.name}' gave NaN or infinite latents in block {block.index} (frames {block.start}.."
                f"{block.end - 1}, {spec.seconds(block.start):.1f}s). Try another dtype or fewer changes to the schedule."
            )

    def _encode(self, x0: Tensor, prompt: Tensor, placement: Placement, slots: Sequence[Slot]) -> None:
        """The clean pass: write the block's keys and values."""
        self.backend.denoise(x0, self.schedule.context, prompt, self.cache.writer(placement, slots))
        self.progress.forwards += 1

    def _switch(self, edit: Edit, replay: Replay | None, prompt: Tensor, block: Block) -> None:
        """Apply the edit and encode the replayed frames again; a cache left half-way is marked unusable."""
        if replay is None:
            self.cache.apply(edit)
            return
        missing = [f for f in replay.frames if f not in self._latents]
        if missing:
            raise RolloutError(f"frame {missing[0]} is to be encoded again, but only the last {self._hold} are held.")
        passes = chunks(self.strategy, edit.slots, replay, block.frames, reach(self.strategy, self.backend.spec))
        slots = iter(replayed(replay, block.frames, block.scene))
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
        """Hold the clean latents of the last frames, as many as a replay may ask for, and of whatever is cached."""
        for i in range(block.frames):
            self._latents[block.start + i] = x0[:, i : i + 1]
        held = {slot.frame for slot in self.cache.slots}
        for frame in [f for f in self._latents if f < block.end - self._hold and f not in held]:
            del self._latents[frame]

    def _begin(self) -> Block:
        """The next block, with what came from outside."""
        last = self.progress.last
        self._planned = planned = self._planned or next(self._plan, None)
        if planned is None:
            if not self._endless or last is None:
                raise StopIteration
            planned = Block(last.index + 1, last.end, last.frames, self.progress.shot)
            (self._next_strategy or self.strategy).check(self.backend.spec, planned.end)
        for event in self._events:
            if event.block == planned.index:
                self._repeat(event)
        strategy, self._next_strategy = self._next_strategy, None
        if strategy is not None:
            self._take_over(strategy, planned)
        block = self.progress.begin(planned, self._wanted, self._cut, self._once)
        self._planned, self._wanted, self._cut, self._once = None, None, False, None
        if block.index == self._exchange:  # here and not where the block runs: one that failed is tried again
            self.cache.exchange(i for i, slot in enumerate(self.cache.slots) if slot.role is not Role.RECENT)
        return block

    def _repeat(self, event: Event) -> None:
        """Do again what came from outside in an earlier run."""
        if event.kind == "prompt":
            self._wanted = tuple(rows(event.value, self.batch, "prompts"))
        elif event.kind == "cut":
            self._cut = True
        elif event.kind == "switch":
            self._once = event.value[0]
        else:
            self._next_strategy = Strategy.from_text(event.value[0])

    def _take_over(self, strategy: Strategy, block: Block) -> None:
        """Carry the cache over to another strategy."""
        edit = taken_over(strategy, self.cache.slots, block.start, self.backend.spec)
        window = strategy.policy.window
        if window > self.cache.window:
            self.cache.resize(window)
        self.cache.apply(edit)
        self.strategy, self._hold = strategy, max(self._hold, window)
        self.progress.events.append(Event(block.index, "strategy", (str(strategy),)))

    def _encode_texts(self, *prompts: tuple[str, ...]) -> None:
        for text in {text: None for texts in prompts for text in texts}:
            if text not in self._encoded:
                self._encoded[text] = self.backend.encode(text)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that later blocks depend on, as JSON and as tensors on the CPU. Raises CacheError.

        Noise from a source of the caller's own is not in it, nor the history.
        """
        told, tensors = self.cache.state()
        frames = sorted(self._latents)
        state = {
            "strategy": self.strategy.to_dict(),
            "window": self.cache.window,
            "progress": self.progress.to_dict(),
            "cache": told,
            "held": frames,
            "wanted": self._wanted,
            "cut": self._cut,
            "once": self._once,
            "use": None if self._next_strategy is None else self._next_strategy.to_dict(),
        }
        held = {"held": torch.cat([self._latents[f].cpu() for f in frames], 1)} if frames else {}
        return state, {f"cache.{name}": tensor for name, tensor in tensors.items()} | held

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state of a rollout that was made alike. Raises ValueError, KeyError, TypeError, RolloutError."""
        spec, device = self.backend.spec, self.backend.device
        strategy, progress = Strategy.from_dict(state["strategy"]), Progress.from_dict(state["progress"])
        strategy.check(spec, self.blocks * spec.block)
        wanted = None if state["wanted"] is None else tuple(str(text) for text in state["wanted"])
        once = None if state["once"] is None else str(state["once"])
        for text in (once, progress.once):
            if text is not None:
                part_from_text("switch", text)
        following = None if state["use"] is None else Strategy.from_dict(state["use"])
        frames, window = list(state["held"]), int(state["window"])
        held = tensors["held"] if frames else torch.zeros(self.batch, 0, *spec.latent)
        if held.shape != (self.batch, len(frames), *spec.latent):
            raise ValueError(f"the held latents are {tuple(held.shape)}")
        if progress.next > self.blocks and not self._endless:
            raise ValueError(f"it stands at block {progress.next} of {self.blocks}")
        if any(len(row) != self.batch for row in (*progress.texts, *(() if wanted is None else (wanted,)))):
            raise ValueError("its prompts are not one a row")
        self._encode_texts(*progress.texts, *(() if wanted is None else (wanted,)))
        cache = new_cache(self.backend, window, self.batch)
        packed = {name.removeprefix("cache."): t for name, t in tensors.items() if name.startswith("cache.")}
        cache.restore(state["cache"], packed)
        step = None
        if progress.block is not None and progress.prepared:
            step = decide(strategy, cache.slots, progress.block, spec, prepared=progress.prepared)
        self.strategy, self.progress, self.cache, self._step, self._planned = strategy, progress, cache, step, None
        self._latents = {int(f): held[:, i : i + 1].to(device) for i, f in enumerate(frames)}
        self._wanted, self._cut, self._once, self._next_strategy = wanted, bool(state["cut"]), once, following
        self._hold = max(self._hold, window)
        self._plan = self._blocks_from(progress.next)

    def _blocks_from(self, block: int) -> Iterator[Block]:
        return islice(self._script.blocks(self.backend.spec, first=self.first), block, None)


def generate(
    backend: Backend,
    strategy: Strategy,
    script: str | Script | Sequence[str | Script],
    *,
    seeds: int | Sequence[int] = 0,
    noise: Noise | None = None,
    schedule: Schedule | None = None,
    prefix: Tensor | None = None,
    history: Tensor | None = None,
    events: Sequence[Event] = (),
    hold: int = 0,
    endless: bool = False,
    exchange: int | None = None,
) -> Rollout:
    """Roll out a script block by block: an iterator of results whose prompt can be changed while it runs.

    Several scripts (of one timing) or seeds make a batch. `prefix` (F or B, F, C, H, W) comes before the script's first
    shot; `history`, of the same shape, stands for the plan's own first blocks, which are encoded and not sampled. `events`
    happen again; `hold` clean frames at least stay for a replay under a later strategy. `endless` goes on under the last
    prompt. Before block `exchange` the sinks and memory of two videos change places. Raises ScriptError, PromptError,
    CompositionError.
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
        history=history,
        events=events,
        hold=hold,
        endless=endless,
        exchange=exchange,
    )
