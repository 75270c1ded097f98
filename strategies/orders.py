"""Orders: in which order blocks are denoised."""

from dataclasses import dataclass
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError
from rollout.refinements import OrderDefaults
from rollout.slots import Pass
from rollout.strategy import Strategy

__all__ = ["ORDERS", "Blocks", "Rolling"]


@dataclass(frozen=True)
class Blocks(OrderDefaults):
    """One block after the other, each from noise to clean (Self-Forcing, arXiv 2506.08009)."""

    kind: ClassVar[str] = "blocks"

    def passes(self, index: int, steps: int, last: int | None) -> tuple[Pass, ...]:
        """A noisy pass a step, then the clean one."""
        noisy = tuple(Pass((index,), (level,)) for level in range(steps))
        return (*noisy, Pass((index,), (steps,), writes=True))


@dataclass(frozen=True)
class Rolling(OrderDefaults):
    """As many blocks at once as there are steps, each a step noisier than the one before (Rolling Forcing, arXiv 2509.25161).

    One joint pass in which blocks see each other, then the clean pass of the oldest. The window fills up before the first
    block and empties after the last.
    """

    kind: ClassVar[str] = "rolling"

    def joint(self, steps: int) -> int:
        """A block a step."""
        return steps

    def passes(self, index: int, steps: int, last: int | None) -> tuple[Pass, ...]:
        """The joint pass in which the block gets clean, for the first block those that fill the window too."""
        ends = range(steps) if index == 0 else (index + steps - 1,)
        noisy = []
        for end in ends:
            blocks = tuple(range(index, 1 + (end if last is None else min(end, last))))
            noisy.append(Pass(blocks, tuple(end - block for block in blocks)))
        return (*noisy, Pass((index,), (steps,), writes=True))

    def check_plan(self, steps: int, blocks: int | None) -> None:
        """At least two steps, and as many blocks as steps."""
        if steps < 2:
            raise CompositionError("order 'rolling' with one step rolls nothing. Use more steps, or order 'blocks'.")
        if blocks is not None and blocks < steps:
            raise CompositionError(
                f"order 'rolling' denoises {steps} blocks at once and this rollout has {blocks}. Make it longer, take fewer "
                "steps, or use order 'blocks'."
            )

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """A limit to what a pass reads, and no picks, whose queries would be those of several noise levels."""
        window = strategy.policy.window
        if strategy.reads.span(window + 10**6) > window:
            raise CompositionError(
                "order 'rolling' reads several blocks beside the cache: limit what a pass reads to the window. Use "
                "reads='newest'."
            )


ORDERS = {rule.kind: rule for rule in (Blocks, Rolling)}
