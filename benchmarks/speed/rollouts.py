"""Whole rollouts of a model under several strategies: ms a block, split into model, attention, cache and positions.

Splits are taken with a synchronisation around every part, so they are slower than the frames per second, which come from
a rollout without them.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rollout.backend import Attend, Backend, BackendDefaults
from rollout.benchmarks.markdown import as_text
from rollout.devices import now
from rollout.errors import BackendError
from rollout.loop import Rollout, generate
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.script import Script, Shot
from rollout.strategy import Strategy
from rollout.text import Json

__all__ = ["measure", "table"]

HOST_SYNCS = ("aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.equal")
"""Operators that wait for the device; copies to the host are counted as well."""


@dataclass(frozen=True)
class Row:
    """One strategy's cost a block, once its window is full; times in ms."""

    strategy: str
    window: int
    frames_per_second: float
    """Pixel frames, without decoding."""
    gen: float
    """Pixel frames a second of a whole run, as `rollout gen` writes it: with decoding and the mp4; 0 without a decoder."""
    gen_busy: float
    """The same while another process keeps a core busy."""
    block: float
    model: float
    """Everything outside self-attention."""
    attention: float
    """The attention kernel alone."""
    cache: float
    """Rotation, gathering and staging inside the attention calls, and the block's edits."""
    kv_mib: float
    peak_mib: float
    """Allocated on the GPU; resident in the process on a CPU, where rows share it."""
    host_syncs: float
    """Between a block's first noisy pass and its commit."""

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)


class Clock:
    """Sums seconds under names, waiting for the device at every edge."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what happens inside to `name`."""
        begun = now(self.device)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + now(self.device) - begun


class Timed(BackendDefaults):
    """A backend whose passes and self-attention calls are timed."""

    def __init__(self, inner: Backend, clock: Clock) -> None:
        self.inner, self.clock = inner, clock
        self.spec, self.device, self.dtype = inner.spec, inner.device, inner.dtype
        self.encode, self.decoder, self.world = inner.encode, inner.decoder, inner.world
        kernel = inner.attention or torch.nn.functional.scaled_dot_product_attention

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with clock.measure("attention"):
                return kernel(q, k, v)

        self.attention = attention

    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """One pass, and the self-attention calls in it."""

        def timed(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with self.clock.measure("attend"):
                return attend(layer, q, k, v)

        with self.clock.measure("passes"):
            return self.inner.denoise(x, t, prompt, timed)


class CountSyncs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that make the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operator passes here."""
        name = str(func)
        copies = "_to_copy" in name and torch.device((kwargs or {}).get("device") or "meta").type == "cpu"
        crosses = copies and isinstance(args[0], Tensor) and args[0].device.type != "cpu"
        self.count += crosses or name.startswith(HOST_SYNCS)
        return func(*args, **(kwargs or {}))


@contextmanager
def _busy_core() -> Iterator[None]:
    """Keep a core busy beside."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinner:
        try:
            yield
        finally:
            spinner.kill()


def _gen_rate(backend: Backend, strategy: Strategy, script: Script, *, busy: bool) -> float:
    """Frames a second of a run into a folder that is thrown away; 0 where the backend has no decoder, as random weights."""
    try:
        backend.decoder()
    except BackendError:
        return 0.0
    with TemporaryDirectory() as folder, _busy_core() if busy else nullcontext():
        job, begun = Job(backend, Recipe(strategy, str(script)), Path(folder)), now(backend.device)
        for _ in job.run():
            pass
        return backend.spec.pixel_frames(job.rollout.blocks * backend.spec.block) / (now(backend.device) - begun)


def measure(backend: Backend, name: str, strategy: Strategy, prompt: str, *, blocks: int = 3) -> Row:
    """Fill the window, then time `blocks` blocks plainly, split, and under the count of synchronisations."""
    spec = backend.spec
    fill = -(-strategy.policy.window // spec.block) + 1

    script = Script((Shot(prompt, (fill + blocks) * spec.block_seconds),))

    def started(model: Backend) -> Rollout:
        run = generate(model, strategy, script)
        for _ in range(fill):
            next(run)
        return run

    if backend.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(backend.device)
    plain = Clock(backend.device)
    run = started(backend)
    with plain.measure("blocks"):
        for _ in range(blocks):
            next(run)
    kv = run.engine.bytes / 2**20
    clock = Clock(backend.device)
    run = started(Timed(backend, clock))
    clock.seconds.clear()
    with clock.measure("blocks"):
        for _ in range(blocks):
            next(run)
    run = started(backend)
    with CountSyncs() as syncs:
        next(run)
    rates = [_gen_rate(backend, strategy, script, busy=busy) for busy in (False, True)]
    ms = {k: 1000 * v / blocks for k, v in clock.seconds.items()}
    if backend.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(backend.device) / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    block_ms = 1000 * plain.seconds["blocks"] / blocks
    return Row(
        strategy=name,
        window=strategy.policy.window,
        frames_per_second=1000 * spec.block * spec.stride / block_ms,
        gen=rates[0],
        gen_busy=rates[1],
        block=block_ms,
        model=ms["passes"] - ms["attend"],
        attention=ms["attention"],
        cache=ms["attend"] - ms["attention"] + ms["blocks"] - ms["passes"],
        kv_mib=kv,
        peak_mib=peak,
        host_syncs=float(syncs.count),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = (
        "strategy",
        "window",
        "fps ↑",
        "gen fps ↑",
        "beside a busy core ↑",
        "ms a block ↓",
        "model",
        "attention",
        "cache, positions ↓",
        "KV MiB ↓",
        "peak MiB ↓",
        "host syncs ↓",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        whole = [f"{x:,.1f}" if x else "-" for x in (r.gen, r.gen_busy)]
        times = [f"{r.frames_per_second:,.1f}", *whole]
        times += [f"{x:,.1f}" for x in (r.block, r.model, r.attention, r.cache)]
        sizes = [f"{x:,.0f}" for x in (r.kv_mib, r.peak_mib, r.host_syncs)]
        lines.append("| " + " | ".join([as_text(r.strategy), str(r.window), *times, *sizes]) + " |")
    return "\n".join(lines)
