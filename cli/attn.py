"""rollout attn: which frames a frame looks at, as a map and a picture."""

import time
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.composition import Composition, composes
from rollout.cli.model import Choice, chooses_model
from rollout.cli.options import (
    Force,
    Out,
    Plugin,
    Prefix,
    Seed,
    brought,
    load_plugins,
)
from rollout.cli.result import AsJson, result
from rollout.errors import SpecError
from rollout.script import Script
from rollout.text import Json

__all__ = ["FILES", "attn"]

FILES = ("attention.npz", "attention.png", "run.json")


@composes()
@chooses_model("attention_backend", "compile", "low_vram")
def attn(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A prompt script, as for 'rollout gen'.")],
    *,
    composition: Composition,
    layer: Annotated[
        str, typer.Option(metavar="middle|N", help="The layer, from 0; 'middle' is two fifths up, the 13th of 30.")
    ] = "middle",
    step: Annotated[
        int | None, typer.Option(metavar="K", help="The denoising step, from 0; default: the last noisy one.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    prefix: Prefix = None,
    choice: Choice,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Show which frames a frame looks at, over a rollout.

    Writes attention.png, attention.npz (the map) and run.json.
    """
    load_plugins(plugin)
    with result(to) as target:
        target.give(_attend(script, composition, layer, step, seed, out, force, prefix, choice))


def _attend(
    script: str,
    composition: Composition,
    layer: str,
    step: int | None,
    seed: int,
    out: Path | None,
    force: bool,
    prefix: str | None,
    choice: Choice,
) -> Json:
    """Roll out, write the files, and tell and return what is in them."""
    strategy = composition.strategy()
    plan = Script.parse(script)
    number = _layer(layer)
    from rollout.files import output_folder, write_whole
    from rollout.loop import generate
    from rollout.run.prefix import read_prefix
    from rollout.run.recipe import Recipe
    from rollout.run.record import RunFolder, record
    from rollout.show.attention import AttentionMap
    from rollout.show.attention.picture import draw

    model = choice.load()
    start, start_record = read_prefix(model, prefix, plan.prompts[0], seed)
    run = generate(model, strategy, plan, seeds=seed, prefix=start)
    attention = AttentionMap(run, layer=number, step=step)
    folder = output_folder(out, force=force)
    for name in FILES:  # of an earlier run, with --force
        (folder / name).unlink(missing_ok=True)
    print(
        f"strategy: {strategy}; layer {attention.layer} of {model.spec.layers}, step {attention.step}, counted from 0"
    )
    for line in brought(start_record):
        print(line)
    begun = time.monotonic()
    for _ in attention:
        pass
    frame_map = attention.map()
    timings: dict[str, float | int] = {"seconds": time.monotonic() - begun}
    frame_map.save(folder / "attention.npz")
    picture = draw([frame_map])
    write_whole(folder / "attention.png", lambda path: picture.savefig(path, format="png", dpi=200))
    summary = frame_map.summary()
    facts = {
        "layer": frame_map.layer,
        "step": frame_map.step,
        "sigma": run.schedule.sigmas[frame_map.step],
        "summary": summary,
    }
    recipe = Recipe(strategy, script, seed, run.schedule, prefix, model.spec.name, choice.device, choice.recorded)
    RunFolder.finish(folder, record(run, recipe, plan, prefix=start_record, timings=timings, attention=facts))
    print("shares of attention, and in brackets of how many frames:")
    for part in summary:
        print(_line(part))
    print(f"{folder / 'attention.png'}: all of it at a glance; {folder / 'attention.npz'}: the map")
    return {"strategy": str(strategy), **facts, "files": [str(folder / name) for name in FILES]}


def _layer(text: str) -> int | None:
    if text == "middle":
        return None
    if not text.isdecimal() or len(text) > 6:
        raise SpecError(f"--layer {text[:20]!r} is no layer. Write middle, or a number from 0.")
    return int(text)


def _line(part: Json) -> str:
    """A part of a map's summary for people."""
    begin, end = part["frames"]
    shares = [
        f"{'own ' * (role == 'block')}{role} {share:.1%} ({n:.3g})" for role, (share, n) in part["shares"].items() if n
    ]
    after = f", after a {part['after']}" if part["after"] else ""
    return f"  frames {begin}-{end - 1}{after}: {', '.join(shares)}"
