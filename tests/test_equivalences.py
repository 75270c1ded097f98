"""Compositions that must give the same video, through the whole loop in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollout import generate
from rollout.backends.sprites.weights import Sprites
from rollout.cache import KVCache
from rollout.parts import PositionsDefaults
from rollout.rope import rotate, table
from rollout.slots import Block, Role, Slot, View
from rollout.strategies import Absolute, Cut, Ema, Fifo, Flush, Keep, Online, Recache, Relativistic, Sink
from rollout.strategy import Strategy
from rollout.testing import OracleCache
from rollout.views import reach
from tests.conftest import examples, micro_backend

A, B = "a red circle jumps", "a blue square spins on olive"
LONG = f"{A}[3s]"
TIGHT = {"rtol": 0, "atol": 1e-8}


def roll(backend: Sprites, strategy: Strategy, script: str = LONG, seed: int = 0) -> Tensor:
    return torch.cat([r.latents for r in generate(backend, strategy, script, seeds=seed)], 1)


def same(a: Tensor, b: Tensor) -> None:
    assert a.std() > 0.1, "a dead model proves nothing"
    torch.testing.assert_close(a, b, **TIGHT)


def differ(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("window", [6, 9, 12])
def test_fifo_is_the_same_under_every_positional_scheme(micro: Sprites, window: int) -> None:
    found = [
        roll(micro, Strategy(p, Fifo(window), Keep()))
        for p in (Absolute(), Relativistic(), Online(), Relativistic(head=21))
    ]
    for other in found[1:]:
        same(found[0], other)


def test_a_sink_changes_that(micro: Sprites) -> None:
    absolute, relative = (roll(micro, Strategy(p, Sink(9, 2), Keep())) for p in (Absolute(), Relativistic()))
    differ(absolute, relative)


@dataclass(frozen=True)
class JustBefore(PositionsDefaults):
    """Absolute, with the sinks re-dated to sit just before the window."""

    kind: ClassVar[str] = "just-before"
    by_slot: ClassVar[bool] = True

    def place(self, slots: Sequence[Slot], block: Block, window: int) -> View:
        end = block.start
        return View(tuple(end - len(slots) + i for i in range(len(slots))), tuple(range(end, block.end)))


@pytest.mark.parametrize("sink", [1, 2, 3])
def test_a_sink_just_before_its_window_equals_contiguous_indices(micro: Sprites, sink: int) -> None:
    policy = Sink(9, sink)
    found = [roll(micro, Strategy(p, policy, Keep())) for p in (JustBefore(), Online(), Relativistic())]
    same(found[0], found[1])
    same(found[0], found[2])


def test_the_head_matters_through_the_gap_to_the_sink_alone(micro: Sprites) -> None:
    for policy, matters in ((Fifo(9), False), (Sink(9, 1), True)):
        near, far = (roll(micro, Strategy(Relativistic(head=h), policy, Keep())) for h in (9, 21))
        (differ if matters else same)(near, far)


@pytest.mark.parametrize(
    "text", ["absolute fifo:window=9+keep", "relativistic sink:window=9,sink=2+flush", "online ema:window=12+recache"]
)
def test_rotated_storage_equals_raw_storage(micro: Sprites, text: str) -> None:
    """The cache rotates a key once; the oracle holds raw keys and rotates them all for every block."""
    strategy = Strategy.from_text(text)
    script = f"{A}[4s] | {B}[3s] | {A}[2s#]"
    run = generate(micro, strategy, script)
    run.engine.cache = OracleCache(micro.spec, strategy.policy.window, dtype=torch.float64)
    same(roll(micro, strategy, script), torch.cat([r.latents for r in run], 1))


@pytest.mark.parametrize(("sink", "last"), [(1, 2), (2, 1), (0, 3)])
def test_with_window_sink_last_block_a_flush_equals_the_roll(micro: Sprites, sink: int, last: int) -> None:
    script = f"{A}[2s] | {B}[2s]"
    for positions in (Absolute(), Relativistic(), Online()):
        flush, keep = (
            roll(micro, Strategy(positions, Sink(sink + last + 3, sink), s), script) for s in (Flush(last), Keep())
        )
        same(flush, keep)
    wide = [
        roll(micro, Strategy(Relativistic(), Sink(sink + last + 6, sink), s), script) for s in (Flush(last), Keep())
    ]
    differ(*wide)


SAME_WORDS = "a red circle jumps[1s] | red circle jumps[1.2s]"
"""The second prompt has another text and the same meaning: a switch that changes nothing but the cache."""


@pytest.mark.parametrize("positions", [Absolute(), Relativistic(), Online()])
@pytest.mark.parametrize("sink", ["keep", "rebuild"])
def test_causal_recache_under_the_same_prompt_is_the_identity_while_nothing_was_evicted(
    micro: Sprites, positions, sink
) -> None:
    recache, keep = (
        roll(micro, Strategy(positions, Sink(21, 3), s), SAME_WORDS) for s in (Recache("causal", sink), Keep())
    )
    same(recache, keep)


def test_bidirectional_recache_is_not(micro: Sprites) -> None:
    both = (roll(micro, Strategy(Absolute(), Sink(21, 3), s), SAME_WORDS) for s in (Recache("bidirectional"), Keep()))
    differ(*both)


def test_recache_under_a_new_prompt_changes_the_cache(micro: Sprites) -> None:
    script = f"{A}[1s] | {B}[1s]"
    found = [
        roll(micro, Strategy(Absolute(), Sink(12, 3), s), script)
        for s in (Keep(), Recache(), Recache(sink="rebuild"), Flush())
    ]
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            differ(a, b)


@pytest.mark.parametrize("policy", [Sink(6, 1), Sink(12, 3), Fifo(9)])
def test_a_cut_to_the_natural_index_is_a_plain_flush(micro: Sprites, policy: Sink | Fifo) -> None:
    natural = Cut(policy.window - 1, 1)
    cut = roll(micro, Strategy(Relativistic(cut=natural), policy, Flush()), f"{A}[2s] | {B}[2s#]")
    flush = roll(micro, Strategy(Relativistic(cut=natural), policy, Flush()), f"{A}[2s] | {B}[2s]")
    same(cut, flush)
    jump = roll(micro, Strategy(Relativistic(cut=Cut(20, 1)), policy, Flush()), f"{A}[2s] | {B}[2s#]")
    differ(cut, jump)


def test_a_cuts_block_is_stored_at_its_natural_index(micro: Sprites) -> None:
    """The jump dates the block's attention for that block alone: what is stored are raw keys, dated anew afterwards."""
    strategy = Strategy(Relativistic(cut=Cut(20, 1)), Sink(6, 1), Flush())
    run = generate(micro, strategy, f"{A}[2s] | {B}[2s#]")
    result = next(r for r in run if r.block.cut)
    assert result.placement == View((0, 2), (3, 19, 20))
    kept: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(k)
        return torch.zeros_like(v)

    with torch.no_grad():
        micro.denoise(result.latents, 0.0, micro.encode(B), attend)
    torch.testing.assert_close(torch.cat([run.cache.raw(i, 0)[0] for i in (2, 3, 4)], 1), kept[0])
    assert next(run).placement == View((0, 1, 2), (3, 4, 5))


