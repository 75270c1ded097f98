"""A run's files as they grow: video, latents, contact sheet, subtitles; and digests of what went into them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollout.backend import Backend
from rollout.errors import OutputError
from rollout.files import sync, write_text, write_whole
from rollout.loop import Result
from rollout.run.latents import LatentsWriter, as_bytes
from rollout.run.sheet import Sheet
from rollout.run.snapshot import flatten, part, under, unflatten
from rollout.run.video import Frames, Subtitle, VideoWriter, webvtt
from rollout.text import Json, cause

__all__ = ["Output", "State"]

State = tuple[Mapping[str, Any], Mapping[str, Tensor]]
"""JSON, and the tensors that belong to it."""


class Chain:
    """A digest that goes on from block to block, and after a stop: sha256(last digest, bytes)."""

    def __init__(self, value: str = "") -> None:
        self.value = bytes.fromhex(value).hex()

    def add(self, data: bytes) -> None:
        """Add a block's bytes."""
        self.value = sha256(bytes.fromhex(self.value) + data).hexdigest()


class Output:
    """Decodes and writes block by block under names that say partial; `close` gives the finished files theirs.

    `earlier` is the state that `state` gave when another process was here: what was written after it is written again.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        *,
        blocks: int,
        lines: Sequence[Subtitle] = (),
        latents: bool = False,
        exact: bool = False,
        contact: bool = True,
        earlier: State | None = None,
    ) -> None:
        self.folder, self.spec, self.lines = folder, backend.spec, lines
        self.decoder, self.sheet = backend.decoder(), Sheet(blocks)
        self.contact = contact
        self.pixels, self.clean = Chain(), Chain()
        self.last: Frames | None = None
        """The last block's frames."""
        self._stack = ExitStack()
        self._writers: list[VideoWriter] = []
        self._latents: LatentsWriter | None = None
        state, tensors = earlier or ({}, {})
        frames, tail = int(state.get("frames", 0)), tensors.get("tail")
        if tail is not None:
            frames -= len(tail)
            self.decoder.restore(unflatten(state["decoder"], part(tensors, "decoder")))
            self.sheet.restore(state["sheet"], part(tensors, "sheet"))
            self.pixels, self.clean = Chain(state["digests"]["frames"]), Chain(state["digests"]["latents"])
        try:
            if latents:
                writer = LatentsWriter(folder / "latents.safetensors", keep=int(state.get("latents", 0)))
                self._latents = self._stack.enter_context(writer)
            video = VideoWriter(folder / "video.mp4", self.spec.fps, subtitles=lines, keep=frames)
            self._writers.append(self._stack.enter_context(video))
            if exact:
                mkv = VideoWriter(folder / "frames.mkv", self.spec.fps, exact=True)
                self._writers.append(self._stack.enter_context(mkv))
            if tail is not None:  # the end of a file that was cut off may lack a frame or two
                self._write(tail.numpy())
        except BaseException as error:
            self.leave(error, keep=earlier is not None)
            raise

    @property
    def frames(self) -> int:
        """Pixel frames so far."""
        return self._writers[0].frames

    def add(self, result: Result) -> None:
        """Decode a block and write it. Raises OutputError."""
        self.write(result, *self.decode(result))

    def decode(self, result: Result) -> tuple[Tensor, Frames]:
        """A block's latents and frames, on the CPU."""
        latents = result.latents[0]
        frames: Frames = self.decoder.push(latents).numpy()
        return latents.cpu(), frames

    def write(self, result: Result, latents: Tensor, frames: Frames) -> None:
        """Write a block that was decoded. Raises OutputError."""
        if self.contact:
            self.sheet.add(result, frames, self.spec.seconds(result.block.start))
        self._write(frames)
        if self._latents is not None:
            self._latents.write(latents)
        self.pixels.add(frames.tobytes())
        self.clean.add(as_bytes(latents))

    def _write(self, frames: Frames) -> None:
        for writer in self._writers:
            writer.write(frames)
        self.last = frames

    def state(self) -> tuple[Json, dict[str, Tensor]]:
        """What goes on after a stop, as JSON and tensors; what was written so far is brought to the disk."""
        tensors: dict[str, Tensor] = {}
        decoder = flatten(self.decoder.state(), tensors, "state")
        sheet, tiles = self.sheet.state()
        assert self.last is not None
        for writer in (self._writers[0], self._latents):
            if writer is not None:
                _sync(writer.partial)
        facts = {
            "frames": self.frames,
            "latents": 0 if self._latents is None else self._latents.frames,
            "decoder": decoder,
            "sheet": sheet,
            "digests": self.digests,
        }
        tail = {"tail": torch.from_numpy(self.last)}
        return facts, dict(under(tensors, "decoder")) | dict(under(tiles, "sheet")) | tail

    @property
    def digests(self) -> dict[str, str]:
        """What the run made, in 64 characters each: equal digests mean equal latents and equal pixels."""
        return {"latents": self.clean.value, "frames": self.pixels.value}

    def close(self, *, keep: bool) -> None:
        """Finish all files; where that fails `keep` what a snapshot goes on from. Raises OutputError."""
        for writer in self._writers:
            writer.kept = keep
        self._stack.close()
        if self.lines:
            write_text(self.folder / "subtitles.vtt", webvtt(self.lines))
        if not self.contact:
            return
        picture = self.sheet.draw()
        write_whole(self.folder / "contact.png", lambda path: picture.save(path, "PNG"))

    def leave(self, error: BaseException, *, keep: bool) -> None:
        """End with an error: files that a snapshot goes on from stay under their partial names, others go."""
        for writer in self._writers:
            writer.kept = keep
        self._stack.__exit__(type(error), error, error.__traceback__)
        if self._latents is not None and not keep:
            with suppress(OSError):  # the error that it ends with says more
                self._latents.partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a growing file to the disk. Raises OutputError."""
    try:
        sync(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {cause(error)}. Is its folder still there?") from error
