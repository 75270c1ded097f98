"""Checkpoints as people have them: files, shards and folders, memory-mapped, and which weights in them are meant."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rollout.backends.wan.kinds import file_kind
from rollout.backends.wan.naming import strip
from rollout.documents import parse_json, read_bytes
from rollout.errors import BackendError
from rollout.text import cause

__all__ = [
    "AVERAGED",
    "DERIVED",
    "INDEX",
    "SHARD",
    "SUFFIXES",
    "TRAINED",
    "WHOLE",
    "Checkpoint",
    "Contents",
    "State",
    "pick",
    "read_checkpoint",
    "read_contents",
]

AVERAGED = ("generator_ema", "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict")
TRAINED = ("generator", "model", "state_dict", "module", "transformer", "dit", "net")
"""Under which names checkpoints keep a model's averaged weights, and those that were trained: the first there is taken."""
WHOLE = "model.diffusion_model."
"""Where ComfyUI's files keep the transformer, perhaps beside a VAE and a text encoder."""
DERIVED = ("freqs", "_extra_state")
"""Ends of names that hold no weights: tables that the original code derives, and what libraries add."""
INDEX = ".index.json"
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.\w+)")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Of files of weights, as a folder's are looked for."""


@dataclass(frozen=True)
class Contents:
    """What a file holds, or the shards of one: tensors by name, perhaps in mappings; `metadata` of safetensors."""

    path: Path
    values: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A state dict that was picked: `taken`, the key under which it was, None where there was none, and all that there were."""

    tensors: Mapping[str, Tensor]
    taken: str | None
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A transformer's tensors by plain names, memory-mapped.

    `taken`: the key under which they were, None where there was none; `holds`: all keys that there were.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    taken: str | None
    holds: tuple[str, ...]
    ignored: int = 0
    """Tensors of other models in the same file."""


def read_checkpoint(path: Path, *, raw: bool = False) -> Checkpoint:
    """The transformer of a checkpoint: a file, an index of shards, or a folder. Raises BackendError.

    Averaged weights are taken where there are both; `raw`: those that were trained.
    """
    contents = read_contents(path, "checkpoint")
    state = pick(contents, TRAINED + AVERAGED if raw else AVERAGED + TRAINED)
    taken = state.taken
    if raw and taken is not None and taken.rpartition("/")[2] in AVERAGED:
        raise BackendError(f"{contents.path} holds only averaged weights, {taken!r}. Leave --raw out.")
    whole = {name: tensor for name, tensor in state.tensors.items() if name.startswith(WHOLE)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in (whole or state.tensors).items():
        plain = strip(name)
        if plain in tensors:
            raise BackendError(f"{contents.path} holds {plain!r} twice, under two wrappers. Save one of them alone.")
        if not plain.endswith(DERIVED):
            tensors[plain] = tensor
    ignored = len(state.tensors) - len(whole) if whole else 0
    return Checkpoint(contents.path, tensors, contents.metadata, taken, state.holds, ignored)


def pick(contents: Contents, order: Sequence[str]) -> State:
    """The state dict that is meant: the first of `order` that is there, else the only one.

    Raises BackendError where there is none, or several of which none is known.
    """
    states = dict(_states(contents.values))
    for key in sorted(states, key=lambda key: [_rank(part, order) for part in key]):
        if len(states) == 1 or all(part in order for part in key):
            for name, tensor in states[key].items():
                if tensor.layout is not torch.strided or tensor.is_meta:
                    kind = "without its numbers" if tensor.is_meta else "as a sparse tensor"
                    raise BackendError(f"{contents.path} holds {name!r} {kind}. Save the model's state dict again.")
            return State(states[key], "/".join(key) or None, tuple(sorted(_keys(contents.values, key))))
    if states:
        keys = ", ".join(sorted("/".join(key) for key in states))
        raise BackendError(f"{contents.path} holds several models, {keys}. Save the one that you mean alone.")
    keys = ", ".join(sorted(map(str, contents.values))[:5])
    raise BackendError(
        f"{contents.path} holds no mapping of names to tensors{keys and f', only {keys}'}. Give a model's state dict."
    )


def _keys(values: Mapping[str, Any], key: Sequence[str]) -> Iterator[str]:
    """Every key beside those that lead to a state dict, its own included; before a dot, where names are flat."""
    if not key:
        return
    inner = {str(name): value for name, value in values.items()}
    for name in inner if key[0] in inner else {name.partition(".")[0] for name in inner}:
        if name == key[0] and len(key) > 1:
            yield from (f"{name}/{deeper}" for deeper in _keys(inner[name], key[1:]))
        else:
            yield name


def _rank(part: str, order: Sequence[str]) -> int:
    return order.index(part) if part in order else len(order)


def _states(values: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every state dict in nested mappings, with its keys; flat names under two known wrappers are two."""
    if not isinstance(values, Mapping) or len(key) > 2:
        return
    state = {n: t for n, t in values.items() if not (isinstance(n, str) and n.endswith("_extra_state"))}
    if state and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        wrappers = {name.partition(".")[0] for name in state}
        if len(wrappers) > 1 and wrappers <= {*AVERAGED, *TRAINED}:
            for wrapper in sorted(wrappers):
                yield (*key, wrapper), {n: t for n, t in state.items() if n.startswith(f"{wrapper}.")}
        else:
            yield key, state
        return
    for name, value in values.items():
        yield from _states(value, (*key, str(name)))


