"""CausVid's long videos: clips, each of which starts anew from the last frames of the one before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.parts import PolicyDefaults
from rollout.slots import BLOCK, NO_FACTS, Block, Edit, Facts, Replay, Slot, keep
from rollout.strategies.policies import admit, check_window, evict_oldest
from rollout.strategy import Strategy

__all__ = ["POLICIES", "Clips"]


@dataclass(frozen=True)
class Clips(PolicyDefaults):
    """Clips of `window` frames (CausVid, arXiv 2412.07772): a full one is forgotten, but for its last `overlap` frames.

    Those are encoded again, alone, and begin the next clip. The released code also takes the first of them through the VAE
    once more, as a single image; here its latents stay as they are.
    """

    kind: ClassVar[str] = "clips"
    window: int = 21
    overlap: int = 3

    def __post_init__(self) -> None:
        check_window(self.kind, self.window, self.overlap)
        if self.overlap < 1:
            raise SpecError("clips: overlap=0 begins each clip from nothing. Use a block's frames, 3, or more.")

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """An overlap of whole blocks, and room for one more."""
        block = spec.block if spec else BLOCK
        if self.overlap % block or self.window < self.overlap + block:
            raise CompositionError(
                f"policy 'clips' goes on from overlap={self.overlap} of window={self.window} frames: give whole blocks of "
                f"{block}, and room for one more."
            )

    def renew(self, slots: Sequence[Slot], block: Block) -> tuple[Edit, Replay] | None:
        """Begin the next clip where this one is full."""
        if len(slots) + block.frames <= self.window:
            return None
        return keep(slots, ()), Replay(tuple(range(block.start - self.overlap, block.start)))

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        """Nothing goes within a clip."""
        return evict_oldest(slots, self.window - frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        """Every frame is a recent one."""
        return admit(block)


POLICIES = {Clips.kind: Clips}
