"""One pane of a live session: a rollout without an end, its recording from the first block on, and its pace."""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.errors import OutputError, RolloutError
from rollout.loop import Result, Rollout, generate
from rollout.run.output import Output
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder, record, times
from rollout.run.video import Frames
from rollout.script import Script, Shot
from rollout.show.live.badge import Watch, watch
from rollout.strategy import Strategy
from rollout.text import Json, cause
from rollout.timeline import Event

__all__ = ["Made", "Pane", "first_text", "told"]

FILES = ("video.partial.mp4", "latents.partial.safetensors")
SHEET = 400
"""Blocks of which the contact sheet shows every tenth; nobody knows how many there will be."""


@dataclass(frozen=True)
class Made:
    """One finished block with its pixel frames (N, height, width, 3)."""

    result: Result
    frames: Frames
    events: tuple[str, ...]
    """Kinds of what came from outside and took effect here."""


class Pane:
    """`number` names it; `recipe` is what it began with; `due` says when its next block is to be seen."""

    def __init__(self, number: int, backend: Backend, recipe: Recipe, folder: Path) -> None:
        self.number, self.backend, self.recipe, self.folder = number, backend, recipe, folder
        self.run: Rollout = generate(
            backend,
            recipe.strategy,
            recipe.text,
            seeds=recipe.seed,
            schedule=recipe.schedule,
            hold=backend.spec.trained,
            endless=True,
        )
        folder.mkdir(parents=True)
        self._output: Output | None = None
        self.watch: Watch | None = watch(backend.spec, backend.world)
        self.speed, self.paused, self.due = 1.0, False, 0.0
        self.cost = 0.0
        """Seconds that a block takes."""
        self.interval = 0.0
        """Seconds from one block to the next of late; 0 where nothing is known yet."""
        self.last_at: float | None = None
        """When its last block was done, while it goes on at one speed."""
        self.stopped = ""
        """Why it cannot go on, until something is changed."""
        self.lost = ""
        """Why its recording is not whole."""
        self.pending: list[str] = []
        """What waits for the next block."""
        self.prompt: str | None = None
        self.origin = ""
        self.seconds = self.writing = 0.0

    @property
    def blocks(self) -> int:
        """Blocks that are done."""
        return self.run.done

    @property
    def running(self) -> bool:
        """Whether it has a next block to make."""
        return not (self.paused or self.stopped or self.lost)

    @property
    def length(self) -> float:
        """Seconds for which a block is seen; 0 where it is to go as fast as it can."""
        spec = self.backend.spec
        return spec.block_seconds / self.speed if self.speed else 0.0

    @property
    def pace(self) -> float | None:
        """Seconds of video a second, of late; None where nothing is known yet."""
        return self.backend.spec.block_seconds / self.interval if self.interval else None

    def at(self, now: float) -> None:
        """A block is done now."""
        if self.last_at is not None:
            between = now - self.last_at
            self.interval = 0.7 * self.interval + 0.3 * between if self.interval else between
        self.last_at = now

    def restart(self) -> None:
        """Forget its pace: it was paused, or goes at another speed."""
        self.interval, self.last_at = 0.0, None

    def advance(self) -> Made:
        """Roll out, decode, record and measure one block. Raises RolloutError, and whatever a backend raises."""
        begun = time.monotonic()
        result = next(self.run)
        rolled_at = time.monotonic()
        try:
            self._output = self._output or Output(self.folder, self.backend, blocks=SHEET, latents=True)
            self._output.add(result)
        except BaseException as error:
            self.lost = str(error) or type(error).__name__
            raise
        frames = self._output.last
        assert frames is not None
        if self.watch is not None:
            self.watch.add(frames, self.prompt, result.prompts[0])
        self.prompt, self.pending = result.prompts[0], []
        now = time.monotonic()
        self.writing += now - rolled_at
        self.seconds += now - begun
        index = result.block.index
        kinds = tuple(event.kind for event in self._events(index) if event.block == index)
        return Made(result, frames, kinds)

    def _events(self, last: int) -> Sequence[Event]:
        """What came from outside up to a block."""
        return [event for event in self.run.timeline.log if event.block <= last]

    def fork(self, number: int, folder: Path, strategy: Strategy | None) -> "Pane":
        """A new pane that goes on from here, under another strategy if one is given; its record is exact too.

        Raises CompositionError for what cannot be carried over, RolloutError, OutputError.
        """
        self._whole()
        state, tensors = self.run.state()
        pane = Pane(number, self.backend, self.recipe, folder)
        pane.run.restore(state, _own(tensors))
        if strategy is not None:
            pane.run.use(strategy)
            pane.pending.append("strategy")
        pane._output = self._copy(folder)
        pane.watch, pane.prompt = deepcopy(self.watch), self.prompt
        pane.speed, pane.paused, pane.due, pane.cost = self.speed, self.paused, self.due, self.cost
        pane.seconds, pane.writing = self.seconds, self.writing
        pane.origin = f"pane {self.number} at block {self.blocks}"
        return pane

    def save(self, folder: Path) -> None:
        """Write the run so far into an empty folder, as 'rollout gen --latents' would have. Raises OutputError."""
        self._whole()
        output = self._copy(folder)
        output.close(keep=False)
        spec, blocks = self.backend.spec, self.blocks
        (first,) = Script.parse(self.recipe.text).prompts
        script = Script((Shot(first, blocks * spec.block_seconds),))
        events = tuple(self._events(blocks - 1))
        recipe = replace(self.recipe, text=str(script), events=events)
        timings = times(self.seconds, self.seconds - self.writing, self.writing, output.frames)
        RunFolder.finish(
            folder,
            record(
                self.run,
                recipe,
                script,
                prefix=None,
                timings=timings,
                digests=output.digests,
                events=events,  # not those of a block that failed
                blocks=blocks,
            ),
        )

    def _whole(self) -> None:
        if self.lost:
            raise OutputError(f"the recording of pane {self.number} is not whole: {self.lost}")
        if not self.blocks:
            raise RolloutError(f"pane {self.number} has no block yet. Wait a moment.")

    def _copy(self, folder: Path) -> Output:
        """An output that goes on in another folder, where this one is now."""
        assert self._output is not None
        facts, tensors = self._output.state()
        state = deepcopy(facts), _own(tensors)
        try:
            for name in FILES:
                copyfile(self.folder / name, folder / name)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {cause(error)}. Free some space.") from error
        return Output(folder, self.backend, blocks=SHEET, latents=True, earlier=state)

    def close(self) -> None:
        """Stop recording; its files go with their folder."""
        if self._output is not None:
            self._output.leave(RuntimeError("closed"), keep=False)


def first_text(prompt: str, backend: Backend) -> str:
    """The script of a pane's first block. Raises RolloutError for a script instead of a prompt."""
    shots = Script.parse(prompt).shots
    if len(shots) != 1 or shots[0] != Shot(shots[0].prompt):
        raise RolloutError(
            "a live session starts from one prompt, without durations and subtitles. Give just that; write '\\;' for a "
            "semicolon in it."
        )
    spec = backend.spec
    return str(Script((Shot(shots[0].prompt, spec.block_seconds),)))


def told(pane: Pane, names: dict[str, str]) -> Json:
    """A pane as JSON."""
    text = str(pane.run.strategy)
    return {
        "pane": pane.number,
        "name": names.get(text, text),
        "strategy": text,
        "window": pane.run.strategy.policy.window,
        "paused": pane.paused,
        "speed": pane.speed,
        "prompt": pane.prompt or "",
        "pending": list(pane.pending),
        "stopped": pane.stopped or pane.lost,
        "origin": pane.origin,
    }


def _own(tensors: Any) -> dict[str, Tensor]:
    """Copies: a state on the CPU may be what the rollout goes on writing to."""
    return {name: tensor.clone(memory_format=torch.preserve_format) for name, tensor in tensors.items()}
