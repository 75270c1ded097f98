"""Classifier-free guidance (arXiv 2207.12598) for models that are not distilled: every video is two rows of the model."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rollout.backend import Attend, Attention, Backend, Decoder, Spec
from rollout.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rollout.ranks import Ranks

__all__ = ["Guided"]


class Guided:
    """A backend under guidance: flow = without + scale (with - without the prompt), each with keys of its own.

    `negative`: the prompt of the rows without. Rows are all videos with their prompts, then all without.
    """

    def __init__(self, backend: Backend, scale: float, negative: str = "") -> None:
        if not 0 <= scale < float("inf"):
            raise BackendError(f"a guidance scale of {scale} is no number from 0 on. The models' own is about 6.")
        self.backend, self.scale, self.negative = backend, scale, negative
        self.device, self.dtype = backend.device, backend.dtype
        self.world, self.schedule = backend.world, backend.schedule
        self.rows = 2 * backend.rows
        self._without: Tensor | None = None
        self._pair: tuple[Tensor, Tensor] | None = None

    @property
    def spec(self) -> Spec:
        """The model's geometry."""
        return self.backend.spec

    @spec.setter
    def spec(self, spec: Spec) -> None:
        self.backend.spec = spec

    @property
    def digest(self) -> str | None:
        """The identity of its weights."""
        return self.backend.digest

    @property
    def ranks(self) -> "Ranks | None":
        """The processes that its heads are spread over."""
        return self.backend.ranks

    @property
    def attention(self) -> Attention | None:
        """The attention that its caches use."""
        return self.backend.attention

    def encode(self, prompt: str) -> Tensor:
        """A prompt's text features (1, tokens, dim). Raises PromptError."""
        if self._without is None:  # while the text encoder is there
            self._without = self.backend.encode(self.negative)
        return self.backend.encode(prompt)

    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """The guided flow at x (B, F, C, H, W); `attend` gets 2B rows."""
        t = t if isinstance(t, float | int) else torch.cat([t, t])
        flow = self.backend.denoise(torch.cat([x, x]), t, self._both(prompt), attend)
        guided, without = flow.chunk(2)
        return without + self.scale * (guided - without)

    def _both(self, prompt: Tensor) -> Tensor:
        """A prompt's features beside those without it; one tensor as long as the prompt lasts."""
        if self._pair is None or self._pair[0] is not prompt:
            if self._without is None:
                raise BackendError("guidance has no features of the prompt to stay away from. Encode a prompt first.")
            self._pair = prompt, torch.cat([prompt, self._without.expand_as(prompt)])
        return self._pair[1]

    def decoder(self) -> Decoder:
        """A fresh decoder for one stream."""
        return self.backend.decoder()

    def ready(self) -> None:
        """Prompts have been encoded."""
        self.backend.ready()

    def encode_video(self, frames: "NDArray[np.uint8]") -> Tensor:
        """Latents of the first whole blocks of a video. Raises BackendError."""
        return self.backend.encode_video(frames)

    def __getattr__(self, name: str) -> Any:
        """What else the backend has."""
        if name == "backend":  # not yet set: a copy is being made
            raise AttributeError(name)
        return getattr(self.backend, name)
