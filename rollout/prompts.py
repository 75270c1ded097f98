"""Files of prompts: one script a line, or JSON lines with the latent frames at which prompts change. Pure, without torch.

A line of a .jsonl is {"prompts": ["a cat", "a dog"]}, as LongLive's interactive examples are (arXiv 2509.22622), whose
configuration says apart from them when prompts change and how long the video is; here that stands in the line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from rollout.backend import Spec
from rollout.errors import RolloutError, ScriptError
from rollout.script import Script, Shot, bare
from rollout.text import cause

__all__ = ["ACCEPTED", "MOST", "Line", "Sequel", "read_prompts"]

MOST = 64 * 2**20
"""Bytes of a file of prompts; more is another file."""
ACCEPTED = (
    'Write {"prompt": "..."} or {"prompts": ["...", "..."]}, and with it "durations": [SECONDS, ...], one a prompt, or '
    '"switch_frame_indices": [FRAME, ...], the latent frames at which the next prompt begins, and "num_output_frames", '
    "the latent frames in all"
)
"""What a line of a .jsonl may be."""


class Sequel(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a .jsonl: prompts as they are, without escapes; times in seconds, or in latent frames after a prefix.

    Where no length is said a prompt lasts as long as one of a script without a duration.
    """

    prompt: str | None = None
    prompts: tuple[str, ...] | None = None
    prompts_list: tuple[str, ...] | None = None
    """As LongLive's code calls them."""
    durations: tuple[float, ...] | None = None
    switch_frame_indices: tuple[int, ...] | str | None = None
    """A text, "48, 96", is as LongLive's configuration has it."""
    num_output_frames: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts. Raises ScriptError unless there is one list of them."""
        lists: list[tuple[str, ...]] = [] if self.prompt is None else [(self.prompt,)]
        lists += [texts for texts in (self.prompts, self.prompts_list) if texts is not None]
        if len(lists) != 1 or not lists[0]:
            raise ScriptError(f"a line has prompts once. {ACCEPTED}.")
        return lists[0]

    @property
    def switches(self) -> tuple[int, ...] | None:
        """The latent frames at which prompts change. Raises ScriptError for a text that is no list of numbers."""
        if not isinstance(self.switch_frame_indices, str):
            return self.switch_frame_indices
        words = self.switch_frame_indices.replace(",", " ").split()
        if not all(word.isdecimal() and len(word) < 10 for word in words):
            raise ScriptError(f"switch_frame_indices is {self.switch_frame_indices[:60]!r}. Write [48, 96].")
        return tuple(map(int, words))

    def check(self) -> None:
        """Raise ScriptError for what does not go together, whatever the model."""
        texts, switches, frames = self.texts, self.switches, self.num_output_frames
        if self.durations is not None:
            if switches is not None or frames is not None:
                raise ScriptError("a line has durations or latent frames, not both. Leave one out.")
            if len(self.durations) != len(texts):
                raise ScriptError(
                    f"there are {len(self.durations)} durations for {len(texts)} prompts. Give one a prompt."
                )
        elif switches is None and frames is not None and len(texts) > 1:
            raise ScriptError("num_output_frames does not say when prompts change. Add switch_frame_indices.")
        elif switches is not None and len(switches) != len(texts) - 1:
            raise ScriptError(
                f"there are {len(switches)} switch_frame_indices for {len(texts)} prompts. Give one for every prompt but the "
                "first."
            )
        bounds = (0, *(switches or ()), *(() if frames is None else (frames,)))
        if any(begin >= end for begin, end in pairwise(bounds)):
            raise ScriptError(
                f"the latent frames {', '.join(map(str, bounds))} do not rise. Give them in order, from 1 on."
            )
        _script(texts, [None] * len(texts) if self.durations is None else self.durations)

    def script(self, spec: Spec) -> Script:
        """The script on a model's clock. Raises ScriptError for frames that are no whole blocks."""
        texts, switches = self.texts, self.switches
        if self.durations is not None:
            return _script(texts, self.durations)
        if switches is None and self.num_output_frames is None:
            return _script(texts, [None] * len(texts))
        bounds = [0, *(switches or ())] + ([] if self.num_output_frames is None else [self.num_output_frames])
        for frame in bounds:
            if frame % spec.block:
                near = {frame - frame % spec.block, frame - frame % spec.block + spec.block} - {0}
                raise ScriptError(
                    f"latent frame {frame} is no boundary of blocks of {spec.block} frames. Use "
                    f"{' or '.join(map(str, sorted(near)))}."
                )
        seconds = [(end - begin) * spec.stride / spec.fps for begin, end in pairwise(bounds)]
        return _script(texts, [*seconds, None][: len(texts)])


