"""What happens at a block as rows of a table: a word that says what a row is about, and a short cell read off the step."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rollout.show.explain.views import Difference, Mark, Sight, is_copy
from rollout.show.explain.words import dated, listed, named, ranges
from rollout.slots import Mix, Pick, Role, Row, Slot

__all__ = ["Cell", "cells", "clean", "differ", "folds"]

Cell = tuple[str, str]
"""What a row is about, and what there is to say."""


def cells(sight: Sight, *, window: int, trained: int) -> list[Cell]:
    """The rows of one block; `window` is the policy's and `trained` the model's horizon, in frames."""
    passes = [*_unread(sight), *_together(sight), *_clean(sight)]
    return [*_event(sight), *_jump(sight), *_room(sight, window), *passes, *_distances(sight, trained)]


def _event(sight: Sight) -> list[Cell]:
    """The prompt change or cut: what stays, what goes, what is encoded again."""
    step, block = sight.step, sight.step.block
    if step.switch is None:
        return []
    word = ", ".join(["cut"] * block.cut + ["new prompt"] * (block.switch or not block.cut))
    again = step.replay.frames if step.replay else ()
    sources = _used(step.switch.rows)
    drops = [slot for i, slot in enumerate(sight.before) if i not in sources and slot.frame not in again]
    if step.replay is not None:
        how = "one pass" if step.replay.bidirectional else "block by block"
        parts = [f"recache {ranges(again)}, {how}"]
    else:
        parts = ["flush" if drops else "cache kept"]
    parts += [f"keeps {listed(step.switch.slots)}"] if step.switch.slots else []
    parts += [f"drops {listed(drops)}"] if drops else []
    return [(word, "; ".join(parts))]


def _jump(sight: Sight) -> list[Cell]:
    """How a cut moves the block's frames."""
    block, now, natural = sight.step.block, sight.own, sight.natural.block
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


def _room(sight: Sight, window: int) -> list[Cell]:
    """Who leaves to make room, and whether it lives on: in the memory, in a sink, or as a copy of the archive."""
    step, old = sight.step, sight.offered
    if not old:
        return [("cache", "empty: the block sees itself alone")]
    sources = _used(step.room.rows)
    leavers = [slot for i, slot in enumerate(old) if i not in sources and slot not in step.slots]
    copies = _copies(sight)
    exchange = [slot for slot in leavers if slot.time in {copy.time for copy in copies}]
    drops = [slot for slot in leavers if slot not in exchange]
    rows = [*_memory(sight), *_picks(sight), *_sinks(sight)]
    if copies:
        rows.append(("archive", f"{', '.join(dated(copies))}: copies in place; drops {listed(exchange)}"))
    if drops:
        rows.append(("cache", f"drops {listed(drops)}: window {window} is full"))
    aside = len(step.slots) - sight.readable
    more = f", {aside} more stored" if aside else ""
    return rows or [("cache", f"nothing leaves: {sight.readable} + {step.block.frames} of {window}{more}")]


def _memory(sight: Sight) -> list[Cell]:
    """What the memory takes in."""
    step, old = sight.step, sight.offered
    pairs = zip(step.room.slots, step.room.rows, strict=True)
    mixtures = [row for slot, row in pairs if isinstance(row, Mix) and folds(slot, row, old)]
    if not mixtures:
        return []
    taken_in = {old[i].frame for row in mixtures for i in row.sources if old[i].role is not Role.MEMORY}
    grows = any(old[i].role is Role.MEMORY for row in mixtures for i in row.sources)
    shares = ", ".join(f"{sum(w for i, w in row.weights if old[i].role is not Role.MEMORY):g}" for row in mixtures)
    into = f"memory ({len(mixtures)}), weight {shares}" if grows else f"new memory ({len(mixtures)})"
    mean = "over all tokens" if all(row.pooled for row in mixtures) else "token by token"
    return [("memory", f"{ranges(taken_in)} into {into}, {mean}")]


def _picks(sight: Sight) -> list[Cell]:
    """Of which slots the best tokens are chosen, how many and by what."""
    contests: dict[tuple[object, ...], list[Pick]] = {}
    for _, row in sight.picks:
        contests.setdefault(row.contest, []).append(row)
    rows: list[Cell] = []
    for picks in contests.values():
        candidates = listed([sight.offered[i] for i in picks[0].of])
        worth = "frame's" if len(picks) == 1 else f"{len(picks)} frames'"
        where = ", each at its own index" if picks[0].dates == "own" else ""
        rows.append(("picks", f"the best {worth} worth of tokens of {candidates}, by {picks[0].by}{where}"))
    return rows


def _sinks(sight: Sight) -> list[Cell]:
    """The sinks that average what goes, and the frames that become sinks."""
    room, old, rows = sight.step.room, sight.offered, list[Cell]()
    pairs = [(s, row) for s, row in zip(room.slots, room.rows, strict=True) if s.role is Role.SINK]
    blends = [(slot, row) for slot, row in pairs if isinstance(row, Mix) and len(row.weights) > 1]
    if blends:
        taken_in = {old[i].frame for _, row in blends for i in row.sources if old[i].role is not Role.SINK}
        weights = sorted({w for _, row in blends for i, w in row.weights if old[i].role is not Role.SINK})
        weight = ", ".join(f"{w:g}" for w in weights)
        rows.append(("sinks", f"{ranges(taken_in)} into {listed([slot for slot, _ in blends])}, weight {weight}"))
    additions = [slot for slot, row in pairs if len(row.sources) == 1 and old[row.sources[0]].role is not Role.SINK]
    return [*rows, ("sinks", f"{ranges(slot.frame for slot in additions)} pinned")] if additions else rows


