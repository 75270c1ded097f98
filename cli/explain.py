"""rollout explain: what is cached, in which role, at which index, over a script's blocks. No model, no torch."""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rollout.backend import Spec
from rollout.cli.options import (
    DEFAULT,
    BackendName,
    Cache,
    Plugin,
    Pos,
    Preset,
    compose,
    find_strategy,
    load_plugins,
    told,
)
from rollout.errors import SpecError
from rollout.plan import Step
from rollout.registry import find
from rollout.script import Script, planned
from rollout.show.explain.cells import differ
from rollout.show.explain.views import Mark, View, compare, views
from rollout.slots import Role
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.timeline import blocks_of

__all__ = ["PEAKS", "SHOWN", "STEADY", "explain", "ranges"]

STEADY = 3
"""Blocks of an unchanging pattern that the table shows before it skips ahead."""
SHOWN, PEAKS = 12, 5
"""Blocks over which distances are shown, and frames at which they look near, without --all."""


def explain(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A prompt script, as for 'rollout gen'.")],
    pos: Pos = None,
    cache: Cache = None,
    preset: Preset = None,
    backend: BackendName = "sprites",
    against: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="Another to compare with: a preset's name or 'POSITIONS POLICY+SWITCH'."),
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture of all blocks.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that steps through the blocks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list with one object a block.")] = False,
    coherence: Annotated[
        bool,
        typer.Option(
            "--coherence", help="How far sinks and memory fall behind, and where they look near again to RoPE."
        ),
    ] = False,
    whole: Annotated[bool, typer.Option("--all", help="Print every block, also where nothing changes.")] = False,
    plugin: Plugin = None,
) -> None:
    """Show what a strategy caches and where in time it puts it, block by block, without a model."""
    if coherence and any(option is not None for option in (against, png, html)):
        raise SpecError(
            "--coherence prints one strategy's distances as a table or as JSON. Leave out --against, --png and --html."
        )
    load_plugins(plugin)
    strategy = compose(pos, cache, preset)
    name = preset or DEFAULT if pos is None and cache is None else str(strategy)
    spec = find("backends", backend).spec()
    plan = Script.parse(script)
    pairs = [(name, strategy)] + ([] if against is None else [(against.strip(), find_strategy(against))])
    for _, one in pairs:
        one.check(spec, plan.count(spec) * spec.block)
    if coherence:
        _coherence(strategy, plan, spec, as_json, whole)
    elif png is not None or html is not None:
        _draw(pairs, plan, spec, script, png, html)
    elif as_json:
        _json(pairs, plan, spec)
    else:
        length = spec.block_seconds
        for _, one in pairs:
            print(f"{one}  on {spec.name}: window {one.policy.window}, {length:g}s a block")
        for line in told(planned(plan, spec)):
            print(line)
        if against is None:
            _table(views(strategy, blocks_of(plan, spec), spec), plan, whole)
        else:
            _differences(pairs, plan, spec, whole)


def _json(pairs: Sequence[tuple[str, Strategy]], plan: Script, spec: Spec) -> None:
    """One object a block: the step, or both steps under "a" and "b" and what differs."""
    rollouts = (views(strategy, blocks_of(plan, spec), spec) for _, strategy in pairs)
    for n, both in enumerate(zip(*rollouts, strict=True)):
        row: Json = both[0].step.to_dict()
        if len(both) > 1:
            difference = compare(*both)
            row = {
                "block": n,
                "a": row,
                "b": both[1].step.to_dict(),
                "only": [difference.of(Mark.ONLY, i) for i in (0, 1)],
            }
            row |= {mark.value: difference.of(mark) for mark in (Mark.MOVED, Mark.MADE)}
        print(("[" if n == 0 else ",\n ") + json.dumps(row), end="")
    print("]")


