"""A study as two things: page/, a folder that raters open from disk, and key.json, which stays with the researcher."""

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import av

from rollout import __version__
from rollout.benchmarks.replacing import replacing
from rollout.benchmarks.report import environment
from rollout.benchmarks.study.clips import Clip, Pair, choose, find_clips, find_pairs
from rollout.benchmarks.study.questions import QUESTIONS, Kind
from rollout.documents import parse_json, read_bytes
from rollout.errors import OutputError
from rollout.files import write_text
from rollout.text import Json, cause

__all__ = ["KEY", "WHEN", "build_study"]

HOME = Path(__file__).parent
KEY = "rollout study key 1"
WHEN = 1577836800
"""The date of every video that is handed out, 2020-01-01: a copy's own date could tell one run from another."""
OWN = re.compile(r"page(/index\.html|/videos(/[0-9a-f]{8}\.mp4)?)?|key(-[0-9a-f]{12})?\.json")
"""The paths of a study."""
STUDY = re.compile("[0-9a-f]{12}")
"""A study's name."""
NOTES = {"h264": "filter_units=remove_types=6", "hevc": "filter_units=remove_types=39|40"}
"""FFmpeg's filters that take a codec's free text (SEI) out of its packets."""


@dataclass(frozen=True)
class Built:
    """What a study holds: pairs, how many of them are shown again, how many there could be, and what is left out."""

    page: Path
    key: Path
    pairs: int
    again: int
    possible: int
    seconds: float
    """Seconds of video that a rater watches at least."""
    notes: tuple[str, ...]


def build_study(
    runs: Sequence[Path],
    out: Path,
    *,
    pairs: int = 12,
    repeats: int = 2,
    seed: int = 0,
    questions: Kind | None = None,
    force: bool = False,
) -> Built:
    """Write OUT/page/index.html with its videos under meaningless names, and OUT/key.json; both are there, or neither.

    With `force` an earlier study in OUT gives way, and its key stays beside the new one as key-STUDY.json: without it the
    answers to it would mean nothing. Raises RolloutError.
    """
    clips, notes = find_clips(runs)
    possible, more = find_pairs(clips, questions)
    selection = choose(possible, pairs, seed)
    again = min(repeats, len(selection))
    names = _names(selection, seed)
    data = _data(selection, again, names)
    key = json.dumps(_key(selection, names, data, seed), indent=1, ensure_ascii=False) + "\n"
    with replacing(out, "study", _foreign, force=force) as partial:
        (partial / "page" / "videos").mkdir(parents=True)
        for clip, name in sorted(names.items(), key=lambda pair: pair[1]):
            bare_video(clip.video, partial / "page" / "videos" / f"{name}.mp4")
        write_text(partial / "page" / "index.html", _page(data))
        write_text(partial / "key.json", key)
        for study, text in _keys(out).items():
            if study != data["study"]:
                write_text(partial / f"key-{study}.json", text)
    seconds = sum(_length(pair) for pair in selection) * (1 + again / len(selection))
    return Built(
        out / "page" / "index.html", out / "key.json", len(selection), again, len(possible), seconds, (*notes, *more)
    )


def _foreign(folder: Path) -> Path | None:
    """The first path in a folder that no study writes."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.is_dir() != (name in ("page", "page/videos")) or not OWN.fullmatch(name):
            return path
    return None


def _keys(folder: Path) -> dict[str, str]:
    """The keys in a study's folder by their studies, as text. Raises OutputError for one that cannot be read."""
    keys = {}
    for path in folder.glob("key*.json"):
        try:
            text = read_bytes(path).decode()
            keys[STUDY.fullmatch(parse_json(text)["study"])[0]] = text  # type: ignore[index] # else it raises
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path} is no key of a study, and would be lost: {cause(error)}. Choose another --out."
            ) from error
    return keys


def _names(pairs: Sequence[Pair], seed: int) -> dict[Clip, str]:
    """A name for every clip that is shown, from which nothing follows."""
    draw, names = Random(f"names {seed}"), dict[Clip, str]()
    clips = list(dict.fromkeys(clip for pair in pairs for clip in (pair.a, pair.b)))
    while len(set(names.values())) < len(clips):
        names = {clip: f"{draw.getrandbits(32):08x}" for clip in clips}
    return names


def _data(pairs: Sequence[Pair], again: int, names: Mapping[Clip, str]) -> Json:
    """All that the page knows; its hash is the study's name."""
    kinds = {pair.questions for pair in pairs}
    data = {
        "repeats": again,
        "questions": {kind: [asdict(q) for q in QUESTIONS[kind]] for kind in QUESTIONS if kind in kinds},
        "pairs": [
            {"a": names[pair.a], "b": names[pair.b], "questions": pair.questions} | _timeline(pair.a) for pair in pairs
        ],
    }
    return {"study": sha256(json.dumps(data).encode()).hexdigest()[:12]} | data


def _timeline(clip: Clip) -> Json:
    script = clip.record.script
    shots = [{key: getattr(shot, key) for key in ("prompt", "begin", "end", "cut")} for shot in script.shots]
    return {"fps": script.fps, "frames": clip.record.frames, "shots": shots}


def _length(pair: Pair) -> float:
    line = _timeline(pair.a)
    return float(line["frames"] / line["fps"])


def _key(pairs: Sequence[Pair], names: Mapping[Clip, str], data: Mapping[str, Any], seed: int) -> Json:
    scenes = list(dict.fromkeys(pair.a.scene for pair in pairs))
    return {
        "format": KEY,
        "rollout": __version__,
        "seed": seed,
        **data,
        "pairs": [
            {key: entry[key] for key in ("a", "b", "questions")} | {"scene": scenes.index(pair.a.scene)}
            for pair, entry in zip(pairs, data["pairs"], strict=True)
        ],
        "videos": {
            name: {
                "strategy": clip.name,
                "script": clip.record.script.text,
                "seed": clip.record.seed,
                "run": str(clip.folder),
            }
            for clip, name in names.items()
        },
        "strategies": {clip.name: json.loads(clip.strategy) for clip in names},
    }


def _page(data: Mapping[str, Any]) -> str:
    return environment(HOME).get_template("study.html").render(data=data)


def bare_video(source: Path, target: Path) -> None:
    """Copy a video's pictures alone: no text track, no metadata, no encoder's notes, no date. Raises OutputError."""
    options = {"movflags": "faststart", "fflags": "+bitexact"}
    try:
        with av.open(str(source)) as file, av.open(str(target), "w", format="mp4", options=options) as copy:
            stream = file.streams.video[0]
            bare = copy.add_stream_from_template(stream)
            note = NOTES.get(stream.codec_context.name)
            strip = av.bitstream.BitStreamFilterContext(note, stream) if note else None
            for packet in file.demux(stream):
                content = packet if packet.size else None  # None lets the filter give what it holds back
                for piece in strip.filter(content) if strip else filter(None, [content]):
                    piece.stream = bare
                    copy.mux_one(piece)
        os.utime(target, (WHEN, WHEN))
    except (OSError, av.FFmpegError, IndexError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # nothing is wrong with the video
        raise OutputError(f"{source} cannot be copied: {error}. Is it a whole video?") from error
