"""rollout doctor: whether a model will run here, what it takes, and what to turn on where it does not fit."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.composition import Composition, composes
from rollout.cli.model import DEFAULT, Choice, chooses_model
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import RolloutError
from rollout.registry import find, names
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.memory import Needs
    from rollout.strategy import Strategy

__all__ = ["doctor"]

GIB = 2**30
REMEDIES: tuple[tuple[str, Mapping[str, Any], str | None], ...] = (
    ("--vae-dtype bfloat16", {"vae_dtype": "bfloat16"}, None),
    ("--vae-dtype bfloat16 --fp8-weights", {"vae_dtype": "bfloat16", "fp8_weights": True}, None),
    ("--low-vram", {"low_vram": True}, None),
    ("--low-vram --store int8", {"low_vram": True}, "int8"),
)
"""What makes a rollout smaller: its option, the model's options, the store."""


@composes()
@chooses_model()
def doctor(
    *,
    composition: Composition,
    choice: Choice,
    free: Annotated[
        float | None,
        typer.Option(min=0, metavar="GIB", help="Plan for a device with so much free memory, not this one."),
    ] = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Say whether a model will run here, and what fits.

    Checks device, packages and weights. Exit code 0 only if the strategy will run.
    """
    load_plugins(plugin)
    if free is not None and not isfinite(free):
        raise RolloutError(f"--free {free} is no amount of memory. Write a number of GiB, such as 8.")
    with result(to) as target:
        findings = _look(composition, choice, free)
        target.give(findings)
    if not findings["runs"]:
        raise typer.Exit(1)


def _look(composition: Composition, choice: Choice, free: float | None) -> Json:
    """Tell and return what is here, what fits, and whether the strategy will run."""
    entry = find("backends", choice.backend or DEFAULT)
    machine = list(_machine(choice.device))
    for line in machine:
        print(f"ok  {line}")
    parts = [
        {"part": part, "seen": seen, "ok": right} for part, seen, right in entry.check(choice.options.get("model"))
    ]
    for part in parts:
        print(f"{'ok' if part['ok'] else 'NO':4}{part['part']}: {part['seen']}")
    findings: Json = {"machine": machine, "parts": parts, "strategy": composition.name, "runs": False}
    if not all(part["ok"] for part in parts):
        print("it will not run: get the parts marked NO again, or import the checkpoint again.")
        return findings
    if entry.source.needs is None:
        model = choice.load()
        composition.strategy().check(model.spec)
        print(f"ok  the backend '{model.spec.name}' loads, and {composition.name} fits it. It will run.")
        return findings | {"runs": True}
    memory = free * GIB if free is not None else _free(choice.device)
    return findings | _fits(entry, composition, choice, memory)


def _machine(device: str) -> Iterator[str]:
    """What is here: packages, device and attention."""
    import torch

    from rollout.devices import find_device
    from rollout.run.machine import machine

    place = find_device(device)
    facts = machine(place)
    packages = [name for name in ("python", "torch", "diffusers", "transformers") if name in facts]
    yield f"{', '.join(f'{name} {facts[name]}' for name in packages)}"
    about = facts.get("gpu") or f"{facts['processor'] or 'processor'}, {facts['cores']} cores"
    available = _free(device)
    yield f"{place}: {about}" + ("" if available is None else f", {available / GIB:.1f} GiB free")
    if place.type == "cuda":
        cuda: Any = torch.backends.cuda
        kinds = {"flash": cuda.flash_sdp_enabled(), "efficient": cuda.mem_efficient_sdp_enabled()}
        yield f"PyTorch's attention: {', '.join(name for name, there in kinds.items() if there) or 'math only, slow'}"


def _free(device: str) -> float | None:
    from rollout.devices import find_device, free_bytes

    return free_bytes(find_device(device))


def _fits(entry: Any, composition: Composition, choice: Choice, memory: float | None) -> Json:
    """Tell and return what each preset takes, and the verdict on the strategy that is asked for; sizes in GiB."""
    strategy, block = composition.strategy(), composition.block
    needs = entry.needs(device=choice.device, block=block, **choice.options)
    strategy.check(needs.spec)
    print(
        f"\nGiB at {_size(needs)}: "
        + ", ".join(f"{name} {_gib(n)}" for name, n in (needs.rolling | needs.encoding).items())
    )
    print("the text encoder is gone before the rest comes; where it does not fit, prompts are encoded on the CPU")
    findings: Json = {
        "free": None if memory is None else memory / GIB,
        "rolling": {name: size / GIB for name, size in needs.rolling.items()},
        "encoding": {name: size / GIB for name, size in needs.encoding.items()},
        "presets": _presets(needs, memory),
    }
    total = _total(strategy, needs)
    findings |= {"whole": total / GIB, "runs": memory is None or total <= memory, "remedies": []}
    print(f"\n{composition.name} takes about {_gib(total)} GiB", end="")
    if memory is None:
        print("; this platform does not say how much is free.")
        return findings
    if total <= memory:
        print(f" of the {_gib(memory)} that are free: it will run.")
        return findings
    print(f", and {_gib(memory)} are free: it will not run.")
    for option, options, store in REMEDIES:
        if option.startswith("--low-vram") and choice.device == "cpu" and memory == _free("cpu"):
            continue
        smaller = entry.needs(device=choice.device, block=block, **{**choice.options, **options})
        need = _total(strategy if store is None else replace(strategy, store=find("stores", store)()), smaller)
        print(f"with {option}: {_gib(need)} GiB{', which fits' if need <= memory else ''}")
        findings["remedies"].append({"option": option, "whole": need / GIB, "fits": need <= memory})
        if need <= memory:
            break
    else:
        print("a smaller --height and --width, or a smaller window (--cache), takes less.")
    return findings


def _presets(needs: "Needs", memory: float | None) -> list[Json]:
    """Tell and return, a preset a line: keys and values, the whole, and whether it fits."""
    print(f"{'preset':24}{'keys and values':>16}{'whole':>8}")
    rows: list[Json] = []
    for name in names("presets"):
        preset = find("presets", name)
        here = needs if preset.block is None else replace(needs, spec=replace(needs.spec, block=preset.block))
        try:
            preset.strategy.check(here.spec)
        except RolloutError as error:
            print(f"{name:24}does not fit the model: {error}")
            rows.append({"preset": name, "refused": str(error)})
            continue
        total, cached = _total(preset.strategy, here), _cached(preset.strategy, here)
        fits = None if memory is None else total <= memory
        says = {None: "", True: "   fits", False: "   does not fit"}[fits]
        print(f"{name:24}{_gib(cached):>16}{_gib(total):>8}{says}")
        rows.append({"preset": name, "keys_and_values": cached / GIB, "whole": total / GIB, "fits": fits})
    return rows


def _total(strategy: "Strategy", needs: "Needs") -> float:
    from rollout.memory import ahead

    joint = ahead(strategy, needs.spec) // needs.spec.block  # blocks that go through a pass beside the first
    return _cached(strategy, needs) + sum(needs.rolling.values()) + joint * needs.passing


def _cached(strategy: "Strategy", needs: "Needs") -> float:
    from rollout.memory import cache_bytes

    return 0 if strategy.store.on_host else cache_bytes(strategy, needs.spec, needs.itemsize, needs.rows)


def _size(needs: "Needs") -> str:
    return f"{needs.spec.latent[1]}x{needs.spec.latent[2]} latents of {needs.spec.tokens} tokens"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
