"""KVCache: the mechanism against a naive list, and its safety rules."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from rollout.backend import Spec
from rollout.cache import KVCache
from rollout.errors import CacheError
from rollout.plan import chunks, decide, replayed
from rollout.rope import rotate, table
from rollout.slots import Block, Edit, Mix, Replay, Role, Slot, View, keep
from rollout.strategies import Absolute, Ema, Fifo, Flush, Keep, Online, Recache, Relativistic, Sink
from rollout.strategy import Strategy
from rollout.testing import OracleCache
from rollout.views import reach
from tests.conftest import examples

SPEC = Spec("tiny", layers=2, heads=2, head_dim=12, latent=(1, 2, 1), grid=(2, 1), axes=(2, 2, 2))


def qkv(frames: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, frames * 2, 2, 12, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def write(cache: KVCache, frames: list[int], seed: int, role: Role = Role.RECENT) -> None:
    attend = cache.writer(View(tuple(range(len(cache.slots))), tuple(range(len(frames)))))
    for layer in range(2):
        attend(layer, *qkv(len(frames), seed + layer))
    cache.commit([Slot(role, f, f // 3) for f in frames])


def held(cache: KVCache) -> list[Tensor]:
    return [side.clone() for i in range(len(cache.slots)) for layer in range(2) for side in cache.raw(i, layer)]


def new_cache(window: int = 8, dtype: torch.dtype = torch.float64) -> KVCache:
    return KVCache(SPEC, window, 2, dtype=dtype)


def naive(q: Tensor, own: tuple[Tensor, Tensor], past: list[tuple[Tensor, Tensor]], place: View) -> Tensor:
    """Attention in four lines: every key rotated at its index, softmax over all."""
    keys = torch.cat(
        [
            rotate(k, table([i], (2, 1), SPEC.axes, dtype=torch.float64))
            for (k, _), i in zip(past, place.slots, strict=True)
        ]
        + [rotate(own[0], table(place.block, (2, 1), SPEC.axes, dtype=torch.float64))],
        1,
    )
    values = torch.cat([v for _, v in past] + [own[1]], 1)
    turned = rotate(q, table(place.block, (2, 1), SPEC.axes, dtype=torch.float64))
    weights = (torch.einsum("bihd,bjhd->bhij", turned, keys) / 12**0.5).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, values)


class AgainstAList(RuleBasedStateMachine):
    """Blocks, switches, cuts and replays in any order: the cache equals a list of raw frames, always."""

    @initialize(
        strategy=st.sampled_from(
            [
                Strategy(p, c, s)
                for p in (Relativistic(), Online())
                for c in (Fifo(9), Sink(9, 2), Ema(9, 2, (0.3, 0.6)), Ema(10, 1, (0.5,), "frame", "drop"))
                for s in (Flush(2), Recache(sink="rebuild"), Recache("bidirectional"), Keep())
            ]
            + [Strategy(Absolute(), Sink(9, 2), s) for s in (Flush(1), Recache(sink="rebuild"))]
        )
    )
    def begin(self, strategy: Strategy) -> None:
        self.strategy, self.cache = strategy, KVCache(SPEC, strategy.policy.window, 2, dtype=torch.float64)
        self.frames: list[list[tuple[Tensor, Tensor]]] = [[], []]
        self.next, self.seed = 0, 0

    def edit(self, edit: Edit) -> None:
        self.cache.apply(edit)
        for layer in range(2):
            new = []
            for row in edit.rows:
                pair = [sum(self.frames[layer][old][side] * w for old, w in row.weights) for side in (0, 1)]
                if row.pooled:
                    pair = [x.mean(1, keepdim=True).expand_as(x) for x in pair]
                new.append((pair[0], pair[1]))
            self.frames[layer] = new

    def encode(self, slots: tuple[Slot, ...], place: View) -> None:
        attend = self.cache.writer(place)
        for layer in range(2):
            q, k, v = qkv(len(slots), self.seed)
            self.seed += 1
            torch.testing.assert_close(
                attend(layer, q, k, v), naive(q, (k, v), self.frames[layer], place), rtol=0, atol=1e-12
            )
            self.frames[layer] += zip(k.split(2, 1), v.split(2, 1), strict=True)
        self.cache.commit(slots)

    @rule(event=st.sampled_from(["", "", "switch", "cut"]), passes=st.integers(0, 2))
    def block(self, event: str, passes: int) -> None:
        block = Block(self.next, 3 * self.next, 3, 0, event == "switch", event == "cut")
        step = decide(self.strategy, self.cache.slots, block, SPEC)
        if step.switch is not None:
            self.edit(step.switch)
        if step.replay is not None:
            n = len(step.replay.frames)
            first = len(self.cache.slots)
            self.encode(replayed(step.replay, 3), View(tuple(range(first)), tuple(range(first, first + n))))
        self.edit(step.room)
        reader = self.cache.reader(step.placement)
        before = held(self.cache)
        for _ in range(passes):
            for layer in range(2):
                q, k, v = qkv(3, self.seed)
                self.seed += 1
                torch.testing.assert_close(
                    reader(layer, q, k, v), naive(q, (k, v), self.frames[layer], step.placement), rtol=0, atol=1e-12
                )
        for a, b in zip(before, held(self.cache), strict=True):
            assert torch.equal(a, b), "a reader never writes"
        self.encode(step.admitted, step.placement)
        self.next += 1

    @precondition(lambda self: self.next > 0)
    @rule()
    def a_broken_pass_changes_nothing(self) -> None:
        before, slots = held(self.cache), self.cache.slots
        placement = View(tuple(range(len(slots))), (0, 1, 2))
        if len(slots) + 3 > self.cache.window:
            with pytest.raises(CacheError, match="Make room first"):
                self.cache.writer(placement)
            return
        attend = self.cache.writer(placement)
        attend(1, *qkv(3, 0))
        with pytest.raises(CacheError, match="missed layer 0"):
            self.cache.commit([Slot(Role.RECENT, 0, 0)] * 3)
        assert self.cache.slots == slots
        assert all(torch.equal(a, b) for a, b in zip(before, held(self.cache), strict=True))

    @invariant()
    def it_equals_the_list(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert len(self.cache.slots) == len(self.frames[0]) <= self.strategy.policy.window
        for layer in range(2):
            for i, pair in enumerate(self.frames[layer]):
                for side in (0, 1):
                    torch.testing.assert_close(self.cache.raw(i, layer)[side], pair[side], rtol=0, atol=1e-9)


AgainstAList.TestCase.settings = settings(max_examples=examples(15), stateful_step_count=14, deadline=None)
TestAgainstAList = AgainstAList.TestCase


def test_the_size_is_constant() -> None:
    cache = new_cache()
    size = cache.bytes
    assert size == 2 * 2 * 2 * 8 * 2 * 2 * 12 * 8  # layers, k and v, batch, window, tokens, heads, dim, bytes
    for n in range(4):
        cache.apply(keep(cache.slots, range(max(0, len(cache.slots) - 5), len(cache.slots))))
        write(cache, [3 * n, 3 * n + 1, 3 * n + 2], n)
    assert cache.bytes == size


def test_a_stale_reader_is_refused() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    reader = cache.reader(View((0, 1, 2), (3, 4, 5)))
    write(cache, [3, 4, 5], 1)
    with pytest.raises(CacheError, match="has changed"):
        reader(0, *qkv(3, 0))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit((Slot(Role.RECENT, 0, 0),), (Mix(((0, 0.5),)),)), "sums to 0.5"),
        (Edit((Slot(Role.RECENT, 0, 0),), (Mix(()),)), "sums to 0"),
        (Edit((Slot(Role.RECENT, 0, 0),), (Mix(((7, 1.0),)),)), "outside"),
        (Edit((Slot(Role.RECENT, 0, 0),), ()), "1 slots but has 0 rows"),
        (Edit((Slot(Role.RECENT, 0, 0), Slot(Role.SINK, 1, 0)), (Mix(((0, 1.0),)), Mix(((1, 1.0),)))), "out of order"),
    ],
)
def test_a_bad_edit_is_refused_and_changes_nothing(edit: Edit, says: str) -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    before, slots = held(cache), cache.slots
    with pytest.raises(CacheError, match=says):
        cache.apply(edit)
    assert cache.slots == slots
    assert all(torch.equal(a, b) for a, b in zip(before, held(cache), strict=True))


def test_commits_that_do_not_fit_are_refused() -> None:
    cache = new_cache(4)
    write(cache, [0, 1, 2], 0)
    with pytest.raises(CacheError, match="do not fit a window of 4"):
        write(cache, [3, 4, 5], 1)
    cache.writer(View((0, 1, 2), (3,)))
    with pytest.raises(CacheError, match="missed layer 0"):
        cache.commit([Slot(Role.RECENT, 3, 1)])
    attend = cache.writer(View((0, 1, 2), (3,)))
    for layer in range(2):
        attend(layer, *qkv(1, layer))
    with pytest.raises(CacheError, match="2 slots were admitted"):
        cache.commit([Slot(Role.RECENT, 3, 1)] * 2)
    with pytest.raises(CacheError, match="sinks come first"):
        cache.commit([Slot(Role.SINK, 3, 1)])
    with pytest.raises(CacheError, match="view of 2 slots"):
        cache.reader(View((0, 1), (3,)))


def test_a_failed_cache_works_again_after_a_reset() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    cache.fail("a replay stopped half-way")
    with pytest.raises(CacheError, match="unusable: a replay stopped half-way"):
        cache.reader(View((0, 1, 2), (3, 4, 5)))
    cache.reset()
    write(cache, [0, 1, 2], 0)
    assert len(cache.slots) == 3


def ema_row(*weights: tuple[int, float]) -> Edit:
    return Edit((Slot(Role.MEMORY, 2, 0),), (Mix(weights),))


def test_the_mean_of_equal_frames_is_that_frame() -> None:
    cache = new_cache()
    attend = cache.writer(View((), (0, 1, 2)))
    for layer in range(2):
        q, k, v = (x[:, :2].repeat(1, 3, 1, 1) for x in qkv(3, layer))
        attend(layer, q, k, v)
    cache.commit([Slot(Role.RECENT, f, 0) for f in range(3)])
    before = held(cache)
    cache.apply(ema_row((0, 0.2), (1, 0.3), (2, 0.5)))
    for a, b in zip(before[:4], held(cache), strict=True):  # the first of the three slots
        torch.testing.assert_close(a, b)


def test_a_mean_of_keys_rotated_at_different_indices_is_not_that_frame() -> None:
    k = qkv(1, 0)[1]
    turned = [rotate(k, table([i], (2, 1), SPEC.axes, dtype=torch.float64)) for i in (0, 5)]
    assert ((turned[0] + turned[1]) / 2 - turned[1]).abs().max() > 0.1


def test_pooled_memory_is_one_vector_in_every_token() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    raw = torch.stack([cache.raw(i, 0)[0] for i in range(2)], 1)
    cache.apply(Edit((Slot(Role.MEMORY, 1, 0),), (Mix(((0, 0.5), (1, 0.5)), pooled=True),)))
    found = cache.raw(0, 0)[0]
    torch.testing.assert_close(found, raw.mean((1, 2), keepdim=False)[:, None].expand_as(found))


def test_a_slow_average_does_not_stall_in_bf16() -> None:
    """300 updates at rate 0.01 towards a new value: the exact average arrives at 95%; bf16 alone never starts."""
    cache = KVCache(SPEC, 3, 2, dtype=torch.bfloat16)
    start = torch.ones(2, 2, 2, 12, dtype=torch.bfloat16)

    def put(value: Tensor) -> None:
        attend = cache.writer(View(tuple(range(len(cache.slots))), (5,)))
        for layer in range(2):
            attend(layer, value, value, value)
        cache.commit([Slot(Role.RECENT, 0, 0)])

    put(start)
    cache.apply(ema_row((0, 1.0)))
    for _ in range(300):
        put(start * 1.25)
        cache.apply(ema_row((0, 0.99), (1, 0.01)))
    expected = 1.25 - 0.25 * 0.99**300
    assert abs(cache.raw(0, 0)[0][0, 0, 0, 0].item() - expected) < 0.01
    low = torch.ones((), dtype=torch.bfloat16)
    for _ in range(300):
        low = low * 0.99 + torch.tensor(1.25, dtype=torch.bfloat16) * 0.01
    assert abs(low.item() - expected) > 0.1, "bf16 alone would have done"


@given(st.permutations(range(5)), st.integers(0, 10**6))
def test_slot_order_and_a_common_shift_change_no_output(order: list[int], shift: int) -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    write(cache, [3, 4], 7)
    places = (0, 4, 5, 6, 9)
    q, k, v = qkv(3, 99)
    one = cache.reader(View(places, (10, 11, 12)))(1, q, k, v)
    cache.apply(keep(cache.slots, order))
    moved = View(tuple(places[i] + shift for i in order), tuple(p + shift for p in (10, 11, 12)))
    other = cache.reader(moved)(1, q, k, v)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    stretched = cache.reader(View(moved.slots, tuple(p + 3 for p in moved.block)))(1, q, k, v)
    assert (stretched - one).abs().max() > 1e-3


class Stops(list):  # type: ignore[type-arg]
    """Layers of which the second is never reached."""

    def __getitem__(self, layer):  # type: ignore[no-untyped-def]
        if layer:
            raise KeyboardInterrupt
        return super().__getitem__(layer)

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield self[0]
        raise KeyboardInterrupt


def test_an_edit_that_moves_nothing_touches_no_tensor() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    cache._store.keys, cache._store.values = Stops(), Stops()
    cache.apply(keep(cache.slots, [1, 2]))
    assert [s.frame for s in cache.slots] == [1, 2]


def test_an_edit_that_stops_half_way_marks_the_cache_unusable() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    cache._store.values = Stops(cache._store.values)
    with pytest.raises(KeyboardInterrupt):
        cache.apply(ema_row((0, 0.5), (1, 0.5)))
    with pytest.raises(CacheError, match="an edit stopped half-way"):
        cache.apply(keep(cache.slots, [1, 2]))


def test_a_commit_that_stops_half_way_marks_the_cache_unusable() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    attend = cache.writer(View((0, 1, 2), (3, 19, 20)))  # a cut: stored at 3, 4, 5
    for layer in range(2):
        attend(layer, *qkv(3, layer))
    cache._store.keys = Stops(cache._store.keys)
    with pytest.raises(KeyboardInterrupt):
        cache.commit([Slot(Role.RECENT, 3 + i, 1) for i in range(3)])
    with pytest.raises(CacheError, match="a commit stopped half-way"):
        cache.reader(View((0, 1, 2), (3, 4, 5)))


def test_a_noisy_pass_between_the_clean_pass_and_the_commit_is_not_committed() -> None:
    cache = new_cache()
    write(cache, [0, 1, 2], 0)
    place = View((0, 1, 2), (3, 4, 5))
    noisy, clean = cache.reader(place), cache.writer(place)
    for layer in range(2):
        clean(layer, *qkv(3, layer))
    noisy(1, *qkv(3, 9))
    with pytest.raises(CacheError, match="missed layer 1"):
        cache.commit([Slot(Role.RECENT, 3 + i, 1) for i in range(3)])


COMPOSITIONS = (
    "absolute fifo:window=9+keep",
    "absolute sink:window=12,sink=3+recache",
    "relativistic sink:window=6,sink=1+flush:last=2",
    "relativistic:head=15,cut=30/0 sink:window=12,sink=2+recache:attention=bidirectional,sink=rebuild",
    "relativistic:head=9 sink:window=24,sink=1+flush",  # frames beyond the head collapse
    "online sink:window=12,sink=2+flush:last=0",
    "online ema:window=12,sink=1+recache",
    "relativistic anchor:window=12,sink=2+flush",  # recent frames become sinks
    "relativistic:head=21 oracle:window=12,first=4,last=8+recache",
    "relativistic ema:window=11,sink=0,rates=0.3,pool=frame,displaced=drop+flush",
)


@settings(max_examples=examples(30), deadline=None)
@given(st.sampled_from(COMPOSITIONS), st.lists(st.sampled_from(["", "", "", "switch", "cut"]), min_size=3, max_size=22))
def test_every_path_equals_the_oracle_cache(text: str, events: list[str]) -> None:
    """Blocks, switches, cuts and replays in any order: what a query sees is what raw keys, all rotated anew, would give."""
    strategy = Strategy.from_text(text)
    fast, simple = (make(SPEC, strategy.policy.window, 2, dtype=torch.float64) for make in (KVCache, OracleCache))
    seeds = itertools.count()

    def agree(frames: int, *attends: Any) -> None:
        for layer in range(2):
            x = qkv(frames, next(seeds))
            torch.testing.assert_close(*(attend(layer, *x) for attend in attends), rtol=0, atol=1e-9)

    def encode(placement: View, slots: list[Slot] | tuple[Slot, ...]) -> None:
        agree(len(slots), *(cache.writer(placement, slots) for cache in (fast, simple)))
        for cache in (fast, simple):
            cache.commit(slots)

    scene = 0
    for index, event in enumerate(events):
        scene = index if event == "cut" else scene
        block = Block(index, index * 3, 3, switch=event == "switch", cut=event == "cut", scene=scene)
        step = decide(strategy, fast.slots, block, SPEC)
        for cache in (fast, simple):
            if step.switch is not None:
                cache.apply(step.switch)
        if step.replay is not None:
            slots = iter(replayed(step.replay, 3, scene))
            for part, placement in chunks(strategy, step.switch.slots, step.replay, 3, reach(strategy, SPEC)):
                encode(placement, [next(slots) for _ in part])
        for cache in (fast, simple):
            cache.apply(step.room)
        agree(3, *(cache.reader(step.placement) for cache in (fast, simple)))
        encode(step.placement, step.admitted)
        assert fast.slots == simple.slots


def test_an_edit_beyond_the_window_is_refused() -> None:
    cache = new_cache(4)
    write(cache, [0, 1, 2], 0)
    with pytest.raises(CacheError, match="does not fit a window of 4"):
        cache.apply(keep(cache.slots, [0, 0, 1, 1, 2]))


def test_replay_slots_are_sinks_first() -> None:
    assert [s.role for s in replayed(Replay((9, 10, 11), 2), 3)] == [Role.SINK, Role.SINK, Role.RECENT]
