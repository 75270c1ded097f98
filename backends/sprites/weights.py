"""The sprite model as a backend, and its weights on disk (safetensors)."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rollout.backend import Attend, BackendDefaults, Spec, split_pairs
from rollout.backends.sprites import digest, weights_file
from rollout.backends.sprites import spec as shipped_spec
from rollout.backends.sprites.codec import Codec
from rollout.backends.sprites.grammar import parse
from rollout.backends.sprites.model import Shape, SpriteTransformer, Texts, Times
from rollout.backends.sprites.truth import SpriteWorld
from rollout.backends.sprites.world import PIXELS
from rollout.devices import find_device, find_dtype
from rollout.errors import BackendError
from rollout.files import write_whole
from rollout.text import Json

__all__ = ["FIRST", "FORMAT", "MOST_TIMES", "SpriteDecoder", "Sprites", "load_sprites", "read_weights", "save_weights"]

FIRST, FORMAT = "rollout-sprites-1", "rollout-sprites-2"


MOST_TIMES = 100
"""Timesteps that are held at most, 30 KiB each."""


class SpriteDecoder:
    """Decodes frame by frame; the codec looks at one frame at a time, so there is no state."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def push(self, latents: Tensor) -> Tensor:
        """Latents (F, 112, 4, 4) to frames (F, 64, 64, 3), uint8."""
        frames = self.codec.decode(latents.float().to(self.codec.mean.device))
        return (frames * 255).round().byte().permute(0, 2, 3, 1).cpu()

    def state(self) -> Json:
        """Nothing: every frame stands alone."""
        return {}

    def restore(self, state: Json) -> None:
        """Nothing to go back to."""


class Sprites(BackendDefaults):
    """The embedded backend: predicts x0 inside and returns the flow."""

    def __init__(
        self,
        model: SpriteTransformer,
        codec: Codec,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        digest: str = "",
    ) -> None:
        shape = model.shape
        self.device, self.dtype, self.digest = torch.device(device), dtype, digest
        self.model = model.to(self.device, dtype).eval().requires_grad_(False)
        self.model.fuse()
        self._texts: tuple[Tensor, Texts] | None = None
        self._times: dict[float, Times] = {}
        self.codec, self.world = codec.to(self.device), SpriteWorld()
        size = (shape.channels, *shape.grid)
        base = shipped_spec()
        self.spec = Spec(
            base.name,
            shape.layers,
            shape.heads,
            shape.head_dim,
            size,
            shape.grid,
            split_pairs(shape.head_dim),
            base.trained,
            base.table,
            base.stride,
            base.fps,
            size=base.size,
        )

    def encode(self, prompt: str) -> Tensor:
        """Text features (1, 6 + h*w, dim). Raises PromptError with the vocabulary."""
        tokens = torch.tensor([parse(prompt).tokens()], device=self.device)
        with torch.no_grad():
            return self.model.encode(tokens)

    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """The flow at x (B, F, 112, 4, 4) and timestep t in 0..1000, one for all or one a frame (B, F)."""
        times = self.model.times(t) if isinstance(t, Tensor) else self._times_of(float(t))
        if self._texts is None or self._texts[0] is not prompt:
            self._texts = prompt, self.model.texts(prompt if prompt.ndim == 4 else prompt[:, None])
        with torch.inference_mode(not torch.is_grad_enabled()):  # its 3,000 operations a block are dispatched faster
            x0: Tensor = self.model(x.to(self.dtype), times, self._texts[1], attend)
        if isinstance(t, Tensor):
            return (x - x0) / (t / 1000).clamp(min=1e-3).to(x.dtype)[:, :, None, None, None]
        return (x - x0) / max(t / 1000, 1e-3)

    def _times_of(self, t: float) -> Times:
        """A timestep as the model reads it, computed once: a schedule has few."""
        if t not in self._times:
            if len(self._times) > MOST_TIMES:
                self._times.clear()
            with torch.no_grad():
                self._times[t] = self.model.times(torch.full((1, 1), t, device=self.device))
        return self._times[t]

    def encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        """Latents of whole blocks of a video's frames (N, height, width, 3), averaged down to 64x64."""
        count = len(frames) // self.spec.block * self.spec.block
        if not count:
            raise BackendError(f"the video has {len(frames)} frames; a prefix takes whole blocks of {self.spec.block}.")
        video = torch.from_numpy(frames[:count]).permute(0, 3, 1, 2).float().div(255)
        video = torch.nn.functional.interpolate(video, (PIXELS, PIXELS), mode="area")
        return self.codec.encode(video.to(self.device))

    def decoder(self) -> SpriteDecoder:
        """A decoder for one stream."""
        return SpriteDecoder(self.codec)


def save_weights(path: Path, shape: Shape, state: dict[str, Tensor], codec: Codec) -> None:
    """Write model (bf16, the codec in float32) whole or not at all."""
    tensors = {f"model.{n}": p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in state.items()}
    tensors |= {f"codec.{n}": p.detach().to("cpu", torch.float32).contiguous() for n, p in codec.state_dict().items()}
    metadata = {"format": FORMAT, "shape": json.dumps(asdict(shape))}
    write_whole(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def read_weights(path: Path) -> tuple[SpriteTransformer, Codec]:
    """Model and codec in float32 as `save_weights` wrote them. Raises BackendError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sizes = json.loads(metadata["shape"]) if metadata.get("format") == FORMAT else None
    except (SafetensorError, OSError, ValueError) as error:
        raise BackendError(f"{path} cannot be read as safetensors: {error}. Give sprite weights.") from error
    if sizes is None:
        edition = (
            "of the first edition, whose world had no nights" if metadata.get("format") == FIRST else "of another model"
        )
        raise BackendError(f"{path} is safetensors {edition}. Give weights that this version's sprite training wrote.")
    fields: Json = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    shape = Shape(**fields)
    model, codec = SpriteTransformer(shape), Codec(shape.channels)
    try:
        for part, name in ((model, "model."), (codec, "codec.")):
            part.load_state_dict({k[len(name) :]: t.float() for k, t in tensors.items() if k.startswith(name)})
    except RuntimeError as error:
        raise BackendError(
            f"{path} does not hold a whole sprite model: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model, codec


def load_sprites(
    weights: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu", dtype: str | None = None
) -> Sprites:
    """Load weights written by `save_weights`: a file, or "plain" for the shipped plain ones. Raises BackendError."""
    path = weights_file(weights)
    place, identity = find_device(device), digest(weights)
    model, codec = read_weights(path)
    return Sprites(
        model,
        codec,
        device=place,
        dtype=find_dtype(dtype or "float32", place),
        digest=identity,
    )
