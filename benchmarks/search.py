"""A search over compositions for those that no other beats in all that is looked at, on the embedded model.

Every trial is an ordinary arm of a suite, its rollouts ordinary cells; the study is a journal beside them, so that a search
that was stopped goes on. Half of the suite's prompts are searched on, the other half tells afterwards what holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rollout.benchmarks.executors.base import Executor
from rollout.benchmarks.executors.work import Setup
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.plan import read_plan
from rollout.benchmarks.run import Run
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.suite import Suite
from rollout.benchmarks.summary import score_grid, scores_of
from rollout.documents import mend_end, read_lines
from rollout.errors import RolloutError, SpecError, SuiteError
from rollout.files import alone, inner_folder, new_folder
from rollout.registry import find, names
from rollout.specs import part_from_text
from rollout.strategy import Strategy
from rollout.temporary import LOCKS
from rollout.text import hint

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["SEES", "Rival", "Search", "draw_strategy", "rivals"]

SEES = {"obey": "reaction", "remember": "recall", "kv_bytes": "kv_mib"}
"""What a search may look at by name, and the metric that says it; any metric of the suite goes by its own."""
JOURNAL = "search.log"
STOPPED = "stopped"
"""What a trial is marked by that Ctrl-C ended: Optuna takes it for one that failed."""
Grid = NDArray[np.float64]
"""Values (prompts, seeds)."""


def draw_strategy(trial: "Trial") -> Strategy:
    """A composition of the home's rules and their fields. Raises SpecError, CompositionError for one that does not go."""
    suggest = trial.suggest_categorical
    kind = suggest("policy", ["fifo", "sink", "ema", "ema-sink", "anchor", "deep"])
    window = trial.suggest_int("window", 6, 21, step=3)
    sink = 0 if kind == "fifo" else trial.suggest_int("sink", 1, 6)
    fields = f"window={window}" + (f",sink={sink}" if sink else "")
    if kind == "ema":
        fields += f",rates={suggest('rate', ['0.01', '0.1', '0.01/0.1', '0.3'])}"
    if kind == "ema-sink":
        fields += f",rate={suggest('share', [0.001, 0.03, 0.3])}"
    if kind == "deep":
        fields += f",recent={trial.suggest_int('recent', 3, 6)},budget={trial.suggest_int('budget', 6, 21)}"
    switch = suggest("switch", ["keep", "flush", "recache"])
    if switch == "flush":
        switch += f":last={trial.suggest_int('last', 1, 3)}"
    reads = suggest("reads", ["all", "commit"])
    if reads == "commit":
        reads += f":recent={trial.suggest_int('near', 0, 9, step=3)}"
    return Strategy(
        part_from_text("positions", suggest("positions", ["relativistic", "online", "absolute"])),
        part_from_text("policy", f"{kind}:{fields}"),
        part_from_text("switch", switch),
        reads=part_from_text("reads", reads),
    )


@dataclass(frozen=True)
class Rival:
    """A composition beside another strategy that caches at least as much, on prompts that the search never saw.

    `values` are means a thing that is looked at, `better` those in which the composition is, over prompts in pairs.
    """

    name: str
    against: str
    values: Mapping[str, tuple[float, float]]
    better: tuple[str, ...]
    worse: tuple[str, ...]


