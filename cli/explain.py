"""rollout explain: what is cached, in which role, at which index, over a script's blocks. No model, no torch."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from rollout.cli.options import BackendName, Cache, Plugin, Pos, Preset, compose, load_plugins, told
from rollout.plan import Step, simulate
from rollout.registry import find
from rollout.script import Script, planned
from rollout.slots import Role

STEADY = 3
"""Blocks of an unchanging pattern that the table shows before it skips ahead."""


def explain(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A prompt script, as for 'rollout gen'.")],
    pos: Pos = None,
    cache: Cache = None,
    preset: Preset = None,
    backend: BackendName = "sprites",
    as_json: Annotated[bool, typer.Option("--json", help="Print a list with one object a block.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Print every block, also where nothing changes.")] = False,
    plugin: Plugin = None,
) -> None:
    """Show what a strategy caches and where in time it puts it, block by block, without a model."""
    load_plugins(plugin)
    strategy = compose(pos, cache, preset)
    spec = find("backends", backend).spec()
    plan = Script.parse(script)
    strategy.check(spec, plan.count(spec) * spec.block)
    steps = simulate(strategy, plan.blocks(spec), spec)
    if as_json:
        for n, step in enumerate(steps):
            print(("[" if n == 0 else ",\n ") + json.dumps(step.to_dict()), end="")
        print("]")
        return
    print(
        f"{strategy}  on {spec.name}: window {strategy.policy.window}, {spec.block * spec.stride / spec.fps:g}s a block"
    )
    for line in told(planned(plan, spec)):
        print(line)
    _table(steps, plan, whole)


def _table(steps: Iterator[Step], plan: Script, whole: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("block", "frames", "at", "sink", "at", "memory", "at", "recent", "at", "event"):
        table.add_column(name, justify="right" if name == "block" else "left", overflow="fold")
    same, before, step = 0, None, next(steps, None)
    while step is not None:
        after = next(steps, None)
        repeats = before is not None and not _event(step, plan) and _shape(step) == _shape(before)
        same = same + 1 if repeats else 0
        ahead = after is not None and not _event(after, plan) and _shape(after) == _shape(step)
        if whole or same < STEADY or not ahead:
            table.add_row(*_cells(step), _event(step, plan))
        elif same == STEADY:
            table.add_row("…", "", "", "", "", "", "", "", "", "the same, each block later")
        before, step = step, after
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)


def _shape(step: Step) -> tuple[Any, ...]:
    """What a block sees, apart from the frames' numbers moving on with time."""
    start = step.block.start
    held = tuple((s.role, s.frame if s.role is Role.SINK else s.frame - start) for s in step.slots)
    moves = step.placement.block[-1] == step.block.end - 1  # absolute positions move on by themselves
    base = start if moves else 0
    return (
        held,
        tuple(p - base for p, s in zip(step.placement.slots, step.slots, strict=True) if s.role is Role.RECENT),
        moves,
    )


def _cells(step: Step) -> list[str]:
    block = step.block
    cells = [str(block.index), ranges(range(block.start, block.end)), ranges(step.placement.block)]
    for role in Role:
        pairs = [(s.frame, p) for s, p in zip(step.slots, step.placement.slots, strict=True) if s.role is role]
        frames = [f for f, _ in pairs]
        text = " ".join(f"≤{f}" for f in frames) if role is Role.MEMORY else ranges(frames)
        cells += [text, ranges([p for _, p in pairs])]
    return cells


def _event(step: Step, plan: Script) -> str:
    block = step.block
    if not (block.switch or block.cut) or step.switch is None:
        return ""
    what = "cut" if block.cut else "prompt"
    done = (
        f"kept {len(step.switch.slots)} of the cache"
        if step.replay is None
        else f"encoded {ranges(step.replay.frames)} again"
    )
    return f"{what}: {plan.shots[block.prompt].prompt} ({done})"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as runs: 0-2 7 7 9-11."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
