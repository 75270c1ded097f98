"""How strategies look: the same letter, colour, marker and dash in every table, chart and video."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

__all__ = ["FOCUS", "Look", "looks"]

TONES = 8
"""Colours besides the baseline's, which is that of the text; then they come again with other markers and dashes."""
MARKERS = (
    "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1 -1 0Z",
    "M-.9 -.9H.9V.9H-.9Z",
    "M0 -1.1L1.1 .9H-1.1Z",
    "M0 -1.2L1.2 0L0 1.2L-1.2 0Z",
    "M0 1.1L1.1 -.9H-1.1Z",
    "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "M-.6 -1.1L0 -.5L.6 -1.1L1.1 -.6L.5 0L1.1 .6L.6 1.1L0 .5L-.6 1.1L-1.1 .6L-.5 0L-1.1 -.6Z",
    "M0 -1.4L.33 -.45L1.33 -.43L.53 .17L.82 1.13L0 .56L-.82 1.13L-.53 .17L-1.33 -.43L-.33 -.45Z",
    "M-1.1 0L.9 -1.1V1.1Z",
    "M1.1 0L-.9 -1.1V1.1Z",
    "M0 -1.1L1.05 -.34L.65 .89H-.65L-1.05 -.34Z",
    "M0 -1.1L.95 -.55V.55L0 1.1L-.95 .55V-.55Z",
)
"""SVG paths around 0 0, about 1 in each direction."""
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 2), (8, 3, 2, 3))
FOCUS = 12
"""Strategies that charts and videos show in full; of more, the best ones, and the others when they are chosen."""


@dataclass(frozen=True)
class Look:
    """One strategy's letter and second cues; `tone` numbers its colour, 0 that of the text, `shape` is its marker."""

    number: int
    name: str
    letter: str
    tone: int
    shape: str
    dash: tuple[float, ...]
    quiet: bool

    @property
    def colour(self) -> str:
        """The page's name of its colour, which follows light and dark."""
        return f"var(--s{self.tone})"


def looks(plan: Mapping[str, Any], primary: Mapping[str, Any]) -> dict[str, Look]:
    """Every strategy's look, by name; `primary` is the primary metric as summarised."""
    names = list(plan["strategies"])
    others = [name for name in names if name != plan["baseline"]]
    in_full = {plan["baseline"], *sorted(others, key=lambda name: _loss(primary, name))[: FOCUS - 1]}
    out = {}
    for number, name in enumerate(names):
        turn = 0 if name == plan["baseline"] else 1 + others.index(name)
        out[name] = Look(
            number=number,
            name=name,
            letter=_letter(number),
            tone=0 if turn == 0 else 1 + (turn - 1) % TONES,
            shape=MARKERS[turn % len(MARKERS)],
            dash=DASHES[(turn + turn // (TONES + 1)) % len(DASHES)],
            quiet=name not in in_full,
        )
    return out


def _letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    before, last = divmod(number, len(ascii_uppercase))
    return (_letter(before - 1) if before else "") + ascii_uppercase[last]


def _loss(metric: Mapping[str, Any], name: str) -> float:
    """A mean as what should be small, to sort by."""
    found = metric["means"].get(name)
    if found is None:
        return float("inf")
    mean: float = found["mean"]
    return {"higher": -mean, "one": abs(mean - 1), "zero": abs(mean)}.get(metric["better"], mean)
