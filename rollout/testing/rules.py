"""check_rule: whether a rule keeps the promises of its protocol, in every composition that it fits."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

from rollout import specs
from rollout.backend import Spec
from rollout.errors import CheckError, CompositionError, RolloutError
from rollout.members import alike, unheard
from rollout.plan import Step, decide, room_for
from rollout.registry import find, names, registered
from rollout.slots import Block, Facts, Role, Slot, View, of_role
from rollout.strategy import AXES, PROTOCOLS, REFINEMENTS, Strategy
from rollout.testing.execution import Pair
from rollout.testing.refinements import check_order, check_reads, check_spectrum
from rollout.testing.steps import check_step
from rollout.views import Horizon, reach

__all__ = ["BESIDE", "METHODS", "PARTNERS", "QUIET", "SCRIPTS", "SPEC", "check_rule", "check_strategy"]

SPEC = Spec("check", layers=2, heads=2, head_dim=12, latent=(1, 2, 1), grid=(2, 1), axes=(2, 2, 2))
"""A model without weights: random queries, keys and values stand for its layers."""
METHODS = {
    "positions": "place",
    "policy": "make_room",
    "switch": "on_switch",
    "spectrum": "multipliers",
    "reads": "which",
    "order": "passes",
    "store": "new",
}
PARTNERS = {
    "positions": ("absolute", "relativistic", "online"),
    "policy": ("fifo", "sink", "ema", "anchor"),
    "switch": ("keep", "flush", "recache", "recache:sink=rebuild"),
}
"""What a rule is composed with: the home's own, at their defaults."""
BESIDE = {"order": {"reads": "newest"}}
"""What a refinement needs beside it."""
QUIET = 24
"""Blocks without an event after which declared sinks and memory are there."""
SCRIPTS = 2
"""Random scripts a composition."""


def check_rule(rule: object) -> None:
    """Try a rule of any kind (an instance, or a class with defaults) in every composition that it fits.

    It is frozen, hashable and equal by value; its JSON and text read back; it is pure. Under random prompt changes and cuts
    the window holds, rows sum to 1, sinks live, frames are cached once and in order, indices fit; and the cache equals one
    that computes everything from scratch. Raises CheckError (an AssertionError), in one line.
    """
    part = _instance(rule)
    axis = next((axis for axis, method in METHODS.items() if hasattr(part, method)), None)
    if axis is None:
        slips = alike(METHODS.values(), vars(type(part)))
        meant = f" It has {', '.join(slips.values())}: rename that to {', '.join(slips)}." if slips else ""
        raise CheckError(f"{part!r} is no rule: it has none of {', '.join(METHODS.values())}.{meant}")
    _check_value(axis, part)
    if axis == "spectrum":
        check_spectrum(part, SPEC)
    if axis == "order":
        check_order(part)
    with _registered(specs.GROUP_OF[axis], part):
        _check_round_trip(
            part, lambda: specs.part_from_dict(axis, json.loads(json.dumps(specs.part_to_dict(part)))), "JSON"
        )
        _check_round_trip(part, lambda: specs.part_from_text(axis, specs.part_to_text(part)), "text")
        strategies, refusals = _compositions(axis, part)
        if not strategies:
            raise CheckError(f"{part!r} goes with nothing: {refusals[0] if refusals else 'there is no partner'}")
        for strategy in strategies:
            check_strategy(strategy)


def check_strategy(strategy: Strategy | str) -> None:
    """What check_rule asks of a composition, or of the one that a text names. Raises CheckError, SpecError."""
    strategy = Strategy.of(strategy)
    for spec in (SPEC, dataclasses.replace(SPEC, block=1)):
        try:
            strategy.check(spec, spec.block * QUIET)
        except CompositionError:
            continue
        _check_filled(strategy, _follow(strategy, [""] * QUIET, spec))
        for events in _scripts(strategy, spec):
            _follow(strategy, events, spec)
    _follow(strategy, next(_scripts(strategy, SPEC)), SPEC, execute=True)


@contextmanager
def _registered(group: str, part: Any) -> Iterator[None]:
    """Let a part be found by its kind, for a with block."""
    cls = type(part)
    if part.kind in names(group) and find(group, part.kind) is not cls:
        raise CheckError(f"{cls.__name__}: there is another rule of the kind '{part.kind}'. Give this one its own.")
    with registered(group, part.kind, cls):
        yield


