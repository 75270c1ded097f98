"""A finished run as Markdown, for benchmarks/RESULTS.md: what was measured, and which claims show on this model."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from rollout.benchmarks.metrics import MATTERS
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
COLUMNS = 8
"""Metrics that a table shows: a suite's first ones; its report shows all."""


def write_results(runs: Sequence[Path], to: Path) -> None:
    """Put the results of finished runs between the marks of a Markdown file, which is made where it is missing.

    Raises OutputError for a run that is not finished.
    """
    results = [_finished(run) for run in runs]
    sections = [*overview(results), *(_section(result) for result in results)]
    text = to.read_text(encoding="utf-8") if to.is_file() else f"# Results\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OutputError(f"{to} lacks the marks between which results go. Add the lines {BEGIN} and {END}.")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    write_text(to, "\n".join([head + BEGIN, HOW.format(matters=_what_matters()), *sections, END]) + tail)


HOW = """
Means with 95% intervals: Student's t over prompts, each by the mean over its seeds. Every strategy has the same prompts, seeds
and noise. Against the baseline, by the interval of the paired difference: ▲ better, ▼ worse, = equivalent (the whole interval
lies within what matters), … inconclusive, ? this model cannot tell (what should change the figure does not change it either).
Below 10 prompts nothing is marked. Claims are paired differences too, corrected for the number of a suite's claims (Holm); marks
in tables are not. Times are of rollouts side by side, and of the cells that were rolled out alone.

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


def _finished(run: Path) -> dict[str, Any]:
    """A run's summary. Raises OutputError where cells are missing."""
    result = summarise(run)
    if result["done"] < result["total"]:
        raise OutputError(f"{run} has {result['done']} of {result['total']} cells. Run the suite again to finish it.")
    return result


def weights_name(plan: Mapping[str, Any]) -> str:
    """What a run's weights are called: the option that chose them, or default."""
    return Path(str(plan["backend"]["options"].get("model") or "default")).name


