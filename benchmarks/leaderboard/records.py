"""The table as records, one a row: what csv and jsonl hold, and what the others round."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.benchmarks.leaderboard.board import Cell, Row, Section
from rollout.benchmarks.leaderboard.columns import Column
from rollout.benchmarks.leaderboard.costs import COSTS
from rollout.benchmarks.leaderboard.notes import unfinished
from rollout.benchmarks.suites.answers import USES
from rollout.text import Json

__all__ = ["as_csv", "as_jsonl", "records"]

ANSWER = ("mean", "low", "high", "n", "verdict", "best", "metric", "unit", "better", "suite", "name")
COST = ("mean", "low", "high", "suite")


def records(sections: Sequence[Section]) -> list[Json]:
    """Every row, controls after the strategies of their section; None where there is no number."""
    return [_record(section, row) for section in sections for row in (*section.rows, *section.references)]


def _record(section: Section, row: Row) -> Json:
    backend = section.backend
    return {
        "model": section.title,
        "backend": backend.name,
        "weights": backend.weights,
        "device": backend.device,
        "strategy": row.name,
        "composition": row.text,
        "control": row.control or None,
        "baseline": section.baseline.name,
        "front": None if row.control else row.front,
        "dominated_by": list(row.dominated_by),
        "answers": {use: _answer(section.columns[use], cell) for use, cell in row.cells.items()},
        "costs": {
            kind: {k: v for k, v in cost.value.to_dict().items() if k != "n"}
            | {"unit": COSTS[kind][1], "suite": cost.run.suite}
            for kind, cost in row.costs.items()
        },
        "unfinished": unfinished(section.runs),
    }


def _answer(column: Column, cell: Cell) -> Json:
    verdict = cell.verdict
    return {
        **cell.mean.to_dict(),
        "verdict": verdict.word if verdict else None,
        "against": cell.against or None,
        "difference": verdict.to_dict() if verdict else None,
        "best": cell.best,
        "cannot_tell": column.blind or None,
        "metric": column.metric.name,
        "unit": column.metric.unit,
        "better": column.metric.better,
        "suite": column.run.suite,
        "name": cell.name,
    }


def as_jsonl(sections: Sequence[Section]) -> str:
    """A JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(sections))


def as_csv(sections: Sequence[Section]) -> str:
    """One line a row, USE_mean, USE_low, ... in columns; empty where there is no number."""
    plain = ("model", "backend", "weights", "device", "strategy", "composition", "control", "baseline", "front")
    heads = [*plain, "dominated_by", *(f"{use}_{part}" for use in USES for part in ANSWER)]
    heads += [*(f"{kind}_{part}" for kind in COSTS for part in COST), "unfinished"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, heads, lineterminator="\n")
    writer.writeheader()
    for record in records(sections):
        line = {key: record[key] for key in plain} | {
            key: "; ".join(record[key]) for key in ("dominated_by", "unfinished")
        }
        for use, answer in record["answers"].items():
            line |= _under(use, ANSWER, answer)
        for kind, cost in record["costs"].items():
            line |= _under(kind, COST, cost)
        writer.writerow(line)
    return stream.getvalue()


def _under(name: str, parts: Sequence[str], values: Mapping[str, Any]) -> Json:
    return {f"{name}_{part}": values[part] for part in parts}
