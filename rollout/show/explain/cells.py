"""What happens at a block as rows of a table: a word that says what a row is about, and a short cell read off the step."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rollout.show.explain.picture import runs
from rollout.show.explain.views import Difference, Key, Mark, View
from rollout.slots import Role, Row, Slot

__all__ = ["Cell", "cells", "differ", "folds", "listed", "ranges"]

Cell = tuple[str, str]
"""What a row is about, and what there is to say."""


def cells(view: View, *, window: int, trained: int) -> list[Cell]:
    """The rows of one block; `window` is the policy's and `trained` the model's horizon, in frames."""
    return [*_event(view), *_jump(view), *_room(view, window), *_distances(view, trained)]


def _event(view: View) -> list[Cell]:
    """The prompt change or cut: what stays, what goes, what is encoded again."""
    step, block = view.step, view.step.block
    if step.switch is None:
        return []
    word = ", ".join(["cut"] * block.cut + ["new prompt"] * (block.switch or not block.cut))
    again = step.replay.frames if step.replay else ()
    sources = _used(step.switch.rows)
    drops = [slot for i, slot in enumerate(view.before) if i not in sources and slot.frame not in again]
    if step.replay is not None:
        how = "one pass" if step.replay.bidirectional else "block by block"
        parts = [f"recache {ranges(again)}, {how}"]
    else:
        parts = ["flush" if drops else "cache kept"]
    parts += [f"keeps {listed(step.switch.slots)}"] if step.switch.slots else []
    parts += [f"drops {listed(drops)}"] if drops else []
    return [(word, "; ".join(parts))]


def _jump(view: View) -> list[Cell]:
    """How a cut moves the block's frames."""
    block, now, natural = view.step.block, view.step.placement.block, view.natural.block
    if not block.cut:
        return []
    jumps = [i for i, index in enumerate(now) if index != natural[i]]
    stays = [i for i in range(block.frames) if i not in jumps]
    if not jumps:
        return [("RoPE cut", "no index jumps: a flush alone")]
    parts = [f"{ranges(block.start + i for i in jumps)} at {ranges(now[i] for i in jumps)}"]
    parts[0] += f", not {ranges(natural[i] for i in jumps)}"
    parts += [f"{ranges(block.start + i for i in stays)} stays at {ranges(now[i] for i in stays)}"] if stays else []
    return [("RoPE cut", "; ".join([*parts, "this block only"]))]


def _room(view: View, window: int) -> list[Cell]:
    """Who leaves to make room, and whether it lives on in the memory."""
    step, old = view.step, view.offered
    if not old:
        return [("cache", "empty: the block sees itself alone")]
    sources = _used(step.room.rows)
    leavers = [slot for i, slot in enumerate(old) if i not in sources]
    streams = [n for n, row in enumerate(step.room.rows) if folds(step.room.slots[n], row, old)]
    rows: list[Cell] = []
    if streams:
        mixtures = [step.room.rows[n] for n in streams]
        taken_in = {old[i].frame for row in mixtures for i, _ in row if old[i].role is not Role.MEMORY}
        grows = any(old[i].role is Role.MEMORY for row in mixtures for i, _ in row)
        shares = ", ".join(f"{sum(w for i, w in row if old[i].role is not Role.MEMORY):g}" for row in mixtures)
        into = f"memory ({len(streams)}), weight {shares}" if grows else f"new memory ({len(streams)})"
        mean = "over all tokens" if step.room.pooled.issuperset(streams) else "token by token"
        rows.append(("memory", f"{ranges(taken_in)} into {into}, {mean}"))
    if leavers:
        rows.append(("cache", f"drops {listed(leavers)}: window {window} is full"))
    return rows or [("cache", f"nothing leaves: {len(step.slots)} + {step.block.frames} of {window}")]


def _used(rows: Iterable[Row]) -> set[int]:
    """The old slots that an edit's rows take in."""
    return {i for row in rows for i, _ in row}


