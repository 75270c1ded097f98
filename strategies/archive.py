"""Rolling Sink: an archive of the first window stands in for what grows old."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.parts import PolicyDefaults
from rollout.slots import BLOCK, NO_FACTS, Block, Edit, Facts, Mix, Role, Slot, keep, of_role
from rollout.strategies.policies import admit, check_window
from rollout.strategy import Strategy

__all__ = ["POLICIES", "Archive"]


@dataclass(frozen=True)
class Archive(PolicyDefaults):
    """The first window for ever, played to and fro in place of what grows old (Rolling Sink, arXiv 2602.07775).

    The first window - 3 frames are an archive. Of the frames that a block sees only the newest cached block is real: the
    others hold a frame of the archive, and keep their date. Which one, a triangle wave over the date says.
    """

    kind: ClassVar[str] = "archive"
    window: int = 21

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, 0)
        if self.window <= 2 * BLOCK:
            raise SpecError(
                f"archive: window={self.window} leaves no archive beside two blocks. Use {2 * BLOCK + 1} or more."
            )

    @property
    def sink(self) -> int:
        """Frames of the archive."""
        return self.window - BLOCK

    @property
    def spare(self) -> int:
        """The archive is stored beside what is read."""
        return self.sink

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """No switch that encodes frames again: most of the cached ones stand for others."""
        if strategy.switch.replays:
            raise CompositionError(
                f"policy 'archive' holds copies in place of old frames, and switch '{strategy.switch.kind}' encodes cached "
                "frames again. Use switch='keep' or 'flush'."
            )

    def _archived(self, date: int) -> int:
        """The archive's frame for a date: ... 16 17 17 16 ... 1 0 0 1 ..."""
        phase = date % (2 * self.sink)
        return phase if phase < self.sink else 2 * self.sink - 1 - phase

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """The oldest dates go; what is older than the newest cached block becomes a copy of the archive."""
        sinks, recent = of_role(slots, Role.SINK), of_role(slots, Role.RECENT)
        if not recent or len(sinks) < self.sink:
            return keep(slots, range(len(slots)))
        archive = {slots[i].frame: i for i in sinks}
        newest, oldest = slots[recent[-1]], slots[recent[-1]].time + 1 + frames - self.window
        new, rows = [slots[i] for i in sinks], [Mix(((i, 1.0),)) for i in sinks]
        for i in recent:
            slot, frame = slots[i], self._archived(slots[i].time)
            if slot.time < oldest:
                continue
            if slot.block != newest.block and frame in archive:
                i, slot = archive[frame], replace(slots[archive[frame]], role=Role.RECENT, date=slot.time)
            new.append(slot)
            rows.append(Mix(((i, 1.0),)))
        return Edit(tuple(new), tuple(rows))

    def readable(self, slots: Sequence[Slot], block: Block) -> tuple[int, ...]:
        """What is dated within the window."""
        oldest = block.end - self.window
        return tuple(i for i, slot in enumerate(slots) if slot.time >= oldest)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """The first frames of all are the archive."""
        return admit(block, self.sink)


POLICIES = {Archive.kind: Archive}
