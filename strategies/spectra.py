"""Spectra: multipliers of the temporal frequencies of rotary positions."""

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from rollout.backend import Spec
from rollout.errors import CompositionError, SpecError
from rollout.refinements import SpectrumDefaults
from rollout.strategy import Strategy

__all__ = ["SPECTRA", "Interpolate", "Jitter", "Ntk", "Plain", "Riflex"]


def _check_factor(kind: str, factor: float) -> None:
    if not factor >= 1:
        raise SpecError(f"{kind}: factor={factor:g} is below 1; it says how many times longer than trained, 1 or more.")


@dataclass(frozen=True)
class Plain(SpectrumDefaults):
    """The frequencies that the model was trained with (RoFormer, arXiv 2104.09864)."""

    kind: ClassVar[str] = "plain"

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """All 1."""
        return ((1.0,) * spec.axes[0],)


@dataclass(frozen=True)
class Jitter(SpectrumDefaults):
    """A base angle of its own for every head, so that not all heads fall back on the sink at once (LoL, arXiv 2601.16914).

    theta (1 + scale e) with e uniform in [-1, 1], drawn once from `seed`, in every layer the same.
    """

    kind: ClassVar[str] = "jitter"
    scale: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < 1:
            raise SpecError(
                f"jitter: scale={self.scale:g} is outside [0, 1): a head's base angle would be 0 or negative."
            )

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """A row a head."""
        draw, pairs = Random(self.seed), spec.axes[0]
        factors = [1 + self.scale * draw.uniform(-1, 1) for _ in range(spec.heads)]
        return tuple(tuple(factor ** (-pair / pairs) for pair in range(pairs)) for factor in factors)

    def check(self, strategy: Strategy, spec: Spec | None, frames: int | None) -> None:
        """A base angle that stays at 1 or above, for the head that is turned most."""
        if spec is not None and spec.theta * (1 - self.scale) < 1:
            raise CompositionError(
                f"spectrum 'jitter' takes {spec.name}'s base angle {spec.theta:g} below 1. Use a smaller scale."
            )


@dataclass(frozen=True)
class Interpolate(SpectrumDefaults):
    """Every frequency divided by `factor`: positions in between those of training (arXiv 2306.15595)."""

    kind: ClassVar[str] = "interpolate"
    factor: float = 2.0

    def __post_init__(self) -> None:
        _check_factor(self.kind, self.factor)

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """All 1 / factor."""
        return ((1 / self.factor,) * spec.axes[0],)


@dataclass(frozen=True)
class Ntk(SpectrumDefaults):
    """A larger base: the fastest frequency stays, the slowest is divided by `factor` (NTK-aware scaling, arXiv 2309.00071)."""

    kind: ClassVar[str] = "ntk"
    factor: float = 2.0

    def __post_init__(self) -> None:
        _check_factor(self.kind, self.factor)

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """factor^(-k / (pairs - 1)) for the k-th pair."""
        last = max(1, spec.axes[0] - 1)
        return (tuple(self.factor ** (-pair / last) for pair in range(spec.axes[0])),)


@dataclass(frozen=True)
class Riflex(SpectrumDefaults):
    """The frequency whose period is nearest the trained length is slowed, so that it does not come round (arXiv 2502.15894).

    Its period becomes that of `factor` times the trained length, and a tenth more.
    """

    kind: ClassVar[str] = "riflex"
    factor: float = 2.0

    def __post_init__(self) -> None:
        _check_factor(self.kind, self.factor)

    def multipliers(self, spec: Spec) -> tuple[tuple[float, ...], ...]:
        """1 but for that one pair."""
        pairs = spec.axes[0]
        frequencies = [spec.theta ** (-pair / pairs) for pair in range(pairs)]
        nearest = min(range(pairs), key=lambda pair: abs(2 * math.pi / frequencies[pair] - spec.trained))
        slow = 0.9 * 2 * math.pi / (spec.trained * self.factor)
        return (tuple(min(1.0, slow / f) if pair == nearest else 1.0 for pair, f in enumerate(frequencies)),)


SPECTRA = {rule.kind: rule for rule in (Plain, Jitter, Interpolate, Ntk, Riflex)}
