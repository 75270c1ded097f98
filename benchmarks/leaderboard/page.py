"""The leaderboard as a page: one file that opens from disk and asks for nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rollout.benchmarks.leaderboard.board import Cell, Row, Section
from rollout.benchmarks.leaderboard.costs import CHEAPER, COSTS, order
from rollout.benchmarks.leaderboard.lines import lines_of
from rollout.benchmarks.leaderboard.notes import unfinished
from rollout.benchmarks.leaderboard.runs import Finished
from rollout.benchmarks.leaderboard.shown import column_decimals, cost_decimals, with_interval
from rollout.benchmarks.metrics.score import ARROWS, READ
from rollout.benchmarks.report import charts, environment
from rollout.benchmarks.report.look import Look, looks
from rollout.benchmarks.report.numbers import interval, places, show
from rollout.benchmarks.results import because
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.suites.answers import USES
from rollout.text import Json

__all__ = ["as_html"]

HOME = Path(__file__).parent
HEADS = {"kv": "KV", "ms": "time", "passes": "passes"}


def as_html(sections: Sequence[Section]) -> str:
    """The page."""
    looks_by_key = _looks(sections)
    texts = {row.identity: row.text for section in sections for row in section.rows}
    section_views = [_section(n, section, looks_by_key) for n, section in enumerate(sections)]
    template = environment(HOME).get_template("leaderboard.html")
    return template.render(
        sections=section_views,
        columns=_columns(section_views),
        texts={look.number: texts[identity] for identity, look in looks_by_key.items()},
        charts=[
            {"title": section.title, "figures": list(_figures(n, section, looks_by_key))}
            for n, section in enumerate(sections)
        ],
        facts=_facts(sections),
        unfinished=[text for section in sections for text in unfinished(section.runs)],
        looks=list(looks_by_key.values()),
        least=LEAST,
        letters=ascii_lowercase,
        uses=USES,
        costs={HEADS[kind]: about for kind, (_, _, about) in COSTS.items()},
        cheaper=f"{CHEAPER:.0%}",
    )


def _columns(section_views: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The columns of all sections, each once."""
    once = {(c["use"], c["name"], c["suite"]): c for section in section_views for c in section["columns"]}
    return list(once.values())


def _looks(sections: Sequence[Section]) -> dict[str, Look]:
    """One look a strategy over the whole page, by composition; the best rows are shown in full."""
    rows = {row.identity: row.name for section in sections for row in section.rows}
    places = {identity: {"mean": place} for place, identity in enumerate(rows)}
    plan = {"strategies": rows, "baseline": sections[0].baseline.identity}
    looks_by_key = looks(plan, {"better": "lower", "means": places})
    return {identity: replace(look, name=rows[identity]) for identity, look in looks_by_key.items()}


def _facts(sections: Sequence[Section]) -> dict[str, str]:
    runs = [run for section in sections for run in section.runs]
    machines = dict.fromkeys(f"{run.plan.machine['processor']}, {run.plan.machine['cores']} cores" for run in runs)
    return {
        "Runs": ", ".join(dict.fromkeys(run.suite for run in runs)),
        "Rollouts": f"{sum(len(run.scores) for run in runs):,}",
        "Strategies": str(len({row.identity for section in sections for row in section.rows})),
        "Marks are against": ", ".join(dict.fromkeys(section.baseline.name for section in sections)),
        "Weights": ", ".join(dict.fromkeys(str(section.backend.weights or "unknown") for section in sections)),
        "Machines": "; ".join(machines),
        "Planned": ", ".join(sorted({run.plan.planned for run in runs})),
    }


def _section(number: int, section: Section, looks_by_key: Mapping[str, Look]) -> Json:
    sources = _sources(section)
    return {
        "number": number,
        "title": section.title,
        "sources": [run.suite for run in sources],
        "weights": section.backend.weights or "unknown",
        "baseline": section.baseline.name,
        "notes": section.notes,
        "lines": lines_of(section),
        "columns": [_column(use, section) for use in section.columns],
        "costs": [_cost_head(kind, section) for kind in COSTS],
        "front": sum(row.front for row in section.rows),
        "tested": sum(column.tested for column in section.columns.values()),
        "rows": [_row(section, row, looks_by_key, sources) for row in section.rows],
        "references": [_row(section, row, looks_by_key, sources) for row in section.references],
    }


