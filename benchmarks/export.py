"""A run's videos in the layouts that VBench's own tools read (arXiv 2311.17982): VBench's, and VBench-Long's."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.benchmarks.metrics.video import LONG
from rollout.benchmarks.plan import read_plan
from rollout.benchmarks.store import Store
from rollout.errors import OutputError
from rollout.files import link_or_copy, new_folder, write_text
from rollout.run.record import RunFolder
from rollout.run.video import frames_in, video_fps
from rollout.script import Script

__all__ = ["export_vbench"]


def export_vbench(folders: Sequence[Path], out: Path, *, long: bool = False) -> dict[str, int]:
    """Write OUT/STRATEGY/PROMPT-N.mp4 for VBench's `custom_input`, or `long_custom_input` of VBench-Long; videos a strategy.

    VBench also gets OUT/STRATEGY/prompts.json, {file: prompt}, for `--prompt_file`; VBench-Long takes none and cuts its
    clips itself. A prompt of several shots goes by its first; VBench judges a video by one. Raises OutputError, also for
    videos of 5 s and more that are not for VBench-Long.
    """
    videos = [video for folder in folders for video in _videos(folder)]
    if not videos:
        raise OutputError(f"there is no video in {', '.join(map(str, folders))}. Give folders of finished runs.")
    if not long:
        _refuse_long(videos)
    new_folder(out)
    prompts: dict[str, dict[str, str]] = {}
    for strategy, prompt, path in videos:
        videos_by_prompt = prompts.setdefault(_plain(strategy), {})
        folder = out / _plain(strategy)
        folder.mkdir(exist_ok=True)
        stem, number = _plain(prompt, most=150), 0
        while f"{stem}-{number}.mp4" in videos_by_prompt:
            number += 1
        videos_by_prompt[f"{stem}-{number}.mp4"] = prompt
        target = folder / f"{stem}-{number}.mp4"
        link_or_copy(path, target)
    for name, videos_by_prompt in prompts.items() if not long else ():
        write_text(out / name / "prompts.json", json.dumps(videos_by_prompt, indent=1, ensure_ascii=False) + "\n")
    return {name: len(videos_by_prompt) for name, videos_by_prompt in prompts.items()}


def _refuse_long(videos: Sequence[tuple[str, str, Path]]) -> None:
    """Raise OutputError for a video that VBench itself would score by VBench-Long."""
    for _, _, path in videos:
        seconds = frames_in(path) / video_fps(path)
        if seconds >= LONG:
            raise OutputError(
                f"{path} lasts {seconds:.1f} s, and VBench scores videos of {LONG:g} s and more by VBench-Long, in clips. "
                "Use --format vbench-long."
            )


def _videos(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Strategy, first prompt and file of every video of a benchmark run or of one rollout."""
    if (folder / "plan.json").is_file():
        plan, store = read_plan(folder), Store(folder)
        for cell in plan.cells:
            if store.done(cell.address):
                prompt = Script.parse(plan.script_of(cell)).prompts[0]
                yield cell.strategy, prompt, store.folder(cell.address) / "video.mp4"
        return
    record = RunFolder.open(folder).record
    yield str(record.strategy), record.script.shots[0].prompt, folder / "video.mp4"


def _plain(name: str, most: int = 80) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w .,+=-]+", "_", name).strip(" .")[:most] or "_"
