"""A run's record and its folder: everything that the result depends on and what it took, as run.json holds it."""

import json
import sys
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rollout import __version__
from rollout.backend import Spec
from rollout.costs import Encoded
from rollout.documents import parse_json, read_bytes
from rollout.errors import OutputError
from rollout.files import write_text
from rollout.loop import Rollout
from rollout.run.machine import machine
from rollout.run.recipe import BackendRecord, PrefixRecord, Recipe, RecipeRecord, ScriptText
from rollout.run.video import Subtitle, frames_in
from rollout.script import Planned, Script, planned
from rollout.slots import Block
from rollout.strategy import AXES, Strategy
from rollout.text import Json
from rollout.timeline import Event, reigns, retrace

__all__ = [
    "MOST_BLOCKS",
    "MOST_FRAMES",
    "Blocks",
    "CostsRecord",
    "RunFolder",
    "RunRecord",
    "ScriptRecord",
    "Segment",
    "record",
    "subtitles",
    "times",
]

MOST_BLOCKS = 1_000_000
"""Blocks of a run that is read: days of video. More is no record of a run."""
MOST_FRAMES = 64 * MOST_BLOCKS
Count = Annotated[int, Meta(ge=0)]
Blocks = Annotated[int, Meta(ge=0, le=MOST_BLOCKS)]
OPTIONAL = ("donor", "control", "attention")
"""What only some records have."""


class ScriptRecord(ScriptText, frozen=True):
    """A script with its shots as they were rolled out, on the backend's clock."""

    shots: tuple[Planned, ...]
    fps: Annotated[float, Meta(gt=0, le=1000)]
    stride: Annotated[int, Meta(ge=1, le=1000)]

    def __post_init__(self) -> None:
        if not self.shots:
            raise ValueError("it has no shots")
        for shot in self.shots:
            begin, end = shot.frames
            if not (
                0 <= begin < end <= MOST_FRAMES and 1 <= shot.blocks <= end - begin and 0 <= shot.begin <= shot.end
            ):
                raise ValueError(f"a shot of {shot.blocks} blocks has the frames {begin} to {end}")


class CostsRecord(Struct, frozen=True, kw_only=True):
    """What a run took; None where nothing is known. `given` blocks were a prefix; bytes are of one of `rows` videos.

    Of a run by several processes they are the first one's, which holds its part of the heads.
    """

    forwards: Count | None = None
    blocks: Blocks
    given: Blocks
    encoded: Encoded | None = None
    rows: Annotated[int, Meta(ge=1)] = 1
    kv_bytes: Count | None = None
    held_bytes: Count | None = None
    rotated_bytes: Count | None = None
    switch_seconds: tuple[float, ...] = ()
    peak_bytes: Count | None = None

    def __post_init__(self) -> None:
        encoded = 0 if self.encoded is None else self.encoded.blocks
        if not max(self.given, encoded) <= self.blocks or encoded < 0:
            raise ValueError(f"of {self.blocks} blocks {self.given} were given and {encoded} encoded")


class Segment(Struct, frozen=True):
    """A stretch of latent frames under one prompt; `kind` is what it opens with: "", "switch" or "cut"."""

    begin: int
    end: int
    prompt: str
    kind: str


