"""What the strategies of several runs are called on the leaderboard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollout.benchmarks.leaderboard.join import preset_of
from rollout.benchmarks.leaderboard.runs import Finished

__all__ = ["Named", "named"]


@dataclass(frozen=True)
class Named:
    """A strategy: its name, its text and its JSON form."""

    name: str
    text: str
    spec: Mapping[str, Any]


def named(runs: Sequence[Finished]) -> dict[str, Named]:
    """All strategies of runs on one backend, by composition.

    A published system goes by its preset's name, any other by the shortest that a run has; where two would have the same,
    their text stands beside it.
    """
    strategies: dict[str, Named] = {}
    for run in runs:
        for key, name in run.strategies.items():
            arm = run.plan.strategies[name]
            before = strategies.get(key) or Named(preset_of(key, run.spec) or name, arm.text, arm.spec or {})
            shorter = len(name) < len(before.name) and not preset_of(key, run.spec)
            strategies[key] = replace(before, name=name) if shorter else before
    counts = Counter(strategy.name for strategy in strategies.values())
    return {
        key: replace(strategy, name=f"{strategy.name} ({strategy.text})") if counts[strategy.name] > 1 else strategy
        for key, strategy in strategies.items()
    }
