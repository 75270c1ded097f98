"""A finished run as Markdown, for benchmarks/RESULTS.md: what was measured, and which claims show on this model."""

import shlex
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from rollout.benchmarks.findings import ClaimFinding, MetricFinding, Summary
from rollout.benchmarks.markdown import as_code, as_text
from rollout.benchmarks.metrics import MATTERS
from rollout.benchmarks.metrics.score import directed
from rollout.benchmarks.plan import Plan
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.summary import summarise
from rollout.benchmarks.verdicts import CERTAIN
from rollout.errors import OutputError
from rollout.files import write_text

__all__ = ["BEGIN", "END", "because", "by_chance", "fit_text", "number", "overview", "section", "write_results"]

BEGIN = "<!-- rollout bench results: what follows is generated -->"
END = "<!-- rollout bench results: end -->"
MARKS = {
    "better": " ▲",
    "worse": " ▼",
    "equivalent": " =",
    "inconclusive": " …",
    "cannot tell": " ?",
    "differs": " ≠",
}
GLANCE = "The claims at a glance"
COLUMNS = 8
"""Metrics that a table shows: a suite's first ones; its report shows all."""


def write_results(runs: Sequence[Path], to: Path, *, force: bool = False) -> None:
    """Put the results of finished runs between the marks of a Markdown file, which is made where it is missing.

    Raises OutputError for a run that is not finished, and, without `force`, for results there that these runs do not have.
    """
    results = [_finished(run) for run in runs]
    sections = [*overview(results), *(_section(result) for result in results)]
    text = to.read_text(encoding="utf-8") if to.is_file() else f"# Results\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OutputError(f"{to} lacks the marks between which results go. Add the lines {BEGIN} and {END}.")
    head, rest = text.split(BEGIN)
    before, tail = rest.split(END)
    titles = _titles("\n".join(sections))
    lost = [title for title in _titles(before) if title not in titles]
    if lost and not force:
        raise OutputError(
            f"{to} holds what these runs do not have: {', '.join(lost)}. Give the folders of those runs too, choose another "
            "--to, or add --force to drop it."
        )
    write_text(to, "\n".join([head + BEGIN, HOW.format(matters=_what_matters()), *sections, END]) + tail)


def _titles(text: str) -> list[str]:
    """The headings of the sections, one a run."""
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    return [title for title in titles if title != GLANCE]


HOW = """
Means with 95% intervals: Student's t over prompts, each by the mean over its seeds. Every strategy has the same prompts, seeds
and noise. Against the baseline, by the interval of the paired difference: ▲ better, ▼ worse, = equivalent (the whole interval
lies within what matters), … inconclusive, ? this model cannot tell (what should change the figure does not change it either).
Below 10 prompts nothing is marked. The arrow in a head says which way is better: ↑ higher, ↓ lower, →1 and →0 nearer to that.
Claims are paired differences too, corrected for the number of a suite's claims (Holm);
marks in tables are not. Times are of rollouts side by side, and of the cells that were rolled out alone.

What matters: {matters}.
"""


def _what_matters() -> str:
    """The least difference that matters, unit by unit."""
    units = {
        "share": "of a share",
        "cosine": "of a cosine",
        "cosine a minute": "of a cosine a minute",
        "ratio": "of a ratio",
    }
    return ", ".join(f"{value:g} {units.get(unit, unit)}" for unit, value in MATTERS.items())


def _finished(run: Path) -> Summary:
    """A run's summary. Raises OutputError where cells are missing."""
    result = summarise(run)
    if result.done < result.total:
        raise OutputError(f"{run} has {result.done} of {result.total} cells. Run the suite again to finish it.")
    return result


def weights_name(plan: Plan) -> str:
    """What a run's weights are called: the option that chose them, or default."""
    return Path(str(plan.backend.options.get("model") or "default")).name


