"""rollout bench ls and validate: which suites there are, and what one would compare."""

from collections.abc import Sequence
from typing import Annotated

import typer

from rollout.cli.composition import Presets, Strategies, named
from rollout.cli.listing import listed
from rollout.cli.options import Plugin, load_plugins
from rollout.cli.result import AsJson, result
from rollout.errors import SuiteError

__all__ = ["SuiteName", "added", "ls", "validate"]

SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="A shipped suite ('rollout bench ls') or a .toml file.")
]


def ls(to: AsJson = None) -> None:
    """List the suites that come with rollout."""
    from rollout.benchmarks.suites.reader import load_suite
    from rollout.benchmarks.suites.suite import shipped

    with result(to) as target:
        rows = []
        for name in shipped():
            suite = load_suite(name, metrics=False)
            rollouts, strategies, claims = suite.cells, len(suite.strategies), len(suite.claims)
            row = {"name": name, "about": suite.about, "rollouts": rollouts, "strategies": strategies, "claims": claims}
            rows.append(row)
            if target.alone:
                continue
            for line in listed(
                f"{name}: {rollouts} rollouts of {strategies} strategies, {claims} claims", [suite.about]
            ):
                print(line)
        target.give(rows)


def validate(
    suite: SuiteName, preset: Presets = None, add: Strategies = None, to: AsJson = None, plugin: Plugin = None
) -> None:
    """Check a suite without running it.

    Says what it would compare, or the line that is wrong and the fix.
    """
    load_plugins(plugin)
    from dataclasses import asdict

    from rollout.benchmarks.suites.reader import load_suite

    definition = load_suite(suite, extra=dict(added(preset, add)))
    with result(to) as target:
        print(f"{definition.name}: {definition.about}" if definition.about else definition.name)
        counts = [
            f"{len(definition.scripts)} prompts",
            f"{len(definition.seeds)} seed" + "s" * (len(definition.seeds) > 1),
        ]
        if definition.axis is not None:
            counts.append(f"{len(definition.axis.values)} values of {definition.axis.name}")
        controls = f" and {len(definition.controls)} controls" if definition.controls else ""
        print(
            f"  {len(definition.strategies)} strategies{controls} x {' x '.join(counts)} = {definition.cells} rollouts"
        )
        print(f"  {definition.frames:,} frames to generate")
        for name, arm in definition.along[0].arms.items():
            text, role = str(arm), f" ({arm.control})" if arm.control and arm.control != name else ""
            role = " (baseline)" if name == definition.baseline else role
            print(f"  {name}" + (f": {text}" if name != text else "") + role)
        if definition.skipped:
            print(
                f"  left out, {len(definition.skipped)} combinations that do not go together: "
                f"{next(iter(definition.skipped.values()))}"
            )
        print(f"  metrics: {', '.join(definition.metrics)}")
        if definition.answers:
            print(f"  answers: {', '.join(f'{use} by {name}' for use, name in definition.answers.items())}")
        target.give(
            {
                "name": definition.name,
                "about": definition.about,
                "strategies": {name: str(arm) for name, arm in definition.along[0].arms.items() if not arm.control},
                "controls": {name: str(arm) for name, arm in definition.along[0].arms.items() if arm.control},
                "baseline": definition.baseline,
                "scripts": definition.scripts,
                "seeds": definition.seeds,
                "axis": None if definition.axis is None else asdict(definition.axis),
                "rollouts": definition.cells,
                "frames": definition.frames,
                "metrics": definition.metrics,
                "answers": dict(definition.answers),
                "left_out": dict(definition.skipped),
            }
        )


def added(preset: Sequence[str] | None, add: Sequence[str] | None) -> list[tuple[str, str]]:
    """The strategies beside the suite's own, by name. Raises SuiteError."""
    pairs = named(preset, add)
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise SuiteError(
            f"two strategies are called {max(names, key=names.count)!r}. Write NAME=TEXT with a name of its own."
        )
    return pairs
