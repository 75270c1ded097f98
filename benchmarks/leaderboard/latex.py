"""The table for a paper: LaTeX with booktabs, one a model."""

import re
from collections.abc import Sequence

from rollout.benchmarks.leaderboard.board import Cell, Row, Section
from rollout.benchmarks.leaderboard.costs import COSTS
from rollout.benchmarks.leaderboard.lines import lines_of
from rollout.benchmarks.leaderboard.notes import unfinished
from rollout.benchmarks.leaderboard.shown import column_decimals, cost_decimals, with_interval
from rollout.benchmarks.metrics.score import ARROWS
from rollout.benchmarks.report.numbers import show

__all__ = ["DIRECTIONS", "MARKS", "as_latex", "escape"]

MARKS = {"better": "^{+}", "worse": "^{-}", "equivalent": "^{=}", "cannot tell": "^{?}", "differs": r"^{\neq}"}
ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be an option of that
    "]": "{]}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
DIRECTIONS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→1": r"$\rightarrow 1$", "→0": r"$\rightarrow 0$"}
HEADS = {"kv": "KV", "ms": "time", "passes": "passes"}


def as_latex(sections: Sequence[Section]) -> str:
    """Tables for a document with \\usepackage{booktabs}."""
    return "\n".join(["% needs \\usepackage{booktabs}", *map(_table, sections)])


def _table(section: Section) -> str:
    rows = [_row(section, row) for row in section.rows]
    controls = [r"\midrule", *(_row(section, row) for row in section.references)] if section.references else []
    columns = "l" + "r" * (len(section.columns) + len(COSTS))
    return "\n".join(
        [
            *(f"% {_one_line(str(line))}" for line in lines_of(section)),
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{_caption(section)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *_heads(section),
            r"\midrule",
            *rows,
            *controls,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _heads(section: Section) -> list[str]:
    arrows = [DIRECTIONS.get(ARROWS[column.metric.better], "") for column in section.columns.values()]
    uses = [f"{escape(use)} {arrow}" for use, arrow in zip(section.columns, arrows, strict=True)]
    metrics = [f"{escape(c.metric.name)}, {escape(c.metric.unit)}" for c in section.columns.values()]
    units = [escape(unit) for _, unit, _ in COSTS.values()]
    return [
        " & ".join(["", *uses, *(f"{HEADS[kind]} $\\downarrow$" for kind in COSTS)]) + r" \\",
        " & ".join(["", *(rf"{{\scriptsize {text}}}" for text in (*metrics, *units))]) + r" \\",
    ]


def _row(section: Section, row: Row) -> str:
    name = rf"\textbf{{{escape(row.name)}}}" if row.front else escape(row.name)
    cells = [_cell(row.cells.get(use), column_decimals(section.columns[use])) for use in section.columns]
    costs = [
        show(row.costs[kind].value.mean, cost_decimals(section, kind)) if kind in row.costs else "--" for kind in COSTS
    ]
    return " & ".join([name, *cells, *costs]) + r" \\"


def _cell(cell: Cell | None, places: int) -> str:
    if cell is None:
        return "--"
    mean, interval = with_interval(cell.mean, places)
    mark = f"${MARKS.get(cell.verdict.word, '')}$" if cell.verdict and MARKS.get(cell.verdict.word) else ""
    text = rf"\textbf{{{mean}}}" if cell.best else mean
    return _minus(rf"{text}{mark} {{\scriptsize {interval}}}")


def _caption(section: Section) -> str:
    marks = "$^{+}$ better, $^{-}$ worse, $^{=}$ equivalent, $^{?}$ this model cannot tell"
    return " ".join(
        [
            f"{escape(section.title)}: means with 95\\% intervals; against {escape(section.baseline.name)}: {marks}. Bold names: "
            "no other is at least as good in all of their columns and in bytes, and better in one.",
            *(escape(f"Unfinished: {text.partition(';')[0]}.") for text in unfinished(section.runs)),
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return _minus("".join(ESCAPES.get(letter, letter) for letter in _one_line(text)))


def _minus(text: str) -> str:
    return text.replace("−", "$-$").replace("–", "--")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
