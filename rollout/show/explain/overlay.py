"""Pictures of whole rollouts as files: one strategy, or two laid over each other to show exactly where they differ."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.backend import Spec
from rollout.script import Script
from rollout.show.explain import picture
from rollout.show.explain.page import Side
from rollout.show.explain.picture import INK
from rollout.show.explain.views import Difference, Key, Mark, Sight, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "SIDES", "paint", "save"]

COLUMNS = 1000
"""Blocks of a picture at most: of more, a column is no longer seen."""
WIDTH, DPI, PAPER, TONES = 9.0, 144, "#fdfdfb", 96
"""Inches, dots an inch, and the ground and number of the file's colours: few, for a third of the bytes."""
SIDES = {"both": "#9a9fa6", "a": "#0072b2", "b": "#d55e00"}
"""What both hold is grey, what only A or only B holds Okabe and Ito's blue or vermillion."""
PALE = 0.28
"""Opacity of what is the same in both."""
SHARED, DATES, AWAY = 1.4, 1.4, 0.75
"""Inches: the panel of frames, those of indices, and that of distances."""


def paint(drawing: Sequence[Side], script: Script, spec: Spec) -> "Figure":
    """One strategy's blocks, or two strategies' with what differs."""
    seconds = spec.block_seconds
    if len(drawing) == 1:
        side = drawing[0]
        text = str(side.strategy)
        figure = picture.draw(
            list(picture.told(sight.step for sight in side.sights)),
            prompts=script.prompts,
            title=_short(text if side.name == text else f"{side.name}: {text}"),
            trained=spec.trained,
            seconds=seconds,
            width=WIDTH,
        )
    else:
        figure = overlay(drawing[0], drawing[1], script.prompts, spec.trained, seconds)
    figure.set_facecolor(PAPER)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    from PIL import Image

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    Image.open(buffer).convert("RGB").quantize(TONES, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def overlay(a: Side, b: Side, prompts: Sequence[str], trained: int, seconds: float) -> "Figure":
    """Above, the frames that only one of them holds or both; below, the indices of each: what agrees is pale."""
    from matplotlib.figure import Figure

    differences = [compare(*both) for both in zip(a.sights, b.sights, strict=True)]
    steps = list(picture.told(sight.step for sight in a.sights))
    above = picture.head(steps, prompts, (WIDTH - picture.LEFT - picture.RIGHT) * 72)
    top = 0.33 + picture.LINE * (max(len(text) for _, text, _ in above) + 1.4)
    height = top + SHARED + 2 * (picture.GAP + DATES) + picture.GAP + AWAY + picture.BELOW
    figure, bottom, panels = Figure(figsize=(WIDTH, height)), height - top, []
    for name, tall in (("frames", SHARED), ("a", DATES), ("b", DATES), ("away", AWAY)):
        bottom -= tall
        box = (picture.LEFT / WIDTH, bottom / height, (WIDTH - picture.LEFT - picture.RIGHT) / WIDTH, tall / height)
        panels.append(figure.add_axes(box, facecolor="none", label=name, xlim=(-0.5, len(differences) - 0.5)))
        bottom -= picture.GAP
    frames = _frames(differences)
    picture.frame(panels[0], "Cached frames by number", a.sights[-1].step.block.end - 1, INK)
    looks = {role: {"facecolor": colour, "linewidth": 0} for role, colour in SIDES.items()}
    for role, look in looks.items():
        if frames[role]:
            picture.fill(panels[0], role, frames[role], look)
    roles = {"reach"}
    for axes, side, name, attribute in zip(panels[1:3], (a, b), "AB", ("first", "second"), strict=True):
        marks_of_side = picture.marks(list(picture.told(sight.step for sight in side.sights)), trained)
        picture.panel(axes, _short(f"{name}, {side.name}: temporal index"), {}, marks_of_side.reach, INK)
        roles |= _indices(axes, side.sights, [getattr(x, attribute) for x in differences])
    _away(panels[3], (a, b), trained)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    picture.events(panels, above, INK)
    panels[-1].set_xlabel(f"block, {seconds:.3g} s each", size=picture.SIZE, color=INK, labelpad=2)
    title = f"A {_short(a.name, 48)}  against  B {_short(b.name, 48)}"
    figure.text(0.01, 1 - 0.05 / height, title, **picture.font(INK, size=picture.SIZE + 1, weight="bold", va="top"))
    key = {"only A holds it": looks["a"], "only B": looks["b"], "both": looks["both"]}
    key |= {picture.WORDS[role]: picture.style(role, INK) for role in picture.WORDS if role in roles}
    key["pale: the same in both"] = {"facecolor": INK, "alpha": PALE, "linewidth": 0}
    picture.legend(figure, key, INK)
    return figure


def _short(text: str, letters: int = 105) -> str:
    """What fits on a line of the picture."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _away(axes: "Axes", sides: Sequence[Side], trained: int) -> None:
    """How far the farthest key lies from the newest query, a line a strategy; dotted is the most in training."""
    away = [
        [max(sight.own[-1] - index for index in sight.indices().values()) for sight in side.sights] for side in sides
    ]
    picture.frame(axes, f"Farthest key from the newest query; dotted: {trained - 1}, the most in training", 0, INK)
    for name, values in zip("ab", away, strict=True):
        edges = [n - 0.5 for n in range(len(values) + 1)]
        axes.stairs(values, edges, color=SIDES[name], linewidth=1.6, baseline=None, gid=f"away-{name}")
    axes.axhline(trained - 1, color=INK, lw=0.8, ls=(0, (1, 2)), gid="away-trained")
    axes.set_ylim(0, max(*map(max, away), trained) * 1.08)


def _frames(differences: Sequence[Difference]) -> dict[str, list[picture.Span]]:
    """Cached frames that both hold, only A, only B, as runs a block; memory is no frame."""
    spans: dict[str, list[picture.Span]] = {"both": [], "a": [], "b": []}
    for x in differences:
        only = [set(_numbers(x.of(Mark.ONLY, side))) for side in (0, 1)]
        for role, numbers in zip(spans, (set(_numbers(x.places)), *only), strict=True):
            spans[role] += [(x.block, *run) for run in picture.runs(numbers)]
    return spans


def _numbers(keys: Iterable[Key]) -> list[int]:
    return [n for kind, n in keys if kind == "frame"]


def _indices(axes: "Axes", sights: Sequence[Sight], marks: Sequence[Mapping[Key, Mark]]) -> set[str]:
    """A strategy's slots by role, what is the same in both pale; the roles that occur."""
    spans: dict[str, list[picture.Span]] = {}
    for sight, sight_marks in zip(sights, marks, strict=True):
        block = sight.step.block
        roles = [slot.role.value for slot, _ in sight.read] + ["block"] * block.frames + ["ahead"] * len(sight.ahead)
        by_role: dict[str, list[int]] = {}
        for role, (key, index) in zip(roles, sight.indices().items(), strict=True):
            by_role.setdefault(f"{role}-same" if sight_marks[key] is Mark.SAME else role, []).append(index)
        for role, numbers in by_role.items():
            spans.setdefault(role, []).extend((block.index, *run) for run in picture.runs(numbers))
    for role, stretches in spans.items():
        plain = role.removesuffix("-same")
        picture.fill(axes, role, stretches, picture.style(plain, INK) | ({"alpha": PALE} if role != plain else {}))
    return {role.removesuffix("-same") for role in spans}
