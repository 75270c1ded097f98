"""Seeds that a run has beyond those of its suite's file: added once, and kept by every later run into the folder."""

from pathlib import Path

from rollout.benchmarks.plan import read_plan
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.suite import SPACING, Suite
from rollout.errors import OutputError, SuiteError

__all__ = ["added_before", "check_whole", "more_seeds"]


def added_before(suite: Suite, out: Path) -> tuple[int, ...]:
    """The seeds that were added to the suite's run in `out`; those that its file has by now are its own."""
    if not (out / "plan.json").is_file():
        return ()
    plan = read_plan(out)
    if plan.suite != suite.name:
        return ()
    return tuple(seed for seed in plan.added_seeds if seed not in suite.seeds)


def more_seeds(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The least `count` seeds that are not there yet. Raises SuiteError."""
    fresh = [seed for seed in range(SPACING) if seed not in seeds][:count]
    if len(fresh) < count:
        raise SuiteError(f"{count} more seeds are too many: a run has {SPACING} at most. Add prompts.")
    return tuple(fresh)


def check_whole(missing: set[str], out: Path) -> None:
    """Seeds are added to a run that is whole, so that a command that is repeated does not add them twice.

    Raises OutputError where cells are missing that did not fail.
    """
    failures = {attempt.cell for attempt in Store(out).attempts() if attempt.failure}
    left = missing - failures
    if left:
        raise OutputError(
            f"{out} lacks {len(left)} of its rollouts. Finish it first by the same command without --add-seeds."
        )
