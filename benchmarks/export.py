"""Runs as other tools want them: VBench's and VBench-Long's layouts of videos (arXiv 2311.17982), pictures, tables."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.benchmarks.metrics.video import LONG
from rollout.benchmarks.plan import read_plan
from rollout.benchmarks.replacing import replacing
from rollout.benchmarks.run_tables import tables_of
from rollout.benchmarks.store import Store
from rollout.errors import OutputError
from rollout.files import inside, link_or_copy, write_text
from rollout.run.record import RunFolder
from rollout.run.video import frames_in, video_fps
from rollout.script import Script

__all__ = ["export_frames", "export_tables", "export_vbench"]

BYTES = 240
"""Of a file's name without number and ending: file systems take 255 bytes, whatever the letters."""
STRATEGY, PROMPT = 80, 150
"""Letters of a name, which people read."""
PROMPTS = "prompts.json"
ENDINGS: dict[int, tuple[str, ...]] = {2: (".mp4", ".csv", ".jsonl", ".tex"), 3: (".png",)}
"""What an export's files end in, by how deep they lie."""


@dataclass(frozen=True)
class Clip:
    """A finished video: its strategy's name, its first prompt, and its model in words and by its weights."""

    path: Path
    strategy: str
    prompt: str
    model: str
    weights: tuple[str, str]
    """Backend, and what tells its weights from others."""


