"""rollout bench speed: what strategies cost."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.options import Plugin, load_plugins
from rollout.errors import BackendError

if TYPE_CHECKING:
    from rollout.backend import Backend


def speed(
    backend: Annotated[str, typer.Option(metavar="NAME", help="sprites, or wan.")] = "sprites",
    presets: Annotated[
        str, typer.Option(metavar="A,B", help="Presets to compare.")
    ] = "self-forcing,longlive,infinity-rope,memrope",
    model: Annotated[str | None, typer.Option(metavar="PATH", help="The backend's weights.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Random weights of --size, wan only.")] = False,
    size: Annotated[str, typer.Option(help="1.3b or 14b, with --random.")] = "1.3b",
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the size has, with --random.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, wan only.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, wan only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...")] = None,
    attention_backend: Annotated[str | None, typer.Option(help="One of diffusers' names, wan only.")] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile the transformer's blocks, wan only.")
    ] = False,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks timed once the window is full.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    to: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows as JSON.")] = None,
    plugin: Plugin = None,
) -> None:
    """Frames per second, and a block's time split into model, attention, cache and positions."""
    load_plugins(plugin)
    from rollout.strategies.presets import preset

    strategies = {name: preset(name) for name in (part.strip() for part in presets.split(","))}
    if random and backend != "wan":
        raise BackendError(
            f"--random builds Wan models; the backend {backend!r} has its own weights. Use --backend wan."
        )
    import torch

    from rollout.backends import load_backend
    from rollout.benchmarks.speed.rollouts import measure, table
    from rollout.files import write_text

    if threads:
        torch.set_num_threads(threads)
    wanted = {
        "dtype": dtype,
        "height": height,
        "width": width,
        "attention_backend": attention_backend,
        "compile": compile_ or None,
    }
    options: dict[str, Any] = {k: v for k, v in wanted.items() if v is not None}
    if random:
        from rollout.backends.wan.random import random_wan

        loaded: Backend = random_wan(size, layers=layers, device=device, **options)
    else:
        loaded = load_backend(backend, device=device, **options, **({} if model is None else {"model": model}))
    spec = loaded.spec
    prompt = "a red circle walks right" if backend == "sprites" else "a cat walks"
    where = (
        torch.cuda.get_device_name(loaded.device)
        if loaded.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{spec.name}: {spec.layers} layers, {spec.heads} heads of {spec.head_dim}, {spec.tokens} tokens a frame, "
        f"{str(loaded.dtype).removeprefix('torch.')}, {where}, torch {torch.__version__}"
    )
    rows = []
    for name, strategy in strategies.items():
        rows.append(measure(loaded, name, strategy, prompt, blocks=blocks))
        print(f"  {name}: {rows[-1].frames_per_second:.1f} fps", flush=True)
    print(table(rows))
    if to is not None:
        write_text(to, json.dumps({"rows": [row.to_dict() for row in rows]}, indent=1) + "\n")
