"""Writes docs/which.md, the picks for each use, from benchmarks/RESULTS.md: python docs/which.py > docs/which.md."""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rollout.benchmarks.metrics import Metric
from rollout.benchmarks.suites.reader import load_suite
from rollout.registry import find

ROOT = Path(__file__).parent.parent
WEIGHTS = {"default": "", "plain": ", plain weights"}
"""The weights that ship, and what the title of their section ends with."""
HEAD = """# Which strategy for what

What to try first, by use, as measured on the embedded models (default weights / `--model plain`). **Nothing here was
measured on a real model**: take it as the order in which to try. Every figure stands with its controls in
[RESULTS](../benchmarks/RESULTS.md); its command is the suite's name in `rollout bench run SUITE` (`--model plain`).
`rollout bench leaderboard runs/*` makes the same choice from runs of your own, on your model. This page is written
from RESULTS by `python docs/which.py`.

**The rule.** Of a suite's strategies those are dropped that lose what the use also needs: a figure named "not worse"
that is certainly worse than the baseline's. Of the rest those are equal whose mean is no further from the best mean
than what matters of that metric ({matters}). Of these the smallest cache is the pick, then the better mean, then the
order of the suite; up to two others follow, one a window. What else a pick loses against the baseline is said. What a
cache costs is its window: 274 MiB a latent frame on Wan 1.3B at 480x832 in bfloat16 ([wan.md](wan.md)); `window`
counts sinks and memory, so it is all that is kept.

"""
TAIL = """
## What was never measured

- **An hour**: one run of 57,600 frames under `infinity-rope` kept path, looks and action
  ([An hour of video](../benchmarks/RESULTS.md#an-hour-of-video)), on the first edition's model, and without another
  strategy beside it: it shows that a rollout can be that long, not that this strategy is the one for it.
- Anything that the world of sprites does not have: faces, text, several subjects, a camera that moves.
- Real checkpoints. How a strategy does on Wan is said by its paper, on its own prompts
  ([presets](../README.md#the-strategies)).
"""


@dataclass(frozen=True)
class Use:
    """A use, the suite and metric that answer it, `beside`: metrics that must not suffer, `watched`: that it is said of."""

    title: str
    suite: str
    metric: str
    beside: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    window: int = 10**6
    """The largest cache that is asked about, in latent frames."""


USES = (
    Use(
        "A long single shot: looks after 126 frames", "long-horizon", "tint:126", watched=("action:210", "position:126")
    ),
    Use("What goes out of sight and comes back after a night", "long-horizon", "recall", watched=("action:210",)),
    Use("Little memory: the same, in at most 6 frames", "long-horizon", "recall", watched=("action:210",), window=6),
    Use("Many prompt changes", "obey-and-remember", "reaction"),
    Use("Prompt changes in a scene that must be remembered", "obey-and-remember", "reaction", ("recall",)),
    Use("Cuts to another scene, with a subject that stays", "cut", "scene_reached", ("identity_after_cut", "tint:30")),
    Use("A scene that changes and must be remembered as it is now", "evolve", "new@background"),
)


@dataclass(frozen=True)
class Line:
    """A strategy's line of a table: its window, its cells by metric, and the metrics' means."""

    name: str
    window: int
    cells: dict[str, str]

    def mean(self, metric: str) -> float:
        return float(self.cells[metric].split()[0])

    def worse(self, metrics: tuple[str, ...]) -> list[str]:
        """Those of the metrics in which the baseline is certainly better."""
        return [metric for metric in metrics if self.cells[metric].endswith("▼")]


def page() -> str:
    """The page as Markdown."""
    matters = {use.metric: _metric(use.metric).matters for use in USES}
    parts = [HEAD.format(matters=", ".join(f"{_number(value)} for `{name}`" for name, value in matters.items()))]
    parts += ["| use | figure | default weights | plain weights |\n|---|---|---|---|\n"]
    for use in USES:
        picks = [_picks(use, weights) for weights in WEIGHTS]
        better = _metric(use.metric).better
        beside = f"; {' and '.join(f'`{name}`' for name in use.beside)} not worse" if use.beside else ""
        parts += [f"| {use.title} | `{use.metric}`, {better} is better{beside} ({use.suite}) | {' | '.join(picks)} |\n"]
    parts += ["\n## The compositions\n\n| pick | as options of `gen` |\n|---|---|\n"]
    names = {name: suite for use in USES for weights in WEIGHTS for suite, name in _chosen(use, weights)}
    parts += [f"| {name} | `{_options(suite, name)}` |\n" for name, suite in sorted(names.items())]
    return "".join([*parts, TAIL])


def _metric(name: str) -> Metric:
    """A metric, less the frame at which it is read."""
    metric: Metric = find("metrics", name.split(":")[0])
    return metric


def _number(value: float) -> str:
    return f"{value:g}"


@cache
def _lines(suite: str, weights: str) -> list[Line]:
    """The lines of a suite's first table in RESULTS, without controls."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {suite}{WEIGHTS[weights]}\n", 1)[1].split("\n## ", 1)[0]
    rows = section.split("\n| strategy | window |", 1)[1].split("\n\n", 1)[0].splitlines()
    heads = [head.split(",")[0].strip() for head in rows[0].strip(" |").split(" | ")]
    names = dict(load_suite(suite, metrics=False).strategies)
    lines = []
    for row in rows[2:]:
        name, window, *cells = row.strip("| ").split(" | ")
        name = name.removesuffix(" (baseline)")
        if name in names:
            lines.append(Line(name, int(window), dict(zip(heads, cells, strict=True))))
    return sorted(lines, key=lambda line: list(names).index(line.name))


@cache
def _equal(use: Use, weights: str) -> list[Line]:
    """The strategies that no other is better than by what matters, the smallest cache first."""
    metric = _metric(use.metric)
    lines = [line for line in _lines(use.suite, weights) if line.window <= use.window and not line.worse(use.beside)]
    sign = 1 if metric.better == "lower" else -1
    best = min((sign * line.mean(use.metric) for line in lines), default=0.0)
    equal = [line for line in lines if sign * line.mean(use.metric) - best <= metric.matters + 1e-9]
    return sorted(equal, key=lambda line: (line.window, sign * line.mean(use.metric)))


def _shown(use: Use, weights: str) -> list[Line]:
    """The pick, and at most two others of larger caches."""
    by_window = {line.window: line for line in reversed(_equal(use, weights))}
    return [by_window[window] for window in sorted(by_window)][:3]


def _chosen(use: Use, weights: str) -> list[tuple[str, str]]:
    return [(use.suite, line.name) for line in _shown(use, weights)]


def _picks(use: Use, weights: str) -> str:
    lines = _shown(use, weights)
    if not lines:
        return "none"
    texts = [_pick(line, use) for line in lines]
    blind = lines[0].cells[use.metric].endswith("?")
    first = f"**{texts[0]}**{' (this model cannot tell)' if blind else ''}"
    return "; ".join([first, *texts[1:]])


def _pick(line: Line, use: Use) -> str:
    lost = " and ".join(f"`{metric}`" for metric in line.worse(use.watched))
    figure = line.cells[use.metric].rstrip(" ▲▼=…?")
    return f"{line.name}, window {line.window}: {figure}{f', but worse in {lost}' if lost else ''}"


def _options(suite: str, name: str) -> str:
    """How `gen` takes a strategy of a suite."""
    strategy = dict(load_suite(suite, metrics=False).strategies)[name]
    positions, cache, *rest = str(strategy).split()
    return " ".join(["--pos", positions, "--cache", cache, *rest])


if __name__ == "__main__":
    sys.stdout.write(page())
