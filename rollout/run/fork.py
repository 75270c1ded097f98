"""Forks: one history, rebuilt from its clean latents, that goes on under other strategies, prompts or seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import floor
from pathlib import Path

from torch import Tensor

from rollout.backend import Spec
from rollout.errors import OutputError, ScriptError
from rollout.plan import simulate
from rollout.progress import Event, course
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.record import read_record
from rollout.run.snapshot import read_snapshot, snapshots
from rollout.script import Script, Shot, planned
from rollout.strategy import Strategy

__all__ = ["History"]


@dataclass(frozen=True)
class History:
    """A run that can be forked: its recipe with all that came from outside, and its clean latents (F, C, H, W)."""

    recipe: Recipe
    latents: Tensor
    first: int
    """Blocks of a prefix."""
    weights: object
    versions: object

    @classmethod
    def of(cls, folder: Path) -> "History":
        """A finished run, or one with a snapshot, that kept its latents. Raises OutputError."""
        left = snapshots(folder)
        if left and not (folder / "run.json").is_file():
            told = read_snapshot(left[0]).told
            try:
                recipe, first = Recipe.from_dict(told["recipe"]), int(told["job"]["first"])
                events = tuple(Event.from_dict(event) for event in told["rollout"]["progress"]["events"])
                kept = int(told["output"]["latents"])
            except (KeyError, TypeError, ValueError) as error:
                raise OutputError(f"the snapshot {left[0]} is damaged: {error!r}. Use an earlier one.") from error
            latents = read_latents(folder / "latents.partial.safetensors")[:kept]
            return cls(replace(recipe, events=events), latents, first, told.get("weights"), told.get("versions"))
        record = read_record(folder)
        recipe = Recipe.from_dict(record)
        try:
            first, weights = int(record["costs"]["given"]), record["backend"]["weights"]
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{folder / 'run.json'} is damaged: {error!r}. Give a run's folder.") from error
        latents = read_latents(folder / "latents.safetensors")
        return cls(recipe, latents, first, weights, record.get("versions"))

    def block(self, seconds: float, spec: Spec) -> int:
        """The block boundary nearest to a time, half up. Raises OutputError where nothing was kept."""
        stored = len(self.latents) // spec.block
        length = spec.block * spec.stride / spec.fps
        block = floor(seconds / length + 0.5) if 0 <= seconds < 1e9 else -1
        if not 1 <= block <= stored:
            raise OutputError(
                f"--at {seconds:g} is not within the history: forks are possible from {length:g}s to "
                f"{stored * length:g}s, after whole blocks."
            )
        return block

    def branch(
        self,
        block: int,
        spec: Spec,
        *,
        strategy: Strategy | None = None,
        prompt: str | None = None,
        seed: int | None = None,
        rebuild: bool = False,
    ) -> Recipe:
        """The recipe of a run whose first `block` blocks are this history.

        `prompt` is a script for what follows, else the rest of the history's own. The cache is carried over to
        `strategy`; with `rebuild` the history is encoded under it from the beginning. Raises ScriptError, SpecError,
        CompositionError for what cannot be carried over.
        """
        own = self.recipe
        if own.donor is not None:
            raise OutputError(
                "this run went on with another video's memory, which its latents cannot rebuild. Fork another."
            )
        shots = list(self._shots(spec))
        if prompt is not None:
            shots = list(self._before(shots, block, spec)) + list(Script.parse(prompt, goes_on=True).shots)
        script = Script(tuple(shots))
        if script.count(spec) <= block:
            raise ScriptError("the history ends where the fork begins. Say with --prompt how it goes on.")
        events = tuple(event for event in own.events if event.block < block)
        base = own.strategy
        if rebuild and strategy is not None:
            base, events = strategy, tuple(event for event in events if event.kind != "strategy")
        elif strategy is not None and strategy != self.strategy(block):
            events += (Event(block, "strategy", (str(strategy),)),)
        made = replace(
            own,
            strategy=base,
            text=str(script),
            seed=own.seed if seed is None else seed,
            prefix=None,
            events=events,
        )
        blocks, _ = course(script, spec, events)
        changes = {event.block: Strategy.from_text(event.value[0]) for event in events if event.kind == "strategy"}
        for each in (base, *changes.values()):
            each.check(spec, len(blocks) * spec.block)
        for _ in islice(simulate(base, blocks, spec, changes), block + 1):
            pass
        return made

    def strategy(self, block: int) -> Strategy:
        """The strategy in force when a block begins."""
        changed = [event for event in self.recipe.events if event.kind == "strategy" and event.block < block]
        return Strategy.from_text(changed[-1].value[0]) if changed else self.recipe.strategy

    def _shots(self, spec: Spec) -> Iterator[Shot]:
        """The script's shots with their true lengths, the prefix in the first."""
        script = Script.parse(self.recipe.text)
        for shot, plan in zip(script.shots, planned(script, spec, first=self.first), strict=True):
            yield replace(shot, seconds=_seconds(plan.blocks, spec))

    def _before(self, shots: list[Shot], block: int, spec: Spec) -> Iterator[Shot]:
        left = block
        for shot in shots:
            if left > 0:
                blocks = min(left, shot.blocks(spec))
                yield replace(shot, seconds=_seconds(blocks, spec))
                left -= blocks


def _seconds(blocks: int, spec: Spec) -> float:
    return blocks * spec.block * spec.stride / spec.fps
