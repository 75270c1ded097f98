"""What a rollout took so far: passes, bytes, seconds. JSON both ways."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout.text import Json

__all__ = ["Costs", "Encoded", "count"]


@dataclass
class Encoded:
    """What the blocks that were not sampled took so far, those of a prefix or of another run: they are encoded alone."""

    blocks: int = 0
    forwards: int = 0
    rotated_bytes: int = 0
    seconds: float = 0.0


@dataclass
class Costs:
    """`forwards` are passes of the model, all batch rows together; `switch_seconds` one entry a switch."""

    forwards: int = 0
    switch_seconds: list[float] = field(default_factory=list)
    encoded: Encoded | None = field(default_factory=Encoded)
    """None, as below, where it goes on from a state of the first edition, which did not count it."""
    held_bytes: int | None = 0
    """The most that the cache held after a block: keys, values and their raw copies."""

    def add_encoded(self, rotated_bytes: int, seconds: float) -> None:
        """Note what the encoded blocks took up to here: they come first, so the totals so far are theirs."""
        if self.encoded is not None:
            spent = self.encoded.seconds + seconds
            self.encoded = Encoded(self.encoded.blocks + 1, self.forwards, rotated_bytes, spent)

    def add_held(self, held_bytes: int) -> None:
        """Note what the cache holds after a block."""
        if self.held_bytes is not None:
            self.held_bytes = max(self.held_bytes, held_bytes)

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Costs":
        """From JSON. Raises ValueError, KeyError or TypeError."""
        encoded, bytes_held = data.get("encoded"), data.get("held_bytes")
        if encoded is not None:
            blocks, forwards, bytes_rotated = (count(encoded[name]) for name in ("blocks", "forwards", "rotated_bytes"))
            encoded = Encoded(blocks, forwards, bytes_rotated, float(encoded["seconds"]))
        seconds = [float(value) for value in data["switch_seconds"]]
        return cls(count(data["forwards"]), seconds, encoded, None if bytes_held is None else count(bytes_held))


def count(value: object) -> int:
    """A whole number from 0 on: JSON's true and 1.5 are none. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{value!r} is no count")
    return value
