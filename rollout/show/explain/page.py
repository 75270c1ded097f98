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
from rollout.show.explain.advice import Advice
from rollout.show.explain.cells import cells, differ, folds
from rollout.show.explain.views import Difference, Mark, Sight, compare, sights
from rollout.show.explain.words import listed, ranges
from rollout.slots import Mix, Pick, Role
from rollout.specs import GROUP_OF, part_to_text
from rollout.strategy import AXES, Strategy
from rollout.text import Json, first_paragraph
from rollout.timeline import blocks_of
from rollout.views import ANY, Horizon

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
    sights: Sequence[Sight]


def sides(
    strategies: Iterable[tuple[str, Strategy]],
    script: Script,
    spec: Spec,
    longest: int = LONGEST,
    *,
    horizon: Horizon = ANY,
) -> list[Side]:
    """Roll out strategies over a script without a model. Raises OutputError where it is too long to be shown."""
    blocks = script.count(spec)
    if blocks > longest:
        raise OutputError(
            f"the script has {blocks} blocks; a picture shows {longest} at most. Shorten its durations to "
            f"{longest * spec.block_seconds:g}s in all: what a strategy does repeats."
        )
    return [
        Side(name, strategy, list(sights(strategy, blocks_of(script, spec), spec, horizon=horizon)))
        for name, strategy in strategies
    ]


def page(drawing: Sequence[Side], script: Script, spec: Spec, *, text: str, command: str) -> str:
    """The page as HTML: `text` is the script as given, `command` what made it. Raises OutputError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    home = Path(__file__).parent
    differences = (
        [compare(a, b) for a, b in zip(*(side.sights for side in drawing), strict=True)] if drawing[1:] else []
    )
    data = json.dumps(_data(drawing, differences, script, spec), ensure_ascii=False, separators=(",", ":"))
    if len(data) > LARGEST:
        raise OutputError(
            f"the page would hold {len(data) / 2**20:.0f} MiB, more than {LARGEST >> 20}. Shorten the script or the window."
        )
    environment = Environment(
        loader=FileSystemLoader(home), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    plain = all(sight.plain for side in drawing for sight in side.sights)
    sheets = ["../base.css", "page.css"] if plain else ["../base.css", "page.css", "refined.css"]
    style = "".join((home / name).read_text(encoding="utf-8") for name in sheets)
    # a script's lines for refinements are Jinja's, in comments: a page without refinements does not carry them
    scripts = environment.overlay(line_statement_prefix="//#", keep_trailing_newline=True)
    code = "".join(scripts.get_template(name).render(refined=not plain) for name in ("ruler.js", "page.js"))
    return environment.get_template("page.html").render(
        sides=[_words(side, spec) for side in drawing],
        refined=not plain,
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


def _words(side: Side, spec: Spec) -> Json:
    """A strategy in words: its rules, how near the distances in use look, and what it loses."""
    advice = Advice.of(side.strategy, spec, side.sights)
    words = {"name": side.name, "text": str(side.strategy), "parts": _parts(side.strategy)}
    return words | {"near": advice.line().replace(": --coherence says when", ""), "warnings": advice.warnings()}


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
        {"axis": axis, "text": part_to_text(getattr(strategy, axis)), "says": _says(strategy, axis)}
        for axis in (*AXES, *strategy.refinements)
    ]


def _says(strategy: Strategy, axis: str) -> str:
    """A rule's own words; nothing where the rule is not registered."""
    try:
        return first_paragraph(find(GROUP_OF[axis], getattr(strategy, axis).kind))
    except RolloutError:
        return ""


def _data(drawing: Sequence[Side], differences: Sequence[Difference], script: Script, spec: Spec) -> Json:
    """What the page's script draws."""
    blocks = [sight.step.block for sight in drawing[0].sights]
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
    window, plain = side.strategy.policy.window, all(sight.plain for sight in side.sights)
    steps = []
    for n, sight in enumerate(side.sights):
        step = sight.step
        entry: Json = {
            "slots": [[ROLES.index(slot.role), slot.frame, index] for slot, index in sight.read],
            "own": list(sight.own),
            "says": cells(sight, window=window, trained=trained),
        }
        if not plain:
            entry |= _refined(sight)
        if step.replay is not None:
            entry["again"] = list(step.replay.frames)
        if any(folds(slot, row, sight.offered) for slot, row in zip(step.room.slots, step.room.rows, strict=True)):
            entry["mix"] = _mix(sight)
        if differences:
            marks = (differences[n].first, differences[n].second)[number]
            entry["marks"] = "".join(CODES[mark] for mark in marks.values())
        steps.append(entry)
    return {"name": side.name, "steps": steps}


def _refined(sight: Sight) -> Json:
    """What a plain block does not have: slots that are not read, dates, chosen tokens, frames ahead, a clean pass's reads.

    Slots that are not read as [place in the cache, role, frame, date]; the others go by their place among those read.
    """
    step, slots = sight.step, [slot for slot, _ in sight.read]
    picks = {i for i, row in enumerate(step.room.rows) if isinstance(row, Pick)}
    unread = [(i, step.slots[i]) for i, index in enumerate(step.placement.slots) if index is None]
    entry: Json = {
        "unread": [[i, ROLES.index(slot.role), slot.frame, slot.date] for i, slot in unread],
        "dates": [[n, slot.date] for n, slot in enumerate(slots) if slot.date is not None],
        "picked": [n for n, i in enumerate(step.placement.read) if i in picks],
        "ahead": list(sight.ahead.values()),
    }
    return {name: value for name, value in entry.items() if value} | {"read": listed(sight.clean)}


def _mix(sight: Sight) -> list[Json]:
    """What each memory stream is made of now: its weights over the old streams and over the frames taken in."""
    old = sight.offered
    numbers = {i: n for n, i in enumerate(i for i, slot in enumerate(old) if slot.role is Role.MEMORY)}
    pairs = zip(sight.step.room.slots, sight.step.room.rows, strict=True)
    rows = [row for slot, row in pairs if slot.role is Role.MEMORY and isinstance(row, Mix)]
    return [
        {
            "old": [[numbers[i], w] for i, w in row.weights if i in numbers],
            "new": [[old[i].frame, round(w, 9)] for i, w in row.weights if i not in numbers],
        }
        for row in rows
    ]


def _rows(drawing: Sequence[Side], differences: Sequence[Difference], spec: Spec) -> Iterable[Json]:
    """The table: every block at which something happens, and of a pattern that repeats the first few."""
    repeats = 0
    for n, abreast in enumerate(zip(*(side.sights for side in drawing), strict=True)):
        step = abreast[0].step
        before = [side.sights[n - 1].pattern() for side in drawing] if n else None
        repeats = repeats + 1 if before == [sight.pattern() for sight in abreast] and step.switch is None else 0
        if repeats < STEADY:
            yield {
                "block": n,
                "at": f"{spec.seconds(step.block.start):.2f}",
                "frames": ranges(range(step.block.start, step.block.end)),
                "sides": [_cells(side, sight, spec) for side, sight in zip(drawing, abreast, strict=True)],
                "differ": differ(differences[n]) if differences else [],
                "event": step.switch is not None,
            }
        elif repeats == STEADY:
            yield {}


def _cells(side: Side, sight: Sight, spec: Spec) -> Json:
    slots = sight.step.slots
    where = f"at {ranges(index for _, index in sight.read)}" if sight.read else "none of them read"
    rows = cells(sight, window=side.strategy.policy.window, trained=spec.trained)
    return {"held": f"{listed(slots)}, {where}" if slots else "nothing", "own": ranges(sight.own), "says": rows}
