"""What the cache measures for policies that declare a need: plain numbers a slot, so that policies stay pure."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rollout.registry import find

if TYPE_CHECKING:  # strategies name facts without torch
    from torch import Tensor

__all__ = ["FACTS", "HEADS", "QUERIES", "Measure", "head_masses", "mass", "measure"]

QUERIES = "queries"
"""A need that is no number: the queries of the last clean pass, which picks may score with."""
HEADS = "heads"
"""A need that is no number a slot: how every head's attention is spread, by which a policy sorts heads into lanes."""
Measure = Callable[["Tensor", int], "Tensor"]
"""(logits (B, heads, queries, keys) of a clean pass, number of frames whose keys they are) to one number a frame."""


def mass(logits: "Tensor", frames: int) -> "Tensor":
    """The share of attention that each frame's keys get, mean over batch, heads and queries; the shares sum to 1."""
    weights = logits.softmax(-1).mean((0, 1, 2))
    return weights.view(frames, -1).sum(-1)


FACTS = {"mass": mass}


def measure(name: str, q: "Tensor", keys: "Tensor", bias: "Tensor | None", tokens: int) -> "Tensor":
    """A fact of each frame that a pass reads, from rotated q and keys (B, heads, tokens, D), in float32."""
    fact = find("facts", name)
    logits = q.float() @ keys.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    numbers: Tensor = fact(logits if bias is None else logits + bias, keys.shape[2] // tokens)
    return numbers.float()


def head_masses(q: "Tensor", keys: "Tensor", tokens: int) -> "Tensor":
    """The share of each head's attention (heads, frames) that each frame's keys get, mean over batch and queries."""
    logits = q.float() @ keys.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = logits.softmax(-1).mean((0, 2))
    return weights.view(len(weights), -1, tokens).sum(-1)
