"""What the metrics say of whole runs, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.benchmarks.compare.rows import changes
from rollout.benchmarks.compare.runs import Run
from rollout.benchmarks.markdown import as_code, as_text
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.cost import generated
from rollout.benchmarks.metrics.sample import applies
from rollout.benchmarks.metrics.score import Better, Metric, directed
from rollout.benchmarks.results import number

__all__ = ["Line", "lines", "markdown"]

SHOWN = (
    "reaction", "letting_go", "recall", "moved", "action", "identity", "background", "position", "tint", "scene_changed",
    "scene_reached", "identity_after_cut", "consistency@pool8", "drift@pool8", "seam", "forwards", "kv_mib", "switch_ms",
)  # fmt: skip
NOTE = (
    "One script and one seed: an example. `rollout bench run` gives means with intervals, `rollout score` every metric."
)


@dataclass(frozen=True)
class Line:
    """A metric of every run, in their order."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    better: Better

    @property
    def directed(self) -> str:
        """The unit, and which way is better."""
        return directed(self.unit, self.better)


def lines(runs: Sequence[Run]) -> list[Line]:
    """The metrics that say something of at least one run."""
    table = []
    for name in SHOWN:
        one = metric(name)
        scores = [one.measure(run.sample) if applies(one.needs, run.sample) else None for run in runs]
        table.append(
            Line(name, one.unit, tuple(None if score is None else score.value for score in scores), one.better)
        )
        if name == "reaction":
            table += _reactions(runs, one)
    table.append(Line("time", "ms a block", tuple(_block(run) for run in runs), "lower"))
    return [line for line in table if any(value is not None for value in line.values)]


def _reactions(runs: Sequence[Run], reaction: Metric) -> list[Line]:
    """Each change of action by itself, where there are several."""
    reactions = [{change.frame: float(change.reaction) for change in changes(run)} for run in runs]
    frames = sorted({frame for by_frame in reactions for frame in by_frame})
    fps = runs[0].sample.fps
    if len(frames) < 2:
        return []
    return [
        Line(
            f"{reaction.name} at {frame / fps:g} s",
            reaction.unit,
            tuple(by_frame.get(frame) for by_frame in reactions),
            reaction.better,
        )
        for frame in frames
    ]


def _block(run: Run) -> float | None:
    """Milliseconds of a generated block, decoding and writing left out."""
    part = generated(run.sample)
    return 1000 * part.seconds / part.blocks if part and part.seconds is not None else None


def markdown(runs: Sequence[Run], table: Sequence[Line]) -> str:
    """The table as Markdown, with what each run is."""
    first = runs[0].record
    seeds = {run.record.seed for run in runs}
    head = [as_code(first.script.text)] if len({run.segments for run in runs}) == 1 else []
    head += [f"seed {seeds.pop()}, backend {as_text(first.backend.name)}"] if len(seeds) == 1 else []
    rows = [
        "| metric | " + " | ".join(as_text(run.name) for run in runs) + " | unit, better |",
        "|---|" + "---:|" * len(runs) + "---|",
        *(
            f"| {as_text(line.name)} | " + " | ".join(map(number, line.values)) + f" | {as_text(line.directed)} |"
            for line in table
        ),
    ]
    legend = [f"- {as_text(run.name)}: {as_code(str(run.strategy))}, {as_text(run.folder.name)}" for run in runs]
    return "\n\n".join([", ".join(head)] * bool(head) + ["\n".join(rows), "\n".join(legend), NOTE]) + "\n"
