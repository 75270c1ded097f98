"""The few-step flow-matching schedule and its step (Self-Forcing, arXiv 2506.08009)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.slots import Block

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rollout.backend import Attend, Backend

__all__ = ["Noise", "Schedule", "sample", "seeded"]

Noise = Callable[[Block, int], "Tensor"]
"""(block, step) -> standard normal (B, F, C, H, W); step 0 starts the block, step k re-noises after step k."""


@dataclass(frozen=True)
class Schedule:
    """Timesteps as fractions of 1000, warped by sigma' = shift s / (1 + (shift - 1) s).

    `context` is the timestep (0..1000) of the clean pass that writes the cache.
    """

    steps: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    shift: float = 5.0
    context: float = 0.0

    def __post_init__(self) -> None:
        if (
            not self.steps
            or any(not 0 < s <= 1 for s in self.steps)
            or list(self.steps) != sorted(set(self.steps), reverse=True)
        ):
            raise RolloutError(
                f"the steps {self.steps} are no falling noise levels in (0, 1]. Use such as 1, 0.75, 0.5, 0.25."
            )
        if self.shift <= 0 or not 0 <= self.context < 1000:
            raise RolloutError(f"shift {self.shift} must be above 0 and context noise {self.context} within 0..1000.")

    @classmethod
    def of(cls, steps: int, shift: float = 5.0, context: float = 0.0) -> "Schedule":
        """`steps` evenly spaced levels from 1 down, warped: 4 is the released schedule 1, .75, .5, .25."""
        if steps < 1:
            raise RolloutError(f"{steps} denoising steps are too few. Use 1 or more; the models are made for 4.")
        return cls(tuple(1 - i / steps for i in range(steps)), shift, context)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels after the shift, falling from 1."""
        return tuple(self.shift * s / (1 + (self.shift - 1) * s) for s in self.steps)


def sample(
    backend: "Backend", block: Block, noise: Noise, prompt: "Tensor", attend: "Attend", schedule: Schedule
) -> "Tensor":
    """Denoise one block to x0 (B, F, C, H, W), with fresh noise between the steps."""
    sigmas: Sequence[float] = schedule.sigmas
    x = noise(block, 0)
    for step, sigma in enumerate(sigmas):
        x0 = x - sigma * backend.denoise(x, 1000 * sigma, prompt, attend)
        if step + 1 < len(sigmas):
            after = sigmas[step + 1]
            x = (1 - after) * x0 + after * noise(block, step + 1)
    return x0


def seeded(seeds: Sequence[int], latent: tuple[int, int, int], *, device: "torch.device | str" = "cpu") -> Noise:
    """Noise that depends on (seed, block, step) alone, one seed a batch row: the same whatever the strategy or order."""
    import torch

    def noise(block: Block, step: int) -> "Tensor":
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(_mix(seed, block.index, step))
            rows.append(torch.randn(block.frames, *latent, generator=generator))
        return torch.stack(rows).to(device)

    return noise


def _mix(*values: int) -> int:
    """A 63-bit hash of integers (splitmix64 rounds), so that neighbouring seeds and blocks share nothing."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & (2**64 - 1))) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 27
        state = state * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1