def folds(slot: Slot, row: Row, old: Sequence[Slot]) -> bool:
    """Whether a memory slot takes in frames of the old cache."""
    return slot.role is Role.MEMORY and any(old[i].role is not Role.MEMORY for i, _ in row)


def _distances(view: View, trained: int) -> list[Cell]:
    """How the distances that the model sees compare with the true ones."""
    step, last, newest = view.step, view.step.placement.block[-1], view.step.block.end - 1
    pairs = list(zip(step.slots, step.placement.slots, strict=True))
    rows: list[Cell] = []
    for role in (Role.SINK, Role.RECENT):
        off = [(slot, p) for slot, p in pairs if slot.role is role and newest - slot.frame != last - p]
        if off:
            true, shown_at = ranges(newest - slot.frame for slot, _ in off), ranges(last - p for _, p in off)
            rows.append(("in time", f"{listed([slot for slot, _ in off])}: {true} back, seen {shown_at} back"))
    memory = [p for slot, p in pairs if slot.role is Role.MEMORY]
    if memory:
        rows.append(("in time", f"memory at {ranges(memory)}, {ranges(last - p for p in memory)} back"))
    elif pairs and not rows:
        rows.append(("in time", "all at true distances"))
    for index, count in sorted(Counter(p for _, p in pairs).items()):
        if count > 1:
            crowd = listed([slot for slot, p in pairs if p == index])
            rows.append(("in time", f"{crowd} share index {index}: content without a date"))
    far = max(step.placement.block) - min(step.placement.slots + step.placement.block)
    if pairs and far >= trained:
        rows.append(("horizon", f"keys up to {far} back; trained: {trained - 1}"))
    return rows


def differ(difference: Difference) -> list[Cell]:
    """Where two strategies differ at a block, as A and B."""
    rows: list[Cell] = []
    common = [key for key in difference.places if key[0] != "block"]
    alone = [(name, difference.of(Mark.ONLY, side)) for side, name in enumerate("AB")]
    parts = [f"{name} alone {named(keys)}" for name, keys in alone if keys]
    if parts or common:
        rows.append(("held", "; ".join([*parts, f"both {named(common) or 'nothing'}"])))
    moves, remade = difference.of(Mark.MOVED), difference.of(Mark.MADE)
    if moves:
        a, b = ({key: place[side] for key, place in difference.places.items()} for side in (0, 1))
        newest = max(key for key in difference.places if key[0] == "block")
        worst = max(moves, key=lambda key: abs(b[key] - a[key] - difference.shift))
        rest = [key for key in moves if key != worst]
        also = f"; differs too: {named(rest)}" if rest else ""
        rows.append(
            ("in time", f"{named([worst])}: {a[newest] - a[worst]} back in A, {b[newest] - b[worst]} in B{also}")
        )
    elif difference.shift:
        rows.append(("in time", f"B's indices {difference.shift:+d}, distances equal: rotary attention cannot tell"))
    if remade:
        rows.append(("made", f"averaged or encoded otherwise: {named(remade)}"))
    return rows or [("held", "both nothing")]


def named(keys: Sequence[Key]) -> str:
    """Keys in few words: 0, 30–32, memory (2), own 33–34."""
    words = {"frame": "{}", "memory": "memory ({})", "block": "own {}"}
    numbers = {kind: [n for key, n in keys if key == kind] for kind in words}
    counts = numbers | {"memory": [len(numbers["memory"])]} if numbers["memory"] else numbers
    return ", ".join(words[kind].format(ranges(counts[kind])) for kind in words if numbers[kind])


def listed(slots: Sequence[Slot]) -> str:
    """Slots in few words, by role: sink 0, memory (2), 30–32."""
    parts = []
    for role in Role:
        numbers = [slot.frame for slot in slots if slot.role is role]
        text = {Role.SINK: f"sink {ranges(numbers)}", Role.MEMORY: f"memory ({len(numbers)})"}
        parts += [text.get(role, ranges(numbers))] if numbers else []
    return ", ".join(parts)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as their stretches: 3–7, 9."""
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs(numbers))