def export_vbench(folders: Sequence[Path], out: Path, *, long: bool = False, force: bool = False) -> dict[str, int]:
    """Write OUT/STRATEGY/PROMPT-N.mp4 for VBench's `custom_input`, or `long_custom_input` of VBench-Long; videos a strategy.

    VBench also gets OUT/STRATEGY/prompts.json, {file: prompt}, for `--prompt_file`; VBench-Long takes none and cuts its
    clips itself. A prompt of several shots goes by its first; VBench judges a video by one. Videos of several models are
    kept apart, as OUT/STRATEGY-MODEL. Folders' names need no quotes in a shell. OUT appears whole or not at all;
    with `force` it replaces an earlier export.
    Raises OutputError, also for videos of 5 s and more that are not for VBench-Long.
    """
    groups = _groups(_all_clips(folders))
    for members in groups.values():
        for clip in members:
            _check(clip.path, long)
    with replacing(out, "export", _foreign, force=force) as partial:
        for name, members in groups.items():
            folder = partial / name
            folder.mkdir()
            files = _files(members)
            for file, clip in files.items():
                link_or_copy(clip.path, folder / file)
            if not long:
                prompts = {file: clip.prompt for file, clip in files.items()}
                write_text(folder / PROMPTS, json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")
    return {name: len(members) for name, members in groups.items()}


def export_frames(folders: Sequence[Path], out: Path, *, every: int = 1, force: bool = False) -> dict[str, int]:
    """Write OUT/STRATEGY/PROMPT-N/000000.png, each `every`-th frame in the model's own size; pictures a strategy.

    The name is the frame's number in the video, from 0. OUT appears whole or not at all; with `force` it replaces an earlier
    export. Raises OutputError.
    """
    from PIL import Image

    groups = _groups(_all_clips(folders))
    counts: dict[str, int] = {}
    with replacing(out, "export", _foreign, force=force) as partial:
        for name, members in groups.items():
            counts[name], names = 0, Names()
            for clip in members:
                place = partial / name / names.new(_unquoted(clip.prompt, PROMPT), "{}-{}", 0, always=True)
                place.mkdir(parents=True)
                for number, frame in enumerate(sample_of_run(clip.path.parent).frames()):
                    if number % every == 0:
                        Image.fromarray(frame).save(place / f"{number:06d}.png")
                        counts[name] += 1
    return counts


def export_tables(
    folders: Sequence[Path], out: Path, formats: Sequence[str], *, force: bool = False
) -> dict[str, list[str]]:
    """Write the tables of benchmark runs, OUT/RUN/cells.csv and so on: the files of each run.

    `formats`: of csv, jsonl and latex. OUT appears whole or not at all; with `force` it replaces an earlier export. Raises
    OutputError, also for a folder that is no benchmark run.
    """
    texts: dict[str, dict[str, str]] = {}
    names = Names()
    for folder in dict.fromkeys(path.resolve() for path in folders):
        if not (folder / "plan.json").is_file():
            raise OutputError(
                f"{folder} is no benchmark run, so that it has no table. 'rollout score --json' has the figures of a run."
            )
        texts[names.new(_unquoted(folder.name, STRATEGY), "{}-{}", 2)] = tables_of(folder, formats)
    with replacing(out, "export", _foreign, force=force) as partial:
        for name, files in texts.items():
            (partial / name).mkdir()
            for file, text in files.items():
                write_text(partial / name / file, text)
    return {name: list(files) for name, files in texts.items()}


def _all_clips(folders: Sequence[Path]) -> list[Clip]:
    """The videos of all folders, each once. Raises OutputError where there is none, or one of them is gone."""
    clips = list({clip.path.resolve(): clip for folder in folders for clip in _clips(folder)}.values())
    if not clips:
        raise OutputError(f"there is no video in {', '.join(map(str, folders))}. Give folders of finished runs.")
    for clip in clips:
        if not clip.path.is_file():
            raise OutputError(f"{clip.path.parent} has no {clip.path.name}. Make the run again, or leave it out.")
    return clips


def _check(path: Path, long: bool) -> None:
    """Raise OutputError for what is no video, or one that VBench itself would score by VBench-Long."""
    seconds = frames_in(path) / video_fps(path)
    if not seconds:
        raise OutputError(f"{path} holds no whole frame. Make the run again, or leave it out.")
    if seconds >= LONG and not long:
        raise OutputError(
            f"{path} lasts {seconds:.1f} s, and VBench scores videos of {LONG:g} s and more by VBench-Long, in clips. "
            "Use --format vbench-long."
        )


def _clips(folder: Path) -> Iterator[Clip]:
    """The videos of a benchmark run, of one rollout, or of the rollouts in a folder."""
    if (folder / "plan.json").is_file():
        plan, store = read_plan(folder), Store(folder)
        backend = plan.backend
        model = _model(backend.name, backend.options.get("model"))
        for cell in plan.cells:
            if store.done(cell.address):
                prompt = Script.parse(plan.script_of(cell)).prompts[0]
                path = inside(store.folder(cell.address) / "video.mp4", folder)
                yield Clip(path, cell.strategy, prompt, model, (backend.name, backend.weights or model))
        return
    runs = sorted(path.parent for path in folder.glob(f"*/{RunFolder.FILE}"))
    if runs and not (folder / RunFolder.FILE).exists():
        for run in runs:
            yield from _clips(inside(run, folder))
        return
    record = RunFolder.open(folder).record
    name, model = record.backend.name, _model(record.backend.name, record.backend.options.get("model"))
    prompt = record.script.shots[0].prompt
    path = inside(folder / "video.mp4", folder)
    yield Clip(path, str(record.strategy), prompt, model, (name, record.backend.weights or model))


def _model(backend: str, model: object) -> str:
    """A backend and its weights in words: "wan self-forcing" for a folder of that name."""
    return f"{backend} {Path(model).name.removesuffix('.safetensors')}" if isinstance(model, str) else backend


def _groups(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The videos by the folder that they go to: one a strategy, and of several models one a strategy and model."""
    several = len({clip.weights for clip in clips}) > 1
    members: dict[tuple[str, ...], list[Clip]] = {}
    for clip in clips:
        members.setdefault((clip.strategy, *(clip.weights if several else ())), []).append(clip)
    names = Names()
    return {names.new(_label(group[0], several), "{}-{}", 2): group for group in members.values()}


def _label(clip: Clip, several: bool) -> str:
    return _unquoted(f"{clip.strategy} {clip.model}" if several else clip.strategy, STRATEGY)


def _files(clips: Sequence[Clip]) -> dict[str, Clip]:
    """The videos of a folder by name: the prompt, and a number from 0 where several have it."""
    names = Names()
    return {names.new(_plain(clip.prompt, PROMPT), "{}-{}.mp4", 0, always=True): clip for clip in clips}


class Names:
    """Names that differ also where a file system tells no capitals from small letters."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._taken: set[str] = set()

    def new(self, stem: str, numbered: str, first: int, *, always: bool = False) -> str:
        """The stem, or `numbered` with stem and the next number from `first` where that is taken, or `always`."""
        key, name = stem.casefold(), stem
        while always or name.casefold() in self._taken:
            number = self._numbers.get(key, first)
            self._numbers[key] = number + 1
            name = numbered.format(stem, number)
            if name.casefold() not in self._taken:
                break
        self._taken.add(name.casefold())
        return name


def _plain(name: str, most: int) -> str:
    """A name that every file system takes: at most so many letters, and as many bytes as leave room for a number."""
    words = re.sub(r"[^\w .,+=-]+", "_", name).strip(" .")[:most]
    return words.encode()[:BYTES].decode(errors="ignore").strip(" .") or "_"


def _unquoted(name: str, most: int) -> str:
    """As _plain, and without anything that a shell takes for more than a letter."""
    return _plain(re.sub(r"[^\w.+=,]+", "-", name).strip("-.+=,"), most).replace(" ", "-")


def _foreign(folder: Path) -> Path | None:
    """The first path in a folder that no export writes."""
    for path in sorted(folder.rglob("*")):
        depth = len(path.relative_to(folder).parts)
        if path.is_symlink() or (depth == 1 and not path.is_dir()):
            return path
        if path.is_file() and path.name != PROMPTS and path.suffix not in ENDINGS[min(depth, 3)]:
            return path
    return None
