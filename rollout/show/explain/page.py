"""The page that steps through a strategy's blocks, or those of two: one file that opens from disk, without a network."""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rollout.backend import Spec
from rollout.errors import OutputError, RolloutError
from rollout.registry import find
from rollout.script import Script
from rollout.show.explain.cells import cells, differ, folds, listed, ranges
from rollout.show.explain.views import Difference, Mark, View, compare, views
from rollout.slots import Role
from rollout.specs import GROUP_OF, part_to_text
from rollout.strategy import AXES, Strategy
from rollout.text import Json, first_paragraph
from rollout.timeline import blocks_of

__all__ = ["LONGEST", "Side", "page", "sides"]

LONGEST = 3000
"""Blocks that a page holds at most: beyond, its file and its table of text no longer open at once."""
LARGEST = 16 * 2**20
"""Bytes of a page's data at most."""
STEADY = 2
"""Blocks of an unchanging pattern that the table shows before it skips ahead."""
ROLES = list(Role)
CODES = {Mark.SAME: "s", Mark.ONLY: "o", Mark.MOVED: "m", Mark.MADE: "x"}


@dataclass(frozen=True)
class Side:
    """One strategy of a page under the name that it goes by."""

    name: str
    strategy: Strategy
    views: Sequence[View]


def sides(strategies: Iterable[tuple[str, Strategy]], script: Script, spec: Spec, longest: int = LONGEST) -> list[Side]:
    """Roll out strategies over a script without a model. Raises OutputError where it is too long to be shown."""
    blocks = script.count(spec)
    if blocks > longest:
        raise OutputError(
            f"the script has {blocks} blocks; a picture shows {longest} at most. Shorten its durations to "
            f"{longest * spec.block_seconds:g}s in all: what a strategy does repeats."
        )
    return [Side(name, strategy, list(views(strategy, blocks_of(script, spec), spec))) for name, strategy in strategies]


def page(drawing: Sequence[Side], script: Script, spec: Spec, *, text: str, command: str) -> str:
    """The page as HTML: `text` is the script as given, `command` what made it. Raises OutputError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    home = Path(__file__).parent
    differences = [compare(a, b) for a, b in zip(*(side.views for side in drawing), strict=True)] if drawing[1:] else []
    data = json.dumps(_data(drawing, differences, script, spec), ensure_ascii=False, separators=(",", ":"))
    if len(data) > LARGEST:
        raise OutputError(
            f"the page would hold {len(data) / 2**20:.0f} MiB, more than {LARGEST >> 20}. Shorten the script or the window."
        )
    environment = Environment(
        loader=FileSystemLoader(home), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    texts = [(home / name).read_text(encoding="utf-8") for name in ("../base.css", "page.css", "ruler.js", "page.js")]
    style, code = "".join(texts[:2]), "".join(texts[2:])
    return environment.get_template("page.html").render(
        sides=[{"name": side.name, "text": str(side.strategy), "parts": _parts(side.strategy)} for side in drawing],
        trained=spec.trained,
        script=text,
        command=command,
        facts=_facts(script, spec),
        rows=list(_rows(drawing, differences, spec)),
        data=Markup(data.replace("<", "\\u003c")),  # noqa: S704  # no tag can open in it
        style=Markup(style),  # noqa: S704  # our own
        code=Markup(code),  # noqa: S704
        hashes={"style": _hash(style), "script": _hash(code)},
    )


def _hash(source: str) -> str:
    """A source's hash for the page's content security policy."""
    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"


def _facts(script: Script, spec: Spec) -> dict[str, str]:
    blocks, seconds = script.count(spec), spec.block_seconds
    return {
        "Length": f"{blocks} blocks of {spec.block} frames, {seconds:g} s each",
        "Model": f"{spec.name}, trained on {spec.trained} frames: indices 0 to {spec.trained - 1}",
    }


def _parts(strategy: Strategy) -> list[dict[str, str]]:
    """Each part with the first paragraph of its documentation."""
    return [
        {"axis": axis, "text": part_to_text(getattr(strategy, axis)), "says": _says(strategy, axis)} for axis in AXES
    ]


def _says(strategy: Strategy, axis: str) -> str:
    """A rule's own words; nothing where the rule is not registered."""
    try:
        return first_paragraph(find(GROUP_OF[axis], getattr(strategy, axis).kind))
    except RolloutError:
        return ""


