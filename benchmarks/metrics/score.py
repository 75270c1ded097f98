"""Score, Curve and Metric: what a metric is and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rollout.benchmarks.metrics.code import digest, worlds
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.benchmarks.metrics.sample import Sample

__all__ = ["ARROWS", "READ", "Better", "Curve", "Metric", "Needs", "Score", "directed"]

Better = Literal["higher", "lower", "one", "zero", "neither"]
"""What is better: a higher or a lower mean, or one that is nearer to 1 or to 0, whichever side of it a rollout lies on."""
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "one": "→1", "zero": "→0", "neither": ""}
"""How a table's header says it."""
READ: dict[Better, str] = {
    "higher": "higher is better",
    "lower": "lower is better",
    "one": "nearer to 1 is better",
    "zero": "nearer to 0 is better",
    "neither": "neither direction is better",
}
"""The same in words."""


def directed(text: str, better: Better) -> str:
    """A header with the way that is better: 'reaction, frames ↓'."""
    return f"{text} {ARROWS[better]}".rstrip()


Needs = Literal["video", "plan", "world", "record"]
"""What a metric asks of a sample: any video, the plan too, a world whose truth is known, or the run's record."""


@dataclass(frozen=True)
class Curve:
    """A value over time; None where it is not defined. `unit` is that of x: "frame" (latent) or "s"."""

    x: Sequence[float]
    y: Sequence[float | None]
    unit: str

    def to_dict(self) -> Json:
        """As JSON, six digits."""
        return {
            "unit": self.unit,
            "x": [round(x, 6) for x in self.x],
            "y": [None if y is None else round(y, 6) for y in self.y],
        }


@dataclass(frozen=True)
class Score:
    """One rollout under one metric; a value of None says that the metric does not apply to it, and `why`, if there is more."""

    value: float | None
    curve: Curve | None = None
    why: str = ""


@dataclass(frozen=True)
class Metric:
    """A named function of a sample, with its unit, what is better, its definition and its source.

    `needs`: "video" any video; "plan" the blocks too; "world" a world whose truth is known; "record" the run record.
    """

    name: str
    measure: Callable[["Sample"], Score | None]
    unit: str
    better: Better
    about: str
    source: str = ""
    needs: Needs = "video"
    matters: float = 0.0
    """The smallest difference of means that is worth a mark: within it is equivalent, below it nothing is better or worse."""
    uses: tuple[str, ...] = ()
    """Modules beside that of `measure` on which the value depends, where that does not import them."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules on which the value depends, less what they import."""
        return (getattr(self.measure, "__module__", None) or type(self.measure).__module__, *self.uses)

    @property
    def code(self) -> str:
        """Identity of the source files on which the value depends: trackers and extractors with the formula."""
        return digest((*self.modules, *(worlds() if self.needs == "world" else ())))
