"""The figures of a report: from a summary to charts in the page, each with its title and what it shows."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollout.benchmarks.metrics.events import REACT
from rollout.benchmarks.metrics.score import ARROWS, READ
from rollout.benchmarks.report import charts
from rollout.benchmarks.report.look import Look
from rollout.benchmarks.report.svg import INK, WIDTH, inline
from rollout.benchmarks.report.tables import against
from rollout.benchmarks.results import fit_text
from rollout.errors import OutputError, RolloutError
from rollout.registry import find
from rollout.script import Script
from rollout.show.explain.picture import draw
from rollout.specs import GROUP_OF
from rollout.strategy import AXES
from rollout.text import Json

__all__ = ["costs", "curves", "forests", "pictures", "reactions"]

PAIRED = 6
"""Strategies of one budget of which all pairs are shown; of more, the best against the others."""
APART = ("drift",)
"""Metrics whose curve is over the distance between frames, not over time."""
COSTS = ("seconds_per_frame", "kv_mib")
Figure = Json


def _figure(spec: charts.Spec, key: str, title: str, aloud: str, **more: Any) -> Figure:
    return {"spec": spec | {"description": f"{title}. {aloud}"}, "title": title, "key": key, **more}


def forests(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Iterator[Figure]:
    """Paired differences of the primary metric: against the baseline, then within equal budgets."""
    plan, metric = data["plan"], data["metrics"][data["plan"]["primary"]]
    base, common = plan["baseline"], {"unit": metric["unit"], "better": metric["better"]}
    rows = [_row(pair, looks) for pair in metric["pairs"] if pair["b"] == base]
    if rows:
        chart = charts.forest(_best_first(rows, metric), **common)
        about = f"Differences in {metric['name']} from {base}, with 95% intervals."
        yield _figure(chart, "forest-base", f"Against {base}", about, pairs=_told(rows))
    for window, names in data["groups"].items():
        inside = [p for p in metric["pairs"] if {p["a"], p["b"]} <= set(names)]
        note = ""
        if len(names) > PAIRED and inside:
            best = min(
                (n for n in names if n in metric["means"]), key=lambda n: _sign(metric) * metric["means"][n]["mean"]
            )
            inside = [p for name in names if name != best and (p := against(metric, name, best)) is not None]
            note = f"The others against {best}, which has the best mean"
        if inside and not all(p["b"] == base for p in inside):
            rows = [_row(p, looks) for p in inside]
            chart = charts.forest(_best_first(rows, metric), names=False, **common)
            about = f"Differences in {metric['name']} between strategies of window {window}, with 95% intervals."
            title = f"Equal budget: window {window}"
            yield _figure(chart, f"forest-{window}", title, about, pairs=_told(rows), note=note)


def _row(pair: Mapping[str, Any], looks: Mapping[str, Look]) -> charts.Row:
    return charts.Row(looks[pair["a"]], looks[pair["b"]].letter, pair)


def _sign(metric: Mapping[str, Any]) -> int:
    return -1 if metric["better"] == "higher" else 1


def _best_first(rows: Sequence[charts.Row], metric: Mapping[str, Any]) -> list[charts.Row]:
    return sorted(rows, key=lambda row: _sign(metric) * float(row.pair["mean"]))


def _told(rows: Sequence[charts.Row]) -> list[Mapping[str, Any]]:
    return [row.pair for row in rows]


def curves(data: Mapping[str, Any], looks: Mapping[str, Look], events: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """One chart a metric that has curves."""
    for n, metric in enumerate(data["metrics"].values()):
        lines = [(looks[name], c) for name, c in metric["curves"].items() if any(y is not None for y in c["mean"])]
        lines.sort(key=lambda line: not line[0].quiet)
        if metric.get("sweep") and metric["sweep"]["curves"]:  # none has a value where all videos are too short for it
            yield _sweep(n, metric, looks)
        if not lines:
            continue
        unit, apart = lines[0][1]["unit"], metric["name"].startswith(APART)
        begin, end = lines[0][1]["x"][0], lines[0][1]["x"][-1]
        at = "frame" if unit == "frame" else "s"
        rules = [] if apart else [(e[at], e["kind"]) for e in events if begin <= e[at] <= end]
        words = {"frame": "latent frame", "s": "seconds between the frames" if apart else "seconds"}
        share = metric["unit"] == "share"
        chart = charts.curves(lines, xlabel=words.get(unit, unit), share=share, events=rules)
        about = f"Mean {metric['name']} over {words.get(unit, unit)} for each strategy, with 95% bands."
        yield _figure(chart, f"curve-{n}", metric["name"], about, **_head(metric))


def _sweep(n: int, metric: Mapping[str, Any], looks: Mapping[str, Look]) -> Figure:
    """The chart of a metric over the suite's axis, with half-lives or rates below its head."""
    sweep = metric["sweep"]
    lines = [(looks[name], {"x": sweep["values"], **curve}) for name, curve in sweep["curves"].items()]
    lines.sort(key=lambda line: not line[0].quiet)
    chart = charts.curves(lines, xlabel=sweep["axis"], share=metric["unit"] == "share")
    about = f"Mean {metric['name']} over {sweep['axis']} for each strategy, with 95% bands."
    fits = ", ".join(f"{look.letter} {fit}" for look, curve in lines if (fit := fit_text(curve["fit"])))
    kind = next((curve["fit"]["kind"] for _, curve in lines if curve["fit"]["kind"]), "")
    note = f"{kind.capitalize()}: {fits}" if fits else ""
    return _figure(chart, f"sweep-{n}", f"{metric['name']} over {sweep['axis']}", about, note=note, **_head(metric))