def overview(results: Sequence[Summary]) -> list[str]:
    """Every claim in one table, one column for each of the weights that it was tried on; nothing where there is none."""
    weights = list(dict.fromkeys(weights_name(result.plan) for result in results))
    claims: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in results:
        for finding in result.claims:
            key = result.plan.suite, finding.claim.says, finding.claim.source
            claims.setdefault(key, {})[weights_name(result.plan)] = _outcome(finding)
    if not claims:
        return []
    rows = [
        f"## {GLANCE}",
        "",
        "Left the side that should be better, right the other; the sections have the rest.",
        "",
    ]
    rows += [
        f"| claim | source | suite | {' | '.join(map(as_text, weights))} |",
        "|---|---|---|" + "---|" * len(weights),
    ]
    for (suite, says, source), outcomes in claims.items():
        cells = [outcomes.get(name, "-") for name in weights]
        rows.append(f"| {' | '.join([as_text(says), as_text(source), as_text(suite), *cells])} |")
    return [*rows, ""]


def _outcome(finding: ClaimFinding) -> str:
    """A claim's verdict and the two means behind it."""
    if finding.verdict is None:
        return finding.shows
    return f"**{finding.shows}**: {as_code(finding.claim.metric)} {number(finding.better)} : {number(finding.than)}"


def section(run: Path) -> str:
    """One run. Raises OutputError where cells are missing."""
    return _section(_finished(run))


def _section(summary: Summary) -> str:
    plan = summary.plan
    name = weights_name(plan)
    title = as_text(plan.suite + ("" if name == "default" else f", {name} weights"))
    lines = [f"## {title}", "", f"{as_text(plan.about)}.", "", *_facts(plan), ""]
    if summary.claims:
        lines += [*_claims(summary.claims), ""]
    table, chance = _table(summary), by_chance(_columns(summary), plan)
    return "\n".join([*lines, *table, "", chance, *_sweep(summary)]) + "\n"


def _columns(summary: Summary) -> list[MetricFinding]:
    return [summary.metrics[metric.name] for metric in summary.plan.metrics[:COLUMNS]]


def _sweep(summary: Summary) -> list[str]:
    """The primary metric along the suite's axis, and what each curve comes to; nothing without an axis."""
    metric = summary.metrics[summary.plan.primary]
    if metric.sweep is None:
        return []
    sweep = metric.sweep
    kind = next((curve.fit.kind for curve in sweep.curves.values() if curve.fit.kind), "fit")
    heads = [as_text(f"{sweep.axis} {value}") for value in sweep.values]
    lines = [
        "",
        f"{as_code(metric.plan.name)}, {as_text(directed(metric.plan.unit, metric.plan.better))}, along the axis:",
        "",
    ]
    lines += [f"| strategy | {' | '.join(heads)} | {kind} |", "|---|" + "---|" * (len(heads) + 1)]
    for name, data in ((name, curve.to_dict()) for name, curve in sweep.curves.items()):
        cells = [
            number(mean) if mean is None or low is None else f"{number(mean)} ± {number((high - low) / 2)}"
            for mean, low, high in zip(data["mean"], data["low"], data["high"], strict=True)
        ]
        lines.append(f"| {as_text(name)} | {' | '.join(cells)} | {fit_text(data['fit']) or data['fit']['reason']} |")
    return lines


def fit_text(fit: Mapping[str, Any]) -> str:
    """A half-life or rate with its interval; nothing where there is none."""
    if fit["value"] is None:
        return ""
    return f"{number(fit['value'])} [{number(fit['low'])}, {number(fit['high'])}]"


def _facts(plan: Plan) -> list[str]:
    machine, backend, axis = plan.machine, plan.backend, plan.axis
    weights = f"weights {as_code(backend.weights)}" if backend.weights else "weights unknown"
    model = ["--model", str(backend.options["model"])] if backend.options.get("model") else []
    command = " ".join(shlex.join(["rollout", "bench", "run", plan.suite, *model]).split())
    levels = f" x {len(axis.values)} values of {as_text(axis.name)}" if axis else ""
    return [
        f"    {command} --out DIR && rollout bench report DIR",
        "",
        f"{plan.planned}; backend {as_text(backend.name)}, {weights}; rollout {plan.rollout}, torch {machine['torch']}; "
        f"{machine['cores']} cores of {as_text(str(machine['processor']))}, {plan.workers} workers, {plan.threads} thread each; "
        f"{len(plan.strategies)} strategies x {len(plan.scripts)} prompts x {len(plan.seeds)} seeds{levels} = "
        f"{plan.rollouts} rollouts.",
    ]


