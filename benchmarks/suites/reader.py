"""A suite file, a small TOML, read and checked before anything runs; what is wrong is said with its line and the fix."""

import re
from collections.abc import Mapping
from math import prod

from rollout.backends import Entry
from rollout.benchmarks.controls.swap import donor_of
from rollout.benchmarks.suites.answers import read_answers
from rollout.benchmarks.suites.arms import read_controls, read_strategies
from rollout.benchmarks.suites.axis import Filling, fillings, in_seconds, read_axis
from rollout.benchmarks.suites.draws import draws
from rollout.benchmarks.suites.source import Source, read_source
from rollout.benchmarks.suites.suite import SPACING, Axis, Claim, Level, Suite, find_suite
from rollout.errors import RolloutError, SpecError, SuiteError
from rollout.registry import find
from rollout.script import Script
from rollout.strategy import AXES

__all__ = ["load_suite"]

CLAIM = ("says", "source", "better", "than", "metric")
MOST_CELLS = 1_000_000
"""Cells of a suite: a year of work for a large machine."""
AT = "at"
"""What a claim may also say: at which value of the axis it is made."""


def load_suite(name: str, *, extra: Mapping[str, str] | None = None, metrics: bool = True) -> Suite:
    """Read and check a suite; `extra` strategies by name join its own. Raises SuiteError with the file and the line.

    `metrics=False` leaves the metrics' names unchecked, which need torch.
    """
    source = read_source(find_suite(name))
    suite = _suite(source, dict(extra or {}))
    if metrics:
        _check_metrics(source, suite)
    return suite


def _suite(source: Source, extra: Mapping[str, str]) -> Suite:
    file = source.file
    name = source.path.stem if file.name is None else file.name
    if not re.fullmatch(r"\w[\w.-]*", name):  # it names the folder that the run goes to
        source.refuse(f"the name {name!r} is no folder's. Use letters, digits, '-', '_' and '.'.", "name")
    axis, entry = read_axis(source), _backend(source)
    _check_size(source, axis)
    levels: list[Level] = []
    left_out: dict[str, str] = {}
    for fill in fillings(axis):
        strategies, left_out = read_strategies(source, extra, fill)
        controls = read_controls(source, strategies, entry, fill)
        levels.append(Level(fill.value, _scripts(source, entry, fill), strategies | controls))
    first = levels[0]
    metrics = source.texts("metrics")
    suite = Suite(
        name=name,
        about=file.about,
        scripts=first.scripts,
        strategies={n: arm.strategy for n, arm in first.arms.items() if arm.strategy and not arm.control},
        metrics=metrics,
        baseline=next(iter(first.arms)) if file.baseline is None else file.baseline,
        primary=(metrics or ("",))[0] if file.primary is None else file.primary,
        seeds=_seeds(source),
        prefix=source.number("prefix", 0, 1000),
        steps=source.number("steps", 1, 1000),
        backend=file.backend,
        options=file.options,
        claims=_claims(source, axis),
        skipped=left_out,
        text=source.text,
        controls={n: arm for n, arm in first.arms.items() if arm.control},
        axis=axis,
        levels=() if axis is None else tuple(levels),
        fixed=file.fixed,
        marks=file.marks,
        answers=read_answers(source),
    )
    if suite.answers and not suite.marks:
        source.refuse("a suite without marks answers no use. Leave answers out, or marks = false.", "answers")
    if suite.claims and not suite.marks:
        source.refuse(
            "a suite without marks cannot tell whether a claim shows. Leave claims out, or marks = false.", "claims"
        )
    _check_axis(source, axis)
    _check_fit(source, suite, entry)
    _check_names(source, suite)
    _check_donors(source, suite)
    return suite


def _check_size(source: Source, axis: Axis | None) -> None:
    """Refuse what a few words of a file multiply to more cells than anybody rolls out, before they are made."""
    file, grid = source.file, source.file.grid or {}
    scripts = len(file.scripts) if file.draw is None else file.draw
    seeds = file.seeds if isinstance(file.seeds, int) else len(file.seeds)
    combinations = prod(len(source.texts("grid", part)) for part in grid if part in AXES) if grid else 0
    strategies = len(file.strategies) + combinations + len(file.controls)
    cells = prod(max(1, count) for count in (scripts, seeds, strategies, 1 if axis is None else len(axis.values)))
    if cells > MOST_CELLS:
        source.refuse(
            f"it asks for {cells:,} cells; the most are {MOST_CELLS:,}. Draw fewer prompts, or less of the rest."
        )


def _seeds(source: Source) -> tuple[int, ...]:
    value = source.file.seeds
    seeds = list(range(min(value, SPACING + 1))) if isinstance(value, int) else value
    if (
        not seeds
        or len(set(map(str, seeds))) < len(seeds)
        or not all(type(seed) is int and 0 <= seed < SPACING for seed in seeds)
    ):
        source.refuse(
            f"seeds is {str(value)[:40]}. Give how many, or a list of different numbers from 0 to {SPACING - 1}.",
            "seeds",
        )
    return tuple(seeds)


def _backend(source: Source) -> Entry:
    try:
        entry: Entry = find("backends", source.file.backend)
    except SpecError as error:
        source.refuse(str(error), "backend")
    return entry