class RunRecord(RecipeRecord, frozen=True, kw_only=True):
    """The record of a finished run. `history` blocks came from another run; a `control` was made by no model."""

    rollout: str = ""
    """The version that wrote it."""
    script: ScriptRecord
    history: Blocks = 0
    rules: dict[str, str] = msgspec.field(default_factory=dict)
    """The files, by content, of parts that are not rollout's own."""
    digests: dict[str, str] = msgspec.field(default_factory=dict)
    timings: dict[str, float | int] = msgspec.field(default_factory=dict)
    costs: CostsRecord
    versions: dict[str, str | int] | None = None
    control: str | None = None
    attention: Json | None = None

    def __post_init__(self) -> None:
        frames = self.timings.get("frames", 0)
        if not isinstance(frames, int) or not 0 <= frames <= MOST_FRAMES:
            raise ValueError(f"its video has {frames} frames")
        if self.history > self.costs.blocks:
            raise ValueError(f"of {self.costs.blocks} blocks {self.history} are another run's")

    @property
    def frames(self) -> int:
        """Pixel frames of its video. Raises OutputError."""
        if "frames" not in self.timings:
            raise OutputError(
                "the record is damaged: it does not say how many frames its video has. Give a run's folder."
            )
        return int(self.timings["frames"])

    def strategy_at(self, block: int) -> Strategy:
        """The strategy in force at a block. Raises SpecError, OutputError."""
        return [strategy for begin, strategy in reigns(self.strategy, self.events) if begin <= block][-1]

    @property
    def generated_blocks(self) -> int | None:
        """Blocks that were sampled; None where the record does not say."""
        return None if self.costs.encoded is None else self.costs.blocks - self.costs.encoded.blocks

    def generated_frames(self, spec: Spec) -> int | None:
        """Pixel frames of the blocks that were sampled."""
        if self.costs.encoded is None:
            return None
        begin, end = (
            spec.pixel_frames(blocks * spec.block) for blocks in (self.costs.encoded.blocks, self.costs.blocks)
        )
        return end - begin

    def course(self, spec: Spec) -> tuple[tuple[Block, ...], tuple[str, ...]]:
        """The blocks as they were rolled out, and the prompts by number. Raises OutputError, ScriptError."""
        script = Script.parse(self.script.text)
        if script.count(spec) > MOST_BLOCKS:
            raise OutputError(
                f"the record's script asks for {script.count(spec)} blocks, and no run that is read has more than {MOST_BLOCKS}."
            )
        blocks, prompts = retrace(script, spec, self.events, first=self.costs.given)
        # another model may have been loaded with blocks of its own, which a record does not say
        if isinstance(self.backend.world, str) and "frames" in self.timings:
            frames = spec.pixel_frames(blocks[-1].end)
            if frames != self.frames:
                raise OutputError(
                    f"the record is damaged: its script takes {frames} frames, and its video has {self.frames}."
                )
        return blocks, prompts

    def segments(self, spec: Spec) -> tuple[Segment, ...]:
        """What was asked and when, what came from outside included."""
        blocks, prompts = self.course(spec)
        openings = [block for block in blocks if block.index == 0 or block.switch or block.cut]
        ends = [*(block.start for block in openings[1:]), blocks[-1].end]
        return tuple(
            Segment(block.start, end, prompts[block.prompt], "cut" if block.cut else "switch" * block.switch)
            for block, end in zip(openings, ends, strict=True)
        )

    def to_dict(self) -> Json:
        """As JSON."""
        data: Json = msgspec.to_builtins(self)
        for name in OPTIONAL:
            if data[name] is None:
                del data[name]
        return data


class RunFolder:
    """The folder of a finished run: `record` is what run.json says. The only reader and writer of that file."""

    FILE = "run.json"

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path, self.record = path, record

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Read a folder. Raises OutputError."""
        file = path / cls.FILE
        try:
            data = parse_json(read_bytes(file))
        except (OSError, ValueError) as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise OutputError(f"{path} is not the folder of a run: run.json {why}. Give a run's folder.") from error
        if not isinstance(data, dict):
            raise OutputError(f"{file} holds no object. Give a run's folder.")
        try:
            return cls(path, msgspec.convert(data, RunRecord))
        except msgspec.ValidationError as error:
            raise OutputError(f"the record is damaged: {file}: {error}. Give a run's folder.") from error

    @classmethod
    def finish(cls, path: Path, record: RunRecord) -> None:
        """Write the record whole: the run is finished. Raises OutputError."""
        write_text(path / cls.FILE, json.dumps(record.to_dict(), indent=2, ensure_ascii=False) + "\n")

    @cached_property
    def video(self) -> Path:
        """Its video, without loss where that was kept. Raises OutputError for one that lacks frames, or has others."""
        exact = self.path / "frames.mkv"
        video = exact if exact.is_file() else self.path / "video.mp4"
        frames = frames_in(video)
        if frames and frames != self.record.timings.get("frames", frames):
            raise OutputError(
                f"{video} has {frames} frames, and its record says {self.record.frames}. Make the run again."
            )
        return video


def subtitles(script: Script, spec: Spec, *, first: int = 0) -> list[Subtitle]:
    """The script's subtitles on the true frames."""
    plan = planned(script, spec, first=first)
    return [Subtitle(shot.begin, shot.end, shot.subtitle) for shot in plan if shot.subtitle]