def _claims(claims: Sequence[ClaimFinding]) -> list[str]:
    rows = ["| claim | source | here | difference | verdict |", "|---|---|---|---|---|"]
    for finding in claims:
        claim, verdict = finding.claim, finding.verdict
        says, source = as_text(claim.says), as_text(claim.source)
        if verdict is None:
            rows.append(f"| {says} | {source} | {as_code(claim.metric)} | - | {finding.shows} |")
            continue
        sides = f"{as_text(claim.better)} {number(finding.better)}, {as_text(claim.than)} {number(finding.than)}"
        data = verdict.to_dict()
        gap = f"{number(data['mean'])} [{number(data['low'])}, {number(data['high'])}], n = {verdict.n}"
        why = f" ({because(data)})" if because(data) else ""
        rows.append(f"| {says} | {source} | {as_code(claim.metric)}: {sides} | {gap} | **{finding.shows}**{why} |")
    return rows


def because(finding: Mapping[str, Any]) -> str:
    """Why a verdict is no clearer: its reason, what the run could have seen, and what would decide."""
    parts = [finding["reason"]] if finding["reason"] else []
    if finding["verdict"] not in ("inconclusive", "cannot tell"):
        return "".join(parts)
    open_question = finding["verdict"] == "inconclusive" or finding["settles"] is not None
    if open_question and finding["p"] is not None and finding["low"] <= 0 <= finding["high"]:
        parts.append(f"could have seen {number(finding['visible'])}")
    if finding["settles"] is not None:
        have = finding["n"] / finding["prompts"] if finding["fixed"] else finding["prompts"]
        more, unit = max(1, ceil(finding["settles"] - have)), "seed" if finding["fixed"] else "prompt"
        parts.append(f"about {more} more {unit}{'s' * (more > 1)} would decide")
    return "; ".join(parts)


def by_chance(metrics: Sequence[MetricFinding], plan: Plan) -> str:
    """How many marks of a table are to be expected though nothing differs."""
    if not plan.marks:
        return "Nothing is marked: the suite is for a look, and too small for the differences that matter."
    comparisons = sum(
        pair.b == plan.baseline and pair.verdict.p is not None for metric in metrics for pair in metric.pairs
    )
    if not comparisons:
        return f"Nothing is marked: no comparison has {LEAST} prompts."
    wrong = comparisons * CERTAIN
    return (
        f"Of {comparisons} comparisons with the baseline, {wrong:.{0 if wrong >= 10 else 1}f} marks ▲ or ▼ would be due to "
        "chance if nothing differed."
    )


def _table(summary: Summary) -> list[str]:
    plan, metrics = summary.plan, _columns(summary)
    heads = [as_text(directed(f"{metric.plan.name}, {metric.plan.unit}", metric.plan.better)) for metric in metrics]
    rows = ["| strategy | window | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(metrics)]
    primary = summary.metrics[plan.primary]
    names = list(plan.strategies)
    if len(names) > 12:  # a grid: the best first
        sign = -1 if primary.plan.better == "higher" else 1
        names.sort(key=lambda name: sign * (primary.means[name].mean if name in primary.means else float("inf")))
    for name in names:
        cells = [_cell(metric, name, plan.baseline) for metric in metrics]
        label = f"{name} (baseline)" if name == plan.baseline else name
        window = plan.strategies[name].window
        rows.append(f"| {as_text(label)} | {'-' if window is None else window} | " + " | ".join(cells) + " |")
    return rows


def _cell(metric: MetricFinding, name: str, baseline: str) -> str:
    if name not in metric.means:
        return "-"
    verdict, mean = metric.against(name, baseline), metric.means[name].to_dict()
    mark = MARKS[verdict.word] if verdict else ""
    return f"{number(mean['mean'])} [{number(mean['low'])}, {number(mean['high'])}]{mark}"


def number(value: float | None) -> str:
    """Three digits that matter, without an exponent; - for none."""
    if value is None:
        return "-"
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1g}" if size >= 0.0001 else "0.0000"
    digits = next((digits for limit, digits in ((0.1, 3), (10, 2), (100, 1)) if size < limit), 0)
    return "0" if size == 0 else f"{value:.{digits}f}"
