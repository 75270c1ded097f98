"""Where the letters of a chart stand, so that none lies over another."""

from collections.abc import Sequence
from itertools import product

__all__ = ["beside", "spread"]

Spot = tuple[float, float]
AROUND: tuple[Spot, ...] = tuple(
    (dx * r, dy * r) for r, dx, dy in product((11, 17, 24), (1, -1), (-0.8, 0.8, -0.3, 0.3))
)
"""Offsets in pixels of a letter from its point, the usual one first."""
ROOM = 11
"""Pixels that a letter keeps from points and other letters."""


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places in 0..1 at least `gap` apart and as near to those that are wanted as a sweep up and down makes them."""
    spots = list(places)
    for n in range(1, len(spots)):
        spots[n] = max(spots[n], spots[n - 1] + gap)
    limit = 1.0
    for n in reversed(range(len(spots))):
        spots[n] = min(spots[n], limit)
        limit = spots[n] - gap
    return spots


def beside(points: Sequence[Spot]) -> list[Spot]:
    """The offset of each point's letter, in pixels as the points: the first of those around it that is free."""
    letters: list[Spot] = []
    offsets = []
    for x, y in points:
        others = [*points, *letters]

        def crowd(move: Spot, x: float = x, y: float = y, others: Sequence[Spot] = others) -> float:
            near = (max(abs(x + move[0] - a), abs(y + move[1] - b)) for a, b in others)
            return sum(max(0.0, ROOM - distance) for distance in near) + 0.02 * (abs(move[0]) + abs(move[1]))

        offset = min(AROUND, key=crowd)
        letters.append((x + offset[0], y + offset[1]))
        offsets.append(offset)
    return offsets
