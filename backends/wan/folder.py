"""A Wan folder in diffusers' format: its config, its files of weights, and what it holds."""

from collections.abc import Iterator
from hashlib import sha256
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rollout.backends.wan.family import family_of
from rollout.backends.wan.kinds import file_kind
from rollout.documents import parse_json, read_bytes
from rollout.errors import BackendError
from rollout.text import Json, cause

__all__ = [
    "FILES",
    "INDEX",
    "PARTS",
    "RECORD",
    "SIZES",
    "describe",
    "digest_weights",
    "read_block",
    "read_config",
    "read_record",
]

FILES = "diffusion_pytorch_model{suffix}.safetensors"
INDEX = f"{FILES.format(suffix='')}.index.json"
"""Which tensor is in which file, where there are several."""
RECORD = "rollout.json"
"""Where an imported transformer came from."""
SIZES = ("num_layers", "num_attention_heads", "attention_head_dim")
"""What a transformer's config must say."""
PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
"""What a folder holds beside its transformer."""


def read_config(folder: Path) -> Json:
    """The transformer's config of a diffusers-format folder. Raises BackendError."""
    path = folder / "transformer" / "config.json"
    try:
        config = parse_json(read_bytes(path))
        sizes = [config[name] for name in SIZES]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"it says {dict(zip(SIZES, sizes, strict=True))}")
    except KeyError as error:
        raise BackendError(
            f"{path} says no {error}: it is of no transformer of Wan's. Get the folder again."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise BackendError(f"{folder} is no Wan folder of diffusers: {_why(folder, path, error)}") from error
    family_of(config)
    if _experts(folder):
        raise BackendError(
            f"{folder} holds two transformers, one for high and one for low noise, as Wan 2.2 A14B does. rollout runs models of "
            "one, such as Wan2.1-T2V-14B or Wan2.2-TI2V-5B."
        )
    if config.get("added_kv_proj_dim") or config.get("image_dim"):
        raise BackendError(f"{path} is an image-to-video model. rollout runs text-to-video models of the family.")
    _shards(folder / "transformer")
    fields: Json = config
    return fields


def read_record(folder: Path) -> Json | None:
    """What the import of a folder recorded; None where it was not imported, or the record is none."""
    try:
        record: Json = parse_json(read_bytes(folder / RECORD))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def read_block(folder: Path) -> int | None:
    """Frames that the folder's model denoises together, as its import recorded them; None: those of its family."""
    block = (read_record(folder) or {}).get("block")
    return block if isinstance(block, int) and block > 0 else None


def digest_weights(folder: Path) -> str | None:
    """The identity of a folder's transformer, however it is split in files; None where there is none. Raises BackendError.

    Of every tensor its name, dtype, shape and first 4 KiB count: training and LoRAs change whole tensors, perhaps few of them.
    """
    files = _shards(folder / "transformer")
    tensors = sorted(piece for file in files for piece in _pieces(file))
    return sha256(repr(tensors).encode()).hexdigest()[:16] if files else None


def _pieces(file: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """Each tensor's name, dtype, shape and a hash of its first bytes, as safetensors holds them."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = parse_json(stream.read(length) if length < 2**27 else b"")
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    if not 0 <= begin <= end:
                        raise ValueError(f"{name} lies from {begin} to {end}")
                    stream.seek(8 + length + begin)
                    start = sha256(stream.read(min(end - begin, 4096))).hexdigest()
                    yield name, entry["dtype"], entry["shape"], start
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BackendError:
    """What to say of a transformer's file: what it is, where it is none of weights."""
    try:
        file_kind(file, "file of the transformer")
    except BackendError as named:
        return named
    return BackendError(f"{file} cannot be read as safetensors: {cause(error)}. Get it again.")


def _experts(folder: Path) -> bool:
    """Whether a pipeline changes its transformer on the way."""
    try:
        index = parse_json(read_bytes(folder / "model_index.json"))
        return (folder / "transformer_2").is_dir() or index.get("boundary_ratio") is not None
    except (OSError, ValueError, AttributeError):
        return (folder / "transformer_2").is_dir()


def _why(folder: Path, config: Path, error: Exception) -> str:
    """Why a folder's config cannot be read, and what to do."""
    if folder.is_file():
        return "it is a file. Make a folder of it: rollout weights import FILE --base DIR --out DIR."
    if folder.name == "transformer" and (folder / "config.json").is_file():
        return f"it is a part of one. Give {folder.parent}."
    if any(folder.glob("Wan2.*_VAE.pth")):
        return "it has Wan's own files. Get the model whose name ends in -Diffusers, such as Wan2.1-T2V-1.3B-Diffusers."
    what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({cause(error)})"
    return f"{config} {what}. Give the folder of Wan2.1-T2V-1.3B-Diffusers."


def _shards(folder: Path) -> list[Path]:
    """A transformer's files of weights, those of its index where there is one. Raises BackendError."""
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = {Path(name) for name in parse_json(read_bytes(index))["weight_map"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(f"{index} cannot be read: {cause(error)}. Get the folder again.") from error
    for name in sorted(names):
        if name.name != str(name) or name.suffix != ".safetensors":  # an index must not lead out of its folder
            raise BackendError(f"{index} names {str(name)!r}, no safetensors file beside it. Get the folder again.")
    return sorted(folder / name for name in names)


def describe(folder: Path) -> Json:
    """What a folder holds: geometry, parameters, dtype, parts, the weights' identity as a run records it, and their origin."""
    config = read_config(folder)
    count, kinds = 0, set()
    for file in _shards(folder / "transformer"):
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    part = tensors.get_slice(name)
                    count += prod(part.get_shape())
                    kinds.add(part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from error
    family = family_of(config)
    needed = ("vae", "text_encoder", "tokenizer")
    weights = digest_weights(folder)
    return {
        "family": family.name,
        "layers": config["num_layers"],
        "heads": config["num_attention_heads"],
        "head_dim": config["attention_head_dim"],
        "block": read_block(folder) or family.block,
        "parameters": count,
        "dtype": sorted(kinds),
        "weights": weights,
        "parts": [part for part in needed if (folder / part).is_dir()],
        "missing": [part for part in needed if not (folder / part).is_dir()] + ([] if weights else ["transformer"]),
        "imported": read_record(folder),
    }
