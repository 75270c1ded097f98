"""The few-step flow-matching schedule and its noise (Self-Forcing, arXiv 2506.08009)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.slots import Block
from rollout.text import Json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["LEVELS", "MOST_SEED", "Noise", "Schedule", "check_seed", "seeded"]

MOST_SEED = 2**63 - 1
"""The largest seed: every file format and library that a seed passes through holds it."""
LEVELS = 1000
"""Levels of noise that models are trained on: their timesteps."""

Noise = Callable[[Block, int], "Tensor"]
"""(block, step) -> standard normal (B, F, C, H, W); step 0 starts the block, step k re-noises after step k."""


@dataclass(frozen=True)
class Schedule:
    """Timesteps as fractions of 1000, warped by sigma' = shift s / (1 + (shift - 1) s).

    `context` is the timestep (0..1000) of the clean pass that writes the cache. Without `warp` the model is told the steps
    as they are, and the noise level is that of the nearest of 1000 shifted ones (CausVid, arXiv 2412.07772). `first`: the
    first generated block's own steps (Causal Forcing). Without `renoise` a step goes straight to the next level along the
    flow (Euler), as models that are not distilled need it.
    """

    steps: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    shift: float = 5.0
    context: float = 0.0
    warp: bool = True
    first: "Schedule | None" = None
    renoise: bool = True

    def __post_init__(self) -> None:
        if (
            not self.steps
            or any(not 0 < s <= 1 for s in self.steps)
            or list(self.steps) != sorted(set(self.steps), reverse=True)
        ):
            raise RolloutError(
                f"the steps {self.steps} are no falling noise levels in (0, 1]. Use such as 1, 0.75, 0.5, 0.25."
            )
        if not 0 < self.shift < float("inf") or not 0 <= self.context < 1000:
            raise RolloutError(
                f"shift {self.shift} must be a number above 0, and context noise {self.context} one within 0..1000."
            )
        if self.first is not None and self.first.first is not None:
            raise RolloutError(
                "the first block's schedule names another one for the first block. Give its steps alone."
            )

    @classmethod
    def of(cls, steps: int, shift: float = 5.0, context: float = 0.0, *, renoise: bool = True) -> "Schedule":
        """`steps` evenly spaced levels from 1 down, warped: 4 is the released schedule 1, .75, .5, .25."""
        if steps < 1:
            raise RolloutError(f"{steps} denoising steps are too few. Use 1 or more; the models are made for 4.")
        if steps > LEVELS:
            raise RolloutError(f"{steps} denoising steps are more than the {LEVELS} levels of noise. Use fewer.")
        return cls(tuple(1 - i / steps for i in range(steps)), shift, context, renoise=renoise)

    def to_dict(self) -> Json:
        """As JSON; what is as usual of `warp`, `first` and `renoise` is left out."""
        data: Json = {"steps": list(self.steps), "shift": self.shift, "context": self.context}
        data |= {} if self.warp else {"warp": False}
        data |= {} if self.renoise else {"renoise": False}
        return data | ({} if self.first is None else {"first": self.first.to_dict()})

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, falling from 1 at the most."""
        return tuple(sigma for _, sigma in self.levels)

    @property
    def levels(self) -> tuple[tuple[float, float], ...]:
        """Of each step the timestep (0..1000) that the model is told, and the noise level."""
        if self.warp:
            sigmas = [self._shifted(s) for s in self.steps]
            return tuple((1000 * sigma, sigma) for sigma in sigmas)
        table = [self._shifted(n / 1000) for n in range(1, 1001)]
        return tuple((1000 * s, min(table, key=lambda sigma: abs(sigma - s))) for s in self.steps)

    def _shifted(self, s: float) -> float:
        return self.shift * s / (1 + (self.shift - 1) * s)

    def step(self, x: "Tensor", flow: "Tensor", level: int, fresh: "Callable[[int], Tensor]") -> "Tensor":
        """Latents after the step at `level`: clean after the last, else at the next level, with the noise fresh(level + 1)."""
        levels = self.levels
        clean = x - levels[level][1] * flow
        if level + 1 == len(levels):
            return clean
        sigma = levels[level + 1][1]
        if not self.renoise:
            return clean + sigma * flow
        return (1 - sigma) * clean + sigma * fresh(level + 1)

    def of_block(self, index: int) -> "Schedule":
        """The schedule of a block, counted from the first that is generated."""
        return self.first if index == 0 and self.first is not None else self


def check_seed(seed: int) -> None:
    """Raise RolloutError for a seed that is none: beyond 64 bits two of them would be one."""
    if not 0 <= seed <= MOST_SEED:
        raise RolloutError(f"the seed {seed} is not within 0 and {MOST_SEED}. Use a smaller whole number.")


def seeded(seeds: Sequence[int], latent: tuple[int, int, int], *, device: "torch.device | str" = "cpu") -> Noise:
    """Noise that depends on (seed, block, step) alone, one seed a batch row: the same whatever the strategy or order.

    Raises RolloutError for a seed that is not within 0 and 2**63 - 1.
    """
    import torch

    from rollout.devices import staged

    for seed in seeds:
        check_seed(seed)

    def noise(block: Block, step: int) -> "Tensor":
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(_mix(seed, block.index, step))
            rows.append(torch.randn(block.frames, *latent, generator=generator))
        return staged(torch.stack(rows), device)

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
