"""What a model must offer to be rolled out: the protocol Backend. A backend knows no strategy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rollout.errors import BackendError
from rollout.text import Json

if TYPE_CHECKING:  # a Spec is read without torch
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from rollout.ranks import Ranks
    from rollout.sampler import Schedule
    from rollout.world import World

__all__ = ["Attend", "Attention", "Axes", "Backend", "BackendDefaults", "Decoder", "Spec", "split_pairs"]

Attend = Callable[[int, "Tensor", "Tensor", "Tensor"], "Tensor"]
"""(layer, q, k, v) -> attention output, all (B, F*h*w, heads, D); q and k are normed and NOT rotated."""

Attention = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""Plain attention over (B, heads, tokens, D)."""
Axes = tuple[int, int, int]
"""Rotary pairs of time, height and width."""


def split_pairs(head_dim: int) -> Axes:
    """Wan's split of the head_dim / 2 rotation pairs over time, height and width (22, 21, 21 for 128)."""
    pairs = head_dim // 2
    side = pairs // 3
    return pairs - 2 * side, side, side


@dataclass(frozen=True)
class Spec:
    """A model's geometry and time, readable without torch.

    `latent` is (C, H, W) and `grid` the (h, w) tokens of one latent frame; `axes` the rotary pairs of time, height and
    width; `trained` the frames of the training horizon; `table` the positions that absolute RoPE has; `stride` the
    pixel frames of a latent frame (the first counts one) and `fps` pixel frames a second; `size`: height and width of its
    videos, where a video that it starts from is brought to them.
    """

    name: str
    layers: int
    heads: int
    head_dim: int
    latent: tuple[int, int, int]
    grid: tuple[int, int]
    axes: tuple[int, int, int]
    trained: int = 21
    table: int = 1024
    stride: int = 4
    fps: float = 16.0
    block: int = 3
    theta: float = 10000.0
    size: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.grid[0] * self.grid[1]

    @property
    def block_seconds(self) -> float:
        """How long a block is seen."""
        return self.block * self.stride / self.fps

    def pixel_frames(self, frames: int) -> int:
        """Pixel frames that the first `frames` latent frames decode to."""
        return 0 if frames == 0 else self.stride * (frames - 1) + 1

    def seconds(self, frame: int) -> float:
        """The time at which latent frame `frame` is first seen."""
        return self.pixel_frames(frame) / self.fps


@runtime_checkable
class Decoder(Protocol):
    """The decoder of one stream: holds what it needs of earlier frames, so that block by block equals the whole."""

    def push(self, latents: "Tensor") -> "Tensor":
        """The next frames' latents (F, C, H, W) to pixel frames (N, height, width, 3), uint8."""
        ...

    def state(self) -> Json:
        """Everything that the next push depends on, as tensors and numbers."""
        ...

    def restore(self, state: Json) -> None:
        """Go back to a state."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A video diffusion model that leaves positions and cache to `attend`."""

    spec: Spec
    device: "torch.device"
    dtype: "torch.dtype"
    world: "World | None"
    """What its videos show, where their truth is known."""
    rows: int
    """Rows that `attend` gets for a video: 2 where guidance runs the model with and without the prompt, else 1."""
    schedule: "Schedule | None"
    """The noise levels that it was made for; None: the four of Self-Forcing's family."""

    @property
    def digest(self) -> str | None:
        """The identity of its weights, for records; None where unknown."""
        ...

    @property
    def attention(self) -> Attention | None:
        """The attention that its caches use; None is PyTorch's."""
        ...

    @property
    def ranks(self) -> "Ranks | None":
        """The processes that its heads are spread over: `attend` gets those of this one alone. None: all are here."""
        ...

    def encode(self, prompt: str) -> "Tensor":
        """A prompt's text features (1, tokens, dim). Raises PromptError."""
        ...

    def denoise(self, x: "Tensor", t: "float | Tensor", prompt: "Tensor", attend: Attend) -> "Tensor":
        """The flow at x (B, F, C, H, W) and timestep t in 0..1000; x0 = x - t / 1000 * flow.

        `t` is one for all frames or, where blocks at several noise levels go together, one a frame (B, F); then `prompt`,
        (B, tokens, dim), may be one a frame too (B, F, tokens, dim).
        """
        ...

    def decoder(self) -> Decoder:
        """A fresh decoder for one stream."""
        ...

    def ready(self) -> None:
        """Called once all prompts that are known have been encoded: memory that only texts need can go."""
        ...

    def encode_video(self, frames: "NDArray[np.uint8]") -> "Tensor":
        """Latents (F, C, H, W) of the first whole blocks of a video (N, height, width, 3). Raises BackendError."""
        ...


class BackendDefaults:
    """What most backends say: weights and truth are unknown, PyTorch's attention, four steps, no way in for a video.

    Inherit it, and add spec, device, dtype, encode, denoise and decoder.
    """

    spec: Spec
    world: "World | None" = None
    rows: int = 1
    schedule: "Schedule | None" = None
    ranks: "Ranks | None" = None
    digest: str | None = None
    attention: Attention | None = None

    def ready(self) -> None:
        """Nothing to free."""

    def encode_video(self, frames: "NDArray[np.uint8]") -> "Tensor":
        """Refused."""
        raise BackendError(f"the backend '{self.spec.name}' cannot encode a video. Give a latents file.")
