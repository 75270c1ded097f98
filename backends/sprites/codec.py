"""The sprite codec: principal components of 8x8 RGB patches, one latent frame a pixel frame, so streaming is exact."""

import torch
from einops import rearrange
from torch import Tensor, nn

from rollout.backends.sprites.world import SIZE, render, sample_world

PATCH = 8
SCALE_POWER = 0.65
"""Each channel is divided by its std to this power: full whitening drowns the sprite, none hides it (measured)."""


class Codec(nn.Module):
    """A linear map between frames (..., 3, 32, 32) in 0..1 and latents (..., C, 4, 4)."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(size, channels))
        self.register_buffer("scale", torch.ones(channels))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (..., C, 4, 4) of frames (..., 3, 32, 32)."""
        patches = rearrange(frames, "... c (h p) (w q) -> ... h w (c p q)", p=PATCH, q=PATCH)
        return rearrange((patches - self.mean) @ self.basis / self.scale, "... h w c -> ... c h w")

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (..., 3, 32, 32), clamped to 0..1, of latents (..., C, 4, 4)."""
        patches = (rearrange(latents, "... c h w -> ... h w c") * self.scale) @ self.basis.T + self.mean
        frames = rearrange(patches, "... h w (c p q) -> ... c (h p) (w q)", p=PATCH, q=PATCH, c=3)
        return frames.clamp(0, 1)


def fit_codec(channels: int, *, clips: int = 2000, seed: int = 0) -> Codec:
    """Fit the components to rendered frames of the world."""
    world = sample_world(clips, 4, torch.Generator().manual_seed(seed))
    frames = render(world, torch.arange(4).expand(clips, 4))
    patches = rearrange(frames, "b f c (h p) (w q) -> (b f h w) (c p q)", p=PATCH, q=PATCH, h=SIZE // PATCH).double()
    mean = patches.mean(0)
    variance, basis = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    codec = Codec(channels)
    codec.mean.copy_(mean)
    codec.basis.copy_(basis.flip(1)[:, :channels])
    codec.scale.copy_(variance.flip(0)[:channels].clamp_min(1e-12).sqrt() ** SCALE_POWER)
    return codec
