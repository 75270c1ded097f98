"""Models to roll out, by name and imported on first use; a spec is readable without torch."""

from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rollout.backend import Backend, Spec
from rollout.errors import BackendError
from rollout.files import fingerprint
from rollout.registry import find

if TYPE_CHECKING:  # a world's trackers need torch
    from rollout.world import World


@dataclass(frozen=True)
class Entry:
    """Where a backend's `spec()` and `load(**options)` are."""

    module: str
    about: str

    def spec(self) -> Spec:
        """The default model's geometry, without torch."""
        spec: Spec = import_module(self.module).spec()
        return spec

    def load(self, **options: Any) -> Backend:
        """Load the model. Raises BackendError, also for an option that it does not have."""
        load = import_module(self.module).load
        known = signature(load).parameters
        for option in options:
            if option not in known:
                raise BackendError(f"the backend has no option {option!r}. Its options are {', '.join(known)}.")
        backend: Backend = load(**options)
        return backend

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that the model does not understand, without loading it."""
        check = getattr(import_module(self.module), "check_prompt", None)
        if check is not None:
            check(prompt)

    @property
    def world(self) -> "World | None":
        """The world that the model was made for, where its truth is known, without loading the model."""
        open_world = getattr(import_module(self.module), "open_world", None)
        return None if open_world is None else open_world()

    @property
    def has_world(self) -> bool:
        """Whether there is one, without torch, which its trackers need."""
        return hasattr(import_module(self.module), "open_world")

    def digest(self, model: str | None = None) -> str | None:
        """The identity of the weights that `load(model=...)` would take, without loading them; None where unknown."""
        find_digest = getattr(import_module(self.module), "digest", None)
        found: str | None = None if find_digest is None else find_digest(model)
        return found

    def code(self, part: Literal["model", "world"] = "model") -> str:
        """The identity of the source files that a rollout, or what its world is and sees, depends on.

        A backend's module may name them, without `.py`, in SOURCES; else they are all in its folder.
        """
        module = import_module(self.module)
        own = Path(str(module.__file__))
        named = getattr(module, "SOURCES", {}).get(part)
        every = own.parent.glob("*.py") if hasattr(module, "__path__") else (own,)
        return fingerprint(every if named is None else (own.with_name(f"{name}.py") for name in named))[:16]


BACKENDS = {
    "sprites": Entry("rollout.backends.sprites", "the embedded model: a sprite world, 8 fps, runs anywhere"),
    "wan": Entry("rollout.backends.wan", "Wan 2.1 text-to-video through diffusers; needs --model DIR"),
}


def load_backend(name: str = "sprites", **options: Any) -> Backend:
    """Load a backend by name: load_backend("sprites", device="cpu"). Raises SpecError, BackendError."""
    entry: Entry = find("backends", name)
    return entry.load(**options)
