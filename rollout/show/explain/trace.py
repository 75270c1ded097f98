"""A strategy's trace in Python: what `rollout explain` shows, as a value that prints and draws itself. Without torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.backend import Spec
from rollout.files import write_whole
from rollout.plan import Step
from rollout.registry import find
from rollout.script import Script
from rollout.show.explain.advice import Advice
from rollout.show.explain.overlay import COLUMNS, paint, save
from rollout.show.explain.page import Side, sides
from rollout.show.explain.table import blocks
from rollout.strategy import Strategy
from rollout.text import Json
from rollout.views import Horizon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STEPS", "WIDTH", "Trace", "explain"]

STEPS = 4
"""Denoising steps, as in every published few-step model: under order rolling as many blocks are denoised at once."""
WIDTH = 160
"""Letters of a line of the table."""


@dataclass(frozen=True, repr=False)
class Trace:
    """What a strategy caches over a script, and where in time it puts it: iterate for its steps, one a block.

    `print` shows it as a table and a notebook as a picture: above the cached frames, below their temporal indices.
    """

    side: Side
    script: Script
    spec: Spec

    @property
    def strategy(self) -> Strategy:
        """The strategy."""
        return self.side.strategy

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of each block the edits, the slots and the views of its passes."""
        return tuple(sight.step for sight in self.side.sights)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the composition loses over this script, a sentence each, as `rollout explain` warns of it."""
        return tuple(Advice.of(self.strategy, self.spec, self.side.sights).warnings())

    def __len__(self) -> int:
        return len(self.side.sights)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __repr__(self) -> str:
        changes = sum(step.block.switch or step.block.cut for step in self.steps)
        return (
            f"<Trace of {self.side.name} on {self.spec.name}: {len(self)} blocks, {changes} of them change prompt or scene, "
            f"window {self.strategy.policy.window}>"
        )

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        heads, rows = blocks(iter(self.side.sights), self.script, False)
        table = Table(box=None, pad_edge=False)
        for name in heads:
            table.add_column(name, justify="right" if name == "block" else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        text = StringIO()
        Console(file=text, width=WIDTH, color_system=None, markup=False).print(table)
        return "\n".join([str(self.strategy), *(line.rstrip() for line in text.getvalue().splitlines())])

    def to_list(self) -> list[Json]:
        """As JSON, one object a block, as `rollout explain --json` prints it."""
        return [step.to_dict() for step in self.steps]

    def figure(self) -> "Figure":
        """The picture, of matplotlib."""
        return paint([self.side], self.script, self.spec)

    def save(self, path: str | Path) -> None:
        """Write the picture as PNG. Raises OutputError."""
        figure = self.figure()
        write_whole(Path(path), lambda partial: save(figure, partial))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        png = BytesIO()
        self.figure().savefig(png, format="png", dpi=100)
        return png.getvalue()


def explain(
    strategy: Strategy | str, script: Script | str, backend: Spec | str = "sprites", *, block: int | None = None
) -> Trace:
    """Trace a strategy, or the preset or text that names one, over a script, without a model: explain("memrope", "a[9s]").

    `backend` is a name or a geometry, and `block` the frames a block; None: the preset's, else the model's. Raises SpecError,
    ScriptError, CompositionError, and OutputError for a script too long for a picture.
    """
    plan = Script.parse(script) if isinstance(script, str) else script
    is_preset = isinstance(strategy, str) and " " not in strategy.strip()
    name, rules = strategy.strip() if isinstance(strategy, str) else str(strategy), Strategy.of(strategy)
    frames = find("presets", name).block if is_preset and block is None else block
    spec: Spec = find("backends", backend).spec(frames) if isinstance(backend, str) else backend
    count = plan.count(spec)
    rules.check(spec, count * spec.block)
    rules.order.check_plan(STEPS, count)
    (side,) = sides([(name, rules)], plan, spec, COLUMNS, horizon=Horizon(STEPS, 0, count - 1))
    return Trace(side, plan, spec)