def overview(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every claim in one table, one column for each of the weights that it was tried on; nothing where there is none."""
    weights = list(dict.fromkeys(weights_name(result["plan"]) for result in results))
    claims: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in results:
        for claim in result["claims"]:
            key = result["plan"]["suite"], claim["says"], claim["source"]
            claims.setdefault(key, {})[weights_name(result["plan"])] = _outcome(claim)
    if not claims:
        return []
    rows = [
        "## The claims at a glance",
        "",
        "Left the side that should be better, right the other; the sections have the rest.",
        "",
    ]
    rows += [
        f"| claim | source | suite | {' | '.join(map(plain_text, weights))} |",
        "|---|---|---|" + "---|" * len(weights),
    ]
    for (suite, says, source), outcomes in claims.items():
        cells = [outcomes.get(name, "-") for name in weights]
        rows.append(f"| {' | '.join([plain_text(says), plain_text(source), suite, *cells])} |")
    return [*rows, ""]


def _outcome(claim: Mapping[str, Any]) -> str:
    """A claim's verdict and the two means behind it."""
    if "mean" not in claim:
        return str(claim["shows"])
    better, than = (number(claim["means"][side]) for side in ("better", "than"))
    return f"**{claim['shows']}**: `{claim['metric']}` {better} : {than}"


def plain_text(text: str) -> str:
    """A name or sentence of a suite as Markdown shows it: no cell, line or tag of its own."""
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("`", "'")


def section(run: Path) -> str:
    """One run. Raises OutputError where cells are missing."""
    return _section(_finished(run))


def _section(found: dict[str, Any]) -> str:
    plan = found["plan"]
    name = weights_name(plan)
    title = plain_text(plan["suite"] + ("" if name == "default" else f", {name} weights"))
    lines = [f"## {title}", "", f"{plain_text(plan['about'])}.", "", *_facts(plan), ""]
    if found["claims"]:
        lines += [*_claims(found["claims"]), ""]
    shown = [found["metrics"][m["name"]] for m in plan["metrics"][:COLUMNS]]
    return "\n".join([*lines, *_table(found), "", by_chance(shown, plan), *_sweep(found)]) + "\n"


def _sweep(found: dict[str, Any]) -> list[str]:
    """The primary metric along the suite's axis, and what each curve comes to; nothing without an axis."""
    metric = found["metrics"][found["plan"]["primary"]]
    if not metric["sweep"]:
        return []
    sweep = metric["sweep"]
    kind = next((curve["fit"]["kind"] for curve in sweep["curves"].values() if curve["fit"]["kind"]), "fit")
    heads = [f"{sweep['axis']} {value}" for value in sweep["values"]]
    lines = ["", f"`{metric['name']}`, {metric['unit']}, along the axis:", ""]
    lines += [f"| strategy | {' | '.join(heads)} | {kind} |", "|---|" + "---|" * (len(heads) + 1)]
    for name, curve in sweep["curves"].items():
        cells = [
            number(mean) if mean is None or low is None else f"{number(mean)} ± {number((high - low) / 2)}"
            for mean, low, high in zip(curve["mean"], curve["low"], curve["high"], strict=True)
        ]
        lines.append(
            f"| {plain_text(name)} | {' | '.join(cells)} | {fit_text(curve['fit']) or curve['fit']['reason']} |"
        )
    return lines


def fit_text(fit: Mapping[str, Any]) -> str:
    """A half-life or rate with its interval; nothing where there is none."""
    if fit["value"] is None:
        return ""
    return f"{number(fit['value'])} [{number(fit['low'])}, {number(fit['high'])}]"


def _facts(plan: dict[str, Any]) -> list[str]:
    machine, backend = plan["machine"], plan["backend"]
    weights = f"weights `{backend['weights']}`" if backend["weights"] else "weights unknown"
    rollouts, axis = len({cell["address"] for cell in plan["cells"]}), plan.get("axis")
    model = f" --model {backend['options']['model']}" if backend["options"].get("model") else ""
    levels = f" x {len(axis['values'])} values of {axis['name']}" if axis else ""
    return [
        f"    rollout bench run {plan['suite']}{model} --out DIR && rollout bench report DIR",
        "",
        f"{plan['planned']}; backend {backend['name']}, {weights}; rollout {plan['rollout']}, torch {machine['torch']}; "
        f"{machine['cores']} cores of {machine['processor']}, {plan['workers']} workers, {plan['threads']} thread each; "
        f"{len(plan['strategies'])} strategies x {len(plan['scripts'])} prompts x {len(plan['seeds'])} seeds{levels} = "
        f"{rollouts} rollouts.",
    ]


def _claims(claims: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| claim | source | here | difference | verdict |", "|---|---|---|---|---|"]
    for c in claims:
        if "mean" not in c:
            rows.append(f"| {plain_text(c['says'])} | {plain_text(c['source'])} | `{c['metric']}` | - | {c['shows']} |")
            continue
        means = c["means"]
        names = plain_text(c["better"]), plain_text(c["than"])
        sides = f"{names[0]} {number(means['better'])}, {names[1]} {number(means['than'])}"
        gap = f"{number(c['mean'])} [{number(c['low'])}, {number(c['high'])}], n = {c['n']}"
        why = f" ({because(c)})" if because(c) else ""
        says, source = plain_text(c["says"]), plain_text(c["source"])
        rows.append(f"| {says} | {source} | `{c['metric']}`: {sides} | {gap} | **{c['shows']}**{why} |")
    return rows


def because(found: Mapping[str, Any]) -> str:
    """Why a verdict is no clearer: its reason, what the run could have seen, and what would decide."""
    parts = [found["reason"]] if found["reason"] else []
    if found["verdict"] not in ("inconclusive", "cannot tell"):
        return "".join(parts)
    undecided = found["verdict"] == "inconclusive" or found["settles"] is not None
    if undecided and found["p"] is not None and found["low"] <= 0 <= found["high"]:
        parts.append(f"could have seen {number(found['visible'])}")
    if found["settles"] is not None:
        have = found["n"] / found["prompts"] if found["fixed"] else found["prompts"]
        more, what = max(1, ceil(found["settles"] - have)), "seed" if found["fixed"] else "prompt"
        parts.append(f"about {more} more {what}{'s' * (more > 1)} would decide")
    return "; ".join(parts)


def by_chance(metrics: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> str:
    """How many marks of a table are to be expected though nothing differs."""
    if not plan.get("marks", True):
        return "Nothing is marked: the suite is for a look, and too small for the differences that matter."
    tested = sum(
        pair["b"] == plan["baseline"] and pair["p"] is not None for metric in metrics for pair in metric["pairs"]
    )
    if not tested:
        return f"Nothing is marked: no comparison has {LEAST} prompts."
    wrong = tested * CERTAIN
    return (
        f"Of {tested} comparisons with the baseline, {wrong:.{0 if wrong >= 10 else 1}f} marks ▲ or ▼ would be due to chance "
        "if nothing differed."
    )


def _table(found: dict[str, Any]) -> list[str]:
    plan = found["plan"]
    metrics = [found["metrics"][m["name"]] for m in plan["metrics"][:COLUMNS]]
    heads = [f"{m['name']}, {m['unit']}" for m in metrics]
    rows = ["| strategy | window | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(metrics)]
    primary = found["metrics"][plan["primary"]]
    names = list(plan["strategies"])
    if len(names) > 12:  # a grid: the best first
        sign = -1 if primary["better"] == "higher" else 1
        names.sort(key=lambda name: sign * primary["means"].get(name, {"mean": float("inf")})["mean"])
    for name in names:
        cells = [_cell(m, name, plan["baseline"]) for m in metrics]
        label = f"{name} (baseline)" if name == plan["baseline"] else name
        window = plan["strategies"][name]["window"]
        rows.append(f"| {plain_text(label)} | {'-' if window is None else window} | " + " | ".join(cells) + " |")
    return rows


def _cell(metric: dict[str, Any], name: str, baseline: str) -> str:
    mean = metric["means"].get(name)
    if mean is None:
        return "-"
    against = next((p for p in metric["pairs"] if (p["a"], p["b"]) == (name, baseline)), None)
    mark = MARKS[against["verdict"]] if against else ""
    return f"{number(mean['mean'])} [{number(mean['low'])}, {number(mean['high'])}]{mark}"


def number(value: float | None) -> str:
    """Three digits that matter, without an exponent; - for none."""
    if value is None:
        return "-"
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1g}" if size >= 0.0001 else "0.0000"
    digits = 3 if size < 0.1 else 2 if size < 10 else 1 if size < 100 else 0
    return "0" if size == 0 else f"{value:.{digits}f}"
