"""What happens at a block, in sentences that are read off its step, whatever the strategy."""

from collections.abc import Sequence
from itertools import groupby

from rollout.show.explain.views import Difference, Key, Mark, View
from rollout.slots import Role, Row, Slot

__all__ = ["Told", "differ", "folds", "listed", "ranges", "tell"]

Told = tuple[str, str]
"""A word or two that say what it is about, and a sentence."""


def tell(view: View, *, window: int, trained: int) -> list[Told]:
    """The sentences of one block; `window` is the policy's and `trained` the model's horizon, in frames."""
    return [*_event(view), *_room(view, window), *_time(view, trained)]


def _event(view: View) -> list[Told]:
    """The prompt change or cut: what stays, what goes, what is encoded again, and what jumps."""
    step, block = view.step, view.step.block
    if step.switch is None:
        return []
    what = "Cut and new prompt" if block.cut and block.switch else "Cut" if block.cut else "New prompt"
    used = {i for row in step.switch.rows for i, _ in row}
    stay, again = step.switch.slots, set(step.replay.frames) if step.replay else set()
    gone = [slot for i, slot in enumerate(view.before) if i not in used and slot.frame not in again]
    drops = f" and drops {listed(gone)}" if gone else ""
    if step.replay is not None:
        how = "in one pass, all seeing each other" if step.replay.bidirectional else "block by block"
        kept = f"; {listed(stay)} {'keep' if len(stay) > 1 else 'keeps'} the old keys" if stay else ""
        told = [(what, f"KV Recache encodes {frames(step.replay.frames)} again under this prompt, {how}{kept}{drops}.")]
    elif gone:
        told = [(what, f"KV Flush keeps {listed(stay) if stay else 'nothing'}{drops}.")]
    else:
        told = [(what, f"The cache stays as it is, with {listed(stay)}.")]
    return [*told, *_jump(view)]


def _jump(view: View) -> list[Told]:
    """How a cut moves the block's frames."""
    block, own, natural = view.step.block, view.step.placement.block, view.natural.block
    if not block.cut:
        return []
    moved = [i for i, index in enumerate(own) if index != natural[i]]
    if not moved:
        return [("In time", "No index jumps: here the cut is a flush alone.")]
    still = [i for i in range(block.frames) if i not in moved]
    stays = (
        f", {frames([block.start + i for i in still])} staying at {ranges([own[i] for i in still])}" if still else ""
    )
    return [
        (
            "RoPE Cut",
            f"The block jumps: {frames([block.start + i for i in moved])} {'sit' if len(moved) > 1 else 'sits'} at "
            f"{ranges([own[i] for i in moved])} instead of {ranges([natural[i] for i in moved])}{stays}. "
            "For this block only: what is stored does not jump.",
        )
    ]


def _room(view: View, window: int) -> list[Told]:
    """Who leaves to make room, and whether it lives on in the memory."""
    step, old = view.step, view.offered
    if not old:
        return [("Cache", "Nothing is cached yet: the block's frames attend to each other alone.")]
    used = {i for row in step.room.rows for i, _ in row}
    gone = [slot for i, slot in enumerate(old) if i not in used]
    streams = [n for n, row in enumerate(step.room.rows) if folds(step.room.slots[n], row, old)]
    told = []
    if streams:
        rows = [step.room.rows[n] for n in streams]
        folded = sorted({old[i].frame for row in rows for i, _ in row if old[i].role is not Role.MEMORY})
        grows = any(old[i].role is Role.MEMORY for row in rows for i, _ in row)
        shares = [sum(w for i, w in row if old[i].role is not Role.MEMORY) for row in rows]
        n, pooled = len(streams), step.room.pooled.issuperset(streams)
        mean = "one vector, over all their tokens" if pooled else "at each spatial token"
        into = f"averaged into the {_count(n, 'memory stream')}" if grows else f"averaged: {_count(n, 'memory stream')}"
        end = f"with weight {_and([f'{share:g}' for share in shares])}" if grows else "begin as that mean"
        are = "are" if len(folded) > 1 else "is"
        told.append(("Memory", f"{_capital(frames(folded))} {are} {into} {end} ({mean})."))
    if gone:
        full = f"the window of {window} is full"
        told.append(("Cache", f"{_capital(listed(gone))} {'leave' if len(gone) > 1 else 'leaves'} for good: {full}."))
    if not told:
        n = len(step.slots) + step.block.frames
        fill = f"{_count(len(step.slots), 'cached frame')} and this block's {step.block.frames} take {n} of {window}"
        told.append(("Cache", f"Nothing has to leave: {fill}."))
    return told


def folds(slot: Slot, row: Row, old: Sequence[Slot]) -> bool:
    """Whether a memory slot takes in frames of the old cache."""
    return slot.role is Role.MEMORY and any(old[i].role is not Role.MEMORY for i, _ in row)


