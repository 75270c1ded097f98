"""rollout weights: released checkpoints to one folder that every later run loads."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "import_", "show"]

app = typer.Typer(no_args_is_help=True, help="Import released checkpoints of the Wan 2.1 family, and look at folders.")


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .pt of Self-Forcing's family, or safetensors.")
    ],
    base: Annotated[Path, typer.Option(metavar="DIR", help="Wan2.1-T2V-1.3B-Diffusers, or another base.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    raw: Annotated[bool, typer.Option("--raw", help="Take 'generator' instead of 'generator_ema'.")] = False,
    lora: Annotated[Path | None, typer.Option(metavar="FILE", help="A peft LoRA to merge, such as LongLive's.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="The LoRA's alpha; default: its rank.")] = None,
) -> None:
    """Write CHECKPOINT into a folder in diffusers' format, every tensor's name and shape checked."""
    from rollout.backends.wan.weights import import_checkpoint

    print(json.dumps(import_checkpoint(checkpoint, base, to, raw=raw, lora=lora, alpha=lora_alpha), indent=2))


@app.command("show")
def show(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A Wan folder in diffusers' format.")]) -> None:
    """Say what a folder holds."""
    from rollout.backends.wan.folder import describe

    print(json.dumps(describe(folder), indent=2))
