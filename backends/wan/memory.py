"""What a Wan folder takes of a device's memory: counted from its configs and on models without weights."""

from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.multiprocessing import reductions
from torch.utils._python_dispatch import TorchDispatchMode

from rollout.backend import Spec
from rollout.backends.wan.family import family_of, geometry
from rollout.backends.wan.folder import read_block, read_config
from rollout.backends.wan.model import Wan
from rollout.backends.wan.text import TOKENS
from rollout.backends.wan.vae import WanDecoder
from rollout.errors import BackendError
from rollout.memory import Needs
from rollout.text import cause

__all__ = ["wan_needs"]


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the most bytes of tensors that were alive at once, of those that operations gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._reference: Any = reductions.StorageWeakRef  # untyped
        self._alive: dict[int, tuple[Any, int]] = {}
        self._most = 0
        """What would be alive if nothing had died since that was last looked at."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {arg.untyped_storage()._cdata for arg in args if isinstance(arg, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata in inputs:  # a view, of weights for example, is nothing new
                    continue
                self._alive[storage._cdata] = self._reference(storage), storage.nbytes()
                self._most += storage.nbytes()
        if self._most > self.bytes:  # else it is no peak, and who is dead need not be asked: there are thousands
            self._alive = {key: pair for key, pair in self._alive.items() if not pair[0].expired()}
            self._most = sum(size for _, size in self._alive.values())
            self.bytes = max(self.bytes, self._most)
        return out


def wan_needs(
    folder: Path,
    *,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    height: int | None,
    width: int | None,
    low_vram: bool,
    fp8_weights: bool = False,
    guidance: float | None,
) -> Needs:
    """The needs of a whole folder at a size; parts that --low-vram leaves on the CPU count for what comes at a time.

    What passes and the decoder work with is counted while they run on tensors without values. Raises BackendError.
    """
    config = read_config(folder)
    spec = geometry(config, height, width, read_block(folder))
    scale = family_of(config).guidance if guidance is None else guidance
    rows = 1 if scale == 1 else 2
    transformer = _transformer(config)
    vae, features, decoding = _vae(folder, spec, vae_dtype)
    passing, decoding = _pass(transformer, config, spec, dtype, rows), decoding - features
    # a block is decoded while the next one is denoised, but for --low-vram
    working = max(passing, decoding) if low_vram else passing + decoding
    if fp8_weights:
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        working += (
            max(p.numel() for p in transformer.parameters()) * dtype.itemsize
        )  # a layer that works is of that dtype
    weights, block = _bytes(transformer, dtype), _bytes(transformer.blocks[0], dtype)
    # a block of weights is used while the next one comes
    rolling = {"transformer": weights if not low_vram else weights - len(transformer.blocks) * block + 2 * block}
    rolling |= {"VAE": vae, "the VAE's features": features, "working memory": working}
    return Needs(
        spec,
        {"text encoder": _text(folder, dtype)},
        rolling,
        dtype.itemsize,
        rows,
        _notes(low_vram, fp8_weights, weights, vae_dtype, features),
        passing,
    )


def _notes(low_vram: bool, fp8_weights: bool, weights: int, vae_dtype: torch.dtype, features: int) -> dict[str, str]:
    notes = {} if low_vram else {"--low-vram": "weights come block by block, the VAE's features wait on the CPU"}
    if vae_dtype is torch.float32 and not low_vram:
        notes["--vae-dtype bfloat16"] = f"{features / 2**31:.1f} GiB less for the VAE's features"
    if not low_vram and not fp8_weights:
        notes["--fp8-weights"] = f"{weights / 2**31:.1f} GiB less for the transformer, at its loss of precision"
    return notes | {"--store int8": "half of the keys and values", "--cache with a smaller window": "a frame at a time"}


def _transformer(config: dict[str, Any]) -> Any:
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, family_of(config).transformer).from_config(config)


def _pass(transformer: Any, config: dict[str, Any], spec: Spec, dtype: torch.dtype, rows: int) -> int:
    """The most bytes that a pass over a block works with, without those of attention itself."""
    spatial, peak = family_of(config).spatial, _Peak()
    height, width = (spatial * side for side in spec.latent[1:])
    with torch.device("meta"), Wan(nn.Module.to(transformer, dtype), height=height, width=width) as wan:
        x = torch.empty(rows, spec.block, *spec.latent)
        prompt = torch.empty(rows, TOKENS, transformer.config.text_dim, dtype=dtype)
        with torch.no_grad(), peak:
            wan.denoise(x, 500.0, prompt, lambda layer, q, k, v: q)
    return peak.bytes


def _bytes(model: Any, dtype: torch.dtype) -> int:
    """Of all parameters in `dtype`, or in 8 bits where they are kept so."""
    eight = torch.float8_e4m3fn
    return sum(p.numel() * (1 if p.dtype is eight else dtype.itemsize) for p in model.parameters())


def _vae(folder: Path, spec: Spec, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of a VAE's weights, of its features between blocks, and the most while it decodes, features included."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        try:
            vae = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder / "vae", local_files_only=True))
        except (OSError, ValueError) as error:
            raise BackendError(f"the VAE of {folder} cannot be read: {cause(error)}. Get the folder again.") from error
        decoder, peak = WanDecoder(nn.Module.to(vae, dtype)), _Peak()
        with peak:
            decoder.decode(torch.empty(2, *spec.latent))
    features = [f for f in decoder.state()["features"] if isinstance(f, Tensor)]
    return _bytes(vae, dtype), sum(f.numel() * f.element_size() for f in features), peak.bytes


def _text(folder: Path, dtype: torch.dtype) -> int:
    count = 0
    for file in (folder / "text_encoder").glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as tensors:
                count += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except Exception as error:
            raise BackendError(f"{file} cannot be read as safetensors: {cause(error)}. Get it again.") from error
    return count * dtype.itemsize
