"""Prompts of a suite: templates filled in evenly and in a fixed order."""

import random
import re
from collections.abc import Iterator, Mapping
from itertools import permutations
from math import perm

from rollout.errors import SuiteError

__all__ = ["draws"]

MOST = 1_000_000
"""Ordered choices of different values that a round goes through."""


def draws(templates: tuple[str, ...], fill: Mapping[str, tuple[str, ...]], count: int) -> Iterator[str]:
    """`count` scripts from templates: {colour} is one of its values, {colour.2} another one, evenly and in a fixed order.

    Values come in shuffled rounds, so that after each round every one (or every ordered pair, ...) was drawn once.
    """
    holes = {m[1] or m[2]: 0 for t in templates for m in re.finditer(r"\{(\w+)\}|\{(\w+)\.\d+\}", t)}
    for template in templates:
        for match in re.finditer(r"\{([^{}]*)\}", template):
            name, _, number = match[1].partition(".")
            if name not in fill or (number and not re.fullmatch(r"[1-9]\d?", number, re.ASCII)):
                raise SuiteError(
                    f"the script {template[:80]!r} has {match[0][:40]}, which [fill] does not have. Add {name[:40]} = [...]."
                )
            holes[name] = max(holes[name], int(number or 1))
    rounds: dict[str, list[tuple[str, ...]]] = {}
    for name, k in holes.items():
        if len(fill[name]) < k:
            raise SuiteError(f"{{{name}.{k}}} needs {k} different values, and [fill] has {len(fill[name])}. Add some.")
        if perm(len(fill[name]), k) > MOST:
            raise SuiteError(
                f"{{{name}.{k}}} can be drawn in {perm(len(fill[name]), k):,} ways; the most are {MOST:,}. Give fewer values."
            )
        rounds[name] = list(permutations(fill[name], k))
    for i in range(count):
        values_drawn: dict[str, tuple[str, ...]] = {}
        for name, values in rounds.items():
            turn, place = divmod(i, len(values))
            order = random.Random(f"{name} {turn}").sample(range(len(values)), len(values))
            values_drawn[name] = values[order[place]]

        def value(match: re.Match[str], values_drawn: dict[str, tuple[str, ...]] = values_drawn) -> str:
            name, _, number = match[1].partition(".")
            return values_drawn[name][int(number or 1) - 1]

        yield re.sub(r"\{([^{}]*)\}", value, templates[i % len(templates)])
