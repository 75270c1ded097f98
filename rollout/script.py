"""The prompt script of Infinity-RoPE (arXiv 2511.20649): "walks[5s] | jumps[10s#] ; hello | world" to shots to blocks.

`[Ns]` is a segment's length, `#` inside the brackets a hard cut at the start of that segment, `|` separates segments,
`;` starts the subtitles, one a segment. Durations go to the nearest whole block, half up, at least one. A backslash
before one of `; | [ ]` and itself makes it a character like any other; white space is one space, whatever it is.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rollout.backend import Spec
from rollout.errors import ScriptError

__all__ = [
    "BIDI",
    "DECIMALS",
    "DEFAULT_SECONDS",
    "ESCAPED",
    "LATE",
    "LONGEST",
    "MAX_CHARACTERS",
    "MOST_SECONDS",
    "SHORTEST",
    "Planned",
    "Script",
    "Shot",
    "bare",
    "planned",
]

DEFAULT_SECONDS = 10.5
"""A segment without a duration lasts 14 blocks of Wan, as in the released code."""
LONGEST = 100_000_000
"""Blocks of the longest script; more is a typing error."""
MOST_SECONDS = 1e7
DECIMALS = 6
"""Of a duration in seconds: microseconds."""
SHORTEST = 10**-DECIMALS
MAX_CHARACTERS = 100_000
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Direction overrides, which make a script read otherwise than it is."""
ESCAPED = re.compile(r"\\([;|\[\]\\])")
"""A character of the grammar that stands for itself; a backslash before any other is just that."""
LATE = re.compile(r"\[\s*(?:(?:\d+\.?\d*|\.\d+)\s*(?:s|f|secs?|seconds?)?\s*#?|#)\s*\]", re.ASCII)
"""What can only be meant as a duration: among subtitles it says that the ';' before it belongs to a prompt."""


@dataclass(frozen=True)
class Shot:
    """One segment: its prompt, length in seconds (None: the default), whether it opens with a cut, its subtitle.

    What differs only in white space, or in less than a microsecond, is the same. Raises ScriptError.
    """

    prompt: str
    seconds: float | None = None
    cut: bool = False
    subtitle: str = ""

    def __post_init__(self) -> None:
        for text in (self.prompt, self.subtitle):
            _check_characters(text)
        # as the text form has them, so that a script is what its own text says
        object.__setattr__(self, "prompt", _spaced(self.prompt))
        object.__setattr__(self, "subtitle", _spaced(self.subtitle))
        if not self.prompt:
            raise ScriptError("a segment has no prompt. Write one before its duration.")
        if self.seconds is not None:
            if not 0 < self.seconds <= MOST_SECONDS:
                raise ScriptError(f"a segment of {self.seconds:g} seconds is not within 0 and {MOST_SECONDS:g}.")
            object.__setattr__(self, "seconds", max(SHORTEST, round(float(self.seconds), DECIMALS)))

    @property
    def segment(self) -> str:
        """Its part of a script's text form, without the subtitle."""
        length = "" if self.seconds is None else f"{self.seconds:.{DECIMALS}f}".rstrip("0").rstrip(".") + "s"
        mark = "#" if self.cut else ""
        return f"{_escape(self.prompt)}[{length}{mark}]" if length or mark else _escape(self.prompt)

    def blocks(self, spec: Spec) -> int:
        """The nearest whole number of blocks, half up, at least one."""
        seconds = DEFAULT_SECONDS if self.seconds is None else self.seconds
        return max(1, math.floor(seconds * spec.fps / (spec.block * spec.stride) + 0.5))


@dataclass(frozen=True)
class Script:
    """A list of shots, from `Script.parse` or built by hand."""

    shots: tuple[Shot, ...]

    @classmethod
    def parse(cls, text: str, *, goes_on: bool = False) -> "Script":
        """Read the text form; one that `goes_on` from a history may cut at its start. Raises ScriptError that points."""
        return cls(tuple(_shots(text, goes_on)))

    def __str__(self) -> str:
        """The text form; parsing it gives the same script."""
        body = " | ".join(shot.segment for shot in self.shots)
        if not any(shot.subtitle for shot in self.shots):
            return body
        return f"{body} ; {' | '.join(_escape(shot.subtitle) for shot in self.shots)}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """One prompt a shot."""
        return tuple(shot.prompt for shot in self.shots)

    def count(self, spec: Spec) -> int:
        """Blocks of the whole plan."""
        total = sum(shot.blocks(spec) for shot in self.shots)
        if total > LONGEST:
            raise ScriptError(f"the script asks for {total} blocks; the longest is {LONGEST}. Shorten its durations.")
        return total


@dataclass(frozen=True)
class Planned:
    """A shot as it is rolled out: what was asked, its whole blocks, and its true frames and times."""

    prompt: str
    asked_seconds: float | None
    cut: bool
    subtitle: str
    blocks: int
    frames: tuple[int, int]
    """First latent frame, and the one after the last."""
    begin: float
    """Seconds."""
    end: float


def planned(script: Script, spec: Spec, *, first: int = 0) -> list[Planned]:
    """The plan on a backend's clock; `first` blocks of a prefix belong to the first shot."""
    shots, block = [], 0
    for number, shot in enumerate(script.shots):
        count = shot.blocks(spec) + (first if number == 0 else 0)
        frames = block * spec.block, (block + count) * spec.block
        times = (spec.pixel_frames(frame) / spec.fps for frame in frames)
        shots.append(Planned(shot.prompt, shot.seconds, shot.cut, shot.subtitle, count, frames, *times))
        block += count
    return shots


