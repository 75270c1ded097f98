"""Whole rollouts of a model under several strategies: what a user waits for, and where a block's time goes.

On a GPU the parts are read off events in its stream; elsewhere off a clock around every part, which costs time itself.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rollout.backend import Attend, Backend, BackendDefaults, Decoder
from rollout.benchmarks.markdown import as_text
from rollout.benchmarks.speed.handling import PASSES, Plain, milliseconds
from rollout.devices import now
from rollout.errors import BackendError
from rollout.loop import generate
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.sampler import Schedule
from rollout.script import Script, Shot
from rollout.strategies import Absolute, Fifo, Sink
from rollout.strategy import Strategy
from rollout.text import Json

__all__ = ["measure", "tables"]

HOST_SYNCS = ("aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.equal")
"""Operators that wait for the device; copies to the host are counted as well."""


@dataclass(frozen=True)
class Row:
    """One strategy's cost a block, once its window is full; times in ms, medians over blocks."""

    strategy: str
    window: int
    frames_per_second: float
    """Pixel frames, without decoding."""
    decoded: float
    """The same, each block decoded before the next one begins; 0 without a decoder."""
    gen: float
    """Pixel frames a second of a whole run, as `rollout gen` writes it: with decoding and the mp4; 0 without a decoder."""
    gen_busy: float
    """The same while another process keeps a core busy; 0 on a GPU too."""
    change: float
    """From a new prompt between two blocks to its first frames, decoded where there is a decoder; without encoding it."""
    change_frames: int
    """Pixel frames that are shown meanwhile, at the model's own rate."""
    block: float
    plain: float
    """The block under the released handling, in the same window with the same sinks; 0 where the policy is none of these."""
    model: float
    """Everything outside self-attention."""
    attention: float
    """The attention kernel alone."""
    cache: float
    """Rotation, gathering and staging inside the attention calls, and the block's edits."""
    decoding: float
    kv_mib: float
    peak_mib: float
    """Allocated on the GPU, a whole run included; resident in the process on a CPU, where rows share it."""
    host_syncs: float
    """Between a block's first noisy pass and its commit."""

    def to_dict(self) -> Json:
        """As JSON."""
        return asdict(self)


class Clock:
    """Sums milliseconds under names while it is on: of a GPU by events in its stream, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self._edges: list[tuple[str, Any, Any]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what happens inside to `name`."""
        begun = self._edge()
        yield
        self._edges.append((name, begun, self._edge()))

    def sums(self) -> dict[str, float]:
        """Milliseconds by name, once the device is idle."""
        now(self.device)
        sums: dict[str, float] = {}
        for name, begun, ended in self._edges:
            ms = begun.elapsed_time(ended) if self.device.type == "cuda" else 1000 * (ended - begun)
            sums[name] = sums.get(name, 0.0) + ms
        return sums

    def _edge(self) -> Any:
        if self.device.type != "cuda":
            return now(self.device)
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class Timed(BackendDefaults):
    """A backend whose passes and self-attention calls are timed while its clock is on."""

    def __init__(self, inner: Backend, clock: Clock) -> None:
        self.inner, self.clock = inner, clock
        self.spec, self.device, self.dtype = inner.spec, inner.device, inner.dtype
        self.rows, self.schedule, self.world = inner.rows, inner.schedule, inner.world
        self.encode, self.decoder = inner.encode, inner.decoder
        kernel = inner.attention or F.scaled_dot_product_attention

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not clock.on:
                return kernel(q, k, v)
            with clock.measure("attention"):
                return kernel(q, k, v)

        self.attention = attention

    def ready(self) -> None:
        """As the model has it."""
        self.inner.ready()

    def denoise(self, x: Tensor, t: float | Tensor, prompt: Tensor, attend: Attend) -> Tensor:
        """One pass, and the self-attention calls in it."""
        if not self.clock.on:
            return self.inner.denoise(x, t, prompt, attend)

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


def _gen_rate(backend: Backend, recipe: Recipe, *, busy: bool) -> float:
    """Frames a second of a run into a folder that is thrown away."""
    with TemporaryDirectory() as folder, _busy_core() if busy else nullcontext():
        job, begun = Job(backend, recipe, Path(folder)), now(backend.device)
        for _ in job.run():
            pass
        return backend.spec.pixel_frames(job.rollout.blocks * backend.spec.block) / (now(backend.device) - begun)


@torch.no_grad()
def plain_block(backend: Backend, strategy: Strategy, prompt: str, *, blocks: int) -> float:
    """Ms of a block's passes alone under the released handling; 0 where the policy is no window with sinks."""
    spec, policy = backend.spec, strategy.policy
    if type(policy) not in (Fifo, Sink) or backend.rows > 1:
        return 0.0
    sink, raw = getattr(policy, "sink", 0), not isinstance(strategy.positions, Absolute)
    layers = [Plain(policy.window, sink, spec, backend.dtype, backend.device, raw=raw) for _ in range(spec.layers)]
    kernel = backend.attention or F.scaled_dot_product_attention
    text, x = backend.encode(prompt), torch.randn(1, spec.block, *spec.latent, device=backend.device)

    def passes() -> None:
        for n in range(PASSES):

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, *, keep: bool = n == PASSES - 1) -> Tensor:
                q, k, v = (y.transpose(1, 2) for y in layers[layer].attend(q, k, v, keep=keep))
                return kernel(q, k, v).transpose(1, 2)

            backend.denoise(x, 500.0, text, attend)

    times = [milliseconds(passes, backend.device) for _ in range(blocks + 1)]
    return statistics.median(times[1:])


