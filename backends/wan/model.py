"""A Wan model as a backend: the hooked transformer, its text encoder and its VAE, each in memory when it is needed."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout.backend import Attend, BackendDefaults, Decoder, Spec
from rollout.backends.wan.family import family_of, geometry
from rollout.backends.wan.hooks import hooked
from rollout.backends.wan.text import TextEncoder
from rollout.backends.wan.vae import WanDecoder, encode_frames
from rollout.errors import BackendError
from rollout.text import cause

__all__ = ["Wan"]


class Wan(BackendDefaults):
    """A transformer of a Wan family whose self-attention is `attend`; `close`, or leaving a with block, puts it back.

    `settle` brings the parts to their device once all prompts are encoded: text encoder and transformer need not fit
    together.
    """

    def __init__(
        self,
        transformer: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        block: int | None = None,
        text: TextEncoder | None = None,
        vae: Any = None,
        attention_backend: str | None = None,
        digest: str = "",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        config = {"_class_name": type(transformer).__name__, **transformer.config}
        self.family = family_of(config)
        self.spec: Spec = geometry(config, height, width, block)
        self.schedule = self.family.schedule
        self.transformer, self.text, self.vae, self.digest = transformer, text, vae, digest
        self.device, self.dtype = device or transformer.device, dtype or transformer.proj_out.weight.dtype
        self._settle = settle
        self.features_home: torch.device | None = None
        """Where the VAE's features wait between blocks; None: where the VAE is."""
        self._prompt: Tensor | None = None
        self.attention_backend = attention_backend
        if attention_backend is not None:
            self.attention = _dispatch(attention_backend, self.device, self.dtype, self.spec.head_dim)
        self._stack = ExitStack()
        self._calls = self._stack.enter_context(hooked(transformer))  # last: what fails before leaves it as it was

    def encode(self, prompt: str) -> Tensor:
        """Text features (1, 512, 4096)."""
        if self.text is None:
            raise BackendError("this Wan model was built without a text encoder. Load a whole folder.")
        return self.text.encode(prompt)

    def ready(self) -> None:
        """All prompts are encoded: free the text encoder's memory, and bring in the rest. Raises BackendError."""
        if self.text is not None:
            self.text.free()
        self.settle()

    def settle(self) -> None:
        """Bring transformer and VAE to their device, once. Raises BackendError where one does not fit."""
        if self._settle is not None:
            self._settle()
            self._settle = None

    @torch.no_grad()
    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """The flow at x (B, F, C, H, W) and timestep t in 0..1000, one for all or one a frame (B, F)."""
        width = self.transformer.config.text_dim
        texts = (len(x),) if prompt.ndim == 3 else tuple(x.shape[:2])  # one for all frames, or one a frame
        if tuple(prompt.shape[:-2]) != texts or prompt.shape[-1] != width:
            raise BackendError(f"the prompt embedding {tuple(prompt.shape)} is not ({len(x)}, tokens, {width}).")
        if prompt is not self._prompt:
            self._prompt = prompt
            self._calls.forget()
        self.settle()
        self._calls.attend = attend
        try:
            flow = self.transformer(
                x.transpose(1, 2).to(self.dtype),
                encoder_hidden_states=prompt.to(self.dtype),
                return_dict=False,
                **self._times(t, x),
            )[0]
        finally:
            self._calls.attend = None
        return flow.transpose(1, 2).to(x.dtype)  # type: ignore[no-any-return]

    def _times(self, t: float | Tensor, x: Tensor) -> dict[str, Any]:
        """The timesteps as the family's transformer takes them: one a video, one a frame, or one a token."""
        if self.family.frame_times:
            frames = (
                t if isinstance(t, Tensor) else torch.full(x.shape[:2], float(t), dtype=torch.float64, device=x.device)
            )
            return {"timestep": frames, "enable_diffusion_forcing": True}
        if isinstance(t, Tensor):
            tokens = (
                self.spec.tokens * x[0, 0, 0].numel() // prod(self.spec.latent[1:])
            )  # x may be a tile of the picture
            return {"timestep": t.repeat_interleave(tokens, 1)}
        return {"timestep": torch.full((len(x),), float(t), dtype=torch.float64, device=x.device)}

    def decoder(self) -> Decoder:
        """A fresh decoder for one stream."""
        if self.vae is None:
            raise BackendError("this Wan model was built without a VAE. Load a whole folder.")
        self.settle()
        return WanDecoder(self.vae, home=self.features_home)

    def encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        """Latents (F, C, H, W) of the first whole blocks of a video of the model's size. Raises BackendError."""
        if self.vae is None:
            raise BackendError("this Wan model was built without a VAE. Load a whole folder.")
        height, width = (self.family.spatial * n for n in self.spec.latent[1:])
        if frames.shape[1:3] != (height, width):
            raise BackendError(
                f"the video is {frames.shape[2]}x{frames.shape[1]}; the model runs at {width}x{height}. Scale it."
            )
        self.settle()
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


def _dispatch(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Any:
    """Attention over (B, heads, tokens, D) through one of diffusers' backends, tried once. Raises BackendError."""
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn

    names = [b.value for b in AttentionBackendName]
    if name not in names:
        raise BackendError(f"there is no attention backend {name!r}. diffusers has {', '.join(names)}.")
    try:
        with attention_backend(name):  # diffusers checks there that its package is installed
            pass
    except (RuntimeError, ImportError) as error:
        # it names the package last, as `flash-attn>=2.6.3` or `pip install kernels`
        named = re.findall(r"`(?:pip install )?(?:-U )?([^`]+)`", str(error))
        why = f"needs the package {named[-1]}. Install it" if named else f"is not here: {cause(error)} Do that"
        raise BackendError(f"the attention backend {name!r} {why}, or use another, such as native.") from error

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = dispatch_attention_fn(q, k, v, backend=AttentionBackendName(name))
        return out.transpose(1, 2)

    probe = torch.zeros(
        1, 1, 16, head_dim, device=device, dtype=dtype
    )  # 16 tokens: a few kernels want multiples of them
    try:
        attention(probe, probe, probe)
    except Exception as error:  # a kernel may raise whatever it likes
        raise BackendError(
            f"the attention backend {name!r} does not run on {device} with {dtype} and heads of {head_dim}: {cause(error)} "
            "Use another, such as native."
        ) from error
    return attention