def record(
    run: Rollout,
    recipe: Recipe,
    script: Script,
    *,
    prefix: PrefixRecord | None,
    timings: dict[str, float | int],
    history: int = 0,
    digests: dict[str, str] | None = None,
    events: tuple[Event, ...] | None = None,
    blocks: int | None = None,
    peak_bytes: int | None = None,
    attention: Json | None = None,
) -> RunRecord:
    """The record of a rollout; `history` blocks came from another run.

    A rollout that goes on says how many `blocks` and `events` belong to the record.
    """
    spec, backend, costs, rows = run.backend.spec, run.backend, run.costs, run.batch
    encoded = costs.encoded
    log = tuple(run.timeline.log) if events is None else events
    return RunRecord(
        rollout=__version__,
        strategy_data=recipe.strategy.to_dict(),
        backend=BackendRecord(
            recipe.backend,
            str(backend.device),
            dict(recipe.options),
            backend.digest,
            str(backend.dtype).removeprefix("torch."),
            None if backend.world is None else backend.world.name,
        ),
        script=ScriptRecord(recipe.text, tuple(planned(script, spec, first=run.first)), spec.fps, spec.stride),
        schedule_data=recipe.schedule.to_dict(),
        seed=recipe.seed,
        prefix=prefix,
        event_data=tuple(event.to_dict() for event in log),
        donor=recipe.donor,
        history=history,
        rules=rules(recipe.strategy) | rules(run.strategy),
        digests=digests or {},
        timings=timings,
        costs=CostsRecord(
            forwards=costs.forwards,
            blocks=run.blocks if blocks is None else blocks,
            given=run.first,
            encoded=None if encoded is None else replace(encoded, rotated_bytes=encoded.rotated_bytes // rows),
            rows=rows,
            kv_bytes=run.engine.bytes // rows,
            held_bytes=None if costs.held_bytes is None else costs.held_bytes // rows,
            rotated_bytes=run.engine.rotated // rows,
            switch_seconds=tuple(costs.switch_seconds),
            peak_bytes=peak_bytes,
        ),
        versions=machine(backend.device, backend.ranks),
        attention=attention,
    )


def times(seconds: float, rolling: float, writing: float, frames: int) -> dict[str, float | int]:
    """A record's timings: of all `seconds`, those of rolling out, and those of decoding and writing, which may go on beside."""
    return {
        "seconds": seconds,
        "decode_and_write_seconds": writing,
        "generate_seconds": rolling,
        "frames": frames,
        "frames_per_second": frames / seconds,
    }


def rules(strategy: Strategy) -> dict[str, str]:
    """The files, by content, of parts that are not rollout's own: {"policy dilated": sha256}."""
    files = {}
    for axis in (*AXES, *strategy.refinements):
        part = getattr(strategy, axis)
        file = getattr(sys.modules.get(type(part).__module__), "__file__", None)
        if not type(part).__module__.startswith("rollout.") and file is not None:
            files[f"{axis} {part.kind}"] = sha256(Path(file).read_bytes()).hexdigest()
    return files
