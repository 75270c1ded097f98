"""The videos that a report shows, beside it: by prompt and seed, with what happens in them and when."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import av

from rollout.benchmarks.report.look import Look
from rollout.benchmarks.store import Store
from rollout.errors import OutputError
from rollout.files import inner_folder, link_or_copy, write_whole
from rollout.run.recipe import PrefixRecord
from rollout.run.record import RunRecord
from rollout.text import Json

__all__ = ["size"]

SCENES = 24
"""Prompts, or prompts and seeds, that a report shows at most."""
MOST = 300
"""Videos that it copies at most, unless one prompt has more."""


def scenes(out: Path, data: Mapping[str, Any], looks: Mapping[str, Look], to: Path) -> list[Json]:
    """Every scene that is shown, its videos linked or copied into `to`; what else lies there is removed."""
    plan, store, why = data["plan"], Store(out), {e["cell"]: e["why"] for e in data["failed"]}
    # where there is an axis the last of each remains: videos at the axis' last value
    cells = {(c["seed"], c["prompt"], c["strategy"]): c for c in plan["cells"]}
    values = {c["address"]: c["values"].get(plan["primary"]) for c in data["cells"]}
    most = max(1, min(SCENES, MOST // len(looks)))
    prompts = min(most, len(plan["scripts"]))
    inner_folder(to)
    out_scenes, names = [], set()
    for seed, prompt in product(range(min(max(1, most // prompts), len(plan["seeds"]))), range(prompts)):
        tiles, script = [], None
        for name, look in looks.items():
            cell = cells[seed, prompt, name]
            address = cell["address"]
            tile: Json = {"series": look.number, "src": None, "value": values.get(address)}
            video = store.video(address)
            if video is not None:
                script = script or _script(store.record(address))
                tile["src"] = f"videos/{address}.mp4"
                names.add(f"{address}.mp4")
                _link(video, to / f"{address}.mp4")
            else:
                tile["why"] = why.get(address, "its video is gone" if store.done(address) else "not rolled out yet")
            tiles.append(tile)
        if script is not None:
            scene = {"prompt": prompt, "seed": plan["seeds"][seed], "text": _text(plan, cell), "tiles": tiles}
            out_scenes.append(scene | script)
    for old in to.iterdir():
        if old.suffix == ".mp4" and old.name not in names:
            old.unlink()
    return out_scenes


def _text(plan: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """The script of a cell."""
    scripts = plan["scripts"] if cell.get("axis") is None else plan["axis"]["scripts"][cell["axis"]]
    return str(scripts[cell["prompt"]])


def _script(record: RunRecord) -> Json:
    """A rollout's shots on the clock: seconds, and latent frames."""
    script, prefix = record.script, record.prefix
    first = script.shots[0]
    block = (first.frames[1] - first.frames[0]) // first.blocks
    true = (prefix.blocks or 0) * block if isinstance(prefix, PrefixRecord) else 0
    return {
        "fps": script.fps,
        "frames": record.frames,
        "block": block * script.stride / script.fps,
        "given": (script.stride * (true - 1) + 1) / script.fps if true else 0,
        "shots": [{k: getattr(shot, k) for k in ("prompt", "begin", "end", "cut", "frames")} for shot in script.shots],
    }


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no such thing. Raises OutputError."""
    if target.exists() and target.samefile(source):
        return

    def put(partial: Path) -> None:
        partial.unlink(missing_ok=True)
        link_or_copy(source, partial)

    write_whole(target, put)


def size(path: Path) -> tuple[int, int]:
    """A video's width and height. Raises OutputError."""
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            return int(stream.width), int(stream.height)
    except (OSError, av.FFmpegError, IndexError) as error:
        raise OutputError(f"{path} cannot be read as a video: {error}. Run the suite again.") from error


def events(scene_list: list[Json]) -> list[Json]:
    """Prompt changes and cuts, where all scenes have them at the same time: kind, latent frame, second."""
    event_lists = [
        [
            {"kind": "cut" if shot["cut"] else "switch", "frame": shot["frames"][0], "s": shot["begin"]}
            for shot in scene["shots"][1:]
        ]
        for scene in scene_list
    ]
    return event_lists[0] if event_lists and all(other == event_lists[0] for other in event_lists) else []
