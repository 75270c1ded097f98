"""The loop: presets end to end, noise, batches, live prompts and cuts, prefixes, failures."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rollout import Schedule, Script, generate, preset
from rollout.backend import BackendDefaults
from rollout.backends.sprites.weights import Sprites
from rollout.errors import CacheError, CompositionError, PromptError, RolloutError, ScriptError
from rollout.plan import simulate
from rollout.sampler import seeded
from rollout.slots import Block, Role, Slot
from rollout.strategies import Absolute, Anchor, Ema, Fifo, Flush, Keep, Online, Recache, Relativistic, Sink
from rollout.strategies.presets import PRESETS
from rollout.strategy import Strategy
from rollout.timeline import Cut, Event, Once, Prompt, blocks_of
from rollout.views import Horizon

A, B = "a red circle jumps", "a blue square spins on olive"
SCRIPT = f"{A}[2.5s] | {B}[2s] | {A}[2s#]"


def latents(run) -> Tensor:
    return torch.cat([r.latents for r in run], 1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_as_explained(micro: Sprites, name: str) -> None:
    strategy, script = preset(name), Script.parse(SCRIPT)
    results = list(generate(micro, strategy, SCRIPT))
    horizon = Horizon(last=script.count(micro.spec) - 1)
    plan = list(simulate(strategy, blocks_of(script, micro.spec), micro.spec, horizon=horizon))
    count = 2 if "heads" in strategy.policy.needs else len(plan)  # then heads go apart as they look
    assert [(r.block, r.slots, r.placement) for r in results][:count] == [
        (s.block, s.slots, s.placement) for s in plan[:count]
    ]
    assert [r.block.cut for r in results].count(True) == 1
    assert all(r.latents.shape == (1, 3, 6, 2, 2) for r in results)
    assert torch.isfinite(latents(results)).all()


def test_the_presets_differ(micro: Sprites) -> None:
    found = {name: latents(generate(micro, preset(name), f"{A}[5s] | {B}[2s] | {A}[2s#]")) for name in PRESETS}
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        same = preset(one) == preset(other)  # causal-forcing is self-forcing with other blocks and steps
        assert same or (a - b).abs().max() > 1e-4, f"{one} and {other} give the same video"


ALL = [
    Strategy(p, c, s)
    for p, c, s in itertools.product(
        (Absolute(), Relativistic(), Relativistic(head=21), Online()),
        (Fifo(9), Sink(9, 2), Ema(10, 2), Ema(10, 2, (0.3,), "frame", "drop")),
        (Keep(), Flush(), Recache(), Recache("bidirectional", "rebuild")),
    )
    if not (c.blends and not p.by_slot)
]


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_every_composition_that_makes_sense_runs(micro: Sprites, strategy: Strategy) -> None:
    run = generate(micro, strategy, f"{A}[1.6s] | {B}[1.2s] | {B}[0.8s#]")
    size = run.cache.bytes
    results = list(run)
    assert torch.isfinite(latents(results)).all()
    assert run.cache.bytes == size
    assert len(run.cache.slots) <= strategy.policy.window


def test_the_same_seed_gives_the_same_video_and_another_another(micro: Sprites) -> None:
    one, again, other = (latents(generate(micro, preset("memrope"), SCRIPT, seeds=s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_noise_belongs_to_seed_block_and_step_alone() -> None:
    noise = seeded([5, 6], (1, 2, 2))
    late = noise(Block(7, 21, 3), 2)
    noise(Block(0, 0, 3), 0)
    assert torch.equal(noise(Block(7, 21, 3), 2), late)
    assert torch.equal(seeded([6], (1, 2, 2))(Block(7, 21, 3), 2)[0], late[1])
    drawn = [noise(Block(b, 3 * b, 3), s).flatten() for b in range(4) for s in range(4)]
    assert all((a - b).abs().max() > 0.1 for a, b in itertools.combinations(drawn, 2))
    many = torch.cat([seeded([s], (8, 8, 8))(Block(0, 0, 3), 0).flatten() for s in range(20)])
    assert abs(many.mean().item()) < 0.02
    assert abs(many.std().item() - 1) < 0.02


def test_the_noise_source_is_an_argument(micro: Sprites) -> None:
    asked = []

    def zeros(block: Block, step: int) -> Tensor:
        asked.append((block.index, step))
        return torch.zeros(1, 3, *micro.spec.latent, dtype=torch.float64)

    list(generate(micro, preset("self-forcing"), f"{A}[0.75s]", noise=zeros))
    assert asked == [(b, s) for b in range(2) for s in range(4)]


def test_a_batch_equals_its_rows(micro: Sprites) -> None:
    strategy = Strategy(Relativistic(), Sink(9, 2), Recache())
    scripts = [f"{A}[1.5s] | {B}[1.5s]", f"{B}[1.5s] | {A}[1.5s]"]
    both = latents(generate(micro, strategy, scripts, seeds=[3, 4]))
    for row, (script, seed) in enumerate(zip(scripts, (3, 4), strict=True)):
        torch.testing.assert_close(
            both[row], latents(generate(micro, strategy, script, seeds=seed))[0], rtol=0, atol=1e-9
        )
    seeds = latents(generate(micro, strategy, scripts[0], seeds=[3, 4, 5]))
    assert seeds.shape[0] == 3


def test_a_live_prompt_equals_a_scripted_one(micro: Sprites) -> None:
    strategy = preset("infinity-rope")
    run = generate(micro, strategy, f"{A}[3s]")
    live = []
    for result in run:
        live.append(result)
        if result.block.index == 3:
            run.prompt(B)
        if result.block.index == 5:
            run.cut()
    scripted = list(generate(micro, strategy, f"{A}[1.5s] | {B}[0.75s] | {B}[0.75s#]"))
    assert run.timeline.log == [Event(4, Prompt((B,))), Event(6, Cut())]
    torch.testing.assert_close(latents(live), latents(scripted), rtol=0, atol=0)
    assert [r.prompts for r in live] == [r.prompts for r in scripted]


def test_the_scripts_next_shot_ends_a_live_prompt(micro: Sprites) -> None:
    run = generate(micro, preset("self-forcing"), f"{A}[1.1s] | {B}[0.4s]")
    run.prompt(B)
    assert [(r.prompts[0], r.block.switch) for r in run] == [(B, False), (B, False), (B, False), (B, False)]
    run = generate(micro, preset("self-forcing"), f"{A}[1.1s] | {B}[0.4s]")
    first = next(run)
    run.prompt(B)
    assert first.prompts == (A,)
    assert [(r.prompts[0], r.block.switch) for r in run] == [(B, True), (B, False), (B, False)]


def test_slots_remember_their_scene_whoever_cuts(micro: Sprites) -> None:
    anchor = Strategy(Relativistic(), Anchor(12, 3), Keep())
    live = generate(micro, anchor, f"{A}[3s]")
    shown = [next(live) for _ in range(3)]
    live.cut()
    shown += list(live)
    scripted = list(generate(micro, anchor, f"{A}[1.125s] | {A}[1.875s#]"))
    planned = simulate(anchor, blocks_of(Script.parse(f"{A}[1.125s] | {A}[1.875s#]"), micro.spec), micro.spec)
    for ours, theirs, step in zip(shown, scripted, planned, strict=True):
        # a shot of the script has its own number, a cut from outside none
        assert [replace(slot, prompt=0) for slot in ours.slots] == [replace(slot, prompt=0) for slot in theirs.slots]
        assert theirs.slots == step.slots
        assert torch.equal(ours.latents, theirs.latents)
    assert [slot.frame for slot in shown[-1].slots][:3] == [12, 13, 14]


def test_an_endless_rollout_goes_on_and_keeps_its_size(micro: Sprites) -> None:
    run = generate(micro, preset("memrope"), f"{A}[0.4s]", endless=True)
    last = list(itertools.islice(run, 30))[-1]
    assert last.block.index == 29
    assert len(run.engine._latents) <= 12 + 3


def test_an_unknown_live_prompt_is_refused_and_changes_nothing(micro: Sprites) -> None:
    run = generate(micro, preset("self-forcing"), f"{A}[1s]")
    next(run)
    with pytest.raises(PromptError, match="closest it knows is 'circle'"):
        run.prompt("a red circus jumps")
    assert next(run).prompts == (A,)


def test_a_prefix_is_cached_by_clean_passes(micro: Sprites) -> None:
    strategy = preset("self-forcing")
    whole = latents(generate(micro, strategy, f"{A}[2.25s]"))
    start = whole[:, :6]
    run = generate(micro, strategy, f"{A}[1.5s]", prefix=start)
    found = latents(run)
    assert (run.first, run.blocks) == (2, 6)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"prefix": torch.zeros(4, 6, 2, 2)}, RolloutError, "whole blocks of 3"),
        ({"prefix": torch.zeros(3, 5, 2, 2)}, RolloutError, "takes"),
        ({"prefix": torch.zeros(2, 3, 6, 2, 2)}, RolloutError, "takes"),
        ({"prefix": torch.zeros(0, 6, 2, 2)}, RolloutError, "takes"),
    ],
)
def test_bad_prefixes(micro: Sprites, kwargs: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        generate(micro, preset("self-forcing"), A, **kwargs)


def test_batches_that_do_not_fit(micro: Sprites) -> None:
    with pytest.raises(RolloutError, match="2 scripts do not fit a batch of 3"):
        generate(micro, preset("self-forcing"), [A, B], seeds=[1, 2, 3])
    with pytest.raises(ScriptError, match="differ in timing"):
        generate(micro, preset("self-forcing"), [f"{A}[2s]", f"{A}[3s]"])
    with pytest.raises(PromptError, match="does not know"):
        generate(micro, preset("self-forcing"), "a dog")


def test_absolute_positions_end_before_the_first_block(micro: Sprites) -> None:
    with pytest.raises(CompositionError, match=r"second 128\.0"):
        generate(micro, preset("self-forcing"), f"{A}[129s]")
    generate(micro, preset("infinity-rope"), f"{A}[129s]")


class Breaks(BackendDefaults):
    """A backend that raises at the n-th forward."""

    def __init__(self, inner: Sprites, at: int) -> None:
        self.inner, self.at, self.count = inner, at, 0
        self.spec, self.device, self.dtype, self.encode = inner.spec, inner.device, inner.dtype, inner.encode
        self.decoder = inner.decoder

    def denoise(self, x, t, prompt, attend):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return self.inner.denoise(x, t, prompt, attend)


@pytest.mark.parametrize("at", [3, 5, 12, 15, 22])
@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(Online(), Ema(10, 2), Flush()),
        Strategy(Absolute(), Sink(6, 1), Recache()),
        Strategy(Relativistic(), Sink(6, 1), Recache(sink="rebuild")),
    ],
    ids=str,
)
def test_a_block_that_failed_is_tried_again_exactly(micro: Sprites, strategy: Strategy, at: int) -> None:
    script = f"{A}[1s] | {B}[1s]"
    run = generate(Breaks(micro, at), strategy, script)
    found, stops = [], 0
    while len(found) < run.blocks:
        try:
            found.append(next(run))
        except KeyboardInterrupt:
            stops += 1
        except CacheError:  # it was the replay that failed: the next test's matter
            return
    assert stops == 1
    torch.testing.assert_close(latents(found), latents(generate(micro, strategy, script)), rtol=0, atol=0)


def test_an_interrupted_replay_marks_the_cache_unusable(micro: Sprites) -> None:
    strategy = Strategy(Absolute(), Sink(9, 2), Recache())
    backend = Breaks(micro, 2 * 5 + 2)  # two blocks, then the second pass of the replay
    run = generate(backend, strategy, f"{A}[0.8s] | {B}[1s]")
    next(run), next(run)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    with pytest.raises(CacheError, match="replay stopped half-way"):
        next(run)


def test_five_forwards_a_block_and_the_clean_pass_is_at_timestep_0(micro: Sprites) -> None:
    seen = []

    class Counts(Breaks):
        def denoise(self, x, t, prompt, attend):
            seen.append(t)
            out = self.inner.denoise(x, t, prompt, attend)
            if t > 0:
                with pytest.raises(CacheError, match="missed layer"):
                    run.cache.commit([Slot(Role.RECENT, 0, 0)] * 3)
            return out

    run = generate(Counts(micro, -1), preset("self-forcing"), f"{A}[0.75s]")
    list(run)
    assert [round(t, 4) for t in seen] == [1000.0, 937.5, 833.3333, 625.0, 0.0] * 2


def test_the_clean_pass_is_what_is_cached(micro: Sprites) -> None:
    run = generate(micro, preset("self-forcing"), f"{A}[0.375s]")
    result = next(run)
    kept = {}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept[layer] = (k, v)
        return torch.zeros_like(v)

    with torch.no_grad():
        micro.denoise(result.latents, 0.0, micro.encode(A), attend)
    torch.testing.assert_close(torch.cat([run.cache.raw(i, 0)[0] for i in range(3)], 1), kept[0][0])


def test_the_schedule_is_the_released_one() -> None:
    assert [round(1000 * s, 4) for s in Schedule().sigmas] == [1000.0, 937.5, 833.3333, 625.0]
    assert Schedule.of(4) == Schedule()
    assert Schedule.of(1).sigmas == (1.0,)
    for bad in (
        lambda: Schedule.of(0),
        lambda: Schedule((0.5, 0.7)),
        lambda: Schedule((2.0,)),
        lambda: Schedule(()),
        lambda: Schedule(shift=0),
    ):
        with pytest.raises(RolloutError):
            bad()


def test_a_perfect_model_is_sampled_exactly() -> None:
    """With the true flow (x - x0) / sigma, every schedule ends at x0."""
    truth = torch.randn(1, 3, 1, 2, 2, dtype=torch.float64)

    noise = seeded([0], (1, 2, 2))
    for steps in (1, 2, 4, 8):
        schedule, x = Schedule.of(steps), noise(Block(0, 0, 3), 0).double()
        for level, (t, sigma) in enumerate(schedule.levels):
            assert t == 1000 * sigma
            x = schedule.step(x, (x - truth) / sigma, level, lambda after: noise(Block(0, 0, 3), after).double())
        torch.testing.assert_close(x, truth, rtol=0, atol=1e-9)


def test_a_switch_from_outside_is_that_of_a_new_prompt_without_one(micro: Sprites) -> None:
    """The cache afterwards is as if the prompt had changed to itself, under the switch that was given."""
    kept = generate(micro, Strategy(Relativistic(), Sink(9, 1), Keep()), f"{A}[4.5s]")
    for _ in range(6):
        next(kept)
    kept.switch(Flush(last=2))
    result = next(kept)
    assert [(s.role, s.frame) for s in result.slots] == [(Role.SINK, 0), (Role.RECENT, 16), (Role.RECENT, 17)]
    assert not result.block.switch
    forwards = kept.costs.forwards
    kept.switch(Recache())
    next(kept)
    assert kept.costs.forwards == forwards + 5 + 2  # recents 16..20 lie in two blocks
    assert kept.timeline.log == [Event(6, Once(Flush(last=2))), Event(7, Once(Recache()))]


def test_an_endless_rollout_ends_where_its_positions_do(micro: Sprites) -> None:
    from dataclasses import replace

    short = Breaks(micro, -1)
    short.spec = replace(micro.spec, table=6)
    run = generate(short, preset("self-forcing"), f"{A}[0.375s]", endless=True)
    for _ in range(2):
        next(run)
    with pytest.raises(CompositionError, match="position table"):
        next(run)
    run.use(preset("infinity-rope"))  # positions that do not end
    assert next(run).block.index == 2


class Bad(Sink):
    """A policy that breaks its rules."""

    kind = "bad"

    def make_room(self, slots, frames):
        from rollout.slots import keep

        return keep(slots, range(len(slots)))


class Short(Online):
    """A scheme that forgets the block's last frame."""

    kind = "short"

    def place(self, slots, block, window):
        found = super().place(slots, block, window)
        return type(found)(found.slots, found.block[:-1])


def test_a_rule_of_ones_own_that_breaks_the_rules_is_named(micro: Sprites) -> None:
    with pytest.raises(CacheError, match=r"policy 'bad' left 6 slots .* must evict 3 more"):
        list(generate(micro, Strategy(Online(), Bad(6, 1), Keep()), f"{A}[2s]"))
    with pytest.raises(CacheError, match="positions 'short' placed 0 slots and 2 block frames where there are 0 and 3"):
        list(generate(micro, Strategy(Short(), Sink(6, 1), Keep()), f"{A}[2s]"))


def test_frames_that_are_held_no_longer_cannot_be_encoded_again(micro: Sprites) -> None:
    run = generate(micro, Strategy(Absolute(), Sink(6, 1), Recache()), f"{A}[2s] | {B}[1s]")
    for _ in range(5):
        next(run)
    run.engine._latents.clear()
    with pytest.raises(RolloutError, match="only the last 6 are held"):
        next(run)
