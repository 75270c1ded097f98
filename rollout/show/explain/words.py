"""Frames and slots in few words."""

from collections.abc import Iterable, Sequence

from rollout.show.explain.picture import runs
from rollout.show.explain.views import Key
from rollout.slots import Role, Slot

__all__ = ["dated", "listed", "named", "ranges"]


def named(keys: Sequence[Key]) -> str:
    """Keys in few words: 0, 30–32, memory (2), own 33–34."""
    words = {"frame": "{}", "copy": "copies dated {}", "memory": "memory ({})", "block": "own {}", "ahead": "ahead {}"}
    numbers = {kind: [n for key, n in keys if key == kind] for kind in words}
    counts = numbers | {"memory": [len(numbers["memory"])]} if numbers["memory"] else numbers
    return ", ".join(words[kind].format(ranges(counts[kind])) for kind in words if numbers[kind])


def listed(slots: Sequence[Slot]) -> str:
    """Slots in few words, by role: sink 0, memory (2), 17–15 as 18–20, 30–32."""
    parts = []
    for role in Role:
        group = [slot for slot in slots if slot.role is role]
        copies = [slot for slot in group if slot.date is not None]
        numbers = ranges(slot.frame for slot in group if slot.date is None)
        frames = ", ".join([*dated(copies), *([numbers] if numbers else [])])
        text = {Role.SINK: f"sink {frames}", Role.MEMORY: f"memory ({len(group)})"}
        parts += [text.get(role, frames)] if group else []
    return ", ".join(parts)


def dated(slots: Sequence[Slot], dash: str = "–") -> list[str]:
    """Frames with the dates that they pretend to have, in stretches: 17–15 as 18–20, 0 as 36."""
    stretches: list[list[Slot]] = []
    for slot in slots:
        if stretches and _continues(stretches[-1], slot):
            stretches[-1].append(slot)
        else:
            stretches.append([slot])
    ends = [(stretch[0], stretch[-1]) for stretch in stretches]
    return [f"{_span(a.frame, b.frame, dash)} as {_span(a.time, b.time, dash)}" for a, b in ends]


def _continues(stretch: Sequence[Slot], slot: Slot) -> bool:
    """Whether frame and date go on as in the stretch, the frame by one forwards or backwards."""
    by = slot.frame - stretch[-1].frame
    even = len(stretch) == 1 or by == stretch[1].frame - stretch[0].frame
    return even and abs(by) == 1 and slot.time == stretch[-1].time + 1


def _span(first: int, last: int, dash: str) -> str:
    return f"{first}" if first == last else f"{first}{dash}{last}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as their stretches: 3–7, 9."""
    return ", ".join(_span(first, last, "–") for first, last in runs(numbers))
