"""How near the sinks and memory of a strategy look to rotary attention as they age: where an old frame comes round again.

Rotary positions are clocks (RoFormer, arXiv 2104.09864): at a distance where most hands come round, a key looks as if it
were at distance 0, and a block may take an old sink's place. Distances beyond the trained frames were never seen, so it
is there that this happens; it can be said before any run.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from rollout.backend import Spec
from rollout.plan import Step
from rollout.slots import Block, Role
from rollout.text import Json

__all__ = ["PLAIN", "Pair", "Reach", "again", "nearness", "over_time", "peaks", "reaches", "to_dict"]

PINNED = (Role.SINK, Role.MEMORY)
Factors = Sequence[Sequence[float]]
"""Multipliers of the temporal frequencies as a spectrum gives them, a row for all heads or one a head."""
PLAIN: Factors = ((),)
"""Those that change nothing."""


def nearness(distance: int, spec: Spec, factors: Factors = PLAIN) -> float:
    """How much a key at a temporal distance looks as if it were at distance 0, as `rope.coherence` without torch.

    Under a spectrum that tells heads apart it is the mean over them.
    """
    pairs = spec.axes[0]
    values = []
    for row in factors:
        turns = [distance * spec.theta ** (-pair / pairs) * f for pair, f in enumerate(row or (1.0,) * pairs)]
        values.append(math.hypot(math.fsum(map(math.cos, turns)), math.fsum(map(math.sin, turns))) / pairs)
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Pair:
    """A frame of a block and a cached frame that it sees at a temporal distance."""

    frame: int
    role: Role
    cached: int
    distance: int
    coherence: float


@dataclass(frozen=True)
class Reach:
    """One block's sinks or memory: the least and the greatest distance, and the greatest coherence on the way."""

    block: Block
    role: Role
    near: int
    far: int
    coherence: float


def _curve(spec: Spec, steps: Iterable[Step], factors: Factors) -> tuple[list[list[Pair]], list[float]]:
    """Every block's pairs of its frames with sinks and memory, and the coherence of all distances up to the greatest."""
    blocks = [list(_distances(step)) for step in steps]
    most = max((distance for block in blocks for *_, distance in block), default=0)
    # One distance more than any in use: a peak is compared with both its neighbours.
    values = [nearness(distance, spec, factors) for distance in range(most + 2)]
    return [[Pair(*pair, values[pair[-1]]) for pair in block] for block in blocks], values


def _distances(step: Step) -> Iterator[tuple[int, Role, int, int]]:
    """(frame of the block, role, cached frame, temporal distance) of all that is pinned and read."""
    for slot, index in step.placement.pairs(step.slots):
        if slot.role in PINNED:
            for frame, place in zip(range(step.block.start, step.block.end), step.own.block, strict=True):
                yield frame, slot.role, slot.frame, abs(place - index)


def reaches(steps: Iterable[Step], spec: Spec, factors: Factors = PLAIN) -> list[Reach]:
    """How far each block's sinks and memory lie behind it, block by block; nothing where it has none."""
    steps = list(steps)
    rows: list[Reach] = []
    for step, pairs in zip(steps, _curve(spec, steps, factors)[0], strict=True):
        for role in PINNED:
            pairs_of_role = [pair for pair in pairs if pair.role is role]
            if pairs_of_role:
                distances = [pair.distance for pair in pairs_of_role]
                highest = max(pair.coherence for pair in pairs_of_role)
                rows.append(Reach(step.block, role, min(distances), max(distances), highest))
    return rows


def peaks(steps: Iterable[Step], spec: Spec, factors: Factors = PLAIN) -> list[Pair]:
    """Where coherence is greatest beyond the trained frames, the greatest first: each peak's first frame.

    A peak is a local maximum over distances; where none is in use, the one distance that looks nearest.
    """
    blocks, values = _curve(spec, steps, factors)
    earliest: dict[int, Pair] = {}
    for pairs in blocks:
        for pair in pairs:
            if pair.distance >= spec.trained:
                earliest.setdefault(pair.distance, pair)
    tops = [d for d in earliest if values[d - 1] <= values[d] >= values[d + 1]]
    beyond = [earliest[d] for d in tops or earliest]
    by_coherence = sorted(beyond, key=lambda pair: -pair.coherence)
    return by_coherence if tops else by_coherence[:1]


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads and rows."""


def over_time(steps: Iterable[Step], spec: Spec, factors: Factors = PLAIN) -> Table:
    """A row a block that has sinks or memory: their distances, and the greatest coherence among them."""
    blocks: dict[int, dict[Role, Reach]] = {}
    for reach in reaches(steps, spec, factors):
        blocks.setdefault(reach.block.index, {})[reach.role] = reach
    roles = [role for role in PINNED if any(role in row for row in blocks.values())]
    rows = []
    for index, row in blocks.items():
        block = next(iter(row.values())).block
        cells = [str(index), f"{block.start}-{block.end - 1}"]
        for role in roles:
            pair = row.get(role)
            cells += ["", ""] if pair is None else [f"{pair.near}-{pair.far}", f"{pair.coherence:.2f}"]
        rows.append(tuple(cells))
    columns = (head for role in roles for head in (f"{role.value} at distance", "coherence up to"))
    return ("block", "frames", *columns), rows


def again(pairs: Iterable[Pair], spec: Spec) -> Table:
    """A row a pair: when, how far, how near it looks, and which cached frame."""
    rows: list[tuple[str, ...]] = []
    for pair in pairs:
        cells = (str(pair.frame), f"{spec.seconds(pair.frame):.2f}", str(pair.distance), f"{pair.coherence:.2f}")
        rows.append((*cells, f"{pair.role.value} {pair.cached}"))
    return ("frame", "second", "distance", "coherence", "of"), rows


def to_dict(steps: Iterable[Step], spec: Spec, factors: Factors = PLAIN) -> Json:
    """All of it as JSON."""
    steps = list(steps)
    blocks = [
        {"block": reach.block.index, "start": reach.block.start, "role": reach.role.value, "near": reach.near}
        | {"far": reach.far, "coherence": round(reach.coherence, 6)}
        for reach in reaches(steps, spec, factors)
    ]
    top = [
        asdict(pair) | {"coherence": round(pair.coherence, 6), "second": spec.seconds(pair.frame)}
        for pair in peaks(steps, spec, factors)
    ]
    return {"backend": spec.name, "pairs": spec.axes[0], "trained": spec.trained, "blocks": blocks, "peaks": top}
