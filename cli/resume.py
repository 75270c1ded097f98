"""rollout resume: a run that was stopped or killed goes on from its last snapshot."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.gen import roll
from rollout.cli.options import Plugin, load_plugins, moved, reload_backend
from rollout.cli.parallel import Parallel, several

__all__ = ["resume"]


def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of 'rollout gen' or 'rollout fork'.")],
    device: Annotated[str | None, typer.Option(help="Another device than before; bits may differ there.")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="Where the backend's weights are now.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: as before.")] = None,
    parallel: Parallel = None,
    plugin: Plugin = None,
) -> None:
    """Go on with a stopped run from its last snapshot.

    Bit for bit as if it had never stopped.
    """
    load_plugins(plugin)
    from rollout.errors import OutputError
    from rollout.run.job import Job
    from rollout.run.machine import changed
    from rollout.run.recipe import Recipe
    from rollout.run.snapshot import read_snapshot, snapshots

    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder. Give the folder of a run.")
    left = snapshots(folder)
    if not left and (folder / "run.json").is_file():
        print(f"{folder} is finished: there is nothing to go on with")
        return
    if not left:
        raise OutputError(f"{folder} holds no snapshot. Start again, with --snapshot-every N to be able to go on.")
    problem: OutputError | None = None
    for path in left:
        try:
            snapshot = read_snapshot(path)
            recipe = Recipe.from_dict(snapshot.state.get("recipe", {}))
            versions, weights = snapshot.state.get("versions"), snapshot.state.get("weights")
            spread = several(parallel, recipe.backend)
            backend = reload_backend(
                recipe, weights, versions, device=device, model=model, threads=threads, parallel=spread
            )
            for line in changed(versions, backend.device, backend.ranks):
                print(f"{line}: the last bits may differ")
            job = Job.resumed(backend, snapshot, folder)
            # Its record and later snapshots say where the weights are now, and on which device it ran.
            job.recipe = replace(moved(job.recipe, model), device=device or recipe.device)
            print(f"going on after block {snapshot.block} of {job.rollout.blocks}")
            roll(job)
            return
        except OutputError as error:  # the last one may have been cut off by whatever stopped the run
            print(f"rollout: {error}", file=sys.stderr)
            problem = error
    assert problem is not None
    raise problem
