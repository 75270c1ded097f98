"""A rollout into a folder: video.mp4, subtitles.vtt, contact.png, run.json; on request latents.safetensors, frames.mkv.

While it runs its files say partial. A run that was stopped goes on from its last snapshot, bit for bit.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.devices import Peak
from rollout.errors import OutputError, RolloutError, Stopped
from rollout.files import alone
from rollout.loop import Result, Rollout, generate
from rollout.plan import steps
from rollout.ranks import leads
from rollout.run.beside import Beside
from rollout.run.machine import machine
from rollout.run.moving import KINDS, moving_picture
from rollout.run.output import Output, State
from rollout.run.prefix import read_prefixes
from rollout.run.recipe import PrefixRecord, Recipe
from rollout.run.record import RunFolder, record, subtitles, times
from rollout.run.snapshot import DAMAGE, Snapshot, damaged, part, snapshot_path, snapshots, under
from rollout.run.video import Frames, Subtitle
from rollout.script import Script
from rollout.temporary import remove_leftovers
from rollout.text import Json, cause
from rollout.timeline import moments

__all__ = ["FILES", "UNFINISHED", "Job", "pictures_of"]

FILES = (
    "video.mp4",
    "subtitles.vtt",
    "contact.png",
    "run.json",
    "latents.safetensors",
    "frames.mkv",
    "video.gif",
    "video.webp",
)
UNFINISHED = ("video.partial.mp4", "video.earlier.mp4", "latents.partial.safetensors", "frames.partial.mkv")


@dataclass
class Job:
    """What to roll out and where; `run` yields each block's result as it is written."""

    backend: Backend
    recipe: Recipe
    folder: Path
    latents: bool = False
    exact: bool = False
    """Also keep the frames without loss, in frames.mkv; such a run has no snapshots."""
    every: int | None = None
    """Blocks between two snapshots."""
    pictures: tuple[str, ...] = ()
    """Of rollout.run.moving.KINDS: animated pictures that are wanted of the finished video."""
    history: Tensor | None = None
    """Clean latents (F, C, H, W) of the first blocks, of another run: they are encoded and not sampled."""
    earlier: Snapshot | None = None
    """Where to go on."""
    shared: Snapshot | None = None
    """Of the run that `history` is from: what comes before it is neither sampled nor encoded."""

    locked: bool = False
    """Whether who runs it has its folder alone already."""
    peak: Peak | None = None
    """What measures the most memory that it takes, where that is asked for."""
    beside: bool = True
    """Decode and write a block while the next one is denoised; not where what a block costs is measured, or memory is short."""

    def __post_init__(self) -> None:
        recipe, spec = self.recipe, self.backend.spec
        scripts = [Script.parse(text) for text, _ in recipe.videos]
        self.script, self.stopping = scripts[0], False
        before = {} if self.earlier is None else self.earlier.state["job"]
        if self.earlier is None:
            videos = [(script.prompts[0], seed) for script, (_, seed) in zip(scripts, recipe.videos, strict=True)]
            prefix, (self.prefix_record, *_) = read_prefixes(self.backend, recipe.prefix, videos)
        else:  # the given blocks are behind it
            prefix, self.history = (
                _behind(spec.latent, spec.block * int(before[name])) for name in ("first", "history")
            )
            self.prefix_record = msgspec.convert(before["prefix"], PrefixRecord | None)
        self.seconds, self.writing = (float(before.get(name, 0.0)) for name in ("seconds", "writing"))
        self.rolling = float(before.get("rolling", self.seconds - self.writing))  # earlier, one waited for the other
        self.decoding = 0.0
        self.beside = self.beside and not recipe.options.get("low_vram")
        self._decodes, self._writes = (Beside(self.backend.device) for _ in range(2))
        self.rollout: Rollout = generate(
            self.backend,
            recipe.strategy,
            scripts,
            seeds=[seed for _, seed in recipe.videos],
            schedule=recipe.schedule,
            prefix=prefix,
            history=self.history,
            events=recipe.events,
            exchange=None if recipe.donor is None else recipe.donor.block,
        )
        if self.shared is not None:
            try:
                self.rollout.share(self.shared.state["rollout"], part(self.shared.tensors, "rollout"))
            except DAMAGE as error:
                raise damaged(f"of block {self.shared.block}", error) from error

    @property
    def leads(self) -> bool:
        """Whether this process writes: of several that roll out together the first."""
        return leads(self.backend.ranks)

    @classmethod
    def resumed(cls, backend: Backend, snapshot: Snapshot, folder: Path) -> "Job":
        """The run that a snapshot was taken of, from there on. Raises OutputError, RolloutError."""
        path = snapshot_path(folder, snapshot.block)
        try:
            before = snapshot.state["job"]
            if any(not 0 <= int(before[name]) <= snapshot.block for name in ("first", "history")):
                raise ValueError("it lies before blocks that were given")
            every = None if before["every"] is None else int(before["every"])
            recipe = Recipe.from_dict(snapshot.state["recipe"])
            pictures = pictures_of(before)
            latents = bool(before["latents"])
            job = cls(backend, recipe, folder, latents=latents, every=every, pictures=pictures, earlier=snapshot)
            job.rollout.restore(snapshot.state["rollout"], part(snapshot.tensors, "rollout"))
            if job.rollout.done != snapshot.block:
                raise ValueError("its name is not its block's")
            return job
        except DAMAGE as error:
            raise damaged(path, error) from error

    def stop(self) -> None:
        """Finish the block that is running, write a snapshot, and end with Stopped."""
        self.stopping = True

    def run(self) -> Iterator[Result]:
        """Generate, decode and write block by block. Raises OutputError, Stopped, RolloutError.

        Whatever it raises after a snapshot, or after a block from which one can be written, the run can be resumed.
        """
        if not self.leads:
            yield from self._blocks(None)
            return
        with nullcontext() if self.locked else alone(self.folder):
            remove_leftovers(self.folder)
            output = self._open()
            try:
                yield from self._blocks(output)
                self._wait()
                output.close(keep=bool(snapshots(self.folder)))
            except BaseException as error:
                with suppress(BaseException):  # the error that ends it came first
                    self._wait()
                output.leave(error, keep=bool(snapshots(self.folder)))
                raise
            self._finish(output)

    def _open(self) -> Output:
        spec = self.backend.spec
        lines = subtitles(self.script, spec, first=self.rollout.first)
        if self.earlier is None:
            self._clear()
            return self._output(lines)
        try:
            tensors = part(self.earlier.tensors, "output")
            output = self._output(lines, earlier=(self.earlier.state["output"], tensors))
        except DAMAGE as error:
            raise damaged(snapshot_path(self.folder, self.earlier.block), error) from error
        for path in snapshots(self.folder, after=self.earlier.block):  # what they go on from is no more
            path.unlink(missing_ok=True)
        return output

    def _clear(self) -> None:
        """Remove what an earlier run left, with --force. Raises OutputError."""
        try:
            for name in (*FILES, *UNFINISHED, *(path.name for path in snapshots(self.folder))):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder / name} cannot be removed: {cause(error)}. Choose another --out."
            ) from error

    def _output(self, lines: Sequence[Subtitle], earlier: State | None = None) -> Output:
        return Output(
            self.folder,
            self.backend,
            blocks=self.rollout.blocks,
            lines=lines,
            latents=self.latents,
            exact=self.exact,
            earlier=earlier,
        )

    def _known(self) -> Iterator[Result]:
        """The blocks before the snapshot of another run, whose latents are at hand: no pass is needed."""
        if self.shared is None or self.history is None:
            return
        recipe, spec = self.recipe, self.backend.spec
        plan = partial(moments, self.script, spec, recipe.strategy, recipe.events)
        for moment, step in islice(zip(plan(), steps(plan(), spec), strict=True), self.shared.block):
            block = moment.block
            latents = self.history[None, block.start : block.end]
            yield Result(block, latents, step.slots, step.placement, moment.texts)

    def _blocks(self, output: Output | None) -> Iterator[Result]:
        """Roll out and write; without an output another process writes."""
        begun, before, ranks = time.monotonic(), self.seconds, self.backend.ranks
        for earlier in self._known():
            if output is not None:
                output.add(earlier)
        while True:
            started = time.monotonic()
            try:
                result = next(self.rollout, None)
            except Exception:
                if ranks is None:  # of several, the others may be anywhere
                    with suppress(RolloutError):  # the error that came first says more
                        self.snapshot(output)
                raise
            if result is None:
                return
            self.rolling += time.monotonic() - started
            if output is not None:
                self._decodes.start(partial(self._decode, output, result))
                if not self.beside:
                    self._wait()
            self.seconds = before + time.monotonic() - begun
            blocks = result.block.index + 1
            more = blocks < self.rollout.blocks
            if more and self.every and blocks % self.every == 0:
                self.snapshot(output)
            yield result
            if ranks is not None:  # all stop after the same block
                self.stopping = bool(ranks.share(self.stopping))
            if more and self.stopping:
                self.snapshot(output)
                raise Stopped(self._stopped(blocks))

    def _decode(self, output: Output, result: Result) -> None:
        begun = time.monotonic()
        latents, frames = output.decode(result)
        self.decoding += time.monotonic() - begun
        self._writes.start(partial(self._write, output, result, latents, frames))

    def _write(self, output: Output, result: Result, latents: Tensor, frames: Frames) -> None:
        begun = time.monotonic()
        output.write(result, latents, frames)
        self.writing += time.monotonic() - begun

    def _wait(self) -> None:
        """Until all blocks so far are written. Raises OutputError."""
        try:
            self._decodes.wait()
        finally:
            self._writes.wait()

    def _stopped(self, blocks: int) -> str:
        where = f"stopped after block {blocks} of {self.rollout.blocks}"
        if snapshots(self.folder):
            return f"{where}. Go on with: rollout resume {self.folder}"
        return f"{where}, before anything that a snapshot could go on from. Start again."

    def snapshot(self, output: Output | None) -> None:
        """Write what the run can go on from, unless its next block is a given one. Raises OutputError, CacheError."""
        run = self.rollout
        if self.exact or run.done < max(1, run.encoded):
            return
        state, tensors = run.state()
        if output is None:
            return
        self._wait()
        files, pictures = output.state()
        facts = {
            "recipe": self.recipe.to_dict(),
            "weights": self.backend.digest,
            "versions": machine(self.backend.device, self.backend.ranks),
            "rollout": state,
            "output": files,
            "job": {
                "latents": self.latents,
                "every": self.every,
                "pictures": list(self.pictures),
                "first": run.first,
                "history": 0 if self.history is None else run.encoded,
                "prefix": msgspec.to_builtins(self.prefix_record),
                "seconds": self.seconds,
                "writing": self.decoding + self.writing,
                "rolling": self.rolling,
            },
        }
        Snapshot(run.done, facts, dict(under(tensors, "rollout")) | dict(under(pictures, "output"))).write(self.folder)

    def _finish(self, output: Output) -> None:
        """Write the record; snapshots are of no more use."""
        run_record = record(
            self.rollout,
            self.recipe,
            self.script,
            prefix=self.prefix_record,
            history=0 if self.history is None else self.rollout.encoded,
            timings=times(self.seconds, self.rolling, self.decoding + self.writing, output.frames),
            digests=output.digests,
            peak_bytes=self.peak.bytes() if self.peak is not None else None,
        )
        RunFolder.finish(self.folder, run_record)
        for path in snapshots(self.folder):
            path.unlink(missing_ok=True)
        for kind in self.pictures:  # last: the run is whole without them
            moving_picture(self.folder / "video.mp4", self.folder / f"video.{kind}")


def pictures_of(job: Json) -> tuple[str, ...]:
    """The animated pictures that a snapshot's job is to make."""
    return tuple(kind for kind in KINDS if kind in job.get("pictures", ()))


def _behind(latent: tuple[int, int, int], frames: int) -> Tensor | None:
    """Latents of a size that nobody will read."""
    return torch.zeros(()).expand(frames, *latent) if frames else None
