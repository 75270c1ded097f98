"""The numeric axis of a suite: what its scripts and strategies run through, filled in value by value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

from rollout.backend import Spec
from rollout.benchmarks.suites.source import Source
from rollout.benchmarks.suites.suite import Axis
from rollout.errors import SuiteError
from rollout.script import bare

__all__ = ["Filling", "fillings", "in_seconds", "read_axis"]

IN_FRAMES = re.compile(r"\[\s*(\d+(?:\.\d*)?)\s*f\s*(#?)\s*\]")
"""A duration in latent frames."""


@dataclass(frozen=True)
class Filling:
    """An axis at one of its values, to be put into texts; without a name there is no axis, and texts stay as they are."""

    name: str = ""
    value: float | None = None

    def __call__(self, text: str) -> str:
        """The text with the value for {name}."""
        return text.replace(f"{{{self.name}}}", str(self)) if self.name else text

    def __str__(self) -> str:
        return repr(self.value)

    def within(self, text: str) -> bool:
        """Whether the axis is in a text."""
        return bool(self.name) and f"{{{self.name}}}" in text


def read_axis(source: Source) -> Axis | None:
    """The table [axis] of a suite: one name with its numbers. Raises SuiteError."""
    table = source.file.axis
    if table is None:
        return None
    if len(table) != 1:
        has = f"has {', '.join(table)}" if table else "is empty"
        source.refuse(f"a suite has one numeric axis, and [axis] {has}. Write one NAME = [3, 6, 12] there.", "axis")
    name, values = next(iter(table.items()))
    where = ("axis", name)
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        source.refuse(f"the axis {name!r} cannot stand in braces. Use letters, digits and '_'.", *where)
    if name in source.file.fill:
        source.refuse(f"{name!r} is an axis and a list of [fill]. Rename one.", *where)
    if not isinstance(values, list):
        source.refuse(f"the axis {name!r} is a list of numbers, not {values!r}. Write {name} = [3, 6, 12].", *where)
    if not values:
        source.refuse(f"the axis {name!r} is empty. Write {name} = [3, 6, 12].", *where)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            source.refuse(f"the axis {name!r} has {value!r}, which is no finite number. Leave it out.", *where)
    twice = [value for n, value in enumerate(values) if value in values[:n]]
    if twice:
        source.refuse(f"the axis {name!r} has {twice[0]!r} twice. Keep one.", *where)
    return Axis(name, tuple(values))


def fillings(axis: Axis | None) -> tuple[Filling, ...]:
    """The axis at each of its values; one that fills in nothing where there is none."""
    return (Filling(),) if axis is None else tuple(Filling(axis.name, value) for value in axis.values)


def in_seconds(script: str, spec: Spec) -> str:
    """A script with its durations in latent frames, [12f] or [12f#], as seconds. Raises SuiteError unless whole blocks."""
    grammar, block = bare(script), spec.block
    body = len(grammar.partition(";")[0])
    pieces, at = [], 0
    for match in IN_FRAMES.finditer(grammar, 0, body):
        frames = float(match[1])
        if frames % block or not frames:
            raise SuiteError(
                f"[{match[1]}f] is no whole number of blocks of {block} frames. Use {', '.join(_near(frames, block))}."
            )
        pieces += [script[at : match.start()], f"[{frames * spec.stride / spec.fps!r}s{match[2]}]"]
        at = match.end()
    return "".join([*pieces, script[at:]])


def _near(frames: float, block: int) -> Iterator[str]:
    """The nearest durations of whole blocks."""
    below = int(frames // block) * block
    yield from (f"[{count}f]" for count in (below, below + block) if count)
