"""rollout cite: what to cite for a preset, as BibTeX."""

from typing import Annotated

import typer

from rollout.cli.composition import complete_preset
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import SpecError
from rollout.registry import find, names
from rollout.strategies.papers import Paper

__all__ = ["cite"]


def cite(
    presets: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRESET", help="Presets' names; none: all of them.", autocompletion=complete_preset),
    ] = None,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """Print BibTeX entries of the papers that presets are from.

    Each paper once.
    """
    load_plugins(plugin)
    papers: dict[Paper, None] = {}
    for name in presets or names("presets"):
        own: tuple[Paper, ...] = find("presets", name.strip()).papers
        if presets and not own:
            raise SpecError(f"the preset '{name.strip()}' names no paper. Give its Preset papers=(Paper(...),).")
        papers |= dict.fromkeys(own)
    with result(to) as target:
        target.give([paper.to_dict() for paper in papers])
        if not target.alone:
            print("\n\n".join(paper.bibtex() for paper in papers))
