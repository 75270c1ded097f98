"""A column of the leaderboard: one metric of one run, with the verdicts of all its pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

from rollout.benchmarks.leaderboard.runs import Finished
from rollout.benchmarks.plan import MetricPlan
from rollout.benchmarks.statistics import Interval, Verdict, Word
from rollout.benchmarks.summary import judge_of, mean_of, over_axis
from rollout.benchmarks.verdicts import Controls, corrected

__all__ = ["Column", "answering", "column_of", "turned"]

TURNED: dict[Word, Word] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Column:
    """One metric of one run.

    `names` and `means` are those of its strategies, by composition; `controls` means of its controls, by name. `verdicts`: of
    a against b, both ways, corrected for the number of pairs (Holm), and held against the run's controls. `blind`: why this
    model cannot tell any two of the strategies apart, or nothing. `judge` compares what the run has by its own names.
    """

    run: Finished
    metric: MetricPlan
    names: Mapping[str, str]
    means: Mapping[str, Interval]
    controls: Mapping[str, Interval]
    verdicts: Mapping[tuple[str, str], Verdict]
    blind: str
    judge: Controls

    @property
    def tested(self) -> int:
        """Pairs with enough prompts for a mark, those of one strategy with itself left out."""
        pairs = {frozenset(self.names[key] for key in pair): verdict for pair, verdict in self.verdicts.items()}
        return sum(verdict.p is not None for pair, verdict in pairs.items() if len(pair) == 2)

    def rolled_out(self, key: str) -> bool:
        """Whether the run has the strategy itself, not one that does the same there."""
        return key in self.run.strategies and key in self.names

    def unbeaten(self, among: Iterable[str] | None = None) -> list[str]:
        """Strategies (of `among`) than which no other of them is better with certainty."""
        names = [key for key in (self.means if among is None else among) if key in self.means]
        return [a for a in names if not any(self.worse(a, b) for b in names)]

    def worse(self, a: str, b: str) -> bool:
        """The strategy a is worse than b with certainty."""
        verdict = self.verdicts.get((a, b))
        return verdict is not None and verdict.word == "worse"


def column_of(run: Finished, name: str, specs: Mapping[str, Mapping[str, Any]]) -> Column | None:
    """The column of a metric; None where the run has none of the name, or no value of a strategy.

    `specs`: JSON forms of strategies by composition, for those which the run has under another.
    """
    metric = run.plan.metric(name)
    if metric is None:
        return None
    cubes = run.cubes(name)
    means = {n: mean for n, cube in cubes.items() if (mean := mean_of(run.plan, metric, over_axis(cube)[0]))}
    judge = judge_of(run.plan, metric, cubes)
    names = {key: n for key, n in run.named(specs).items() if n in means}
    if not names:
        return None
    here = _pairs(judge, list(dict.fromkeys(names.values())))
    verdicts = {(a, b): verdict for a, b in permutations(names, 2) if (verdict := here.get((names[a], names[b])))}
    controls = {n: mean for n, mean in means.items() if n in judge.roles}
    column_means = {key: means[n] for key, n in names.items()}
    return Column(run, metric, names, column_means, controls, verdicts, _blind(here), judge)


def _pairs(judge: Controls, names: Sequence[str]) -> dict[tuple[str, str], Verdict]:
    """The verdicts of all pairs of a run's strategies, both ways, and of each with itself."""
    pairs = [(pair, judge.compared(*pair)) for pair in combinations(names, 2)]
    pairs = [(pair, verdict) for pair, verdict in pairs if verdict.n]
    certain = corrected([verdict for _, verdict in pairs], "comparisons")
    verdicts = {(n, n): judge.compared(n, n) for n in names}
    for ((a, b), _), verdict in zip(pairs, certain, strict=True):
        verdicts[a, b] = judge.judge(a, b, verdict)
        verdicts[b, a] = turned(verdicts[a, b])
    return verdicts


def turned(verdict: Verdict) -> Verdict:
    """The verdict of b against a, from that of a against b."""
    word = TURNED.get(verdict.word, verdict.word)
    return replace(verdict, word=word, difference=-verdict.difference, low=-verdict.high, high=-verdict.low)


def _blind(verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    """Why nothing can be told: all pairs that have enough prompts are such of which the controls say so."""
    verdicts_tested = [verdict for (a, b), verdict in verdicts.items() if a != b and verdict.p is not None]
    if not verdicts_tested or any(verdict.word != "cannot tell" for verdict in verdicts_tested):
        return ""
    return "; ".join(dict.fromkeys(verdict.reason for verdict in verdicts_tested))


def answering(
    runs: Sequence[Finished], use: str, specs: Mapping[str, Mapping[str, Any]]
) -> tuple[Column | None, list[Finished]]:
    """The column that answers a use, and the runs that would answer it too.

    Of several, the run with the most strategies counts, then the one with the most rollouts of each, then the first.
    """
    columns = [column for run in runs if use in run.answers and (column := column_of(run, run.answers[use], specs))]
    columns.sort(key=lambda column: (-len(set(column.names.values())), -column.run.rollouts))
    return (columns[0], [column.run for column in columns[1:]]) if columns else (None, [])
