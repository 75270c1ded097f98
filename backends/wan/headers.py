"""Whether a folder's weights are those that its configs describe, from the files' headers alone: nothing is loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rollout.backends.wan.family import family_of
from rollout.backends.wan.kinds import check_files
from rollout.documents import parse_json, read_bytes
from rollout.errors import BackendError
from rollout.text import cause

__all__ = ["TIED", "Part", "check_fit", "check_parts"]

Part = tuple[str, str, bool]
"""A part of a folder, what was seen of it, and whether it is whole."""

TIED = {"shared.weight", "encoder.embed_tokens.weight"}
"""UMT5's embedding by both of its names, of which a file holds one or both."""


def check_parts(folder: Path) -> Iterator[Part]:
    """Transformer, VAE, text encoder and tokenizer: the tensors that are missing, unexpected or of another shape."""
    for name, build in (("transformer", _transformer), ("vae", _vae), ("text_encoder", _text)):
        seen, whole = _seen(folder / name, build)
        try:
            check_fit(folder, name)
        except BackendError as error:
            seen, whole = (str(error), False) if whole else (seen, whole)
        yield name, seen, whole
    yield "tokenizer", *_tokenizer(folder / "tokenizer")


def check_fit(folder: Path, part: str) -> None:
    """Raise BackendError where a VAE has other latents than the transformer takes, or a text encoder another width.

    By their configs: what is wrong with one that cannot be read is said by what loads it.
    """
    try:
        transformer, config = (parse_json(read_bytes(folder / name / "config.json")) for name in ("transformer", part))
        gives, takes = _PAIRS[part](transformer, config) if part in _PAIRS else ("", "")
    except (OSError, ValueError, TypeError, AttributeError):
        return
    if gives != takes:
        name = part.replace("_", " ").replace("vae", "VAE")
        raise BackendError(
            f"the {name} of {folder} is of another model: it has {gives}, and the transformer {takes}. Get the folder again."
        )


def _latents(transformer: dict[str, Any], vae: dict[str, Any]) -> tuple[str, str]:
    """The latents that a VAE makes, and those that a transformer takes."""
    family = family_of(transformer)
    stride = 2 ** (len(vae.get("dim_mult", (1, 2, 4, 4))) - 1) * (vae.get("patch_size") or 1)
    text = "latents of {} channels, a pixel for {}"
    return text.format(vae.get("z_dim", 16), stride), text.format(family.channels, family.spatial)


def _width(transformer: dict[str, Any], encoder: dict[str, Any]) -> tuple[str, str]:
    """The numbers a token of a text encoder, and of the text that a transformer takes."""
    text = "{} numbers a token"
    return text.format(encoder.get("d_model", 512)), text.format(transformer.get("text_dim", 4096))


_PAIRS = {"vae": _latents, "text_encoder": _width}
"""What a part's config and the transformer's say of what goes from one to the other."""


def _tokenizer(folder: Path) -> tuple[str, bool]:
    files = [name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]
    try:
        check_files(folder)
    except BackendError as error:
        return str(error), False
    return ", ".join(files) or "has neither tokenizer.json nor spiece.model", bool(files)


def _seen(folder: Path, build: Callable[[Path, dict[str, Any]], Any]) -> tuple[str, bool]:
    try:
        check_files(folder)
        config = parse_json(read_bytes(folder / "config.json"))
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in build(folder, config).state_dict().items()}
        shapes = _shapes(folder)
    except BackendError as error:
        return str(error), False
    except Exception as error:  # whatever a config makes a library raise, the doctor goes on to the next part
        return f"cannot be read: {cause(error)}", False
    if not shapes:
        return "has no safetensors file", False
    missing, extra = (
        sorted(names - TIED) for names in (expected.keys() - shapes.keys(), shapes.keys() - expected.keys())
    )
    if TIED & expected.keys() and not TIED & shapes.keys():
        missing.append("shared.weight")
    wrong = [n for n in expected.keys() & shapes.keys() if expected[n] != shapes[n]]
    for verb, names in (("lacks", missing), ("has unexpected", extra), ("has another shape for", wrong)):
        if names:
            return f"{verb} {len(names)} of {len(expected)} tensors, such as {names[0]}", False
    return f"{len(shapes)} tensors, as its config says", True


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _transformer(folder: Path, config: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, family_of(config).transformer).from_config(config)


def _vae(folder: Path, config: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan.from_config(config)


def _text(folder: Path, config: dict[str, Any]) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**config))
