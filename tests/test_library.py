"""What people write in Python: strategies by name, whole videos as arrays, noise of their own, and values that print well."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rollout import (
    Event,
    Once,
    Result,
    Rollout,
    Script,
    Strategy,
    Use,
    explain,
    generate,
    preset,
    seeded,
)
from rollout.errors import CompositionError, RolloutError, SpecError
from rollout.plan import simulate
from rollout.sampler import Schedule
from rollout.strategies import Flush, Keep, Sink
from rollout.strategies.presets import PRESETS
from rollout.testing import check_strategy
from rollout.timeline import blocks_of
from tests.conftest import micro_backend

A, B = "a red circle jumps", "a blue square spins"
SCRIPT = f"{A}[1.125s]"
"""Three blocks."""
LONG = f"{A}[2.25s]"
"""Six blocks: enough for an order that denoises five at once."""


def latents(run: Rollout) -> torch.Tensor:
    return torch.cat([result.latents for result in run], 1)


@pytest.mark.parametrize("text", ["memrope", " memrope ", str(preset("memrope"))])
def test_a_text_names_a_strategy_wherever_one_is_taken(micro, text: str) -> None:
    strategy = preset("memrope")
    assert Strategy.of(text) == Strategy.of(strategy) == strategy
    assert Use(text).strategy == strategy
    assert Rollout(micro, text, [Script.parse(SCRIPT)]).strategy == strategy
    assert torch.equal(latents(generate(micro, text, SCRIPT)), latents(generate(micro, strategy, SCRIPT)))
    assert explain(text, SCRIPT).steps == explain(strategy, SCRIPT).steps
    check_strategy(text)


def test_a_running_rollout_takes_texts(micro) -> None:
    run = generate(micro, "infinity-rope", SCRIPT)
    next(run)
    run.use("online sink+keep")
    run.switch("flush:last=2")
    next(run)
    assert run.strategy == Strategy.of("online sink+keep")
    changes = [event.change for event in run.timeline.log]
    assert changes == [Use(Strategy.of("online sink+keep")), Once(Flush(2))]
    again = generate(
        micro, "infinity-rope", SCRIPT, events=[Event(1, Use("online sink+keep")), Event(1, Once("flush:last=2"))]
    )
    next(again)
    next(again)
    assert torch.equal(latents(run), latents(again))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("memrop", "no preset called 'memrop'. Did you mean 'memrope'"),
        ("online snk+keep", "no policy or switch called 'snk'"),
        (3, "3 is no strategy. Give a Strategy, a preset's name, or a text"),
        (None, "None is no strategy"),
    ],
)
def test_what_names_no_strategy_is_refused(micro, name: object, says: str) -> None:
    for take in (lambda: generate(micro, name, SCRIPT), lambda: Use(name), lambda: explain(name, SCRIPT)):
        with pytest.raises(SpecError, match=says.replace("+", r"\+")):
            take()
    with pytest.raises(SpecError, match=r"no switch called 'flsh'\. Did you mean 'flush'"):
        Once("flsh")


def test_a_presets_name_brings_its_noise_levels_and_a_strategy_does_not(micro) -> None:
    own = PRESETS["rolling-forcing"].schedule
    assert generate(micro, "rolling-forcing", LONG).schedule == own != Schedule()
    assert generate(micro, preset("rolling-forcing"), LONG).schedule == Schedule()
    assert generate(micro, "rolling-forcing", LONG, schedule=Schedule.of(3)).schedule == Schedule.of(3)


def test_a_presets_name_asks_for_its_block(micro) -> None:
    with pytest.raises(
        CompositionError, match=r"blocks of 1, and the backend 'sprites' is loaded with blocks of 3\. Load it"
    ):
        generate(micro, "causal-forcing", SCRIPT)
    generate(micro, preset("causal-forcing"), SCRIPT)
    single = micro_backend()
    single.spec = explain("causal-forcing", SCRIPT).spec
    assert single.spec.block == 1
    generate(single, "causal-forcing", SCRIPT)


def test_frames_are_what_the_decoder_gives_block_by_block(micro) -> None:
    decoder = micro.decoder()
    parts = [decoder.push(result.latents[0]).numpy() for result in generate(micro, "memrope", SCRIPT)]
    frames = generate(micro, "memrope", SCRIPT).frames()
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, np.concatenate(parts))
    batch = generate(micro, "memrope", SCRIPT, seeds=[0, 1]).frames()
    assert batch.shape == (2, *frames.shape)
    assert np.array_equal(batch[0], frames)
    assert not np.array_equal(batch[1], frames)


def test_frames_are_refused_where_they_would_not_be_the_whole_video(micro) -> None:
    run = generate(micro, "memrope", SCRIPT)
    next(run)
    with pytest.raises(RolloutError, match="1 blocks are gone"):
        run.frames()
    assert run.done == 1
    with pytest.raises(RolloutError, match="it has no end"):
        generate(micro, "memrope", SCRIPT, endless=True).frames()


def test_noise_of_ones_own_is_used_as_it_is(micro) -> None:
    seeds = seeded([5], micro.spec.latent)
    run = generate(micro, "memrope", SCRIPT, noise=lambda block, step: seeds(block, step))
    assert torch.equal(latents(run), latents(generate(micro, "memrope", SCRIPT, seeds=5)))


@pytest.mark.parametrize("strategy", ["memrope", "rolling-forcing", "deep-forcing"])
@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (lambda block, step: torch.zeros(3, 6, 2, 2), r"has the shape \(3, 6, 2, 2\); sprites takes \(1, 3, 6, 2, 2\)"),
        (
            lambda block, step: torch.zeros(2, 3, 6, 2, 2),
            r"has the shape \(2, 3, 6, 2, 2\); sprites takes \(1, 3, 6, 2, 2\)",
        ),
        (lambda block, step: torch.zeros(1, 3 - (step > 0), 6, 2, 2), r"at step 1 has the shape \(1, 2, 6, 2, 2\)"),
        (lambda block, step: np.zeros((1, 3, 6, 2, 2)), "has no tensor but ndarray; sprites takes"),
    ],
)
def test_noise_of_another_shape_is_refused_with_both(micro, strategy: str, noise, says: str) -> None:
    run = generate(micro, strategy, LONG, noise=noise)
    with pytest.raises(RolloutError, match=says):
        next(run)


def test_values_print_on_one_short_line(micro) -> None:
    run = generate(micro, "memrope", SCRIPT, seeds=[0, 1])
    assert repr(run) == (
        "<Rollout of sprites under online ema+keep: 0 of 3 blocks done, 2 videos, 0.1 MiB of keys and values>"
    )
    result = next(run)
    assert isinstance(result, Result)
    assert repr(result) == f"<Result of block 0: latents (2, 3, 6, 2, 2), 0 slots, '{A}'>"
    assert "1 of 3 blocks done" in repr(run)
    endless = generate(micro, "memrope", SCRIPT, endless=True)
    assert "memrope" not in repr(endless)
    assert ": 0 blocks done, 0" in repr(endless)


def test_a_strategys_repr_makes_it_again() -> None:
    strategy = Strategy.of("relativistic sink:window=12,sink=3+flush reads=newest:frames=9")
    assert repr(strategy) == "Strategy.of('relativistic sink:window=12,sink=3+flush reads=newest:frames=9')"
    assert eval(repr(strategy)) == strategy  # our own text


def test_a_trace_is_the_plan_of_the_whole_script(tmp_path: Path) -> None:
    text = "a[5s] | b[5s#]"
    trace = explain("infinity-rope", text)
    script = Script.parse(text)
    assert [*trace] == [*simulate(trace.strategy, blocks_of(script, trace.spec), trace.spec)]
    assert len(trace) == script.count(trace.spec)
    assert trace.to_list()[13]["cut"]
    assert repr(trace) == "<Trace of infinity-rope on sprites: 26 blocks, 1 of them change prompt or scene, window 6>"
    table = str(trace)
    assert table.startswith("relativistic:cut=20/1 sink+flush\nblock")
    assert "cut: b (kept 2 of the cache)" in table
    assert "\x1b" not in table
    trace.save(tmp_path / "trace.png")
    with Image.open(tmp_path / "trace.png") as picture:
        assert picture.size[0] > 1000
    assert trace._repr_png_().startswith(b"\x89PNG")


def test_a_trace_takes_a_geometry_and_refuses_what_does_not_fit(micro) -> None:
    assert explain("memrope", SCRIPT, micro.spec).spec is micro.spec
    assert explain("memrope", SCRIPT, block=1).spec.block == 1
    with pytest.raises(CompositionError, match="window"):
        explain(Strategy(Strategy.of("memrope").positions, Sink(4, 1), Keep()), SCRIPT, block=9)
    with pytest.raises(RolloutError, match="a picture shows 1000 at most"):
        explain("memrope", "a[400s]")


def test_a_trace_needs_no_torch() -> None:
    code = "import sys; from rollout import explain; explain('memrope', 'a[9s]')._repr_png_(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
