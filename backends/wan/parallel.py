"""A Wan over several processes (Ulysses, arXiv 2309.14509): each has a tile of the picture, and in attention some heads."""

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from rollout.backend import Attend, Decoder, Spec
from rollout.backends.wan.model import Wan
from rollout.errors import BackendError
from rollout.ranks import Ranks
from rollout.text import Json

__all__ = ["PICTURE", "PICTURE_TOKENS", "NoDecoder", "Parallel", "tiles"]

PICTURE, PICTURE_TOKENS = "(rows h) (columns w)", "rows h columns w"
"""A picture of tiles (h, w), and its tokens in order."""


class Parallel(Wan):
    """A Wan whose latents are cut into tiles, one a process; `attend` gets all tokens, of the heads of this process alone.

    Every process has the whole transformer, and its own part of keys, values and work. The first one encodes and decodes.
    """

    def __init__(self, transformer: Any, ranks: Ranks, **options: Any) -> None:
        super().__init__(transformer, **options)
        self.ranks: Ranks = ranks
        rows, columns = tiles(self.spec, ranks.count)
        self._tiles = {"rows": rows, "columns": columns}

    def encode(self, prompt: str) -> Tensor:
        """Text features (1, 512, 4096), which the first process computes."""
        return self.ranks.once(lambda: super(Parallel, self).encode(prompt), self.device)

    def encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        """Latents (F, C, H, W) of the first whole blocks of a video of the model's size, which the first process computes."""
        return self.ranks.once(lambda: super(Parallel, self).encode_video(frames), self.device)

    def decoder(self) -> Decoder:
        """A fresh decoder for one stream; of the other processes one that gives no frames."""
        if self.ranks.first:
            return super().decoder()
        return NoDecoder([self.family.spatial * side for side in self.spec.latent[1:]])

    @torch.no_grad()
    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """The flow at x (B, F, C, H, W), in all processes; each runs the transformer on its tile."""
        tiles = rearrange(x, f"batch f c {PICTURE} -> (rows columns) batch f c h w", **self._tiles)
        flow = super().denoise(tiles[self.ranks.number].contiguous(), t, prompt, self._over_ranks(attend, x.shape[1]))
        flows = self.ranks.join(flow[None], 0)
        return rearrange(flows, f"(rows columns) batch f c h w -> batch f c {PICTURE}", **self._tiles)

    def _over_ranks(self, attend: Attend, frames: int) -> Attend:
        """Attention of a tile's tokens, all heads, by one of all tokens of some heads: exchanged before and after."""
        sizes = {**self._tiles, "f": frames, "w": self.spec.grid[1] // self._tiles["columns"]}
        count = self.ranks.count

        def attend_tile(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            three = torch.stack([q, k, v.to(q.dtype)])
            shares = rearrange(
                three, "three batch tokens (count heads) d -> count three batch tokens heads d", count=count
            )
            parts = self.ranks.exchange(shares)
            whole = rearrange(
                parts,
                f"(rows columns) three batch (f h w) heads d -> three batch (f {PICTURE_TOKENS}) heads d",
                **sizes,
            )
            out = attend(layer, whole[0], whole[1], whole[2].to(v.dtype))
            parts = rearrange(
                out, f"batch (f {PICTURE_TOKENS}) heads d -> (rows columns) batch (f h w) heads d", **sizes
            )
            return rearrange(self.ranks.exchange(parts), "count batch tokens heads d -> batch tokens (count heads) d")

        return attend_tile


class NoDecoder:
    """The decoder where another process decodes: no frames of `size` (height, width)."""

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)

    def push(self, latents: Tensor) -> Tensor:
        """No frames (0, height, width, 3), uint8."""
        return torch.zeros(0, *self.size, 3, dtype=torch.uint8)

    def state(self) -> Json:
        """Nothing."""
        return {}

    def restore(self, state: Json) -> None:
        """Nothing."""


def tiles(spec: Spec, count: int) -> tuple[int, int]:
    """Rows and columns of `count` equal tiles of a frame's tokens, one a process. Raises BackendError.

    What divides h*w is a divisor of h times one of w, so that there are tiles wherever tokens divide.
    """
    rows = gcd(count, spec.grid[0])
    if spec.heads % count or spec.tokens % count:
        common = gcd(spec.heads, spec.tokens)
        counts = [str(n) for n in range(2, common + 1) if common % n == 0]
        raise BackendError(
            f"{count} processes cannot share {spec.name}'s {spec.heads} heads and {spec.grid[0]}x{spec.grid[1]} tokens a frame: "
            f"both must divide. Use {' or '.join(counts) if counts else 'one process, or another size'}."
        )
    return rows, count // rows