def _script(texts: Sequence[str], seconds: Sequence[float | None]) -> Script:
    return Script(tuple(Shot(text, length) for text, length in zip(texts, seconds, strict=True)))


@dataclass(frozen=True)
class Line:
    """A line of a file of prompts: a script's text, or a sequel; it stands in line `number`, counted from 1."""

    path: Path
    number: int
    content: str | Sequel

    def text(self, spec: Spec) -> str:
        """The script. Raises ScriptError that names file and line."""
        try:
            return self.content if isinstance(self.content, str) else str(self.content.script(spec))
        except ScriptError as error:
            raise self.refusal(error) from error

    def refusal(self, error: RolloutError) -> RolloutError:
        """An error of the same kind that names file and line, and points where it did."""
        named = type(error)(f"{self.path}:{self.number}: {error}")
        named.__dict__ |= error.__dict__
        return named


def read_prompts(path: Path) -> list[Line]:
    """The lines of a file: of a .jsonl JSON objects (see Sequel), of any other scripts; blank ones and # comments are skipped.

    Raises ScriptError that names file and line.
    """
    lines = list(_lines(path))
    if not lines:
        raise ScriptError(f"{path} holds no prompts. Write one script a line.")
    for line in lines:
        try:
            if isinstance(line.content, str):
                _check_prose(line.content)
            else:
                line.content.check()
        except ScriptError as error:
            raise line.refusal(error) from error
    return lines


def _check_prose(text: str) -> None:
    """Raise ScriptError for what is no script, and for one prompt with a ';' that nothing but its ';' says is a script."""
    script = Script.parse(text)
    (first, *others) = script.shots
    if first.subtitle and first.seconds is None and not others:
        raise ScriptError(
            "a prompt without a duration has a ';', and what follows it would be a subtitle. Write '\\;' for a semicolon, or "
            "the prompt's duration, such as [5s], before the ';'.",
            text,
            bare(text).index(";"),
        )


def _lines(path: Path) -> Iterator[Line]:
    as_json = path.suffix.lower() == ".jsonl"
    for number, row in enumerate(_read(path).split("\n"), 1):  # no other character ends a line of JSON
        text = row.strip()
        if not text or text.startswith("#"):
            continue
        if not as_json and text.startswith('{"'):
            raise ScriptError(f"{path}:{number}: this line is JSON. Call the file .jsonl.")
        yield Line(path, number, _sequel(path, number, text) if as_json else text)


def _read(path: Path) -> str:
    """A text file, its lines ended as any system does."""
    try:
        if not path.is_file():
            raise ScriptError(f"the prompts {path} are not a file. Give one with a script a line, or a .jsonl.")
        if path.stat().st_size > MOST:
            raise ScriptError(f"{path} has more than {MOST // 2**20} MiB. Give a file of prompts.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ScriptError(f"the prompts {path} cannot be read: {cause(error)}. Give a text file in UTF-8.") from error


def _sequel(path: Path, number: int, text: str) -> Sequel:
    try:
        data: Any = msgspec.json.decode(text)
        return msgspec.convert(data, Sequel)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ScriptError(f"{path}:{number}: {cause(error)}. {ACCEPTED}.") from error
