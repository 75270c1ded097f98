"""What raters are asked: the questions of Infinity-RoPE's user studies (arXiv 2511.20649, supplement), in our words."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["HIGHEST", "LOWEST", "PREFERENCES", "QUESTIONS", "Kind"]

Kind = Literal["long", "action"]


@dataclass(frozen=True)
class Question:
    """One question about one video, answered from 1 (`low`) to 5 (`high`)."""

    name: str
    text: str
    low: str
    high: str


LOWEST, HIGHEST = 1, 5
QUESTIONS: dict[Kind, tuple[Question, ...]] = {
    "long": (
        Question("overall", "How good is the video, given the prompt?", "very poor", "very good"),
        Question("consistency", "How consistent is it from start to end?", "not at all", "completely"),
    ),
    "action": (
        Question("text", "Does it perform the sequence of actions?", "not at all", "completely"),
        Question("subject", "Is it the same subject throughout?", "not at all", "completely"),
        Question("smoothness", "Is it smooth where the instructions change?", "very abrupt", "very smooth"),
        Question("quality", "Is it realistic and free of artifacts?", "not at all", "completely"),
    ),
}
PREFERENCES = ("left", "right", "same")
