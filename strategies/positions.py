"""Positional schemes: where in time the cached frames and the block sit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.parts import PositionsDefaults
from rollout.slots import BLOCK, Block, Role, Slot, View
from rollout.specs import LEFT_OUT
from rollout.strategy import Strategy

__all__ = ["POSITIONS", "TRAINED", "Absolute", "Cut", "Online", "Relativistic"]

TRAINED = 21
"""Latent frames of the training horizon of the Self-Forcing family (arXiv 2506.08009)."""


@dataclass(frozen=True)
class Cut:
    """RoPE Cut (Infinity-RoPE, arXiv 2511.20649, figure 5): where a cut's block goes for that one block.

    The first `keep` frames stay; the rest move so that the last sits at index `to`; null is max(20, head - 1).
    """

    to: int | None = None
    keep: int = 1

    def __post_init__(self) -> None:
        if self.to is not None and self.to < 0:
            raise SpecError(f"cut: to={self.to} is negative; it is the index of the block's last frame, 0 or more.")
        if self.keep < 0:
            raise SpecError(f"cut: keep={self.keep} is negative; it counts the block's frames that stay.")

    def target(self, head: int) -> int:
        """The index of the block's last frame under a head (or window) of `head` frames."""
        # The end of the trained indices, or of a window that reaches further.
        return max(TRAINED - 1, head - 1) if self.to is None else self.to

    def jump(self, natural: Sequence[int], head: int) -> tuple[int, ...]:
        """The block's indices after the cut, from its natural ones."""
        last = len(natural) - 1
        move = self.target(head) - natural[-1]
        return tuple(index + (0 if i < self.keep and i <= last else move) for i, index in enumerate(natural))

    def check(self, natural: int, kind: str) -> None:
        """Refuse a target below the place that the block's last frame may have without a cut."""
        if self.to is not None and self.to < natural:
            raise CompositionError(
                f"cut: to={self.to} of positions '{kind}' lies below index {natural}, where the block ends without a cut; "
                f"a cut jumps ahead. Use to={natural} (a plain flush) or more."
            )


@dataclass(frozen=True)
class Absolute(PositionsDefaults):
    """The frame's own number (Self-Forcing, arXiv 2506.08009): ends with the model's position table; a cut only flushes."""

    kind: ClassVar[str] = "absolute"
    by_slot: ClassVar[bool] = False

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        """Every frame at its own number, or at the date that its policy gives it."""
        return View(tuple(slot.time for slot in slots), tuple(range(block.start, block.end)))

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """Refuse a rollout that runs past the position table."""
        if spec is not None and frames is not None and frames > spec.table:
            raise CompositionError(
                f"positions 'absolute' end at frame {spec.table - 1}, the last of {spec.name}'s position table: this rollout of "
                f"{frames} frames would fail at second {spec.seconds(spec.table):.1f}. Shorten the script or use "
                "positions='relativistic' or 'online'."
            )


@dataclass(frozen=True)
class Relativistic(PositionsDefaults):
    """Block-Relativistic RoPE (Infinity-RoPE, arXiv 2511.20649): the newest block always ends a fixed local frame.

    The block's last frame sits at min(frames so far, head) - 1 and a cached frame d frames before it d lower; sinks sit
    at 0, 1, ..., memory right after; frames that would fall onto them collapse onto the lowest free index
    ("semanticization"). `head` counts from 1; null is the window, at most the trained frames. `beyond` lets it lie beyond
    those (the released deep sink of arXiv 2512.05081 is at head 24 of 21).
    """

    kind: ClassVar[str] = "relativistic"
    by_slot: ClassVar[bool] = True
    head: int | None = None
    cut: Cut = field(default_factory=Cut)
    beyond: bool = field(default=False, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        if self.head is not None and self.head < 1:
            raise SpecError(
                f"relativistic: head={self.head} is no frame count; it is 1 or more, or null for the window."
            )

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        """Sinks and memory at the start, the rest by distance from the block's end."""
        head = window if self.head is None else self.head
        last = min(block.end, head) - 1
        floor = sum(slot.role is not Role.RECENT for slot in slots)

        def index(frame: int) -> int:
            return max(floor, last - (block.end - 1 - frame))

        indices = tuple(i if slot.role is not Role.RECENT else index(slot.frame) for i, slot in enumerate(slots))
        block_indices = tuple(index(frame) for frame in range(block.start, block.end))
        return View(indices, self.cut.jump(block_indices, head) if block.cut else block_indices)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """Head within the trained frames and large enough; a cut that jumps ahead."""
        trained, block = (spec.trained, spec.block) if spec else (TRAINED, BLOCK)
        head = min(strategy.span, trained) if self.head is None else self.head
        if self.head is not None and spec is not None and head > trained and not self.beyond:
            raise CompositionError(
                f"head {head} of positions 'relativistic' lies beyond the {trained} frames that {spec.name} was trained on. "
                f"Use a head of at most {trained}, or beyond=true."
            )
        if head < strategy.pinned + block:
            raise CompositionError(
                f"head {head} of positions 'relativistic' has no room for {strategy.pinned} sink and memory frames and a block "
                f"of {block}. Use a head of at least {strategy.pinned + block}."
            )
        self.cut.check(head - 1, self.kind)


@dataclass(frozen=True)
class Online(PositionsDefaults):
    """Online RoPE indexing (MemRoPE, arXiv 2603.12513): 0, 1, ... over the cache in its order, then the block."""

    kind: ClassVar[str] = "online"
    by_slot: ClassVar[bool] = True
    cut: Cut = field(default_factory=Cut)

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        """Contiguous indices, the block last."""
        n = len(slots)
        block_indices = tuple(range(n, n + block.frames))
        return View(tuple(range(n)), self.cut.jump(block_indices, window) if block.cut else block_indices)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """No index of the window beyond the trained frames; a cut that jumps ahead of a flushed cache."""
        block = spec.block if spec else BLOCK
        window = strategy.span
        if spec is not None and window > spec.trained:
            raise CompositionError(
                f"positions 'online' would reach index {window - 1} with a window of {window}, "
                f"beyond the {spec.trained} frames that {spec.name} was trained on. Use a window of at most {spec.trained}, or "
                "positions='relativistic', which collapse older frames."
            )
        survivors = strategy.switch.last if strategy.switch.flushes else 1
        natural = strategy.policy.sink + survivors + block - 1
        self.cut.check(min(natural, window - 1), self.kind)


POSITIONS = {rule.kind: rule for rule in (Absolute, Relativistic, Online)}
