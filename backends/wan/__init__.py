"""Wan 2.1 through diffusers, unmodified: any text-to-video checkpoint in diffusers' folder format."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.backend import Spec, split_pairs
from rollout.errors import BackendError
from rollout.files import fingerprint

if TYPE_CHECKING:
    from rollout.backends.wan.model import Wan

__all__ = ["HEIGHT", "SIZES", "SPATIAL", "WIDTH", "digest", "load", "spec"]

HEIGHT, WIDTH = 480, 832
"""Pixels of the released checkpoints' videos."""
SPATIAL = 8
"""Pixels of a latent pixel's side (the VAE's stride in space)."""

SIZES: dict[str, dict[str, Any]] = {
    "1.3b": {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "14b": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824},
    "tiny": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "text_dim": 32},
}
"""Wan 2.1's released sizes, and one for tests."""


def spec(config: dict[str, Any] | None = None, height: int = HEIGHT, width: int = WIDTH) -> Spec:
    """Geometry of Wan2.1-T2V-1.3B at 480x832, or of a transformer's config at another size, without torch."""
    config = config or {"in_channels": 16, **SIZES["1.3b"]}
    for name, size in (("height", height), ("width", width)):
        if size <= 0 or size % (2 * SPATIAL):
            raise BackendError(f"{name} {size} is not a multiple of {2 * SPATIAL}. Use such as 480 and 832.")
    return Spec(
        name="wan",
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        latent=(config["in_channels"], height // SPATIAL, width // SPATIAL),
        grid=(height // SPATIAL // 2, width // SPATIAL // 2),
        axes=split_pairs(config["attention_head_dim"]),
        table=config.get("rope_max_seq_len", 1024),
        stride=4,
        fps=16.0,
    )


def digest(model: str | None = None) -> str:
    """The identity of the transformer in the folder `model`. Raises BackendError."""
    files = [] if model is None else sorted((Path(model) / "transformer").glob("*.safetensors"))
    if not files:
        raise BackendError(
            f"there is no transformer in {model}. Add --model DIR, a Wan 2.1 folder in diffusers' format."
        )
    return fingerprint(files)[:16]


def load(
    model: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
    attention_backend: str | None = None,
    compile: bool = False,
    low_vram: bool = False,
) -> "Wan":
    """Load a diffusers-format folder `model`; `dtype` is bfloat16 on a GPU, float32 on a CPU. Raises BackendError."""
    from rollout.backends.wan.model import load_wan

    if model is None:
        raise BackendError("the backend 'wan' needs a model. Add --model DIR, a Wan 2.1 folder in diffusers' format.")
    return load_wan(
        Path(model),
        device=device,
        dtype=dtype,
        height=height,
        width=width,
        attention_backend=attention_backend,
        compile=compile,
        low_vram=low_vram,
    )
