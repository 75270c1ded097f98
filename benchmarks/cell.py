"""A cell: one strategy on one prompt under one seed, and the address that everything its video depends on gives it."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rollout import __version__
from rollout.backends import Entry
from rollout.benchmarks.suites.suite import SPACING, Suite
from rollout.registry import find
from rollout.strategy import AXES, Strategy


@dataclass(frozen=True)
class Cell:
    """Everything that the video of a cell depends on, as JSON values."""

    strategy: Mapping[str, Any]
    script: str
    seed: int
    prefix: int
    steps: int
    backend: Mapping[str, Any]
    """name, options, weights (their identity) and the kind of device."""
    code: str
    """Identity of the source files of the strategy's rules: a rule that is edited gets new cells."""
    rollout: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def address(self) -> str:
        """Sixteen digits of a hash of the cell's JSON."""
        return sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """A cell's place in a suite: the strategy's name, the prompt's and the seed's number."""

    strategy: str
    prompt: int
    seed: int
    cell: Cell


def places(suite: Suite, *, device: str = "cpu") -> Iterator[Place]:
    """All cells of a suite, strategies innermost, so that an interrupted run compares like with like.

    Raises BackendError where the weights are not there.
    """
    entry: Entry = find("backends", suite.backend)
    backend = {
        "name": suite.backend,
        "options": dict(suite.options),
        "weights": entry.digest(suite.options.get("model")),
        "device": device.partition(":")[0],
    }
    codes = {name: code_of(strategy) for name, strategy in suite.strategies.items()}
    for n, seed in enumerate(suite.seeds):
        for prompt, script in enumerate(suite.scripts):
            for name, strategy in suite.strategies.items():
                cell = Cell(
                    strategy=strategy.to_dict(),
                    script=script,
                    seed=seed + SPACING * prompt,
                    prefix=suite.prefix,
                    steps=suite.steps,
                    backend=backend,
                    code=codes[name],
                )
                yield Place(name, prompt, n, cell)


def code_of(strategy: Strategy) -> str:
    """Identity of the source files that define a strategy's parts."""
    digest = sha256()
    for axis in AXES:
        digest.update(Path(inspect.getfile(type(getattr(strategy, axis)))).read_bytes())
    return digest.hexdigest()[:16]