class Search:
    """A search of a suite in a folder; `sees` names what is looked at, `plugins` are files for workers. Raises SuiteError."""

    def __init__(
        self,
        suite: Suite,
        sees: Sequence[str],
        out: Path,
        executor: Executor,
        *,
        seed: int = 0,
        plugins: Sequence[str] = (),
    ) -> None:
        names_known = (*SEES, *suite.metrics)
        unknown = [name for name in sees if name not in names_known]
        if unknown or len(set(sees)) < len(sees) or not sees:
            bad = (*unknown, "the same twice" if sees else "nothing")[0]
            raise SuiteError(
                f"a search cannot see {bad!r}. {hint(bad, names_known)}Give some of {', '.join(names_known)}, each once."
            )
        lacking = [name for name in sees if SEES.get(name, name) not in suite.metrics]
        if lacking:
            raise SuiteError(f"the suite '{suite.name}' does not measure {SEES[lacking[0]]}, which says {lacking[0]}.")
        if len(suite.scripts) < 4:
            raise SuiteError(
                f"the suite '{suite.name}' has {len(suite.scripts)} prompts; half are held out. Give 4 or more."
            )
        self.suite, self.sees, self.out, self.executor, self.seed = suite, tuple(sees), out, executor, seed
        self.plugins = tuple(plugins)
        self.metrics = {name: metric(SEES.get(name, name)) for name in sees}

    @property
    def study(self) -> "Study":
        """The trials so far. Raises OutputError, and SuiteError where Optuna is not installed."""
        with self._alone():
            return self._study()

    def run(self, trials: int) -> "Study":
        """Trials until there are so many; those of a search that was stopped count.

        What a trial draws depends on the seed and on the trials before it: a search that was stopped or killed anywhere comes
        to the same. Raises OutputError where another one writes here.
        """
        with self._alone():
            study = self._study()
            while (number := len(self.finished(study))) < trials:
                study.sampler = self._sampler(number)
                study.optimize(self._try, n_trials=1, catch=(RolloutError,))
        return study

    def finished(self, study: "Study") -> "list[FrozenTrial]":
        """The trials that ended by themselves: not those during which a search was stopped or killed."""
        trials = study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished() and STOPPED not in trial.user_attrs]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time has the journal: Optuna's own lock outlives a process that is killed. Raises OutputError."""
        new_folder(self.out, force=True)
        with alone(self.out):
            if LOCKS:
                for left in self.out.glob(f"{JOURNAL}.lock*"):
                    left.unlink(missing_ok=True)
            yield

    def _study(self) -> "Study":
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
            from optuna.study import StudyDirection
        except ImportError as error:
            raise SuiteError("a search needs Optuna. Install rollout-video[search].") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mend_end(self.out / JOURNAL)
        read_lines(self.out / JOURNAL, dict)  # a bad line is named, before Optuna meets it
        directions = [
            StudyDirection.MINIMIZE if m.better == "lower" else StudyDirection.MAXIMIZE for m in self.metrics.values()
        ]
        try:
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.out / JOURNAL))),
                study_name=f"{self.suite.name} {','.join(self.sees)}",
                directions=directions,
                load_if_exists=True,
            )
        except ValueError as error:
            raise SuiteError(f"{self.out} holds another search: {error}. Give another folder.") from error

    def _sampler(self, number: int) -> "BaseSampler":
        """What draws the trial that comes after so many."""
        from optuna.samplers import NSGAIISampler

        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        return NSGAIISampler(population_size=12, seed=seed)

    def _try(self, trial: "Trial") -> tuple[float, ...]:
        """A trial: what is seen of the composition that it draws."""
        try:
            return self._values(trial)
        except KeyboardInterrupt:
            trial.set_user_attr(STOPPED, True)
            raise

    def _values(self, trial: "Trial") -> tuple[float, ...]:
        from optuna import TrialPruned

        try:
            strategy = draw_strategy(trial)
            strategy.check(find("backends", self.suite.backend).spec())
        except SpecError as error:
            trial.set_user_attr("refused", str(error))
            raise TrialPruned from error
        trial.set_user_attr("strategy", str(strategy))
        values = self.means({"trial": strategy}, held_out=False)["trial"]
        if any(value is None for value in values.values()):
            raise TrialPruned
        return tuple(float(value or 0) for value in values.values())

    def front(self, study: "Study") -> dict[str, tuple[float, ...]]:
        """The compositions that no other trial beats in everything, with what was seen of them."""
        return {trial.user_attrs["strategy"]: tuple(trial.values) for trial in study.best_trials}

    def grids(self, strategies: Mapping[str, Strategy], *, held_out: bool) -> dict[str, dict[str, Grid]]:
        """Roll strategies out and give their values (prompts, seeds) under what is looked at."""
        half = len(self.suite.scripts) // 2
        scripts = self.suite.scripts[half:] if held_out else self.suite.scripts[:half]
        first = next(iter(strategies))
        suite = replace(
            self.suite,
            scripts=scripts,
            strategies=strategies,
            controls={},
            levels=(),
            claims=(),
            skipped={},
            baseline=first,
            # another seed too: what holds must not hang on the noise that was searched on
            seeds=tuple(seed + 100 for seed in self.suite.seeds) if held_out else self.suite.seeds,
        )
        folder = self.out / ("held-out" if held_out else "trials")
        inner_folder(folder)
        setup = Setup(str(folder.resolve()), suite.backend, suite.options, "cpu", 1, self.plugins)
        for _ in Run(suite, folder, setup, self.executor).attempts():
            pass
        plan = read_plan(folder)
        scores = scores_of(plan, Store(folder))
        return {
            name: {see: score_grid(plan, scores, name, m.name) for see, m in self.metrics.items()}
            for name in strategies
        }

    def means(self, strategies: Mapping[str, Strategy], *, held_out: bool) -> dict[str, dict[str, float | None]]:
        """Their means; None where a metric gave nothing."""
        grids = self.grids(strategies, held_out=held_out)
        return {name: {see: _mean(grid) for see, grid in values.items()} for name, values in grids.items()}


def _mean(grid: Grid) -> float | None:
    return float(np.nanmean(grid)) if np.isfinite(grid).any() else None


def rivals(search: Search, front: Sequence[str], others: Mapping[str, Strategy] | None = None) -> list[Rival]:
    """Each composition of the front against `others`, else every published preset, on held-out prompts.

    Only against those whose cache is as large or larger. A published preset that needs blocks or steps of its own is left
    out. A side is better where the mean of paired differences is twice its standard error away
    from 0.
    """
    spec = find("backends", search.suite.backend).spec()
    opponents = _published() if others is None else others
    strategies = {text: Strategy.from_text(text) for text in front}
    grids = search.grids({**strategies, **opponents}, held_out=True)
    rows = []
    for text, strategy in strategies.items():
        for name, other in opponents.items():
            if other.budget(spec) < strategy.budget(spec):
                continue
            values = {see: (_mean(grids[text][see]) or 0.0, _mean(grids[name][see]) or 0.0) for see in search.sees}
            signs = {see: _sign(search, see, grids[text][see], grids[name][see]) for see in search.sees}
            better, worse = (tuple(see for see in search.sees if signs[see] == side) for side in (1, -1))
            rows.append(Rival(text, name, values, better, worse))
    return rows


def _published() -> dict[str, Strategy]:
    """The presets that take any block and steps, of two with one strategy the first."""
    presets: dict[str, Strategy] = {}
    for name in names("presets"):
        entry = find("presets", name)
        if entry.block is None and entry.strategy not in presets.values():
            presets[name] = entry.strategy
    return presets


def _sign(search: Search, see: str, ours: Grid, theirs: Grid) -> int:
    """1 where ours is better beyond doubt, -1 where theirs is, else 0."""
    pairs = ours - theirs
    differences = np.nanmean(pairs[np.isfinite(pairs).any(axis=1)], axis=1)  # of each prompt that has any
    if len(differences) < 2 or not differences.any():
        return 0
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    if abs(differences.mean()) <= 2 * error:
        return 0
    lower = search.metrics[see].better == "lower"
    return 1 if (differences.mean() < 0) == lower else -1
