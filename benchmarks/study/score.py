"""What raters' answers come to: means, preferences, agreement, and how far raters agree with themselves."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.statistics import Crossed, Interval
from rollout.benchmarks.study.agreement import ordinal_alpha
from rollout.benchmarks.study.answers import Key, Rater, read_answers, read_key
from rollout.text import Json

__all__ = ["score", "score_study"]

Grid = NDArray[np.float64]
"""(raters, pairs); NaN where there is no answer."""
LEAST = 6
"""Answers, or raters, or scenes, below which a bootstrap is no interval."""


def score_study(answers: Sequence[Path], key: Path) -> Json:
    """Score answer files under a study's key. Raises OutputError."""
    key_data = read_key(key)
    return score(read_answers(answers, key_data), key_data)


def score(raters: Sequence[Rater], key: Key) -> Json:
    """The figures as JSON; repeated pairs count for consistency alone."""
    scenes = [pair.scene for pair in key.pairs]
    bootstrap = Crossed(len(raters), scenes)
    few = len(raters) * len(set(scenes)) < LEAST
    ratings, preferences = _grids(raters, key)
    names = list(dict.fromkeys(key.strategies[video] for pair in key.pairs for video in (pair.a, pair.b)))
    sides = [(key.strategies[pair.a], key.strategies[pair.b]) for pair in key.pairs]
    meeting = [(a, b) for a, b in combinations(names, 2) if {(a, b), (b, a)} & set(sides)]
    units = {name: np.concatenate([grid[..., 0], grid[..., 1]], 1) for name, grid in ratings.items()}
    return {
        "study": key.study,
        "questions": {name: text for questions in key.questions.values() for name, text in questions.items()},
        "strategies": names,
        "means": {
            question: {name: _told(bootstrap.interval(_of(grid, sides, name)), few) for name in names}
            for question, grid in ratings.items()
        },
        "pairs": [_meeting(bootstrap, a, b, sides, ratings, preferences) for a, b in meeting],
        "agreement": {name: _alpha(grid) for name, grid in (units | {"preference": preferences}).items()},
        "repeats": _consistency([_repeats(rater) for rater in raters]),
        "raters": [_rater(rater) for rater in raters],
        "notes": _notes(raters, key),
    }


def _grids(raters: Sequence[Rater], key: Key) -> tuple[dict[str, NDArray[np.float64]], Grid]:
    """Ratings (raters, pairs, 2) of a and of b by question, and preferences, from the first showings."""
    shape = len(raters), len(key.pairs)
    ratings = {name: np.full((*shape, 2), np.nan) for questions in key.questions.values() for name in questions}
    preferences = np.full(shape, np.nan)
    for row, rater in enumerate(raters):
        for answer in rater.answers:
            if answer.showing.again:
                continue
            preferences[row, answer.showing.pair] = answer.preference
            for name, both in answer.ratings.items():
                ratings[name][row, answer.showing.pair] = both
    return ratings, preferences


def _of(grid: NDArray[np.float64], sides: Sequence[tuple[str, str]], name: str) -> Grid:
    """The ratings of one strategy's videos: a strategy is on one side of a pair, or on none."""
    columns = [grid[:, n, s.index(name)] if name in s else np.full(len(grid), np.nan) for n, s in enumerate(sides)]
    return np.stack(columns, 1)


def _told(interval_found: Interval | None, few: bool = False) -> Json | None:
    """As JSON; a bootstrap of few is no interval."""
    return None if interval_found is None else _bare(interval_found.to_dict(), few)


def _bare(data: Json, few: bool = False) -> Json:
    return data | {"low": None, "high": None} if few or data["n"] < LEAST else data


def _meeting(
    bootstrap: Crossed,
    a: str,
    b: str,
    sides: Sequence[tuple[str, str]],
    ratings: Mapping[str, NDArray[np.float64]],
    preferences: Grid,
) -> Json:
    """Two strategies where they met: how often either was preferred, and by how much a's ratings are higher."""
    met = np.array([{a, b} == set(pair) for pair in sides])
    sign = np.array([1 if pair[0] == a else -1 for pair in sides])
    toward = np.where(met, preferences * sign, np.nan)
    shares = {
        choice: _told(bootstrap.interval(np.where(np.isfinite(toward), toward == value, np.nan)))
        for choice, value in (("prefers_a", 1), ("same", 0), ("prefers_b", -1))
    }
    differences = {}
    for name, grid in ratings.items():
        mine, other = (np.where(met, _of(grid, sides, strategy), np.nan) for strategy in (a, b))
        over = bootstrap.interval(mine - other)
        differences[name] = None if over is None else _bare(over.to_dict() | {"verdict": _verdict(over)})
    return {"a": a, "b": b, **shares, "differences": differences}


def _verdict(difference: Interval) -> str:
    """better, worse, tie (the interval holds 0), or few."""
    if difference.n < LEAST:
        return "few"
    if difference.low <= 0 <= difference.high:
        return "tie"
    return "better" if difference.mean > 0 else "worse"


def _alpha(grid: Grid) -> Json:
    if len(grid) < 2:
        return {"alpha": None, "why": "there is one rater"}
    alpha, why = ordinal_alpha(grid)
    return {"alpha": None if alpha is None else round(alpha, 6), "why": why}


Repeat = tuple[bool, list[int]]
"""Whether a repeated pair had the same preference, and how far each of its ratings was from the first time."""


def _repeats(rater: Rater) -> list[Repeat]:
    first = {answer.showing.pair: answer for answer in rater.answers if not answer.showing.again}
    repeats = []
    for again in rater.answers:
        if again.showing.again:
            before = first[again.showing.pair]
            apart = [
                abs(x - y)
                for name, both in again.ratings.items()
                for x, y in zip(both, before.ratings[name], strict=True)
            ]
            repeats.append((again.preference == before.preference, apart))
    return repeats


def _consistency(raters: Sequence[Sequence[Repeat]]) -> Json:
    """How raters answered pairs that came again: share of the same preference, mean and share within 1 of ratings."""
    repeats = [repeat for rater in raters for repeat in rater]
    apart = [step for _, steps in repeats for step in steps]
    if not repeats:
        return {"n": 0, "same_preference": None, "rating_difference": None, "within_one": None}
    return {
        "n": len(repeats),
        "same_preference": round(float(np.mean([agree for agree, _ in repeats])), 6),
        "rating_difference": round(float(np.mean(apart)), 6),
        "within_one": round(float(np.mean([step <= 1 for step in apart])), 6),
    }


def _rater(rater: Rater) -> Json:
    seconds = float(median(answer.seconds for answer in rater.answers))
    return {"name": rater.name, "seed": rater.seed, "seconds": seconds} | _consistency([_repeats(rater)])


def _notes(raters: Sequence[Rater], key: Key) -> list[str]:
    counts = {"raters": len(raters), "scripts with their seeds": len({pair.scene for pair in key.pairs})}
    return [
        f"{reason}: {count}, so that intervals say little of what others would show"
        for reason, count in counts.items()
        if count < LEAST
    ]