def read_contents(path: Path, role: str) -> Contents:
    """What a file, an index of shards or a folder holds; no pickled code is run. Raises BackendError."""
    if path.is_dir():
        path = _in_folder(path, role)
    if not path.is_file():
        raise BackendError(f"the {role} {path} is not a file. Give a .pt or .safetensors file, or a folder of them.")
    if not path.name.endswith(INDEX):
        match = SHARD.fullmatch(path.name)
        return _read_shards(path, _all_shards(path, match), role) if match else _read(path, role)
    try:
        names = {str(name) for name in parse_json(read_bytes(path))["weight_map"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(f"{path} cannot be read as an index of shards: {cause(error)}. Get it again.") from error
    return _read_shards(path, sorted(names), role)


def _read_shards(path: Path, names: Sequence[str], role: str) -> Contents:
    """All of several files beside `path`."""
    values: dict[str, Any] = {}
    for name in names:
        if Path(name).name != name:  # an index must not lead out of its folder
            raise BackendError(f"{path} names {name!r}, no file beside it. Get it again.")
        if not (path.parent / name).is_file():
            raise BackendError(f"{path.parent} lacks {name}, one of {len(names)} shards. Get it as well.")
        shard = _read(path.parent / name, role).values
        if twice := values.keys() & shard.keys():
            raise BackendError(f"{path.parent} holds {min(twice)!r} in two shards. Get the folder again.")
        values |= shard
    return Contents(path, values)


def _all_shards(path: Path, match: re.Match[str]) -> list[str]:
    """The names of all shards of which one is given."""
    stem, number, count, suffix = match.groups()
    return [f"{stem}-{i:0{len(number)}d}-of-{count}{suffix}" for i in range(1, int(count) + 1)]


def _in_folder(folder: Path, role: str) -> Path:
    """The file or index of a folder that holds the weights of one model. Raises BackendError."""
    if (folder / "transformer_2").is_dir() or (folder / "high_noise_model").is_dir():
        raise BackendError(f"{folder} holds two transformers, one for high and one for low noise. rollout runs one.")
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    for pattern in (f"*.safetensors{INDEX}", *(f"*{suffix}" for suffix in SUFFIXES), f"*{INDEX}"):
        files = [file for file in sorted(folder.glob(pattern)) if not file.name.startswith(".")]
        shards = {match[1] for file in files if (match := SHARD.fullmatch(file.name))}
        if len(files) == 1 or (len(shards) == 1 and all(SHARD.fullmatch(file.name) for file in files)):
            return files[0]
        if files:
            raise BackendError(f"{folder} holds {', '.join(f.name for f in files[:4])}. Give the {role} that you mean.")
    raise BackendError(f"{folder} holds no {role}: no file that ends in {', '.join(SUFFIXES)}.")


def _read(path: Path, role: str) -> Contents:
    """One file, memory-mapped where its kind can be."""
    kind = file_kind(path, role)
    if kind != "safetensors" and path.suffix == ".safetensors":  # PyTorch reads files by their names
        raise BackendError(f"the {role} {path} is a PyTorch file, not safetensors. Rename it to {path.stem}.pt.")
    try:
        if kind == "safetensors":
            with safe_open(path, "pt") as header:
                metadata = header.metadata() or {}
            return Contents(path, load_file(path), metadata)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "torch")
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise BackendError(f"{path} cannot be read as a {role}: {cause(error)}. It may be truncated.") from error
    except Exception as error:  # torch.load's refusals of pickled code have no common class
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise BackendError(
            f"the {role} {path} needs pickled code{f' ({code[1]})' if code else ''}, and rollout runs no pickled code. Get it as "
            "safetensors, or load it where you trust it and save its state dict alone."
        ) from error
    return Contents(path, values if isinstance(values, Mapping) else {})
