"""Views, picks, passes, lanes, facts and spectra: the equivalences that they must keep, and the bad ones that are refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollout import Schedule, generate
from rollout.backends.sprites.weights import Sprites
from rollout.cache import KVCache
from rollout.errors import BackendError, CacheError, CompositionError, SpecError
from rollout.lanes import Lane, check_lanes, joined
from rollout.parts import PolicyDefaults
from rollout.plan import decide, simulate
from rollout.refinements import ReadsDefaults
from rollout.registry import find, names
from rollout.rope import rotate, table
from rollout.script import Script
from rollout.slots import NO_FACTS, Block, Edit, Facts, Mix, Pass, Pick, Role, Slot, View, keep
from rollout.strategies import (
    Absolute,
    All,
    Archive,
    Blocks,
    ByHead,
    Clips,
    Commit,
    Deep,
    EmaSink,
    Fifo,
    Jitter,
    Keep,
    Newest,
    Online,
    Relativistic,
    Rolling,
    Sink,
)
from rollout.strategies.heads import read_map
from rollout.strategy import Strategy
from rollout.testing import check_rule
from rollout.timeline import blocks_of
from tests.test_cache import SPEC, new_cache, qkv, write

A, B = "a red circle jumps", "a blue square spins on olive"
LONG = f"{A}[6s]"


def roll(backend: Any, strategy: Strategy, script: str = LONG, **options: Any) -> Tensor:
    return torch.cat([r.latents for r in generate(backend, strategy, script, **options)], 1)


def same(a: Tensor, b: Tensor) -> None:
    assert a.std() > 0.1, "a dead model proves nothing"
    torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


def differ(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() > 1e-4


# picks


def test_a_pick_of_all_tokens_is_a_keep() -> None:
    picked, kept = new_cache(12), new_cache(12)
    for cache in (picked, kept):
        for start in (0, 3, 6):
            write(cache, [start, start + 1, start + 2], start)
    memory = [replace(slot, role=Role.MEMORY) for slot in kept.slots[:6]]
    rest, stays = kept.slots[6:], keep(kept.slots, range(6, 9)).rows
    of = tuple(range(6))
    picked.apply(Edit((*memory, *rest), (*(Pick(of, n, dates="own") for n in range(6)), *stays)))
    view = View(tuple(range(9)), (9, 10, 11))
    for layer in range(2):
        x = qkv(3, 100 + layer)
        torch.testing.assert_close(picked.reader(view)(layer, *x), kept.reader(view)(layer, *x), rtol=0, atol=1e-12)


def test_a_pick_waits_for_queries_and_takes_the_best_tokens() -> None:
    cache = new_cache(12)
    for start in (0, 3, 6):
        write(cache, [start, start + 1, start + 2], start)
    keys = torch.cat([cache.raw(i, 0)[0] for i in range(6)], 1)
    tokens = SPEC.tokens
    edit = Edit(
        (replace(cache.slots[5], role=Role.MEMORY), *cache.slots[6:]),
        (Pick(tuple(range(6)), 0), *keep(cache.slots, (6, 7, 8)).rows),
    )
    cache.apply(edit)
    with pytest.raises(CacheError, match="waits for the queries"):
        cache.state()
    with pytest.raises(CacheError, match="waits for the queries"):
        cache.apply(keep(cache.slots, (0,)))
    view = View((0, 6, 7, 8), (9, 10, 11))
    q, k, v = qkv(3, 5)
    reader = cache.reader(view)
    for layer in range(2):
        reader(layer, q, k, v)

    def turned(x: Tensor, frames: Sequence[int]) -> Tensor:
        return rotate(x, table(frames, SPEC.grid, SPEC.axes, theta=SPEC.theta, dtype=torch.float64))

    scores = torch.einsum("bnhd,bmhd->bm", turned(q, (9, 10, 11)), turned(keys, range(6)))
    best = scores.topk(tokens, 1).indices.sort(1).values
    wanted = torch.stack([keys[row, index] for row, index in enumerate(best)])
    # a pick's tokens keep their place in the picture: at another place raw keys would be turned back wrongly
    places = best % tokens
    got = cache._store.lifted(0, cache._entries[0])[0]
    space = table([0], SPEC.grid, SPEC.axes, theta=SPEC.theta, dtype=torch.float64)
    for row in range(2):
        torch.testing.assert_close(
            got[row : row + 1], rotate(wanted[row : row + 1], space[places[row]]), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((Pick((0, 1), 0), Pick((0, 1), 0)), "number them 0, 1, 2"),
        ((Pick((0,), 0), Pick((0,), 1)), "fewer tokens than they take"),
        ((Pick((0, 1), 0), Mix(((1, 1.0),))), "Let one row decide"),
        ((Pick((0, 9), 0), Mix(((1, 1.0),))), "points outside"),
        ((((0, 1.0),), Mix(((1, 1.0),))), "Give a Mix"),
    ],
)
def test_bad_picks_are_refused(rows: tuple[Any, ...], says: str) -> None:
    slots = (Slot(Role.MEMORY, 0, 0), Slot(Role.MEMORY, 1, 0))
    with pytest.raises(CacheError, match=says):
        Edit(slots, rows).check(3)


def test_a_pick_by_an_unknown_score_is_refused_when_it_is_made() -> None:
    cache = new_cache(12)
    write(cache, [0, 1, 2], 0)
    with pytest.raises(SpecError, match="no score called 'participaton'"):
        cache.apply(Edit((replace(cache.slots[1], role=Role.MEMORY),), (Pick((0, 1, 2), 0, by="participaton"),)))
    assert len(cache.slots) == 3


def test_the_reuse_limit_bars_a_token() -> None:
    """Against the oracle, which counts tokens one by one, over enough compressions that the limit bites."""
    strategy = Strategy(Absolute(), Deep(12, 2, 9, 4, 2, "own"), Keep())
    check_rule(strategy.policy)
    free = Strategy(Absolute(), Deep(12, 2, 9, 4, 99, "own"), Keep())
    micro = pytest.importorskip("tests.conftest").micro_backend()
    differ(roll(micro, strategy), roll(micro, free))


def test_old_snapshots_of_raw_keys_open(micro: Sprites) -> None:
    """A state whose copies are full raw keys, as the first edition wrote them, gives the same next block."""
    strategy = Strategy.from_text("online ema:window=12,sink=3+keep")
    run = generate(micro, strategy, LONG)
    for _ in range(8):
        next(run)
    state, tensors = run.state()
    other = generate(micro, strategy, LONG)
    cache, spec = dict(state["cache"]), micro.spec
    del cache["space"]
    old = dict(tensors)
    for i in range(len(cache["slots"])):
        if f"cache.raw.{i}" in old:
            old[f"cache.raw.{i}"] = torch.stack([run.cache.raw(i, layer)[0] for layer in range(spec.layers)])
        if f"cache.exact.{i}" in old:
            old[f"cache.exact.{i}"] = torch.stack(
                [torch.stack(run.cache.raw(i, layer)) for layer in range(spec.layers)]
            )
    other.restore(state | {"cache": cache}, old)
    torch.testing.assert_close(next(run).latents, next(other).latents, rtol=0, atol=1e-9)


# views and reads


@dataclass(frozen=True)
class Blind(ReadsDefaults):
    """Every pass leaves the oldest recent frames unread, but for a few."""

    kind: ClassVar[str] = "blind"
    frames: int = 6

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        return tuple(range(max(0, len(slots) - self.frames), len(slots)))


@dataclass(frozen=True)
class Biased(ReadsDefaults):
    """Reads everything, and lowers the logits of all slots but the newest."""

    kind: ClassVar[str] = "biased"
    by: float = -1e9

    def which(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[int, ...]:
        return tuple(range(len(slots)))

    def bias(self, slots: Sequence[Slot], block: Block, call: Pass) -> tuple[float, ...]:
        return tuple(self.by if i < len(slots) - 6 else 0.0 for i in range(len(slots)))


@pytest.mark.parametrize("positions", [Absolute(), Online(), Relativistic()])
def test_an_unread_slot_changes_nothing(micro: Sprites, positions: Any) -> None:
    """A wide window of which passes read the newest frames alone equals the narrow one."""
    narrow = Strategy(positions, Fifo(9), Keep())
    blind = Strategy(positions, Fifo(21), Keep(), reads=Blind())
    same(roll(micro, narrow), roll(micro, blind))


def test_a_bias_that_shuts_a_slot_out_equals_not_reading_it(micro: Sprites) -> None:
    blind = Strategy(Absolute(), Fifo(21), Keep(), reads=Blind())
    shut, open_ = (Strategy(Absolute(), Fifo(21), Keep(), reads=Biased(by)) for by in (-1e9, 0.0))
    same(roll(micro, blind), roll(micro, shut))
    same(roll(micro, Strategy(Absolute(), Fifo(21), Keep())), roll(micro, open_))
    differ(roll(micro, shut), roll(micro, open_))


def test_reads_of_the_clean_pass_alone_change_the_video_and_all_of_them_nothing(micro: Sprites) -> None:
    base = Strategy(Absolute(), Sink(12, 3), Keep())
    all_of_it = replace(base, reads=Commit(10**6))
    same(roll(micro, base), roll(micro, all_of_it))
    differ(roll(micro, base), roll(micro, replace(base, reads=Commit(6))))
    differ(roll(micro, replace(base, reads=Commit(0))), roll(micro, replace(base, reads=Commit(6))))


def test_what_each_pass_reads_is_in_the_json() -> None:
    strategy = Strategy.from_text("absolute sink:window=12,sink=3+keep reads=commit:recent=3")
    step = list(simulate(strategy, blocks_of(Script.parse(LONG), SPEC), SPEC))[6]
    data = step.to_dict()
    assert data["placement"]["slots"] == [0, 1, 2, *range(12, 18)]
    assert data["commit"]["slots"] == [None] * 6 + [15, 16, 17]
    plain = list(simulate(replace(strategy, reads=All()), blocks_of(Script.parse(LONG), SPEC), SPEC))[6]
    assert "commit" not in plain.to_dict()


# orders


def test_rolling_with_one_step_equals_blocks() -> None:
    for last in (8, None):
        for index in range(8):
            assert Rolling().passes(index, 1, last) == Blocks().passes(index, 1, last)


ROLLING = Strategy(Online(), Sink(24, 3), Keep(), reads=Newest(21), order=Rolling())


def test_rolling_changes_the_video_and_takes_two_passes_a_block(micro: Sprites) -> None:
    run = generate(micro, ROLLING, LONG)
    rolled = torch.cat([r.latents for r in run], 1)
    blocks = run.blocks
    assert run.costs.forwards == 2 * blocks + 3
    differ(rolled, roll(micro, replace(ROLLING, order=Blocks())))


def test_a_rolling_frame_depends_on_the_length_of_the_video(micro: Sprites) -> None:
    short, long = (roll(micro, ROLLING, f"{A}[{blocks * micro.spec.block_seconds}s]") for blocks in (6, 9))
    differ(short[:, 12:18], long[:, 12:18])
    same(short[:, :6], long[:, :6])


def test_blocks_denoised_together_each_read_their_own_prompt(micro: Sprites) -> None:
    length = 4 * micro.spec.block_seconds
    one, two = (roll(micro, ROLLING, f"{A}[{length}s] | {text}[{length}s]") for text in (A, B))
    same(one[:, :3], two[:, :3])  # done before any of the second prompt's blocks is begun
    differ(one[:, 12:], two[:, 12:])


@pytest.mark.parametrize(
    ("steps", "blocks", "says"), [(1, 9, "rolls nothing"), (4, 3, "denoises 4 blocks at once and this rollout has 3")]
)
def test_a_plan_that_cannot_roll_is_refused(micro: Sprites, steps: int, blocks: int, says: str) -> None:
    with pytest.raises(CompositionError, match=says):
        generate(micro, ROLLING, f"{A}[{blocks * micro.spec.block_seconds}s]", schedule=Schedule.of(steps))


def test_rolling_needs_a_limit_to_what_it_reads() -> None:
    with pytest.raises(CompositionError, match="limit what a pass reads"):
        Strategy(Online(), Sink(12, 3), Keep(), order=Rolling())


def test_a_first_block_with_other_steps(micro: Sprites) -> None:
    strategy = Strategy(Absolute(), Fifo(12), Keep())
    own = roll(micro, strategy, schedule=Schedule((1.0, 0.5), first=Schedule()))
    four, two = roll(micro, strategy), roll(micro, strategy, schedule=Schedule((1.0, 0.5)))
    same(own[:, :3], four[:, :3])
    differ(own[:, 3:6], four[:, 3:6])
    differ(own[:, :3], two[:, :3])


# lanes


def lanes_of(near: Any, far: Any) -> tuple[Lane, ...]:
    return Lane("far", ((0,), (1,)), far), Lane("near", ((1,), (0,)), near)


@dataclass(frozen=True)
class Split(PolicyDefaults):
    """Two lanes of one policy each, whichever."""

    kind: ClassVar[str] = "split"
    near: Any = field(default_factory=lambda: Fifo(6))
    far: Any = field(default_factory=lambda: Sink(12, 3))
    apart: bool = True

    @property
    def window(self) -> int:
        return self.far.window

    @property
    def sink(self) -> int:
        return self.far.sink

    def lanes(self, spec: Any, masses: Any) -> tuple[Lane, ...]:
        return lanes_of(self.near, self.far) if self.apart else (Lane("all", ((0, 1), (0, 1)), self.far),)

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        return self.far.make_room(slots, frames)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        return self.far.admit(block)


@pytest.mark.parametrize("positions", [Absolute(), Online(), Relativistic()])
def test_one_lane_equals_no_lane(micro: Sprites, positions: Any) -> None:
    plain = Strategy(positions, Sink(12, 3), Keep())
    same(roll(micro, plain), roll(micro, Strategy(positions, Split(apart=False), Keep())))
    same(roll(micro, plain), roll(micro, Strategy(positions, Split(Sink(12, 3)), Keep())))
    differ(roll(micro, plain), roll(micro, Strategy(positions, Split(), Keep())))


def test_two_lanes_equal_each_policys_own_cache_head_by_head() -> None:
    """Attention over two lanes is, for each head, that of a whole cache under the lane's policy."""
    near, far = Strategy(Online(), Fifo(6), Keep()), Strategy(Online(), Sink(9, 2), Keep())
    whole = {name: KVCache(SPEC, s.policy.window, 2, dtype=torch.float64) for name, s in (("near", near), ("far", far))}
    heads = {"near": [torch.tensor([1]), torch.tensor([0])], "far": [torch.tensor([0]), torch.tensor([1])]}
    parts = {name: KVCache(SPEC, cache.window, 2, heads=[1, 1], dtype=torch.float64) for name, cache in whole.items()}
    assert sum(part.bytes for part in parts.values()) * 2 == sum(cache.bytes for cache in whole.values())
    seed = 0
    for index in range(6):
        block = Block(index, 3 * index, 3)
        steps = {
            name: decide(strategy, whole[name].slots, block, SPEC) for name, strategy in (("near", near), ("far", far))
        }
        for name, step in steps.items():
            for cache in (whole[name], parts[name]):
                cache.apply(step.room)
        attend = joined([parts[n].writer(steps[n].commit, steps[n].admitted) for n in steps], [heads[n] for n in steps])
        own = {n: whole[n].writer(steps[n].commit, steps[n].admitted) for n in steps}
        for layer in range(2):
            x = qkv(3, seed := seed + 1)
            out = attend(layer, *x)
            for name in steps:
                head = int(heads[name][layer])
                torch.testing.assert_close(out[:, :, head], own[name](layer, *x)[:, :, head], rtol=0, atol=1e-12)
        for name, step in steps.items():
            for cache in (whole[name], parts[name]):
                cache.commit(step.admitted)


