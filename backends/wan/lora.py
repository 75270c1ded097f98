"""LoRAs of every trainer's names, as what they add to a transformer's tensors: scale * up @ down, and plain differences."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from torch import Tensor

from rollout.backends.wan.checkpoint import Contents, pick, read_contents
from rollout.backends.wan.naming import Names, strip
from rollout.errors import BackendError
from rollout.text import Json, cause

T = TypeVar("T")
__all__ = ["CONFIG", "FLAT", "METADATA", "NAME", "OTHERS", "PARTS", "STATES", "Adapter", "Delta", "Lora", "read_lora"]

CONFIG = "adapter_config.json"
"""Where peft says alpha and rank, beside the LoRA."""
METADATA = "lora_adapter_metadata"
"""Where diffusers says them, in the file."""
STATES = ("generator_lora", "lora", "generator", "state_dict", "model", "transformer")
"""Under which names LoRAs are kept."""
FLAT = ("lora_unet__", "lora_unet_", "lora_transformer_")
"""Before names in which every dot is an underscore, as kohya's trainers write them."""
PARTS = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "lora.down": "down",
    "lora.up": "up",
    "alpha": "alpha",
    "diff": "weight",
    "diff_b": "bias",
    "diff_m": "modulation",
}
"""Ends of names: a factor, alpha, or the difference of a module's weight, bias or modulation."""
# An adapter may have a name, as in lora_A.default.weight.
NAME = re.compile(
    rf"(.+)\.({'|'.join(map(re.escape, sorted(PARTS, reverse=True)))})(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?"
)
OTHERS = (
    (re.compile(r"dora_scale|magnitude"), "DoRA"),
    (re.compile(r"lokr_|hada_|lora_mid|oft_"), "LoKr, LoHa or another relative of LoRA"),
    (re.compile(r"^(lora_te|text_encoder|conditioner)"), "a LoRA of the text encoder"),
)
"""What else such files hold."""


@dataclass(frozen=True)
class Delta:
    """What is added to one tensor: scale * up @ down, or with no `up` the difference `down` itself."""

    down: Tensor
    up: Tensor | None = None
    scale: float = 1.0

    def add_to(self, tensor: Tensor) -> Tensor:
        """The sum, in float32. Kernels of convolutions are factors of their flattened form."""
        down = self.down.float()
        change = down if self.up is None else self.scale * (self.up.float().flatten(1) @ down.flatten(1))
        return tensor.float() + change.reshape(tensor.shape)


@dataclass(frozen=True)
class Lora:
    """Deltas by the names of diffusers' tensors, and what a record says of them."""

    deltas: Mapping[str, tuple[Delta, ...]]
    record: Json


class Adapter(msgspec.Struct, frozen=True):
    """What peft or diffusers say of a LoRA; `said_by`: where."""

    said_by: str = ""
    peft_type: str | None = "LORA"
    r: int | None = None
    lora_alpha: float | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False
    fan_in_fan_out: bool | None = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None

    def alpha(self, module: str) -> float | None:
        """A module's alpha, where one is said."""
        return None if self.lora_alpha is None else _fitting(self.alpha_pattern, module, self.lora_alpha)

    def rank(self, module: str) -> int | None:
        """A module's rank, where one is said."""
        return _fitting(self.rank_pattern, module, self.r)


def _fitting(patterns: Mapping[str, T] | None, module: str, otherwise: T) -> T:
    """The value whose pattern fits a module's name, as peft reads them."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return otherwise


@dataclass(frozen=True)
class _Reader:
    """What all modules of one LoRA share: its file, the model's names, what is said of it, and the alpha asked for."""

    path: Path
    names: Names
    adapter: Adapter
    alpha: float | None

    def deltas(self, module: str, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Delta]]:
        """Each changed tensor's name, and its change."""
        if parts.keys() & {"down", "up", "alpha"}:
            name = self._find(module, "weight")
            if not {"down", "up"} <= parts.keys():
                raise BackendError(f"the LoRA {self.path} lacks a factor of {module}. Get it again.")
            yield name, self._factors(module, self.names.shapes[name], parts)
        for part in ("weight", "bias", "modulation"):
            if part in parts:
                name = self._find(module, part)
                self._check(module, parts[part].numel(), prod(self.names.shapes[name]), "difference")
                yield name, Delta(parts[part])

    def _factors(self, module: str, shape: tuple[int, ...], parts: Mapping[str, Tensor]) -> Delta:
        down, up = parts["down"], parts["up"]
        # Kernels of convolutions have factors of more than two dimensions.
        sizes = [
            (len(factor), factor[0].numel()) if factor.ndim > 1 and len(factor) else (0, 0) for factor in (up, down)
        ]
        rank = len(down) if down.ndim else 0
        self._check(module, sizes, [(shape[0], rank), (rank, prod(shape[1:]))], "size")
        return Delta(down, up, self._scale(module, rank, parts.get("alpha")))

    def _check(self, module: str, seen: object, expected: object, what: str) -> None:
        if seen != expected:
            raise BackendError(
                f"the LoRA {self.path} does not fit: the {what} of {module} is of another shape. Give the LoRA's own base."
            )

    def _find(self, module: str, part: str) -> str:
        """Diffusers' name of a module's tensor."""
        for prefix in FLAT:
            if module.startswith(prefix):
                flat = f"{module.removeprefix(prefix)}_{part}"
                fitting = {new for old, new in self.names.diffusers.items() if old.replace(".", "_") == flat}
                break
        else:
            # What is no module's weight, such as a modulation, may be named itself.
            names = strip(f"{module}.{part}"), strip(module)
            fitting = {self.names.diffusers[name] for name in names if name in self.names.diffusers}
        if len(fitting) != 1:
            raise BackendError(
                f"the LoRA {self.path} does not fit: {module!r} has no {part} in the model. Give the LoRA's own base."
            )
        return fitting.pop()

    def _scale(self, module: str, rank: int, own: Tensor | None) -> float:
        """What up @ down is multiplied with."""
        alpha = self.alpha
        if alpha is None and own is not None:
            alpha = float(own)
        elif alpha is None:
            expected = self.adapter.rank(module)
            if expected is not None and expected != rank:
                raise BackendError(
                    f"the LoRA {self.path} has the rank {rank} in {module}, and {self.adapter.said_by} says {expected}. Get both "
                    "again, or add --lora-alpha."
                )
            alpha = self.adapter.alpha(module)
        if alpha is None:
            return 1.0
        if not isfinite(alpha):
            raise BackendError(f"the LoRA {self.path} says an alpha of {alpha} for {module}. Add --lora-alpha.")
        return alpha / (sqrt(rank) if self.adapter.use_rslora else rank)


