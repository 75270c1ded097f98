"""Several cells of one strategy and one timing as the rows of one rollout: the same bits, at half the cost a frame."""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rollout.backend import Backend, Spec
from rollout.cache import kv_bytes
from rollout.errors import RolloutError
from rollout.loop import Result, generate
from rollout.run.output import Output
from rollout.run.prefix import read_prefixes
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder, record, subtitles, times
from rollout.script import Script
from rollout.timeline import blocks_of

if TYPE_CHECKING:
    from rollout.benchmarks.executors.work import Task

__all__ = ["in_batches", "roll_rows"]

MOST = 16
"""Rows of one rollout at most: beyond it nothing is gained on a CPU."""
CACHE = 128 * 2**20
"""Bytes of keys and values up to which rows are added; a large model's cell stays alone."""


def in_batches(tasks: Iterable["Task"], spec: Spec) -> list["Task"]:
    """Tasks of one strategy and timing together, in the order of their first; the first of each strategy stays alone.

    A rollout's times are those of all its rows, so that what a strategy costs is measured where it runs alone. Controls
    that are no rollouts of one video, and cells that only lack metrics, stay alone too.
    """
    groups: dict[str, list[Task]] = {}
    scored_addresses: set[str] = set()
    for task in tasks:
        strategy = json.dumps(task.spec["strategy"], sort_keys=True)
        together = not task.scored and task.spec["strategy"] is not None and task.spec["donor"] is None
        if not together or strategy not in scored_addresses:
            scored_addresses.add(strategy)
            groups[task.address] = [task]
            continue
        blocks = tuple(blocks_of(Script.parse(task.spec["script"]), spec, first=task.spec["prefix"]))
        groups.setdefault(f"{strategy} {blocks} {task.spec['steps']} {task.spec['prefix']}", []).append(task)
    return [batch for group in groups.values() for batch in _split(group, spec)]


def _split(group: Sequence["Task"], spec: Spec) -> list["Task"]:
    """A group as tasks of as many rows as a rollout takes."""
    first = group[0]
    if len(group) == 1:
        return [first]
    window = int(first.spec["strategy"]["policy"].get("window", spec.trained))
    most = max(1, min(MOST, CACHE // kv_bytes(spec, window, 1, torch.float32)))
    parts = [group[at : at + most] for at in range(0, len(group), most)]
    return [replace(part[0], beside=tuple(part[1:])) for part in parts]


def roll_rows(backend: Backend, recipes: Sequence[Recipe], folders: Sequence[Path]) -> None:
    """Roll recipes of one strategy and timing out together, each into its own folder. Raises RolloutError.

    The folders hold what a run alone would write but for the contact sheet; costs are a row's share, and say of how many.
    """
    first, begun = recipes[0], time.monotonic()
    scripts = [Script.parse(recipe.text) for recipe in recipes]
    videos = [(script.prompts[0], recipe.seed) for recipe, script in zip(recipes, scripts, strict=True)]
    prefix, starts = read_prefixes(backend, first.prefix, videos)
    run = generate(
        backend,
        first.strategy,
        scripts,
        seeds=[recipe.seed for recipe in recipes],
        schedule=first.schedule,
        prefix=prefix,
    )
    writing = 0.0
    with ExitStack() as stack:
        outputs = []
        for folder, script in zip(folders, scripts, strict=True):
            lines = subtitles(script, backend.spec, first=run.first)
            output = Output(folder, backend, blocks=run.blocks, lines=lines, exact=True, contact=False)
            stack.push(partial(_leave, output))
            outputs.append(output)
        for result in run:
            decode_begin = time.monotonic()
            for n, output in enumerate(outputs):
                output.add(_row(result, n))
            writing += time.monotonic() - decode_begin
        for output in outputs:
            output.close(keep=False)
        stack.pop_all()
    seconds, count = time.monotonic() - begun, len(recipes)
    for n, (recipe, script, output) in enumerate(zip(recipes, scripts, outputs, strict=True)):
        row = record(
            run,
            recipe,
            script,
            prefix=starts[n],
            timings=times(seconds / count, (seconds - writing) / count, writing / count, output.frames),
            digests=output.digests,
        )
        RunFolder.finish(folders[n], row)


def _row(result: Result, n: int) -> Result:
    """One row of a block."""
    return replace(result, latents=result.latents[n : n + 1], prompts=result.prompts[n : n + 1])


def _leave(output: Output, kind: object, error: BaseException | None, trace: object) -> None:
    """Close an output that an error leaves behind."""
    output.leave(error or RolloutError("the rollout was left"), keep=False)