def _shots(text: str, goes_on: bool) -> Iterator[Shot]:
    if len(text) > MAX_CHARACTERS:
        raise ScriptError(f"the script has {len(text)} characters; the longest is {MAX_CHARACTERS}. Shorten it.")
    _check_characters(text)
    grammar = bare(text)
    semicolon = grammar.find(";")
    body = grammar if semicolon < 0 else grammar[:semicolon]
    pieces = _split(body, 0)
    if not body.strip():
        raise ScriptError("the script is empty. Write a prompt, such as 'a red circle walks right[5s]'.", text, 0)
    subtitles = _subtitles(text, grammar, semicolon, len(pieces))
    for number, ((start, piece), subtitle) in enumerate(zip(pieces, subtitles, strict=True)):
        yield _shot(text, start, piece, subtitle, first=number == 0 and not goes_on)


def bare(text: str) -> str:
    """A script with its escaped characters hidden and all others where they are: what is left of `; | [ ]` is grammar."""
    return ESCAPED.sub("__", text)


def _check_characters(text: str) -> None:
    """Raise ScriptError for a character that does not show, or that makes a text read otherwise than it is."""
    for position, character in enumerate(text):
        hidden = unicodedata.category(character) in ("Cc", "Cs") and not character.isspace()
        if hidden or character in BIDI:
            raise ScriptError(
                f"the script has the control character {character!r} at {position}. Remove it.", text, position
            )


def _escape(text: str) -> str:
    """A prompt or subtitle as a script has it."""
    return re.sub(r"([;|\[\]\\])", r"\\\1", text)


def _spaced(text: str) -> str:
    """Words with one space between them."""
    return " ".join(text.split())


def _plain(text: str, start: int, end: int) -> str:
    """What a stretch of a script says: without escapes, white space as one space."""
    return _spaced(ESCAPED.sub(r"\1", text[start:end]))


def _split(grammar: str, start: int) -> list[tuple[int, str]]:
    pieces, at = [], start
    for piece in grammar.split("|"):
        pieces.append((at, piece))
        at += len(piece) + 1
    return pieces


def _subtitles(text: str, grammar: str, semicolon: int, segments: int) -> Sequence[str]:
    if semicolon < 0:
        return [""] * segments
    late = LATE.search(grammar, semicolon)
    if late:
        raise ScriptError(
            f"the duration {late[0][:30]} stands after ';', where the subtitles are. Write '\\;' for a semicolon in a "
            "prompt, and '\\[' for a bracket in a subtitle.",
            text,
            semicolon,
        )
    second = grammar.find(";", semicolon + 1)
    if second >= 0:
        raise ScriptError(
            "a script has one ';', before its subtitles. Write '\\;' for a semicolon in a prompt or a subtitle.",
            text,
            second,
        )
    pieces = _split(grammar[semicolon + 1 :], semicolon + 1)
    if len(pieces) > segments:
        raise ScriptError(
            f"the script has {len(pieces)} subtitles for {segments} segments. Remove subtitles or add segments; write "
            "'\\;' and '\\|' for characters of a prompt or a subtitle.",
            text,
            pieces[segments][0],
        )
    subtitles = [_plain(text, start, start + len(piece)) for start, piece in pieces]
    return subtitles + [""] * (segments - len(pieces))


def _shot(text: str, start: int, piece: str, subtitle: str, *, first: bool) -> Shot:
    opening, closing = piece.find("["), piece.find("]")
    end, seconds, cut = len(piece), None, False
    if opening >= 0 or closing >= 0:
        if closing < 0:
            raise ScriptError(
                "the '[' is never closed. Write the duration as [5s], or '\\[' for a bracket.", text, start + opening
            )
        if opening < 0 or closing < opening:
            raise ScriptError(
                "there is a ']' without its '['. Write the duration as [5s], or '\\]' for a bracket.",
                text,
                start + closing,
            )
        after = piece[closing + 1 :]
        if after.strip():
            offset = start + closing + 1 + len(after) - len(after.lstrip())
            raise ScriptError(
                "text follows the duration. Put the duration last, and '|' before the next segment; write '\\[' and '\\]' "
                "for brackets.",
                text,
                offset,
            )
        end = opening
        seconds, cut = _duration(text, start + opening + 1, text[start + opening + 1 : start + closing])
    prompt = _plain(text, start, start + end)
    if not prompt:
        raise ScriptError("a segment has no prompt. Write one before its duration.", text, start)
    if first and cut:
        cut = False  # block 0 has nothing to cut from
    return Shot(prompt, seconds, cut, subtitle)


def _duration(text: str, start: int, inside: str) -> tuple[float | None, bool]:
    match = re.fullmatch(r"\s*([^\s#]*?)\s*(s?)\s*(#?)\s*", inside)
    if not match or (not match[1] and not match[3]) or bool(match[1]) != bool(match[2]):
        raise ScriptError(
            f"[{inside[:30]}] is no duration. Write [5s], [2.5s], or [5s#] for a cut, and '\\[' for a bracket.",
            text,
            start,
        )
    if not match[1]:
        return None, True
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", match[1], re.ASCII):
        raise ScriptError(f"{match[1][:30]!r} is no number of seconds. Write [5s] or [2.5s].", text, start)
    seconds = float(match[1])
    if seconds <= 0:
        raise ScriptError("a segment lasts more than 0 seconds.", text, start)
    if seconds > MOST_SECONDS:
        raise ScriptError(
            f"{seconds:g} seconds is longer than a rollout can be ({MOST_SECONDS:g}). Shorten it.", text, start
        )
    return seconds, bool(match[3])
