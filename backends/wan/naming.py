"""The names of a transformer's tensors: diffusers' own, and those of Wan's and SkyReels' code, which checkpoints have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rollout.backends.wan.family import family_of
from rollout.errors import BackendError

__all__ = ["ORIGINAL", "PREFIXES", "WRAPPERS", "Names", "original_name", "strip"]

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, checkpointing and torch.compile put into names, anywhere."""
PREFIXES = (
    "base_model.",  # peft
    "model.",
    "module.",  # data parallel
    "generator.",
    "generator_ema.",
    "diffusion_model.",  # ComfyUI, after model.
    "transformer.",  # diffusers' LoRAs
    "pipe.",
    "dit.",  # DiffSynth, after pipe.
)
"""What wraps a whole model, in any order."""
ORIGINAL = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("fps_projection.net.0.proj.", "fps_projection.0."),
    ("fps_projection.net.2.", "fps_projection.2."),
    ("proj_out.", "head.head."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".norm2.", ".norm3."),  # numbered in the order in which they are made, and in which they are called
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),
)
"""Pieces of diffusers' names, and of the original code's in their place."""


def original_name(name: str) -> str:
    """What the original code calls the tensor that diffusers calls so."""
    if name == "scale_shift_table":
        return "head.modulation"
    for piece, original in ORIGINAL:
        name = name.replace(piece, original)
    return name


def strip(name: str) -> str:
    """A tensor's name without what wraps its model."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


@dataclass(frozen=True)
class Names:
    """The tensors of one transformer: `shapes` by diffusers' names, and `diffusers` from every name that they have."""

    shapes: Mapping[str, tuple[int, ...]]
    diffusers: Mapping[str, str]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Names":
        """Those of a transformer of this config, of which nothing is made. Raises BackendError."""
        import diffusers

        transformer = getattr(diffusers, family_of(config).transformer)
        with torch.device("meta"):
            state = transformer.from_config(dict(config)).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return cls(shapes, {alias: name for name in shapes for alias in (original_name(name), name)})

    def match(self, path: Path, names: Iterable[str]) -> dict[str, str]:
        """Diffusers' name to the one of `names` that stands for it, all of both. Raises BackendError."""
        old_names: dict[str, str] = {}
        extra = []
        for name in names:
            new = self.diffusers.get(name)
            if new is None:
                extra.append(name)
            elif new in old_names:
                raise BackendError(f"the checkpoint {path} holds {new} twice, as {old_names[new]} and {name}.")
            else:
                old_names[new] = name
        missing = sorted(self.shapes.keys() - old_names.keys())
        if missing or extra:
            raise BackendError(_mismatch(path, missing, sorted(extra)))
        return old_names


def _mismatch(path: Path, missing: list[str], extra: list[str]) -> str:
    parts = [
        f"{verb} {len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for verb, names in (("lacks", missing), ("has unexpected", extra))
        if names
    ]
    advice = "it is not of the base's architecture. Give its own --base."
    if any("k_img" in name or "img_emb" in name or "add_k_proj" in name for name in extra):
        advice = "it is an image-to-video model. rollout runs text-to-video models."
    return f"the checkpoint {path} {' and '.join(parts)}: {advice}"
