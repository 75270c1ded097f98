"""The prompt grammar of the sprite world: "a red circle walks right on navy at night, mark left". Pure, without torch."""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from rollout.errors import PromptError
from rollout.text import nearest

__all__ = [
    "ACTIONS",
    "ARTICLES",
    "BACKGROUNDS",
    "COLOURS",
    "LIGHTS",
    "MARKS",
    "SHAPES",
    "SLOTS",
    "TOKENS",
    "VOCABULARY",
    "Caption",
    "parse",
    "vocabulary",
]

COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
SHAPES = ("circle", "square", "triangle")
ACTIONS = ("walks right", "walks left", "jumps", "stands", "pulses", "spins", "sways")
BACKGROUNDS = ("on navy", "on olive", "on maroon", "on teal", "on grey", "on plum")
LIGHTS = ("by day", "at night")
MARKS = ("mark far left", "mark left", "mark right", "mark far right")
"""Columns of the landmark: a prompt names the column and never the height, so that the height lives in the cache."""
SLOTS: tuple[tuple[str, ...], ...] = (COLOURS, SHAPES, ACTIONS, BACKGROUNDS, LIGHTS, MARKS)
ARTICLES = ("a", "an", "the", "on")
VOCABULARY = tuple(dict.fromkeys(word for words in SLOTS for phrase in words for word in phrase.split())) + ARTICLES[:3]


@dataclass(frozen=True)
class Caption:
    """What a prompt names, as indices into the tables of SLOTS; None where it is silent."""

    colour: int | None = None
    shape: int | None = None
    action: int | None = None
    background: int | None = None
    light: int | None = None
    mark: int | None = None

    def tokens(self) -> tuple[int, ...]:
        """One token a slot, each slot with its own range, the first of which means "not named"."""
        out, start = [], 0
        for value, words in zip(astuple(self), SLOTS, strict=True):
            out.append(start + (0 if value is None else 1 + value))
            start += 1 + len(words)
        return tuple(out)

    def __str__(self) -> str:
        phrases = ["" if value is None else words[value] for value, words in zip(astuple(self), SLOTS, strict=True)]
        subject = " ".join(phrase for phrase in phrases[:3] if phrase)
        return " ".join(part for part in ("a " + subject if subject else "", *phrases[3:]) if part)


TOKENS = sum(1 + len(words) for words in SLOTS)


def parse(prompt: str) -> Caption:
    """Read a prompt; every word must be of the vocabulary and no slot may be named twice.

    Raises PromptError with the vocabulary, and the closest word where one is near.
    """
    words = re.findall(r"[^\s,.!]+", prompt.lower())
    for word in words:
        if word not in VOCABULARY:
            raise PromptError(_unknown(word))
    text, values = " ".join(words), []
    for name, phrases in zip(Caption.__dataclass_fields__, SLOTS, strict=True):
        hits = [i for i, phrase in enumerate(phrases) for _ in re.findall(rf"\b{phrase}\b", text)]
        if len(hits) > 1:
            raise PromptError(f"the prompt {prompt!r} names {len(hits)} {name}s; the sprite world shows one. Keep one.")
        values.append(hits[0] if hits else None)
        if hits:
            text = re.sub(
                rf"\b{phrases[hits[0]]}\b", "|", text
            )  # a bar, so that what remains never joins into a phrase
    for word in text.replace("|", " ").split():
        if word not in ARTICLES:
            raise PromptError(_alone(word, prompt))
    return Caption(*values)


def _alone(word: str, prompt: str) -> str:
    """A word that is known but forms no phrase, such as "walks" without a direction."""
    phrases = [phrase for slot in SLOTS for phrase in slot if word in phrase.split()]
    return f"the word {word!r} in {prompt!r} stands alone. Write {' or '.join(map(repr, phrases[:4]))}."


def _unknown(word: str) -> str:
    near = nearest(word, VOCABULARY)
    close = "" if near is None else f"; the closest it knows is {near!r}"
    return f"the sprite world does not know the word {word!r}{close}. {vocabulary()}"


def vocabulary() -> str:
    """The whole vocabulary in one sentence."""

    def listed(words: Iterable[str]) -> str:
        return ", ".join(words)

    return (
        f"A prompt is 'a COLOUR SHAPE ACTION BACKGROUND LIGHT MARK', and each may be left out: colours {listed(COLOURS)}; "
        f"shapes {listed(SHAPES)}; actions {listed(ACTIONS)}; backgrounds {listed(BACKGROUNDS)}; "
        f"lights {listed(LIGHTS)}; the landmark's place {listed(MARKS)}."
    )