def test_a_lane_may_have_no_head_in_a_layer(micro: Sprites) -> None:
    strategy = Strategy(Online(), ByHead(6, 12, 1, ("nn", "fs")), Keep())
    run = generate(micro, strategy, LONG)
    video = torch.cat([r.latents for r in run], 1)
    assert [lane.name for lane in run.engine.lanes] == ["far", "near", "sink"]
    differ(video, roll(micro, Strategy(Online(), Fifo(12), Keep())))
    full = generate(micro, Strategy(Online(), Fifo(12), Keep()), LONG)
    assert run.engine.bytes == full.engine.bytes * (2 * 6 + 1 * 12 + 1 * 4) // (4 * 12)


@pytest.mark.parametrize("policy", ["dummy+keep", "dummy+flush"])
def test_a_prompt_may_change_where_heads_are_sorted(policy: str, micro: Sprites) -> None:
    """Lanes hold what all heads held until they make room, which comes after the switch."""
    one = "a red circle jumps[0.75s] | a red circle jumps[0.75s]"
    run = generate(micro, Strategy.from_text(f"absolute {policy}"), one.replace("| a red", "| a blue"))
    results = list(run)
    assert results[2].block.switch
    assert len(run.engine.lanes) > 1
    if policy == "dummy+keep":  # keeping all is doing nothing
        same = list(generate(micro, Strategy.from_text(f"absolute {policy}"), one))
        assert [result.slots for result in results] == [result.slots for result in same]


