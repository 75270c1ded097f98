"""What a rollout cost, from its record. Times are of the machine and of whatever ran beside."""

from collections.abc import Callable

from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.metrics.score import Score

MIB = 2**20


def seconds_per_frame(sample: Sample) -> Score | None:
    """Wall time of generation, decoding and writing left out, per pixel frame."""
    times = sample.record.get("timings")
    return Score(times["generate_seconds"] / times["frames"]) if times else None


def forwards(sample: Sample) -> Score | None:
    """Passes of the model per generated block, replays included."""
    costs = sample.record.get("costs")
    return Score((costs["forwards"] - costs["given"]) / (costs["blocks"] - costs["given"])) if costs else None


def bytes_held(sample: Sample) -> Score | None:
    """Keys and values that the cache holds, MiB."""
    costs = sample.record.get("costs")
    return Score(costs["kv_bytes"] / MIB) if costs else None


def bytes_rotated(sample: Sample) -> Score | None:
    """Queries and keys that were rotated, MiB a block."""
    costs = sample.record.get("costs")
    return Score(costs["rotated_bytes"] / MIB / costs["blocks"]) if costs else None


def peak(sample: Sample) -> Score | None:
    """Peak memory of the rollout, MiB: allocated on a GPU, resident in the process on a CPU."""
    found = sample.record.get("costs", {}).get("peak_bytes")
    return Score(found / MIB) if found else None


def switch_latency(sample: Sample) -> Score | None:
    """Milliseconds that a prompt change or cut adds before its block is denoised."""
    times = sample.record.get("costs", {}).get("switch_seconds")
    return Score(1000 * sum(times) / len(times)) if times else None


COSTS: dict[str, tuple[Callable[[Sample], Score | None], str]] = {
    "seconds_per_frame": (seconds_per_frame, "s"),
    "forwards": (forwards, "a block"),
    "kv_mib": (bytes_held, "MiB"),
    "rotated_mib": (bytes_rotated, "MiB a block"),
    "peak_mib": (peak, "MiB"),
    "switch_ms": (switch_latency, "ms"),
}
