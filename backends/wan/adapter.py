"""What is said of a LoRA beside its factors, by peft in a config or by diffusers in the file: alpha, rank and kind."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from rollout.backends.wan.checkpoint import Contents
from rollout.documents import parse_json, read_bytes
from rollout.errors import BackendError
from rollout.text import cause

T = TypeVar("T")
__all__ = ["CONFIG", "METADATA", "Adapter", "read_adapter"]

CONFIG = "adapter_config.json"
"""Where peft says alpha and rank, beside the LoRA."""
METADATA = "lora_adapter_metadata"
"""Where diffusers says them, in the file."""


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


def read_adapter(contents: Contents) -> Adapter:
    """What is said of the LoRA, beside it by peft or in it by diffusers. Raises BackendError."""
    beside = contents.path.parent / CONFIG
    try:
        if METADATA in contents.metadata:
            said_by, content = "the file's metadata", parse_json(contents.metadata[METADATA])
        elif beside.is_file():
            said_by, content = CONFIG, parse_json(read_bytes(beside))
        else:
            return Adapter()
        content = msgspec.convert(content, dict[str, Any])
        fields = {name.removeprefix("transformer."): value for name, value in content.items()}
        adapter = msgspec.convert(fields | {"said_by": said_by}, Adapter)
        for pattern in (*(adapter.rank_pattern or {}), *(adapter.alpha_pattern or {})):
            re.compile(pattern)
    except (OSError, ValueError, re.error) as error:  # msgspec's errors are ValueErrors
        raise BackendError(
            f"what is said of the LoRA {contents.path} cannot be read: {cause(error)}. Get it again."
        ) from error
    others = {"transposed weights": adapter.fan_in_fan_out, "DoRA": adapter.use_dora}
    kind = next((kind for kind, is_so in others.items() if is_so), adapter.peft_type or "LORA")
    if kind != "LORA":
        raise BackendError(f"{contents.path} is of {kind}, and rollout merges plain LoRAs.")
    return adapter