def test_every_field_of_the_ema_changes_the_video(micro: Sprites) -> None:
    rate_1, slow = (roll(micro, Strategy(Online(), Ema(12, 3, (r,)), Keep())) for r in (1.0, 0.01))
    differ(rate_1, slow)
    token, frame = (roll(micro, Strategy(Online(), Ema(12, 3, pool=p), Keep())) for p in ("token", "frame"))
    differ(token, frame)
    fold, drop = (roll(micro, Strategy(Online(), Ema(12, 3, displaced=d), Keep())) for d in ("fold", "drop"))
    differ(fold, drop)


@settings(max_examples=examples(6))
@given(st.integers(7, 21), st.integers(0, 3))
def test_relativistic_and_online_agree_on_contiguous_caches(window: int, sink: int) -> None:
    backend = micro_backend()
    policy = Sink(window, sink)
    a, b = (Strategy(p, policy, Keep()) for p in (Relativistic(), Online()))
    assert reach(a, backend.spec) == window
    same(roll(backend, a, f"{A}[4s]"), roll(backend, b, f"{A}[4s]"))


def test_blockwise_inference_equals_one_masked_pass(micro: Sprites) -> None:
    """The clean passes of a cached rollout are the rows of a block-causal masked forward over the whole sequence."""
    spec = micro.spec
    strategy = Strategy(Absolute(), Fifo(21), Keep())
    latents = roll(micro, strategy, f"{A}[2s]")
    prompt = micro.encode(A)
    frames = latents.shape[1]
    at = table(range(frames), spec.grid, spec.axes, dtype=torch.float64)
    block = torch.arange(frames).div(3, rounding_mode="floor").repeat_interleave(spec.tokens)
    mask = block[None] <= block[:, None]

    def masked(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (rotate(q, at), rotate(k, at), v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    t = 300.0
    with torch.no_grad():
        whole = micro.denoise(latents, t, prompt, masked)
        cache = KVCache(spec, 21, dtype=torch.float64)
        for start in range(0, frames, 3):
            place = View(tuple(range(start)), (start, start + 1, start + 2))
            part = micro.denoise(latents[:, start : start + 3], t, prompt, cache.writer(place))
            cache.commit([Slot(Role.RECENT, start + i, start // 3) for i in range(3)])
            torch.testing.assert_close(part, whole[:, start : start + 3], **TIGHT)
