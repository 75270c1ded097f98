"""rollout gen: a prompt script to a video."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.options import BackendName, Cache, Plugin, Pos, Preset, compose, load_plugins, told
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
    latents: Annotated[bool, typer.Option("--latents", help="Also write latents.safetensors.")] = False,
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
    loaded = load_backend(backend, device=device, **{k: v for k, v in wanted.items() if v is not None})
    folder = free_folder(Path("out")) if out is None else out
    job = Job(loaded, strategy, text, folder, seed=seed, schedule=schedule, prefix=prefix, latents=latents)
    new_folder(folder, force=force)
    print(f"strategy: {strategy}; {job.rollout.cache.bytes / 2**20:,.1f} MiB of keys and values")
    for line in told(planned(job.script, loaded.spec, first=job.rollout.first)):
        print(line)
    seconds, frames = _watch(job)
    print(f"{folder / 'video.mp4'}: {frames} frames in {seconds:.1f}s, {frames / seconds:.1f} a second")
    print(f"{folder / 'contact.png'}: all of it at a glance")


def _watch(job: "Job") -> tuple[float, int]:
    """Run a job under a progress bar, or with plain lines where no terminal looks on; seconds and pixel frames."""
    spec, blocks, begun = job.backend.spec, job.rollout.blocks, time.monotonic()
    done = 0
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("blocks"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fps]:.1f} fps"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=blocks, fps=0.0)
            for result in job.run():
                done = spec.pixel_frames(result.block.end)
                bar.update(task, advance=1, fps=done / (time.monotonic() - begun))
    else:
        told = begun
        for result in job.run():
            done = spec.pixel_frames(result.block.end)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                rate = done / (told - begun)
                left = (spec.pixel_frames(blocks * spec.block) - done) / rate
                print(f"block {result.block.index + 1} of {blocks}, {rate:.1f} fps, {left:.0f}s left", flush=True)
    return time.monotonic() - begun, done