def _scripts(source: Source, entry: Entry, fill: Filling) -> tuple[str, ...]:
    """The scripts at one value of the axis, the same draws at each, with durations in seconds."""
    templates = source.texts("scripts")
    if not templates:
        source.refuse("there are no scripts to roll out. Add scripts = ['a red circle walks right[5s]'].", "scripts")
    values = {key: source.texts("fill", key) for key in source.file.fill}
    count = len(templates) if source.file.draw is None else source.file.draw
    if not 1 <= count <= 100_000:
        source.refuse(f"draw is {count}. Use 1 to 100000.", "draw")
    at = f" at {fill.name} = {fill}" if any(map(fill.within, templates)) else ""
    try:
        prompts = tuple(draws(tuple(map(fill, templates)), values, count))
    except SuiteError as error:
        source.refuse(str(error), "scripts")
    spec, scripts = entry.spec(), []
    for script in prompts:
        try:
            scripts.append(in_seconds(script, spec))
            for prompt in Script.parse(scripts[-1]).prompts:
                entry.check_prompt(prompt)
        except RolloutError as error:
            source.refuse(f"script {script!r}{at}: {error}", "scripts")
    return tuple(scripts)


def _claims(source: Source, axis: Axis | None) -> tuple[Claim, ...]:
    claims = []
    for n, claim in enumerate(source.file.claims):
        if not isinstance(claim, dict):
            source.refuse("a claim is a table. Write [[claims]].", "claims")
        for key in claim:
            source.known(key, (*CLAIM, AT), "claims", key, nth=n)
        missing = [key for key in CLAIM if not isinstance(claim.get(key), str)]
        if missing:
            source.refuse(f"a claim lacks {missing[0]}. It has {', '.join(CLAIM)}, all texts.", "claims", nth=n)
        at = claim.get(AT)
        if at is not None and (axis is None or isinstance(at, bool) or at not in axis.values):
            values = (
                "which has no [axis]" if axis is None else f"whose {axis.name} is {', '.join(map(str, axis.values))}"
            )
            source.refuse(
                f"a claim is made at {at!r} of a suite {values}. Name one of its values.", "claims", AT, nth=n
            )
        claims.append(Claim(**claim))
    return tuple(claims)


def _check_axis(source: Source, axis: Axis | None) -> None:
    """Something runs through the axis."""
    if axis is not None and f"{{{axis.name}}}" not in str(
        [source.file.scripts, source.file.strategies, source.file.controls]
    ):
        source.refuse(f"nothing has {{{axis.name}}} in it. Put it into scripts or strategies.", "axis", axis.name)


def _check_fit(source: Source, suite: Suite, entry: Entry) -> None:
    """Every strategy fits the backend for the longest script."""
    spec = entry.spec()
    for level in suite.along:
        longest = max(Script.parse(script).count(spec) for script in level.scripts) + suite.prefix
        for name, arm in level.arms.items():
            if arm.strategy is None or arm.control == "swap":
                continue
            try:
                arm.strategy.check(spec, longest * spec.block)
            except RolloutError as error:
                strategy_named = name in source.file.strategies
                keys = ("strategies", name) if strategy_named else ("grid",)
                keys = ("controls", name) if arm.control else keys
                at = "" if level.value is None else f" at {level.value!r}"
                source.refuse(f"{'control' if arm.control else 'strategy'} {name!r}{at}: {error}", *keys)


def _check_names(source: Source, suite: Suite) -> None:
    """What is named is there."""
    names = {"strategies": tuple(suite.strategies), "metrics": suite.metrics}

    def check(group: str, value: str, *keys: str, nth: int = 0) -> None:
        if value not in names[group]:
            known_names = ", ".join(names[group])
            source.refuse(f"{keys[-1]} is {value!r}, which is none of the {group}: {known_names}.", *keys, nth=nth)

    check("strategies", suite.baseline, "baseline")
    check("metrics", suite.primary, "primary")
    for n, claim in enumerate(suite.claims):
        check("strategies", claim.better, "claims", "better", nth=n)
        check("strategies", claim.than, "claims", "than", nth=n)
        check("metrics", claim.metric, "claims", "metric", nth=n)


def _check_donors(source: Source, suite: Suite) -> None:
    """Whose memory is swapped has another video to take it from."""
    if not any(arm.control == "swap" for arm in suite.controls.values()):
        return
    scripts = [Script.parse(script) for script in suite.scripts]
    for prompt, script in enumerate(suite.scripts):
        if donor_of(scripts, prompt) is None and len(suite.seeds) < 2:
            source.refuse(
                f"no other script has the timing of {script!r}, so that no other video can lend its memory. Draw more prompts "
                "of each template, or leave swap out.",
                "controls",
                "swap",
            )


def _check_metrics(source: Source, suite: Suite) -> None:
    """Every metric is there, and applies to the backend."""
    from rollout.benchmarks.metrics import metric

    if not suite.metrics:
        source.refuse("there are no metrics. Add metrics = [...]; see 'rollout ls metrics'.", "metrics")
    entry: Entry = find("backends", suite.backend)
    for name in suite.metrics:
        try:
            metric_entry = metric(name)
        except RolloutError as error:
            source.refuse(str(error), "metrics")
        uses = [use for use, answer in suite.answers.items() if answer == name]
        if uses and metric_entry.better == "neither":
            source.refuse(f"{name!r} answers no use: neither direction of it is better.", "answers", uses[0])
        if metric_entry.needs == "world" and not entry.has_world:
            source.refuse(
                f"the metric {name!r} reads a world's truth, and the backend {suite.backend!r} has none. Leave it out.",
                "metrics",
            )
