"""Forks: one history, rebuilt from its clean latents, that goes on under other strategies, prompts or seeds."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from math import floor
from pathlib import Path

from torch import Tensor

from rollout.backend import Spec
from rollout.errors import OutputError, ScriptError
from rollout.plan import steps
from rollout.run.latents import LatentsWriter, read_latents
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.snapshot import (
    DAMAGE,
    Snapshot,
    damaged,
    newest_snapshot,
    read_snapshot,
    snapshot_path,
    snapshots,
)
from rollout.script import Script, Shot, planned
from rollout.strategy import Strategy
from rollout.timeline import Event, Use, moments, reigns

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
    snapshots: tuple[Path, ...] = ()
    """Of a run that is not finished, the newest first."""

    @classmethod
    def of(cls, folder: Path) -> "History":
        """A finished run, or one with a snapshot, that kept its latents. Raises OutputError."""
        snapshots_left = tuple(snapshots(folder))
        if snapshots_left and not (folder / "run.json").is_file():
            snapshot = newest_snapshot(folder)
            try:
                first, frames = int(snapshot.state["job"]["first"]), int(snapshot.state["output"]["latents"])
            except DAMAGE as error:
                raise damaged(snapshot_path(folder, snapshot.block), error) from error
            latents = read_latents(LatentsWriter.left(folder / "latents.safetensors"))[:frames]
            weights, versions = snapshot.state.get("weights"), snapshot.state.get("versions")
            return cls(snapshot.recipe, latents, first, weights, versions, snapshots_left)
        record = RunFolder.open(folder).record
        latents = read_latents(folder / "latents.safetensors")
        return cls(record.recipe, latents, record.costs.given, record.backend.weights, record.versions)

    def block(self, seconds: float, spec: Spec) -> int:
        """The block boundary nearest to a time, half up. Raises OutputError where nothing was kept."""
        blocks = len(self.latents) // spec.block
        length = spec.block_seconds
        block = floor(seconds / length + 0.5) if 0 <= seconds < 1e9 else -1
        if not 1 <= block <= blocks:
            raise OutputError(
                f"--at {seconds:g} is not within the history: forks are possible from {length:g}s to "
                f"{blocks * length:g}s, after whole blocks."
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
        recipe = self.recipe
        if recipe.donor is not None:
            raise OutputError(
                "this run went on with another video's memory, which its latents cannot rebuild. Fork another."
            )
        shots = list(self._shots(spec))
        if prompt is not None:
            shots = list(self._before(shots, block, spec)) + list(Script.parse(prompt, goes_on=True).shots)
        script = Script(tuple(shots))
        if script.count(spec) <= block:
            raise ScriptError("the history ends where the fork begins. Say with --prompt how it goes on.")
        events = tuple(event for event in recipe.events if event.block < block)
        base = recipe.strategy
        if rebuild and strategy is not None:
            base, events = strategy, tuple(event for event in events if not isinstance(event.change, Use))
        elif strategy is not None and strategy != self.strategy(block):
            events += (Event(block, Use(strategy)),)
        branch = replace(
            recipe,
            strategy=base,
            text=str(script),
            seed=recipe.seed if seed is None else seed,
            prefix=None,
            events=events,
        )
        length = script.count(spec) * spec.block
        for _, ruling in reigns(base, events):
            ruling.check(spec, length)
        for _ in islice(steps(moments(script, spec, base, events), spec), block + 1):
            pass  # what cannot be carried over is refused here, without a model
        return branch

    def strategy(self, block: int) -> Strategy:
        """The strategy in force when a block begins."""
        return [strategy for begin, strategy in reigns(self.recipe.strategy, self.recipe.events) if begin < block][-1]

    def nearest(self, block: int) -> Snapshot | None:
        """The last snapshot up to a block that can be read: a fork there need not encode the history again.

        None where a snapshot holds blocks that are half denoised: the fork's own would begin from other noise or prompts.
        """
        if self.recipe.strategy.order.joint(2) > 1:
            return None
        for path in self.snapshots:
            with suppress(OutputError):  # one that was cut off, or that the run has replaced since
                snapshot = read_snapshot(path)
                if snapshot.block <= block:
                    return snapshot
        return None

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
    return blocks * spec.block_seconds
