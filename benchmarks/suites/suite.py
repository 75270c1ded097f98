"""What a benchmark suite says: strategies, controls, prompts, seeds, metrics and claims; and where the shipped ones are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.backend import Spec
from rollout.benchmarks.controls import Arm
from rollout.errors import SuiteError
from rollout.registry import find
from rollout.script import Script
from rollout.strategy import Strategy
from rollout.text import hint

__all__ = ["SPACING", "SUITES", "Axis", "Claim", "Level", "Suite", "find_suite", "shipped", "strategy_of"]

SUITES = Path(__file__).parent
SPACING = 1000
"""Seed of a cell = seed + 1000 x the prompt's number: every prompt has noise, and a world, of its own."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, as a comparison: `better` beats `than` under a metric, over the axis or `at` one of its values."""

    says: str
    source: str
    better: str
    than: str
    metric: str
    at: float | None = None


@dataclass(frozen=True)
class Axis:
    """A number that scripts or strategies run through: a delay, a window, a rate."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A suite at one value of its axis; `value` is None where it has none."""

    value: float | None
    scripts: tuple[str, ...]
    arms: Mapping[str, Arm]


@dataclass(frozen=True)
class Suite:
    """What is compared on what, by the names that tables show; `skipped` holds the grid's impossible combinations.

    `scripts`, `strategies` and `controls` are those at the first value of the axis; `levels` has them at every value, and is
    empty without an axis. `fixed`: the prompts are all that there are, no sample. Without `marks` nothing is called better or
    worse: the suite is for a look. `answers`: by use of a strategy, such as "obey", the metric that answers it on the
    leaderboard.
    """

    name: str
    about: str
    scripts: tuple[str, ...]
    strategies: Mapping[str, Strategy]
    metrics: tuple[str, ...]
    baseline: str
    primary: str
    seeds: tuple[int, ...] = (0,)
    prefix: int = 0
    steps: int = 4
    backend: str = "sprites"
    options: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    controls: Mapping[str, Arm] = field(default_factory=dict)
    axis: Axis | None = None
    levels: tuple[Level, ...] = ()
    fixed: bool = False
    marks: bool = True
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def along(self) -> tuple[Level, ...]:
        """The suite at every value of its axis; once without one."""
        arms = {name: Arm(strategy) for name, strategy in self.strategies.items()} | dict(self.controls)
        return self.levels or (Level(None, self.scripts, arms),)

    @property
    def cells(self) -> int:
        """Places of the whole suite; some may share a rollout."""
        return sum(len(level.arms) * len(level.scripts) for level in self.along) * len(self.seeds)

    @property
    def frames(self) -> int:
        """Latent frames that a model has to make: a rollout that several places share counts once, a swap twice."""
        spec: Spec = find("backends", self.backend).spec()
        rollouts = {
            (str(arm.strategy), arm.control == "swap", script, number): Script.parse(script).count(spec) * spec.block
            for level in self.along
            for arm in level.arms.values()
            if arm.strategy is not None
            for number, script in enumerate(level.scripts)
        }
        return sum(frames * (2 if key[1] else 1) for key, frames in rollouts.items()) * len(self.seeds)


def strategy_of(text: str) -> Strategy:
    """A preset's name, or "POSITIONS POLICY+SWITCH". Raises SpecError."""
    return Strategy.of(text)


def shipped() -> list[str]:
    """Names of the suites that come with rollout."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def find_suite(name: str) -> Path:
    """A suite's file by path or by the name of a shipped one. Raises SuiteError."""
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise SuiteError(f"the suite {name} is not a file. Give a .toml, or one of {', '.join(shipped())}.")
        return path
    if name not in shipped():
        raise SuiteError(
            f"there is no suite {name[:60]!r}. {hint(name, shipped())}There are {', '.join(shipped())}, or give a .toml file."
        )
    return SUITES / f"{name}.toml"
