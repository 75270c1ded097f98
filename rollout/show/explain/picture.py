"""The picture of a strategy: which frames it holds, and where in the model's time it puts them, block by block."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rollout.plan import Step, replayed
from rollout.slots import Mix, Pick, Role, Row, Slot, in_order
from rollout.text import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "LINE", "SIZE", "Marks", "draw", "marks", "runs", "told"]

INK = "#1f2328"
COLOURS = {"sink": "#e69f00", "memory": "#cc79a7", "recent": "#56b4e9", "folded": "#cc79a7", "chosen": "#cc79a7"}
"""Okabe and Ito's, told apart without red and green; the block itself has the colour of the text."""
SOFT = {"folded": 0.35, "chosen": 0.35, "reach": 0.12, "unread": 0.6, "ahead": 0.4}
ROLES = tuple(role.value for role in Role)
WORDS = {role: role for role in ROLES} | {"folded": "averaged", "block": "this block", "again": "re-encoded"}
WORDS |= {"chosen": "chosen from", "unread": "stored, not read", "ahead": "ahead", "reach": "trained on"}
"""The legend's, from the back of the picture to its front."""
SIZE = 8.0
"""Points of the text: legible where the picture is as wide as a phone."""
LEFT, RIGHT, HOLDS, DATES, GAP, BELOW = 0.36, 0.3, 1.25, 1.7, 0.36, 0.58
"""Inches: margins, the two panels, what is between them and under them."""
LINE = 0.14
"""Inches of a line of text."""
LEAST = 1.6
"""Points that a mark is high at least: one frame of hundreds would vanish."""
Span = tuple[int, int, int]
"""A column, and the first and last number of a run in it."""
Segment = tuple[int, list[str], str]
"""The first block, the lines of text above it, and what happens there: "cut", "switch" or ""."""


def told(steps: Iterable[Step]) -> Iterator[Json]:
    """Steps as JSON, with what else a picture shows: the frames `folded` into memory, and those `replayed`.

    Where there are any also the frames `chosen` from, and the number of frames `ahead` in the same pass.
    """
    before: tuple[Slot, ...] = ()
    for step in steps:
        if step.switch is not None:
            before = step.switch.slots
        if step.replay is not None:
            before = in_order(before + replayed(step.replay, step.block.frames, step.block.scene))
        memory = [row for slot, row in zip(step.room.slots, step.room.rows, strict=True) if slot.role is Role.MEMORY]
        averages = _recent(before, [row for row in memory if isinstance(row, Mix)])
        more: Json = {"folded": averages, "replayed": list(step.replay.frames) if step.replay else []}
        if step.room.picks:
            more["chosen"] = _recent(before, [row for row in memory if isinstance(row, Pick)])
        if step.own != step.placement:
            more["ahead"] = len(step.placement.block) - step.block.frames
        yield step.to_dict() | more
        before = step.after


def _recent(old: Sequence[Slot], rows: Iterable[Row]) -> list[int]:
    """The recent frames that rows take in."""
    return sorted({old[i].frame for row in rows for i in row.sources if old[i].role is Role.RECENT})


@dataclass
class Marks:
    """What a picture shows, as runs by role; "block" is the block's own frames, "again" those that were replayed."""

    dates: dict[str, list[Span]] = field(default_factory=dict)
    """Temporal indices."""
    holds: dict[str, list[Span]] = field(default_factory=dict)
    """Frames; "folded" those that the memory averages."""
    reach: list[tuple[int, int]] = field(default_factory=list)
    """Of each block the trained horizon that holds its newest query: first and last index."""
    crowd: dict[int, int] = field(default_factory=dict)
    """Slots by index, where the last block finds more than one there."""


