"""What a file of sprite weights says of itself, looked at before a model of those sizes is made."""

from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open

from rollout.backends.sprites.model import Shape
from rollout.backends.sprites.weights import FORMAT
from rollout.documents import parse_json
from rollout.errors import BackendError

__all__ = ["LAYERS", "MOST", "SMALL", "check_header"]

MOST, LAYERS = 2**14, 1000
"""Of a model's sizes, and of its layers."""
SMALL = 2**26
"""Parameters of a model that is made without a second look: what loads the file says what it lacks."""


def check_header(path: Path) -> None:
    """Raise BackendError for sizes that are none of a model, or of one that the file is too small for."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            return
        shape = msgspec.convert(parse_json(metadata["shape"]), Shape)
        sizes = (shape.channels, *shape.grid, shape.dim, shape.layers, shape.heads, shape.ffn, shape.frequencies)
        if any(not 1 <= size <= MOST for size in sizes) or shape.layers > LAYERS or shape.dim % shape.heads:
            raise ValueError(f"its sizes {sizes} are none of a model")
        if shape.parameters > max(SMALL, path.stat().st_size):
            raise ValueError(f"it holds no model of {shape.parameters:,} parameters")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BackendError(f"{path} cannot be read as safetensors: {error}. Give sprite weights.") from error
