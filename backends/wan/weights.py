"""Released checkpoints to one diffusers-format folder, strictly: nothing is guessed and nothing is half-written."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from rollout.backends.wan.checkpoint import Checkpoint, read_checkpoint
from rollout.backends.wan.checks import finite
from rollout.backends.wan.folder import FILES, INDEX, PARTS, RECORD, describe, read_config
from rollout.backends.wan.kinds import check_files
from rollout.backends.wan.lora import NAME, Delta, Lora, is_factor, read_lora
from rollout.backends.wan.naming import Names
from rollout.backends.wan.quantised import Weight, read_weights
from rollout.errors import BackendError
from rollout.files import link_or_copy, new_tree, sync
from rollout.text import Json

__all__ = ["DTYPES", "SHARD", "Advance", "import_checkpoint"]

SHARD = 2**30
"""Bytes of a shard of the imported transformer, and of memory where tensors are changed on their way."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

Advance = Callable[[int, int], None]
"""(bytes that are written, bytes in all)."""


@dataclass(frozen=True)
class _Entry:
    """A tensor of the folder to be: made of a checkpoint's when it is written."""

    name: str
    weight: Weight
    deltas: tuple[Delta, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        """Its values. Raises BackendError where they are not finite."""
        tensor = self.weight.read()
        if not finite(tensor):
            raise BackendError(f"the checkpoint's {self.name} is not finite. Get it again.")
        for delta in self.deltas:
            tensor = delta.add_to(tensor)
        if self.deltas and not finite(tensor):
            raise BackendError(f"the checkpoint's {self.name} with the LoRA is not finite. Get the LoRA again.")
        written = tensor.to(self.dtype).contiguous()
        if written.dtype is not tensor.dtype and not finite(written):
            raise BackendError(
                f"the checkpoint's {self.name} is too large for {_word(self.dtype)}. Use --dtype bfloat16."
            )
        return written

    @property
    def shape(self) -> Tensor:
        """A tensor of its size that holds nothing."""
        return torch.empty_like(self.weight.tensor, dtype=self.dtype, device="meta")


def import_checkpoint(
    checkpoint: Path,
    base: Path,
    to: Path,
    *,
    raw: bool = False,
    lora: Path | None = None,
    alpha: float | None = None,
    dtype: str | None = None,
    block: int | None = None,
    advance: Advance = lambda done, total: None,
) -> Json:
    """Write a diffusers-format folder: the checkpoint as its transformer, everything else from `base`.

    Of the base its transformer's config is needed, VAE, text encoder and tokenizer; its files are hard-linked where the disk
    allows it. Tensors are written as `dtype`, None: as they come. `block`: the frames that the model denoises together, for
    the folder's record. Returns what `describe` says. Raises BackendError, OutputError; nothing is left on failure.
    """
    config = read_config(base)
    for part in PARTS:
        check_files(base / part)
    if alpha is not None and lora is None:
        raise BackendError("--lora-alpha is of a LoRA. Add --lora.")
    if dtype is not None and dtype not in DTYPES:
        raise BackendError(f"weights are not written as {dtype!r}. Use one of {', '.join(DTYPES)}.")
    if block is not None and block < 1:
        raise BackendError(f"a block of {block} frames is none. Use 1 or more.")
    names = Names.of(config)
    source = read_checkpoint(checkpoint, raw=raw)
    changes = Lora({}, {"lora": None}) if lora is None else read_lora(lora, names, alpha=alpha)
    entries = _entries(source, names, changes, dtype)
    written = sorted({_word(entry.dtype) for entry in entries.values()})
    with new_tree(to) as partial:
        _take_parts(base, partial)
        (partial / "transformer").mkdir()
        (partial / "transformer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _save(entries, partial / "transformer", advance)
        record = {**_origin(checkpoint, source), **changes.record, "dtype": written, "block": block}
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return describe(to)


def _entries(source: Checkpoint, names: Names, changes: Lora, dtype: str | None) -> dict[str, _Entry]:
    """Every tensor of the folder to be, its name and shape checked. Raises BackendError."""
    if factors := sum(map(is_factor, source.tensors)):
        remedy = "Merge it, or save both apart."
        if all(map(NAME.fullmatch, source.tensors)):
            remedy = "Give it with --lora, and as CHECKPOINT the model that it belongs to."
        raise BackendError(f"{source.path} is no checkpoint alone: {factors} of its tensors are a LoRA's. {remedy}")
    weights = read_weights(source)
    entries = {}
    for new, old in names.match(source.path, weights).items():
        weight = weights[old]
        if tuple(weight.tensor.shape) != names.shapes[new]:
            raise BackendError(
                f"the checkpoint's {old} has the shape {tuple(weight.tensor.shape)} where the base has {names.shapes[new]}. "
                "Give the base of the same size."
            )
        kind = weight.dtype if dtype is None else DTYPES[dtype]
        entries[new] = _Entry(old, weight, changes.deltas.get(new, ()), kind)
    return {name: entries[name] for name in names.shapes}


def _origin(path: Path, source: Checkpoint) -> Json:
    """What a record says of a checkpoint."""
    kinds = {_word(tensor.dtype) for tensor in source.tensors.values()}
    record: Json = {
        "checkpoint": path.name,
        "weights": source.taken,
        "holds": list(source.holds),
        "from": sorted(kinds),
    }
    return record | ({"ignored": source.ignored} if source.ignored else {})


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _save(entries: Mapping[str, _Entry], folder: Path, advance: Advance) -> None:
    """Safetensors in diffusers' file names, one shard in memory at a time."""
    shapes = {name: entry.shape for name, entry in entries.items()}
    split = split_torch_state_dict_into_shards(shapes, filename_pattern=FILES, max_shard_size=SHARD)
    total, done = sum(shape.nbytes for shape in shapes.values()), 0
    advance(done, total)
    for file, names in split.filename_to_tensors.items():
        save_file({name: entries[name].make() for name in names}, folder / file, metadata={"format": "pt"})
        sync(folder / file)
        done += sum(shapes[name].nbytes for name in names)
        advance(done, total)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index))
