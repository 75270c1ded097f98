"""Streaming use of diffusers' AutoencoderKLWan: its feature cache, one a stream, so that seams are exact."""

from typing import Any

import torch
from torch import Tensor

from rollout.text import Json

__all__ = ["WanDecoder", "encode_frames", "unscale"]


class WanDecoder:
    """Decodes one stream block by block; the whole decode gives the same frames, bit for bit."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self._features: list[Any] = [None] * vae._cached_conv_counts["decoder"]
        self._first = True

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """The next latents (F, C, H, W) to frames (4F, or 4F - 3 at the start, height, width, 3), uint8."""
        x = self.vae.post_quant_conv(
            unscale(self.vae, latents).to(self.vae.device, self.vae.dtype).transpose(0, 1)[None]
        )
        parts = []
        # One latent at a time, as diffusers' own decode does: the cache of features makes the seams exact.
        for i in range(x.shape[2]):
            first = {"first_chunk": True} if self._first else {}
            parts.append(self.vae.decoder(x[:, :, i : i + 1], feat_cache=self._features, feat_idx=[0], **first))
            self._first = False
        frames = torch.cat(parts, 2)[0].clamp(-1, 1)
        return ((frames.float() + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu()

    def state(self) -> Json:
        """The feature cache; entries are tensors, None, or the VAE's mark for a first frame."""
        copies = [f.clone() if isinstance(f, Tensor) else f for f in self._features]
        return {"features": copies, "first": self._first}

    def restore(self, state: Json) -> None:
        """Go back to a state."""
        self._features = [f.clone() if isinstance(f, Tensor) else f for f in state["features"]]
        self._first = bool(state["first"])


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(x, device=like.device, dtype=torch.float32)
        for x in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean[:, None, None], std[:, None, None]


def unscale(vae: Any, latents: Tensor) -> Tensor:
    """Model latents (F, C, H, W) to the VAE's own scale."""
    mean, std = _statistics(vae, latents)
    return latents.float() * std + mean


@torch.no_grad()
def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Frames (4F - 3, height, width, 3), uint8, to model latents (F, C, H, W)."""
    video = (frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).to(vae.device, vae.dtype)
    latents = vae.encode(video).latent_dist.mode()[0].transpose(0, 1).float()
    mean, std = _statistics(vae, latents)
    normal: Tensor = (latents - mean) / std
    return normal