def test_lanes_resume_bit_for_bit(micro: Sprites) -> None:
    for strategy in (
        Strategy(Online(), ByHead(6, 12, 1, ("nF", "fs")), Keep()),
        Strategy.from_text("absolute dummy+keep"),
    ):
        whole = list(generate(micro, strategy, LONG))
        for stop in (1, 2, 5):
            run, other = generate(micro, strategy, LONG), generate(micro, strategy, LONG)
            for _ in range(stop):
                next(run)
            state, tensors = run.state()
            other.restore(json.loads(json.dumps(state)), tensors)
            assert torch.equal(next(other).latents, whole[stop].latents)


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ((((0, 1), (0,)), ((), ())), "head 1 of layer 1 is in no lane"),
        ((((0, 1), (0, 1)), ((1,), ())), "head 1 of layer 0 is in the lanes 'a' and 'b'"),
        ((((0, 1), (0, 2)), ((), (1,))), "names head 2 of layer 1"),
        ((((0, 1),), ((),)), "names heads of 1 layers"),
    ],
)
def test_lanes_that_overlap_or_leave_a_head_out_are_refused(heads: Any, says: str) -> None:
    with pytest.raises(CompositionError, match=says):
        check_lanes([Lane(name, part, Fifo(6)) for name, part in zip("ab", heads, strict=True)], SPEC)


