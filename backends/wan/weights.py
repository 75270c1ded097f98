"""Released checkpoints to one diffusers-format folder, strictly: nothing is guessed and nothing is half-written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout.backends.wan.folder import FILES, INDEX, PARTS, RECORD, describe, read_config
from rollout.errors import BackendError
from rollout.files import link_or_copy, new_tree
from rollout.text import Json, cause

__all__ = [
    "LORA_PREFIXES",
    "PREFIXES",
    "SHARD",
    "convert",
    "import_checkpoint",
    "merge_lora",
    "read_checkpoint",
    "strip",
]

PREFIXES = ("model.", "generator.")
"""Wrappers of the released checkpoints' names (Self-Forcing and its family)."""
LORA_PREFIXES = (*PREFIXES, "base_model.")
SHARD = 4 * 2**30
"""Bytes of a shard of the imported transformer."""


def read_checkpoint(path: Path, *, raw: bool = False) -> dict[str, Tensor]:
    """Tensors of a checkpoint by plain original Wan names, memory-mapped.

    Self-Forcing `.pt`: `generator_ema`, or `generator` with `raw`; or safetensors. Raises BackendError.
    """
    state = _read(path, "checkpoint")
    key = "generator" if raw else "generator_ema"
    if key not in state and ("generator" in state or "generator_ema" in state):
        other = "--raw" if "generator" in state else "no --raw"
        raise BackendError(f"{path} holds no {key!r}, only {', '.join(map(str, state))}. Use {other}.")
    return {strip(name, PREFIXES): tensor for name, tensor in _tensors(path, state.get(key, state)).items()}


def _read(path: Path, kind: str) -> Mapping[str, Any]:
    """What a .pt or safetensors file holds, memory-mapped; no pickled code is run. Raises BackendError."""
    if not path.is_file():
        raise BackendError(f"the {kind} {path} is not a file. Give a .pt or .safetensors file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise BackendError(f"{path} cannot be read as a {kind}: {cause(error)}. It may be truncated.") from error
    except Exception as error:  # torch.load's refusals of pickled code have no common class
        raise BackendError(
            f"{path} is no plain tensor file, and rollout runs no pickled code: {cause(error)}."
        ) from error
    return state if isinstance(state, Mapping) else {}


def _tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """A state dict, checked to be one. Raises BackendError."""
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise BackendError(f"{path} holds no mapping of names to tensors. Give a model's state dict.")
    return dict(state)


def strip(name: str, prefixes: Iterable[str]) -> str:
    """A tensor's name without its wrappers."""
    name = (
        name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
    )
    again = True
    while again:
        again = False
        for prefix in prefixes:
            if name.startswith(prefix):
                name, again = name[len(prefix) :], True
    return name


def convert(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Original Wan names to diffusers' for a transformer of this config; every name and shape is checked.

    Raises BackendError that names what is missing, unexpected or of another shape.
    """
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in WanTransformer3DModel.from_config(dict(config)).state_dict().items()}
    names_there = [n for n in tensors if n not in ("freqs",)]  # a table that the original code derives
    new_names = (
        {n: n for n in names_there}
        if shapes.keys() <= set(names_there)
        else convert_wan_transformer_to_diffusers({n: n for n in names_there})
    )
    missing, extra = sorted(shapes.keys() - new_names.keys()), sorted(new_names.keys() - shapes.keys())
    if missing or extra:
        parts = [
            f"{verb} {len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for verb, names in (("lacks", missing), ("has unexpected", extra))
            if names
        ]
        raise BackendError(
            f"the checkpoint {' and '.join(parts)}: it is not of the base's architecture. Give its own --base."
        )
    for new, old in new_names.items():
        if tuple(tensors[old].shape) != shapes[new]:
            raise BackendError(
                f"the checkpoint's {old} has the shape {tuple(tensors[old].shape)} where the base has {shapes[new]}. "
                "Give the base of the same size."
            )
    return {new: tensors[old] for new, old in new_names.items()}


def merge_lora(tensors: dict[str, Tensor], path: Path, *, alpha: float | None = None) -> None:
    """Add a peft LoRA's alpha / rank * B A to the weights it names, in place. Raises BackendError.

    `alpha` is not in a peft state dict; None means alpha = rank, as LongLive trains it.
    """
    lora = _read(path, "LoRA")
    state = _tensors(path, lora.get("generator_lora", lora))
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        base, separator, rest = strip(name, LORA_PREFIXES).partition(".lora_")
        if not separator or rest[0] not in "AB":
            raise BackendError(f"{path} holds {name!r}, which is no LoRA tensor. Give a file that peft wrote.")
        pairs.setdefault(base + ".weight", {})[rest[0]] = tensor
    for name, pair in pairs.items():
        if name not in tensors or set(pair) != {"A", "B"}:
            raise BackendError(
                f"the LoRA {path} does not fit: {name} {'lacks a factor' if name in tensors else 'is not in the checkpoint'}."
            )
        down, up = pair["A"].float(), pair["B"].float()
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        if (up.shape[0], down.shape[1]) != tuple(tensors[name].shape):
            raise BackendError(
                f"the LoRA {path} does not fit: {name} is {tuple(tensors[name].shape)}. Give the LoRA's own base."
            )
        tensors[name] = (tensors[name].float() + scale * (up @ down)).to(tensors[name].dtype)


def import_checkpoint(
    checkpoint: Path, base: Path, to: Path, *, raw: bool = False, lora: Path | None = None, alpha: float | None = None
) -> Json:
    """Write a diffusers-format folder: the checkpoint as its transformer, everything else from `base`.

    Files of the base are hard-linked where the disk allows it. Returns what `describe` says. Raises BackendError,
    OutputError; nothing is left on failure.
    """
    config = read_config(base)
    tensors = read_checkpoint(checkpoint, raw=raw)
    if lora is not None:
        merge_lora(tensors, lora, alpha=alpha)
    weights = convert(tensors, config)
    with new_tree(to) as partial:
        _take_parts(base, partial)
        (partial / "transformer").mkdir()
        (partial / "transformer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _save(weights, partial / "transformer")
        source = {
            "checkpoint": checkpoint.name,
            "weights": "generator" if raw else "generator_ema",
            "lora": lora and lora.name,
        }
        (partial / RECORD).write_text(json.dumps(source, indent=2) + "\n")
    return describe(to)


def _take_parts(base: Path, folder: Path) -> None:
    """The base's VAE, text encoder, tokenizer and scheduler, and what is said of them, under names of their own."""
    for source in sorted(base.glob("[!.]*")):
        if source.is_file() and source.suffix in (".json", ".md", ".txt", "") and source.name != RECORD:
            link_or_copy(source, folder / source.name)
    for part in PARTS:
        for source in sorted((base / part).rglob("*")):
            name = Path(part) / source.relative_to(base / part)
            if source.is_file() and not any(piece.startswith(".") for piece in name.parts):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source, folder / name)


def _save(tensors: dict[str, Tensor], folder: Path) -> None:
    """Safetensors in diffusers' file names, one shard in memory at a time."""
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=FILES, max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index))
