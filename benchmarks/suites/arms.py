"""What a suite rolls out: its strategies, the combinations of its grid, its controls."""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from rollout.backends import Entry
from rollout.benchmarks.controls import CONTROLS, Arm
from rollout.benchmarks.suites.axis import Filling
from rollout.benchmarks.suites.source import Source
from rollout.benchmarks.suites.suite import strategy_of
from rollout.errors import RolloutError, SpecError, SuiteError
from rollout.specs import part_from_text
from rollout.strategy import AXES, Strategy

__all__ = ["Strategies", "read_controls", "read_strategies"]

Strategies = dict[str, Arm]


def read_strategies(source: Source, extra: Mapping[str, str], fill: Filling) -> tuple[Strategies, dict[str, str]]:
    """The strategies at one value of the axis, `extra` ones last, and what the grid leaves out. Raises SuiteError."""
    arms: Strategies = {}
    for name, text in source.file.strategies.items():
        arms[name] = _arm(source, text, fill, f"the strategy {name!r}", "strategies", name)
    combinations, left_out = read_grid(source) if source.file.grid is not None else ([], {})
    strategies = [arm.strategy for arm in arms.values()]
    arms |= {str(strategy): Arm(strategy) for strategy in combinations if strategy not in strategies}
    for name, text in extra.items():
        if name in arms:
            raise SuiteError(f"--add {name!r}: the suite has a strategy of that name. Choose another.")
        arms[name] = Arm(strategy_of(fill(text)), text=text if fill.within(text) else "")
    if not arms:
        source.refuse("there is nothing to compare. Add a table [strategies] or a [grid].")
    return arms, left_out


def read_grid(source: Source) -> tuple[list[Strategy], dict[str, str]]:
    """Every valid combination of a grid's parts, and why the others are not. Raises SuiteError."""
    for key in source.file.grid or {}:
        source.known(key, AXES, "grid", key)
    parts: dict[str, list[Any]] = {}
    for part in AXES:
        texts = source.texts("grid", part)
        if not texts:
            source.refuse(f"the grid has no {part}, so it is empty. Add {part} = [...] under [grid].", "grid", part)
        try:
            parts[part] = [part_from_text(part, text) for text in texts]
        except SpecError as error:
            source.refuse(f"grid: {error}", "grid", part)
    combinations: list[Strategy] = []
    left_out: dict[str, str] = {}
    for positions, policy, switch in product(*(parts[part] for part in AXES)):
        try:
            combinations.append(Strategy(positions, policy, switch))
        except SpecError as error:
            left_out[f"{positions} {policy} {switch}"] = str(error)
    if not combinations:
        last = next(reversed(left_out.values()))
        source.refuse(f"no combination of the grid is possible. The last one failed: {last}", "grid")
    return combinations, left_out


def read_controls(source: Source, strategies: Strategies, entry: Entry, fill: Filling) -> dict[str, Arm]:
    """The table [controls] at one value of the axis, by the names that tables show. Raises SuiteError."""
    table, arms = source.file.controls, dict[str, Arm]()
    for key in table:
        source.known(key, CONTROLS, "controls", key)
    truth = table.get("truth", False)
    if not isinstance(truth, bool):
        source.refuse(f"truth is true or false, not {truth!r}: it is the world's own video.", "controls", "truth")
    if truth and not entry.has_world:
        source.refuse(
            f"the backend {source.file.backend!r} has no world whose truth is known, so there is no control "
            "'truth'. Leave it out.",
            "controls",
            "truth",
        )
    if truth:
        arms["truth"] = Arm(None, "truth")
    for role in ("oracle", "amnesia"):
        if role in table:
            arm = _arm(source, table[role], fill, f"the control {role!r}", "controls", role)
            arms[role] = Arm(arm.strategy, role, text=arm.text)
    for name in source.texts("controls", "swap"):
        if name not in strategies:
            names = ", ".join(strategies)
            source.refuse(f"swap names {name!r}, which is none of the strategies: {names}.", "controls", "swap")
        arms[f"{name} (swapped)"] = Arm(strategies[name].strategy, "swap", name, strategies[name].text)
    for name in arms:
        if name in strategies:
            source.refuse(f"{name!r} is the name of a control, and a strategy's. Rename the strategy.", "controls")
    return arms


def _arm(source: Source, text: object, fill: Filling, subject: str, *keys: str) -> Arm:
    """A strategy's text with the axis filled in. Raises SuiteError at its line."""
    if not isinstance(text, str):
        source.refuse(f"{subject} is a text, a preset or 'POSITIONS POLICY+SWITCH'.", *keys)
    spec_text = fill(text)
    hole = re.search(r"\{[^{}]*\}", spec_text)
    if hole:
        has = (
            f"[axis] has {fill.name}" if fill.name else f"there is no [axis]. Add {hole[0][1:-1]} = [...] under [axis]"
        )
        source.refuse(f"{subject} has {hole[0]}, and {has}.", *keys)
    try:
        return Arm(strategy_of(spec_text), text=text if fill.within(text) else "")
    except RolloutError as error:
        at = f" at {fill.name} = {fill}" if fill.within(text) else ""
        source.refuse(f"{subject.removeprefix('the ')}{at}: {error}", *keys)
