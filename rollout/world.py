"""Worlds whose truth is known: what a backend's videos show, frame by frame, against what they should show.

A backend with a `world` can be measured exactly. Everything here is the world's own business: the rest of the project
knows its properties by name alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a world's vocabulary is read without torch
    from torch import Tensor

__all__ = ["Act", "Property", "Seen", "Truth", "Video", "World"]

Video = NDArray[np.uint8]
"""Frames (N, height, width, 3)."""


@dataclass(frozen=True)
class Property:
    """Something that every frame of a world shows.

    `unit`: "share" of a label, which is right or wrong, else the unit of an error. `scene`: a cut may redraw it. `span`:
    the frames that one reading looks at, centred.
    """

    about: str
    unit: str = "share"
    scene: bool = False
    span: int = 1


@dataclass(frozen=True)
class Act:
    """A stretch of latent frames under one prompt; `cut`: the scene may be another from its start on."""

    prompt: str
    frames: int
    cut: bool = False


class Seen(Protocol):
    """What trackers read off a video."""

    values: "Mapping[str, Tensor]"
    """(F, ...) by property: labels, -1 where nothing fits; numbers, NaN where nothing fits."""


class Truth(Protocol):
    """What a video should show, latent frame by latent frame, each by property."""

    values: "Mapping[str, Tensor]"
    visible: "Mapping[str, Tensor]"
    """(F,) bool: can be seen, and not hidden by darkness."""
    known: "Mapping[str, Tensor]"
    """(F,) bool: prompts and start determine it."""

    def video(self) -> "Video":
        """The true frames."""
        ...


@runtime_checkable
class World(Protocol):
    """A world: its words, its truth, and trackers that read it off pixels."""

    name: str
    """The world and its edition, as records have it: runs of another edition are not measured against this one's truth."""
    size: tuple[int, int]
    """Height and width of its frames, pixels."""
    properties: Mapping[str, Property]
    groups: Mapping[str, tuple[str, ...]]
    """Names for several properties at once, such as identity."""
    scene: tuple[str, ...]
    """The properties and groups that memory is asked for after they were hidden."""
    example: str
    """A prompt."""

    def vocabulary(self) -> str:
        """What a prompt may say, in one sentence."""
        ...

    def parse(self, prompt: str) -> Mapping[str, int]:
        """The labels that a prompt names, by property. Raises PromptError."""
        ...

    def truth(self, acts: Sequence[Act], seed: int, start: Mapping[str, int] | None = None) -> Truth:
        """The world that the acts' prompts name; what they leave open is as `start` has it, or drawn from the seed.

        With a `start` (labels by property, those of a first block) everything that it lacks is unknown.
        """
        ...

    def track(self, video: "Video | Tensor") -> Seen:
        """Read a video (F, height, width, 3), uint8, one frame a latent frame."""
        ...

    def difference(self, name: str, values: "Tensor", others: "Tensor") -> "Tensor":
        """(F, ...) signed differences of a property that is a number, in its unit; wrapped where the world is round."""
        ...

    def error(self, name: str, readings: Seen, true: "Tensor") -> "Tensor":
        """(F,) how far a property is from its true values: 0 or 1 for a label; NaN where it cannot be judged."""
        ...
