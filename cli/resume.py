"""rollout resume: a run that was stopped or killed goes on from its last snapshot."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.gen import roll
from rollout.cli.options import Plugin, load_plugins, moved, reload_backend
from rollout.cli.parallel import Parallel, is_first, several

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
    from rollout.files import alone
    from rollout.run.machine import changed
    from rollout.run.resume import begin_again, go_on
    from rollout.run.snapshot import newest_snapshot

    if _is_finished(folder):
        return
    # Only to know the backend: until the folder is this process's alone another may go on with the run.
    spread = several(parallel, newest_snapshot(folder).recipe.backend)
    with alone(folder) if is_first(spread) else nullcontext():
        if _is_finished(folder):
            return
        state = newest_snapshot(folder)
        recipe, versions, weights = state.recipe, state.state.get("versions"), state.state.get("weights")
        backend = reload_backend(
            recipe, weights, versions, device=device, model=model, threads=threads, parallel=spread
        )
        for line in changed(versions, backend.device, backend.ranks):
            print(f"{line}: the last bits may differ")
        job = go_on(backend, folder, say=lambda problem: print(f"rollout: {problem}", file=sys.stderr))
        if job is None:
            job = begin_again(backend, folder)
            print("beginning again")
        else:
            print(f"going on after block {job.rollout.done} of {job.rollout.blocks}")
        # Its record and later snapshots say where the weights are now, and on which device it ran.
        job.recipe, job.locked = replace(moved(job.recipe, model), device=device or recipe.device), True
        roll(job)


def _is_finished(folder: Path) -> bool:
    """Whether there is nothing to do, which is said. Raises OutputError where there is nothing to go on with."""
    from rollout.errors import OutputError
    from rollout.run.snapshot import snapshots

    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder. Give the folder of a run.")
    if snapshots(folder) or not (folder / "run.json").is_file():
        return False
    print(f"{folder} is finished: there is nothing to go on with")
    return True