def _coherence(strategy: Strategy, plan: Script, spec: Spec, as_json: bool, every: bool) -> None:
    """The distances of sinks and memory over time, and the frames at which they look near again."""
    from rollout.plan import simulate
    from rollout.show.explain.coherence import again, over_time, peaks, to_dict

    steps = list(simulate(strategy, blocks_of(plan, spec), spec))
    if as_json:
        print(json.dumps({"strategy": str(strategy)} | to_dict(steps, spec), indent=1))
        return
    print(f"{strategy}  on {spec.name}: {spec.axes[0]} rotary pairs of time, trained on {spec.trained} frames")
    heads, rows = over_time(steps, spec)
    if not rows:
        print("It keeps no sinks and no memory: nothing that it caches grows old.")
        return
    _print(heads, rows[:: 1 if every else -(-len(rows) // SHOWN)])
    beyond = peaks(steps, spec)
    if not beyond:
        print(
            f"No distance is as long as the {spec.trained} trained frames: no cached frame can look nearer than it did there."
        )
        return
    print(
        f"Beyond {spec.trained} frames a block may slip onto a cached frame that looks near (1: as if it were there):"
    )
    _print(*again(beyond if every else beyond[:PEAKS], spec))


def _draw(
    pairs: Sequence[tuple[str, Strategy]], plan: Script, spec: Spec, script: str, png: Path | None, html: Path | None
) -> None:
    from rollout.files import write_text, write_whole
    from rollout.show.explain.overlay import COLUMNS, paint, save
    from rollout.show.explain.page import LONGEST, page, sides

    drawing = sides(pairs, plan, spec, LONGEST if png is None else COLUMNS)
    if png is not None:
        figure = paint(drawing, plan, spec)
        write_whole(png, lambda path: save(figure, path))
        print(f"{png}: a picture of {len(drawing[0].views)} blocks")
    if html is not None:
        command = shlex.join(["rollout", *sys.argv[1:]])
        write_text(html, page(drawing, plan, spec, text=script, command=command))
        print(f"{html}: a page of {len(drawing[0].views)} blocks; open it in a browser")


def _differences(pairs: Sequence[tuple[str, Strategy]], plan: Script, spec: Spec, every: bool) -> None:
    """A row a block: where two strategies differ."""
    rows: list[tuple[str, ...]] = []
    repeats, before = 0, None
    for both in zip(*(views(strategy, blocks_of(plan, spec), spec) for _, strategy in pairs), strict=True):
        step, pattern = both[0].step, [view.pattern() for view in both]
        repeats = repeats + 1 if pattern == before and step.switch is None else 0
        before = pattern
        if every or repeats < STEADY:
            says = ". ".join(f"{word}: {cell}" for word, cell in differ(compare(*both)))
            rows.append((str(step.block.index), says, _event(step, plan)))
        elif repeats == STEADY:
            rows.append(("…", "the same, each block later", ""))
    _print(("block", f"A = {pairs[0][0]}, B = {pairs[1][0]}", "event"), rows)


def _table(rollout_views: Iterator[View], plan: Script, every: bool) -> None:
    rows: list[tuple[str, ...]] = []
    still, before, view = 0, None, next(rollout_views, None)
    while view is not None:
        after = next(rollout_views, None)
        event = _event(view.step, plan)
        repeats = before is not None and not event and view.pattern() == before.pattern()
        still = still + 1 if repeats else 0
        ahead = after is not None and not _event(after.step, plan) and after.pattern() == view.pattern()
        if every or still < STEADY or not ahead:
            rows.append((*_cells(view.step), event))
        elif still == STEADY:
            rows.append(("…", "", "", "", "", "", "", "", "", "the same, each block later"))
        before, view = view, after
    _print(("block", "frames", "at", "sink", "at", "memory", "at", "recent", "at", "event"), rows)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in heads:
        table.add_column(name, justify="right" if name == "block" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)


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
    kind = "cut" if block.cut else "prompt"
    effect = (
        f"kept {len(step.switch.slots)} of the cache"
        if step.replay is None
        else f"encoded {ranges(step.replay.frames)} again"
    )
    return f"{kind}: {plan.shots[block.prompt].prompt} ({effect})"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as runs: 0-2 7 7 9-11."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
