"""A whole folder in diffusers' format to a backend: what is in it is checked, and each part comes to its device when needed."""

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rollout.backend import Backend
from rollout.backends.guidance import Guided
from rollout.backends.wan import digest
from rollout.backends.wan.checks import check_finite, check_report, quiet
from rollout.backends.wan.family import family_of, geometry
from rollout.backends.wan.folder import read_block, read_config
from rollout.backends.wan.headers import check_fit
from rollout.backends.wan.hooks import compile_blocks
from rollout.backends.wan.kinds import check_files
from rollout.backends.wan.model import Wan
from rollout.backends.wan.parallel import Parallel, tiles
from rollout.backends.wan.text import TextEncoder
from rollout.backends.wan.vae import for_cudnn
from rollout.devices import find_device, find_dtype, free_bytes
from rollout.errors import BackendError
from rollout.ranks import join_ranks, leads
from rollout.text import cause

__all__ = ["load_transformer", "load_wan"]


def load_transformer(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The transformer of a diffusers-format folder. Raises BackendError."""
    if find_spec("accelerate") is None:
        raise BackendError("the backend 'wan' needs accelerate to load models. Install rollout-video[wan].")
    import diffusers

    kind = getattr(diffusers, family_of(read_config(folder)).transformer)
    model = _load("transformer", kind, folder, "transformer", dtype)
    if dtype is torch.float64:
        model.double()  # diffusers keeps norms and modulation in float32
    return model.to(device)


def load_wan(
    folder: Path,
    *,
    device: str,
    dtype: str | None,
    height: int | None,
    width: int | None,
    attention_backend: str | None,
    compile: bool,
    low_vram: bool,
    fp8_weights: bool,
    vae_dtype: str | None,
    guidance: float | None,
    negative: str,
    parallel: bool = False,
) -> Backend:
    """Load a whole folder; all parts wait on the CPU until they are needed. Raises BackendError."""
    from diffusers import AutoencoderKLWan

    ranks = join_ranks() if parallel else None
    place = find_device(device if ranks is None else ranks.device(device))
    kind = find_dtype(dtype, place)
    config = read_config(folder)
    spec = geometry(config, height, width)
    if ranks is not None:
        tiles(spec, ranks.count)  # what does not divide is said before anything is read
    if not (folder / "vae").is_dir():
        raise BackendError(f"{folder} has no VAE. Give a whole Wan folder in diffusers' format.")
    for part in ("vae", "text_encoder"):
        check_fit(folder, part)
    if low_vram and place.type == "cpu":
        raise BackendError(
            "--low-vram keeps weights on the CPU until a GPU needs them; with --device cpu it has no meaning."
        )
    vae = None
    if leads(ranks):
        vae_kind = find_dtype(vae_dtype or ("bfloat16" if low_vram else "float32"), place)
        vae = _load("VAE", AutoencoderKLWan, folder, "vae", vae_kind)
        if place.type == "cuda":
            for_cudnn(vae)
    transformer = load_transformer(folder, device=torch.device("cpu"), dtype=kind)
    if fp8_weights:
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=kind)
    if low_vram:
        transformer.enable_group_offload(
            onload_device=place, offload_type="block_level", num_blocks_per_group=1, use_stream=place.type == "cuda"
        )
    moving = ({} if vae is None else {"VAE": vae}) | ({} if low_vram else {"transformer": transformer})
    new = Wan if ranks is None else partial(Parallel, ranks=ranks)
    wan = new(
        transformer,
        height=height,
        width=width,
        block=read_block(folder),
        text=TextEncoder(folder, device=place, dtype=kind),
        vae=vae,
        attention_backend=attention_backend,
        digest=digest(str(folder)),
        device=place,
        dtype=kind,
        settle=partial(_bring, moving, place),
    )
    if low_vram:
        wan.features_home = torch.device("cpu")
    if compile:
        compile_blocks(transformer)
    scale = family_of(config).guidance if guidance is None else guidance
    return wan if scale == 1 else Guided(wan, scale, negative)


def _load(part: str, kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """A part of a folder through its class of diffusers, checked. Raises BackendError."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    try:
        with quiet(logging):
            model, report = kind.from_pretrained(
                folder / name, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # whatever a config or a file makes a library raise
        check_files(folder / name)  # says it better where a file is none of weights
        raise BackendError(f"the {part} of {folder} cannot be loaded: {cause(error)}") from error
    check_report(part, folder, report)
    check_finite(part, folder, model)
    return model.eval().requires_grad_(False)


def _bring(parts: Mapping[str, Any], place: torch.device) -> None:
    """Move models to a device. Raises BackendError for the one that does not fit."""
    for name, model in parts.items():
        need, free = sum(p.numel() * p.element_size() for p in model.parameters()), free_bytes(place)
        if place.type != "cpu" and free is not None and need > free:
            raise BackendError(
                f"the {name} takes {need / 2**30:.1f} GiB, and {place} has {free / 2**30:.1f} free. Add --low-vram, or close "
                "what else runs there."
            )
        model.to(place)
