"""The table that `rollout explain` prints: heads and rows as text."""

from collections.abc import Iterable, Iterator, Sequence

from rollout.script import Script
from rollout.show.explain.cells import clean, differ
from rollout.show.explain.views import Sight, compare, is_copy
from rollout.show.explain.words import dated
from rollout.slots import Role, Slot

__all__ = ["STEADY", "Table", "blocks", "differences", "ranges"]

STEADY = 3
"""Blocks of an unchanging pattern that the table shows before it skips ahead."""
Table = tuple[Sequence[str], list[Sequence[str]]]
"""Heads and rows."""


def blocks(rollout_sights: Iterator[Sight], script: Script, every: bool) -> Table:
    """A row a block; unless `every`, of a pattern that repeats the first few and the last."""
    rows: list[Sequence[str]] = []
    still, before, sight = 0, None, next(rollout_sights, None)
    while sight is not None:
        after = next(rollout_sights, None)
        event = _event(sight, script)
        repeats = before is not None and not event and sight.pattern() == before.pattern()
        still = still + 1 if repeats else 0
        ahead = after is not None and not _event(after, script) and after.pattern() == sight.pattern()
        if every or still < STEADY or not ahead:
            rows.append((*_cells(sight), event))
        elif still == STEADY:
            rows.append(("…", "", "", "", "", "", "", "", "", "", "the same, each block later"))
        before, sight = sight, after
    heads: tuple[str, ...] = (
        "block",
        "frames",
        "at",
        "sink",
        "at",
        "memory",
        "at",
        "recent",
        "at",
        "clean pass",
        "event",
    )
    if not any(row[-2] for row in rows):  # it reads what the noisy passes read, at every block
        heads, rows = (*heads[:-2], heads[-1]), [(*row[:-2], row[-1]) for row in rows]
    return heads, rows


def differences(names: Sequence[str], pairs: Iterable[tuple[Sight, Sight]], script: Script, every: bool) -> Table:
    """A row a block: where two strategies differ."""
    rows: list[Sequence[str]] = []
    repeats, before = 0, None
    for a, b in pairs:
        pattern = a.pattern(), b.pattern()
        repeats = repeats + 1 if pattern == before and a.step.switch is None else 0
        before = pattern
        if every or repeats < STEADY:
            says = ". ".join(f"{word}: {cell}" for word, cell in differ(compare(a, b)))
            rows.append((str(a.step.block.index), says, _event(a, script)))
        elif repeats == STEADY:
            rows.append(("…", "the same, each block later", ""))
    return ("block", f"A = {names[0]}, B = {names[1]}", "event"), rows


def _cells(sight: Sight) -> list[str]:
    block, ahead = sight.step.block, sight.ahead
    frames, places = ranges(range(block.start, block.end)), ranges(sight.own)
    if ahead:
        frames, places = f"{frames} (ahead {ranges([*ahead])})", f"{places} ({ranges([*ahead.values()])})"
    cells = [str(block.index), frames, places]
    apart = any(origin.own_dates for origin in sight.origins)  # chosen tokens sit where they were
    for role in Role:
        pairs = [(slot, index) for slot, index in sight.read if slot.role is role]
        unread = [slot for slot in sight.unread if slot.role is role]
        texts = [_numbers(role, [slot for slot, _ in pairs], sight)] if pairs else []
        texts += [f"({_numbers(role, unread, sight)} not read)"] if unread else []
        cells += [" ".join(texts), "own" if role is Role.MEMORY and apart else ranges([index for _, index in pairs])]
    return [*cells, "" if sight.same_clean else clean(sight).replace("–", "-")]


def _numbers(role: Role, slots: Sequence[Slot], sight: Sight) -> str:
    """Slots of one role in few letters: frames, what a memory ends with or is chosen from, the dates of copies."""
    if role is Role.MEMORY:
        newest = " ".join(f"≤{slot.frame}" for slot in slots)
        return f"best {len(sight.picks)} of {slots[0].oldest}-{slots[0].frame}" if sight.picks else newest
    copies = [slot for slot in slots if is_copy(slot)]
    return " ".join([*dated(copies, "-"), ranges([slot.frame for slot in slots if slot not in copies])]).strip()


def _event(sight: Sight, script: Script) -> str:
    step, block = sight.step, sight.step.block
    if not (block.switch or block.cut) or step.switch is None:
        return ""
    kind = "cut" if block.cut else "prompt"
    effect = (
        f"kept {len(step.switch.slots)} of the cache"
        if step.replay is None
        else f"encoded {ranges(step.replay.frames)} again"
    )
    return f"{kind}: {script.shots[block.prompt].prompt} ({effect})"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as runs: 0-2 7 7 9-11."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
