"""rollout study: a page on which people judge pairs of videos blind, and what their answers come to."""

import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.line import CommandLine
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import OutputError
from rollout.sampler import MOST_SEED
from rollout.text import Json

__all__ = ["Asked", "app", "build", "score"]

app = typer.Typer(no_args_is_help=True, help="Let people judge pairs of videos blind, and score their answers.")


class Asked(StrEnum):
    """The questions of a study."""

    LONG = "long"
    ACTION = "action"


@app.command("build")
def build(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of 'rollout gen' or of a benchmark run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder: page/ is handed out, key.json is not.")],
    pairs: Annotated[int, typer.Option(min=1, help="Pairs at most.")] = 12,
    repeats: Annotated[int, typer.Option(min=0, help="Pairs that come again with sides swapped, as a check.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the choice of pairs and of the names.")] = 0,
    questions: Annotated[
        Asked | None, typer.Option(help="What is asked; default: action where a script's prompt changes, else long.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier study; its key stays as key-STUDY.json.")
    ] = False,
    plugin: Plugin = None,
) -> None:
    """Write a page that shows pairs of videos blind.

    Each pair is the same script and seed under two strategies.
    """
    load_plugins(plugin)
    from rollout.benchmarks.study.build import build_study

    kind = questions.value if questions else None
    study = build_study(
        runs,
        out,
        pairs=pairs,
        repeats=repeats,
        seed=seed,
        questions=kind,  # type: ignore[arg-type]
        force=force,
    )
    for note in study.notes:
        print(f"note: {note}")
    print(
        f"pairs: {study.pairs} of {study.possible}; shown twice: {study.again}; video: {study.seconds / 60:.1f} minutes"
    )
    print(f"{study.page.parent}: hand out this folder, whole; raters open index.html")
    print(f"{study.key}: keep this, it says which video is which")


@app.command("score", cls=CommandLine)
def score(
    answers: Annotated[list[Path], typer.Argument(metavar="ANSWERS", help="Files that the page saved.")],
    key: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="The study's key.json; default: beside the first answers.")
    ] = None,
    to: AsJson = None,
) -> None:
    """Say what the answers come to.

    Means with 95% intervals, preferences, and agreement of raters with each other and with themselves.
    """
    place = key or answers[0].parent / "key.json"
    if key is None and not place.is_file():
        raise OutputError(f"there is no key.json in {place.parent}. Add --key DIR, the folder of 'study build'.")
    from rollout.benchmarks.study.score import score_study

    with result(to) as target:
        scores = score_study(answers, place)
        target.give(scores)
        if not target.alone:
            _tables(scores)


def _tables(scores: Json) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)

    def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
        """A table whose first `words` columns are words."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for n, column in enumerate(columns):
            table.add_column(column, justify="left" if n < words else "right")
        for row in rows:
            table.add_row(*row)
        console.print(title, style="bold")
        console.print(table, "")

    questions, pairs = scores["questions"], scores["pairs"]
    means = ([name, *(_interval(scores["means"][q][name]) for q in questions)] for name in scores["strategies"])
    show("Ratings, 1 to 5, higher is better: means and 95% intervals", ["strategy", *questions], means)
    shares = (
        [p["a"], p["b"], *(_interval(p[side]) for side in ("prefers_a", "same", "prefers_b")), str(p["same"]["n"])]
        for p in pairs
    )
    show("Preferences: shares of answers", ["A", "B", "prefer A", "no difference", "prefer B", "answers"], shares, 2)
    gaps = ([p["a"], p["b"], *(_interval(p["differences"][q], sign=True) for q in questions)] for p in pairs)
    show("Ratings of A less those of B, where they met", ["A", "B", *questions], gaps, 2)
    agreement = ([name, row["why"] or _number(row["alpha"])] for name, row in scores["agreement"].items())
    show("Agreement between raters: Krippendorff's alpha, ordinal", ["question", "alpha"], agreement)
    heads = ["rater", "seconds a pair", "pairs again", "same preference", "ratings apart"]
    people = scores["raters"] + [{"name": "all", "seconds": None, **scores["repeats"]}] * (len(scores["raters"]) > 1)
    numbers = ("seconds", "n", "same_preference", "rating_difference")
    show(
        "Raters, and how they answered pairs that came again",
        heads,
        ([r["name"], *(_number(r[k]) for k in numbers)] for r in people),
    )
    for name, text in questions.items():
        print(f"{name}: {text}")
    print("▲ higher, ▼ lower, = a tie: the interval holds 0; [few]: too few answers for an interval")
    for note in scores["notes"]:
        print(f"note: {note}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _interval(value: Json | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    mark = {"better": " ▲", "worse": " ▼", "tie": " ="}.get(value.get("verdict", ""), "")
    form = "+.2f" if sign else ".2f"
    if value["low"] is None:
        return f"{value['mean']:{form}} [few]"
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]{mark}"
