"""A suite file, a small TOML, read and checked before anything runs; what is wrong is said with its line and the fix."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from rollout.backends import Entry
from rollout.benchmarks.suites.draws import draws
from rollout.benchmarks.suites.lines import line_of
from rollout.benchmarks.suites.suite import SPACING, Claim, Suite, find_suite, strategy_of
from rollout.errors import RolloutError, SpecError, SuiteError
from rollout.registry import find
from rollout.script import Script
from rollout.specs import part_from_text
from rollout.strategy import AXES, Strategy


def load_suite(name: str, *, extra: Mapping[str, str] | None = None, metrics: bool = True) -> Suite:
    """Read and check a suite; `extra` strategies by name join its own. Raises SuiteError with the file and the line.

    `metrics=False` leaves the metrics' names unchecked, which need torch.
    """
    path = find_suite(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"the suite {path} cannot be read: {error}. Give a TOML file in UTF-8.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(where[1]) if where else len(text.splitlines())
        raise SuiteError(f"{path}:{line}: not valid TOML: {re.sub(r' *[(]at .*', '', str(error))}.") from error
    return _Reader(path, text, data).suite(dict(extra or {}), metrics=metrics)


KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "about": (str,),
    "backend": (str,),
    "options": (dict,),
    "scripts": (list,),
    "fill": (dict,),
    "draw": (int,),
    "seeds": (int, list),
    "prefix": (int,),
    "steps": (int,),
    "metrics": (list,),
    "baseline": (str,),
    "primary": (str,),
    "strategies": (dict,),
    "grid": (dict,),
    "claims": (list,),
}
SORTS = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}
CLAIM = ("says", "source", "better", "than", "metric")


class _Reader:
    """Reads one file; every refusal names the line."""

    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path, self.text, self.data = path, text, data

    def refuse(self, message: str, *keys: str) -> NoReturn:
        """Raise SuiteError at the line of a key, such as "grid", "positions"."""
        raise SuiteError(f"{self.path}:{line_of(self.text, *keys)}: {message}")

    def suite(self, extra: dict[str, str], *, metrics: bool) -> Suite:
        for key, value in self.data.items():
            self.known(key, KEYS, key)
            if not isinstance(value, KEYS[key]) or isinstance(value, bool):
                wanted = " or ".join(
                    {str: "a text", int: "a whole number", list: "a list", dict: "a table"}[t] for t in KEYS[key]
                )
                self.refuse(f"{key!r} is {wanted}, not {value!r}.", key)
        name = self.data.get("name", self.path.stem)
        if not re.fullmatch(r"\w[\w.-]*", name):  # it names the folder that the run goes to
            self.refuse(f"the name {name!r} is no folder's. Use letters, digits, '-', '_' and '.'.", "name")
        strategies, skipped = self.strategies(extra)
        entry = self.backend()
        found = Suite(
            name=name,
            about=self.data.get("about", ""),
            scripts=self.scripts(entry),
            strategies=strategies,
            metrics=self.texts("metrics"),
            baseline=self.data.get("baseline", next(iter(strategies))),
            primary=self.data.get("primary", (self.texts("metrics") or ("",))[0]),
            seeds=self.seeds(),
            prefix=self.number("prefix", 0, 1000),
            steps=self.number("steps", 1, 1000, default=4),
            backend=self.data.get("backend", "sprites"),
            options=self.data.get("options", {}),
            claims=self.claims(),
            skipped=skipped,
            text=self.text,
        )
        self.fits(found, entry)
        if metrics:
            self.measurable(found)
        return found

    def known(self, key: str, among: Mapping[str, Any] | tuple[str, ...], *keys: str) -> None:
        if key not in among:
            near = get_close_matches(key, among, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            self.refuse(f"unknown key {key!r}. {hint}There are {', '.join(among)}.", *keys)

    def texts(self, *keys: str) -> tuple[str, ...]:
        """A list of texts under a key, () where there is none."""
        value: Any = self.data
        for key in keys:
            value = value.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.refuse(f"{keys[-1]!r} is a list of texts, not {value!r}.", *keys)
        return tuple(value)

    def number(self, key: str, low: int, high: int, *, default: int = 0) -> int:
        value: int = self.data.get(key, default)
        if not low <= value <= high:
            self.refuse(f"{key} is {value}. Use {low} to {high}.", key)
        return value

    def seeds(self) -> tuple[int, ...]:
        value = self.data.get("seeds", 1)
        found = list(range(value)) if isinstance(value, int) else value
        if (
            not found
            or len(set(map(str, found))) < len(found)
            or not all(type(s) is int and 0 <= s < SPACING for s in found)
        ):
            self.refuse(
                f"seeds is {value!r}. Give how many, or a list of different numbers from 0 to {SPACING - 1}.", "seeds"
            )
        return tuple(found)

    def backend(self) -> Entry:
        try:
            entry: Entry = find("backends", self.data.get("backend", "sprites"))
        except SpecError as error:
            self.refuse(str(error), "backend")
        return entry

    def strategies(self, extra: dict[str, str]) -> tuple[dict[str, Strategy], dict[str, str]]:
        found: dict[str, Strategy] = {}
        for name, text in self.data.get("strategies", {}).items():
            if not isinstance(text, str):
                self.refuse(
                    f"the strategy {name!r} is a text, a preset or 'POSITIONS POLICY+SWITCH'.", "strategies", name
                )
            try:
                found[name] = strategy_of(text)
            except RolloutError as error:
                self.refuse(f"strategy {name!r}: {error}", "strategies", name)
        made, skipped = self.grid() if "grid" in self.data else ({}, {})
        found |= {str(strategy): strategy for strategy in made.values() if strategy not in found.values()}
        for name, text in extra.items():
            if name in found:
                raise SuiteError(f"--add {name!r}: the suite has a strategy of that name. Choose another.")
            found[name] = strategy_of(text)
        if not found:
            self.refuse("there is nothing to compare. Add a table [strategies] or a [grid].")
        return found, skipped

    def grid(self) -> tuple[dict[str, Strategy], dict[str, str]]:
        """Every valid combination of a grid's parts, and why the others are not."""
        for key in self.data["grid"]:
            self.known(key, AXES, "grid", key)
        parts: dict[str, list[Any]] = {}
        for axis in AXES:
            texts = self.texts("grid", axis)
            if not texts:
                self.refuse(f"the grid has no {axis}, so it is empty. Add {axis} = [...] under [grid].", "grid", axis)
            parts[axis] = []
            for text in texts:
                try:
                    parts[axis].append(part_from_text(axis, text))
                except SpecError as error:
                    self.refuse(f"grid: {error}", "grid", axis)
        made: dict[str, Strategy] = {}
        skipped: dict[str, str] = {}
        for positions, policy, switch in product(*(parts[axis] for axis in AXES)):
            try:
                made[str(len(made))] = Strategy(positions, policy, switch)
            except SpecError as error:
                skipped[f"{positions} {policy} {switch}"] = str(error)
        if not made:
            self.refuse(
                f"no combination of the grid is possible. The last one failed: {next(reversed(skipped.values()))}",
                "grid",
            )
        return made, skipped

    def scripts(self, entry: Entry) -> tuple[str, ...]:
        templates = self.texts("scripts")
        if not templates:
            self.refuse("there are no scripts to roll out. Add scripts = ['a red circle walks right[5s]'].", "scripts")
        fill = {key: self.texts("fill", key) for key in self.data.get("fill", {})}
        draw = self.number("draw", 1, 100_000, default=len(templates))
        try:
            drawn = tuple(draws(templates, fill, draw))
        except SuiteError as error:
            self.refuse(str(error), "scripts")
        for script in drawn:
            try:
                for prompt in Script.parse(script).prompts:
                    entry.check_prompt(prompt)
            except RolloutError as error:
                self.refuse(f"script {script!r}: {error}", "scripts")
        return drawn

    def claims(self) -> tuple[Claim, ...]:
        out = []
        for claim in self.data.get("claims", []):
            if not isinstance(claim, dict):
                self.refuse("a claim is a table. Write [[claims]].", "claims")
            for key in claim:
                self.known(key, CLAIM, "claims", key)
            missing = [key for key in CLAIM if not isinstance(claim.get(key), str)]
            if missing:
                self.refuse(f"a claim lacks {missing[0]}. It has {', '.join(CLAIM)}, all texts.", "claims")
            out.append(Claim(**claim))
        return tuple(out)

    def fits(self, suite: Suite, entry: Entry) -> None:
        """Strategies fit the backend for the longest script; what is named is there."""
        spec = entry.spec()
        longest = max(Script.parse(s).count(spec) for s in suite.scripts) + suite.prefix
        for name, strategy in suite.strategies.items():
            try:
                strategy.check(spec, longest * spec.block)
            except RolloutError as error:
                keys = ("strategies", name) if name in self.data.get("strategies", {}) else ("grid",)
                self.refuse(f"strategy {name!r}: {error}", *keys)
        for key, value, among in (
            ("baseline", suite.baseline, tuple(suite.strategies)),
            ("primary", suite.primary, suite.metrics),
            *(("better", claim.better, tuple(suite.strategies)) for claim in suite.claims),
            *(("than", claim.than, tuple(suite.strategies)) for claim in suite.claims),
            *(("metric", claim.metric, suite.metrics) for claim in suite.claims),
        ):
            if value not in among:
                keys = (key,) if key in ("baseline", "primary") else ("claims", key)
                what = "metrics" if among is suite.metrics else "strategies"
                self.refuse(f"{key} is {value!r}, which is none of the {what}: {', '.join(among)}.", *keys)

    def measurable(self, suite: Suite) -> None:
        """Every metric is there, and applies to the backend."""
        from rollout.benchmarks.metrics import metric

        if not suite.metrics:
            self.refuse("there are no metrics. Add metrics = [...]; see 'rollout ls metrics'.", "metrics")
        for name in suite.metrics:
            try:
                found = metric(name)
            except RolloutError as error:
                self.refuse(str(error), "metrics")
            if found.needs == "world" and suite.backend != "sprites":
                self.refuse(
                    f"the metric {name!r} reads the sprite world's truth, and the backend is {suite.backend!r}. Leave it out.",
                    "metrics",
                )
