"""The tables of a benchmark run as csv, jsonl and LaTeX: a line a rollout, and a line a strategy and metric."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rollout.benchmarks.findings import MetricFinding, Summary
from rollout.benchmarks.leaderboard.latex import DIRECTIONS, MARKS, escape
from rollout.benchmarks.metrics.score import ARROWS
from rollout.benchmarks.report.numbers import interval, places, show
from rollout.benchmarks.summary import summarise
from rollout.text import Json

__all__ = ["FORMATS", "cells", "means", "tables_of"]

FORMATS = ("csv", "jsonl", "latex")
COLUMNS = 8
"""Metrics of a LaTeX table: a suite's first ones; csv and jsonl have all."""


def tables_of(folder: Path, formats: Sequence[str]) -> dict[str, str]:
    """The files of a run by name: cells and means as csv and jsonl, means as LaTeX. Raises OutputError."""
    summary = summarise(folder)
    texts: dict[str, str] = {}
    writers: Mapping[str, tuple[str, Callable[[Sequence[Json]], str]]] = {
        "csv": ("csv", _csv),
        "jsonl": ("jsonl", _jsonl),
    }
    for name, rows in (("cells", cells(summary)), ("means", means(summary))):
        for form in formats:
            if form in writers:
                ending, write = writers[form]
                texts[f"{name}.{ending}"] = write(rows)
    if "latex" in formats:
        texts["means.tex"] = latex(summary)
    return texts


def cells(summary: Summary) -> list[Json]:
    """A row a rollout: what it is of, and its value under every metric; None where there is none."""
    plan = summary.plan
    return [
        {
            "suite": plan.suite,
            "strategy": cell.strategy,
            "composition": plan.strategies[cell.strategy].text,
            "control": plan.strategies[cell.strategy].role or None,
            "prompt": cell.prompt,
            "script": plan.script_of(cell),
            "seed": cell.seed,
            **({} if plan.axis is None else {plan.axis.name: plan.axis.values[cell.axis or 0]}),
            "cell": cell.address,
            **{metric.name: values.get(metric.name) for metric in plan.metrics},
        }
        for cell, values in summary.cells
    ]


def means(summary: Summary) -> list[Json]:
    """A row a strategy and metric: the mean with its 95% interval, and how it stands against the baseline."""
    plan, rows = summary.plan, list[Json]()
    for name, arm in plan.strategies.items():
        for metric in summary.metrics.values():
            mean = metric.means.get(name)
            if mean is None:
                continue
            verdict = metric.against(name, plan.baseline)
            gap = {} if verdict is None else verdict.to_dict()
            rows.append(
                {
                    "suite": plan.suite,
                    "strategy": name,
                    "composition": arm.text,
                    "control": arm.role or None,
                    "metric": metric.plan.name,
                    "unit": metric.plan.unit,
                    "better": metric.plan.better,
                    **{key: mean.to_dict()[key] for key in ("mean", "low", "high", "n")},
                    "baseline": plan.baseline,
                    "verdict": gap.get("verdict"),
                    **{f"difference_{key}".replace("_mean", ""): gap.get(key) for key in ("mean", "low", "high")},
                }
            )
    return rows


def _jsonl(rows: Sequence[Json]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[Json]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def latex(summary: Summary) -> str:
    """The means as a table for a document with \\usepackage{booktabs}, controls below the strategies."""
    plan = summary.plan
    metrics = [summary.metrics[metric.name] for metric in plan.metrics[:COLUMNS]]
    strategies = [name for name, arm in plan.strategies.items() if not arm.role]
    controls = [name for name in plan.strategies if name not in strategies]
    arrows = [DIRECTIONS.get(ARROWS[metric.plan.better], "") for metric in metrics]
    heads = [f"{escape(metric.plan.name)} {arrow}".rstrip() for metric, arrow in zip(metrics, arrows, strict=True)]
    units = [rf"{{\scriptsize {escape(metric.plan.unit)}}}" for metric in metrics]
    marks = "$^{+}$ better, $^{-}$ worse, $^{=}$ equivalent, $^{?}$ this model cannot tell"
    caption = f"{escape(plan.suite)}: means with 95\\% intervals; against {escape(plan.baseline)}: {marks}."
    missing = f" {summary.done} of {summary.total} rollouts." if summary.done < summary.total else ""
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{caption}{missing}}}",
            rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            r"\toprule",
            " & ".join(["", *heads]) + r" \\",
            " & ".join(["", *units]) + r" \\",
            r"\midrule",
            *(_row(name, metrics, plan.baseline) for name in strategies),
            *([r"\midrule", *(_row(name, metrics, plan.baseline) for name in controls)] if controls else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _row(name: str, metrics: Sequence[MetricFinding], baseline: str) -> str:
    return " & ".join([escape(name), *(_cell(name, metric, baseline) for metric in metrics)]) + r" \\"


def _cell(name: str, metric: MetricFinding, baseline: str) -> str:
    mean = metric.means.get(name)
    if mean is None:
        return "--"
    decimals = places(other.to_dict() for other in metric.means.values())
    verdict = metric.against(name, baseline)
    mark = f"${MARKS[verdict.word]}$" if verdict and verdict.word in MARKS else ""
    text = rf"{show(mean.mean, decimals)}{mark} {{\scriptsize {interval(mean.to_dict(), decimals)}}}"
    return text.replace("−", "$-$")
