"""What makes the cache fast, as facts rather than times: bytes held, temporaries, synchronisations, compilations, rounding."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from rollout import preset
from rollout.backend import Spec
from rollout.benchmarks.speed import rollouts
from rollout.benchmarks.speed.flat import flat
from rollout.benchmarks.speed.handling import PASSES, Floor, Ours, Plain
from rollout.benchmarks.speed.overhead import measure, switching
from rollout.cache import KVCache, kv_bytes
from rollout.cli import app
from rollout.errors import CacheError, RolloutError
from rollout.opaque import Opaque
from rollout.slots import Role, View
from rollout.strategy import Strategy
from rollout.testing import OracleCache
from tests.conftest import micro_backend

SPEC = Spec("small", 2, 2, 12, (4, 6, 4), (3, 2), (2, 2, 2))
TEXTS = (
    "absolute fifo:window={w}+keep",
    "relativistic sink:window={w},sink=1+flush",
    "online sink:window={w},sink=2+recache",
    "online ema:window={w},sink=1+keep",
)
A, B = "a red circle jumps", "a blue square spins"


def steady(text: str, window: int, dtype: torch.dtype = torch.float32, spec: Spec = SPEC) -> Ours:
    ours = Ours(Strategy.from_text(text.format(w=window)), spec, dtype)
    ours.fill()
    return ours


class Watch(TorchDispatchMode):
    """Records every operator, and the bytes of the largest tensor that one makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.names = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (*args, *(kwargs or {}).values())
        before = {x.untyped_storage().data_ptr() for x in given if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in before:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_held_are_a_formula(text: str, dtype: torch.dtype) -> None:
    for window in (9, 15, 21):
        ours = steady(text, window, dtype)
        roles = [s.role for s in ours.cache.slots]
        frame = SPEC.tokens * SPEC.heads * SPEC.head_dim * SPEC.layers
        assert ours.cache.bytes == kv_bytes(SPEC, window, 1, dtype) == 2 * window * frame * dtype.itemsize
        # of a sink's keys the channels of time alone, which are turned again
        raw_sinks = roles.count(Role.SINK) * frame * dtype.itemsize * 2 * SPEC.axes[0] // SPEC.head_dim
        averages = roles.count(Role.MEMORY) * 2 * frame * 4
        assert ours.cache.extra_bytes == raw_sinks + averages


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_temporary_grows_with_the_window(text: str, dtype: torch.dtype) -> None:
    """The largest tensor that a block makes is a block of queries or keys in the precision of the rotation."""
    peaks = set()
    for window in (9, 15, 21):
        ours = steady(text, window, dtype)
        for _ in range(3):
            step = ours.step()
            with Watch() as watch:
                ours.block(step)
            peaks.add(watch.largest)
    assert len(peaks) == 1
    assert peaks.pop() <= SPEC.block * SPEC.tokens * SPEC.heads * SPEC.head_dim * 4


@pytest.mark.parametrize("text", TEXTS)
def test_in_16_bits_no_block_is_held_in_float32(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the rotation's float32 numbers are of as many tokens as its cache holds."""
    monkeypatch.setattr("rollout.rope.CHUNK", SPEC.heads * SPEC.head_dim * 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    ours = steady(text, 9, torch.bfloat16)
    step = ours.step()
    with Watch() as watch:
        ours.block(step)
    # a memory is averaged in float32, a frame at a time
    frames = 2 if "ema" in text else SPEC.block
    assert watch.largest <= frames * SPEC.tokens * SPEC.heads * SPEC.head_dim * (4 if "ema" in text else 2)


@pytest.mark.parametrize("text", TEXTS)
def test_the_work_of_a_block_does_not_grow_with_the_window(text: str) -> None:
    """Bytes rotated, and operators, from one window to another."""
    rotated, operators = set(), set()
    for window in (9, 15, 21):
        ours = steady(text, window)
        step = ours.step()
        before = ours.cache.rotated
        with Watch() as watch:
            ours.block(step)
        rotated.add(ours.cache.rotated - before)
        operators.add(len(watch.names))
    assert len(rotated) == 1
    assert (
        max(operators) - min(operators) <= 2 * 2 * 4 * PASSES * SPEC.layers
    )  # a block in two stretches of rows, not one


def test_a_flush_is_bookkeeping() -> None:
    for window in (9, 21):
        ours = steady(TEXTS[1], window)
        step = ours.step(switch=True)
        with Watch() as watch:
            assert ours.switch(step) == 0
        assert watch.names == []
    ours = steady("relativistic sink:window=9,sink=1+recache", 9)
    assert ours.switch(ours.step(switch=True)) == 3


HOST = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "unique", "masked_select")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("event", ["", "switch", "cut"])
def test_nothing_waits_for_the_device(text: str, event: str) -> None:
    ours = steady(text, 12)
    step = ours.step(switch=event == "switch", cut=event == "cut")
    if step.switch is not None:
        ours.switch(step)
    ours.cache.apply(step.room)
    attend = ours.cache.reader(step.placement)
    with Watch() as watch:
        for _ in range(PASSES - 1):
            ours._pass(attend)
        ours._pass(ours.cache.writer(step.placement, step.admitted))
        ours.cache.commit(step.admitted)
    assert watch.names
    assert not [name for name in watch.names if any(host in name.split(".")[1] for host in HOST)]


class Layers(nn.Module):
    """A transformer's blocks in miniature: projections and attend."""

    def __init__(self, spec: Spec, calls: Opaque) -> None:
        super().__init__()
        self.spec, width = spec, spec.heads * spec.head_dim
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(spec.layers))
        self.places = [calls.place(layer) for layer in range(spec.layers)]

    def forward(self, x: Tensor) -> Tensor:
        for place, qkv in zip(self.places, self.qkv, strict=True):
            q, k, v = (y.unflatten(-1, (self.spec.heads, -1)) for y in qkv(x).chunk(3, -1))
            x = x + Opaque.call(place, q, k, v).flatten(-2)
        return x


@pytest.mark.parametrize("text", TEXTS)
def test_a_compiled_model_is_compiled_whole_and_once(text: str) -> None:
    torch._dynamo.reset()
    graphs = []

    def counts(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    calls = Opaque()
    plain = Layers(SPEC, calls)
    model = torch.compile(plain, backend=counts, fullgraph=True)
    strategy = Strategy.from_text(text.format(w=12))
    ours = Ours(strategy, SPEC, torch.float32)
    ours.cache.attention = F.scaled_dot_product_attention
    simple = OracleCache(SPEC, 12, dtype=torch.float32)
    with torch.no_grad():
        for n in range(12):
            step = ours.step()
            x = torch.randn(1, 3 * SPEC.tokens, SPEC.heads * SPEC.head_dim)
            results = []
            for cache, net in ((ours.cache, model), (simple, plain)):
                cache.apply(step.room)
                calls.attend = cache.reader(step.placement)
                read = net(x)
                calls.attend = cache.writer(step.placement, step.admitted)
                torch.testing.assert_close(read, net(x))
                cache.commit(step.admitted)
                results.append(read)
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
            ours.next = n + 1
    assert len(graphs) == 1


def test_a_compiled_model_says_what_attend_raises() -> None:
    """Also outside of a pass; and a result that is one of its arguments is made new."""
    torch._dynamo.reset()
    calls = Opaque()
    model = torch.compile(Layers(SPEC, calls), backend="eager", fullgraph=True)
    x = torch.randn(1, 3 * SPEC.tokens, SPEC.heads * SPEC.head_dim)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="outside a denoise pass"):
            model(x)
        cache = KVCache(SPEC, 6)
        view = View((), (0, 1, 2))
        calls.attend = cache.reader(view)
        model(x)
        cache.reset()
        with pytest.raises(CacheError, match="has changed"):
            model(x)
        place, q = calls.place(0), torch.randn(1, 3, 2, 12)
        calls.attend = lambda layer, q, k, v: v
        out = Opaque.call(place, q, q, q)
    assert torch.equal(out, q)
    assert out.data_ptr() != q.data_ptr()


@pytest.mark.parametrize("late", [200, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("text", TEXTS)
def test_rounding_does_not_add_up(text: str, late: int) -> None:
    """In bf16 the attention of a late block is as near to the exact one as that of block 20."""

    def error(blocks: int) -> float:
        strategy = Strategy.from_text(text.format(w=9))
        ours = Ours(strategy, SPEC, torch.bfloat16)
        exact = Ours(strategy, SPEC, torch.float64)
        for one in (ours, exact):
            one.cache.attention = F.scaled_dot_product_attention
        generator = torch.Generator().manual_seed(1)
        gap = 0.0
        for n in range(blocks):
            step = ours.step()
            drawn = [torch.randn(1, 3 * SPEC.tokens, SPEC.heads, SPEC.head_dim, generator=generator) for _ in range(3)]
            outs = []
            for one in (ours, exact):
                one.cache.apply(step.room)
                qkv = [x.to(one.cache.dtype) for x in (y.bfloat16() for y in drawn)]
                outs.append(one.cache.writer(step.placement, step.admitted)(0, *qkv).double())
                for layer in range(1, SPEC.layers):
                    one.cache._written.add(layer)
                    if step.admitted[0].role is Role.SINK:
                        one.cache._staged[layer] = qkv[1][..., : one.cache._store.times]
                one.cache.commit(step.admitted)
                one.next += 1
            if n >= blocks - 5:
                gap = max(gap, ((outs[0] - outs[1]).norm() / outs[1].norm()).item())
        return gap

    assert error(late) < 1.6 * error(20) < 0.05


def test_a_long_rollout_is_flat() -> None:
    points = list(
        flat(micro_backend(torch.float32), Strategy.from_text("online ema:window=9,sink=1+keep"), A, 600, points=4)
    )
    assert [p.frames for p in points] == [150, 300, 450, 600]
    assert len({(p.kv_bytes, p.extra_bytes) for p in points}) == 1
    assert max(p.resident_mib for p in points) - points[0].resident_mib < 20


def test_the_benchmark_measures_all_it_names() -> None:
    rows = list(measure([torch.float32], [6], repeats=1, spec=SPEC))
    assert {"dtype", "window", "composition", "floor_ms", "sdpa_ms", "ours_ms", "plain_ms"} == set(rows[0].to_dict())
    assert {row.composition.split()[0] for row in rows} == {"absolute", "relativistic", "online"}
    assert all(min(row.floor_ms, row.sdpa_ms, row.ours_ms, row.plain_ms) > 0 for row in rows)
    flush, cut, recache = switching([torch.float32], [12], repeats=1, spec=SPEC)
    assert (flush.forwards, cut.forwards, recache.forwards) == (0, 0, 4)


def test_the_baseline_attends_to_what_ours_does() -> None:
    """The plain handling's last pass holds the same keys and values, in order, as the cache after the roll."""
    spec = SPEC
    plain, floor = Plain(9, 1, spec, torch.float64), Floor(9, 1, spec, torch.float64)
    before = plain.keys.clone()
    plain.block()
    size = spec.block * spec.tokens
    assert torch.equal(plain.keys[:, -size:], plain.qkv[1])
    assert torch.equal(plain.keys[:, : spec.tokens], before[:, : spec.tokens])
    assert torch.equal(plain.keys[:, spec.tokens : -size], before[:, spec.tokens + size :])
    floor.block()
    assert torch.equal(floor.values[:, -size:], floor.qkv[2])
    assert isinstance(KVCache(spec, 9).bytes, int)


def test_bench_speed_prints_a_table_and_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("handling", "overhead"):
        monkeypatch.setattr(f"rollout.benchmarks.speed.{module}.geometry", lambda: SPEC)
    monkeypatch.setattr("rollout.benchmarks.speed.overhead.pin_allocator", lambda: None)
    out = tmp_path / "speed.json"
    args = ["bench", "speed", "--dtype", "float32,bfloat16", "--windows", "6,9", "--repeats", "1", "--json", str(out)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert {(r["dtype"], r["window"]) for r in found["rows"]} == set(itertools.product(("float32", "bfloat16"), (6, 9)))
    assert {s["switch"] for s in found["switches"]} == {"flush", "cut", "recache"}
    assert "ours / floor" in done.output
    for bad, why in (
        (["--windows", "six"], "whole numbers"),
        (["--windows", "3"], "6 or more"),
        (["--dtype", "int3"], "no dtype"),
    ):
        refused = CliRunner().invoke(app, ["bench", "speed", *bad]).exception
        assert isinstance(refused, RolloutError)
        assert why in str(refused)


def test_bench_speed_follows_a_long_rollout(tmp_path: Path) -> None:
    out = tmp_path / "flat.json"
    args = [
        "bench",
        "speed",
        "--backend",
        "sprites",
        "--preset",
        "infinity-rope",
        "--frames",
        "60",
        "--json",
        str(out),
    ]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert rows[-1]["frames"] == 60
    assert len({row["kv_bytes"] for row in rows}) == 1
    far = CliRunner().invoke(app, [*args[:4], "--presets", "self-forcing", "--frames", "2000"]).exception
    assert "position table" in str(far)


def test_a_run_is_timed_alone_and_beside_a_busy_core() -> None:
    row = rollouts.measure(
        micro_backend(torch.float32), "fifo", preset("infinity-rope"), "a red circle jumps", blocks=1
    )
    assert min(row.gen, row.gen_busy) > 0
    assert "gen ↑ | beside a busy core ↑" in rollouts.tables([row])
