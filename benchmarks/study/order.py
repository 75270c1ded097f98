"""The order and the sides in which one rater sees the pairs, from the seed in the answers; page.js draws the same."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SEEDS", "Showing", "showings"]

SEEDS = 2**32
"""Seeds are 1 .. SEEDS - 1."""


@dataclass(frozen=True)
class Showing:
    """A pair on the screen: its number, whether `b` is on the left, and whether it is shown again."""

    pair: int
    swapped: bool
    again: bool


def showings(pairs: int, repeats: int, seed: int) -> list[Showing]:
    """All pairs in random order and on random sides, then the first `repeats` of them again with sides swapped."""
    draws = uniform(seed)
    order = list(range(pairs))
    for last in range(pairs - 1, 0, -1):
        other = int(next(draws) * (last + 1))
        order[last], order[other] = order[other], order[last]
    first = [Showing(pair, next(draws) < 0.5, False) for pair in order]
    return first + [Showing(s.pair, not s.swapped, True) for s in first[:repeats]]


def uniform(seed: int) -> Iterator[float]:
    """Numbers in [0, 1): xorshift with 32 bits (Marsaglia 2003, doi 10.18637/jss.v008.i14), a few lines in any language."""
    state = seed
    while True:
        state ^= (state << 13) % SEEDS
        state ^= state >> 17
        state ^= (state << 5) % SEEDS
        yield state / SEEDS
