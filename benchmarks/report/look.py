"""How strategies look: the same letter, colour, marker and dash in every table, chart and video."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

__all__ = ["FOCUS", "INK", "PAPER", "Look", "looks"]

INK, PAPER = "#010203", "#010204"
"""Stand-ins in charts for the page's colours of text and ground, which follow light and dark."""
TONES = 8
"""Colours besides the baseline's, which is that of the text; then they come again with other markers and dashes."""
MARKERS = "os^DvPX*<>ph"
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6))
FOCUS = 12
"""Strategies that charts and videos show in full; of more, the best ones, and the others when they are chosen."""


@dataclass(frozen=True)
class Look:
    """One strategy's letter and second cues; `tone` numbers its colour, 0 that of the text."""

    number: int
    name: str
    letter: str
    tone: int
    marker: str
    dash: tuple[float, ...]
    quiet: bool

    @property
    def colour(self) -> str:
        """The stand-in of its colour."""
        return f"#0103{self.tone:02x}"

    @property
    def row(self) -> str:
        """The name of its parts in a chart that has a row for each."""
        return f"series-{self.number}"

    @property
    def gid(self) -> str:
        """The name of its parts in charts where they lie over others'."""
        return self.row + ("-quiet" if self.quiet else "")


def looks(plan: Mapping[str, Any], primary: Mapping[str, Any]) -> dict[str, Look]:
    """Every strategy's look, by name; `primary` is the primary metric as summarised."""
    names = list(plan["strategies"])
    others = [name for name in names if name != plan["baseline"]]
    shown = {plan["baseline"], *sorted(others, key=lambda name: _loss(primary, name))[: FOCUS - 1]}
    out = {}
    for number, name in enumerate(names):
        turn = 0 if name == plan["baseline"] else 1 + others.index(name)
        out[name] = Look(
            number=number,
            name=name,
            letter=_letter(number),
            tone=0 if turn == 0 else 1 + (turn - 1) % TONES,
            marker=MARKERS[turn % len(MARKERS)],
            dash=DASHES[(turn + turn // (TONES + 1)) % len(DASHES)],
            quiet=name not in shown,
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
