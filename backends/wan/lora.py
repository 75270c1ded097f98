"""LoRAs of every trainer's names, as what they add to a transformer's tensors: scale * up @ down, and plain differences."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path

import torch
from torch import Tensor

from rollout.backends.wan.adapter import Adapter, read_adapter
from rollout.backends.wan.checkpoint import pick, read_contents
from rollout.backends.wan.naming import Names, strip
from rollout.errors import BackendError
from rollout.text import Json

__all__ = ["ABSENT", "CHANGED", "FLAT", "NAME", "OTHERS", "PARTS", "STATES", "Delta", "Lora", "is_factor", "read_lora"]

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
CHANGED = {"down": "weight", "up": "weight", "alpha": "weight", "offset": "bias"}
"""The module's tensor that a part changes, where it is not called so; `offset`: lora_B.bias, scaled as the factors are."""
# An adapter may have a name, as in lora_A.default.weight.
NAME = re.compile(
    rf"(.+)\.({'|'.join(map(re.escape, sorted(PARTS, reverse=True)))})(?:\.(?!weight$|bias$)[^.]+)?(?:\.(weight|bias))?"
)
OTHERS = (
    (re.compile(r"dora_scale|magnitude"), "DoRA"),
    (re.compile(r"lokr_|hada_|lora_mid|oft_"), "LoKr, LoHa or another relative of LoRA"),
    (re.compile(r"^(lora_te|text_encoder|conditioner)"), "a LoRA of the text encoder"),
)
"""What else such files hold."""
ABSENT = (
    (
        re.compile(r"^(lora_te|text_encoder|conditioner)"),
        "It is of a text encoder too: give one of the transformer alone.",
    ),
    (re.compile(r"k_img|v_img|img_emb|add_[kv]_proj"), "It is of an image-to-video model: give one of text to video."),
    (re.compile(r"(?<![a-z])(to_)?q?kv(_proj)?$"), "It is of fused projections: get it with q, k and v apart."),
)
"""Modules that a transformer of text to video does not have, and what to do about a LoRA that has them."""


@dataclass(frozen=True)
class Delta:
    """What is added to one tensor: scale * up @ down, or with no `up` scale * down."""

    down: Tensor
    up: Tensor | None = None
    scale: float = 1.0

    def add_to(self, tensor: Tensor) -> Tensor:
        """The sum, in float64 where the tensor is, else in float32. Kernels of convolutions are factors of their flat form."""
        wide = torch.promote_types(tensor.dtype, torch.float32)
        down = self.down.to(wide)
        change = down if self.up is None else self.up.to(wide).flatten(1) @ down.flatten(1)
        return tensor.to(wide) + (self.scale * change).reshape(tensor.shape)


@dataclass(frozen=True)
class Lora:
    """Deltas by the names of diffusers' tensors, and what a record says of them."""

    deltas: Mapping[str, tuple[Delta, ...]]
    record: Json


