"""Switches: what happens to the cache when the prompt changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rollout.errors import SpecError
from rollout.parts import SwitchDefaults
from rollout.slots import Block, Edit, Replay, Role, Slot, flush, keep, of_role

__all__ = ["SWITCHES", "Flush", "Keep", "Recache"]


@dataclass(frozen=True)
class Keep(SwitchDefaults):
    """The cache stays as it is; only cross-attention gets the new prompt (Self-Forcing, arXiv 2506.08009)."""

    kind: ClassVar[str] = "keep"
    flushes: ClassVar[bool] = False

    def on_switch(self, slots: Sequence[Slot], block: Block, window: int) -> tuple[Edit, Replay | None]:
        """Nothing changes."""
        return keep(slots, range(len(slots))), None


@dataclass(frozen=True)
class Flush(SwitchDefaults):
    """KV Flush (Infinity-RoPE, arXiv 2511.20649): keep the sinks and the newest `last` frames, drop the rest."""

    kind: ClassVar[str] = "flush"
    flushes: ClassVar[bool] = True
    last: int = 1

    def __post_init__(self) -> None:
        if self.last < 0:
            raise SpecError(f"flush: last={self.last} is negative; it counts the newest frames that stay.")

    def on_switch(self, slots: Sequence[Slot], block: Block, window: int) -> tuple[Edit, Replay | None]:
        """Bookkeeping alone, no forward pass."""
        return flush(slots, self.last), None


@dataclass(frozen=True)
class Recache(SwitchDefaults):
    """KV Recache (LongLive, arXiv 2509.22622): encode the cached clean frames again under the new prompt.

    `sink` "keep": sinks (and memory) keep their old keys and the cached recent frames are encoded again; "rebuild": the
    last min(window, generated) frames are, and the first of them become the sinks. `attention` "causal": in their
    original blocks; "bidirectional": in one pass (as released).
    """

    kind: ClassVar[str] = "recache"
    flushes: ClassVar[bool] = False
    replays: ClassVar[bool] = True
    attention: Literal["causal", "bidirectional"] = "causal"
    sink: Literal["keep", "rebuild"] = "keep"

    def on_switch(self, slots: Sequence[Slot], block: Block, window: int) -> tuple[Edit, Replay | None]:
        """The edit and the frames to encode again."""
        both = self.attention == "bidirectional"
        sinks, memory, recent = (of_role(slots, role) for role in Role)
        if self.sink == "rebuild":
            frames = range(block.start - min(window, block.start), block.start)
            return keep(slots, ()), Replay(tuple(frames), len(sinks), both)
        # Sinks alone keep their keys: there is nothing to encode again.
        if not recent:
            return keep(slots, range(len(slots))), None
        return keep(slots, sinks + memory), Replay(tuple(slots[i].frame for i in recent), 0, both)


SWITCHES = {rule.kind: rule for rule in (Keep, Flush, Recache)}
