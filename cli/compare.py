"""rollout compare: several strategies on one script and one noise, or finished runs, side by side in one video."""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.composition import Composition, Presets, Strategies, named, own_terms
from rollout.cli.gen import SHOW
from rollout.cli.model import Choice, chooses_model
from rollout.cli.options import (
    ContextNoise,
    Out,
    Plugin,
    Prefix,
    Shift,
    Steps,
    brought,
    load_plugins,
    told,
)
from rollout.cli.result import AsJson, result
from rollout.cli.watch import bar, watch
from rollout.errors import CompositionError, OutputError, Stopped
from rollout.sampler import MOST_SEED
from rollout.script import Script, planned
from rollout.strategy import Strategy
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.backend import Backend
    from rollout.benchmarks.compare.runs import Run
    from rollout.benchmarks.compare.table import Line
    from rollout.run.recipe import Recipe

__all__ = ["USUAL", "compare"]

USUAL = ("self-forcing", "longlive", "infinity-rope", "memrope")
"""The presets where none is named, those that are possible for the script's length."""


@chooses_model()
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT|RUN", help="One script; or the folders of 2 to 6 finished runs."),
    ] = None,
    preset: Presets = None,
    add: Strategies = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise, the same for all; default: 0.")
    ] = None,
    prefix: Prefix = None,
    steps: Steps = None,
    shift: Shift = None,
    context_noise: ContextNoise = 0.0,
    out: Out = None,
    webp: Annotated[
        bool, typer.Option("--webp", help="Also write compare.webp, animated, at most 1.5 MB and 800 pixels wide.")
    ] = False,
    *,
    choice: Choice,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Show strategies, or finished runs, side by side in a video.

    Two to six strategies have the same script and noise. Writes compare.mp4, table.md, and a folder a run. A RUN that is
    written NAME=DIR is called NAME.
    """
    load_plugins(plugin)
    texts = what or []
    if len(texts) > 1 or (texts and Path(texts[0]).is_dir()):
        if preset or add or seed is not None or prefix is not None:
            raise OutputError(
                "finished runs are shown as they are. Leave out --preset, --strategy, --seed and --prefix."
            )
        with result(to) as target:
            target.give(_runs(texts, out, webp))
        return
    recipe = {
        "text": texts[0] if texts else SHOW,
        "seed": seed or 0,
        "prefix": prefix,
        "backend": choice.backend,
        "device": choice.device,
        "options": choice.recorded,
    }
    with result(to) as target:
        for note in own_terms([text for _, text in named(preset, add)]):
            print(note)
        target.give(_generate(_named(preset, add), recipe, choice, out, webp, (steps, shift, context_noise)))


def _named(preset: Sequence[str] | None, add: Sequence[str] | None) -> "list[tuple[str, Strategy]]":
    """What to compare, by name; nothing where nothing is asked. Raises RolloutError."""
    from rollout.benchmarks.compare.runs import count_fits, different

    pairs = named(preset, add)
    if pairs:
        count_fits(len(pairs))
        different([_folder(name) for name, _ in pairs])
    return [(name, Strategy.of(text)) for name, text in pairs]


def _folder(name: str) -> str:
    """A name as a folder's."""
    folder = re.sub(r"[^\w+-]+", "-", name.casefold()).strip("-")
    if not folder:
        raise OutputError(f"a strategy called {name!r} gives no name to a folder. Use letters or digits.")
    return folder[:80]


def _generate(
    strategies: "list[tuple[str, Strategy]]",
    recipe: Json,
    choice: Choice,
    out: Path | None,
    webp: bool,
    levels: tuple[int | None, float | None, float],
) -> Json:
    """Check everything, then roll out one strategy after the other: one cache at a time, and times that are its own."""
    from rollout.benchmarks.compare.runs import read_runs
    from rollout.files import alone, output_folder
    from rollout.run.job import Job
    from rollout.run.recipe import Recipe

    script = Script.parse(recipe["text"])
    model = choice.load()
    strategies = strategies or _usual(script, model)
    schedule = Composition().schedule(*levels, model.schedule)
    recipes = [Recipe(strategy, schedule=schedule, **recipe) for _, strategy in strategies]
    names = [_folder(name) for name, _ in strategies]
    first = Job(model, recipes[0], Path(), exact=True)
    for _, strategy in strategies:
        strategy.check(model.spec, first.rollout.blocks * model.spec.block)
    lines = (*brought(first.prefix_record), *told(planned(script, model.spec, first=first.rollout.first)))
    del first
    with ExitStack() as stack:
        begun = out is not None and out.is_dir()
        if out is not None and begun:  # from here on: what is there must not be another process's work
            stack.enter_context(alone(out))
        finished = set() if out is None else _taken_up(out, [out / name for name in names], recipes, model)
        folder = out if out is not None and finished else output_folder(out)
        if not begun:
            stack.enter_context(alone(folder))
        folders = [folder / name for name in names]
        for line in lines:
            print(line)
        for n, ((name, strategy), into) in enumerate(zip(strategies, folders, strict=True)):
            print(f"strategy {n + 1} of {len(folders)}, {name}: {strategy}", flush=True)
            if into in finished:
                print("  finished before: taken as it is")
            else:
                _roll(model, recipes[n], into)
        return _show(read_runs(folders, [name for name, _ in strategies]), folder, webp)


