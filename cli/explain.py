"""rollout explain: what is cached, in which role, at which index, over a script's blocks. No model, no torch."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rollout.backend import Spec
from rollout.cli.composition import Composition, composes
from rollout.cli.options import (
    BackendName,
    Plugin,
    load_plugins,
    told,
)
from rollout.cli.result import AsJson, Result, result
from rollout.errors import SpecError
from rollout.registry import find
from rollout.script import Script, planned
from rollout.show.explain.advice import Advice
from rollout.show.explain.table import blocks, differences
from rollout.show.explain.trace import STEPS
from rollout.show.explain.views import Mark, Sight, compare, sights
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.timeline import blocks_of
from rollout.views import Horizon

__all__ = ["PEAKS", "SHOWN", "explain"]

SHOWN, PEAKS = 12, 5
"""Blocks over which distances are shown, and frames at which they look near, without --all."""


@composes()
def explain(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A prompt script, as for 'rollout gen'.")],
    *,
    composition: Composition,
    block: Annotated[
        int | None, typer.Option(min=1, help="Frames a block; default: the preset's, else the model's, 3.")
    ] = None,
    backend: BackendName = "sprites",
    against: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="Another to compare with: a preset's name or 'POSITIONS POLICY+SWITCH'."),
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture of all blocks.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that steps through the blocks.")
    ] = None,
    to: AsJson = None,
    coherence: Annotated[
        bool,
        typer.Option(
            "--coherence", help="How far sinks and memory fall behind, and where they look near again to RoPE."
        ),
    ] = False,
    whole: Annotated[bool, typer.Option("--all", help="Print every block, also where nothing changes.")] = False,
    plugin: Plugin = None,
) -> None:
    """Show what a strategy caches, and where in time it puts it.

    Block by block, without a model.
    """
    if coherence and any(option is not None for option in (against, png, html)):
        raise SpecError(
            "--coherence prints one strategy's distances as a table or as JSON. Leave out --against, --png and --html."
        )
    load_plugins(plugin)
    strategy, name = composition.strategy(), composition.name
    spec = find("backends", backend).spec(composition.block if block is None else block)
    plan = Script.parse(script)
    pairs = [(name, strategy)] + ([] if against is None else [(against.strip(), Strategy.of(against))])
    for _, one in pairs:
        one.check(spec, plan.count(spec) * spec.block)
        one.order.check_plan(STEPS, plan.count(spec))
    with result(to) as target:
        if coherence:
            _coherence(strategy, plan, spec, target, whole)
            return
        target.give_rows(_rows(_abreast([Advice(one, spec) for _, one in pairs], plan, spec)))
        if not target.alone or png is not None or html is not None:
            _show(pairs, plan, spec, script, png, html, whole)


def _show(
    pairs: Sequence[tuple[str, Strategy]],
    plan: Script,
    spec: Spec,
    script: str,
    png: Path | None,
    html: Path | None,
    whole: bool,
) -> None:
    """For people: the table, or the picture and the page; below it how near the distances look, and what is lost."""
    advices = [Advice(one, spec) for _, one in pairs]
    if png is not None or html is not None:
        _draw(pairs, advices, plan, spec, script, png, html)
    else:
        length = spec.block_seconds
        for _, one in pairs:
            print(f"{one}  on {spec.name}: window {one.policy.window}, {length:g}s a block")
        for line in told(planned(plan, spec)):
            print(line)
        names = [name for name, _ in pairs]
        if len(pairs) == 1:
            _print(*blocks((sight for (sight,) in _abreast(advices, plan, spec)), plan, whole))
        else:
            _print(*differences(names, ((a, b) for a, b in _abreast(advices, plan, spec)), plan, whole))
    for letter, advice in zip(("A: ", "B: ") if len(pairs) > 1 else ("",), advices, strict=True):
        _advise(advice, letter)


def _advise(advice: Advice, letter: str) -> None:
    """How near the distances in use look, and what a strategy loses."""
    for text in [*filter(None, [advice.line()]), *(f"warning: {text}" for text in advice.warnings())]:
        print(f"{letter}{text}")


def _abreast(advices: Sequence[Advice], plan: Script, spec: Spec) -> Iterator[tuple[Sight, ...]]:
    """The blocks of all strategies side by side, each seen by its advice."""
    rollouts = (
        advice.watch(sights(advice.strategy, blocks_of(plan, spec), spec, horizon=_horizon(plan, spec)))
        for advice in advices
    )
    return zip(*rollouts, strict=True)


def _horizon(plan: Script, spec: Spec) -> Horizon:
    """A rollout of the whole script in few steps."""
    return Horizon(STEPS, 0, plan.count(spec) - 1)


def _rows(abreast: Iterator[tuple[Sight, ...]]) -> Iterator[Json]:
    """One object a block: the step, or both steps under "a" and "b" and what differs."""
    for n, both in enumerate(abreast):
        row: Json = both[0].step.to_dict()
        if len(both) > 1:
            difference = compare(both[0], both[1])
            row = {
                "block": n,
                "a": row,
                "b": both[1].step.to_dict(),
                "only": [difference.of(Mark.ONLY, i) for i in (0, 1)],
            }
            row |= {mark.value: difference.of(mark) for mark in (Mark.MOVED, Mark.MADE)}
        yield row


def _coherence(strategy: Strategy, plan: Script, spec: Spec, target: Result, every: bool) -> None:
    """The distances of sinks and memory over time, and the frames at which they look near again."""
    from rollout.plan import simulate
    from rollout.show.explain.coherence import again, over_time, peaks, to_dict

    steps = list(simulate(strategy, blocks_of(plan, spec), spec, horizon=_horizon(plan, spec)))
    factors = strategy.spectrum.multipliers(spec)
    target.give({"strategy": str(strategy)} | to_dict(steps, spec, factors))
    if target.alone:
        return
    print(f"{strategy}  on {spec.name}: {spec.axes[0]} rotary pairs of time, trained on {spec.trained} frames")
    heads, rows = over_time(steps, spec, factors)
    if not rows:
        print("It keeps no sinks and no memory: nothing that it caches grows old.")
        return
    _print(heads, rows[:: 1 if every else -(-len(rows) // SHOWN)])
    beyond = peaks(steps, spec, factors)
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
    pairs: Sequence[tuple[str, Strategy]],
    advices: Sequence[Advice],
    plan: Script,
    spec: Spec,
    script: str,
    png: Path | None,
    html: Path | None,
) -> None:
    from rollout.files import write_text, write_whole
    from rollout.show.explain.overlay import COLUMNS, paint, save
    from rollout.show.explain.page import LONGEST, page, sides

    drawing = sides(pairs, plan, spec, LONGEST if png is None else COLUMNS, horizon=_horizon(plan, spec))
    for advice, side in zip(advices, drawing, strict=True):
        for sight in side.sights:
            advice.see(sight)
    if png is not None:
        figure = paint(drawing, plan, spec)
        write_whole(png, lambda path: save(figure, path))
        print(f"{png}: a picture of {len(drawing[0].sights)} blocks")
    if html is not None:
        command = shlex.join(["rollout", *sys.argv[1:]])
        write_text(html, page(drawing, plan, spec, text=script, command=command))
        print(f"{html}: a page of {len(drawing[0].sights)} blocks; open it in a browser")


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in heads:
        table.add_column(name, justify="right" if name == "block" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)
