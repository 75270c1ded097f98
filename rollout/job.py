"""A rollout into a folder: video.mp4, subtitles.vtt, contact.png, run.json; on request latents.safetensors, frames.mkv."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rollout.backend import Backend
from rollout.errors import OutputError
from rollout.files import write_text, write_whole
from rollout.loop import Result, Rollout, generate
from rollout.record import record, subtitles
from rollout.sampler import Schedule
from rollout.script import Script
from rollout.strategy import Strategy
from rollout.video import Frames, Tile, VideoWriter, contact_sheet, read_video, webvtt

FILES = ("video.mp4", "subtitles.vtt", "contact.png", "run.json", "latents.safetensors", "frames.mkv")
SHEET = 40
"""Tiles of a contact sheet at most."""


@dataclass
class Job:
    """What to roll out and where; `run` yields each block's result as it is written."""

    backend: Backend
    strategy: Strategy
    text: str
    folder: Path
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    prefix: str | None = None
    latents: bool = False
    exact: bool = False
    """Also keep the frames without loss, in frames.mkv."""

    def __post_init__(self) -> None:
        self.script = Script.parse(self.text)
        start, self.prefix_record = read_prefix(self.backend, self.prefix, self.script.prompts[0], self.seed)
        self.rollout: Rollout = generate(
            self.backend, self.strategy, self.script, seeds=self.seed, schedule=self.schedule, prefix=start
        )

    def run(self) -> Iterator[Result]:
        """Generate, decode and write block by block; finished files appear whole. Raises OutputError."""
        spec, run = self.backend.spec, self.rollout
        lines = subtitles(self.script, spec, first=run.first)
        decoder, sheet, kept = self.backend.decoder(), Sheet(run.blocks), []
        begun, decoding = time.monotonic(), 0.0
        for name in FILES:  # of an earlier run, with --force
            (self.folder / name).unlink(missing_ok=True)
        with ExitStack() as stack:
            video = stack.enter_context(VideoWriter(self.folder / "video.mp4", spec.fps, subtitles=bool(lines)))
            writers = [video]
            if self.exact:
                writers.append(stack.enter_context(VideoWriter(self.folder / "frames.mkv", spec.fps, exact=True)))
            for line in lines:
                video.subtitle(line)
            for result in run:
                before = time.monotonic()
                frames: Frames = decoder.push(result.latents[0]).numpy()
                sheet.add(result, frames, spec.seconds(result.block.start))
                for writer in writers:
                    writer.write(frames)
                if self.latents:
                    kept.append(result.latents[0].float().cpu())
                decoding += time.monotonic() - before
                yield result
            count = video.frames
        seconds = time.monotonic() - begun
        if lines:
            write_text(self.folder / "subtitles.vtt", webvtt(lines))
        picture = sheet.draw()
        write_whole(self.folder / "contact.png", lambda path: picture.save(path, "PNG"))
        if self.latents:
            whole = {"latents": torch.cat(kept)}
            write_whole(self.folder / "latents.safetensors", lambda path: save_file(whole, path))
        timings = {
            "seconds": seconds,
            "decode_and_write_seconds": decoding,
            "generate_seconds": seconds - decoding,
            "frames": count,
            "frames_per_second": count / seconds,
        }
        found = record(run, self.script, text=self.text, seed=self.seed, prefix=self.prefix_record, timings=timings)
        write_text(self.folder / "run.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")


class Sheet:
    """Collects a contact sheet: the blocks at which something happens, and others evenly between."""

    def __init__(self, blocks: int) -> None:
        self._every = max(1, -(-blocks // SHEET))
        self._tiles: list[tuple[bool, Tile]] = []

    def add(self, result: Result, frames: Frames, seconds: float) -> None:
        """Offer a block's middle frame."""
        block = result.block
        mark = "cut" if block.cut else "switch" if block.switch else ""
        if mark or block.index % self._every == 0:
            self._tiles.append(
                (bool(mark), Tile(frames[len(frames) // 2].copy(), f"{seconds:.1f}s · {result.prompts[0]}", mark))
            )
            while len(self._tiles) > SHEET:  # a script of thousands of switches
                plain = [i for i, (marked, _) in enumerate(self._tiles) if not marked]
                del self._tiles[plain[len(plain) // 2] if plain else len(self._tiles) // 2]

    def draw(self) -> Image.Image:
        """The sheet as a picture."""
        return contact_sheet([tile for _, tile in self._tiles])


def read_prefix(
    backend: Backend, given: str | None, prompt: str, seed: int
) -> tuple[torch.Tensor | None, dict[str, Any] | None]:
    """The latents that a rollout starts from: N true blocks of the backend's world, a latents file or a video."""
    if given is None:
        return None, None
    if given.isdecimal():
        make: Callable[[str, int, int], torch.Tensor] | None = getattr(backend, "truth", None)
        if make is None:
            raise OutputError(
                f"the backend '{backend.spec.name}' has no true blocks to start from. Give a video or a latents file."
            )
        if not 0 < int(given) <= 1000:
            raise OutputError(f"--prefix {given[:20]} is no number of true blocks. Use 1 to 1000.")
        return make(prompt, int(given), seed), {"blocks": int(given)}
    path = Path(given)
    if not path.is_file():
        raise OutputError(f"the prefix {path} is not a file. Give a number of true blocks, a video or a latents file.")
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise OutputError(
                f"{path} cannot be read as safetensors: {error}. Give a file with the key 'latents'."
            ) from error
        if "latents" not in tensors:
            raise OutputError(
                f"{path} holds {', '.join(sorted(tensors)[:5])} but no 'latents'. Give a file that --latents wrote."
            )
        return tensors["latents"].float(), _file_record(path)
    encode = getattr(backend, "encode_video", None)
    if encode is None:
        raise OutputError(f"the backend '{backend.spec.name}' cannot encode a video. Give a latents file.")
    return encode(read_video(path, most=10_000)), _file_record(path)


def _file_record(path: Path) -> dict[str, str]:
    """A file by its content: a run from it can be repeated wherever it lies."""
    return {"file": path.name, "sha256": sha256(path.read_bytes()).hexdigest()}
