"""Rotary position embedding on three axes (time, height, width), as pure functions.

Convention of Wan 2.1: interleaved pairs, channels ordered time, height, width (RoFormer, arXiv 2104.09864, section
3.2, applied per axis). Angles are float64 until cos and sin are taken, so that a million-frame index is as exact as a
small one, and computed on the device, so that no table is copied there. A pair is a complex number and a rotation one
multiplication: a single pass over memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rollout.backend import Axes

__all__ = ["CHUNK", "angles", "angles_on", "coherence", "rotate", "table"]

CHUNK = 2**20
"""Numbers in 16 bits that a thread of a CPU rotates at once, as float32 that stays in its cache."""


def angles(
    indices: Sequence[int] | Tensor, pairs: int, theta: float = 10000.0, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Rotation angles (n, pairs) in radians, float64, of whole indices, or a tensor of real ones (n,), on one axis."""
    index = indices.double() if isinstance(indices, Tensor) else _counted(indices, device)
    frequency = theta ** (-torch.arange(pairs, dtype=torch.float64, device=index.device) / pairs)
    return index[:, None] * frequency


def _counted(indices: Sequence[int], device: torch.device | str) -> Tensor:
    """Whole numbers in float64, counted on the device: a copy from the host would make it wait."""
    starts = [n for n, index in enumerate(indices) if n == 0 or index != indices[n - 1] + 1]
    stretches = [
        torch.arange(indices[start], indices[end - 1] + 1, dtype=torch.float64, device=device)
        for start, end in zip(starts, [*starts[1:], len(indices)], strict=True)
    ]
    return torch.cat(stretches) if stretches else torch.zeros(0, dtype=torch.float64, device=device)


def _turns(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def angles_on(device: torch.device | str) -> torch.device:
    """Where the angles of a device's tables are computed: there, but that Apple's GPUs have no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def coherence(distances: Sequence[int] | Tensor, pairs: int, theta: float = 10000.0) -> Tensor:
    """How much a key at a temporal distance (n,) looks as if it were at distance 0: |mean of exp(i d theta_k)| over pairs.

    1 at distance 0, and wherever all pairs come round; (n,) float64.
    """
    return _turns(angles(distances, pairs, theta)).mean(1).abs()


def table(
    frames: Sequence[int] | Tensor,
    grid: tuple[int, int],
    axes: Axes,
    *,
    theta: float = 10000.0,
    multipliers: Tensor | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Turns cos + i sin (frames*h*w, sum(axes)), of whole frames at the given temporal indices, tokens row by row.

    `multipliers` (heads or 1, axes[0]) of the temporal frequencies: then (frames*h*w, heads or 1, sum(axes)).
    """
    if multipliers is not None:
        return _with_spectrum(frames, grid, axes, theta, multipliers, device, dtype)
    h, w = grid
    n = len(frames)
    kind = torch.complex128 if dtype == torch.float64 else torch.complex64
    time, row, column = (
        _turns(angles(index, pairs, theta, device=angles_on(device))).to(device, kind)
        for index, pairs in zip((frames, range(h), range(w)), axes, strict=True)
    )
    parts = (
        time[:, None, None].expand(n, h, w, axes[0]),
        row[None, :, None].expand(n, h, w, axes[1]),
        column[None, None].expand(n, h, w, axes[2]),
    )
    return torch.cat(parts, -1).reshape(n * h * w, sum(axes))


def _with_spectrum(
    frames: Sequence[int] | Tensor,
    grid: tuple[int, int],
    axes: Axes,
    theta: float,
    multipliers: Tensor,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Tensor:
    """A table whose temporal frequencies are multiplied, one row of multipliers a head."""
    plain = table(frames, grid, axes, theta=theta, device=device, dtype=dtype)
    tokens, heads = grid[0] * grid[1], len(multipliers)
    angle = angles(frames, axes[0], theta, device=angles_on(device))[:, None]
    time = _turns(angle * multipliers.to(angle.device, torch.float64)).to(device, plain.dtype)
    space = plain[:, None, axes[0] :].expand(-1, heads, -1)
    return torch.cat([time.repeat_interleave(tokens, 0), space], -1)


def rotate(x: Tensor, turns: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Rotate x (B, tokens, heads, D) by turns (tokens or 1, D/2), in the turns' precision; into `out` where it is given.

    Turns (tokens or 1, heads or 1, D/2) tell heads apart.
    """
    turns = turns if turns.ndim == 3 else turns[:, None]
    exact = torch.float64 if turns.dtype == torch.complex128 else torch.float32
    if x.dtype == exact and (out is None or out.dtype == exact):
        if out is None:
            return torch.view_as_real(_pairs(x) * turns).flatten(-2)
        torch.mul(_pairs(x), turns, out=_pairs(out))
        return out
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    tokens = x.shape[1]
    chunk = CHUNK * torch.get_num_threads() if x.device.type == "cpu" else x.numel()
    step = max(1, chunk * tokens // max(1, x.numel()))
    for begin in range(0, tokens, step):
        part = slice(begin, begin + step)
        rotation = x[:, part].to(exact, copy=True, memory_format=torch.contiguous_format)
        _pairs(rotation).mul_(turns if len(turns) == 1 else turns[part])
        out[:, part] = rotation
    return out


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(*x.shape[:-1], x.shape[-1] // 2, 2))