def test_head_maps_are_read_of_json_and_csv(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('[["near", "far+sink"], ["sink", "far"]]')
    (tmp_path / "map.csv").write_text("near,far+sink\nsink,far\n")
    (tmp_path / "windows.csv").write_bytes("\ufeffnear,far+sink\r\nsink,far\r\n\r\n".encode())
    for name in ("map.json", "map.csv", "windows.csv"):
        assert read_map(tmp_path / name) == ("nF", "sf")
        strategy = Strategy.from_text(f"online by-head:near=6,far=12,map={tmp_path / name}+keep")
        assert strategy.policy == ByHead(6, 12, 1, ("nF", "sf"))
        assert Strategy.from_text(str(strategy)) == strategy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[["near", "wide"]]', "says 'w' of a head"),
        ("{broken", "cannot be read"),
        ('[["near", "far"]]', "map of another model"),
    ],
)
def test_head_maps_of_another_model_or_none_are_refused(micro: Sprites, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises((SpecError, CompositionError), match=says):
        generate(micro, Strategy.from_text(f"online by-head:near=6,far=12,map={path}+keep"), LONG)


def test_heads_apart_refuse_what_treats_them_alike(micro: Sprites) -> None:
    with pytest.raises(CompositionError, match="encodes frames again for all of them"):
        Strategy.from_text("absolute dummy+recache")
    strategy = Strategy(Online(), ByHead(6, 12, 1, ("nF", "fs")), Keep(), Jitter())
    with pytest.raises(CompositionError, match="both tell heads apart"):
        strategy.check(micro.spec)
    run = generate(micro, Strategy(Online(), ByHead(6, 12, 1, ("nF", "fs")), Keep()), LONG)
    next(run)
    with pytest.raises(CompositionError, match="cannot be handed over"):
        run.use(Strategy(Online(), Fifo(12), Keep()))


# facts


@dataclass(frozen=True)
class LeastRead(PolicyDefaults):
    """Evicts the recent frames that the last clean pass read least."""

    kind: ClassVar[str] = "least-read"
    needs: ClassVar[tuple[str, ...]] = ("mass",)
    window: int = 9

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        over = max(0, len(slots) + frames - self.window)
        least = sorted(range(len(slots)), key=lambda i: (facts["mass"][i], i))[:over]
        return keep(slots, (i for i in range(len(slots)) if i not in least))

    def admit(self, block: Block) -> tuple[Slot, ...]:
        return tuple(
            Slot(Role.RECENT, f, block.index, prompt=block.prompt, scene=block.scene)
            for f in range(block.start, block.end)
        )


def test_a_policy_gets_the_facts_that_it_needs(micro: Sprites) -> None:
    check_rule(LeastRead)
    run = generate(micro, Strategy(Absolute(), LeastRead(), Keep()), LONG)
    evicted_others = False
    for result in run:
        facts = run.cache.facts["mass"]
        assert len(facts) == len(run.cache.slots)
        assert all(0 < number < 1 for number in facts)
        frames = [slot.frame for slot in result.slots]
        evicted_others |= bool(frames) and frames != list(range(frames[0], frames[0] + len(frames)))
    assert evicted_others, "it evicts as fifo does: the facts have no say"
    again = torch.cat([r.latents for r in generate(micro, Strategy(Absolute(), LeastRead(), Keep()), LONG)], 1)
    resumed = generate(micro, Strategy(Absolute(), LeastRead(), Keep()), LONG)
    for _ in range(5):
        next(resumed)
    state, tensors = resumed.state()
    other = generate(micro, Strategy(Absolute(), LeastRead(), Keep()), LONG)
    other.restore(json.loads(json.dumps(state)), tensors)
    assert torch.equal(torch.cat([r.latents for r in other], 1), again[:, 15:])


def test_the_mass_is_that_of_a_softmax_by_hand() -> None:
    cache = KVCache(SPEC, 9, 2, needs=("mass",), dtype=torch.float64)
    write(cache, [0, 1, 2], 0)
    q, k, v = qkv(3, 4)
    attend = cache.writer(View((0, 1, 2), (3, 4, 5)))
    raw = [cache.raw(i, layer)[0] for layer in range(2) for i in range(3)]
    for layer in range(2):
        attend(layer, q, k, v)
    cache.commit([Slot(Role.RECENT, f, 1) for f in (3, 4, 5)])

    def turned(x: Tensor, frames: Sequence[int]) -> Tensor:
        return rotate(x, table(frames, SPEC.grid, SPEC.axes, theta=SPEC.theta, dtype=torch.float64)).transpose(1, 2)

    masses = []
    for layer in range(2):
        keys = turned(torch.cat([*raw[3 * layer : 3 * layer + 3], k], 1), range(6))
        weights = (turned(q, (3, 4, 5)) @ keys.transpose(-1, -2) / SPEC.head_dim**0.5).softmax(-1).mean((0, 1, 2))
        masses.append(weights.view(6, -1).sum(-1))
    torch.testing.assert_close(
        torch.tensor(cache.facts["mass"], dtype=torch.float64), torch.stack(masses).mean(0), rtol=0, atol=1e-6
    )
    assert sum(cache.facts["mass"]) == pytest.approx(1)


# spectra


@pytest.mark.parametrize("name", names("spectra"))
@settings(max_examples=20)
@given(data=st.data())
def test_a_spectrum_keeps_norms_and_sees_differences_alone(name: str, data: st.DataObject) -> None:
    spectrum = find("spectra", name)()
    multipliers = torch.tensor(spectrum.multipliers(SPEC), dtype=torch.float64)
    first, second, shift = (data.draw(st.integers(0, 10**6)) for _ in range(3))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, k = (
        torch.randn(1, SPEC.tokens, SPEC.heads, SPEC.head_dim, generator=draw, dtype=torch.float64) for _ in range(2)
    )

    def turned(x: Tensor, frame: int) -> Tensor:
        options = {"theta": SPEC.theta, "multipliers": multipliers, "dtype": torch.float64}
        return rotate(x, table([frame], SPEC.grid, SPEC.axes, **options))

    torch.testing.assert_close(turned(q, first).norm(dim=-1), q.norm(dim=-1), rtol=1e-12, atol=0)
    scores = [
        torch.einsum("bnhd,bnhd->bnh", turned(q, first + offset), turned(k, second + offset)) for offset in (0, shift)
    ]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-8)


