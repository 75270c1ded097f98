"""The embedded model: a causal video diffusion transformer of the Wan kind on a procedural sprite world."""

from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.backend import Spec
from rollout.backends.sprites.grammar import parse
from rollout.errors import BackendError

if TYPE_CHECKING:
    from rollout.backends.sprites.truth import SpriteWorld
    from rollout.backends.sprites.weights import Sprites

__all__ = [
    "NAMES",
    "SOURCES",
    "THREADS",
    "WEIGHTS",
    "check_prompt",
    "digest",
    "load",
    "open_world",
    "spec",
    "weights_file",
]


SOURCES = {
    "model": ("model", "codec", "weights", "grammar", "world", "truth"),
    "world": ("world", "grammar", "truth", "trackers"),
}
"""The files that a rollout depends on (true blocks it starts from included), and a truth with what is seen of it."""
THREADS = 1
"""Operations this small gain 15% from a second thread, and wait 6 to 8 times as long where its core does something else."""
WEIGHTS = {None: "sprites.safetensors", "plain": "plain.safetensors"}
"""The shipped weights by the name that `model` gives them: the default, and those trained without small windows."""
NAMES = tuple(name for name in WEIGHTS if name is not None)


def weights_file(model: "str | PathLike[str] | None" = None) -> Path:
    """The file of the shipped weights that `model` names, else `model` itself."""
    name = WEIGHTS.get(None if model is None else str(model))
    return Path(str(model)) if name is None else Path(__file__).parent / name


def spec() -> Spec:
    """Geometry of the shipped model: 64x64 pixels, one latent frame a pixel frame at 8 fps, 16 tokens a frame."""
    return Spec(
        name="sprites",
        layers=6,
        heads=4,
        head_dim=48,
        latent=(112, 4, 4),
        grid=(4, 4),
        axes=(8, 8, 8),
        trained=21,
        table=1024,
        stride=1,
        fps=8.0,
        size=(64, 64),
    )


def digest(model: "str | PathLike[str] | None" = None) -> str:
    """The identity of the shipped weights, or of the file `model`. Raises BackendError."""
    return sha256(_existing(model).read_bytes()).hexdigest()[:16]


def _existing(model: "str | PathLike[str] | None") -> Path:
    """The file of the weights. Raises BackendError where there is none."""
    path = weights_file(model)
    if not path.is_file():
        raise BackendError(
            f"the sprite weights {path} are not a file. Leave the path out for the shipped ones, or write plain."
        )
    return path


def open_world() -> "SpriteWorld":
    """The world of the shipped models."""
    from rollout.backends.sprites.truth import SpriteWorld

    return SpriteWorld()


def check_prompt(prompt: str) -> None:
    """Raise PromptError, with the vocabulary, for words that the world does not have."""
    parse(prompt)


def load(model: str | None = None, device: str = "cpu", dtype: str | None = None) -> "Sprites":
    """Load the shipped weights, or those of the file `model`. Raises BackendError."""
    from rollout.backends.sprites.header import check_header
    from rollout.backends.sprites.weights import load_sprites

    check_header(_existing(model))
    return load_sprites(model, device=device, dtype=dtype)