def _usual(script: Script, backend: "Backend") -> "list[tuple[str, Strategy]]":
    """The usual presets that are possible for so long a script. Raises CompositionError where fewer than two are."""
    from rollout.strategies.presets import preset

    strategies = []
    for name in USUAL:
        strategy = preset(name)
        try:
            strategy.check(backend.spec, script.count(backend.spec) * backend.spec.block)
        except CompositionError as error:
            why = error
            print(f"{name} is left out: {error}")
        else:
            strategies.append((name, strategy))
    if len(strategies) < 2:
        raise why
    return strategies


def _taken_up(folder: Path, folders: Sequence[Path], recipes: "Sequence[Recipe]", backend: "Backend") -> set[Path]:
    """Runs of the same recipes that an earlier start into this folder has finished. Raises OutputError for other ones."""
    from rollout.run.record import RunFolder
    from rollout.run.standing import Request
    from rollout.temporary import remove_leftovers

    finished = set()
    for into, recipe in zip(folders, recipes, strict=True):
        if not (into / RunFolder.FILE).is_file():
            continue
        difference = Request(backend, recipe, into).difference()
        if difference:
            raise OutputError(f"{into} is another run: {difference}. Choose another --out.")
        finished.add(into)
    names = {into.name for into in folders} | {"compare.mp4", "compare.partial.mp4", "compare.webp", "table.md"}
    if finished:
        remove_leftovers(folder)
    strange = [path for path in folder.iterdir() if path.name not in names] if finished else []
    if strange:
        raise OutputError(f"{strange[0]} is nothing of this comparison. Choose another --out.")
    for into in folders:  # what a killed start has left
        if finished and into not in finished:
            shutil.rmtree(into, ignore_errors=True)
    return finished


def _roll(backend: "Backend", recipe: "Recipe", into: Path) -> None:
    """One run into its folder, which vanishes where the run does not finish."""
    from rollout.files import inner_folder
    from rollout.run.job import Job

    job = Job(backend, recipe, inner_folder(into, force=False), exact=True)
    try:
        watch(job)
    except BaseException as error:
        shutil.rmtree(into, ignore_errors=True)
        with suppress(OSError):  # holds what is done
            into.parent.rmdir()
        if isinstance(error, Stopped):
            kept = into.parent.is_dir()
            rest = "finished runs are kept, and the same command goes on from there" if kept else "nothing was kept"
            stop = Stopped(f"stopped; {rest}.")
            stop.code = error.code
            raise stop from None
        raise


def _runs(texts: Sequence[str], out: Path | None, webp: bool) -> Json:
    from rollout.benchmarks.compare.runs import read_runs
    from rollout.benchmarks.metrics.sample import FOREIGN
    from rollout.files import output_folder

    pairs = [(None, text) if Path(text).exists() else _pair(text) for text in texts]
    runs = read_runs([Path(place) for _, place in pairs], [name for name, _ in pairs])
    for run in runs:
        if run.sample.foreign:
            print(f"{run.folder} {FOREIGN}", file=sys.stderr)
    return _show(runs, output_folder(out), webp)


def _pair(text: str) -> tuple[str | None, str]:
    """NAME=DIR, or a folder's path."""
    name, equals, place = text.partition("=")
    return (name.strip(), place) if equals and name.strip() and place else (None, text)


def _show(runs: "Sequence[Run]", folder: Path, webp: bool) -> Json:
    """The video, the table and the webp of finished runs; the table as JSON."""
    from rollout.benchmarks.compare import film
    from rollout.benchmarks.compare.panes import Stage
    from rollout.benchmarks.compare.table import lines, markdown
    from rollout.files import write_text

    stage = Stage(runs)
    table = lines(runs)
    path = folder / "compare.mp4"
    begun = time.monotonic()
    try:
        with bar(stage.frames, unit="frame") as advance:
            for frames in film.film(stage, path):
                advance(frames, frames / (time.monotonic() - begun), stage.frames - frames)
    except KeyboardInterrupt:
        again = shlex.join(["rollout", "compare", *(f"{run.name}={run.folder}" for run in runs)])
        raise Stopped(f"stopped while drawing; all runs are finished. Show them with: {again}") from None
    write_text(folder / "table.md", markdown(runs, table))
    _table(runs, table)
    print(f"{path}: {stage.frames} frames, {stage.size[0]} x {stage.size[1]}")
    if webp:
        pictures, size = film.webp(runs, folder / "compare.webp")
        print(f"{folder / 'compare.webp'}: {pictures} pictures, {size / 1e6:.2f} MB")
    return {
        "folder": str(folder),
        "runs": {run.name: {"folder": str(run.folder), "strategy": str(run.strategy)} for run in runs},
        "metrics": [
            {
                "name": line.name,
                "unit": line.unit,
                "better": line.better,
                "values": dict(zip((run.name for run in runs), line.values, strict=True)),
            }
            for line in table
        ],
    }


def _table(runs: "Sequence[Run]", lines: "Sequence[Line]") -> None:
    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.results import number

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    table.add_column("unit, better", no_wrap=True)
    for line in lines:
        table.add_row(line.name, *map(number, line.values), line.directed)
    Console(markup=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table)
