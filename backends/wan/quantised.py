"""Weights in 8-bit floats as ComfyUI and others write them, with one scale a tensor or a row, and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rollout.backends.wan.checkpoint import Checkpoint
from rollout.documents import parse_json
from rollout.errors import BackendError

__all__ = ["EIGHT_BITS", "MARK", "SCALES", "UNUSED", "Weight", "read_weights"]

SCALES = (".scale_weight", ".weight_scale")
"""After a module's name: what its weight is multiplied with."""
UNUSED = (".scale_input", ".input_scale", ".comfy_quant")
"""After a module's name: scales of activations, and how the weight is quantised."""
MARK = "scaled_fp8"
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Weight:
    """A tensor of a checkpoint, read from the disk when it is asked for."""

    tensor: Tensor
    scale: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What it comes as: bfloat16 for 8-bit floats, which it holds exactly before they are scaled."""
        return torch.bfloat16 if self.tensor.dtype in EIGHT_BITS else self.tensor.dtype

    def read(self) -> Tensor:
        """Its values: float32 where they are scaled."""
        if self.scale is None:
            return self.tensor.to(self.dtype)
        # One scale for all, or one for each output.
        scale = self.scale.float().reshape(-1, *[1] * (self.tensor.ndim - 1))
        return self.tensor.float() * scale


def read_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """A checkpoint's tensors with their scales. Raises BackendError for what is quantised in another way."""
    path, tensors = checkpoint.path, checkpoint.tensors
    for form in _forms(tensors, checkpoint.metadata):
        if not form.startswith("float8_"):
            raise BackendError(
                f"{path} is quantised as {form}, and rollout reads 8-bit floats. Get the model in fp8, fp16 or bf16."
            )
    scales = {
        f"{name.removesuffix(suffix)}.weight": tensor
        for name, tensor in tensors.items()
        for suffix in SCALES
        if name.endswith(suffix)
    }
    weights = {}
    for name, tensor in tensors.items():
        if name == MARK or name.endswith((*SCALES, *UNUSED)):
            continue
        weights[name] = Weight(tensor, _scale(path, name, tensor, scales.pop(name, None)))
    if scales:
        raise BackendError(f"{path} holds a scale for {min(scales)} and no such tensor. Get it again.")
    return weights


def _scale(path: Path, name: str, tensor: Tensor, scale: Tensor | None) -> Tensor | None:
    if tensor.dtype not in EIGHT_BITS:
        if not tensor.is_floating_point():
            raise BackendError(
                f"{path} holds {name} as {str(tensor.dtype).removeprefix('torch.')}: quantised in a way that rollout does not "
                "read. Get the model in fp8, fp16 or bf16."
            )
        # A scale of 1 beside a weight that is not quantised says nothing; any other would be guessed at.
        if scale is not None and not bool((scale == 1).all()):
            raise BackendError(f"{path} holds {name} with a scale and not in 8 bits. Get the model in fp16 or bf16.")
        return None
    if scale is not None and scale.numel() not in (1, len(tensor)):
        raise BackendError(
            f"{path} holds {scale.numel()} scales for {name} {tuple(tensor.shape)}, and rollout reads one a tensor or a row. Get "
            "the model in fp16 or bf16."
        )
    return scale


def _forms(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[str]:
    """How ComfyUI says that modules are quantised, in tensors of text and in the file's metadata."""
    try:
        for name, tensor in tensors.items():
            if name.endswith(".comfy_quant"):
                yield str(parse_json(bytes(tensor.flatten().tolist()))["format"])
        layers = parse_json(metadata.get("_quantization_metadata", "{}")).get("layers", {})
        yield from (str(layer["format"]) for layer in layers.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        yield "something unreadable"