@dataclass(frozen=True)
class _Reader:
    """What all modules of one LoRA share: its file, the model's names, what is said of it, and the alpha asked for."""

    path: Path
    names: Names
    adapter: Adapter
    alpha: float | None

    def check_modules(self, modules: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raise BackendError where the model lacks something that they change."""
        absent = {
            module: tensor
            for module, parts in modules.items()
            for tensor in {CHANGED.get(part, part) for part in parts}
            if self._find(module, tensor) is None
        }
        if absent:
            module, tensor = min(absent.items())
            fitting = len(modules) - len(absent)
            count = (
                f"only {fitting} of its {len(modules)} modules are"
                if fitting
                else f"none of its {len(modules)} modules is"
            )
            remedies = (remedy for pattern, remedy in ABSENT if any(map(pattern.search, absent)))
            raise BackendError(
                f"the LoRA {self.path} does not fit: {count} in the model, and the {tensor} of {module!r} is not. "
                f"{next(remedies, 'Give it with its own base.')}"
            )

    def deltas(self, module: str, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Delta]]:
        """Each changed tensor's name, and its change."""
        if parts.keys() & CHANGED.keys():
            if not {"down", "up"} <= parts.keys():
                raise BackendError(f"the LoRA {self.path} lacks a factor of {module}. Get it again.")
            yield from self._factors(module, parts)
        for part in ("weight", "bias", "modulation"):
            if part in parts:
                yield self._difference(module, part, parts[part])

    def _factors(self, module: str, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Delta]]:
        name, down, up = self._name(module, "weight"), parts["down"], parts["up"]
        # Kernels of convolutions have factors of more than two dimensions.
        sizes = [
            (len(factor), factor[0].numel()) if factor.ndim > 1 and len(factor) else (0, 0) for factor in (up, down)
        ]
        rank, shape = len(down) if down.ndim else 0, self.names.shapes[name]
        self._check(module, sizes, [(shape[0], rank), (rank, prod(shape[1:]))], "size")
        scale = self._scale(module, rank, parts.get("alpha"))
        yield name, Delta(down, up, scale)
        if "offset" in parts:
            yield self._difference(module, "bias", parts["offset"], scale)

    def _difference(self, module: str, part: str, change: Tensor, scale: float = 1.0) -> tuple[str, Delta]:
        name = self._name(module, part)
        self._check(module, change.numel(), prod(self.names.shapes[name]), "difference")
        return name, Delta(change, scale=scale)

    def _check(self, module: str, seen: object, expected: object, what: str) -> None:
        if seen != expected:
            raise BackendError(
                f"the LoRA {self.path} does not fit: the {what} of {module} is of another shape. Give the LoRA's own base."
            )

    def _name(self, module: str, tensor: str) -> str:
        """As `_find`, of modules that were checked."""
        name = self._find(module, tensor)
        assert name is not None
        return name

    def _find(self, module: str, tensor: str) -> str | None:
        """Diffusers' name of a module's tensor, where the model has it."""
        for prefix in FLAT:
            if module.startswith(prefix):
                flat = f"{module.removeprefix(prefix)}_{tensor}"
                fitting = {new for old, new in self.names.diffusers.items() if old.replace(".", "_") == flat}
                break
        else:
            # What is no module's weight, such as a modulation, may be named itself.
            names = strip(f"{module}.{tensor}"), strip(module)
            fitting = {self.names.diffusers[name] for name in names if name in self.names.diffusers}
        return fitting.pop() if len(fitting) == 1 else None

    def _scale(self, module: str, rank: int, own: Tensor | None) -> float:
        """What up @ down is multiplied with."""
        alpha = self.alpha
        if alpha is None and own is not None:
            alpha = float(own) if own.numel() == 1 else float("nan")
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
            raise BackendError(f"the LoRA {self.path} says no number as the alpha of {module}. Add --lora-alpha.")
        return alpha / (sqrt(rank) if self.adapter.use_rslora else rank)


def read_lora(path: Path, names: Names, *, alpha: float | None = None) -> Lora:
    """The LoRA in a file or a folder of peft's, every name and shape checked. Raises BackendError.

    A pair of factors is scaled by alpha / rank. `alpha` stands above the file's own, and that above its adapter's config;
    where none says it, alpha is the rank.
    """
    if alpha is not None and (not isfinite(alpha) or alpha == 0):
        raise BackendError(f"a LoRA's alpha of {alpha} is no scale. Give a number other than 0, or none.")
    contents = read_contents(path, "LoRA")
    reader = _Reader(contents.path, names, read_adapter(contents), alpha)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in pick(contents, STATES).tensors.items():
        module, part = _split(contents.path, name)
        if part in modules.setdefault(module, {}):
            raise BackendError(
                f"the LoRA {contents.path} holds {name!r} twice, perhaps of two adapters. Save one alone."
            )
        if part != "alpha" and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BackendError(f"the LoRA {contents.path} holds {name!r} as {kind}. Get it in fp16, bf16 or fp32.")
        modules[module][part] = tensor
    reader.check_modules(modules)
    deltas: dict[str, tuple[Delta, ...]] = {}
    for module, parts in modules.items():
        for name, delta in reader.deltas(module, parts):
            deltas[name] = (*deltas.get(name, ()), delta)
    if not any(delta.scale for changes in deltas.values() for delta in changes):
        raise BackendError(f"the LoRA {contents.path} says an alpha of 0, and changes nothing. Add --lora-alpha.")
    scales = {round(delta.scale, 6) for changes in deltas.values() for delta in changes if delta.up is not None}
    record = {
        "lora": path.name,
        "lora_tensors": len(deltas),
        "lora_scales": sorted(scales),
        "lora_alpha": _origin(reader, any("alpha" in parts for parts in modules.values())),
    }
    return Lora(deltas, record)


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is a LoRA's."""
    match = NAME.fullmatch(name)
    return match is not None and PARTS[match[2]] in ("down", "up")


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
    part = None if match is None else PARTS[match[2]]
    if match is not None and match[3] == "bias":
        part = "offset" if part == "up" else None
    if match is None or part is None:
        kind = next((kind for pattern, kind in OTHERS if pattern.search(name)), "no LoRA tensor")
        raise BackendError(
            f"the LoRA {path} holds {name!r}, which is {kind}. Give a LoRA of the transformer alone, in factors A and B."
        )
    return match[1], part
