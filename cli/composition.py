"""The options that compose a strategy, declared once: a command takes them all as one value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.spread import Command, spread
from rollout.registry import find, names
from rollout.strategy import REFINEMENTS, Strategy

if TYPE_CHECKING:
    from rollout.sampler import Schedule
    from rollout.strategies.presets import Preset

__all__ = ["DEFAULT", "OPTIONS", "Composition", "complete_preset", "composes"]


def complete_preset(incomplete: str) -> list[str]:
    """The presets whose names begin so, for the shell."""
    return [name for name in names("presets") if name.startswith(incomplete)]


DEFAULT = "infinity-rope"
"""The preset in force where no option says otherwise."""

OPTIONS = {
    "pos": typer.Option("--pos", metavar="SPEC", help="Positions: absolute, relativistic:head=21,cut=20/1, online."),
    "cache": typer.Option(
        "--cache",
        metavar="SPEC",
        help="Policy+switch: sink:window=12,sink=3+flush:last=1, fifo, ema+keep; 'flush' is sink+flush.",
    ),
    "preset": typer.Option(
        "--preset",
        metavar="NAME",
        help=f"A published composition: see 'rollout ls presets'. Default: {DEFAULT}.",
        autocompletion=complete_preset,
    ),
    "spectrum": typer.Option(
        "--spectrum", metavar="SPEC", help="Temporal frequencies: plain, jitter:scale=0.8, interpolate, ntk, riflex."
    ),
    "reads": typer.Option(
        "--reads", metavar="SPEC", help="What a pass sees of the cache: all, newest:frames=21, commit:recent=9."
    ),
    "order": typer.Option("--order", metavar="SPEC", help="blocks, or rolling: as many blocks at once as steps."),
    "store": typer.Option("--store", metavar="SPEC", help="How keys and values are kept: dense, int8, fp8, host."),
}
"""The options by name."""


@dataclass(frozen=True)
class Composition:
    """A strategy as the command line names it: options override their part of the preset."""

    pos: str | None = None
    cache: str | None = None
    preset: str | None = None
    spectrum: str | None = None
    reads: str | None = None
    order: str | None = None
    store: str | None = None

    @property
    def plain(self) -> bool:
        """Nothing but a preset is named, if that."""
        return self == Composition(preset=self.preset)

    @property
    def name(self) -> str:
        """What to call it: a preset's name, else its text."""
        return self.preset or DEFAULT if self.plain else str(self.strategy())

    @property
    def title(self) -> str:
        """What to say before the strategy's text: a preset's name, and whether it was chosen; nothing for another."""
        if not self.plain:
            return ""
        return self.preset or f"{DEFAULT}, the default"

    def strategy(self, base: Strategy | None = None) -> Strategy:
        """The strategy: the options over the preset, or over `base` where no preset is named. Raises SpecError."""
        from rollout.specs import part_from_text, policy_and_switch

        start = base if base is not None and self.preset is None else self._preset.strategy
        positions, policy, switch = start.positions, start.policy, start.switch
        if self.pos is not None:
            positions = part_from_text("positions", self.pos)
        elif self.cache is not None and self.preset is None and base is None:
            positions = part_from_text("positions", "relativistic")
        if self.cache is not None:
            policy, switch = policy_and_switch(self.cache)
        texts = {axis: getattr(self, axis) for axis in REFINEMENTS}
        refinements = {
            axis: getattr(start, axis) if text is None else part_from_text(axis, text) for axis, text in texts.items()
        }
        return Strategy(positions, policy, switch, **refinements)

    @property
    def block(self) -> int | None:
        """Frames a block, where the preset has its own."""
        return None if self.preset is None else self._preset.block

    def schedule(
        self, steps: int | None, shift: float | None, context: float, usual: "Schedule | None" = None
    ) -> "Schedule":
        """The noise levels that the options ask for, else the preset's own, else the model's `usual` ones."""
        from dataclasses import replace

        from rollout.sampler import Schedule

        preset_schedule = None if self.preset is None else self._preset.schedule
        if steps is None and preset_schedule is not None:
            return replace(preset_schedule, shift=preset_schedule.shift if shift is None else shift, context=context)
        usual = usual or Schedule()
        if steps is None and shift is None:
            return replace(usual, context=context)
        count = len(usual.steps) if steps is None else steps
        return Schedule.of(count, usual.shift if shift is None else shift, context, renoise=usual.renoise)

    @property
    def _preset(self) -> "Preset":
        entry: Preset = find("presets", self.preset or DEFAULT)
        return entry


def composes(*without: str) -> Callable[[Command], Command]:
    """Give a command the options of a strategy in place of its parameter `composition`; `without` names those it lacks."""
    options: dict[str, tuple[Any, Any]] = {
        name: (Annotated[str | None, option], None) for name, option in OPTIONS.items() if name not in without
    }
    return spread("composition", options, lambda values: Composition(**values))
