"""The prompt grammar of the sprite world: "a red circle walks right on navy". Pure, without torch."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from rollout.errors import PromptError

COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
SHAPES = ("circle", "square", "triangle")
ACTIONS = ("walks right", "walks left", "jumps", "stands", "pulses", "spins", "sways")
BACKGROUNDS = ("navy", "olive", "maroon", "teal", "grey", "plum")
SLOTS: tuple[tuple[str, ...], ...] = (COLOURS, SHAPES, ACTIONS, BACKGROUNDS)
ARTICLES = ("a", "an", "the", "on")
VOCABULARY = tuple(word for words in SLOTS for phrase in words for word in phrase.split()) + ARTICLES


@dataclass(frozen=True)
class Caption:
    """What a prompt names, as indices into COLOURS, SHAPES, ACTIONS and BACKGROUNDS; None where it is silent."""

    colour: int | None = None
    shape: int | None = None
    action: int | None = None
    background: int | None = None

    def tokens(self) -> tuple[int, ...]:
        """One token a slot, each slot with its own range, the first of which means "not named"."""
        out, start = [], 0
        for value, words in zip(astuple(self), SLOTS, strict=True):
            out.append(start + (0 if value is None else 1 + value))
            start += 1 + len(words)
        return tuple(out)

    def __str__(self) -> str:
        subject = " ".join(
            words[value]
            for value, words in ((self.colour, COLOURS), (self.shape, SHAPES), (self.action, ACTIONS))
            if value is not None
        )
        place = "" if self.background is None else f"on {BACKGROUNDS[self.background]}"
        return " ".join(part for part in ("a " + subject if subject else "", place) if part)


TOKENS = sum(1 + len(words) for words in SLOTS)


def parse(prompt: str) -> Caption:
    """Read a prompt; every word must be of the vocabulary and no slot may be named twice.

    Raises PromptError with the vocabulary and the closest word.
    """
    words = re.findall(r"[^\s,.!]+", prompt.lower())
    for word in words:
        if word not in VOCABULARY:
            raise PromptError(_unknown(word))
    text, found = " ".join(words), []
    for name, phrases in zip(("colour", "shape", "action", "background"), SLOTS, strict=True):
        pattern = r"\bon {}\b" if name == "background" else r"\b{}\b"
        hits = [i for i, phrase in enumerate(phrases) for _ in re.findall(pattern.format(phrase), text)]
        if len(hits) > 1:
            raise PromptError(f"the prompt {prompt!r} names {len(hits)} {name}s; the sprite world shows one. Keep one.")
        found.append(hits[0] if hits else None)
    caption = Caption(*found)
    _complete(prompt, words, caption)
    return caption


def _complete(prompt: str, words: Sequence[str], caption: Caption) -> None:
    """Refuse words that are known but do not form a phrase, such as "walks" without a direction."""
    used: set[str] = set(ARTICLES)
    for value, phrases in zip(astuple(caption), SLOTS, strict=True):
        if value is not None:
            used |= set(phrases[value].split())
    for word in words:
        if word not in used:
            phrase = [p for phrases in SLOTS for p in phrases if word in p.split()]
            where = f"on {phrase[0]}" if word in BACKGROUNDS else " or ".join(repr(p) for p in phrase)
            raise PromptError(f"the word {word!r} in {prompt!r} stands alone. Write {where}.")


def _unknown(word: str) -> str:
    close = difflib.get_close_matches(word, VOCABULARY, n=1, cutoff=0)
    return f"the sprite world does not know the word {word!r}; the closest it knows is {close[0]!r}. {vocabulary()}"


def vocabulary() -> str:
    """The whole vocabulary in one sentence."""

    def listed(words: Iterable[str]) -> str:
        return ", ".join(words)

    return (
        f"A prompt is 'a COLOUR SHAPE ACTION on BACKGROUND': colours {listed(COLOURS)}; shapes {listed(SHAPES)}; "
        f"actions {listed(ACTIONS)}; backgrounds (may be left out) {listed(BACKGROUNDS)}."
    )