def marks(steps: Sequence[Mapping[str, Any]], trained: int) -> Marks:
    """Steps to runs."""
    result, born, mixture = Marks(), None, "folded"
    for step in steps:
        placement, again = step["placement"], step.get("replayed", [])
        count_own = len(placement["block"]) - step.get("ahead", 0)
        slots = [(s["role"], s["frame"], p) for s, p in zip(step["slots"], placement["slots"], strict=True)]
        read = [(role, frame, index) for role, frame, index in slots if index is not None]
        frames = {role: [f for r, f, _ in read if r == role] for role in ROLES}
        dates = {role: [p for r, _, p in read if r == role] for role in ROLES}
        end = step["start"] + count_own
        frames["block"], dates["block"] = list(range(step["start"], end)), placement["block"][:count_own]
        frames["ahead"], dates["ahead"] = list(range(end, end + step.get("ahead", 0))), placement["block"][count_own:]
        frames["again"] = [f for r, f, _ in read if f in again and r != "memory"]
        dates["again"] = [p for r, f, p in read if f in again and r != "memory"]
        frames["unread"] = [f for _, f, p in slots if p is None and f not in {frame for _, frame, _ in read}]
        memory = [f for r, f, _ in slots if r == "memory"]
        # A memory begins with the oldest frame that it ever took in, and ends where it is dropped.
        oldest: list[int] = [] if born is None else [born]
        born = min([*step.get("folded", ()), *step.get("chosen", ()), *oldest], default=None) if memory else None
        mixture = "chosen" if step.get("chosen") else mixture
        frames[mixture] = [] if born is None else list(range(born, max(memory)))
        for into, numbers in ((result.holds, frames), (result.dates, dates)):
            for role, values in numbers.items():
                into.setdefault(role, []).extend((step["block"], *run) for run in runs(values))
        newest = max(placement["block"])
        result.reach.append((max(0, newest - trained + 1), max(trained - 1, newest)))
        result.crowd = {index: n for index, n in Counter(p for _, _, p in read).items() if n > 1}
    return result


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as their longest stretches without a gap, first and last."""
    stretches = groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    return [(stretch[0][1], stretch[-1][1]) for stretch in (list(pairs) for _, pairs in stretches)]


def draw(
    steps: Sequence[Mapping[str, Any]],
    *,
    prompts: Sequence[str] = (),
    title: str = "",
    trained: int = 21,
    seconds: float | None = None,
    width: float = 4.2,
    ink: str = INK,
) -> "Figure":
    """Above the frames that are cached, below the temporal indices that they get: a column a block, by role.

    `steps` as `told` gives them, or `Step.to_dict`; `prompts` the script's, in order; `seconds` a block's length.
    """
    from matplotlib.figure import Figure

    whole_marks, first = marks(steps, trained), steps[0]["block"]
    above = head(steps, prompts, (width - LEFT - RIGHT) * 72)
    lines = max(len(text) for _, text, _ in above)
    top = 0.33 + LINE * (lines + (1.4 if title else 0))
    height = top + HOLDS + GAP + DATES + BELOW
    figure = Figure(figsize=(width, height))
    panels = []
    for name, bottom, tall in (("holds", height - top - HOLDS, HOLDS), ("dates", BELOW, DATES)):
        box = (LEFT / width, bottom / height, (width - LEFT - RIGHT) / width, tall / height)
        panels.append(figure.add_axes(box, facecolor="none", label=name))
        panels[-1].set_xlim(first - 0.5, first + len(steps) - 0.5)
    holds, dates = panels
    panel(holds, "What it remembers: cached frames by number", whole_marks.holds, [], ink)
    panel(dates, "When the model takes them to be: temporal index", whole_marks.dates, whole_marks.reach, ink)
    apart(dates, steps, trained, ink)
    for index, count in whole_marks.crowd.items():
        dates.text(first + len(steps) - 0.4, index, f"×{count}", **font(ink, va="center"))
    events(panels, above, ink)
    holds.tick_params(labelbottom=False)
    dates.set_xlabel(f"block, {seconds:.3g} s each" if seconds else "block", size=SIZE, color=ink, labelpad=2)
    if title:
        figure.text(0.01, 1 - 0.05 / height, title, **font(ink, size=SIZE + 1, weight="bold", va="top"))
    roles = [role for role in WORDS if role == "reach" or whole_marks.holds.get(role)]
    legend(figure, {WORDS[role]: style(role, ink) for role in roles}, ink)
    return figure


def font(ink: str, **more: Any) -> dict[str, Any]:
    return {"size": SIZE - 0.5, "color": ink, "parse_math": False, **more}


def frame(axes: "Axes", name: str, high: float, ink: str) -> None:
    """A panel's name, axes and ticks, from 0 to `high`."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(-0.7, high + 0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=ink, alpha=0.35, linewidth=0.7)
    axes.tick_params(labelsize=SIZE - 0.5, labelcolor=ink, color=(0, 0, 0, 0), length=2, pad=1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(name, loc="left", size=SIZE, color=ink, pad=3, x=-0.3 / (axes.bbox.width / axes.figure.dpi))


def panel(axes: "Axes", name: str, spans: Mapping[str, Sequence[Span]], reach: list[tuple[int, int]], ink: str) -> None:
    """One panel: a mark a run, from 0 to the highest number."""
    frame(axes, name, max([n for stretches in spans.values() for _, _, n in stretches] + [n for _, n in reach]), ink)
    if reach:
        edges = [axes.get_xlim()[0] + i for i in range(len(reach) + 1)]
        low = [a - 0.5 for a, _ in [*reach, reach[-1]]]
        top = [b + 0.5 for _, b in [*reach, reach[-1]]]
        axes.fill_between(edges, low, top, step="post", color=ink, alpha=0.08, lw=0)
    for role in WORDS:
        if spans.get(role):
            fill(axes, role, spans[role], style(role, ink))


def style(role: str, ink: str) -> dict[str, Any]:
    """How a role's marks look, as a patch's properties."""
    if role == "unread":
        return {
            "facecolor": "none",
            "edgecolor": ink,
            "alpha": SOFT[role],
            "hatch": "//////",
            "linewidth": 0,
            "zorder": 1,
        }
    if role == "again":
        return {"fill": False, "edgecolor": ink, "linewidth": 0.9, "zorder": 3}
    return {"facecolor": COLOURS.get(role, ink), "alpha": SOFT.get(role), "linewidth": 0, "zorder": 2}


def fill(axes: "Axes", role: str, spans: Sequence[Span], look: Mapping[str, Any]) -> None:
    """All of a role's marks as one path, which keeps the file small; its gid is PANEL-ROLE."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    inches = axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi
    wide, tall = (72 * inch / (b - a) for inch, (a, b) in zip(inches, (axes.get_xlim(), axes.get_ylim()), strict=True))
    x, y = (0.43 if wide >= 3 else 0.5), (0.42 if tall >= 3 else 0.5)
    single = tall >= 3 and role != "again"
    vertices: list[tuple[float, float]] = []
    for column, begin, end in spans:
        for a, b in [(n, n) for n in range(begin, end + 1)] if single else [(begin, end)]:
            middle, half = (a + b) / 2, max((b - a) / 2 + y, LEAST / tall / 2)
            bottom, top = middle - half, middle + half
            vertices += [(column - x, bottom), (column + x, bottom), (column + x, top), (column - x, top), (column, 0)]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    axes.add_patch(PathPatch(Path(vertices, codes), gid=f"{axes.get_label()}-{role}", **look))


def apart(axes: "Axes", steps: Sequence[Mapping[str, Any]], trained: int, ink: str) -> None:
    """An arrow where the newest query ends farther from a cached frame than training ever saw."""
    placement = steps[-1]["placement"]
    low = min([index for index in placement["slots"] if index is not None] + placement["block"])
    high = max(placement["block"])
    if high - low < trained:
        return
    place, text = axes.get_yaxis_transform(), f"{high - low} apart,\n{trained - 1} at most in training"
    style = {"arrowstyle": "<->", "color": ink, "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    axes.annotate("", (1.02, low - 0.5), (1.02, high + 0.5), place, place, style, annotation_clip=False)
    axes.text(0.985, low + 0.32 * (high - low), text, **font(ink, ha="right", va="center", transform=place))


def head(steps: Sequence[Mapping[str, Any]], prompts: Sequence[str], width: float) -> list[Segment]:
    """What is written above each segment, where `width` points are there for all; numbers where there is little room."""
    opens = [step for i, step in enumerate(steps) if i == 0 or step["switch"] or step["cut"]]
    edges = [*(step["block"] for step in opens), steps[-1]["block"] + 1]
    room = [int((b - a) / len(steps) * width / (0.54 * SIZE)) for a, b in pairwise(edges)]
    out = []
    for step, letters in zip(opens, room, strict=True):
        number, event = step["prompt"], step is not steps[0]
        lines = [f"{number + 1}{'#' if step['cut'] else ''}"]
        if min(room) >= 10:
            prompt = prompts[number] if number < len(prompts) else ""
            words = ", ".join(["cut"] * step["cut"] + ["new prompt"] * step["switch"]) if event else ""
            lines = [words[:letters], *wrap(prompt, letters, max_lines=3, placeholder="…")]
        kind = "cut" if step["cut"] else "switch"
        out.append((step["block"], lines, kind if event else ""))
    return out


def events(panels: Sequence["Axes"], head: Sequence[Segment], ink: str) -> None:
    """Rules through the panels where prompts change (dashed) and cuts fall (solid), and the prompts above the first."""
    above = max(len(lines) for _, lines, _ in head)
    for block, lines, event in head:
        for axes in panels if event else ():
            style = "-" if event == "cut" else (0, (3, 2))
            name = f"{axes.get_label()}-{event}"
            axes.axvline(block - 0.5, color=ink, lw=0.9, ls=style, alpha=0.75, zorder=4, gid=name)
        for n, line in enumerate(lines):
            where, offset = panels[0].get_xaxis_transform(), (1, 72 * (0.23 + LINE * (above - n - 1)))
            bold = font(ink, weight="normal" if n else "bold")
            panels[0].annotate(line, (block - 0.5, 1), offset, where, "offset points", **bold)


def legend(figure: "Figure", looks: Mapping[str, Mapping[str, Any]], ink: str) -> None:
    """What the looks mean, in one line under the panels."""
    from matplotlib.patches import Rectangle
    from matplotlib.textpath import TextPath

    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (0, 0, 1, 0.2 / height), facecolor="none", xlim=(0, width * 72), ylim=(0, 14.4), label="legend"
    )
    axes.set_axis_off()
    sizes = [TextPath((0, 0), text, size=SIZE - 0.5).get_extents().width + 9.5 for text in looks]
    x, gap = 4.0, min(9.0, (width * 72 - 4 - sum(sizes)) / len(looks))
    for (text, look), size in zip(looks.items(), sizes, strict=True):
        axes.add_patch(Rectangle((x, 4), 7, 7, **look))
        axes.text(x + 9.5, 4.6, text, **font(ink))
        x += size + gap
