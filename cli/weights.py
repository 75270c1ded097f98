"""rollout weights: released checkpoints to one folder that every later run loads."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.line import CommandLine

__all__ = ["Dtype", "app", "import_", "show"]

app = typer.Typer(no_args_is_help=True, help="Import Wan checkpoints and LoRAs, and look at folders.")


class Dtype(StrEnum):
    """How an imported transformer can be written."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@app.command("import", cls=CommandLine)
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A .pt or safetensors file, an index of shards, or a folder: Self-Forcing's family, ComfyUI's files, "
            "Wan's or diffusers' names, fp32, bf16, fp16 or fp8.",
        ),
    ],
    base: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Wan2.1-T2V-1.3B-Diffusers, or another base: its transformer/config.json, vae, text_encoder and tokenizer are "
            "taken, weights of its transformer are not needed.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    raw: Annotated[bool, typer.Option("--raw", help="Take trained weights where there are averaged ones too.")] = False,
    lora: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A LoRA to merge: a file of peft, diffusers, ComfyUI or kohya, or peft's folder."
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="The LoRA's alpha; default: as the LoRA or its config says, else its rank.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="How to write the weights; default: as they come, fp8 as bf16.")
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Frames that the model denoises together; default: its family's."),
    ] = None,
) -> None:
    """Write CHECKPOINT into a folder in diffusers' format.

    Every tensor's name and shape is checked.
    """
    from rollout.backends.wan.weights import import_checkpoint

    with _bar() as advance:
        shown = import_checkpoint(
            checkpoint, base, out, raw=raw, lora=lora, alpha=lora_alpha, dtype=dtype, block=block, advance=advance
        )
    source = shown["imported"]
    if len(source["holds"]) > 1:
        print(f"took {source['weights']} of {', '.join(source['holds'])}", file=sys.stderr)
    print(json.dumps(shown, indent=2))


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar beside the output, or plain lines where no terminal looks on."""
    if not sys.stderr.isatty():
        yield lambda done, total: print(
            f"{done / 2**30:.2f} of {total / 2**30:.2f} GiB written", file=sys.stderr, flush=True
        )
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@app.command("show")
def show(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A Wan folder in diffusers' format.")]) -> None:
    """Say what a folder holds, and where it came from."""
    from rollout.backends.wan.folder import describe

    print(json.dumps(describe(folder), indent=2))
