"""rollout bench search: which compositions does no other beat?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollout.cli.composition import Presets, Strategies, named
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.strategy import Strategy

if TYPE_CHECKING:
    from rollout.benchmarks.search import Rival

__all__ = ["search"]


def search(
    see: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="What to look at: obey, remember, kv_bytes, or metrics of the suite, all at once."
        ),
    ] = "obey,remember,kv_bytes",
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="The suite whose prompts are searched on.")
    ] = "obey-and-remember",
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Compositions to try; those of a stopped search count.")
    ] = 60,
    prompts: Annotated[
        int, typer.Option(min=4, metavar="N", help="Prompts of the suite: half to search on, half to tell what holds.")
    ] = 12,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/search.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes on CPUs.")] = 1,
    preset: Presets = None,
    strategy: Strategies = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Search for compositions that no other beats.

    What is found is tried on prompts and seeds that were never searched on, against the published presets, or against the
    strategies that --preset and --strategy name.
    """
    load_plugins(plugin)
    from dataclasses import asdict, replace

    from rich.console import Console
    from rich.table import Table

    from rollout.benchmarks.executors.local import Local, Serial
    from rollout.benchmarks.metrics.score import directed
    from rollout.benchmarks.report import write_report
    from rollout.benchmarks.search import Search, rivals
    from rollout.benchmarks.suites.reader import load_suite
    from rollout.files import write_text

    definition = load_suite(suite)
    definition = replace(definition, scripts=definition.scripts[:prompts])
    others = {name: Strategy.of(text) for name, text in named(preset, strategy)}
    sees, folder = tuple(name.strip() for name in see.split(",") if name.strip()), out or Path("runs") / "search"
    executor = Serial() if workers == 1 else Local(workers)
    plugins = [str(path.resolve()) for path in plugin or ()]
    job = Search(definition, sees, folder, executor, seed=seed, plugins=plugins)
    with result(to) as target:
        begun = len(job.finished(job.study))
        print(
            f"{definition.name}: {trials} trials, {begun} there, on {len(definition.scripts) // 2} prompts; into {folder}"
        )
        try:
            study = job.run(trials)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from there")
            raise SystemExit(130) from None
        front = job.front(study)
        rows = rivals(job, tuple(front)[:12], others or None)
        heads = [directed(name, m.better) for name, m in job.metrics.items()]
        table = Table("composition", *heads, box=None, pad_edge=False, header_style="bold")
        for text, values in sorted(front.items(), key=lambda item: item[1]):
            table.add_row(text, *(f"{value:.3g}" for value in values))
        print(f"\n{len(front)} of {len(job.finished(study))} trials are on the front:")
        Console(soft_wrap=True).print(table)
        winners = _winners(rows)
        print(
            f"\non {len(definition.scripts) - len(definition.scripts) // 2} prompts and seeds that were not searched on:"
        )
        for text, beaten in winners.items():
            print(f"  {text}: no worse in anything and better in something than {', '.join(beaten) or 'none'}")
        data = {
            "sees": sees,
            "front": {text: list(values) for text, values in front.items()},
            "held_out": [asdict(r) for r in rows],
        }
        write_text(folder / "search.json", json.dumps(data, indent=1))
        print(write_report(folder / "held-out"))
        target.give(data)


def _winners(rows: "list[Rival]") -> dict[str, list[str]]:
    """Of each composition the strategies that it beats at no larger a cache."""
    winners: dict[str, list[str]] = {}
    for row in rows:
        beaten = winners.setdefault(row.name, [])
        if row.better and not row.worse:
            beaten.append(row.against)
    return winners
