"""The plan of a benchmark's run as a value: what plan.json holds, all that a report needs besides the cells."""

import json
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from rollout.benchmarks.metrics.score import Better
from rollout.benchmarks.store import Address
from rollout.documents import levels, read_json
from rollout.errors import OutputError
from rollout.files import write_text
from rollout.run.record import MOST_FRAMES
from rollout.text import Json

__all__ = [
    "FILE",
    "ArmPlan",
    "AxisPlan",
    "BackendPlan",
    "CellPlan",
    "ClaimPlan",
    "MetricPlan",
    "Plan",
    "read_plan",
    "write_plan",
]

FILE = "plan.json"
MOST_DRAWN = 100_000
"""Frames of a strategy's picture."""


class BackendPlan(Struct, frozen=True):
    """The model: `weights` and `code` by digest, the kind of device, pixel frames a second, trained frames."""

    name: str
    options: dict[str, Any]
    weights: str | None
    device: str
    code: str = ""
    fps: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    trained: Annotated[int, Meta(ge=0, le=MOST_FRAMES)] = 0


class MetricPlan(Struct, frozen=True):
    """A metric as the run was planned with it: see `Metric`."""

    name: str
    unit: str
    better: Better
    about: str = ""
    source: str = ""
    matters: float = 0.0


class ClaimPlan(Struct, frozen=True):
    """That the strategy `better` is better than `than` by a metric, as `source` says; at one value of the axis, or over all."""

    says: str
    source: str
    better: str
    than: str
    metric: str
    at: float | int | None = None


class AxisPlan(Struct, frozen=True):
    """A numeric axis: its values, and the scripts at each."""

    name: str
    values: tuple[float | int, ...]
    scripts: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.scripts) > 0:
            raise ValueError(f"its axis has {len(self.values)} values and scripts at {len(self.scripts)}")


class ArmPlan(Struct, frozen=True):
    """A strategy or control: as text and JSON (one a value of the axis in `specs`), its window, its blocks for the picture."""

    text: str
    spec: Json | None = None
    window: Annotated[int, Meta(ge=0)] | None = None
    steps: tuple[Json, ...] = ()
    specs: tuple[Json, ...] | UnsetType = UNSET
    control: str | UnsetType = UNSET
    of: str | UnsetType = UNSET
    """Whose memory a swap replaces."""

    def __post_init__(self) -> None:
        numbers = (item for level in levels(list(self.steps)) for item in level if isinstance(item, int | float))
        if any(abs(number) > MOST_DRAWN for number in numbers):
            raise ValueError(f"the picture of {self.text[:40]!r} has more than {MOST_DRAWN} frames")

    @property
    def role(self) -> str:
        """The control that it is; nothing for a strategy."""
        return self.control or ""

    @property
    def changes(self) -> bool:
        """It is another composition at each value of the axis."""
        return bool(self.specs)


class CellPlan(Struct, frozen=True):
    """Where a cell belongs: the numbers of its prompt, seed and value of the axis."""

    address: Address
    strategy: str
    prompt: Annotated[int, Meta(ge=0)]
    seed: Annotated[int, Meta(ge=0)]
    axis: Annotated[int, Meta(ge=0)] | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """A run's plan; strategies and controls are `strategies` by name, `fixed` says that its prompts are all there are."""

    rollout: str = ""
    suite: str
    about: str = ""
    backend: BackendPlan
    metrics: tuple[MetricPlan, ...]
    baseline: str
    primary: str
    answers: dict[str, str] = msgspec.field(default_factory=dict)
    claims: tuple[ClaimPlan, ...] = ()
    scripts: tuple[str, ...]
    seeds: tuple[int, ...]
    added_seeds: tuple[int, ...] = ()
    fixed: bool = False
    marks: bool = True
    prefix: Annotated[int, Meta(ge=0, le=1000)] = 0
    axis: AxisPlan | None = None
    strategies: dict[str, ArmPlan]
    cells: tuple[CellPlan, ...]
    skipped: dict[str, str] = msgspec.field(default_factory=dict)
    machine: dict[str, str | int] = msgspec.field(default_factory=dict)
    workers: int = 1
    threads: int = 1
    planned: str = ""
    arguments: tuple[str, ...] = ()
    """What `rollout bench run` was given beside suite and folder that changes what is run."""

    def __post_init__(self) -> None:
        """Raise ValueError where what is named is not there."""
        metrics = {metric.name for metric in self.metrics}
        for what, name, among in (
            ("baseline", self.baseline, self.strategies),
            ("primary metric", self.primary, metrics),
            *(("claim", name, self.strategies) for claim in self.claims for name in (claim.better, claim.than)),
            *(("claim", claim.metric, metrics) for claim in self.claims),
            *(("claim", claim.at, self.levels) for claim in self.claims if claim.at is not None),
            *(("cell", cell.strategy, self.strategies) for cell in self.cells),
            *(("machine", name, self.machine) for name in ("processor", "cores", "torch")),
        ):
            if name not in among:
                raise ValueError(f"its {what} needs {str(name)[:40]!r}, which it does not have")
        if any(len(scripts) != len(self.scripts) for scripts in (() if self.axis is None else self.axis.scripts)):
            raise ValueError("its axis has other numbers of scripts at its values")
        size = len(self.levels), len(self.scripts), len(self.seeds)
        if prod(size) > len(self.cells):  # what is made of them has a place for each
            raise ValueError(f"it has {len(self.cells)} cells for {prod(size)} of each strategy")
        for cell in self.cells:
            place = cell.axis or 0, cell.prompt, cell.seed
            if any(at >= most for at, most in zip(place, size, strict=True)):
                raise ValueError(f"its cell {cell.address} is of value, prompt and seed {place} of {size}")

    @property
    def levels(self) -> list[float | int | None]:
        """The values of the axis; one that is None where there is no axis."""
        return [None] if self.axis is None else list(self.axis.values)

    @property
    def rollouts(self) -> int:
        """Rollouts in all; strategies may share some."""
        return len({cell.address for cell in self.cells})

    def metric(self, name: str) -> MetricPlan | None:
        """A metric by name."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def script_of(self, cell: CellPlan) -> str:
        """The script of a cell."""
        scripts = self.scripts if cell.axis is None or self.axis is None else self.axis.scripts[cell.axis]
        return scripts[cell.prompt]

    def to_dict(self) -> Json:
        """As JSON."""
        data: Json = msgspec.to_builtins(self)
        return data


def read_plan(out: Path) -> Plan:
    """The plan of a run's folder. Raises OutputError."""
    try:
        return read_json(out / FILE, Plan)
    except FileNotFoundError as error:
        raise OutputError(
            f"{out} is not the folder of a benchmark run: it has no plan.json. Give a run's --out."
        ) from error
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise OutputError(f"{out / FILE} cannot be read: {error}. Run the suite again.") from error


def write_plan(out: Path, plan: Plan) -> None:
    """Write plan.json. Raises OutputError."""
    write_text(out / FILE, json.dumps(plan.to_dict(), indent=1, ensure_ascii=False) + "\n")
