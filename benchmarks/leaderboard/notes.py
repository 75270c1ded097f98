"""What a reader of the leaderboard has to know besides its numbers."""

from collections.abc import Iterator, Mapping, Sequence

from rollout.benchmarks.leaderboard.columns import Column
from rollout.benchmarks.leaderboard.runs import Finished
from rollout.benchmarks.report.tables import command
from rollout.benchmarks.statistics import LEAST
from rollout.benchmarks.suites.answers import USES

__all__ = ["loads", "notes_of", "unfinished"]


def notes_of(
    runs: Sequence[Finished],
    columns: Mapping[str, Column],
    alternatives: Mapping[str, Sequence[Finished]],
    baseline: str,
    identity: str,
) -> list[str]:
    """Sentences on what is missing, what cannot be told, and what was left out. `passed`: runs that answer a use too."""
    return [
        *_columns(columns, baseline, identity),
        *_silent(runs, columns),
        *(
            f"{use} is also answered by {_list([run.folder.name for run in others])}, which has fewer strategies or rollouts, "
            f"or comes later, than {columns[use].run.folder.name}."
            for use, others in alternatives.items()
        ),
        *_changing(runs),
        *loads(runs),
        *_versions(runs),
    ]


def _columns(columns: Mapping[str, Column], baseline: str, identity: str) -> Iterator[str]:
    for use, column in columns.items():
        if column.blind:
            yield f"{use}: this model cannot tell ({column.blind})."
        elif not column.tested:
            prompts = max((verdict.prompts for verdict in column.verdicts.values()), default=0)
            few = f"{prompts} prompts, and {LEAST} are the least" if prompts else "one strategy alone has a value"
            yield f"{use}: nothing is marked ({few})."
        if identity not in column.means:
            yield f"{use}: no marks, since {baseline} is not in {column.run.suite}."


def _silent(runs: Sequence[Finished], columns: Mapping[str, Column]) -> Iterator[str]:
    missing = [use for use in USES if use not in columns]
    if missing:
        yield f"No run answers {_list(missing)}."
    silent = [run.suite for run in runs if not run.answers]
    if silent:
        verb = "answers" if len(silent) == 1 else "answer"
        yield f"{_list(silent)} {verb} no use; [answers] in a suite's file says which. Costs count all the same."


def _changing(runs: Sequence[Finished]) -> Iterator[str]:
    for run in runs:
        if run.changing:
            axis = run.plan.axis.name if run.plan.axis else ""
            yield f"{_list(run.changing)} of {run.suite} left out: another composition at each value of {axis}."


def loads(runs: Sequence[Finished]) -> Iterator[str]:
    """Under what load times were measured."""
    for workers in sorted({run.plan.workers for run in runs} - {1}):
        suites = _list([run.suite for run in runs if run.plan.workers == workers])
        yield f"Times were measured under load, {workers} rollouts side by side: {suites}. They compare within one run alone."


def _versions(runs: Sequence[Finished]) -> Iterator[str]:
    versions = list(dict.fromkeys(run.plan.rollout for run in runs))
    if len(versions) > 1:
        yield f"The runs are of rollout {_list(versions)}."
    codes = {run.plan.backend.code for run in runs}
    if len(codes) > 1:
        yield "The runs were made by different source files of the model."


def unfinished(runs: Sequence[Finished]) -> list[str]:
    """Runs that are not whole, and what finishes them."""
    return [
        f"{run.folder.name} has {len(run.scores)} of {run.total} rollouts; '{command(run.folder, run.plan)}' finishes it"
        for run in runs
        if len(run.scores) < run.total
    ]


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}"
