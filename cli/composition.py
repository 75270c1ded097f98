"""The options that name strategies, declared once: those that compose one, which a command takes as one value, and lists."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.spread import Command, spread
from rollout.errors import SpecError
from rollout.registry import find, names
from rollout.strategy import REFINEMENTS, Strategy

if TYPE_CHECKING:
    from rollout.sampler import Schedule
    from rollout.strategies.presets import Preset

__all__ = [
    "DEFAULT",
    "OPTIONS",
    "Composition",
    "Presets",
    "Strategies",
    "complete_preset",
    "composes",
    "named",
    "own_terms",
    "preset_of",
]


def complete_preset(incomplete: str) -> list[str]:
    """The presets whose names begin so, for the shell."""
    return [name for name in names("presets") if name.startswith(incomplete)]


DEFAULT = "infinity-rope"
"""The preset in force where no option says otherwise."""

Presets = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A published composition: see 'rollout ls presets'. Several times: several.",
        autocompletion=complete_preset,
    ),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        "--add",
        metavar="[NAME=]TEXT",
        help="One more strategy: 'mine=relativistic sink:window=9+flush', or a preset's name.",
    ),
]

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
    "text": typer.Option(
        "--strategy",
        metavar="TEXT",
        help="A whole one: a preset's name, or 'POSITIONS POLICY+SWITCH' and refinements such as reads=commit.",
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
    """A strategy as the command line names it: options override their part of the preset, or of the `text` that is whole."""

    pos: str | None = None
    cache: str | None = None
    preset: str | None = None
    spectrum: str | None = None
    reads: str | None = None
    order: str | None = None
    store: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.text is not None:
            raise SpecError("--preset and --strategy both name a whole strategy. Leave one out.")

    @property
    def plain(self) -> bool:
        """Nothing but a whole strategy is named, if that."""
        return self == Composition(preset=self.preset, text=self.text)

    @property
    def whole(self) -> str | None:
        """The whole strategy that is named, a preset's name or a text."""
        return self.text if self.preset is None else self.preset

    @property
    def name(self) -> str:
        """What to call it: a preset's name, else its text."""
        name = DEFAULT if self.whole is None else self.whole.strip()
        return name if self.plain and name in names("presets") else str(self.strategy())

    @property
    def title(self) -> str:
        """What to say before the strategy's text: a preset's name, and whether it was chosen; nothing for another."""
        if self == Composition():
            return f"{DEFAULT}, the default"
        return "" if self._preset is None or not self.plain else self.name

    def strategy(self, base: Strategy | None = None) -> Strategy:
        """The strategy: the options over the whole one, or over `base` where none is named. Raises SpecError."""
        from rollout.specs import part_from_text, policy_and_switch

        start = base if base is not None and self.whole is None else Strategy.of(self.whole or DEFAULT)
        positions, policy, switch = start.positions, start.policy, start.switch
        if self.pos is not None:
            positions = part_from_text("positions", self.pos)
        elif self.cache is not None and self.whole is None and base is None:
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
        return None if self._preset is None else self._preset.block

    def schedule(
        self, steps: int | None, shift: float | None, context: float, usual: "Schedule | None" = None
    ) -> "Schedule":
        """The noise levels that the options ask for, else the preset's own, else the model's `usual` ones."""
        from dataclasses import replace

        from rollout.sampler import Schedule

        preset_schedule = None if self._preset is None else self._preset.schedule
        if steps is None and preset_schedule is not None:
            return replace(preset_schedule, shift=preset_schedule.shift if shift is None else shift, context=context)
        usual = usual or Schedule()
        if steps is None and shift is None:
            return replace(usual, context=context)
        count = len(usual.steps) if steps is None else steps
        return Schedule.of(count, usual.shift if shift is None else shift, context, renoise=usual.renoise)

    @property
    def _preset(self) -> "Preset | None":
        """The preset that is named, if the whole strategy is one."""
        return None if self.whole is None else preset_of(self.whole)


def composes(*without: str) -> Callable[[Command], Command]:
    """Give a command the options of a strategy in place of its parameter `composition`; `without` names those it lacks."""
    options: dict[str, tuple[Any, Any]] = {
        name: (Annotated[str | None, option], None) for name, option in OPTIONS.items() if name not in without
    }
    return spread("composition", options, lambda values: Composition(**values))


def named(presets: Sequence[str] | None, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """The names and texts of the strategies of --preset and --strategy; one without a name goes by its text. Raises SpecError."""
    pairs = [(name.strip(), name.strip()) for name in presets or ()]
    for text in texts or ():
        name, equals, strategy = text.partition("=")
        if not equals or _composes(name):
            name = strategy = text
        if not name.strip() or not strategy.strip():
            raise SpecError(f"--strategy {text!r} is no NAME=TEXT. Write 'mine=relativistic fifo+flush'.")
        pairs.append((name.strip(), strategy.strip()))
    return pairs


def _composes(head: str) -> bool:
    """Whether what stands before the first '=' begins a strategy, as 'relativistic sink:window' does, and is no name."""
    words = head.split()
    kind = words[0].partition(":")[0] if words else ""
    return kind in names("positions") and (":" in head or words[-1] in REFINEMENTS)


def preset_of(text: str) -> "Preset | None":
    """The preset that a strategy's text names, if it is no composition. Raises SpecError."""
    if " " in text.strip():
        return None
    entry: Preset = find("presets", text.strip())
    return entry


def own_terms(texts: Sequence[str]) -> Iterator[str]:
    """A note for each preset that has blocks or noise levels of its own, where strategies share those of the model."""
    for text in texts:
        entry = preset_of(text)
        if entry is not None and (entry.block is not None or entry.schedule is not None):
            own = "blocks and noise levels" if entry.block is not None else "noise levels"
            yield f"note: the preset '{text}' has {own} of its own, which 'rollout gen' gives it; here all have the model's"
