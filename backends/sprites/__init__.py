"""The embedded model: a causal video diffusion transformer of the Wan kind on a procedural sprite world."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.backend import Spec
from rollout.backends.sprites.grammar import parse
from rollout.errors import BackendError

if TYPE_CHECKING:
    from rollout.backends.sprites.weights import Sprites


WEIGHTS = Path(__file__).parent / "sprites.safetensors"


def spec() -> Spec:
    """Geometry of the shipped model: 32x32 pixels, one latent frame a pixel frame at 8 fps, 16 tokens a frame."""
    return Spec(
        name="sprites",
        layers=6,
        heads=4,
        head_dim=48,
        latent=(64, 4, 4),
        grid=(4, 4),
        axes=(8, 8, 8),
        trained=21,
        table=1024,
        stride=1,
        fps=8.0,
    )


def digest(model: str | None = None) -> str:
    """The identity of the shipped weights, or of the file `model`. Raises BackendError."""
    path = Path(model) if model is not None else WEIGHTS
    if not path.is_file():
        raise BackendError(f"the sprite weights {path} are not a file. Leave the path out for the shipped ones.")
    return sha256(path.read_bytes()).hexdigest()[:16]


def check_prompt(prompt: str) -> None:
    """Raise PromptError, with the vocabulary, for words that the world does not have."""
    parse(prompt)


def load(model: str | None = None, device: str = "cpu", dtype: str | None = None) -> "Sprites":
    """Load the shipped weights, or those of the file `model`. Raises BackendError."""
    from rollout.backends.sprites.weights import load_sprites

    return load_sprites(model, device=device, dtype=dtype)
