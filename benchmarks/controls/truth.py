"""The control `truth`: the world's own video of a script and seed, in a folder that looks like a run's."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from rollout import __version__
from rollout.backend import Spec
from rollout.errors import OutputError
from rollout.files import write_text, write_whole
from rollout.run.machine import machine
from rollout.run.recipe import BackendRecord, PrefixRecord
from rollout.run.record import CostsRecord, RunFolder, RunRecord, ScriptRecord, subtitles
from rollout.run.sheet import SHEET, Tile, contact_sheet, thumbnail
from rollout.run.video import Subtitle, VideoWriter, webvtt
from rollout.script import Planned, Script, planned
from rollout.world import Act, Video, World

__all__ = ["film_truth"]


def film_truth(world: World, spec: Spec, cell: Mapping[str, Any], folder: Path) -> None:
    """Write the videos, the contact sheet and run.json of a cell's script, seed and prefix; no model is asked.

    Raises OutputError for a world whose frames are not one a latent frame.
    """
    script, first = Script.parse(cell["script"]), int(cell["prefix"])
    shots = planned(script, spec, first=first)
    acts = [Act(shot.prompt, shot.frames[1] - shot.frames[0], shot.cut) for shot in shots]
    frames = world.truth(acts, cell["seed"]).video()
    if len(frames) != spec.pixel_frames(shots[-1].frames[1]):
        raise OutputError(
            f"the world of '{spec.name}' has no frame for each of the video's. Leave the control truth out."
        )
    lines = subtitles(script, spec, first=first)
    _write(folder, frames, spec, lines, shots)
    RunFolder.finish(folder, _record(cell, spec, frames, shots))


def _write(folder: Path, frames: Video, spec: Spec, lines: list[Subtitle], shots: list[Planned]) -> None:
    with (
        VideoWriter(folder / "video.mp4", spec.fps, subtitles=lines) as video,
        VideoWriter(folder / "frames.mkv", spec.fps, exact=True) as exact,
    ):
        video.write(frames)
        exact.write(frames)
    if lines:
        write_text(folder / "subtitles.vtt", webvtt(lines))
    every = max(1, -(-len(frames) // SHEET))
    tiles = [
        Tile(thumbnail(frames[at]), f"{at / spec.fps:.1f}s · {shot.prompt}")
        for at in range(every // 2, len(frames), every)
        for shot in shots
        if shot.begin <= at / spec.fps < shot.end
    ]
    picture = contact_sheet(tiles)
    write_whole(folder / "contact.png", lambda path: picture.save(path, "PNG"))


def _record(cell: Mapping[str, Any], spec: Spec, frames: Video, shots: list[Planned]) -> RunRecord:
    """A run's record, without what only a model has."""
    backend = cell["backend"] | {"weights": None, "device": None}
    return RunRecord(
        rollout=__version__,
        control="truth",
        strategy_data=None,
        backend=msgspec.convert(backend, BackendRecord),
        script=ScriptRecord(cell["script"], tuple(shots), spec.fps, spec.stride),
        seed=cell["seed"],
        prefix=PrefixRecord(blocks=cell["prefix"]) if cell["prefix"] else None,
        event_data=(),
        digests={"frames": sha256(frames.tobytes()).hexdigest()},
        timings={"frames": len(frames)},
        costs=CostsRecord(blocks=sum(shot.blocks for shot in shots), given=cell["prefix"]),
        versions=machine(),
    )
