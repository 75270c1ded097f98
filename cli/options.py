"""Options that several commands share, and what they mean."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.sampler import MOST_SEED
from rollout.script import Planned

if TYPE_CHECKING:
    from rollout.backend import Backend
    from rollout.run.recipe import PrefixRecord, Recipe

__all__ = [
    "ContextNoise",
    "Force",
    "Out",
    "Plugin",
    "Prefix",
    "Seed",
    "Shift",
    "Steps",
    "brought",
    "load_plugins",
    "moved",
    "reload_backend",
    "told",
]

Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A new folder; default: the first free of out/001, out/002, ...")
]
Force = Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")]
Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="N|FILE", help="Start from N true blocks, a video, a picture (blocks of 1) or a latents file."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Denoising steps a block; default: the preset's, else the model's, mostly 4."),
]
Shift = Annotated[
    float | None, typer.Option(help="Shift of the noise schedule; default: the preset's, else the model's, mostly 5.")
]
ContextNoise = Annotated[float, typer.Option(help="Timestep (0..1000) of the clean pass that writes the cache.")]
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise.")]
BackendName = Annotated[str, typer.Option("--backend", metavar="NAME", help="The model: see 'rollout ls backends'.")]
Plugin = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that registers rules of its own.")
]


def load_plugins(files: list[Path] | None) -> None:
    """Run plugin files before names are looked up. Raises SpecError."""
    from rollout.registry import load_plugin

    for file in files or ():
        load_plugin(file)


def told(plan: Sequence[Planned]) -> Iterator[str]:
    """The plan in lines: when each shot begins, how long it is, what its length was rounded from, and its subtitle."""
    for shot in plan:
        length = shot.end - shot.begin
        seconds = shot.asked_seconds
        note = f" (asked {seconds:g}s; whole blocks)" if seconds is not None and abs(seconds - length) > 0.005 else ""
        subtitle = f"  (subtitle: {shot.subtitle})" if shot.subtitle else ""  # a ';' of prose is seen to be none
        yield f"  {shot.begin:7.2f}s  {length:.2f}s{note}  {'cut to ' if shot.cut else ''}{shot.prompt}{subtitle}"


def moved(recipe: "Recipe", model: str | None) -> "Recipe":
    """A recipe whose weights are where --model says, if it says so."""
    from dataclasses import replace

    from rollout.registry import find

    if model is None:
        return recipe
    located = find("backends", recipe.backend).located(model)
    return replace(recipe, options={**recipe.options, "model": located})


def brought(prefix: "PrefixRecord | None") -> Iterator[str]:
    """What was done to a video that a rollout starts from, in lines."""
    for change in () if prefix is None else prefix.changes:
        yield f"  {prefix}: {change}"


def reload_backend(
    recipe: "Recipe",
    weights: object,
    versions: object,
    *,
    device: str | None = None,
    model: str | None = None,
    threads: int | None = None,
    parallel: bool = False,
) -> "Backend":
    """The backend of a recorded run, on as many threads as asked for, else recorded, else those that serve it best.

    `parallel`: as one of several processes. Raises BackendError where its weights are others.
    """
    import torch

    from rollout.backends import load_backend
    from rollout.errors import BackendError
    from rollout.registry import find

    before = versions.get("threads") if isinstance(versions, Mapping) else None
    recorded = before if isinstance(before, int) and 0 < before <= 1024 else None
    # the last bits depend on the number of threads, so that a record's own comes before what serves the model
    count = threads or recorded or find("backends", recipe.backend).threads
    if count:
        torch.set_num_threads(count)
    place = moved(recipe, model)
    spread = {"parallel": True} if parallel else {}
    try:
        backend = load_backend(recipe.backend, device=device or recipe.device, **place.options, **spread)
    except BackendError as error:
        if "model" not in place.options or model is not None:
            raise
        raise BackendError(
            f"{error} The record has the model {place.options['model']!r}: say with --model where that is now."
        ) from error
    if weights is not None and backend.digest != weights:
        raise BackendError(
            f"the weights here are {backend.digest}, and {weights} in the record. Give those with --model."
        )
    return backend
