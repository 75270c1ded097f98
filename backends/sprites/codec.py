"""The sprite codec: principal components of 16x16 RGB patches, one latent frame a pixel frame, so streaming is exact."""

import torch
from einops import rearrange
from torch import Tensor, nn

from rollout.backends.sprites.clips import with_nights
from rollout.backends.sprites.world import PIXELS, render, sample_world

__all__ = ["CHANNELS", "LATENT_STD", "PATCH", "SCALE_POWER", "Codec", "fit_codec"]

PATCH = 16
CHANNELS = 112
SCALE_POWER = 0.65
"""Each channel is divided by its std to this power: full whitening drowns the sprite, none hides it (measured)."""
LATENT_STD = 0.48
"""The root mean square of all channels' standard deviations, beside noise of 1: what the sampler's levels are made for."""


class Codec(nn.Module):
    """A linear map between frames (..., 3, 64, 64) in 0..1 and latents (..., C, 4, 4)."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(size, channels))
        self.register_buffer("scale", torch.ones(channels))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (..., C, 4, 4) of frames (..., 3, 64, 64)."""
        patches = rearrange(frames, "... c (h p) (w q) -> ... h w (c p q)", p=PATCH, q=PATCH)
        return rearrange((patches - self.mean) @ self.basis / self.scale, "... h w c -> ... c h w")

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (..., 3, 64, 64), clamped to 0..1, of latents (..., C, 4, 4)."""
        patches = (rearrange(latents, "... c h w -> ... h w c") * self.scale) @ self.basis.T + self.mean
        frames = rearrange(patches, "... h w (c p q) -> ... c (h p) (w q)", p=PATCH, q=PATCH, c=3)
        return frames.clamp(0, 1)


def fit_codec(channels: int = CHANNELS, *, clips: int = 1600, seed: int = 0) -> Codec:
    """Fit the components to rendered frames of the world, by day and at night."""
    generator = torch.Generator().manual_seed(seed)
    size = 3 * PATCH * PATCH
    total, square, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for _ in range(clips // 100):  # 64x64 frames of all clips at once would take gigabytes
        world = with_nights(sample_world(100, 9, generator), generator)
        frames = render(world, torch.arange(9).expand(100, 9))
        patches = rearrange(frames, "b f c (h p) (w q) -> (b f h w) (c p q)", p=PATCH, q=PATCH, h=PIXELS // PATCH)
        total += patches.double().sum(0)
        square += (patches.T @ patches).double()
        count += len(patches)
    mean = total / count
    variance, basis = torch.linalg.eigh(square / count - mean[:, None] * mean)
    codec = Codec(channels)
    codec.mean.copy_(mean)
    codec.basis.copy_(basis.flip(1)[:, :channels])
    std = variance.flip(0)[:channels].clamp_min(1e-12).sqrt()
    relative = std ** (1 - SCALE_POWER)  # what is left of each channel's std
    codec.scale.copy_(std**SCALE_POWER * relative.square().mean().sqrt() / LATENT_STD)
    return codec
