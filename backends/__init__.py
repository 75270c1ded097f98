"""Models to roll out, by name and imported on first use; a spec is readable without torch."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rollout.backend import Backend, Spec
from rollout.errors import BackendError, SpecError
from rollout.files import fingerprint
from rollout.registry import find

if TYPE_CHECKING:  # a world's trackers need torch
    from rollout.memory import Needs
    from rollout.world import World

__all__ = ["BACKENDS", "Entry", "Source", "load_backend"]


@dataclass(frozen=True)
class Source:
    """What a backend's module has: `spec` and `load`, and the rest where it differs from the defaults here.

    Importing the module, and all but `load` and `open_world`, needs no torch.
    """

    spec: Callable[[], Spec]
    """The default model's geometry."""
    load: Callable[..., Backend]
    """Load the model; its parameters are the options, all with defaults. Raises BackendError."""
    check_prompt: Callable[[str], None] = lambda prompt: None
    """Raise PromptError for a prompt that the model does not understand."""
    open_world: "Callable[[], World] | None" = None
    """The world that the model was made for, where its truth is known."""
    digest: Callable[[str | None], str | None] = lambda model: None
    """The identity of the weights that `load(model=...)` would take; None where unknown."""
    NAMES: Collection[str] = ()
    """What `model` may be called instead of a path."""
    THREADS: int | None = None
    """The CPU threads that serve the model best where none are asked for; None: as many as torch takes."""
    needs: "Callable[..., Needs] | None" = None
    """What the model takes of its device's memory, for the options of `load`; None: it is loaded to know."""
    check: "Callable[[str | None], Iterable[tuple[str, str, bool]]]" = lambda model: ()
    """Of each part of the weights that `load(model=...)` would take what was seen, and whether it is whole."""
    SOURCES: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The files, without `.py`, that a rollout ("model") and a truth ("world") depend on; else all in its folder."""

    @classmethod
    def of(cls, name: str) -> "Source":
        """Read a module. Raises BackendError where it lacks what has no default."""
        names = vars(import_module(name))
        members = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [member for member in members if member not in names]
        if missing:
            raise BackendError(
                f"the backend module {name} lacks {' and '.join(missing)}. rollout.backends.Source says what it needs."
            )
        return cls(**{f.name: names[f.name] for f in fields(cls) if f.name in names})


@dataclass(frozen=True)
class Entry:
    """A backend by its module, which is imported on first use; `Source` says what that has."""

    module: str
    about: str

    @property
    def source(self) -> Source:
        """What the module has. Raises BackendError."""
        return Source.of(self.module)

    def spec(self, block: int | None = None) -> Spec:
        """The default model's geometry, without torch; with blocks of `block` frames."""
        spec = self.source.spec()
        return spec if block is None else replace(spec, block=block)

    def load(self, *, block: int | None = None, **options: Any) -> Backend:
        """Load the model; `block`: the frames that it denoises together, where not as it was trained.

        Raises BackendError, also for an option that it does not have.
        """
        load = self.source.load
        parameters = signature(load).parameters
        for option in options:
            if option not in parameters:
                raise BackendError(f"the backend has no option {option!r}. Its options are {', '.join(parameters)}.")
        backend = load(**options)
        if block is not None:
            if block < 1:
                raise BackendError(f"a block of {block} frames is none. Use 1 or more.")
            backend.spec = replace(backend.spec, block=block)
        return backend

    @property
    def threads(self) -> int | None:
        """The CPU threads that serve the model best where none are asked for; None: as many as torch takes."""
        return self.source.THREADS

    def located(self, model: str) -> str:
        """What `model` is called from any folder: a file's or a folder's whole path, a name as it is."""
        path = Path(model)
        return str(path.absolute()) if model not in self.source.NAMES and path.exists() else model

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that the model does not understand, without loading it."""
        self.source.check_prompt(prompt)

    @property
    def world(self) -> "World | None":
        """The world that the model was made for, where its truth is known, without loading the model."""
        open_world = self.source.open_world
        return None if open_world is None else open_world()

    @property
    def has_world(self) -> bool:
        """Whether there is one, without torch, which its trackers need."""
        return self.source.open_world is not None

    def digest(self, model: str | None = None) -> str | None:
        """The identity of the weights that `load(model=...)` would take, without loading them; None where unknown."""
        return self.source.digest(model)

    def needs(self, *, block: int | None = None, **options: Any) -> "Needs":
        """What the model takes of its device's memory, with blocks of `block` frames. Raises BackendError."""
        needs = self.source.needs
        assert needs is not None, "only for a backend that knows"
        part = needs(**{name: value for name, value in options.items() if name in signature(needs).parameters})
        return part if block is None else replace(part, spec=replace(part.spec, block=block))

    def check(self, model: str | None = None) -> "Iterable[tuple[str, str, bool]]":
        """Of each part of the weights what was seen, and whether it is whole."""
        return self.source.check(model)

    def code(self, part: Literal["model", "world"] = "model") -> str:
        """The identity of the source files that a rollout, or what its world is and sees, depends on."""
        module = import_module(self.module)
        file = Path(str(module.__file__))
        files = self.source.SOURCES.get(part)
        every = file.parent.glob("*.py") if hasattr(module, "__path__") else (file,)
        return fingerprint(every if files is None else (file.with_name(f"{name}.py") for name in files))[:16]


BACKENDS = {
    "sprites": Entry("rollout.backends.sprites", "the embedded model: a sprite world, 8 fps, runs anywhere"),
    "wan": Entry(
        "rollout.backends.wan", "Wan 2.1, Wan 2.2 TI2V and SkyReels-V2 DF through diffusers; needs --model DIR"
    ),
}


def load_backend(name: str = "sprites", **options: Any) -> Backend:
    """Load a backend by name: load_backend("sprites", device="cpu"). Raises SpecError, BackendError."""
    entry = find("backends", name)
    if not isinstance(entry, Entry):
        raise SpecError(
            f"the backend {name!r} is registered as {entry!r:.60}. Register a rollout.backends.Entry of its module."
        )
    return entry.load(**options)