def _data(drawing: Sequence[Side], differences: Sequence[Difference], script: Script, spec: Spec) -> Json:
    """What the page's script draws."""
    blocks = [view.step.block for view in drawing[0].views]
    return {
        "trained": spec.trained,
        "size": spec.block,
        "times": [round(spec.seconds(block.start), 3) for block in blocks] + [round(spec.seconds(blocks[-1].end), 3)],
        "prompts": list(script.prompts),
        "blocks": [[block.start, block.prompt, int(block.switch), int(block.cut)] for block in blocks],
        "sides": [_side(side, n, differences, spec.trained) for n, side in enumerate(drawing)],
        "differ": [differ(difference) for difference in differences],
    }


def _side(side: Side, number: int, differences: Sequence[Difference], trained: int) -> Json:
    """A strategy's blocks: slots as [role, frame, index], marks a slot and frame, and what its memory takes in."""
    window = side.strategy.policy.window
    steps = []
    for n, view in enumerate(side.views):
        step = view.step
        pairs = zip(step.slots, step.placement.slots, strict=True)
        entry: Json = {
            "slots": [[ROLES.index(slot.role), slot.frame, index] for slot, index in pairs],
            "own": list(step.placement.block),
            "says": cells(view, window=window, trained=trained),
        }
        if step.replay is not None:
            entry["again"] = list(step.replay.frames)
        if any(folds(slot, row, view.offered) for slot, row in zip(step.room.slots, step.room.rows, strict=True)):
            entry["mix"] = _mix(view)
        if differences:
            marks = (differences[n].first, differences[n].second)[number]
            entry["marks"] = "".join(CODES[mark] for mark in marks.values())
        steps.append(entry)
    return {"name": side.name, "steps": steps}


def _mix(view: View) -> list[Json]:
    """What each memory stream is made of now: its weights over the old streams and over the frames taken in."""
    old = view.offered
    numbers = {i: n for n, i in enumerate(i for i, slot in enumerate(old) if slot.role is Role.MEMORY)}
    rows = [
        row for slot, row in zip(view.step.room.slots, view.step.room.rows, strict=True) if slot.role is Role.MEMORY
    ]
    return [
        {
            "old": [[numbers[i], w] for i, w in row if i in numbers],
            "new": [[old[i].frame, round(w, 9)] for i, w in row if i not in numbers],
        }
        for row in rows
    ]


def _rows(drawing: Sequence[Side], differences: Sequence[Difference], spec: Spec) -> Iterable[Json]:
    """The table: every block at which something happens, and of a pattern that repeats the first few."""
    repeats = 0
    for n, views_ in enumerate(zip(*(side.views for side in drawing), strict=True)):
        step = views_[0].step
        before = [side.views[n - 1].pattern() for side in drawing] if n else None
        repeats = repeats + 1 if before == [view.pattern() for view in views_] and step.switch is None else 0
        if repeats < STEADY:
            yield {
                "block": n,
                "at": f"{spec.seconds(step.block.start):.2f}",
                "frames": ranges(range(step.block.start, step.block.end)),
                "sides": [_cells(side, view, spec) for side, view in zip(drawing, views_, strict=True)],
                "differ": differ(differences[n]) if differences else [],
                "event": step.switch is not None,
            }
        elif repeats == STEADY:
            yield {}


def _cells(side: Side, view: View, spec: Spec) -> Json:
    step = view.step
    content = f"{listed(step.slots)}, at {ranges(step.placement.slots)}" if step.slots else "nothing"
    rows = cells(view, window=side.strategy.policy.window, trained=spec.trained)
    return {"held": content, "own": ranges(step.placement.block), "says": rows}
