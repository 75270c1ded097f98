"""The embedded model: grammar, world, trackers, codec, weights, and what the shipped weights reach."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout import load_backend
from rollout.backends import BACKENDS
from rollout.backends.sprites import WEIGHTS, weights_file
from rollout.backends.sprites.clips import frame_mask, sample_clip
from rollout.backends.sprites.codec import fit_codec
from rollout.backends.sprites.grammar import ACTIONS, COLOURS, MARKS, SHAPES, SLOTS, TOKENS, Caption, parse
from rollout.backends.sprites.model import ZERO, Shape, SpriteTransformer
from rollout.backends.sprites.trackers import track
from rollout.backends.sprites.truth import SpriteWorld
from rollout.backends.sprites.weights import FORMAT, Sprites, read_weights, save_weights
from rollout.backends.sprites.world import NIGHT, World, render, sample_world
from rollout.errors import BackendError, PromptError
from rollout.loop import generate
from rollout.run.prefix import true_latents
from rollout.strategy import Strategy
from rollout.world import Act, Seen, Truth
from tests.conftest import MICRO, micro_backend


def worlds(n: int, frames: int = 21, seed: int = 11) -> tuple[World, torch.Tensor]:
    world = sample_world(n, frames, torch.Generator().manual_seed(seed))
    return world, render(world, torch.arange(frames).expand(n, frames))


def caption(draw: st.DrawFn) -> Caption:
    return Caption(*(draw(st.one_of(st.none(), st.integers(0, len(words) - 1))) for words in SLOTS))


@given(st.composite(caption)())
def test_captions_round_trip(drawn: Caption) -> None:
    assert parse(str(drawn)) == drawn
    tokens = drawn.tokens()
    assert len(set(tokens)) == len(SLOTS)
    assert max(tokens) < TOKENS


def test_a_prompt_reads_as_a_person_means_it() -> None:
    assert parse("A red Circle walks right, on navy.") == Caption(0, 0, 0, 0)
    assert parse("the blue square jumps") == Caption(2, 1, 2, None)
    assert parse("at night a red circle walks right, mark far left") == Caption(0, 0, 0, None, 1, 0)
    assert parse("a red circle walks right, mark right") == Caption(0, 0, 0, mark=2)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a red cirle jumps", "does not know the word 'cirle'; the closest it knows is 'circle'.*colours red"),
        ("a red blue circle jumps", "names 2 colours"),
        ("a red circle jumps stands", "names 2 actions"),
        ("a red circle walks", "'walks'.*stands alone.*'walks right' or 'walks left'"),
        ("a red circle jumps navy", "on navy"),
        ("a red circle jumps by day at night", "names 2 lights"),
        ("a red circle jumps, mark left, mark far right", "names 2 marks"),
        ("a red circle jumps night", "'night'.*stands alone.*'at night'"),
        ("a red circle jumps mark", "'mark'.*stands alone"),
        ("a dog", "'dog'"),
    ],
)
def test_prompts_that_the_world_does_not_know(prompt: str, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        parse(prompt)


def test_trackers_refuse_what_is_not_there() -> None:
    _, video = worlds(8)
    empty = track(torch.full_like(video, 0.32))
    assert (empty.colour == -1).all()
    assert (empty.shape == -1).all()
    assert empty.tint.isnan().all()
    shuffled = video[:, torch.randperm(21, generator=torch.Generator().manual_seed(0))]
    right = track(video).action
    assert (track(shuffled).action == right).float().mean() < 0.5
    mixed = (video + video.flip(0)) / 2
    assert (track(mixed).action == right).float().mean() < 0.7


def test_the_trackers_follow_a_change_of_action() -> None:
    world, video = worlds(28)
    other = replace(world, action=(world.action + 1) % len(ACTIONS))
    both = torch.cat([video, render(other, torch.arange(21).expand(28, 21))], 1)
    seen = track(both).action
    assert (seen[:, :17] == world.action[:, None]).float().mean() > 0.98
    assert (seen[:, 25:] == other.action[:, None]).float().mean() > 0.95


def test_the_codec_is_exact_frame_by_frame_and_close_to_the_pixels() -> None:
    backend = load_backend("sprites")
    _, video = worlds(6)
    latents = backend.codec.encode(video)
    decoder, whole = backend.decoder(), backend.decoder().push(latents[0])
    parts = torch.cat([decoder.push(latents[0, i : i + n]) for i, n in ((0, 1), (1, 3), (4, 17))])
    assert torch.equal(whole, parts)
    error = (backend.codec.decode(latents) - video).square().mean()
    assert -10 * error.log10() > 31, "dB"


def test_a_prefix_of_true_blocks_is_what_the_prompt_says() -> None:
    backend = load_backend("sprites")
    latents = true_latents(backend, "a red circle walks right on navy", 3, seed=4)
    seen = track(backend.codec.decode(latents)[None])
    assert (seen.colour == 0).all()
    assert (seen.shape == 0).all()
    assert (seen.action == 0).all()
    assert (seen.background == 0).all()


def test_the_shipped_spec_is_the_models() -> None:
    assert BACKENDS["sprites"].spec() == load_backend("sprites").spec
    for name in WEIGHTS:
        assert weights_file(name).stat().st_size < 12 * 2**20


def frames_of(backend: Sprites, text: str, seeds: list[int], prompts: list[str]) -> list[torch.Tensor]:
    """Frames (F, 64, 64, 3) of scripts that begin with two true blocks of their first prompt, one a seed."""
    starts = torch.stack([true_latents(backend, prompt, 2, seed) for prompt, seed in zip(prompts, seeds, strict=True)])
    strategy = Strategy.from_text("absolute fifo:window=21+keep")
    run = generate(backend, strategy, [text.format(prompt) for prompt in prompts], seeds=seeds, prefix=starts)
    latents = torch.cat([result.latents for result in run], 1)
    return [backend.decoder().push(row) for row in latents]


@pytest.mark.parametrize("weights", [None, "plain"])
def test_the_shipped_weights_hold_what_they_claim(weights: str | None) -> None:
    """A small sample of the model card's figures, with room for its size; its suites give them in full."""
    backend = load_backend("sprites", model=weights)
    prompts = [f"a {c} {s} {a}" for c, s, a in zip(COLOURS, SHAPES * 2, ACTIONS, strict=False)]
    seeds = list(range(70, 76))
    script = "{0}[0.375s] | {0} at night[0.75s] | {0}[0.75s]"
    acts = [[Act(p, 9), Act(f"{p} at night", 6), Act(p, 6)] for p in prompts]
    wrong: dict[str, list[float]] = {name: [] for name in ("identity", "action", "scene", "tint", "position")}
    for video, act, seed in zip(frames_of(backend, script, seeds, prompts), acts, seeds, strict=True):
        world = backend.world
        truth, seen = world.truth(act, seed), world.track(video)

        def errors(name: str, truth: Truth = truth, seen: Seen = seen, world: SpriteWorld = world) -> torch.Tensor:
            error = world.error(name, seen, truth.values[name]).float()
            return error[6:][truth.visible[name][6:] & ~error[6:].isnan()]

        wrong["identity"] += [*errors("colour"), *errors("shape")]
        wrong["action"] += [*errors("action")]
        wrong["scene"] += [*errors("background"), *errors("ground"), *errors("place")]
        wrong["tint"] += [*errors("tint")]
        wrong["position"] += [*errors("position")]
    for name, most in {"identity": 0.03, "action": 0.1, "scene": 0.1, "tint": 0.1, "position": 1.5}.items():
        assert sum(wrong[name]) / len(wrong[name]) <= most, name