def _decoder(backend: Backend) -> Decoder | None:
    """None where the backend has none."""
    try:
        return backend.decoder()
    except BackendError:
        return None


def measure(
    backend: Backend,
    name: str,
    strategy: Strategy,
    prompt: str,
    *,
    blocks: int = 3,
    schedule: Schedule | None = None,
    split: bool = True,
) -> Row:
    """Fill the window, then time `blocks` blocks whole, then split; a block under the count of waits, and a new prompt.

    `split`: parts and waits too; not of a compiled model, in which events are lost, and which runs as it is under a count.
    """
    spec, device = backend.spec, backend.device
    fill = -(-strategy.policy.window // spec.block) + 1
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock, decoder = Clock(device), _decoder(backend)
    timed = Timed(backend, clock)
    script = Script((Shot(prompt, (fill + blocks) * spec.block_seconds),))
    # without an end: under a rolling order the last blocks have fewer passes
    run = generate(timed, strategy, script, schedule=schedule, endless=True)
    for _ in range(fill):
        next(run)
    block_times, decode_times = [], []
    for _ in range(blocks):
        begun = now(device)
        result = next(run)
        block_times.append(1000 * (now(device) - begun))
        if decoder is not None:
            decode_times.append(milliseconds(partial(decoder.push, result.latents[0]), device))
    syncs = CountSyncs()
    if split:
        clock.on = True
        with clock.measure("blocks"):
            for _ in range(blocks):
                next(run)
        clock.on = False
        with syncs:
            next(run)
    run.prompt(prompt + ".")  # another text that says the same: what it says costs nothing
    begun = now(device)
    result = next(run)
    if decoder is not None:
        decoder.push(result.latents[0])
    change = now(device) - begun
    kv = run.engine.bytes / 2**20
    decodes = decoder is not None
    del run, result, decoder
    rates = [0.0, 0.0]
    if decodes:
        recipe = Recipe(strategy, str(script), schedule=schedule or backend.schedule or Schedule())
        rates = [_gen_rate(backend, recipe, busy=busy) for busy in (False, True) if not busy or device.type == "cpu"]
    peak = _peak_mib(device)
    ms = dict.fromkeys(("blocks", "passes", "attend", "attention"), 0.0)
    ms |= {part: total / blocks for part, total in clock.sums().items()}
    block, decode = statistics.median(block_times), statistics.median(decode_times or [0.0])
    rate = 1000 * spec.block * spec.stride
    return Row(
        strategy=name,
        window=strategy.policy.window,
        frames_per_second=rate / block,
        decoded=rate / (block + decode) if decode else 0.0,
        gen=rates[0],
        gen_busy=rates[-1] if len(rates) > 1 else 0.0,
        change=1000 * change,
        change_frames=ceil(change * spec.fps),
        block=block,
        plain=plain_block(backend, strategy, prompt, blocks=blocks) if schedule is None else 0.0,
        model=ms["passes"] - ms["attend"],
        attention=ms["attention"],
        cache=ms["attend"] - ms["attention"] + ms["blocks"] - ms["passes"],
        decoding=decode,
        kv_mib=kv,
        peak_mib=peak,
        host_syncs=float(syncs.count),
    )


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


RATES = (
    "strategy",
    "window",
    "fps ↑",
    "with decoding ↑",
    "gen ↑",
    "beside a busy core ↑",
    "a new prompt, ms ↓",
    "frames ↓",
    "KV MiB ↓",
    "peak MiB ↓",
)
PARTS = (
    "strategy",
    "block ↓",
    "plain handling",
    "model",
    "attention",
    "cache, positions ↓",
    "decoding",
    "host syncs ↓",
)


def tables(rows: Sequence[Row]) -> str:
    """What a user waits for, and where a block's ms go, as Markdown tables."""
    lines = _head(RATES)
    for r in rows:
        rates = (r.frames_per_second, r.decoded, r.gen, r.gen_busy)
        sizes = (r.change, r.change_frames, r.kv_mib, r.peak_mib)
        lines.append(_line(r.strategy, str(r.window), *map(_tenths, rates), *(f"{x:,.0f}" for x in sizes)))
    lines += ["", *_head(PARTS)]
    for r in rows:
        times = (r.block, r.plain, r.model, r.attention, r.cache, r.decoding)
        lines.append(_line(r.strategy, *map(_tenths, times), f"{r.host_syncs:,.0f}" if r.model else "-"))
    return "\n".join(lines)


def _head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _line(strategy: str, *cells: str) -> str:
    return "| " + " | ".join([as_text(strategy), *cells]) + " |"


def _tenths(number: float) -> str:
    """A number, or a dash for what there is not."""
    return f"{number:,.1f}" if number else "-"
