"""The world whose truth is known: trackers against true videos, truth over a script, and the metrics that read both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.backends import BACKENDS
from rollout.backends.sprites import spec
from rollout.backends.sprites.clips import with_nights
from rollout.backends.sprites.grammar import ACTIONS, BACKGROUNDS, COLOURS, MARKS, SHAPES
from rollout.backends.sprites.trackers import torus, track
from rollout.backends.sprites.truth import SpriteWorld
from rollout.backends.sprites.world import (
    CENTRE,
    DAY,
    GROUNDS,
    HUE,
    LANDMARKS,
    PERIOD,
    TINT,
    motion,
    render,
    sample_world,
)
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import Sample
from rollout.errors import SpecError
from rollout.script import Script
from rollout.timeline import blocks_of
from rollout.world import Act, World
from tests.conftest import run_record

WORLD = SpriteWorld()
GIVEN = 2
"""Blocks of a true start."""


def test_trackers_read_true_videos() -> None:
    """The goals: .99 of every label, .01 of the tint."""
    generator = torch.Generator().manual_seed(11)
    world = with_nights(sample_world(84, 21, generator), generator)
    seen = track(render(world, torch.arange(21).expand(84, 21)))
    day = world.light == DAY
    shown = day & ~seen.covered.gather(-1, world.place[..., None])[..., 0]
    right = {
        "colour": seen.colour == world.colour[:, None],
        "shape": seen.shape == world.shape[:, None],
        "action": seen.action == world.action[:, None],
        "light": seen.light == world.light,
        "background": (seen.background == world.background)[day],
        "ground": (seen.ground == torch.tensor(GROUNDS)[world.ground])[day],
        "place": (seen.place == world.place)[shown],
        "ink": (seen.ink == world.ink)[shown],
    }
    for name, matches in right.items():
        assert matches.float().mean() >= 0.99, name
    assert (seen.background[~day] == -1).all(), "at night there is nothing to see of the scene"
    assert (seen.tint - 1 - TINT * world.tint[:, None]).abs().mean() <= 0.01
    assert (seen.hue - HUE * world.hue[:, None]).abs().mean() <= 0.5
    x, y, _, _ = motion(world.action[:, None], world.phase[:, None], torch.arange(21)[None])
    assert torch.hypot(torus(seen.x - CENTRE[0] - x), seen.y - CENTRE[1] - y).mean() < 0.2


def test_a_landmark_is_covered_only_where_the_sprite_is() -> None:
    world = sample_world(len(LANDMARKS), 8, torch.Generator().manual_seed(1))
    jumps = torch.full((len(LANDMARKS),), ACTIONS.index("jumps"))
    places = torch.arange(len(LANDMARKS))[:, None].expand(-1, 8)
    seen = track(render(replace(world, action=jumps, place=places), torch.arange(8).expand(len(LANDMARKS), 8)))
    hidden = seen.covered.gather(-1, places[..., None])[..., 0]
    assert hidden.any(), "a jumper reaches the lower row"
    assert not hidden[[0, 3, 4, 7]].any(), "and never the sides"
    assert (seen.place == places)[~hidden].all()


def test_the_world_is_what_the_protocol_asks() -> None:
    assert isinstance(WORLD, World)
    assert isinstance(BACKENDS["sprites"].world, SpriteWorld)
    assert BACKENDS["wan"].world is None
    assert set(WORLD.parse("a red circle walks right on navy at night, mark left")) <= set(WORLD.properties)


words = st.builds(
    lambda *parts: " ".join(("a", *parts)),
    *(st.sampled_from(phrases) for phrases in (COLOURS, SHAPES, ACTIONS)),
)
tails = st.sampled_from(["", *BACKGROUNDS, "at night", "by day", *MARKS])


@given(words, st.lists(st.tuples(tails, st.integers(1, 4), st.booleans()), min_size=1, max_size=4), st.integers(0, 99))
def test_a_true_video_shows_its_own_truth(subject: str, stretches: list[tuple[str, int, bool]], seed: int) -> None:
    """Whatever the script: where something is known and visible, the trackers read it as it should be."""
    acts = [Act(f"{subject} {tail}".strip(), 3 * blocks, cut) for tail, blocks, cut in stretches]
    truth = WORLD.truth(acts, seed)
    video = truth.video()
    assert video.shape == (sum(act.frames for act in acts), *WORLD.size, 3)
    seen = WORLD.track(video)
    for name, described in WORLD.properties.items():
        error = WORLD.error(name, seen, truth.values[name])
        judged = truth.visible[name] & ~error.isnan()
        if described.span > 1 and len(video) < 2 * PERIOD:
            continue  # a subject's usual size, against which it pulses, is known from two periods on
        # a centre is read from the pixels of the subject: of a small one some at its edge are the sky's
        limit = 1.25 if described.unit == "px" else 0.05 if described.unit == "brightness" else 1.5
        assert not judged.any() or error[judged].max() <= (0 if described.unit == "share" else limit), name


def filmed(text: str, *, seed: int = 4, given: int = GIVEN) -> Sample:
    """A script's true video as a rollout that began with true blocks."""
    plan = Script.parse(text)
    blocks = tuple(blocks_of(plan, spec(), first=given))
    counts = [sum(b.frames for b in blocks if b.prompt == n) for n in range(len(plan.shots))]
    acts = [Act(shot.prompt, count, shot.cut) for shot, count in zip(plan.shots, counts, strict=True)]
    record = run_record(seed=seed, prefix={"blocks": given} if given else None)
    return Sample(WORLD.truth(acts, seed).video(), spec().fps, spec(), blocks, plan.prompts, given, record)


