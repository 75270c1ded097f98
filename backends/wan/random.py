"""Wan models with random weights, at a released size or smaller: for speed, where numbers mean nothing."""

import torch
from torch import Tensor

from rollout.backends.wan import SIZES
from rollout.backends.wan.hooks import compile_blocks
from rollout.backends.wan.model import Wan
from rollout.backends.wan.text import TOKENS
from rollout.devices import find_device, find_dtype
from rollout.errors import BackendError

__all__ = ["RandomWan", "random_wan"]


class RandomWan(Wan):
    """Random weights and random text features; nothing to decode with."""

    def encode(self, prompt: str) -> Tensor:
        """Random features (1, 512, text_dim), the same for every prompt."""
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, TOKENS, self.transformer.config.text_dim, generator=generator)
        return features.to(self.device, self.dtype)


def random_wan(
    size: str = "1.3b",
    *,
    layers: int | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    height: int | None = None,
    width: int | None = None,
    attention_backend: str | None = None,
    compile: bool = False,
) -> RandomWan:
    """A model of a released size, with fewer `layers` on request. Raises BackendError."""
    from diffusers import WanTransformer3DModel

    if size not in SIZES:
        raise BackendError(f"there is no size {size!r}. Use one of {', '.join(SIZES)}.")
    if layers is not None and layers < 1:
        raise BackendError(f"{layers} layers are no model. Use 1 or more.")
    place = find_device(device)
    config = {"text_dim": 4096, "in_channels": 16, "out_channels": 16, **SIZES[size]}
    config |= {} if layers is None else {"num_layers": layers}
    # Weights are drawn where they stay, without a copy on the CPU.
    torch.manual_seed(0)
    with place:
        model = WanTransformer3DModel(**config).to(find_dtype(dtype, place)).eval().requires_grad_(False)
    wan = RandomWan(model, height=height, width=width, attention_backend=attention_backend)
    if compile:
        compile_blocks(model)
    return wan
