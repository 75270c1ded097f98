"""rollout fork: one history goes on under other strategies, prompts or seeds."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from rollout.cli.composition import Composition, complete_preset
from rollout.cli.gen import roll
from rollout.cli.options import Plugin, load_plugins, moved, reload_backend
from rollout.sampler import MOST_SEED

__all__ = ["fork"]


def fork(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run that kept its latents (--latents).")],
    at: Annotated[float, typer.Option(metavar="SECONDS", help="Where to fork; goes to the nearest whole block.")],
    pos: Annotated[list[str] | None, typer.Option("--pos", metavar="SPEC", help="Other positions.")] = None,
    cache: Annotated[list[str] | None, typer.Option("--cache", metavar="SPEC", help="Another policy+switch.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", metavar="NAME", help="Another strategy.", autocompletion=complete_preset),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", metavar="TEXT", help="Another one, whole: a preset's name, or 'POSITIONS POLICY+SWITCH'."
        ),
    ] = None,
    spectrum: Annotated[list[str] | None, typer.Option("--spectrum", metavar="SPEC", help="Another spectrum.")] = None,
    reads: Annotated[list[str] | None, typer.Option("--reads", metavar="SPEC", help="Other reads.")] = None,
    order: Annotated[list[str] | None, typer.Option("--order", metavar="SPEC", help="Another order.")] = None,
    store: Annotated[list[str] | None, typer.Option("--store", metavar="SPEC", help="Another store.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="SCRIPT", help="How it goes on; default: as it was.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=MOST_SEED, help="Another seed of the noise from there on.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Encode the history under the new strategy, instead of carrying over.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder, or DIR/1, DIR/2, ... for several forks.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into folders that are not empty.")] = False,
    snapshot_every: Annotated[int | None, typer.Option(min=1, metavar="N", help="As for 'rollout gen'.")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="Where the backend's weights are now.")] = None,
    plugin: Plugin = None,
) -> None:
    """Go on from any second of a run, in other ways.

    Once for every combination of what is given more than once.
    """
    load_plugins(plugin)
    from rollout.files import inner_folder, output_folder
    from rollout.run.fork import History
    from rollout.run.job import Job

    history = History.of(folder)
    backend = reload_backend(history.recipe, history.weights, history.versions, model=model)
    history = replace(history, recipe=moved(history.recipe, model))
    spec = backend.spec  # of the weights themselves: a backend has families
    block = history.block(at, spec)
    base = history.strategy(block)
    whole = [*(preset or ()), *(strategy or ())]
    axes = {
        "pos": pos,
        "cache": cache,
        "text": whole,
        "spectrum": spectrum,
        "reads": reads,
        "order": order,
        "store": store,
    }
    every = (values or [None] for values in (*axes.values(), prompt, seed))
    options: list[tuple[Any, ...]] = list(product(*every))
    branches = []
    for *values, script, number in options:
        composition = Composition(**dict(zip(axes, values, strict=True)))
        branch_strategy = composition.strategy(base)
        branches.append(
            history.branch(block, spec, strategy=branch_strategy, prompt=script, seed=number, rebuild=rebuild)
        )
    begin = block * spec.block
    for number, recipe in enumerate(branches, 1):
        snapshot = None if rebuild else history.nearest(block)
        job = Job(
            backend,
            recipe,
            Path(),
            latents=True,
            every=snapshot_every,
            history=history.latents[:begin],
            shared=snapshot,
        )
        if out is not None and len(branches) > 1:
            job.folder = inner_folder(out / str(number), force=force)
        else:
            job.folder = output_folder(out, force=force)
        print(f"from {folder} after block {block} ({spec.seconds(begin):g}s), seed {recipe.seed}:")
        roll(job)
