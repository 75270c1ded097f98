"""What a rollout cost, from its record. Times are of the machine and of whatever ran beside.

Passes and times are those of the blocks that were generated: the blocks of a prefix, and those that a fork shares with
its parent, are encoded and not sampled, and count neither above nor below.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Score

__all__ = ["COSTS", "Generated", "generated"]

MIB = 2**20


@dataclass(frozen=True)
class Generated:
    """What a run generated, without the blocks that it was given, and what that took.

    `seconds` leave decoding and writing out; `frames` are pixel frames; `forwards` the passes, replays included.
    """

    blocks: int
    frames: int
    forwards: int
    rotated_bytes: int
    seconds: float | None


def generated(sample: Sample) -> Generated | None:
    """What a run generated; None where its record does not say, or where it was given whole."""
    record = sample.record
    if record is None or sample.spec is None or not record.generated_blocks:
        return None
    costs, without, seconds = record.costs, record.costs.encoded, record.timings.get("generate_seconds")
    assert without is not None
    return Generated(
        record.generated_blocks,
        record.generated_frames(sample.spec) or 0,
        (costs.forwards or 0) - without.forwards,
        (costs.rotated_bytes or 0) - without.rotated_bytes,
        None if seconds is None else seconds - without.seconds,
    )


def _alone(sample: Sample) -> bool:
    """A rollout of one video: what several rows took together says nothing of one."""
    return sample.record is None or sample.record.costs.rows == 1


def seconds_per_frame(sample: Sample) -> Score | None:
    """Wall time a generated pixel frame, decoding and writing left out; of rollouts of one video."""
    part = generated(sample) if _alone(sample) else None
    return Score(part.seconds / part.frames) if part and part.seconds is not None else None


def forwards(sample: Sample) -> Score | None:
    """Passes of the model a generated block, replays included."""
    part = generated(sample)
    return Score(part.forwards / part.blocks) if part else None


def bytes_held(sample: Sample) -> Score | None:
    """The most that the cache held after a block: keys and values of the whole window, and raw copies of both.

    The copies are the raw keys of sinks and of frames that are dated anew, and a memory's keys and values in float32.
    """
    most = sample.record.costs.held_bytes if sample.record else None
    return None if most is None else Score(most / MIB)


def bytes_rotated(sample: Sample) -> Score | None:
    """Queries and keys that were rotated, MiB a generated block."""
    part = generated(sample)
    return Score(part.rotated_bytes / MIB / part.blocks) if part else None


def peak(sample: Sample) -> Score | None:
    """Peak memory of the rollout, MiB: allocated on a GPU, resident in the process on a CPU; of one video."""
    most = sample.record.costs.peak_bytes if sample.record else None
    return Score(most / MIB) if most and _alone(sample) else None


def switch_latency(sample: Sample) -> Score | None:
    """Milliseconds that a prompt change or cut adds before its block is denoised; of rollouts of one video."""
    times = sample.record.costs.switch_seconds if sample.record else ()
    return Score(1000 * sum(times) / len(times)) if times and _alone(sample) else None


COSTS: dict[str, tuple[Callable[[Sample], Score | None], str]] = {
    "seconds_per_frame": (seconds_per_frame, "s"),
    "forwards": (forwards, "a block"),
    "kv_mib": (bytes_held, "MiB"),
    "rotated_mib": (bytes_rotated, "MiB a block"),
    "peak_mib": (peak, "MiB"),
    "switch_ms": (switch_latency, "ms"),
}