def test_a_jitter_differs_from_head_to_head_and_the_rest_do_not() -> None:
    rows = {name: find("spectra", name)().multipliers(SPEC) for name in names("spectra")}
    assert len(set(rows["jitter"])) == SPEC.heads
    assert all(len(row) == 1 for name, row in rows.items() if name != "jitter")
    assert rows["plain"] == ((1.0,) * SPEC.axes[0],)
    assert rows["ntk"][0][0] == 1
    assert rows["ntk"][0][-1] == pytest.approx(1 / 2)


def test_riflex_slows_the_one_period_nearest_the_trained_length() -> None:
    spec = replace(SPEC, axes=(22, 21, 21), head_dim=128)
    (row,) = find("spectra", "riflex")(2.0).multipliers(spec)
    slowed = [pair for pair, factor in enumerate(row) if factor != 1]
    assert len(slowed) == 1
    frequency = spec.theta ** (-slowed[0] / 22)
    assert 2 * torch.pi / frequency == pytest.approx(21, rel=0.25)
    assert 2 * torch.pi / (frequency * row[slowed[0]]) == pytest.approx(2 * 21 / 0.9)


def test_the_plain_spectrum_is_none_and_others_change_the_video(micro: Sprites) -> None:
    base = Strategy(Absolute(), Sink(12, 3), Keep())
    for name in names("spectra"):
        video = roll(micro, replace(base, spectrum=find("spectra", name)()))
        (same if name == "plain" else differ)(roll(micro, base), video)


