"""Everything that a rollout's result depends on beside weights, files and machine: as a value, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from rollout.errors import OutputError
from rollout.sampler import Schedule, check_seed
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.timeline import Event

__all__ = ["BackendRecord", "Donor", "PrefixRecord", "Recipe", "RecipeRecord", "ScriptText", "content"]

OPTIONS = (
    "model",
    "height",
    "width",
    "dtype",
    "attention_backend",
    "compile",
    "low_vram",
    "fp8_weights",
    "vae_dtype",
    "guidance",
    "negative",
    "block",
)
"""What a recipe may hand to a backend: a file that was changed by hand can ask for nothing else."""


@dataclass(frozen=True)
class Donor:
    """Another video of the same timing, rolled out beside: before `block` its sinks and memory and the run's change places."""

    text: str
    """Its prompt script."""
    seed: int
    block: int


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

    def __post_init__(self) -> None:
        for _, seed in self.videos:
            check_seed(seed)

    @property
    def block(self) -> int | None:
        """The frames of a block, where they are not the model's."""
        return self.options.get("block")

    @property
    def videos(self) -> tuple[tuple[str, int], ...]:
        """Script and seed of all that is rolled out together: its own, and the donor's."""
        donor = () if self.donor is None else ((self.donor.text, self.donor.seed),)
        return ((self.text, self.seed), *donor)

    def to_dict(self) -> Json:
        """As JSON."""
        return {
            "strategy": self.strategy.to_dict(),
            "backend": {"name": self.backend, "device": self.device, "options": dict(self.options)},
            "script": {"text": self.text},
            "schedule": self.schedule.to_dict(),
            "seed": self.seed,
            "prefix": self.prefix,
            "events": [event.to_dict() for event in self.events],
        } | ({} if self.donor is None else {"donor": asdict(self.donor)})

    @classmethod
    def from_dict(cls, data: object) -> "Recipe":
        """From JSON, a whole run record included. Raises OutputError, SpecError."""
        try:
            return msgspec.convert(data, RecipeRecord).recipe
        except msgspec.ValidationError as error:
            raise OutputError(f"the record is damaged: {error}. Give a folder that 'rollout gen' wrote.") from error


class BackendRecord(Struct, frozen=True):
    """A backend and its options, in a run's record with what was loaded: weights by digest, dtype, its world."""

    name: str
    device: str | None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    weights: str | None = None
    dtype: str | None = None
    world: str | UnsetType | None = UNSET
    """Not there in records of the first edition."""


class ScriptText(Struct, frozen=True):
    """A prompt script."""

    text: str


class PrefixRecord(Struct, frozen=True, omit_defaults=True):
    """What a run started from: a number of true blocks, or a file by its content."""

    blocks: int | None = None
    file: str | None = None
    sha256: str | None = None
    changes: tuple[str, ...] = ()
    """What was done to a video so that it fits the model."""

    def __str__(self) -> str:
        return str(self.file if self.blocks is None else self.blocks)


def content(prefix: PrefixRecord | str | None) -> PrefixRecord | str | None:
    """What a prefix is, without what was done to it."""
    return structs.replace(prefix, changes=()) if isinstance(prefix, PrefixRecord) else prefix


class RecipeRecord(Struct, frozen=True, kw_only=True):
    """A recipe as JSON has it."""

    backend: BackendRecord
    script: ScriptText
    seed: int
    strategy_data: Json | None = msgspec.field(name="strategy")
    schedule_data: Json | None = msgspec.field(name="schedule", default=None)
    prefix: PrefixRecord | str | None
    event_data: tuple[Json, ...] = msgspec.field(name="events")
    donor: Donor | None = None

    @property
    def strategy(self) -> Strategy:
        """The strategy that it began with. Raises SpecError, OutputError."""
        if self.strategy_data is None:
            raise OutputError("the record is of a world's own video: no strategy made it. Give a run's folder.")
        return Strategy.from_dict(self.strategy_data)

    @property
    def schedule(self) -> Schedule:
        """Its noise levels. Raises OutputError."""
        if self.schedule_data is None:
            raise OutputError("the record is damaged: it has no schedule. Give a folder that 'rollout gen' wrote.")
        try:
            return msgspec.convert(self.schedule_data, Schedule)
        except msgspec.ValidationError as error:
            raise OutputError(f"the record is damaged: its schedule: {error}. Give a run's folder.") from error

    @property
    def events(self) -> tuple[Event, ...]:
        """What came from outside. Raises OutputError, SpecError."""
        try:
            return tuple(map(Event.from_dict, self.event_data))
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"the record is damaged: its events: {error}. Give a run's folder.") from error

    @property
    def recipe(self) -> Recipe:
        """As a value. Raises OutputError, SpecError."""
        unknown = sorted(set(self.backend.options) - set(OPTIONS))
        if unknown:
            raise OutputError(
                f"the record is damaged: the option {unknown[0]!r} is none of a backend's. Give a run's folder."
            )
        return Recipe(
            self.strategy,
            self.script.text,
            self.seed,
            self.schedule,
            None if self.prefix is None else str(self.prefix),
            self.backend.name,
            str(self.backend.device),
            self.backend.options,
            self.events,
            self.donor,
        )
