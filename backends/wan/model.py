"""Wan 2.1 as a backend: the hooked transformer, its text encoder and its VAE."""

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout.backend import Attend, BackendDefaults, Spec
from rollout.backends.wan import SPATIAL, digest
from rollout.backends.wan import spec as geometry
from rollout.backends.wan.folder import read_config
from rollout.backends.wan.hooks import compile_blocks, hooked
from rollout.backends.wan.text import TextEncoder
from rollout.backends.wan.vae import WanDecoder, encode_frames
from rollout.devices import find_device, find_dtype
from rollout.errors import BackendError
from rollout.text import cause

__all__ = ["Wan", "load_transformer", "load_wan"]


class Wan(BackendDefaults):
    """A WanTransformer3DModel whose self-attention is `attend`; `close`, or leaving a with block, puts it back."""

    def __init__(
        self,
        transformer: Any,
        *,
        height: int,
        width: int,
        text: TextEncoder | None = None,
        vae: Any = None,
        attention_backend: str | None = None,
        digest: str = "",
    ) -> None:
        self.spec: Spec = geometry(dict(transformer.config), height, width)
        self.transformer, self.text, self.vae, self.digest = transformer, text, vae, digest
        self.device, self.dtype = transformer.device, transformer.proj_out.weight.dtype
        self._prompt: Tensor | None = None
        self._stack = ExitStack()
        self._calls = self._stack.enter_context(hooked(transformer))
        self.attention_backend = attention_backend
        if attention_backend is not None:
            self.attention = _dispatch(attention_backend)

    def encode(self, prompt: str) -> Tensor:
        """Text features (1, 512, 4096)."""
        if self.text is None:
            raise BackendError("this Wan model was built without a text encoder. Load a whole folder.")
        return self.text.encode(prompt)

    def ready(self) -> None:
        """All prompts are encoded: free the text encoder's memory."""
        if self.text is not None:
            self.text.free()

    @torch.no_grad()
    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """The flow at x (B, F, C, H, W) and timestep t in 0..1000, one for all or one a frame (B, F)."""
        width = self.transformer.config.text_dim
        texts = (len(x),) if prompt.ndim == 3 else tuple(x.shape[:2])  # one for all frames, or one a frame
        if tuple(prompt.shape[:-2]) != texts or prompt.shape[-1] != width:
            raise BackendError(f"the prompt embedding {tuple(prompt.shape)} is not ({len(x)}, tokens, {width}).")
        if prompt is not self._prompt:
            self._prompt = prompt
            self._calls.text.clear()
        if isinstance(t, Tensor):
            time = t.repeat_interleave(self.spec.tokens, 1)
        else:
            time = torch.full((len(x),), float(t), dtype=torch.float64, device=x.device)
        self._calls.attend = attend
        try:
            flow = self.transformer(x.transpose(1, 2).to(self.dtype), time, prompt.to(self.dtype), return_dict=False)[0]
        finally:
            self._calls.attend = None
        return flow.transpose(1, 2).to(x.dtype)  # type: ignore[no-any-return]

    def decoder(self) -> WanDecoder:
        """A fresh decoder for one stream."""
        if self.vae is None:
            raise BackendError("this Wan model was built without a VAE. Load a whole folder.")
        return WanDecoder(self.vae)

    def encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        """Latents (F, 16, H, W) of the first whole blocks of a video of the model's size."""
        height, width = (SPATIAL * n for n in self.spec.latent[1:])
        if frames.shape[1:3] != (height, width):
            raise BackendError(
                f"the video is {frames.shape[2]}x{frames.shape[1]}; the model runs at {width}x{height}. Scale it."
            )
        latent = (len(frames) + 3) // 4 // self.spec.block * self.spec.block
        if not latent:
            raise BackendError(
                f"the video has {len(frames)} frames; a prefix takes at least {4 * self.spec.block - 3}."
            )
        return encode_frames(self.vae, torch.from_numpy(frames[: 4 * latent - 3]))

    def close(self) -> None:
        """Put the transformer back as it came."""
        self._stack.close()

    def __enter__(self) -> "Wan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _dispatch(name: str) -> Any:
    """Attention over (B, heads, tokens, D) through one of diffusers' backends. Raises BackendError."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    names = [b.value for b in AttentionBackendName]
    if name not in names:
        raise BackendError(f"there is no attention backend {name!r}. diffusers has {', '.join(names)}.")

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = dispatch_attention_fn(q, k, v, backend=AttentionBackendName(name))
        return out.transpose(1, 2)

    return attention


def load_transformer(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The transformer of a diffusers-format folder. Raises BackendError."""
    if find_spec("accelerate") is None:
        raise BackendError("the backend 'wan' needs accelerate to load models. Install rollout-video[wan].")
    from diffusers import WanTransformer3DModel

    read_config(folder)
    try:
        model, report = WanTransformer3DModel.from_pretrained(
            folder / "transformer",
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"the transformer of {folder} cannot be loaded: {cause(error)}") from error
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise BackendError(
            f"the transformer of {folder} does not fit its config: {', '.join(map(str, wrong[:3]))}. Import it again."
        )
    if dtype is torch.float64:
        model.double()  # diffusers keeps norms and modulation in float32
    return model.to(device).eval().requires_grad_(False)


def load_wan(
    folder: Path,
    *,
    device: str,
    dtype: str | None,
    height: int,
    width: int,
    attention_backend: str | None,
    compile: bool,
    low_vram: bool,
) -> Wan:
    """Load a whole folder. Raises BackendError."""
    place = find_device(device)
    kind = find_dtype(dtype, place)
    geometry(read_config(folder), height, width)
    if not (folder / "vae").is_dir():
        raise BackendError(f"{folder} has no VAE. Give a whole Wan 2.1 folder in diffusers' format.")
    if low_vram and place.type == "cpu":
        raise BackendError(
            "--low-vram keeps weights on the CPU until a GPU needs them; with --device cpu it has no meaning."
        )
    from diffusers import AutoencoderKLWan

    try:
        vae = AutoencoderKLWan.from_pretrained(
            folder / "vae", torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"the VAE of {folder} cannot be loaded: {cause(error)}") from error
    transformer = load_transformer(folder, device=torch.device("cpu") if low_vram else place, dtype=kind)
    if low_vram:
        transformer.enable_group_offload(
            onload_device=place, offload_type="block_level", num_blocks_per_group=1, use_stream=place.type == "cuda"
        )
    wan = Wan(
        transformer,
        height=height,
        width=width,
        text=TextEncoder(folder, device=place, dtype=kind),
        vae=vae.to(place).eval().requires_grad_(False),
        attention_backend=attention_backend,
        digest=digest(str(folder)),
    )
    wan.device = place
    if compile:
        compile_blocks(transformer)
    return wan
