"""Positions, policies and switches, without tensors: the figures of the papers and the rules that hold for all."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout import generate, load_backend, load_plugin, registry
from rollout.backend import BackendDefaults, Spec
from rollout.backends import Entry
from rollout.benchmarks.controls.policies import Oracle
from rollout.errors import BackendError, CompositionError, SpecError
from rollout.parts import Policy, Positions, Switch
from rollout.plan import chunks, simulate
from rollout.registry import find, names
from rollout.slots import Block, Mix, Replay, Role, Slot, flush, keep
from rollout.strategies import Absolute, Anchor, Cut, Ema, Fifo, Flush, Keep, Online, Recache, Relativistic, Sink
from rollout.strategies.presets import PRESETS
from rollout.strategy import Strategy

SPEC = Spec("wan", 30, 12, 128, (16, 60, 104), (30, 52), (22, 21, 21))


def blocks(n: int, *, switch: tuple[int, ...] = (), cut: tuple[int, ...] = ()) -> list[Block]:
    return [Block(i, 3 * i, 3, 0, i in switch, i in cut, max((c for c in cut if c <= i), default=0)) for i in range(n)]


def frames(slots: tuple[Slot, ...], role: Role | None = None) -> list[int]:
    return [s.frame for s in slots if role in (None, s.role)]


def run(strategy: Strategy, n: int, **events: tuple[int, ...]) -> list:
    return list(simulate(strategy, blocks(n, **events), SPEC))


def test_self_forcing_rolls_at_its_own_numbers() -> None:
    last = run(PRESETS["self-forcing"].strategy, 10)[-1]
    assert frames(last.slots) == list(range(9, 27))
    assert last.placement.slots == tuple(range(9, 27))
    assert last.placement.block == (27, 28, 29)


def test_infinity_rope_sits_in_a_local_frame() -> None:
    steps = run(PRESETS["infinity-rope"].strategy, 6)
    assert [s.placement.block for s in steps[:3]] == [(0, 1, 2), (3, 4, 5), (3, 4, 5)]
    assert frames(steps[-1].slots) == [0, 13, 14]
    assert steps[-1].placement.slots == (0, 1, 2)


def test_head_moves_the_window_away_from_the_sink() -> None:
    step = run(Strategy(Relativistic(head=21), Sink(6, 1), Keep()), 10)[-1]
    assert step.placement.slots == (0, 16, 17)
    assert step.placement.block == (18, 19, 20)
    early = run(Strategy(Relativistic(head=21), Sink(6, 1), Keep()), 3)[-1]
    assert early.placement.block == (6, 7, 8)  # frames so far, until the head is reached


def test_unbounded_window_collapses_onto_the_lowest_free_index() -> None:
    step = run(Strategy(Relativistic(), Sink(30, 2), Keep()), 12)[-1]
    assert len(step.slots) == 27
    assert step.placement.block == (18, 19, 20)
    assert step.placement.slots[:2] == (0, 1)
    assert step.placement.slots[2:12] == (2,) * 10
    assert step.placement.slots[12:] == tuple(range(3, 18))


@pytest.mark.parametrize(
    ("cut", "block"),
    [
        (Cut(20, 1), (3, 19, 20)),
        (Cut(47, 0), (45, 46, 47)),
        (Cut(), (3, 19, 20)),
        (Cut(5, 1), (3, 4, 5)),
        (Cut(10, 3), (3, 4, 5)),
    ],
)
def test_the_cut_moves_all_but_the_kept_frames(cut: Cut, block: tuple[int, ...]) -> None:
    steps = run(Strategy(Relativistic(cut=cut), Sink(6, 1), Flush()), 6, cut=(4,))
    assert steps[4].placement.block == block
    assert steps[4].placement.slots == (0, 2)
    assert steps[5].placement.block == (3, 4, 5)  # for one block only
    assert frames(steps[5].slots) == [0, 13, 14]


def test_a_cut_flushes_whatever_the_switch_and_with_the_strategys_own_flush() -> None:
    for switch, last in ((Keep(), 1), (Recache(), 1), (Flush(2), 2)):
        step = run(Strategy(Relativistic(), Sink(12, 3), switch), 8, cut=(7,))[7]
        assert frames(step.slots, Role.RECENT) == list(range(21 - last, 21))
        assert step.replay is None


def test_a_cut_is_ignored_in_block_0_and_only_flushes_under_absolute() -> None:
    assert run(PRESETS["infinity-rope"].strategy, 1, cut=(0,))[0].placement.block == (0, 1, 2)
    step = run(Strategy(Absolute(), Sink(6, 1), Keep()), 6, cut=(5,))[5]
    assert step.placement.block == (15, 16, 17)
    assert step.placement.slots == (0, 14)


def test_online_cut_jumps_from_the_flushed_cache() -> None:
    step = run(Strategy(Online(), Sink(12, 3), Flush()), 8, cut=(7,))[7]
    assert step.placement.slots == (0, 1, 2, 3)
    assert step.placement.block == (4, 19, 20)


def test_memrope_holds_3_sink_2_memory_4_recent() -> None:
    steps = run(PRESETS["memrope"].strategy, 6)
    assert frames(steps[3].slots) == list(range(9))
    fourth = steps[4]
    assert [s.role.value for s in fourth.slots] == ["sink"] * 3 + ["memory"] * 2 + ["recent"] * 4
    assert frames(fourth.slots, Role.RECENT) == [8, 9, 10, 11]
    assert fourth.placement.slots == tuple(range(9))
    assert fourth.placement.block == (9, 10, 11)
    # frames 3..7 go; their slots are 3..7 as well
    assert fourth.room.rows[3] == Mix(tuple((i, 1 / 5) for i in range(3, 8)))
    fifth = steps[5]
    assert fifth.room.rows[3] == Mix(((3, 0.99), *((i, 0.01 / 3) for i in (5, 6, 7))))
    assert fifth.room.rows[4] == Mix(((4, 0.9), *((i, 0.1 / 3) for i in (5, 6, 7))))
    assert fifth.slots[3] == Slot(Role.MEMORY, 10, 3, first=3)


def test_memrope_released_drops_the_displaced_and_pools_the_rest() -> None:
    fourth = run(PRESETS["memrope-released"].strategy, 5)[4]
    assert fourth.room.rows[3] == Mix(tuple((i, 1 / 3) for i in (5, 6, 7)), pooled=True)
    assert [row.pooled for row in fourth.room.rows[3:5]] == [True, True]


def test_flush_keeps_sinks_and_the_last_frames_that_there_are() -> None:
    assert frames(run(Strategy(Online(), Ema(12, 3), Flush(2)), 9, switch=(8,))[8].slots) == [0, 1, 2, 22, 23]
    early = run(PRESETS["infinity-rope-released"].strategy, 2, switch=(1,))[1]
    assert frames(early.slots) == [0, 1, 2]
    assert frames(run(Strategy(Relativistic(), Sink(12, 3), Flush(2)), 2, switch=(1,))[1].slots) == [0, 1, 2]


def test_recache_replays_what_the_design_says() -> None:
    keep = run(Strategy(Absolute(), Sink(12, 3), Recache()), 8, switch=(7,))[7]
    assert keep.replay == Replay(tuple(range(12, 21)), 0, False)
    assert frames(keep.slots) == [0, 1, 2, *range(15, 21)]
    rebuild = run(Strategy(Absolute(), Sink(12, 3), Recache("bidirectional", "rebuild")), 8, switch=(7,))[7]
    assert rebuild.replay == Replay(tuple(range(9, 21)), 3, True)
    assert frames(rebuild.slots, Role.SINK) == [9, 10, 11]
    assert frames(rebuild.slots, Role.RECENT) == list(range(15, 21))
    early = run(Strategy(Absolute(), Sink(12, 3), Recache(sink="rebuild")), 3, switch=(2,))[2]
    assert early.replay == Replay(tuple(range(6)), 3, False)


def test_replay_places_frames_as_one_long_block_or_at_their_own_numbers() -> None:
    replay = Replay(tuple(range(12, 21)))
    kept = tuple(Slot(Role.SINK, f, 0) for f in range(3))
    relative = list(chunks(Strategy(Relativistic(), Sink(12, 3), Recache()), kept, replay, 3, 12))
    assert [part for part, _ in relative] == [(12, 13, 14), (15, 16, 17), (18, 19, 20)]
    assert [p.block for _, p in relative] == [(3, 4, 5), (6, 7, 8), (9, 10, 11)]
    assert relative[2][1].slots == tuple(range(9))
    absolute = list(chunks(Strategy(Absolute(), Sink(12, 3), Recache()), kept, replay, 3, 12))
    assert absolute[2][1].slots == (0, 1, 2, *range(12, 18))
    assert absolute[2][1].block == (18, 19, 20)
    both = list(chunks(Strategy(Online(), Sink(12, 3), Recache()), kept, Replay(replay.frames, 0, True), 3, 12))
    assert len(both) == 1
    assert both[0][1].block == tuple(range(3, 12))


def test_an_anchor_pins_the_block_after_a_cut() -> None:
    steps = run(Strategy(Relativistic(), Anchor(12, 3), Keep()), 10, cut=(4,))
    assert [frames(s.slots, Role.SINK) for s in steps[3:7]] == [[0, 1, 2]] * 3 + [[15, 16, 17]]
    assert steps[5].slots[-3:] == tuple(Slot(Role.RECENT, f, 4, scene=4) for f in (12, 13, 14))
    assert frames(steps[6].slots, Role.RECENT) == [11, 12, 13, 14]  # the last old frame goes with time
    assert steps[6].placement.slots == (0, 1, 2, 3, 3, 4, 5)  # where 15 to 17 would be is empty
    assert frames(steps[9].slots, Role.SINK) == [15, 16, 17]


def test_an_anchor_pins_again_after_each_cut_and_only_after_cuts() -> None:
    steps = run(Strategy(Relativistic(), Anchor(12, 4), Flush()), 16, switch=(2, 13), cut=(4, 9))
    assert frames(steps[3].slots, Role.SINK) == [0, 1, 2, 3]
    assert frames(steps[6].slots, Role.SINK) == [15, 16, 17]  # the fourth is not there yet
    assert frames(steps[7].slots, Role.SINK) == [15, 16, 17, 18]
    assert frames(steps[15].slots, Role.SINK) == [30, 31, 32, 33]


def test_an_anchor_whose_window_holds_nothing_else_still_pins() -> None:
    steps = run(Strategy(Relativistic(), Anchor(6, 3), Keep()), 9, cut=(4,))
    assert [frames(s.slots) for s in steps[5:8]] == [[0, 1, 2], [15, 16, 17], [15, 16, 17]]


def test_without_a_cut_an_anchor_is_a_sink() -> None:
    anchor, sink = (
        run(Strategy(Relativistic(), rule, Flush()), 9, switch=(5,)) for rule in (Anchor(12, 3), Sink(12, 3))
    )
    assert anchor == sink


def test_an_oracle_keeps_what_the_answer_needs() -> None:
    steps = run(Strategy(Relativistic(), Oracle(21, 0, 11), Keep()), 12)
    assert frames(steps[-1].slots, Role.SINK) == list(range(12))
    assert frames(steps[-1].slots, Role.RECENT) == list(range(27, 33))
    assert steps[-1].placement.slots == tuple(range(18))
    late = run(Strategy(Relativistic(), Oracle(15, 7, 10), Keep()), 12)
    assert frames(late[2].slots) == list(range(6))
    assert frames(late[3].slots) == [7, 8]  # what came before would contradict it
    assert frames(late[4].slots, Role.SINK) == [7, 8, 9, 10]
    assert frames(late[11].slots) == [7, 8, 9, 10, *range(25, 33)]


policies = st.one_of(
    st.builds(lambda s, w: Anchor(s + 3 + w, s), st.integers(1, 5), st.integers(0, 12)),
    st.builds(
        lambda f, n, w: Oracle(n + 3 + w, f, f + n - 1), st.integers(0, 12), st.integers(1, 8), st.integers(0, 9)
    ),
    st.builds(Fifo, window=st.integers(3, 24)),
    st.builds(lambda s, w: Sink(s + 3 + w, s), st.integers(0, 5), st.integers(0, 12)),
    st.builds(
        lambda s, w, rates, pool, displaced: Ema(s + 3 + len(rates) + w, s, tuple(rates), pool, displaced),
        st.integers(0, 4),
        st.integers(0, 8),
        st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
        st.sampled_from(["token", "frame"]),
        st.sampled_from(["fold", "drop"]),
    ),
)
switches = st.one_of(
    st.just(Keep()),
    st.builds(Flush, last=st.integers(0, 4)),
    st.builds(
        Recache, attention=st.sampled_from(["causal", "bidirectional"]), sink=st.sampled_from(["keep", "rebuild"])
    ),
)


@given(policies, switches, st.lists(st.sampled_from(["", "switch", "cut"]), min_size=1, max_size=25))
def test_every_composition_keeps_the_rules(policy: Policy, switch: Switch, events: list[str]) -> None:
    strategy = Strategy(Relativistic() if policy.window <= 21 else Relativistic(head=21), policy, switch)
    at = {kind: tuple(i for i, e in enumerate(events) if e == kind) for kind in ("switch", "cut")}
    plan = blocks(len(events), **at)
    sinks: set[int] = set()
    for step in simulate(strategy, plan, SPEC):
        for edit in (step.switch, step.room):
            for row in edit.rows if edit else ():
                assert abs(sum(w for _, w in row.weights) - 1) < 1e-9
        assert len(step.slots) + step.block.frames <= policy.window
        now = {s.frame for s in step.slots if s.role is Role.SINK}
        if not (step.replay and step.replay.sinks) and not (isinstance(policy, Anchor) and at["cut"]):
            assert sinks <= now, "sinks never die"
        sinks = {s.frame for s in step.after if s.role is Role.SINK}
        cut = step.block.cut and step.block.index > 0
        reach = [*step.placement.slots, *(() if cut else step.placement.block)]
        assert all(0 <= i < 21 for i in reach)
        assert [s.role for s in step.slots] == sorted((s.role for s in step.slots), key=list(Role).index)


@given(policies, switches)
def test_json_and_text_round_trip(policy: Policy, switch: Switch) -> None:
    from rollout.specs import part_to_text, policy_and_switch

    for positions in (Online(), Relativistic(head=21, cut=Cut(47, 0)), Relativistic(cut=Cut(None, 2))):
        try:
            strategy = Strategy(positions, policy, switch)
        except CompositionError:
            continue
        assert Strategy.from_dict(strategy.to_dict()) == strategy
    assert policy_and_switch(f"{part_to_text(policy)}+{part_to_text(switch)}") == (policy, switch)


def test_the_presets_are_those_of_the_table() -> None:
    table = {
        "self-forcing": "absolute fifo+keep",
        "infinite-forcing": "online sink+keep",
        "longlive": "absolute sink:window=12,sink=3+recache",
        "longlive-released": "absolute sink:window=12,sink=3+recache:attention=bidirectional",
        "infinity-rope": "relativistic:cut=20/1 sink+flush",
        "infinity-rope-released": "relativistic:cut=47/0 sink+flush:last=2",
        "memrope": "online ema+keep",
        "memrope-released": "online ema:pool=frame,displaced=drop+keep",
        "deep-forcing": "absolute deep+keep",
        "deep-forcing-released": "absolute deep:dates=own+keep",
        "deep-sink-released": "relativistic:head=24,beyond=true sink:window=21,sink=14+keep",
        "rolling-forcing": "online sink:window=24,sink=3+keep reads=newest order=rolling",
        "reward-forcing": "online ema-sink+keep",
        "rolling-sink": "absolute archive+keep",
        "dummy-forcing": "absolute dummy+keep",
        "causal-forcing": "absolute fifo+keep",
        "causvid": "online clips+keep",
        "lol": "absolute sink:window=12,sink=3+keep spectrum=jitter",
    }
    assert {name: str(p.strategy) for name, p in PRESETS.items()} == table
    for found in PRESETS.values():
        assert Strategy.from_dict(found.strategy.to_dict()) == found.strategy
        assert found.source
        assert found.note


def test_the_designs_json_reads_as_it_stands() -> None:
    data = {
        "positions": {"kind": "relativistic", "head": 6, "cut": {"to": 47, "keep": 0}},
        "policy": {"kind": "sink", "window": 6, "sink": 1},
        "switch": {"kind": "flush", "last": 2},
    }
    strategy = Strategy.from_dict(data)
    assert strategy == Strategy(Relativistic(6, Cut(47, 0)), Sink(6, 1), Flush(2))
    assert strategy.to_dict() == data


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Anchor(12, 0), "nothing to pin"),
        (lambda: Anchor(3, 3), "window=3"),
        (lambda: Oracle(21, 5, 4), "Give first and last"),
        (lambda: Oracle(21, 0, 20), "window=21 does not hold the 21 frames"),
        (lambda: Strategy(Absolute(), Ema(), Keep()), "averages keys of different frames.*Use positions='online'"),
        (lambda: Strategy(Relativistic(), Sink(4, 2), Keep()), "window 4 .* smaller than its 2 sink.*at least 5"),
        (lambda: Strategy(Online(), Ema(7, 3), Keep()), "at least 8"),
        (lambda: Strategy(Relativistic(head=5), Sink(12, 3), Keep()), "head 5 .* at least 6"),
        (lambda: Strategy(Relativistic(head=12, cut=Cut(10)), Sink(12, 3), Keep()), "to=10.*below index 11"),
        (lambda: Strategy(Online(cut=Cut(5)), Sink(12, 3), Flush()), "below index 6"),
        (lambda: Strategy(Relativistic(), Sink, Keep()), "is no policy rule"),
        (lambda: Strategy("online", Sink(), Keep()), "is no positions rule"),
        (lambda: Relativistic(head=0), "head=0"),
        (lambda: Cut(to=-1), "negative"),
        (lambda: Cut(keep=-1), "negative"),
        (lambda: Fifo(0), "window=0"),
        (lambda: Sink(3, 3), "window=3"),
        (lambda: Sink(3, -1), "sink=-1"),
        (lambda: Ema(rates=()), "rates is empty"),
        (lambda: Ema(rates=(0.0,)), "outside"),
        (lambda: Ema(rates=(1.5,)), "outside"),
        (lambda: Flush(-1), "last=-1"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_fix(make, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make()


@pytest.mark.parametrize(
    ("strategy", "frames", "says"),
    [
        (PRESETS["self-forcing"].strategy, 1026, r"would fail at second 255\.8"),
        (Strategy(Relativistic(head=24), Sink(24, 1), Keep()), 60, "head 24 .* 21 frames"),
        (Strategy(Online(), Sink(24, 1), Keep()), 60, "index 23"),
    ],
)
def test_what_a_backend_cannot_hold_is_refused_before_the_first_block(
    strategy: Strategy, frames: int, says: str
) -> None:
    with pytest.raises(CompositionError, match=says):
        strategy.check(SPEC, frames)


def test_the_longest_absolute_rollout_is_allowed() -> None:
    PRESETS["self-forcing"].strategy.check(SPEC, 1023)
    Strategy(Relativistic(), Sink(24, 1), Keep()).check(SPEC, 10**6)


@pytest.mark.parametrize("positions", [Absolute(), Relativistic(), Online()])
def test_parts_meet_their_protocols(positions: Positions) -> None:
    assert isinstance(positions, Positions)
    assert all(isinstance(p, Policy) for p in (Fifo(), Sink(), Ema()))
    assert all(isinstance(s, Switch) for s in (Keep(), Flush(), Recache()))


KEEP = {"kind": "keep"}
FIFO = {"kind": "fifo"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "an object with positions, policy, switch, not list"),
        ({}, "lacks 'positions'"),
        ({"positions": {"kind": "online"}, "policy": FIFO}, "lacks 'switch'"),
        ({"positions": {"kind": "online"}, "policy": FIFO, "switch": KEEP, "cfg": 3}, "has no 'cfg'"),
        ({"positions": "online", "policy": FIFO, "switch": KEEP}, 'must be an object with a "kind"'),
        ({"positions": {"kind": 3}, "policy": FIFO, "switch": KEEP}, "must be an object"),
        ({"positions": {"kind": "relativistic", "cut": 3}, "policy": FIFO, "switch": KEEP}, "cut is an object, not 3"),
        ({"positions": {"kind": "relativistic", "cut": {"too": 3}}, "policy": FIFO, "switch": KEEP}, "no field 'too'"),
        ({"positions": {"kind": "online"}, "policy": {"kind": "ema", "rates": 0.1}, "switch": KEEP}, "rates is a list"),
        (
            {"positions": {"kind": "online"}, "policy": {"kind": "ema", "rates": [10**400]}, "switch": KEEP},
            "rates is a number",
        ),
        (
            {"positions": {"kind": "online"}, "policy": {"kind": "ema", "rates": [True]}, "switch": KEEP},
            "rates is a number",
        ),
        (
            {"positions": {"kind": "online"}, "policy": {"kind": "fifo", "window": None}, "switch": KEEP},
            "a whole number",
        ),
        ({"positions": {"kind": "online"}, "policy": FIFO, "switch": {"kind": "keep", "x": 1}}, "It has no fields"),
    ],
)
def test_json_that_is_no_strategy(data: object, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Strategy.from_dict(data)  # type: ignore[arg-type]


def test_a_shot_built_by_hand_is_checked() -> None:
    from rollout.errors import ScriptError
    from rollout.script import Shot

    for seconds in (float("nan"), float("inf"), -1.0, 0.0):
        with pytest.raises(ScriptError, match="not within"):
            Shot("a", seconds)


def test_registering_needs_a_group_and_one_name() -> None:
    from rollout import register

    with pytest.raises(SpecError, match="no group 'polices'"):
        register("polices", "x")
    with pytest.raises(SpecError, match="its kind is 'fifo'"):
        register("policies", "mine")(Fifo)


@dataclass(frozen=True)
class Usurper(Sink):
    """A policy that takes a built-in name."""

    window: int = 9


@pytest.mark.parametrize(
    ("group", "name", "item"),
    [
        ("policies", "sink", Usurper),
        ("presets", "memrope", PRESETS["longlive"]),
        ("backends", "sprites", object()),
        ("metrics", "reaction", object()),
    ],
)
def test_a_built_in_name_cannot_be_taken(group: str, name: str, item: object) -> None:
    from rollout import register

    before = find(group, name)
    with pytest.raises(SpecError, match=rf"'{name}' is the name of a built-in .+\. Register yours under another\."):
        register(group, name)(item)
    assert find(group, name) is before
    register(group, name)(before)  # the same thing once more takes nothing


def test_an_installed_plugin_cannot_take_a_built_in_name_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rollout.policies]\nfifo = other:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._plugins.cache_clear()
    try:
        with pytest.raises(
            SpecError, match="the installed plugin 'other:Mine' offers a policy called 'fifo', which is built in"
        ):
            find("policies", "fifo")
        assert find("policies", "sink") is Sink
        assert names("policies").count("fifo") == 1
    finally:
        registry._plugins.cache_clear()


def test_a_plugin_file_that_fails_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text(
        "from rollout import register\nfrom rollout.strategies.presets import PRESETS\n"
        "register('presets', 'of-half')(PRESETS['memrope'])\nregister('presets', 'lol')(PRESETS['memrope'])\n"
    )
    with pytest.raises(SpecError, match="'lol' is the name of a built-in preset"):
        load_plugin(path)
    assert "of-half" not in names("presets")


def test_a_backend_registered_as_something_else_is_refused() -> None:
    with (
        registry.registered("backends", "no-entry", object),
        pytest.raises(SpecError, match=r"Register a rollout\.backends\.Entry"),
    ):
        load_backend("no-entry")


@dataclass(frozen=True)
class Forgetful:
    """A switch as one wrote it before switches said whether they flush."""

    kind: ClassVar[str] = "forgetful"

    def on_switch(self, slots, block, window):
        return flush(slots, 2), None


@dataclass(frozen=True)
class Bare:
    """A policy without the mixin."""

    kind: ClassVar[str] = "bare"
    window: int = 12
    sink: int = 1

    def make_room(self, slots, frames):
        return keep(slots, ())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Strategy(Online(), Sink(), Forgetful()),
            r"the switch rule 'forgetful' lacks flushes, replays, last, check\. Inherit rollout\.SwitchDefaults, which has "
            r"replays, last, check and add flushes, as rollout\.Switch says\.",
        ),
        (
            lambda: Strategy(Online(), Bare(), Keep()),
            r"the policy rule 'bare' lacks blends, memory, rates, spare, needs, renew, readable, admit, lanes, check\. Inherit "
            r"rollout\.PolicyDefaults, which has blends, memory, rates, spare, needs, renew, readable, lanes, check and add "
            r"admit, as rollout\.Policy says\.",
        ),
    ],
)
def test_a_rule_that_lacks_a_member_is_refused_with_its_name_and_the_mixin(make, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_a_backend_that_lacks_a_member_is_refused_with_its_name_and_the_mixin(micro) -> None:
    bare = SimpleNamespace(spec=micro.spec, device=micro.device, dtype=micro.dtype, encode=micro.encode)
    with pytest.raises(
        BackendError,
        match=r"lacks world, rows, schedule, digest.*Inherit rollout\.BackendDefaults.*add denoise, decoder",
    ):
        generate(bare, PRESETS["memrope"].strategy, "a red circle jumps[1s]")


def test_a_backend_module_that_lacks_a_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text("def load(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match="the backend module half lacks spec"):
        Entry("half", "half").spec()
    (tmp_path / "least.py").write_text("from rollout.backends.wan import spec\ndef load(): pass\n")
    least = Entry("least", "least")
    assert (least.world, least.has_world, least.digest("x"), least.spec().name) == (None, False, None, "wan")
    assert least.check_prompt("anything") is None


def test_a_backend_without_a_way_in_for_videos_says_so() -> None:
    class Least(BackendDefaults):
        spec = SPEC

    with pytest.raises(BackendError, match="the backend 'wan' cannot encode a video"):
        Least().encode_video(None)