def _instance(rule: object) -> Any:
    if not isinstance(rule, type):
        return rule
    try:
        return rule()
    except TypeError as error:
        raise CheckError(
            f"{rule.__name__}() fails ({error}): every field needs a default, or give an instance."
        ) from error


def _check_value(axis: str, part: Any) -> None:
    """A frozen dataclass with all members, hashable and equal by value."""
    name = type(part).__name__
    parameters = getattr(type(part), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise CheckError(f"{name} is no frozen dataclass: write @dataclass(frozen=True) above it.")
    if not isinstance(getattr(part, "kind", None), str):
        raise CheckError(f'{name} has no kind: write kind: ClassVar[str] = "...", the name that it is found under.')
    try:
        Strategy(
            **{other: specs.part_from_text(other, PARTNERS[other][1]) for other in AXES}
            | {other: specs.part_from_text(other, text) for other, text in BESIDE.get(axis, {}).items()}
            | {axis: part}
        )
    except CompositionError:
        pass
    except RolloutError as error:
        raise CheckError(str(error)) from error
    slip = unheard(part, *PROTOCOLS[axis])
    if slip:
        raise CheckError(f"the {axis} rule '{part.kind}' {slip}")
    try:
        hash(part)
    except TypeError as error:
        raise CheckError(f"{part!r} is not hashable ({error}): a list is a tuple in a rule's fields.") from error
    twin = dataclasses.replace(part)
    if twin != part or hash(twin) != hash(part):
        raise CheckError(f"{part!r} does not equal {twin!r}, made from its fields: rules are equal by value.")


def _check_round_trip(part: Any, read: Callable[[], Any], form: str) -> None:
    try:
        back = read()
    except (RolloutError, TypeError, ValueError) as error:
        raise CheckError(f"{part!r} cannot be read back from its {form}: {error}") from error
    if back != part:
        raise CheckError(f"{part!r} reads back from its {form} as {back!r}.")


def _compositions(axis: str, part: Any) -> tuple[list[Strategy], list[str]]:
    """All strategies of the part and its partners, and why the others are none."""
    partners = {other: texts for other, texts in PARTNERS.items() if other != axis}
    if axis in REFINEMENTS:  # which look at slots alone, not at who keeps or drops them
        partners |= {"policy": ("sink:window=24,sink=3", "ema"), "switch": ("flush",)}
    beside = {other: specs.part_from_text(other, text) for other, text in BESIDE.get(axis, {}).items()}
    strategies, refusals = [], []
    for texts in product(*partners.values()):
        parts = {other: specs.part_from_text(other, text) for other, text in zip(partners, texts, strict=True)}
        try:
            strategy = Strategy(**parts, **beside, **{axis: part})
            strategy.check(SPEC, SPEC.block * QUIET)
        except CompositionError as error:
            refusals.append(str(error))
        else:
            strategies.append(strategy)
    return strategies, refusals


def _scripts(strategy: Strategy, spec: Spec) -> Iterator[list[str]]:
    """Events by block: pseudo-random ones, long enough to fill the window, and two of the same at every block."""
    blocks = strategy.policy.window // spec.block + 8
    for seed in range(SCRIPTS if spec.block > 1 else 1):
        draw = random.Random(seed)
        yield [draw.choice(("", "", "", "switch", "cut", "both")) for _ in range(blocks)]
    yield ["switch"] * 8
    yield ["cut"] * 8


def _blocks(events: Sequence[str], spec: Spec) -> Iterator[Block]:
    prompt = scene = 0
    for index, event in enumerate(events):
        switch, cut = event in ("switch", "both"), event in ("cut", "both")
        prompt += switch
        scene = index if cut else scene
        yield Block(index, index * spec.block, spec.block, prompt, switch, cut, scene)


def _follow(strategy: Strategy, events: Sequence[str], spec: Spec, *, execute: bool = False) -> list[Step]:
    """The steps of a rollout, each checked. Raises CheckError."""
    slots: tuple[Slot, ...] = ()
    steps: list[tuple[tuple[Slot, ...], Step]] = []
    pair = Pair(strategy, spec) if execute else None
    horizon = Horizon(last=len(events) - 1)
    for block in _blocks(events, spec):
        try:
            _check_pure(strategy, slots, block, spec)
            step = decide(strategy, slots, block, spec, facts=_facts(strategy, slots), horizon=horizon)
            check_step(strategy, slots, step, spec)
            check_reads(strategy, step)
            if pair is not None:
                pair.run(step)
        except Exception as error:
            reason = str(error) if isinstance(error, RolloutError) else f"{type(error).__name__}: {error}"
            raise CheckError(f"{strategy}, block {block.index}: {reason}") from error
        steps.append((slots, step))
        slots = step.after
    for before, step in reversed(steps):  # a rule that remembers what it was asked answers otherwise now
        if decide(strategy, before, step.block, spec, facts=_facts(strategy, before), horizon=horizon) != step:
            raise CheckError(
                f"{strategy}, block {step.block.index}: the same question got another answer: rules are pure."
            )
    return [step for _, step in steps]


def _check_pure(strategy: Strategy, slots: Sequence[Slot], block: Block, spec: Spec) -> None:
    """The same question, asked with a list and with a tuple, has one answer and changes nothing."""
    window = strategy.policy.window
    questions: dict[str, Callable[[Sequence[Slot]], object]] = {
        "switch": lambda slots: strategy.switch.on_switch(slots, block, window),
        "policy": lambda slots: (
            room_for(strategy.policy, slots, block.frames, _facts(strategy, slots)),
            strategy.policy.admit(block),
        ),
        "positions": lambda slots: strategy.positions.place(slots, block, reach(strategy, spec)),
    }
    for axis, ask in questions.items():
        if axis == "switch" and block.index == 0:  # nobody asks it before the first block
            continue
        rule, slot_list = f"{axis} '{getattr(strategy, axis).kind}'", list(slots)
        answer = ask(slot_list)
        if slot_list != list(slots):
            raise CheckError(f"{rule} changes the slots that it is asked about: rules are pure.")
        if ask(tuple(slots)) != answer:
            raise CheckError(f"{rule} gives two answers to one question: rules are pure.")
    _check_dates(strategy, slots, block, reach(strategy, spec))


def _check_dates(strategy: Strategy, slots: Sequence[Slot], block: Block, window: int) -> None:
    """`by_slot`: a memory's frame number has no say, and neither has, far from the start, how long the rollout is."""
    positions = strategy.positions
    if not positions.by_slot:
        return
    place = positions.place(tuple(slots), block, window)
    nameless = tuple(dataclasses.replace(s, frame=0) if s.role is Role.MEMORY else s for s in slots)
    if positions.place(nameless, block, window) != place:
        raise CheckError(f"positions '{positions.kind}' say by_slot=True and date a memory by its frame number.")
    if block.start < 2 * SPEC.trained:
        return
    far = 1000 * block.frames
    later = tuple(
        dataclasses.replace(s, frame=s.frame + far, block=s.block + 1000, date=None if s.date is None else s.date + far)
        for s in slots
    )
    dates_later = positions.place(
        later, dataclasses.replace(block, index=block.index + 1000, start=block.start + far), window
    )
    if _relative(dates_later) != _relative(place):
        raise CheckError(f"positions '{positions.kind}' say by_slot=True and change when all frames are {far} later.")


def _facts(strategy: Strategy, slots: Sequence[Slot]) -> Facts:
    """Made-up facts, from the slots alone, so that the same question has the same answer."""
    return {name: tuple(float(slot.frame % 7) for slot in slots) for name in strategy.policy.needs}


def _relative(place: View) -> list[int | None]:
    return [None if index is None else index - place.block[0] for index in (*place.slots, *place.block)]


def _check_filled(strategy: Strategy, steps: Sequence[Step]) -> None:
    """What is declared is there in the end."""
    policy, slots = strategy.policy, steps[-1].slots
    eviction = any(len(step.room.slots) < len(before.after) for before, step in pairwise(steps))
    for role, count in ((Role.SINK, policy.sink), (Role.MEMORY, policy.memory if eviction else 0)):
        number = len(of_role(slots, role))
        if number < count:
            raise CheckError(
                f"{strategy}: policy '{policy.kind}' declares {role}={count} and holds {number} after {len(steps)} blocks."
            )
