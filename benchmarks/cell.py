"""A cell: one strategy or control on one prompt under one seed, and the address that everything its video depends on gives it."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rollout import __version__
from rollout.backend import Spec
from rollout.backends import Entry
from rollout.benchmarks.controls.swap import donor_of, swap_block
from rollout.benchmarks.suites.suite import SPACING, Level, Suite
from rollout.registry import find
from rollout.run.recipe import Donor
from rollout.script import Script
from rollout.strategy import AXES, Strategy
from rollout.text import Json

__all__ = ["Cell", "Place", "code_of", "places"]


@dataclass(frozen=True)
class Cell:
    """Everything that the video of a cell depends on, as JSON values."""

    strategy: Mapping[str, Any] | None
    """None for the world's own video."""
    script: str
    seed: int
    prefix: int
    steps: int
    backend: Mapping[str, Any]
    """name, options, weights (their identity), the kind of device, and `code`, the identity of the model's source files."""
    code: str
    """Identity of the source files of the strategy's rules: a rule that is edited gets new cells."""
    donor: Mapping[str, Any] | None = None
    """Script and seed of the video whose memory this one gets, and before which block."""
    rollout: str = __version__

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)

    @property
    def address(self) -> str:
        """Sixteen digits of a hash of the cell's JSON."""
        return sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """A cell's place in a suite: the strategy's name, the numbers of prompt, seed and value of the axis."""

    strategy: str
    prompt: int
    seed: int
    axis: int | None
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
        "code": entry.code(),
    }
    along = list(enumerate(suite.along))
    makers = [_Maker(suite, level, backend, entry) for _, level in along]
    for seed in range(len(suite.seeds)):
        for prompt in range(len(suite.scripts)):
            for number, level in along:
                for name in level.arms:
                    cell = makers[number].cell(name, prompt, seed)
                    yield Place(name, prompt, seed, None if suite.axis is None else number, cell)


class _Maker:
    """Makes the cells of a suite at one value of its axis."""

    def __init__(self, suite: Suite, level: Level, backend: Mapping[str, Any], entry: Entry) -> None:
        self.suite, self.level, self.backend = suite, level, backend
        self.spec: Spec = entry.spec()
        self.world = {"name": suite.backend, "options": dict(suite.options), "code": entry.code("world")}
        self.scripts = [Script.parse(script) for script in level.scripts]
        self.codes = {name: code_of(arm.strategy) for name, arm in level.arms.items() if arm.strategy is not None}

    def cell(self, name: str, prompt: int, seed: int) -> Cell:
        """The cell of a strategy or control on a prompt under a seed, both by number."""
        arm, script, number = self.level.arms[name], self.level.scripts[prompt], self._seed(prompt, seed)
        if arm.strategy is None:
            return Cell(None, script, number, self.suite.prefix, 0, self.world, "")
        donor = asdict(self._donor(prompt, seed)) if arm.control == "swap" else None
        strategy, steps = arm.strategy.to_dict(), self.suite.steps
        return Cell(strategy, script, number, self.suite.prefix, steps, self.backend, self.codes[name], donor)

    def _seed(self, prompt: int, seed: int) -> int:
        return self.suite.seeds[seed] + SPACING * prompt

    def _donor(self, prompt: int, seed: int) -> Donor:
        """The next prompt of the same timing under the next seed."""
        other = donor_of(self.scripts, prompt)
        lender = prompt if other is None else other
        block = swap_block(self.scripts[prompt], self.spec, self.suite.prefix)
        return Donor(self.level.scripts[lender], self._seed(lender, (seed + 1) % len(self.suite.seeds)), block)


def code_of(strategy: Strategy) -> str:
    """Identity of the source files that define a strategy's parts."""
    digest = sha256()
    for axis in (*AXES, *strategy.refinements):
        digest.update(Path(inspect.getfile(type(getattr(strategy, axis)))).read_bytes())
    return digest.hexdigest()[:16]
