"""rollout gen: a prompt script to a video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.composition import Composition, composes
from rollout.cli.model import Choice, chooses_model
from rollout.cli.options import (
    ContextNoise,
    Force,
    Out,
    Plugin,
    Prefix,
    Seed,
    Shift,
    Steps,
    load_plugins,
    told,
)
from rollout.cli.watch import watch
from rollout.script import Script, planned

if TYPE_CHECKING:
    from rollout.run.job import Job

__all__ = ["SHOW", "roll"]

SHOW = (
    "a red circle walks right on navy[4s] | a red circle jumps on navy[4s] | a red circle spins on olive[4s#] ; "
    "walks right | a new prompt: jumps | a cut: the scene changes, the subject stays"
)
"""The script where none is given: an action, another, and a cut to another scene."""


@composes()
@chooses_model()
def gen(
    script: Annotated[
        str | None, typer.Argument(metavar="SCRIPT", help="'PROMPT[5s] | PROMPT[3s#] ; SUBTITLE | SUBTITLE'; # cuts.")
    ] = None,
    *,
    composition: Composition,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    latents: Annotated[
        bool, typer.Option("--latents", help="Also write latents.safetensors, from which a run can be forked.")
    ] = False,
    snapshot_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write a snapshot every N blocks: see 'rollout resume'.")
    ] = None,
    steps: Steps = None,
    shift: Shift = None,
    context_noise: ContextNoise = 0.0,
    prefix: Prefix = None,
    gif: Annotated[bool, typer.Option("--gif", help="Also write video.gif, at most 480 pixels wide.")] = False,
    webp: Annotated[bool, typer.Option("--webp", help="Also write video.webp, animated as the GIF.")] = False,
    choice: Choice,
    plugin: Plugin = None,
) -> None:
    """Generate a video from a prompt script: video.mp4, contact.png, run.json, subtitles.vtt."""
    load_plugins(plugin)
    strategy = composition.strategy()
    text = SHOW if script is None else script
    Script.parse(text)
    from rollout.files import output_folder
    from rollout.run.job import Job
    from rollout.run.moving import moving_picture
    from rollout.run.recipe import Recipe

    composition.schedule(steps, shift, context_noise)  # what is wrong with it is said before the model is loaded
    choice = choice.with_block(composition.block)
    model = choice.load()
    schedule = composition.schedule(steps, shift, context_noise, model.schedule)
    recipe = Recipe(strategy, text, seed, schedule, prefix, model.spec.name, choice.device, choice.recorded)
    job = Job(model, recipe, Path(), latents=latents, every=snapshot_every)
    job.folder = output_folder(out, force=force)  # only once nothing speaks against the run
    roll(job)
    for kind in [kind for kind, wanted in (("gif", gif), ("webp", webp)) if wanted]:
        path = job.folder / f"video.{kind}"
        print(f"{path}: {moving_picture(job.folder / 'video.mp4', path)} pictures")


def roll(job: "Job") -> None:
    """Tell what will be made, make it, and tell where it is."""
    run = job.rollout
    print(f"strategy: {run.strategy}; {run.engine.bytes / 2**20:,.1f} MiB of keys and values")
    if job.prefix_record is not None:
        for change in job.prefix_record.changes:
            print(f"  {job.prefix_record}: {change}")
    for line in told(planned(job.script, job.backend.spec, first=run.first)):
        print(line)
    for event in job.recipe.events:
        print(f"  {job.backend.spec.seconds(event.block * job.backend.spec.block):7.2f}s  {event}")
    seconds, frames = watch(job)
    print(f"{job.folder / 'video.mp4'}: {frames} frames in {seconds:.1f}s, {frames / seconds:.1f} a second")
    print(f"{job.folder / 'contact.png'}: all of it at a glance")
