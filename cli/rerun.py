"""rollout rerun: does a recorded run give the same again?"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.options import Plugin, load_plugins, moved, reload_backend
from rollout.cli.result import AsJson, result
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.loop import Result

__all__ = ["rerun"]


def rerun(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the repetition in this new folder.")] = None,
    prefix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the video or latents that it started from are now.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Another device than before.")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="Where the backend's weights are now.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: as before.")] = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Repeat a run from its record and compare it bit for bit.

    What came from outside while it ran comes again; latents and frames are compared. Exit code 0 where all is the same, 1 where
    something differs.
    """
    load_plugins(plugin)
    from rollout.files import new_folder

    with result(to) as target:
        if out is not None:
            same = _repeat(folder, new_folder(out), prefix, device, model, threads)
            print(f"the repetition is in {out}")
        else:
            with TemporaryDirectory(prefix="rollout-") as empty:
                same = _repeat(folder, Path(empty), prefix, device, model, threads)
        equal = all(same["same"].values())
        target.give({"run": str(folder), "equal": equal, **same, "out": None if out is None else str(out)})
    raise typer.Exit(0 if equal else 1)


def _repeat(
    folder: Path, into: Path, prefix: Path | None, device: str | None, model: str | None, threads: int | None
) -> Json:
    """Whether latents and frames are the same, and what differs."""
    from dataclasses import replace

    from rollout.cli.watch import watch
    from rollout.errors import OutputError
    from rollout.run.job import Job
    from rollout.run.latents import read_latents
    from rollout.run.machine import changed
    from rollout.run.recipe import content
    from rollout.run.record import RunFolder

    record = RunFolder.open(folder).record
    recipe, digests, blocks = record.recipe, record.digests, record.history
    if not digests:
        raise OutputError(f"{folder / 'run.json'} has no digests to compare with. Make the run again.")
    if prefix is not None:
        recipe = replace(recipe, prefix=str(prefix))
    backend = reload_backend(
        recipe, record.backend.weights, record.versions, device=device, model=model, threads=threads
    )
    file = folder / "latents.safetensors"
    latents = read_latents(file) if file.is_file() else None
    if blocks and latents is None:
        raise OutputError(f"the fork {folder} starts from {file}, which is missing. Fork again.")
    history = latents[: blocks * backend.spec.block] if blocks and latents is not None else None
    job = Job(backend, moved(recipe, model), into, latents=latents is not None, history=history)
    start, before = job.prefix_record, record.prefix
    if content(start) != content(before):
        raise OutputError(f"{recipe.prefix} is not what the run started from ({before}). Give that file.")
    differ: list[str] = []

    def compare(result: "Result") -> None:
        block = result.block
        if latents is not None and not differ and not latents[block.start : block.end].equal(result.latents[0].cpu()):
            differ.append(f"the first block that differs is {block.index} ({backend.spec.seconds(block.start):g}s)")

    watch(job, compare)
    again = RunFolder.open(into).record
    now = again.digests
    same = {name: now[name] == digests.get(name) for name in now}
    for name in ("latents", "frames"):
        print(f"{name}: {'the same, bit for bit' if same[name] else 'DIFFERENT'}")
    if all(same.values()):
        return {"same": same, "differs": []}
    if start is not None and start != before:  # of a version that took videos as they came
        differ.append(f"the video that it starts from is brought to the model otherwise: {', '.join(start.changes)}")
    if record.rules != again.rules:
        differ.append("the rules of a plugin are not what they were")
    differ += changed(record.versions, backend.device)
    for line in differ:
        print(f"  {line}")
    return {"same": same, "differs": differ}
