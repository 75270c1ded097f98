"""The options that choose a model, declared once: a command takes them all as one value."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.spread import Command, spread
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.backend import Backend

__all__ = ["DEFAULT", "Choice", "chooses_model"]

DEFAULT: str = "sprites"
OPTIONS: dict[str, tuple[Any, Any]] = {
    "backend": (
        Annotated[str, typer.Option("--backend", metavar="NAME", help="The model: see 'rollout ls backends'.")],
        DEFAULT,
    ),
    "model": (
        Annotated[
            str | None,
            typer.Option(metavar="PATH", help="The backend's weights; for wan a folder in diffusers' format."),
        ],
        None,
    ),
    "height": (Annotated[int | None, typer.Option(help="Pixels, wan only.")], None),
    "width": (Annotated[int | None, typer.Option(help="Pixels, wan only.")], None),
    "device": (Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")], "cpu"),
    "dtype": (Annotated[str | None, typer.Option(help="float32, bfloat16, ...; default: bfloat16 on a GPU.")], None),
    "attention_backend": (Annotated[str | None, typer.Option(help="One of diffusers' names, wan only.")], None),
    "compile": (
        Annotated[bool, typer.Option("--compile", help="torch.compile the transformer's blocks, wan only.")],
        False,
    ),
    "low_vram": (
        Annotated[bool, typer.Option("--low-vram", help="Keep weights on the CPU until needed, wan only.")],
        False,
    ),
    "fp8_weights": (
        Annotated[
            bool, typer.Option("--fp8-weights", help="Keep the transformer's linear layers in 8 bits, wan only.")
        ],
        False,
    ),
    "vae_dtype": (
        Annotated[str | None, typer.Option(help="float32 or bfloat16; default: float32, wan only.")],
        None,
    ),
    "guidance": (
        Annotated[
            float | None,
            typer.Option(help="Scale of classifier-free guidance; default: the model's own, 1 is none, wan only."),
        ],
        None,
    ),
    "negative": (
        Annotated[str | None, typer.Option(help="The prompt to stay away from under guidance, wan only.")],
        None,
    ),
    "block": (
        Annotated[int | None, typer.Option(min=1, help="Frames a block; default: the preset's, else the model's.")],
        None,
    ),
    "threads": (
        Annotated[int | None, typer.Option(min=1, help="CPU threads; default: 1 for sprites, else torch's.")],
        None,
    ),
}
"""Each option's type and default."""


@dataclass(frozen=True)
class Choice:
    """A model as the command line names it; `options` are the backend's own that differ from their defaults."""

    backend: str | None
    device: str
    threads: int | None
    options: Json = field(default_factory=dict)

    def set_threads(self, backend: str | None = None) -> None:
        """Give torch as many threads as were asked for, else as many as serve `backend`."""
        import torch

        from rollout.registry import find

        count = self.threads or (None if backend is None else find("backends", backend).threads)
        if count:
            torch.set_num_threads(count)

    @property
    def recorded(self) -> Json:
        """The options as a record has them: `model` says where it is, from whatever folder the run is taken up again."""
        from rollout.registry import find

        model = self.options.get("model")
        if model is None:
            return self.options
        return {**self.options, "model": find("backends", self.backend or DEFAULT).located(model)}

    def with_block(self, block: int | None) -> "Choice":
        """With blocks of so many frames where none are asked for."""
        return (
            self
            if block is None or "block" in self.options
            else replace(self, options={**self.options, "block": block})
        )

    def load(self, *, parallel: bool = False) -> "Backend":
        """Load it, on as many threads as `set_threads` says; `parallel`: as one of several processes. Raises BackendError."""
        from rollout.backends import load_backend

        name = self.backend or DEFAULT
        self.set_threads(name)
        return load_backend(name, device=self.device, **self.options, **({"parallel": True} if parallel else {}))


def chooses_model(*without: str) -> Callable[[Command], Command]:
    """Give a command the options of a model in place of its parameter `choice`; `without` names those that it lacks."""
    options = {name: option for name, option in OPTIONS.items() if name not in without}

    def build(values: Json) -> Choice:
        place = [values.pop(name, None) for name in ("backend", "device", "threads")]
        rest = {name: value for name, value in values.items() if value is not None and value is not False}
        return Choice(place[0], place[1] or "cpu", place[2], rest)

    return spread("choice", options, build)