def read_lora(path: Path, names: Names, *, alpha: float | None = None) -> Lora:
    """The LoRA in a file or a folder of peft's, every name and shape checked. Raises BackendError.

    A pair of factors is scaled by alpha / rank. `alpha` stands above the file's own, and that above its adapter's config;
    where none says it, alpha is the rank.
    """
    if alpha is not None and (not isfinite(alpha) or alpha == 0):
        raise BackendError(f"a LoRA's alpha of {alpha} is no scale. Give a number other than 0, or none.")
    contents = read_contents(path, "LoRA")
    reader = _Reader(contents.path, names, _adapter(contents), alpha)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in pick(contents, STATES).tensors.items():
        module, part = _split(contents.path, name)
        if part in modules.setdefault(module, {}):
            raise BackendError(
                f"the LoRA {contents.path} holds {name!r} twice, perhaps of two adapters. Save one alone."
            )
        modules[module][part] = tensor
    deltas: dict[str, tuple[Delta, ...]] = {}
    for module, parts in modules.items():
        for name, delta in reader.deltas(module, parts):
            deltas[name] = (*deltas.get(name, ()), delta)
    scales = {round(delta.scale, 6) for changes in deltas.values() for delta in changes if delta.up is not None}
    record = {
        "lora": path.name,
        "lora_tensors": len(deltas),
        "lora_scales": sorted(scales),
        "lora_alpha": _origin(reader, any("alpha" in parts for parts in modules.values())),
    }
    return Lora(deltas, record)


def _origin(reader: _Reader, own: bool) -> str:
    """Who said alpha."""
    if reader.alpha is not None:
        return f"{reader.alpha:g}, as asked for"
    if own:
        return "of the file itself"
    return "the rank, as nothing says it" if reader.adapter.lora_alpha is None else f"of {reader.adapter.said_by}"


def _split(path: Path, name: str) -> tuple[str, str]:
    """A tensor's module and which part of its change it is."""
    match = NAME.fullmatch(name)
    if match is None:
        kind = next((kind for pattern, kind in OTHERS if pattern.search(name)), "no LoRA tensor")
        raise BackendError(
            f"the LoRA {path} holds {name!r}, which is {kind}. Give a LoRA of the transformer alone, in factors A and B."
        )
    return match[1], PARTS[match[2]]


def _adapter(contents: Contents) -> Adapter:
    """What is said of the LoRA, beside it by peft or in it by diffusers. Raises BackendError."""
    beside = contents.path.parent / CONFIG
    try:
        if METADATA in contents.metadata:
            said_by, said = "the file's metadata", msgspec.json.decode(contents.metadata[METADATA], type=dict[str, Any])
        elif beside.is_file():
            said_by, said = CONFIG, msgspec.json.decode(beside.read_bytes(), type=dict[str, Any])
        else:
            return Adapter()
        said = {name.removeprefix("transformer."): value for name, value in said.items()}
        adapter = msgspec.convert(said | {"said_by": said_by}, Adapter)
        for pattern in (*(adapter.rank_pattern or {}), *(adapter.alpha_pattern or {})):
            re.compile(pattern)
    except (OSError, msgspec.MsgspecError, re.error) as error:
        raise BackendError(
            f"what is said of the LoRA {contents.path} cannot be read: {cause(error)}. Get it again."
        ) from error
    others = {"transposed weights": adapter.fan_in_fan_out, "DoRA": adapter.use_dora}
    kind = next((kind for kind, is_so in others.items() if is_so), adapter.peft_type or "LORA")
    if kind != "LORA":
        raise BackendError(f"{contents.path} is of {kind}, and rollout merges plain LoRAs.")
    return adapter
