"""Streaming use of diffusers' AutoencoderKLWan: its feature cache, one a stream, so that seams are exact."""

from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from rollout.text import Json

__all__ = ["WanDecoder", "encode_frames", "for_cudnn", "unpatchify", "unscale"]


def for_cudnn(vae: nn.Module) -> None:
    """Lay the weights of convolutions out as cuDNN's kernels read them; else it turns every picture around and back."""
    forms = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
    for module in vae.modules():
        for kind, form in forms.items():
            if isinstance(module, kind):
                module.weight.data = module.weight.data.to(memory_format=form)


class WanDecoder:
    """Decodes one stream block by block; the whole decode gives the same frames, bit for bit.

    `home`: the device on which the features wait between blocks (3.5 GiB in float32 at 480x832); None: the VAE's.
    """

    def __init__(self, vae: Any, *, home: torch.device | None = None) -> None:
        self.vae, self.home = vae, home
        self._features: list[Any] = [None] * vae._cached_conv_counts["decoder"]
        self._first = True

    def push(self, latents: Tensor) -> Tensor:
        """The next latents (F, C, H, W) to frames (4F, or 4F - 3 at the start, height, width, 3), uint8, on the CPU."""
        return self.decode(latents).cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As `push`, on the VAE's device."""
        self._move(self.vae.device)
        x = self.vae.post_quant_conv(
            unscale(self.vae, latents).to(self.vae.device, self.vae.dtype).transpose(0, 1)[None]
        )
        parts = []
        # One latent at a time, as diffusers' own decode does: the cache of features makes the seams exact.
        for i in range(x.shape[2]):
            first = {"first_chunk": True} if self._first else {}
            parts.append(self.vae.decoder(x[:, :, i : i + 1], feat_cache=self._features, feat_idx=[0], **first))
            self._first = False
        self._move(self.home)
        video = torch.cat(parts, 2)
        if self.vae.config.patch_size is not None:  # Wan 2.2's VAE decodes to patches
            video = unpatchify(video, self.vae.config.patch_size)
        frames = video[0].clamp(-1, 1)
        return ((frames.float() + 1) * 127.5).round().byte().permute(1, 2, 3, 0)

    def _move(self, device: torch.device | None) -> None:
        """Bring the features to a device."""
        if device is not None:
            self._features = [f.to(device) if isinstance(f, Tensor) else f for f in self._features]

    def state(self) -> Json:
        """The feature cache; entries are tensors, None, or the VAE's mark for a first frame.

        They are the stream's own: a push puts new ones in their place and never writes into them.
        """
        return {"features": list(self._features), "first": self._first}

    def restore(self, state: Json) -> None:
        """Go back to a state."""
        self._features = list(state["features"])
        self._first = bool(state["first"])


def unpatchify(video: Tensor, size: int) -> Tensor:
    """Patches as channels (B, C*size*size, F, h, w) to pixels (B, C, F, h*size, w*size), as Wan 2.2's VAE has them."""
    return rearrange(video, "b (c across down) f h w -> b c f (h down) (w across)", down=size, across=size)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    return _channels(tuple(vae.config.latents_mean), like.device), _channels(tuple(vae.config.latents_std), like.device)


@lru_cache(maxsize=8)
def _channels(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers of channels (C, 1, 1), copied to their device once: the host waits for that."""
    return torch.tensor(numbers, device=device, dtype=torch.float32)[:, None, None]


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
