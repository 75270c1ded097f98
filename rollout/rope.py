"""Rotary position embedding on three axes (time, height, width), as pure functions.

Convention of Wan 2.1: interleaved pairs, channels ordered time, height, width (RoFormer, arXiv 2104.09864, section
3.2, applied per axis). Angles are float64 until cos and sin are taken, so that a million-frame index is as exact as a
small one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rollout.backend import Axes

Table = tuple[Tensor, Tensor]
"""cos and sin, each (tokens, pairs)."""


def angles(indices: Sequence[int] | Tensor, pairs: int, theta: float = 10000.0) -> Tensor:
    """Rotation angles (n, pairs) in radians, float64, of integer or real indices (n,) on one axis."""
    index = torch.as_tensor(indices, dtype=torch.float64)
    frequency = theta ** (-torch.arange(pairs, dtype=torch.float64, device=index.device) / pairs)
    return index[:, None] * frequency


def table(
    frames: Sequence[int] | Tensor,
    grid: tuple[int, int],
    axes: Axes,
    *,
    theta: float = 10000.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Table:
    """cos and sin (frames*h*w, sum(axes)) for whole frames at the given temporal indices, tokens row by row."""
    h, w = grid
    n = len(frames)
    time = angles(frames, axes[0], theta)[:, None, None].expand(n, h, w, axes[0])
    row = angles(range(h), axes[1], theta)[None, :, None].expand(n, h, w, axes[1])
    column = angles(range(w), axes[2], theta)[None, None].expand(n, h, w, axes[2])
    angle = torch.cat([time, row, column], -1).reshape(n * h * w, sum(axes))
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Tensor, at: Table) -> Tensor:
    """Rotate x (B, tokens, heads, D) by cos and sin (tokens, D/2); computed in the table's dtype, returned in x's."""
    cos, sin = (part[:, None] for part in at)
    even, odd = x.to(cos.dtype).view(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
