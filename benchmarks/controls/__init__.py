"""Controls of a suite: what an answer looks like at its best and at its worst, and whether memory decides it at all."""

from dataclasses import dataclass
from typing import Literal, get_args

from rollout.strategy import Strategy

__all__ = ["CONTROLS", "Arm", "Role"]

Role = Literal["truth", "oracle", "amnesia", "swap"]
CONTROLS: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Arm:
    """What is rolled out under one name: a strategy, or a control.

    `control`: "truth" is the world's own video, without a strategy; "oracle" keeps what the answer needs; "amnesia" keeps the
    block before alone; "swap" is the strategy called `of` with the sinks and memory of another video. `text`: as the suite
    has it, where its axis is in it.
    """

    strategy: Strategy | None
    control: Role | None = None
    of: str = ""
    text: str = ""

    def __str__(self) -> str:
        if self.strategy is None:
            return "the world's own video"
        aside = f", with another video's memory in the place of {self.of}'s" if self.control == "swap" else ""
        return (self.text or str(self.strategy)) + aside
