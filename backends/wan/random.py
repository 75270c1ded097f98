"""Wan models with random weights, at a released size or smaller: for speed, where numbers mean nothing."""

from typing import Any

import torch
from torch import Tensor

from rollout.backends.wan import SIZES
from rollout.backends.wan.hooks import compile_blocks
from rollout.backends.wan.model import Wan
from rollout.backends.wan.text import TOKENS
from rollout.backends.wan.vae import for_cudnn
from rollout.devices import find_device, find_dtype
from rollout.errors import BackendError

__all__ = ["VAES", "RandomWan", "random_wan"]

VAES: dict[str, dict[str, Any]] = {
    "5b": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
    "tiny": {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}
"""Configs of VAEs by the transformer's size: Wan 2.2's, and one for tests; Wan 2.1's is diffusers' default."""


class RandomWan(Wan):
    """Random weights and random text features."""

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
    block: int | None = None,
    attention_backend: str | None = None,
    compile: bool = False,
    fp8_weights: bool = False,
    vae_dtype: str | None = None,
) -> RandomWan:
    """A model of a released size, with fewer `layers` on request; other options as `load` has them.

    On a CPU a released size has no decoder. Raises BackendError.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    if size not in SIZES:
        raise BackendError(f"there is no size {size!r}. Use one of {', '.join(SIZES)}.")
    if layers is not None and layers < 1:
        raise BackendError(f"{layers} layers are no model. Use 1 or more.")
    place = find_device(device)
    kind = find_dtype(dtype, place)
    config = {"text_dim": 4096, "in_channels": 16, "out_channels": 16, **SIZES[size]}
    config |= {} if layers is None else {"num_layers": layers}
    # Weights are drawn where they stay, without a copy on the CPU.
    torch.manual_seed(0)
    with place:
        model = _cast(WanTransformer3DModel(**config), kind)
        vae = None
        # on a CPU a block of a released size would take the better part of a minute
        if place.type != "cpu" or size == "tiny":
            vae = _cast(AutoencoderKLWan(**VAES.get(size, {})), find_dtype(vae_dtype or "float32", place))
    if vae is not None and place.type == "cuda":
        for_cudnn(vae)
    if fp8_weights:
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=kind)
    wan = RandomWan(
        model, height=height, width=width, block=block, vae=vae, attention_backend=attention_backend, dtype=kind
    )
    if compile:
        compile_blocks(model)
    return wan


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """As diffusers loads a model in `dtype`: norms and modulation stay in float32 where it is shorter."""
    model.eval().requires_grad_(False)
    float32_modules = set(model._keep_in_fp32_modules or ()) if dtype.itemsize < 4 else set()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if float32_modules & set(name.split(".")) else dtype)
    return model
