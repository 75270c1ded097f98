"""rollout ls: what there is to compose."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from rollout.cli.options import Plugin, load_plugins
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plugin: Plugin = None,
) -> None:
    """List presets, rules of any part or refinement, backends or metrics, plugins included."""
    load_plugins(plugin)
    rows = [_row(group, name) for name in names(group.value)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [key for key in rows[0] if key != "strategy"]
    for key in columns:
        table.add_column(key, overflow="fold", no_wrap=key == "name")
    for row in rows:
        table.add_row(*(_text(row[key]) for key in columns))
    Console(soft_wrap=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k}={json.dumps(v)}" for k, v in value.items())
    return str(value)


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