def test_weights_round_trip(tmp_path: Path) -> None:
    backend = micro_backend(torch.float32)
    path = tmp_path / "w.safetensors"
    save_weights(path, MICRO, backend.model.state_dict(), backend.codec)
    again = load_backend("sprites", model=path)
    assert again.spec.latent == (6, 2, 2)
    assert len(again.digest) == 16
    for a, b in zip(backend.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("shape", [Shape(), MICRO])
def test_the_parameters_of_a_model_are_known_from_its_sizes(shape: Shape) -> None:
    assert shape.parameters == sum(p.numel() for p in SpriteTransformer(shape).parameters())


def test_a_model_made_ready_for_inference_answers_as_it_was_trained() -> None:
    fused, plain = load_backend("sprites").model, read_weights(weights_file())[0].requires_grad_(False)
    state = plain.state_dict()
    assert all(torch.equal(p, state[name]) for name, p in fused.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 112, 4, 4, generator=generator)
    t = torch.full((2, 3), 750.0)
    words = torch.tensor([parse(prompt).tokens() for prompt in ("a red circle jumps", "a blue square stands")])
    for text in (words[:, None], words[:, None].repeat(1, 3, 1)):  # a prompt a video, and one a frame
        flows = [model(x, t, model.texts(model.encode(text)), lambda _, q, k, v: q * k + v) for model in (fused, plain)]
        torch.testing.assert_close(*flows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_model_cuts_off_before_its_gelu_is_zero_after_it(dtype: torch.dtype) -> None:
    low = torch.linspace(-200, ZERO, 10_000, dtype=dtype)
    assert (torch.nn.functional.gelu(low, approximate="tanh") == 0).all()


def test_a_flow_has_a_gradient_where_gradients_are_on_and_may_enter_one_elsewhere(micro: Sprites) -> None:
    x = torch.zeros(1, 3, 6, 2, 2, dtype=torch.float64, requires_grad=True)

    def flow() -> torch.Tensor:
        return micro.denoise(x, 500.0, micro.encode("a red circle jumps"), lambda _, q, k, v: q + k + v)

    (gradient,) = torch.autograd.grad(flow().sum(), x)
    assert gradient.abs().min() > 0
    with torch.no_grad():
        target = flow()
    torch.autograd.grad((x * target).sum(), x)


def test_bad_weights(tmp_path: Path) -> None:
    whole = weights_file().read_bytes()
    cases = {
        "missing": (None, "not a file"),
        "truncated": (whole[: len(whole) // 2], "cannot be read as safetensors"),
        "magic": (b"PK\x03\x04" + whole[4:], "cannot be read as safetensors"),
        "empty": (b"", "cannot be read as safetensors"),
    }
    for name, (data, says) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(BackendError, match=says):
            load_backend("sprites", model=path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BackendError, match="another model"):
        load_backend("sprites", model=tmp_path / "other.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "part.safetensors", metadata={"format": FORMAT, "shape": "{}"})
    with pytest.raises(BackendError, match="whole sprite model"):
        load_backend("sprites", model=tmp_path / "part.safetensors")
    with pytest.raises(BackendError, match="device 'cuda:77' is not there"):
        load_backend("sprites", device="cuda:77")
    with pytest.raises(BackendError, match="device 'toaster'"):
        load_backend("sprites", device="toaster")


def test_the_teacher_forcing_mask() -> None:
    mask = frame_mask(9, 1, 2)
    clean, noisy = 9, 9
    assert mask.shape == (18, 18)
    assert not mask[:clean, clean:].any(), "clean frames never see noise"
    assert mask[6, :9].tolist() == [True, False, False, False, True, True, True, True, True]
    assert mask[noisy + 6, :9].tolist() == [True, False, False, False, True, True, False, False, False]
    assert mask[noisy + 6, 9:].tolist() == [False] * 6 + [True] * 3


@given(st.integers(0, 10_000), st.booleans())
def test_training_clips_never_leave_the_horizon(seed: int, plain: bool) -> None:
    clip = sample_clip(torch.Generator().manual_seed(seed), plain=plain)
    batch, frames = clip.time.shape
    assert frames % 3 == 0
    assert min(clip.positions) >= 0
    assert max(clip.positions) <= 20
    assert clip.tokens.shape == (batch, frames, len(SLOTS))
    assert (clip.time[:, 1:] > clip.time[:, :-1]).all()
    skipped = clip.time[:, -1] - (clip.positions[-1] - clip.positions[0])
    assert (skipped >= 0).all()
    if (skipped > 0).any():
        assert not clip.learn.all(), "a jump that positions hide carries no loss"
    subject = clip.tokens[:, :, :3]
    assert (subject == subject[:, :1]).all(), "subject and action are constant within a clip"
    if plain:
        assert clip.learn.all(), "no hidden jump"
        assert torch.equal(clip.visible, frame_mask(frames, 0, frames)), "no small window"


@given(st.integers(0, 10_000))
def test_training_prompts_never_deny_what_is_there(seed: int) -> None:
    """Light is constant within a block, night is always named, and a named landmark stands in its column."""
    clip = sample_clip(torch.Generator().manual_seed(seed))
    world, starts = clip.world, [sum(1 + len(words) for words in SLOTS[:n]) for n in range(len(SLOTS))]
    light, column = clip.tokens[..., 4] - starts[4] - 1, clip.tokens[..., 5] - starts[5] - 1
    assert torch.equal(light == NIGHT, world.light == NIGHT)
    blocks = world.light.unflatten(1, (-1, 3))
    assert (blocks == blocks[..., :1]).all()
    assert ((column < 0) | (column == world.place % len(MARKS))).all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch says that rms_norm of bfloat16 is not fused
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch >= 2.9")
def test_training_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.backends.sprites import train

    monkeypatch.setattr(train, "fit_codec", partial(fit_codec, clips=100))  # of 1600, which take 10 s
    few = {"threads": 1, "procs": 1, "frames": 6, "channels": 8, "log": 1, "save": 1, "device": "cpu"}
    options = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), *options, "--steps", steps])
        train.main()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert {"loss", "ms"} <= rows[-1].keys()
    assert load_backend("sprites", model=tmp_path / "weights.safetensors").spec.latent == (8, 4, 4)


def test_codec_scales_channels_to_a_power_of_their_spread() -> None:
    codec = fit_codec(16, clips=200)
    _, video = worlds(40)
    spread = codec.encode(video).std((0, 1, 3, 4))
    assert spread[0] > spread[-1]
    torch.testing.assert_close(codec.basis.T @ codec.basis, torch.eye(16), rtol=0, atol=1e-5)
