"""A run's report: one folder that opens from disk, without a network, and can be moved or zipped."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from rollout import show
from rollout.benchmarks.findings import Summary
from rollout.benchmarks.metrics.score import ARROWS, READ
from rollout.benchmarks.report import figures, tables, videos
from rollout.benchmarks.report.look import FOCUS, looks
from rollout.benchmarks.report.numbers import breakable, figure, first_sentence, ticked
from rollout.benchmarks.results import because, by_chance
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.summary import summarise
from rollout.files import inner_folder, write_text
from rollout.text import Json

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["HOME", "environment", "write_report"]

HOME = Path(__file__).parent
SHOW = Path(show.__path__[0])
"""The home of the page that all pages extend."""


def write_report(out: Path) -> Path:
    """Write OUT/report/index.html, its videos and summary.json; what the run has so far. Raises OutputError."""
    summary = summarise(out)
    data = summary.to_dict()
    folder = inner_folder(out / "report")
    scenes = _scenes(out, data, folder)
    write_text(folder / "summary.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    page = environment().get_template("page.html").render(**_view(out, summary, data, scenes, folder))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _scenes(out: Path, data: Json, folder: Path) -> list[Json]:
    primary = data["metrics"][data["plan"]["primary"]]
    return videos.scenes(out, data, looks(data["plan"], primary), folder / "videos")


def _view(out: Path, summary: Summary, data: Json, scenes: list[Json], folder: Path) -> Json:
    """Everything that the template shows."""
    plan = data["plan"]
    primary = data["metrics"][plan["primary"]]
    looks_by_name = looks(plan, primary)
    sources = [tile["src"] for scene in scenes for tile in scene["tiles"] if tile["src"]]
    width, height = videos.size(folder / sources[0]) if sources else (1, 1)
    events = videos.events(scenes)
    return {
        "plan": plan,
        "found": data,
        "facts": tables.facts(data),
        "command": tables.command(out, summary.plan),
        "failures": tables.failures(summary),
        "claims": tables.claims(data),
        "columns": tables.columns(data),
        "groups": tables.groups(data, looks_by_name),
        "looks": list(looks_by_name.values()),
        "primary": {**primary, "read": READ[primary["better"]], "arrow": ARROWS[primary["better"]]},
        "forests": list(figures.forests(data, looks_by_name)),
        "curves": list(figures.curves(data, looks_by_name, events)),
        "reactions": list(figures.reactions(data, looks_by_name)),
        "costs": list(figures.costs(data, looks_by_name)),
        "pictures": list(figures.pictures(data, looks_by_name, scenes[0]["block"] if scenes else None)),
        "scenes": scenes,
        "size": {"width": width, "height": height},
        "intervals": tables.intervals(plan),
        "matters": tables.matters(plan),
        "chance": by_chance(list(summary.metrics.values()), summary.plan),
        "least": LEAST,
        "focus": FOCUS,
    }


def environment(*homes: Path) -> "Environment":
    """Templates of these folders and of the report, with the report's ways to write numbers and names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader((*homes, HOME, SHOW))
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def source(name: str) -> Markup:
        """A style sheet or script of the package as it is."""
        return Markup(loader.get_source(templates, name)[0])  # noqa: S704  # our own

    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.globals["vega"] = vega
    templates.filters |= {
        "because": because,
        "breakable": breakable,
        "figures": figure,
        "first_sentence": first_sentence,
        "source": source,
        "ticked": ticked,
    }
    return templates


@cache
def vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network, with names of its own."""
    from vl_convert import javascript_bundle

    bundle = javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup("(() => {" + bundle + "})();")  # noqa: S704  # no text of a user's