def _time(view: View, trained: int) -> list[Told]:
    """How the distances that the model is told compare with the true ones."""
    step, last, newest = view.step, view.step.placement.block[-1], view.step.block.end - 1
    held = list(zip(step.slots, step.placement.slots, strict=True))
    if not held:
        return []
    told, right = [], True
    for role in (Role.SINK, Role.RECENT):
        off = [(slot, p) for slot, p in held if slot.role is role and newest - slot.frame != last - p]
        right = right and not off
        if off:
            are, say = ([newest - slot.frame for slot, _ in off], [last - p for _, p in off])
            ago = f"{ranges(are)} {'frame' if are == [1] else 'frames'} before the newest"
            sits = "sits" if len(off) == 1 else "sit"
            told.append(("In time", f"{_capital(listed([s for s, _ in off]))}, {ago}, {sits} {ranges(say)} before it."))
    memory = [p for slot, p in held if slot.role is Role.MEMORY]
    if memory:
        told.append(("In time", f"The memory sits at {ranges(memory)}, {ranges([last - p for p in memory])} back."))
    elif right:
        told.append(("In time", "Every cached frame sits at its true distance."))
    for index, some in groupby(sorted(held, key=lambda pair: pair[1]), key=lambda pair: pair[1]):
        crowd = [slot for slot, _ in some]
        if len(crowd) > 1:
            told.append(
                ("In time", f"{_capital(listed(crowd))} share index {index}: they keep content and lose their date.")
            )
    far = max(step.placement.block) - min(step.placement.slots + step.placement.block)
    if far >= trained:
        told.append(("Horizon", f"Keys lie up to {far} indices away; training never saw more than {trained - 1}."))
    return told


def differ(found: Difference) -> list[Told]:
    """Where two strategies differ at a block, as A and B."""
    told, only = [], [found.of(Mark.ONLY, side) for side in (0, 1)]
    held = [f"only {name} holds {named(keys)}" for name, keys in zip("AB", only, strict=True) if keys]
    both = [key for key in found.places if key[0] != "block"]
    if held:
        told.append(("Held", f"{_capital('; '.join(held))}. Both hold {named(both) if both else 'nothing'}."))
    elif both:
        told.append(("Held", f"Both hold {named(both)}."))
    moved, made = found.of(Mark.MOVED), found.of(Mark.MADE)
    if moved:
        a, b = ({key: p[side] for key, p in found.places.items()} for side in (0, 1))
        newest = max(key for key in found.places if key[0] == "block")
        worst = max(moved, key=lambda key: abs(b[key] - a[key] - found.shift))
        away = f"{_capital(named([worst]))} is {a[newest] - a[worst]} away in A and {b[newest] - b[worst]} in B"
        rest = [key for key in moved if key != worst]
        told.append(("In time", f"{away}{f'; distances also differ for {named(rest)}' if rest else ''}."))
    elif found.shift:
        by = f"{abs(found.shift)} {'higher' if found.shift > 0 else 'lower'}"
        same = "what both hold lies at the same distances, and rotary attention cannot tell"
        told.append(("In time", f"B's indices are {by}, yet {same}."))
    if made:
        told.append(("Made", f"Averaged or encoded in another way: {named(made)}."))
    return told or [("Held", "Neither holds anything: no difference.")]


def named(keys: Sequence[Key]) -> str:
    """Keys in words: frames 0 and 30–32, 2 memory streams, this block's frames 33–34."""
    parts = {kind: [n for k, n in keys if k == kind] for kind in ("frame", "memory", "block")}
    words = [frames(parts["frame"])] if parts["frame"] else []
    words += [_count(len(parts["memory"]), "memory stream")] if parts["memory"] else []
    words += [f"this block's {frames(parts['block'])}"] if parts["block"] else []
    return _and(words)


def listed(slots: Sequence[Slot]) -> str:
    """Slots in words, by role: the sink (frame 0), 2 memory streams and frames 30–32."""
    words = []
    for role in Role:
        found = [slot.frame for slot in slots if slot.role is role]
        if found and role is Role.SINK:
            words.append(f"the sink{'s' if len(found) > 1 else ''} ({frames(found)})")
        elif found:
            words.append(frames(found) if role is Role.RECENT else f"the {_count(len(found), 'memory stream')}")
    return _and(words)


def frames(numbers: Sequence[int]) -> str:
    """Frames in words: frame 3, frames 3–7 and 9."""
    return f"frame{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in words: 3–7 and 9."""
    found: list[list[int]] = []
    for n in sorted(set(numbers)):
        if found and n == found[-1][-1] + 1:
            found[-1].append(n)
        else:
            found.append([n])
    return _and([str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in found])


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
