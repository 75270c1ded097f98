"""Micro-benchmarks of the cache at Wan's geometry: pytest benchmarks/speed. Nothing is asserted; see rollout bench speed."""

from typing import Any

import pytest
import torch

from rollout.benchmarks.speed.handling import Floor, Ours, Plain, geometry
from rollout.benchmarks.speed.overhead import COMPOSITIONS
from rollout.strategy import Strategy

__all__ = ["WINDOWS", "test_ours", "test_the_floor_and_the_plain_handling"]

WINDOWS = (6, 21)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_ours(benchmark: Any, composition: str, window: int) -> None:
    """A block's five passes, attention left out."""
    benchmark.group = f"window {window}"
    ours = Ours(Strategy.from_text(COMPOSITIONS[composition].format(w=window)), geometry(), torch.float32)
    ours.fill()
    benchmark.pedantic(ours.block, setup=lambda: ((ours.step(),), {}), rounds=7)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("way", [Floor, Plain])
def test_the_floor_and_the_plain_handling(benchmark: Any, way: type[Floor] | type[Plain], window: int) -> None:
    """Between what no handling can do without and the released one."""
    benchmark.group = f"window {window}"
    other = way(window, 1, geometry(), torch.float32)
    benchmark.pedantic(other.block, rounds=5, warmup_rounds=1)
