"""The loop: a strategy, a backend and a script to latent blocks, one result a block."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rollout.backend import Backend
from rollout.cache import KVCache
from rollout.costs import Costs, Encoded, count
from rollout.errors import RolloutError
from rollout.execute import Engine
from rollout.handover import check_handover, taken_over
from rollout.inputs import (
    check_members,
    check_memory,
    check_strategies,
    given_latents,
    named_strategy,
    rows,
    same_plan,
)
from rollout.parts import Switch
from rollout.plan import Step, decide, decide_lanes
from rollout.ranks import Ranks
from rollout.sampler import Noise, Schedule, seeded
from rollout.script import Script
from rollout.slots import Block, Role, Slot, View
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.timeline import Change, Course, Cut, Event, Moment, Once, Prompt, Timeline, Use
from rollout.views import Horizon

__all__ = ["Result", "Rollout", "generate"]


@dataclass(frozen=True)
class Result:
    """One finished block: its clean latents (B, F, C, H, W) and the slots and placement it was denoised against."""

    block: Block
    latents: Tensor
    slots: tuple[Slot, ...]
    placement: View
    prompts: tuple[str, ...]

    def __repr__(self) -> str:
        """One line, without the numbers of its latents."""
        prompts = " / ".join(dict.fromkeys(self.prompts))
        return f"<Result of block {self.block.index}: latents {tuple(self.latents.shape)}, {len(self.slots)} slots, {prompts!r}>"


class Rollout(Iterator[Result]):
    """A running rollout: iterate for its blocks; `prompt`, `cut`, `switch` and `use` act from the next block on.

    `timeline` knows what holds at which block and logs what came from outside, so that the run can be repeated exactly;
    `blocks` counts the planned blocks, `first` those of a prefix, `encoded` those that are not sampled.
    """

    def __init__(
        self,
        backend: Backend,
        strategy: Strategy | str,
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
        strategy, usual_schedule = named_strategy(strategy, backend)
        self.backend, self.schedule = backend, schedule or usual_schedule or backend.schedule or Schedule()
        self.batch = batch = max(len(scripts), len(seeds))
        self._scripts = rows(scripts, batch, "scripts")
        same_plan(self._scripts)
        start = given_latents(prefix, backend, batch, "prefix")
        self.first = 0 if start is None else start.shape[1] // spec.block
        self._history = given_latents(history, backend, batch, "history") if history is not None else start
        self.encoded = 0 if self._history is None else self._history.shape[1] // spec.block
        self.blocks = self._scripts[0].count(spec) + self.first
        if exchange is not None and (batch != 2 or not 0 < exchange < self.blocks):
            raise RolloutError(
                f"{batch} videos of {self.blocks} blocks cannot exchange their memory before block {exchange}. Roll out two, "
                f"and name a block from 1 to {self.blocks - 1}."
            )
        self._endless, self._exchange = endless, exchange
        steps, opening = len(self.schedule.steps), self.schedule.first
        last = None if endless else self.blocks - 1
        self._horizon = Horizon(steps, self.first, last, None if opening is None else len(opening.steps))
        strategy.order.check_plan(steps, None if endless else self.blocks - self.first)
        if opening is not None and strategy.order.joint(steps) > 1:
            raise RolloutError(
                f"order '{strategy.order.kind}' denoises the first block together with others, so that it cannot have steps "
                "of its own. Leave them out, or use order 'blocks'."
            )
        self._initial, self._events = strategy, tuple(events)
        self.timeline = self._timeline(events)
        self.engine = Engine(
            backend,
            self.schedule,
            noise or seeded(rows(seeds, batch, "seeds"), spec.latent, device=backend.device),
            strategy,
            batch=batch,
            hold=max(hold, check_strategies(backend, strategy, events, self.blocks, batch, steps)),
            first=self.first,
        )
        self.engine.encode(*self.timeline.course.texts, *_texts(event.change for event in events))
        backend.ready()  # it may free its text encoder now
        self._ahead: deque[Moment] = deque()
        """Of later blocks that passes see beside this one."""
        self._moment: Moment | None = None
        """Of a block that was begun and is not finished."""
        self._step: Step | None = None
        self._prepared = 0
        """How far the cache was prepared for it: 1 once switched, 2 once room is made."""

    def __repr__(self) -> str:
        """One line: the model, the strategy in force, how far it is, and the size of the cache."""
        blocks = f"{self.done} blocks" if self._endless else f"{self.done} of {self.blocks} blocks"
        videos = f"{self.batch} videos, " if self.batch > 1 else ""
        return (
            f"<Rollout of {self.backend.spec.name} under {self.strategy}: {blocks} done, {videos}"
            f"{self.engine.bytes / 2**20:,.1f} MiB of keys and values>"
        )

    @property
    def cache(self) -> KVCache:
        """The keys and values."""
        return self.engine.cache

    @property
    def costs(self) -> Costs:
        """What it took so far."""
        return self.engine.costs

    @property
    def strategy(self) -> Strategy:
        """The strategy in force."""
        return self.timeline.strategy

    @property
    def done(self) -> int:
        """Finished blocks."""
        return self.timeline.course.index - (self._moment is not None) - len(self._ahead)

    def _timeline(self, events: Sequence[Event]) -> Timeline:
        course = Course(self._scripts, self.backend.spec, first=self.first, batch=self.batch, endless=self._endless)
        return Timeline(course, self._initial, events)

    def prompt(self, *texts: str) -> None:
        """From the next block on, roll out this prompt (one for all, or one a batch row). Raises PromptError.

        Of several processes only the first one's changes count, and its errors come with the next block.
        """
        change = Prompt(tuple(rows(texts, self.batch, "prompts")))
        if self.backend.ranks is None:
            self.engine.encode(change.texts)
        self.timeline.push(change)

    def cut(self) -> None:
        """Make the next block a hard cut."""
        self.timeline.push(Cut())

    def switch(self, switch: Switch | str) -> None:
        """Begin the next block with this switch, a Flush or "flush:last=2" for example, whatever its prompt.

        Raises SpecError, CompositionError.
        """
        change = Once(switch)
        replace(self.strategy, switch=change.switch).check(self.backend.spec)
        self.timeline.push(change)

    def use(self, strategy: Strategy | str) -> None:
        """From the next block on, go on under another strategy; the cache is carried over and dated anew.

        The noise levels stay. Raises SpecError, CompositionError where it does not fit the backend, or where the cache lacks
        what it needs, and BackendError where its memory is not there.
        """
        spec, strategy = self.backend.spec, Strategy.of(strategy)
        start = self.timeline.course.index * spec.block
        strategy.check(spec, max(self.blocks * spec.block, start + spec.block))
        check_handover(self.strategy, strategy, spec)
        check_memory(self.backend, strategy, self.batch, self._horizon.steps)
        if strategy != self.strategy:
            taken_over(strategy, self.cache.slots, start, spec)
        self.timeline.push(Use(strategy))

    def __next__(self) -> Result:
        """The next block; one that failed is tried again. Raises StopIteration, CacheError, RolloutError."""
        moment = self._moment or self._begin()
        engine, block, strategy = self.engine, moment.block, moment.strategy
        step = self._step = self._step or self._decide(moment)
        if self._prepared == 0:  # a block that is tried again is not prepared again
            engine.switch(step, strategy, moment.texts)
            self._prepared = 1
        if self._prepared == 1:
            engine.make_room(step, strategy)
            self._prepared = 2
        latents = None
        if block.index < self.encoded:
            assert self._history is not None
            latents = self._history[:, block.start : block.end].to(self.backend.device)
        latents = engine.block(step, [moment.texts, *(later.texts for later in self._ahead)], latents)
        self._moment, self._step, self._prepared = None, None, 0
        return Result(block, latents, step.slots, step.placement, moment.texts)

    def frames(self) -> "NDArray[np.uint8]":
        """Roll out what is left and decode it: frames (N, height, width, 3), of a batch (B, N, height, width, 3).

        All of them are held in memory: decode block by block where that is too much. Raises RolloutError where blocks were
        rolled out before, which the decoder would lack, or where the rollout has no end.
        """
        if self.done or self._endless:
            why = "it has no end" if self._endless else f"{self.done} blocks are gone, and decoding starts at the first"
            raise RolloutError(
                f"frames() cannot give the whole video: {why}. Push each result's latents[0] to a backend.decoder() instead."
            )
        decoders = [self.backend.decoder() for _ in range(self.batch)]
        parts: list[list[NDArray[np.uint8]]] = [[] for _ in decoders]
        for result in self:
            for decoder, video, latents in zip(decoders, parts, result.latents, strict=True):
                video.append(decoder.push(latents).cpu().numpy())
        videos = np.stack([np.concatenate(video) for video in parts])
        return videos[0] if self.batch == 1 else videos

    def _decide(self, moment: Moment) -> Step:
        engine, block, spec = self.engine, moment.block, self.backend.spec
        engine.regroup(moment.strategy)
        if engine.lanes:
            slots, facts = [cache.slots for cache in engine.caches], [cache.facts for cache in engine.caches]
            return decide_lanes(
                moment.strategy,
                engine.lanes,
                slots,
                block,
                spec,
                facts=facts,
                once=moment.once,
                prepared=self._prepared,
                horizon=self._horizon,
            )
        return decide(
            moment.strategy,
            self.cache.slots,
            block,
            spec,
            once=moment.once,
            prepared=self._prepared,
            facts=self.cache.facts,
            horizon=self._horizon,
        )

    def _begin(self) -> Moment:
        """The next block's moment, with the cache carried over where another strategy takes over."""
        if self.backend.ranks is not None:
            self._agree(self.backend.ranks)
        timeline, spec = self.timeline, self.backend.spec
        index, successor = timeline.course.index, timeline.successor
        if self._ahead:
            index, successor = self._ahead[0].block.index, self._ahead[0].strategy if self._ahead[0].handover else None
        elif index >= self.blocks:  # beyond the plan nothing was checked beforehand
            if not self._endless:
                raise StopIteration
            (successor or self.strategy).check(spec, (index + 1) * spec.block)
        if successor is not None:
            edit = taken_over(successor, self.cache.slots, index * spec.block, spec)
            self.engine.hand_over(edit, successor)
        self._moment = moment = self._ahead.popleft() if self._ahead else next(timeline)
        self._look_ahead(moment)
        if index == self._exchange:  # here and not where the block runs: one that failed is tried again
            for cache in self.engine.caches:
                for row in range(self.backend.rows):  # a video's rows lie a batch apart
                    cache.exchange(
                        (i for i, slot in enumerate(cache.slots) if slot.role is not Role.RECENT), 2 * row, 2 * row + 1
                    )
        return moment

    def _agree(self, ranks: Ranks) -> None:
        """Of several processes have in all what came from outside in the first one."""
        pushed = ranks.share([Event(0, change).to_dict() for change in self.timeline.pushed])
        changes = [Event.from_dict(data).change for data in pushed]
        self.timeline.agree(())  # a prompt that is refused is gone, as where it is refused at once
        self.engine.encode(*_texts(changes))
        self.timeline.agree(changes)

    def _look_ahead(self, moment: Moment) -> None:
        """Have the moments of the later blocks that this one's passes see."""
        last = max(max(call.blocks) for call in self._horizon.of(moment.strategy.order, moment.block.index)) - len(
            self._ahead
        )
        for _ in range(last - moment.block.index):
            self._ahead.append(next(self.timeline))

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """Everything that later blocks depend on, as JSON and as tensors on the CPU. Raises CacheError.

        Noise from a source of the caller's own is not in it, nor the history. Of several processes all must ask, and the
        first one gets the heads of all.
        """
        state, tensors = self.engine.state()
        index = self.timeline.course.index
        state["timeline"] = {
            "blocks": index - len(self._ahead),
            "ahead": len(self._ahead),
            "begun": self._moment is not None,
            "prepared": self._prepared,
            "events": [event.to_dict() for event in self.timeline.log],
            "pushed": [Event(index, change).to_dict() for change in self.timeline.pushed],
        }
        return state, tensors

    def share(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Begin where another run of this history stood; its blocks cost nothing here. Raises as `restore` does."""
        self.restore(state, tensors)
        assert self._history is not None
        self.engine.remember(self._history[:, : self.done * self.backend.spec.block])
        costs_before = Encoded(self.done, rotated_bytes=self.engine.rotated)
        self.engine.costs = Costs(encoded=costs_before, held_bytes=self.engine.bytes + self.engine.extra_bytes)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state of a rollout that was made alike. Raises ValueError, KeyError, TypeError, RolloutError."""
        if "progress" in state:
            state = _of_first_edition(state)
        place = state["timeline"]
        index, begun, prepared = count(place["blocks"]), bool(place["begun"]), count(place["prepared"])
        events, waiting = ([Event.from_dict(data) for data in place[name]] for name in ("events", "pushed"))
        if (index > self.blocks and not self._endless) or begun > index or prepared > 2 * begun:
            raise ValueError(f"it stands at block {index} of {self.blocks}")
        changes = [event.change for event in (*events, *waiting)]
        if any(len(texts) not in (1, self.batch) for texts in _texts(changes)):
            raise ValueError("its prompts are not one a row")
        for change in changes:
            if isinstance(change, Use):
                change.strategy.check(self.backend.spec, self.blocks * self.backend.spec.block)
        ahead = count(place.get("ahead", 0))
        later_events = (event for event in self._events if event.block >= index + ahead)
        timeline = self._timeline((*events, *later_events))
        moment = next(iter(deque(islice(timeline, index), maxlen=1)), None)
        for event in waiting:
            timeline.push(event.change)
        self.engine.encode(*timeline.course.texts, *_texts(changes))
        self.engine.restore(state, tensors, timeline.strategy)
        self._ahead = deque(islice(timeline, ahead))
        self.timeline, self._moment, self._prepared = timeline, moment if begun else None, prepared
        self._step = self._decide(self._moment) if self._moment is not None and prepared else None


def _texts(changes: Iterable[Change]) -> Iterator[tuple[str, ...]]:
    return (change.texts for change in changes if isinstance(change, Prompt))


def _of_first_edition(state: Mapping[str, Any]) -> Json:
    """A state of the first edition, which kept what follows from the events beside them, as one of today."""
    progress = state["progress"]
    last = progress["block"] or progress["last"]
    waiting = {
        "prompt": state["wanted"],
        "switch": state["once"] and [state["once"]],
        "strategy": state["use"] and [state["use"]],
    }
    changes = [{"kind": kind, "value": value} for kind, value in waiting.items() if value]
    index = 0 if last is None else last["index"] + 1
    return {
        **state,
        "costs": progress,
        "timeline": {
            "blocks": index,
            "begun": progress["block"] is not None,
            "prepared": progress["prepared"] if progress["block"] is not None else 0,
            "events": progress["events"],
            "pushed": [
                {"block": index, **change}
                for change in (*changes, *([{"kind": "cut", "value": []}] * bool(state["cut"])))
            ],
        },
    }


def generate(
    backend: Backend,
    strategy: Strategy | str,
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

    `strategy` may be a text: a preset's name, which brings its noise levels along where no `schedule` is given, or
    "POSITIONS POLICY+SWITCH". Several scripts (of one timing) or seeds make a batch. `noise(block, step)` gives standard
    normal latents (B, F, C, H, W) in place of those of the seeds. `prefix` (F or B, F, C, H, W) comes before the script's
    first shot; `history`, of the same shape, stands for the plan's own first blocks, which are encoded and not sampled.
    `events` happen again; `hold` clean frames at least stay for a replay under a later strategy. `endless` goes on under the
    last prompt. Before block `exchange` the sinks and memory of two videos change places. Raises ScriptError, PromptError,
    SpecError, CompositionError.
    """
    scripts_or_texts = [script] if isinstance(script, str | Script) else list(script)
    scripts = [Script.parse(s) if isinstance(s, str) else s for s in scripts_or_texts]
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
