"""What strategies of different runs are joined by: what they are composed of, whatever a suite calls them."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from typing import Any

from rollout.backend import Spec
from rollout.errors import RolloutError
from rollout.plan import simulate
from rollout.registry import find, names
from rollout.slots import Block
from rollout.strategy import AXES, REFINEMENTS, Strategy

__all__ = ["Timing", "alike", "composition", "preset_of"]

Timing = tuple[Block, ...]
"""The blocks of a script."""
MOST = 10_000
"""Frames of a window that is tried out."""
ROUNDS = 3
"""How often each part of the probe is as long as the window."""


def composition(data: Mapping[str, Any], spec: Spec | None) -> str:
    """Identity of a strategy's JSON form on a backend.

    Two strategies of the same kinds are one where they decide the same at every block of a long script with prompt changes
    and a cut, as `cut=20/1` and a cut that is left out do. A rule that is not at hand goes by its JSON form.
    """
    text = json.dumps(data, sort_keys=True)
    decisions = _decisions(text, spec, None) if spec is not None else ""
    return _hash(data["switch"]["kind"], decisions) if decisions else text


def alike(a: Mapping[str, Any], b: Mapping[str, Any], spec: Spec | None, timings: frozenset[Timing]) -> bool:
    """Whether two strategies have the same rollouts under these timings: where no prompt changes no switch is asked."""
    if spec is None:
        return False
    one, other = (
        [_decisions(json.dumps(data, sort_keys=True), spec, timing) for timing in sorted(timings, key=len)]
        for data in (a, b)
    )
    return one == other and all(one)


@cache
def _decisions(text: str, spec: Spec, timing: Timing | None) -> str:
    """Identity of what a strategy decides over a script, or the probe; nothing for a rule that is not at hand.

    The kind of the switch is not in it, but what else the cache and the model's pass depend on is.
    """
    data = json.loads(text)
    try:
        strategy = Strategy.from_dict({axis: data[axis] for axis in (*AXES, *REFINEMENTS) if axis in data})
        if strategy.policy.window > MOST:
            return ""
        kinds = [data[axis]["kind"] for axis in ("positions", "policy")]
        rest = {key: value for key, value in data.items() if key not in AXES}
        steps = map(repr, simulate(strategy, timing or _probe(strategy, spec), spec))
        return _hash(*kinds, json.dumps(rest, sort_keys=True), *steps)
    except (RolloutError, KeyError, TypeError, ValueError):
        return ""


def _hash(*texts: str) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


def _probe(strategy: Strategy, spec: Spec) -> Iterator[Block]:
    """A prompt, another, a cut and another prompt, each until the window has turned over."""
    part = ROUNDS * -(-max(strategy.policy.window, spec.trained) // spec.block)
    for index in range(4 * part):
        prompt, opens = index // part, index > 0 and index % part == 0
        scene = 2 * part if prompt >= 2 else 0
        yield Block(index, index * spec.block, spec.block, prompt, opens, opens and prompt == 2, scene)


def preset_of(identity: str, spec: Spec | None) -> str:
    """The first published system that is this strategy, or nothing."""
    for name in names("presets"):
        if composition(find("presets", name).strategy.to_dict(), spec) == identity:
            return name
    return ""
