"""rollout gen: a prompt script to a video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.options import BackendName, Cache, Plugin, Pos, Preset, compose, load_plugins, told
from rollout.cli.watch import watch
from rollout.script import Script, planned

if TYPE_CHECKING:
    from rollout.job import Job

SHOW = (
    "a red circle walks right on navy[4s] | a red circle jumps on navy[4s] | a red circle spins on olive[4s#] ; "
    "walks right | a new prompt: jumps | a cut: the scene changes, the subject stays"
)
"""The script where none is given: an action, another, and a cut to another scene."""


def gen(
    script: Annotated[
        str | None, typer.Argument(metavar="SCRIPT", help="'PROMPT[5s] | PROMPT[3s#] ; SUBTITLE | SUBTITLE'; # cuts.")
    ] = None,
    pos: Pos = None,
    cache: Cache = None,
    preset: Preset = None,
    backend: BackendName = "sprites",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder; default: the first free of out/001, out/002, ...")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    latents: Annotated[
        bool, typer.Option("--latents", help="Also write latents.safetensors, from which a run can be forked.")
    ] = False,
    snapshot_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write a snapshot every N blocks: see 'rollout resume'.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps a block; the models are made for 4.")] = 4,
    shift: Annotated[float, typer.Option(help="Shift of the noise schedule.")] = 5.0,
    context_noise: Annotated[
        float, typer.Option(help="Timestep (0..1000) of the clean pass that writes the cache.")
    ] = 0.0,
    prefix: Annotated[
        str | None, typer.Option(metavar="N|FILE", help="Start from N true blocks, a video or a latents file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="The backend's weights; for wan a folder in diffusers' format.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, wan only.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, wan only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; default: bfloat16 on a GPU.")] = None,
    attention_backend: Annotated[str | None, typer.Option(help="One of diffusers' names, wan only.")] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile the transformer's blocks, wan only.")
    ] = False,
    low_vram: Annotated[
        bool, typer.Option("--low-vram", help="Keep weights on the CPU until needed, wan only.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    plugin: Plugin = None,
) -> None:
    """Generate a video from a prompt script: video.mp4, contact.png, run.json, subtitles.vtt."""
    load_plugins(plugin)
    strategy = compose(pos, cache, preset)
    text = SHOW if script is None else script
    Script.parse(text)
    import torch

    from rollout.backends import load_backend
    from rollout.files import free_folder, new_folder
    from rollout.job import Job
    from rollout.recipe import Recipe
    from rollout.sampler import Schedule

    if threads:
        torch.set_num_threads(threads)
    schedule = Schedule.of(steps, shift, context_noise)
    wanted = {
        "model": model,
        "height": height,
        "width": width,
        "dtype": dtype,
        "attention_backend": attention_backend,
        "compile": compile_ or None,
        "low_vram": low_vram or None,
    }
    given = {k: v for k, v in wanted.items() if v is not None}
    loaded = load_backend(backend, device=device, **given)
    folder = free_folder(Path("out")) if out is None else out
    recipe = Recipe(strategy, text, seed, schedule, prefix, backend, device, given)
    job = Job(loaded, recipe, folder, latents=latents, every=snapshot_every)
    new_folder(folder, force=force)
    roll(job)


def roll(job: "Job") -> None:
    """Tell what will be made, make it, and tell where it is."""
    run = job.rollout
    print(f"strategy: {run.strategy}; {run.cache.bytes / 2**20:,.1f} MiB of keys and values")
    for line in told(planned(job.script, job.backend.spec, first=run.first)):
        print(line)
    for event in job.recipe.events:
        print(f"  {job.backend.spec.seconds(event.block * job.backend.spec.block):7.2f}s  {event}")
    seconds, frames = watch(job)
    print(f"{job.folder / 'video.mp4'}: {frames} frames in {seconds:.1f}s, {frames / seconds:.1f} a second")
    print(f"{job.folder / 'contact.png'}: all of it at a glance")
