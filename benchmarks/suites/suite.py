"""What a benchmark suite says: strategies, prompts, seeds, metrics and claims; and where the shipped ones are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rollout.errors import SuiteError
from rollout.strategies.presets import preset
from rollout.strategy import Strategy

SUITES = Path(__file__).parent
SPACING = 1000
"""Seed of a cell = seed + 1000 x the prompt's number: every prompt has noise, and a world, of its own."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, as a comparison: `better` beats `than` under a metric."""

    says: str
    source: str
    better: str
    than: str
    metric: str


@dataclass(frozen=True)
class Suite:
    """What is compared on what. `strategies` by the name that tables show; `skipped` holds the grid's impossible ones."""

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

    @property
    def cells(self) -> int:
        """Rollouts of the whole suite."""
        return len(self.strategies) * len(self.scripts) * len(self.seeds)


def strategy_of(text: str) -> Strategy:
    """A preset's name, or "POSITIONS POLICY+SWITCH". Raises SpecError."""
    return Strategy.from_text(text) if " " in text.strip() else preset(text.strip())


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
        near = get_close_matches(name, shipped(), n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise SuiteError(
            f"there is no suite {name[:60]!r}. {hint}There are {', '.join(shipped())}, or give a .toml file."
        )
    return SUITES / f"{name}.toml"
