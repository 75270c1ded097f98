"""What each refinement promises by itself, whatever it is composed with."""

import math
from collections.abc import Sequence

from rollout.backend import Spec
from rollout.errors import CheckError, CompositionError
from rollout.plan import Step
from rollout.refinements import Order, Spectrum
from rollout.slots import Pass
from rollout.strategy import Strategy

__all__ = ["check_order", "check_reads", "check_spectrum"]


def check_spectrum(spectrum: Spectrum, spec: Spec) -> None:
    """One row, or one a head, of finite factors above 0. Raises CheckError."""
    rows, subject = spectrum.multipliers(spec), f"spectrum '{spectrum.kind}'"
    if len(rows) not in (1, spec.heads) or any(len(row) != spec.axes[0] for row in rows):
        sizes = [len(row) for row in rows]
        raise CheckError(
            f"{subject} gives {len(rows)} rows of {sizes} factors: one row or one a head ({spec.heads}), each with a factor for "
            f"each of {spec.axes[0]} temporal pairs."
        )
    if any(not (math.isfinite(factor) and factor > 0) for row in rows for factor in row):
        raise CheckError(f"{subject} gives {rows}: factors are finite and above 0.")
    if spectrum.multipliers(spec) != rows:
        raise CheckError(f"{subject} gives two answers to one question: rules are pure.")


def check_order(order: Order, blocks: int = 9) -> None:
    """Every block goes through all steps once, in order, and is then committed; after the last nothing. Raises CheckError."""
    for steps in range(1, 6):
        try:
            order.check_plan(steps, blocks)
        except CompositionError:
            continue
        for last in (blocks - 1, None):
            levels = [0] * (blocks + order.joint(steps))
            for index in range(blocks):
                for call in _passes(order, index, steps, last):
                    _check_pass(order, call, levels, index, steps, last)


def _passes(order: Order, index: int, steps: int, last: int | None) -> tuple[Pass, ...]:
    passes = order.passes(index, steps, last)
    if passes != order.passes(index, steps, last):
        raise CheckError(f"order '{order.kind}' gives two answers to one question: rules are pure.")
    if len(passes) < 2 or passes[-1] != Pass((index,), (steps,), True) or any(call.writes for call in passes[:-1]):
        raise CheckError(
            f"order '{order.kind}' ends block {index} with {passes[-1:]}: one clean pass of the block writes."
        )
    return passes


def _check_pass(order: Order, call: Pass, levels: list[int], index: int, steps: int, last: int | None) -> None:
    subject = f"order '{order.kind}', block {index}:"
    if call.writes:
        if levels[index] != steps:
            raise CheckError(f"{subject} it is written after {levels[index]} of {steps} steps.")
        return
    if call.blocks != tuple(range(index, index + len(call.blocks))) or len(call.blocks) != len(call.levels):
        raise CheckError(
            f"{subject} a pass sees the blocks {call.blocks} at {call.levels}: from this one on, a level each."
        )
    if len(call.blocks) > order.joint(steps) or (last is not None and call.blocks[-1] > last):
        raise CheckError(
            f"{subject} a pass sees the blocks {call.blocks}: at most {order.joint(steps)}, and none after the last."
        )
    for block, level in zip(call.blocks, call.levels, strict=True):
        if levels[block] != level:
            raise CheckError(f"{subject} block {block} is denoised at step {level} where step {levels[block]} is next.")
        levels[block] += 1


def check_reads(strategy: Strategy, step: Step) -> None:
    """A pass reads slots that are there and readable, each once, and no more than it says. Raises CheckError."""
    subject = f"reads '{strategy.reads.kind}'"
    readable = strategy.policy.readable(step.slots, step.block)
    candidates = tuple(step.slots[i] for i in readable)
    for call, view in step.passes:
        which: Sequence[int] = strategy.reads.which(candidates, step.block, call)
        if list(which) != sorted(set(which)) or any(not 0 <= i < len(candidates) for i in which):
            raise CheckError(
                f"{subject} name the slots {tuple(which)} of {len(candidates)}: each once, in the cache's order."
            )
        own = len(call.blocks) * step.block.frames
        if len(call.blocks) == 1 and len(which) + own > strategy.span:
            raise CheckError(
                f"{subject} read {len(which)} slots beside {own} frames and promise at most {strategy.span}."
            )
        if view.read != tuple(readable[i] for i in which):
            raise CheckError(f"{subject} give two answers to one question: rules are pure.")