def _column(use: str, section: Section) -> Json:
    column = section.columns[use]
    metric = column.metric
    return {
        "use": use,
        "name": metric.name,
        "unit": metric.unit,
        "about": metric.about,
        "source": metric.source,
        "suite": column.run.suite,
        "blind": column.blind,
        "arrow": ARROWS[metric.better],
        "read": READ[metric.better],
    }


def _cost_head(kind: str, section: Section) -> Json:
    """A cost's head: its unit, and for times whether other rollouts ran beside."""
    _, unit, about = COSTS[kind]
    busy = kind == "ms" and any(run.plan.workers > 1 for run in section.runs)
    return {"name": HEADS[kind], "unit": unit, "about": about, "busy": busy}


def _row(section: Section, row: Row, looks_by_key: Mapping[str, Look], sources: Sequence[Finished]) -> Json:
    look = looks_by_key.get(row.identity)
    letters = [looks_by_key[other.identity].letter for other in section.rows if other.name in row.dominated_by]
    return {
        "look": look and replace(look, name=row.name),
        "name": row.name,
        "text": row.text,
        "control": row.control,
        "front": row.front,
        "baseline": row.identity == section.baseline.identity,
        "dominated_by": row.dominated_by,
        "above": ", ".join(letters[:3]) + (f" and {len(letters) - 3} more" if len(letters) > 3 else ""),
        "cells": [_cell(section, use, row) for use in section.columns],
        "costs": [_cost(section, kind, row, sources) for kind in COSTS],
    }


def _cell(section: Section, use: str, row: Row) -> Json | None:
    cell = row.cells.get(use)
    if cell is None:
        return None
    mean, span = with_interval(cell.mean, column_decimals(section.columns[use]))
    values = {"mean": mean, "interval": span, "best": cell.best, "name": cell.name, "stands_in": cell.stands_in}
    return values | _against(section, cell)


def _against(section: Section, cell: Cell) -> Json:
    """The verdict of a cell, and the difference behind it."""
    if cell.verdict is None:
        return {"verdict": ""}
    gap = cell.verdict.to_dict()
    decimals, other = places([gap]), cell.against or section.baseline.name
    difference = f"{show(gap['mean'], decimals, signed=True)} {interval(gap, decimals, signed=True)} against {other}"
    return {
        "verdict": cell.verdict.word,
        "why": ": ".join(filter(None, (difference, because(gap)))),
        "other": cell.against,
    }


def _cost(section: Section, kind: str, row: Row, sources: Sequence[Finished]) -> dict[str, str] | None:
    """A cost, and the letter of its run where that is not the usual one: those of different suites do not compare."""
    if kind not in row.costs:
        return None
    cost = row.costs[kind]
    place = 0 if kind == "kv" else sources.index(cost.run)
    value = show(cost.value.mean, cost_decimals(section, kind))
    return {"value": value, "letter": ascii_lowercase[place - 1] if place else "", "suite": cost.run.suite}


def _sources(section: Section) -> list[Finished]:
    """The runs that times and passes are from, the usual one first."""
    runs = [cost.run for row in section.rows for kind, cost in row.costs.items() if kind != "kv"]
    return [run for run in order(section.runs) if run in runs]


def _unseen(blind: str) -> str:
    return f"This model cannot tell: {blind}." if blind else ""


def _figures(number: int, section: Section, looks_by_key: Mapping[str, Look]) -> Iterator[Json]:
    """Each use against the bytes that it takes; of strategies with the same rollouts the one that was rolled out."""
    for use, column in section.columns.items():
        rows = [row for row in section.rows if use in row.cells and not row.cells[use].stands_in and "kv" in row.costs]
        if not rows:
            continue
        points = [
            (looks_by_key[row.identity], row.costs["kv"].value.to_dict(), row.cells[use].mean.to_dict()) for row in rows
        ]
        metric = column.metric
        name = f"{metric.name}, {metric.unit} {ARROWS[metric.better]}"
        chart = charts.scatter(
            points,
            xlabel="KV, MiB ↓",
            ylabel=name,
            hollow=[looks_by_key[row.identity] for row in rows if not row.front],
        )
        about = f"{metric.name} against the bytes that the cache holds, a point for each strategy, with 95% intervals."
        words = {"title": use, "about": f"{USES[use].capitalize()}.", "note": _unseen(column.blind)}
        yield {"spec": chart | {"description": f"{use}. {about}"}, "key": f"use-{number}-{use}", **words}
