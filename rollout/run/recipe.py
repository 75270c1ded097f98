"""Everything that a rollout's result depends on beside weights, files and machine: as a value, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout.errors import OutputError
from rollout.progress import Event
from rollout.sampler import Schedule
from rollout.strategy import Strategy

__all__ = ["Donor", "Recipe"]

OPTIONS = ("model", "height", "width", "dtype", "attention_backend", "compile", "low_vram")
"""What a recipe may hand to a backend: a file that was changed by hand can ask for nothing else."""


@dataclass(frozen=True)
class Donor:
    """Another video of the same timing, rolled out beside: before `block` its sinks and memory and the run's change places."""

    text: str
    """Its prompt script."""
    seed: int
    block: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Donor":
        """From JSON. Raises KeyError, TypeError, ValueError."""
        return cls(str(data["text"]), int(data["seed"]), int(data["block"]))


@dataclass(frozen=True)
class Recipe:
    """What to roll out: run.json and snapshots hold it, `rollout rerun` and `rollout resume` follow it."""

    strategy: Strategy
    text: str
    """The prompt script."""
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    prefix: str | None = None
    """As `rollout gen --prefix` takes it."""
    backend: str = "sprites"
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the backend."""
    events: tuple[Event, ...] = ()
    """What came from outside."""
    donor: Donor | None = None
    """Whose memory the run gets: a control, to see whether memory decides anything."""

    @property
    def videos(self) -> tuple[tuple[str, int], ...]:
        """Script and seed of all that is rolled out together: its own, and the donor's."""
        donor = () if self.donor is None else ((self.donor.text, self.donor.seed),)
        return ((self.text, self.seed), *donor)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "strategy": self.strategy.to_dict(),
            "backend": {"name": self.backend, "device": self.device, "options": dict(self.options)},
            "script": {"text": self.text},
            "schedule": {
                "steps": list(self.schedule.steps),
                "shift": self.schedule.shift,
                "context": self.schedule.context,
            },
            "seed": self.seed,
            "prefix": self.prefix,
            "events": [event.to_dict() for event in self.events],
        } | ({} if self.donor is None else {"donor": asdict(self.donor)})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """From JSON, a whole run record included. Raises OutputError, SpecError."""
        try:
            backend, schedule, prefix = data["backend"], data["schedule"], data["prefix"]
            if isinstance(prefix, Mapping):  # a record says what the prefix was
                prefix = str(prefix["blocks"]) if "blocks" in prefix else str(prefix["file"])
            options = dict(backend.get("options", {}))
            unknown = set(options) - set(OPTIONS)
            if unknown:
                raise ValueError(f"the option {sorted(unknown)[0]!r} is none of a backend's")
            return cls(
                strategy=Strategy.from_dict(data["strategy"]),
                text=str(data["script"]["text"]),
                seed=int(data["seed"]),
                schedule=Schedule(
                    tuple(float(s) for s in schedule["steps"]), float(schedule["shift"]), float(schedule["context"])
                ),
                prefix=None if prefix is None else str(prefix),
                backend=str(backend["name"]),
                device=str(backend["device"]),
                options=options,
                events=tuple(Event.from_dict(event) for event in data["events"]),
                donor=None if data.get("donor") is None else Donor.from_dict(data["donor"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise OutputError(f"the record is damaged: {why}. Give a folder that 'rollout gen' wrote.") from error