# stores


@pytest.mark.parametrize("name", names("stores"))
@pytest.mark.parametrize("text", ["online ema:window=12,sink=3+keep", "relativistic sink:window=9,sink=2+flush"])
def test_every_store_resumes_bit_for_bit(micro: Sprites, name: str, text: str) -> None:
    strategy = Strategy.from_text(f"{text} store={name}")
    whole = list(generate(micro, strategy, LONG))
    run, other = generate(micro, strategy, LONG), generate(micro, strategy, LONG)
    for _ in range(9):
        next(run)
    state, tensors = run.state()
    other.restore(json.loads(json.dumps(state)), tensors)
    for result, again in zip(whole[9:], other, strict=True):
        assert torch.equal(result.latents, again.latents)


def test_a_host_store_equals_a_dense_one_and_eight_bits_are_near(micro: Sprites) -> None:
    base = Strategy(Relativistic(), Sink(9, 2), Keep())
    dense = generate(micro, base, LONG)
    video = torch.cat([r.latents for r in dense], 1)
    for name in names("stores"):
        run = generate(micro, replace(base, store=find("stores", name)()), LONG)
        other = torch.cat([r.latents for r in run], 1)
        if name in ("dense", "host"):
            assert torch.equal(video, other)
            assert run.engine.bytes == dense.engine.bytes
        else:
            assert 0 < (video - other)[:, 3:6].abs().max() < (0.1 if name == "int8" else 0.5)
            assert run.engine.bytes < dense.engine.bytes / 2
        assert run.engine.bytes == base.stored * replace(base, store=find("stores", name)()).store.frame_bytes(
            micro.spec, 8
        )


