"""rollout ls: what there is to compose."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from rollout.cli.listing import listed
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.registry import find, names
from rollout.text import Json, first_paragraph

__all__ = ["Group", "ls"]


class Group(StrEnum):
    """What can be listed."""

    PRESETS = "presets"
    POSITIONS = "positions"
    POLICIES = "policies"
    SWITCHES = "switches"
    SPECTRA = "spectra"
    READS = "reads"
    ORDERS = "orders"
    STORES = "stores"
    BACKENDS = "backends"
    METRICS = "metrics"


def ls(
    group: Annotated[Group, typer.Argument(help="What to list.")] = Group.PRESETS,
    to: AsJson = None,
    plugin: Plugin = None,
) -> None:
    """List what there is: presets, rules, backends, metrics.

    Those of plugins included.
    """
    load_plugins(plugin)
    rows = [_row(group, name) for name in names(group.value)]
    with result(to) as target:
        target.give(rows)
        for line in () if target.alone else _lines(rows):
            print(line)


def _lines(rows: list[Json]) -> Iterator[str]:
    """What is listed, an entry a row."""
    for row in rows:
        short = [str(row[key]) for key in ("composition", "unit", "better") if row.get(key)]
        texts = [str(row[key]) for key in ("about", "note", "source") if row.get(key)]
        values = row.get("fields") or row.get("spec") or {}
        fields = " ".join(f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in values.items())
        yield from listed(
            f"{row['name']}: {', '.join(short)}" if short else row["name"], filter(None, (*texts, fields))
        )


def _row(group: Group, name: str) -> Json:
    item = find(group.value, name)
    if group is Group.PRESETS:
        return {
            "name": name,
            "composition": str(item.strategy),
            "source": item.source,
            "note": item.note,
            "strategy": item.strategy.to_dict(),
        }
    if group is Group.BACKENDS:
        return {"name": name, "about": item.about, "spec": asdict(item.spec())}
    if group is Group.METRICS:
        return {"name": name, "unit": item.unit, "better": item.better, "about": item.about, "source": item.source}
    from rollout.specs import part_to_dict

    about = first_paragraph(item)
    defaults = {k: v for k, v in part_to_dict(item()).items() if k != "kind"}
    return {"name": name, "about": about, "fields": defaults}
