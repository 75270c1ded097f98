"""Wan through diffusers, unmodified: any text-to-video checkpoint of its families in diffusers' folder format."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.backend import Spec
from rollout.backends.wan.family import geometry
from rollout.errors import BackendError

if TYPE_CHECKING:
    from rollout.backend import Backend
    from rollout.memory import Needs

__all__ = ["SIZES", "check", "digest", "load", "needs", "spec"]

SIZES: dict[str, dict[str, Any]] = {
    "1.3b": {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "14b": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824},
    "5b": {
        "num_layers": 30,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "ffn_dim": 14336,
        "in_channels": 48,
        "out_channels": 48,
    },
    "tiny": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "text_dim": 32},
}
"""Wan 2.1's released sizes, Wan 2.2's small one (5b), and one for tests."""


def spec() -> Spec:
    """Geometry of Wan2.1-T2V-1.3B at 480x832, without torch."""
    return geometry(SIZES["1.3b"])


def digest(model: str | None = None) -> str:
    """The identity of the transformer in the folder `model`. Raises BackendError."""
    from rollout.backends.wan.folder import digest_weights

    weights = None if model is None else digest_weights(Path(model))
    if weights is None:
        raise BackendError(f"there is no transformer in {model}. Add --model DIR, a Wan folder in diffusers' format.")
    return weights


def load(
    model: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    height: int | None = None,
    width: int | None = None,
    attention_backend: str | None = None,
    compile: bool = False,
    low_vram: bool = False,
    fp8_weights: bool = False,
    vae_dtype: str | None = None,
    guidance: float | None = None,
    negative: str = "",
    parallel: bool = False,
) -> "Backend":
    """Load a diffusers-format folder `model`; size, block, steps and guidance are its family's where not said.

    `dtype` is bfloat16 on a GPU and float32 on a CPU; `vae_dtype` the VAE's, float32, or bfloat16 with `low_vram`. `negative`:
    the prompt to stay away from under guidance. `parallel`: all processes that torchrun started call this, and roll out
    together. `fp8_weights`: the transformer's linear layers are kept in 8 bits, and are of `dtype` while they work. Raises
    BackendError.
    """
    from rollout.backends.wan.loading import load_wan

    return load_wan(
        _folder(model),
        device=device,
        dtype=dtype,
        height=height,
        width=width,
        attention_backend=attention_backend,
        compile=compile,
        low_vram=low_vram,
        fp8_weights=fp8_weights,
        vae_dtype=vae_dtype,
        guidance=guidance,
        negative=negative,
        parallel=parallel,
    )


def check(model: str | None = None) -> "Iterator[tuple[str, str, bool]]":
    """Of each part of the folder `model` what was seen, and whether it is whole. Raises BackendError."""
    from rollout.backends.wan.folder import read_config
    from rollout.backends.wan.headers import check_parts

    read_config(_folder(model))
    return check_parts(_folder(model))


def needs(
    model: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    height: int | None = None,
    width: int | None = None,
    low_vram: bool = False,
    fp8_weights: bool = False,
    vae_dtype: str | None = None,
    guidance: float | None = None,
) -> "Needs":
    """What the folder `model` takes of a device's memory, for the same options as `load`. Raises BackendError."""
    from rollout.backends.wan.memory import wan_needs
    from rollout.devices import find_device, find_dtype

    place = find_device(device)
    return wan_needs(
        _folder(model),
        dtype=find_dtype(dtype, place),
        vae_dtype=find_dtype(vae_dtype or ("bfloat16" if low_vram else "float32"), place),
        height=height,
        width=width,
        low_vram=low_vram,
        fp8_weights=fp8_weights,
        guidance=guidance,
    )


def _folder(model: str | None) -> Path:
    if model is None:
        raise BackendError("the backend 'wan' needs a model. Add --model DIR, a Wan folder in diffusers' format.")
    return Path(model)