def _head(metric: Mapping[str, Any]) -> dict[str, str]:
    return {k: metric[k] for k in ("unit", "about")} | {
        "arrow": ARROWS[metric["better"]],
        "read": READ[metric["better"]],
    }


def reactions(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Iterator[Figure]:
    """How soon prompt changes show: the share of rollouts that have reacted by each frame."""
    for name, word in (("reaction", "the new action shows"), ("letting_go", "the old action is gone")):
        values = [
            (
                look,
                [
                    c["values"][name]
                    for c in data["cells"]
                    if c["strategy"] == each and c["values"].get(name) is not None
                ],
            )
            for each, look in looks.items()
        ]
        values = sorted(((look, times) for look, times in values if times), key=lambda pair: not pair[0].quiet)
        if values:
            chart = charts.cumulative(values, limit=REACT, xlabel=f"latent frames until {word}")
            about = f"The share of rollouts in which {word}, by frames after the prompt change, for each strategy."
            yield _figure(chart, f"reaction-{name}", name, about, **_head(data["metrics"][name]))


def costs(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Iterator[Figure]:
    """The primary metric against what was paid for it."""
    primary = data["metrics"][data["plan"]["primary"]]
    for name in COSTS:
        cost = data["metrics"].get(name, {"means": {}})
        points = [
            (look, cost["means"][n], primary["means"][n])
            for n, look in looks.items()
            if n in cost["means"] and n in primary["means"]
        ]
        if points and name != primary["name"]:
            y = f"{primary['name']}, {primary['unit']} {ARROWS[primary['better']]}"
            chart = charts.scatter(points, xlabel=f"{name}, {cost['unit']} {ARROWS[cost['better']]}", ylabel=y)
            about = f"{primary['name']} against {name}, a point for each strategy, with 95% intervals."
            yield _figure(chart, f"cost-{name}", f"{primary['name']} against {name}", about)


def pictures(data: Mapping[str, Any], looks: Mapping[str, Look], seconds: float | None) -> Iterator[Figure]:
    """Each strategy's cache and positions over the first script."""
    plan = data["plan"]
    prompts = Script.parse(plan["scripts"][0]).prompts
    for name, strategy in plan["strategies"].items():
        if strategy.get("control") in ("truth", "swap"):  # no cache, and one that is drawn already
            continue
        try:
            figure = draw(
                strategy["steps"],
                prompts=prompts,
                trained=plan["backend"]["trained"],
                seconds=seconds,
                width=WIDTH,
                ink=INK,
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # whatever else the plan may hold
            raise OutputError(
                f"plan.json cannot be read: the steps of {name!r} are none. Run the suite again."
            ) from error
        parts = [
            {"axis": axis, "text": text, "says": _says(axis, (strategy["spec"] or {}).get(axis))}
            for axis, text in _texts(strategy["text"]).items()
        ]
        about = " ".join(f"{part['axis']} {part['text']}: {part['says']}" for part in parts).replace("`", "")
        svg = inline(figure, key=f"picture-{looks[name].number}", title=name, about=about)
        yield {"svg": svg, "look": looks[name], "parts": parts, "window": strategy["window"]}


def _texts(strategy: str) -> dict[str, str]:
    """Positions, policy, switch and refinements of "POSITIONS POLICY+SWITCH [REFINEMENT=RULE ...]" apart."""
    positions, _, rest = strategy.partition(" ")
    cache, *refinements = rest.split(" ")
    policy, _, switch = cache.partition("+")
    more = (text.partition("=") for text in refinements)
    return dict(zip(AXES, (positions, policy, switch), strict=True)) | {axis: rule for axis, _, rule in more}


def _says(axis: str, spec: object) -> str:
    """The first sentence of a rule's documentation; nothing where the rule is not at hand."""
    try:
        kind = spec.get("kind") if isinstance(spec, Mapping) else None
        text = inspect.getdoc(find(GROUP_OF[axis], str(kind))) or ""
    except (RolloutError, KeyError):
        return ""
    return " ".join(text.split("\n\n")[0].split())