def test_int8_takes_turns_without_drift() -> None:
    """Turned at every block, a sink's keys are coded from their raw copy each time, and its space channels stay."""
    strategy = Strategy.from_text("relativistic sink:window=9,sink=2+keep store=int8")
    cache = KVCache(SPEC, 9, 2, store=strategy.store, dtype=torch.float32)
    exact = KVCache(SPEC, 9, 2, dtype=torch.float32)
    for index in range(60):
        block = Block(index, 3 * index, 3)
        step = decide(strategy, cache.slots, block, SPEC)
        for either in (cache, exact):
            either.apply(step.room)
            attend = either.writer(step.commit, step.admitted)
            for layer in range(2):
                attend(layer, *(x.float() for x in qkv(3, 2 * index + layer)))
            either.commit(step.admitted)
    for slot in range(2):
        error = (cache.raw(slot, 0)[0] - exact.raw(slot, 0)[0]).abs().max()
        assert error < 0.03, "one rounding of a number below 4 in 127 steps"


def test_a_device_without_eight_bit_floats_is_refused(micro: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "float8_e4m3fn")
    with pytest.raises(BackendError, match="no 8-bit floating-point numbers"):
        generate(micro, Strategy.from_text("online sink+keep store=fp8"), LONG)


def test_a_host_store_that_does_not_fit_is_refused(micro: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.inputs.free_bytes", lambda device: 100 if device.type == "cpu" else None)
    with pytest.raises(BackendError, match="cpu has 0 free"):
        generate(micro, Strategy.from_text("online sink+keep store=host"), LONG)


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("online sink:window=12,sink=3+keep", 12),
        ("absolute archive+keep", 39),
        ("absolute fifo+keep store=host", 21),
        ("absolute fifo+keep store=fp8", 6),
        ("online by-head:near=6,far=12,map=nF/fs+keep", 9),
    ],
)
def test_equal_budgets_are_of_bytes(micro: Sprites, text: str, frames: int) -> None:
    """An archive is stored beside its window; eight bits are a quarter; heads count by what each holds."""
    assert Strategy.from_text(text).budget(micro.spec) == frames


# policies


