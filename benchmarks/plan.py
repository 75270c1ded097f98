"""The plan of a benchmark's run as a value: what plan.json holds, all that a report needs besides the cells."""

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from rollout.benchmarks.metrics.score import Better
from rollout.errors import OutputError
from rollout.files import write_text
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


class BackendPlan(Struct, frozen=True):
    """The model: `weights` and `code` by digest, the kind of device, pixel frames a second, trained frames."""

    name: str
    options: dict[str, Any]
    weights: str | None
    device: str
    code: str = ""
    fps: float = 0.0
    trained: int = 0


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


class ArmPlan(Struct, frozen=True):
    """A strategy or control: as text and JSON (one a value of the axis in `specs`), its window, its blocks for the picture."""

    text: str
    spec: Json | None = None
    window: int | None = None
    steps: tuple[Json, ...] = ()
    specs: tuple[Json, ...] | UnsetType = UNSET
    control: str | UnsetType = UNSET
    of: str | UnsetType = UNSET
    """Whose memory a swap replaces."""

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

    address: str
    strategy: str
    prompt: int
    seed: int
    axis: int | None = None


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
    prefix: int = 0
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
        return msgspec.json.decode((out / FILE).read_bytes(), type=Plan)
    except FileNotFoundError as error:
        raise OutputError(
            f"{out} is not the folder of a benchmark run: it has no plan.json. Give a run's --out."
        ) from error
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise OutputError(f"{out / FILE} cannot be read: {error}. Run the suite again.") from error


def write_plan(out: Path, plan: Plan) -> None:
    """Write plan.json. Raises OutputError."""
    write_text(out / FILE, json.dumps(plan.to_dict(), indent=1, ensure_ascii=False) + "\n")