def _copies(sight: Sight) -> list[Slot]:
    """The slots that become copies of others at this block."""
    room, old = sight.step.room, sight.offered
    pairs = zip(room.slots, room.rows, strict=True)
    return [slot for slot, _ in pairs if is_copy(slot) and slot not in old]


def _used(rows: Iterable[Row]) -> set[int]:
    """The old slots that an edit's rows take in."""
    return {i for row in rows for i in row.sources}


def folds(slot: Slot, row: Row, old: Sequence[Slot]) -> bool:
    """Whether a memory slot averages frames of the old cache into itself."""
    blends = slot.role is Role.MEMORY and isinstance(row, Mix)
    return blends and any(old[i].role is not Role.MEMORY for i in row.sources)


def _unread(sight: Sight) -> list[Cell]:
    """What no noisy pass reads."""
    if not sight.unread:
        return []
    later = " by noisy passes" if any(slot in sight.clean for slot in sight.unread) else ""
    return [("unread", f"{listed(sight.unread)}: stored, not read{later}")]


def _together(sight: Sight) -> list[Cell]:
    """The blocks that are denoised in the same pass."""
    if not sight.ahead:
        return []
    block = sight.step.block
    last = block.index + len(sight.ahead) // block.frames
    numbers = ranges(range(block.index + 1, last + 1))
    numbers_text = f"blocks {numbers}, each" if last > block.index + 1 else f"block {numbers},"
    return [("together", f"with {numbers_text} a step noisier, at {ranges(sight.ahead.values())}")]


def _clean(sight: Sight) -> list[Cell]:
    """What the clean pass reads, where that is not what the noisy passes read."""
    if sight.same_clean:
        return []
    commit, noisy = sight.step.commit, sight.step.own
    places = [(a, b) for a, b in zip(commit.slots, noisy.slots, strict=True) if a is not None]
    stays = commit.block == noisy.block and all(a == b for a, b in places if b is not None)
    where = f", at {ranges(a for a, _ in places)}" if places else ""
    where = "" if stays else f"{where}; own frames at {ranges(commit.block)}"
    return [("clean pass", clean(sight) + where)]


def clean(sight: Sight) -> str:
    """What the clean pass reads, in few words."""
    if not sight.clean:
        return "reads its own block alone"
    alone = " alone" if any(slot not in sight.clean for slot, _ in sight.read) else ""
    return f"reads {listed(sight.clean)}{alone}"


def _distances(sight: Sight, trained: int) -> list[Cell]:
    """How the distances that the model sees compare with the true ones."""
    last, newest, pairs = sight.own[-1], sight.step.block.end - 1, sight.read
    rows: list[Cell] = []
    for role in (Role.SINK, Role.RECENT):
        off = [(slot, p) for slot, p in pairs if slot.role is role and newest - slot.frame != last - p]
        if off:
            true, shown_at = ranges(newest - slot.frame for slot, _ in off), ranges(last - p for _, p in off)
            rows.append(("in time", f"{listed([slot for slot, _ in off])}: {true} back, seen {shown_at} back"))
    memory = _memory_places(sight)
    rows += [("in time", text) for text in memory]
    if pairs and not rows:
        rows.append(("in time", "all at true distances"))
    apart = {slot for slot, origin in zip(sight.step.slots, sight.origins, strict=True) if origin.own_dates}
    for index, count in sorted(Counter(p for slot, p in pairs if slot not in apart).items()):
        if count > 1:
            crowd = listed([slot for slot, p in pairs if p == index])
            rows.append(("in time", f"{crowd} share index {index}: content without a date"))
    block = sight.step.placement.block
    far = max(block) - min((*(p for _, p in pairs), *block))
    if pairs and far >= trained:
        rows.append(("horizon", f"keys up to {far} back; trained: {trained - 1}"))
    return rows


def _memory_places(sight: Sight) -> list[str]:
    """Where the memory sits, or that its tokens sit apart."""
    last, steps = sight.own[-1], zip(sight.step.slots, sight.step.placement.slots, sight.origins, strict=True)
    memory = [(p, origin) for slot, p, origin in steps if slot.role is Role.MEMORY and p is not None]
    places = [p for p, origin in memory if not origin.own_dates]
    texts = [f"memory at {ranges(places)}, {ranges(last - p for p in places)} back"] if places else []
    return texts + (["memory: each token at its own index"] if len(places) < len(memory) else [])


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
    if difference.clean is not None:
        reads = [
            f"{name} reads {listed(slots) or 'its own block'}"
            for name, slots in zip("AB", difference.clean, strict=True)
        ]
        rows.append(("clean pass", "; ".join(reads)))
    return rows or [("held", "both nothing")]