def test_an_archive_holds_its_triangle_wave() -> None:
    strategy = Strategy(Absolute(), Archive(12), Keep())
    steps = list(simulate(strategy, blocks_of(Script.parse(f"{A}[9s]"), SPEC), SPEC))
    read = [(slot.frame, index) for slot, index in steps[7].placement.pairs(steps[7].slots)]
    assert read == [(5, 12), (4, 13), (3, 14), (2, 15), (1, 16), (0, 17), (18, 18), (19, 19), (20, 20)]
    for step in steps:
        assert len(step.placement.read) + 3 <= 12
        for slot, index in step.placement.pairs(step.slots):
            phase = index % 18
            wave = phase if phase < 9 else 17 - phase
            assert slot.frame == index if index >= step.block.start - 3 else slot.frame == wave


def test_sinks_average_frame_by_frame() -> None:
    steps = list(simulate(Strategy(Online(), EmaSink(9, 3, 0.25), Keep()), blocks_of(Script.parse(LONG), SPEC), SPEC))
    assert steps[3].room.rows[:3] == tuple(Mix(((i, 0.75), (3 + i, 0.25))) for i in range(3))


def test_a_clip_begins_anew_from_the_overlap(micro: Sprites) -> None:
    strategy = Strategy(Online(), Clips(12, 3), Keep())
    results = list(generate(micro, strategy, LONG))
    assert [s.frame for s in results[4].slots] == [9, 10, 11]
    assert results[4].placement == View((0, 1, 2), (3, 4, 5))
    other = roll(micro, strategy, LONG, prefix=results[3].latents[0], seeds=5)
    # the next clip knows nothing of the one before but these frames
    again = KVCache(micro.spec, 12, dtype=torch.float64)
    micro.denoise(results[3].latents, 0.0, micro.encode(A), again.writer(View((), (0, 1, 2))))
    assert other.shape[1] == 3 + 3 * len(results)


def test_the_deep_policy_says_what_does_not_go() -> None:
    for fields, says in (
        ({"budget": 30}, "beyond window=21"),
        ({"sink": 12}, "leaves no frame between"),
        ({"recent": 0}, "count from 1"),
    ):
        with pytest.raises(SpecError, match=says):
            Deep(**fields)
    with pytest.raises(CompositionError, match="Use recent=3 or more"):
        Strategy(Absolute(), Deep(21, 10, 16, 2), Keep())
    with pytest.raises(CompositionError, match="or dates=unified"):
        Strategy(Online(), Deep(dates="own"), Keep())


def test_a_rollout_cannot_change_what_its_cache_was_made_for(micro: Sprites) -> None:
    run = generate(micro, Strategy(Absolute(), Sink(12, 3), Keep()), LONG)
    next(run)
    with pytest.raises(CompositionError, match="cannot change its spectrum on the way"):
        run.use(Strategy(Absolute(), Sink(12, 3), Keep(), Jitter()))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("online sink+keep read=all", "no refinement. Did you mean 'reads'"),
        ("online sink+keep reads=al", "no reads called 'al'"),
        ("online sink+keep reads=all reads=newest", "names reads twice"),
        ("online sink+keep order=rolling", "limit what a pass reads"),
        ("online sink+keep spectrum=jitter:scale=2", "outside"),
    ],
)
def test_bad_refinements_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises((SpecError, CompositionError), match=says) as refusal:
        Strategy.from_text(text)
    assert "\n" not in str(refusal.value)


def test_refinements_round_trip_and_are_left_out_where_they_change_nothing() -> None:
    plain = Strategy.from_text("online sink+keep spectrum=plain reads=all order=blocks store=dense")
    assert set(plain.to_dict()) == {"positions", "policy", "switch"}
    assert str(plain) == "online sink+keep"
    full = Strategy.from_text("online sink:window=24,sink=3+keep spectrum=ntk:factor=3.0 reads=newest order=rolling")
    assert Strategy.from_dict(json.loads(json.dumps(full.to_dict()))) == full
    assert Strategy.from_text(str(full)) == full


def test_a_backend_that_takes_one_timestep_alone_says_so(micro: Sprites) -> None:
    class Single:
        def __getattr__(self, name: str) -> Any:
            return getattr(micro, name)

        def denoise(self, x: Tensor, t: Any, prompt: Tensor, attend: Any) -> Tensor:
            if not isinstance(t, float):
                raise BackendError("this backend takes one timestep for all frames.")
            return micro.denoise(x, t, prompt, attend)

    with pytest.raises(BackendError, match="one timestep"):
        list(generate(Single(), ROLLING, LONG))
    list(generate(Single(), Strategy(Online(), Sink(12, 3), Keep()), f"{A}[1.5s]"))