def value(name: str, sample: Sample) -> float | None:
    score = metric(name).measure(sample)
    return None if score is None else score.value


NIGHT = "a red circle stands[0.75s] | a red circle stands at night[1.5s] | a red circle stands[0.75s]"


def test_a_true_dawn_is_recalled_and_another_scene_is_not() -> None:
    sample = filmed(NIGHT)
    for name in ("recall", "recall@background", "recall@ground", "recall@landmark", "light", "identity"):
        assert value(name, sample) == 1, name
    dawn = sample.blocks[-1].start - 3
    for seed in range(5, 30):  # a world that differs in everything
        other = filmed(NIGHT, seed=seed)
        ours, theirs = (WORLD.truth([Act("a red circle stands", 1)], s).values for s in (4, seed))
        if all(ours[name] != theirs[name] for name in ("background", "ground", "place")):
            break
    frames = np.array(sample.video)
    frames[dawn:] = np.array(other.video)[dawn:]
    forgotten = replace(sample, video=frames)
    assert value("recall", forgotten) == 0
    assert value("background", forgotten) == pytest.approx(6 / 12)  # six frames of the first day were right
    assert value("recall", filmed("a red circle stands[2s]")) is None, "nothing was hidden"


def test_what_comes_back_after_a_change_is_new_or_old() -> None:
    text = (
        "a red circle stands[0.375s] | a red circle stands, mark {}[0.375s] | a red circle stands[0.375s] | "
        "a red circle stands at night[1.5s] | a red circle stands[0.75s]"
    )
    start = int(WORLD.truth([Act("a red circle stands", 1)], 4).values["mark"][0])
    named = ("far left", "left", "right", "far right")[(start + 2) % 4]
    sample = filmed(text.format(named))
    assert value("moved", sample) == 1
    assert value("new@mark", sample) == 1
    assert value("old@mark", sample) == value("neither@mark", sample) == 0
    dawn = sample.blocks[-2].start
    frames = np.array(sample.video)
    frames[dawn:] = frames[0]
    old = replace(sample, video=frames)
    assert value("new@mark", old) == 0
    assert value("old@mark", old) == 1
    assert value("new@background", sample) is None, "the sky never changed"


def test_a_scene_that_a_cut_draws_anew_is_compared_with_what_was_seen() -> None:
    """No prompt says what the ground is after a cut: what the video showed then is what should come back."""
    before, after = filmed("a red circle stands[3s]", seed=4), filmed("a red circle stands[3s]", seed=6)
    grounds = [int(WORLD.truth([Act("a red circle stands", 1)], seed).values["ground"][0]) for seed in (4, 6)]
    assert grounds[0] != grounds[1]
    red = "a red circle stands"
    text = f"{red}[0.375s] | {red}[0.75s#] | {red} at night[0.75s] | {red}[0.75s]"
    sample = filmed(text)
    cut, dawn = 9, 21
    frames = np.array(sample.video)
    frames[cut:15] = np.array(after.video)[cut:15]
    frames[dawn:] = np.array(after.video)[dawn : len(frames)]
    assert value("new@ground", replace(sample, video=frames)) == 1
    frames[dawn:] = np.array(before.video)[dawn : len(frames)]
    assert value("old@ground", replace(sample, video=frames)) == 1


def test_without_a_true_start_the_first_block_says_what_stays() -> None:
    sample = filmed(NIGHT, given=0)
    assert value("recall", sample) == 1
    assert value("identity", sample) == 1
    assert value("tint", sample) is None, "nobody knows what it should be"
    assert value("position", sample) is None


def test_silent_subjects_are_judged_by_the_start() -> None:
    sample = filmed("walks right[2s]")
    assert value("identity", sample) == 1
    frames = np.array(sample.video)
    frames[12:] = np.array(filmed("walks right[2s]", seed=9).video)[12:]
    assert value("identity", replace(sample, video=frames)) < 1


def test_numbers_drift_as_they_were_made_to() -> None:
    sample = filmed("a red circle stands[3s]")
    assert value("tint", sample) < 0.01
    dark = replace(sample, video=(np.array(sample.video) * 0.9).astype(np.uint8))
    tint = float(WORLD.truth([Act("a red circle stands", 1)], 4).values["tint"][0])
    assert value("tint", dark) == pytest.approx(0.1 * tint, abs=0.02)
    assert value("tint:21", dark) == pytest.approx(value("tint", dark), abs=0.01)


def test_a_slip_is_the_frame_at_which_a_walker_jumps() -> None:
    sample = filmed("a red circle walks right[4s]")
    assert value("slip", sample) == len(sample.video)
    frames = np.array(sample.video)
    frames[20:] = np.roll(frames[20:], 14, axis=2)
    assert value("slip", replace(sample, video=frames)) == 20


def test_frames_under_two_prompts_do_not_count_for_an_action() -> None:
    sample = filmed("a red circle stands[1.5s] | a red circle jumps[3s]")
    curve = metric("action").measure(sample).curve
    change = sample.blocks[6].start
    unjudged = [x for x, y in zip(curve.x, curve.y, strict=True) if y is None]
    assert unjudged == [change + offset for offset in range(-3, 3)]


def test_a_metric_of_no_property_is_refused() -> None:
    with pytest.raises(SpecError, match="no backend's world has the property 'weather'"):
        metric("recall@weather")
    assert metric("recall@ink").name == "recall@ink"
