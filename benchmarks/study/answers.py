"""A study's key and raters' answers, read back; whatever is wrong with a file is said in one line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rollout.benchmarks.study.build import KEY
from rollout.benchmarks.study.order import SEEDS, Showing, showings
from rollout.benchmarks.study.questions import HIGHEST, LOWEST, PREFERENCES
from rollout.documents import read_json
from rollout.errors import OutputError
from rollout.text import Json, cause

__all__ = ["Answer", "Key", "Rater", "read_answers", "read_key"]

MOST = 16 * 2**20
"""Bytes of a key, or of a rater's answers."""
ANSWERS = "video study answers 1"
T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """A pair of the key: two videos by name, what is asked about them, and the number of their script and seed."""

    a: str
    b: str
    questions: str
    scene: int


@dataclass(frozen=True)
class Key:
    """What tells names from strategies. `strategies` are by video, `questions` the names and texts by kind."""

    study: str
    repeats: int
    pairs: tuple[Shown, ...]
    strategies: Mapping[str, str]
    questions: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a rater said of one showing: ratings of `a` and of `b` by question; `preference` is 1 for a, -1 for b, or 0."""

    showing: Showing
    ratings: Mapping[str, tuple[int, int]]
    preference: int
    seconds: int


@dataclass(frozen=True)
class Rater:
    """One rater's answers, in the order in which they were given."""

    name: str
    seed: int
    answers: tuple[Answer, ...]


class _Wrong(Exception):
    """What is wrong inside a file."""


def read_key(path: Path) -> Key:
    """The key.json of a study, or of its folder. Raises OutputError."""
    file = path / "key.json" if path.is_dir() else path
    try:
        data = _object(_json(file), KEY, "a study's key.json")
        kinds = _get(data, "questions", dict)
        questions = {kind: {_get(q, "name", str): _get(q, "text", str) for q in items} for kind, items in kinds.items()}
        videos = {name: _get(video, "strategy", str) for name, video in _get(data, "videos", dict).items()}
        pairs = [
            Shown(_get(p, "a", str), _get(p, "b", str), _get(p, "questions", str), _get(p, "scene", int))
            for p in _get(data, "pairs", list)
        ]
        repeats = _get(data, "repeats", int)
        complete = all(p.a in videos and p.b in videos and p.questions in questions for p in pairs)
        if (
            not complete
            or not 0 <= repeats <= len(pairs)
            or {p.scene for p in pairs} - set(range(len(pairs)))
            or not pairs
        ):
            raise _Wrong("its pairs do not fit together")
        return Key(_get(data, "study", str), repeats, tuple(pairs), videos, questions)
    except (_Wrong, TypeError, AttributeError) as error:
        raise OutputError(
            f"{file} is no key of a study: {error}. Give the key.json that 'study build' wrote."
        ) from error


def read_answers(paths: Sequence[Path], key: Key) -> list[Rater]:
    """Every rater's file; one rater comes once. Raises OutputError."""
    raters: dict[str, tuple[Path, Rater]] = {}
    for path in paths:
        try:
            rater_read = _rater(_json(path), key)
        except _Wrong as error:
            raise OutputError(f"{path}: {error}. Leave the file out, or ask for it again.") from error
        for other, earlier in raters.values():
            if earlier.name.casefold() == rater_read.name.casefold():
                raise OutputError(f"{path} and {other} are both of the rater {rater_read.name!r}. Leave one out.")
            if earlier.seed == rater_read.seed:
                raise OutputError(f"{path} and {other} have the same seed: one is a copy of the other. Leave it out.")
        raters[rater_read.name] = path, rater_read
    return [rater for _, rater in raters.values()]


def _json(path: Path) -> Any:
    try:
        return read_json(path, object, most=MOST)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {cause(error)}. Give a file that is there.") from error
    except ValueError as error:
        raise _Wrong(f"it is not whole JSON ({cause(error)})") from error


def _object(data: Any, kind: str, subject: str) -> Json:
    if not isinstance(data, dict) or data.get("format") != kind:
        raise _Wrong(f"it is not {subject}")
    return data


def _get(data: Any, name: str, kind: type[T]) -> T:
    if not isinstance(data, dict) or name not in data:
        raise _Wrong(f"it lacks {name!r}")
    value = data[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Wrong(f"its {name!r} is {json.dumps(value)[:40]}")
    return value


def _rater(data: Any, key: Key) -> Rater:
    data = _object(data, ANSWERS, "the answers of a rater")
    if _get(data, "study", str) != key.study:
        raise _Wrong(f"it answers the study {data['study'][:20]!r} and the key is of {key.study!r}")
    name, seed = _get(data, "rater", str).strip(), _get(data, "seed", int)
    if not name:
        raise _Wrong("its rater has no name")
    if not 0 < seed < SEEDS:
        raise _Wrong(f"its seed is {str(seed)[:20]}, not within 1 and {SEEDS - 1}")
    order, shown_order = showings(len(key.pairs), key.repeats, seed), _get(data, "showings", list)
    if len(shown_order) != len(order):
        raise _Wrong(f"it has {len(shown_order)} showings and the study has {len(order)}")
    return Rater(
        name, seed, tuple(_answer(one, n, s, key) for n, (one, s) in enumerate(zip(shown_order, order, strict=True), 1))
    )


def _answer(data: Any, number: int, showing: Showing, key: Key) -> Answer:
    pair = key.pairs[showing.pair]
    try:
        sides = _get(data, "left", str), _get(data, "right", str)
        if any(video not in key.strategies for video in sides):
            raise _Wrong("its videos are not in the key")
        if sides != ((pair.b, pair.a) if showing.swapped else (pair.a, pair.b)):
            raise _Wrong("its videos are not those that its seed draws here")
        ratings, questions = _get(data, "ratings", dict), key.questions[pair.questions]
        if set(ratings) != set(questions):
            raise _Wrong(
                f"it answers {', '.join(sorted(ratings)) or 'nothing'}, and is asked {', '.join(sorted(questions))}"
            )
        both = {name: (_rating(ratings[name], "left"), _rating(ratings[name], "right")) for name in questions}
        preference, seconds = _get(data, "preference", str), _get(data, "seconds", int)
        if preference not in PREFERENCES:
            raise _Wrong(f"its 'preference' is {preference[:20]!r}, not one of {', '.join(PREFERENCES)}")
        if seconds < 0:
            raise _Wrong("its 'seconds' are below 0")
    except _Wrong as error:
        raise _Wrong(f"showing {number}: {error}") from error
    toward_a = {"left": 1, "right": -1, "same": 0}[preference] * (-1 if showing.swapped else 1)
    by_side = {name: values[::-1] if showing.swapped else values for name, values in both.items()}
    return Answer(showing, by_side, toward_a, seconds)


def _rating(data: Any, side: str) -> int:
    value = _get(data, side, int)
    if not LOWEST <= value <= HIGHEST:
        raise _Wrong(f"its rating {str(value)[:20]} is not within {LOWEST} and {HIGHEST}")
    return value
