"""rollout gen: a prompt script to a video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.composition import Composition, composes
from rollout.cli.model import DEFAULT, Choice, chooses_model
from rollout.cli.options import (
    ContextNoise,
    Force,
    Out,
    Plugin,
    Prefix,
    Seed,
    Shift,
    Steps,
    brought,
    load_plugins,
    told,
)
from rollout.cli.parallel import Parallel, is_first, launched, several
from rollout.cli.watch import watch
from rollout.errors import ScriptError
from rollout.prompts import read_prompts
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
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of SCRIPT a file with one a line, or a .jsonl of prompts and switch_frame_indices: a run a line, "
            "into OUT/001, OUT/002, ...; OUT is by default out/NAME. The same command goes on where it stopped.",
        ),
    ] = None,
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
    gif: Annotated[
        bool, typer.Option("--gif", help="Also write video.gif: at most 480 pixels wide, and 8 MB.")
    ] = False,
    webp: Annotated[bool, typer.Option("--webp", help="Also write video.webp, animated as the GIF.")] = False,
    choice: Choice,
    parallel: Parallel = None,
    plugin: Plugin = None,
) -> None:
    """Generate a video from a prompt script.

    Writes video.mp4, contact.png (all of it at a glance), run.json (the record) and subtitles.vtt.
    """
    load_plugins(plugin)
    if script is not None and prompts is not None:
        raise ScriptError("a SCRIPT and --prompts are two things to roll out. Leave one out.")
    strategy = composition.strategy()
    lines = None if prompts is None else read_prompts(prompts)
    text = SHOW if script is None else script
    Script.parse(text)
    from rollout.files import check_folder, output_folder
    from rollout.run.job import Job
    from rollout.run.recipe import Recipe

    composition.schedule(steps, shift, context_noise)  # what is wrong with it is said before the model is loaded
    if out is not None and prompts is None and is_first(launched() > 1):  # before a large model is read
        check_folder(out, force=force)
    choice = choice.with_block(composition.block)
    model = choice.load(parallel=several(parallel, choice.backend or DEFAULT))
    schedule = composition.schedule(steps, shift, context_noise, model.schedule)
    options = choice.recorded

    def recipe_of(text: str) -> Recipe:
        return Recipe(strategy, text, seed, schedule, prefix, model.spec.name, choice.device, options)

    pictures = tuple(kind for kind, asked in {"gif": gif, "webp": webp}.items() if asked)
    if prompts is not None and lines is not None:
        from rollout.cli.prompts import default_folder, roll_lines

        into = default_folder(prompts) if out is None else out
        wanted = {"latents": latents, "every": snapshot_every, "pictures": pictures}
        roll_lines(lines, model, recipe_of, into, wanted, force=force)
        return
    job = Job(model, recipe_of(text), Path(), latents=latents, every=snapshot_every, pictures=pictures)
    if job.leads:
        job.folder = output_folder(out, force=force)  # only once nothing speaks against the run
    roll(job, composition.title)


def roll(job: "Job", name: str = "") -> None:
    """Tell what will be made, make it, and tell where it is; `name` is what the strategy is called, beside its text."""
    run, ranks = job.rollout, job.backend.ranks
    each = "" if ranks is None else f" in each of {ranks.count} processes"
    print(
        f"strategy: {f'{name}: ' if name else ''}{run.strategy}; {run.engine.bytes / 2**20:,.1f} MiB of keys and values{each}"
    )
    for line in (*brought(job.prefix_record), *told(planned(job.script, job.backend.spec, first=run.first))):
        print(line)
    for event in job.recipe.events:
        print(f"  {job.backend.spec.seconds(event.block * job.backend.spec.block):7.2f}s  {event}")
    seconds, frames = watch(job)
    if not job.leads:  # the files are the first process's
        return
    print(f"{job.folder / 'video.mp4'}: {frames} frames in {seconds:.1f}s, {frames / seconds:.1f} a second")
    print(f"{job.folder / 'contact.png'}: all of it at a glance")
    for path in (job.folder / f"video.{kind}" for kind in job.pictures):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
