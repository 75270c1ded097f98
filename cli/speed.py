"""rollout bench speed: what strategies cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.composition import Presets, Strategies, named, preset_of
from rollout.cli.model import Choice, chooses_model
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import BackendError, SpecError
from rollout.strategy import Strategy
from rollout.text import Json

if TYPE_CHECKING:
    import torch

    from rollout.backend import Backend

__all__ = ["USUAL", "speed"]

USUAL = tuple((name, name) for name in ("self-forcing", "longlive", "infinity-rope", "memrope"))
"""The strategies of whole rollouts where none is named."""


@chooses_model("backend", "dtype", "low_vram")
def speed(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whole rollouts of a model: sprites, or wan. Default: the cache alone."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="A,B", help="float32, bfloat16, ...; several for the cache alone.")
    ] = None,
    windows: Annotated[str, typer.Option(metavar="A,B", help="Windows of the cache alone.")] = "6,12,21",
    repeats: Annotated[int, typer.Option(min=1, help="Timed blocks a row of the cache alone.")] = 7,
    preset: Presets = None,
    strategy: Strategies = None,
    presets: Annotated[str | None, typer.Option(metavar="A,B", hidden=True, help="What --preset was called.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Random weights of --size, wan only.")] = False,
    size: Annotated[str, typer.Option(help="1.3b, 5b or 14b, with --random.")] = "1.3b",
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the size has, with --random.")] = None,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks timed once the window is full, whole rollouts.")] = 3,
    frames: Annotated[
        int | None,
        typer.Option(min=30, help="Roll out this many latent frames and show cost and memory along the way."),
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Rows along the way, with --frames.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --frames and one strategy: make it a whole run here, and measure its drift."
        ),
    ] = None,
    snapshot_every: Annotated[int | None, typer.Option(min=1, metavar="N", help="As for 'rollout gen'.")] = None,
    to: AsJson = None,
    plugin: Plugin = None,
    *,
    choice: Choice,
) -> None:
    """Measure what handling the cache costs.

    At Wan's geometry; with --backend in whole rollouts, a block split into its parts.
    """
    load_plugins(plugin)
    if random and backend != "wan":
        raise BackendError(f"--random builds Wan models; the backend is {backend!r}. Use --backend wan.")
    from rollout.devices import find_device

    choice.set_threads(backend)
    place = find_device(choice.device)
    with result(to) as target:
        if backend is None:
            rows = _cache(place, dtype or "float32,bfloat16", windows, repeats)
        else:
            texts = dict(
                named([*(preset or ()), *(presets or "").split(",")] if presets else preset, strategy) or USUAL
            )
            strategies = {name: Strategy.of(text) for name, text in texts.items()}
            options = choice.options | ({} if dtype is None else {"dtype": dtype})
            model_loaded = _load(backend, random, size, layers, choice.device, options)
            if frames is None:
                rows = _rollouts(model_loaded, strategies, texts, blocks, split=not options.get("compile"))
            else:
                rows = _flat(model_loaded, strategies, frames, points, out, snapshot_every)
        target.give(rows)


def _where(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _cache(device: "torch.device", dtypes: str, windows: str, repeats: int) -> Json:
    """The cache alone, against the copy floor and the plain handling."""
    import torch

    from rollout.benchmarks.speed.handling import PASSES, geometry
    from rollout.benchmarks.speed.overhead import measure, pin_allocator, switching, tables
    from rollout.devices import find_dtype

    kinds = [find_dtype(name.strip(), device) for name in dtypes.split(",")]
    try:
        sizes = [int(window) for window in windows.split(",")]
    except ValueError:
        raise SpecError(f"--windows {windows!r} are no whole numbers. Write 6,12,21.") from None
    if min(sizes) < 6:
        raise SpecError(
            f"--windows {windows!r}: a window of {min(sizes)} is too small for memory frames and a block. Use 6 or more."
        )
    if device.type == "cpu":
        pin_allocator()
    spec = geometry()
    print(
        f"one layer, {spec.tokens} tokens a frame, {spec.heads} heads of {spec.head_dim}, ms a pass (a block's cost over its "
        f"{PASSES} passes), medians of {repeats}; {_where(device)}, torch {torch.__version__}, allocator pinned",
        flush=True,
    )
    rows = []
    for row in measure(kinds, sizes, repeats=repeats, device=device):
        rows.append(row)
        print(
            f"  {row.dtype} window {row.window} {row.composition}: {row.ours_ms / row.floor_ms:.2f} x floor", flush=True
        )
    switches = list(switching(kinds, sizes, device=device))
    print(tables(rows, switches))
    return {"rows": [row.to_dict() for row in rows], "switches": [row.to_dict() for row in switches]}


def _load(backend: str, random: bool, size: str, layers: int | None, device: str, options: dict[str, Any]) -> "Backend":
    if random:
        from rollout.backends.wan.random import random_wan

        for name in ("model", "guidance", "negative"):
            if name in options:
                raise SpecError(f"--{name} goes with a model of your own, and not with --random. Leave one out.")
        wan: Backend = random_wan(size, layers=layers, device=device, **options)
        return wan
    from rollout.backends import load_backend

    return load_backend(backend, device=device, **options)


def _begin(backend: "Backend") -> str:
    """Say what is measured; a prompt that the model understands."""
    import torch

    spec = backend.spec
    print(
        f"{spec.name}: {spec.layers} layers, {spec.heads} heads of {spec.head_dim}, {spec.tokens} tokens a frame, "
        f"{str(backend.dtype).removeprefix('torch.')}, {_where(backend.device)}, torch {torch.__version__}"
    )
    return "a cat walks" if backend.world is None else backend.world.example


def _rollouts(
    backend: "Backend", strategies: dict[str, Strategy], texts: dict[str, str], blocks: int, *, split: bool
) -> Json:
    """Whole rollouts of a model under several strategies, each with its preset's own noise levels."""
    from rollout.benchmarks.speed.rollouts import measure, tables

    prompt = _begin(backend)
    rows = []
    for name, strategy in strategies.items():
        preset = preset_of(texts[name])
        if preset is not None and preset.block not in (None, backend.spec.block):
            print(f"note: the preset '{texts[name]}' has blocks of its own: --block {preset.block}")
        schedule = None if preset is None else preset.schedule
        rows.append(measure(backend, name, strategy, prompt, blocks=blocks, schedule=schedule, split=split))
        print(f"  {name}: {rows[-1].frames_per_second:.1f} fps", flush=True)
    print(tables(rows))
    return {"rows": [row.to_dict() for row in rows]}


def _flat(
    backend: "Backend",
    strategies: dict[str, Strategy],
    frames: int,
    points: int,
    out: Path | None,
    every: int | None,
) -> Json:
    """One long rollout a strategy."""
    from rollout.benchmarks.speed.flat import Point, flat, points_table
    from rollout.files import new_folder

    prompt = _begin(backend)
    if out is not None and (len(strategies) > 1 or backend.world is None):
        raise SpecError("--out takes one strategy, on a backend with a world whose truth is known. Use --preset NAME.")
    for strategy in strategies.values():
        strategy.check(backend.spec, frames)
    if out is not None:
        new_folder(out)
    points_of: dict[str, list[Point]] = {}
    for name, strategy in strategies.items():
        points_of[name] = []
        for point in flat(backend, strategy, prompt, frames, points=points, folder=out, every=every):
            points_of[name].append(point)
            print(f"  {name}: {point.frames} frames, {point.block_ms:.1f} ms a block", flush=True)
    print(points_table(points_of))
    return {"rows": [{"strategy": name, **p.to_dict()} for name, row in points_of.items() for p in row]}
