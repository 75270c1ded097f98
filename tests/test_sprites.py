"""The embedded model: grammar, world, trackers, codec, weights, and what the shipped weights reach."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout import load_backend
from rollout.backends import BACKENDS
from rollout.backends.sprites import WEIGHTS
from rollout.backends.sprites.clips import frame_mask, sample_clip
from rollout.backends.sprites.codec import fit_codec
from rollout.backends.sprites.evaluate import accuracy, matches
from rollout.backends.sprites.grammar import ACTIONS, BACKGROUNDS, COLOURS, SHAPES, TOKENS, Caption, parse
from rollout.backends.sprites.trackers import track
from rollout.backends.sprites.weights import save_weights
from rollout.backends.sprites.world import World, render, sample_world
from rollout.errors import BackendError, PromptError
from tests.conftest import MICRO, micro_backend


def worlds(n: int, frames: int = 21, seed: int = 11) -> tuple[World, torch.Tensor]:
    world = sample_world(n, frames, torch.Generator().manual_seed(seed))
    return world, render(world, torch.arange(frames).expand(n, frames))


def caption(draw: st.DrawFn) -> Caption:
    return Caption(
        *(draw(st.one_of(st.none(), st.integers(0, len(w) - 1))) for w in (COLOURS, SHAPES, ACTIONS, BACKGROUNDS))
    )


@given(st.composite(caption)())
def test_captions_round_trip(found: Caption) -> None:
    assert parse(str(found)) == found
    tokens = found.tokens()
    assert len(set(tokens)) == 4
    assert max(tokens) < TOKENS


def test_a_prompt_reads_as_a_person_means_it() -> None:
    assert parse("A red Circle walks right, on navy.") == Caption(0, 0, 0, 0)
    assert parse("the blue square jumps") == Caption(2, 1, 2, None)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a red cirle jumps", "does not know the word 'cirle'; the closest it knows is 'circle'.*colours red"),
        ("a red blue circle jumps", "names 2 colours"),
        ("a red circle jumps stands", "names 2 actions"),
        ("a red circle walks", "'walks'.*stands alone.*'walks right' or 'walks left'"),
        ("a red circle jumps navy", "on navy"),
        ("a dog", "'dog'"),
    ],
)
def test_prompts_that_the_world_does_not_know(prompt: str, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        parse(prompt)


def test_trackers_read_true_videos() -> None:
    world, video = worlds(84)
    found = matches(world, track(video))
    for name, least in {
        "colour": 1.0,
        "shape": 0.99,
        "action": 0.99,
        "background": 1.0,
        "ground": 1.0,
        "landmark": 0.95,
    }.items():
        assert found[name].float().mean() >= least, name
    assert found["position"].mean() < 0.2


def test_trackers_refuse_what_is_not_there() -> None:
    _, video = worlds(8)
    empty = track(torch.full_like(video, 0.4))
    assert (empty.colour == -1).all()
    assert (empty.shape == -1).all()
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


def test_the_world_is_what_the_prompt_says() -> None:
    backend = load_backend("sprites")
    latents = backend.truth("a red circle walks right on navy", 3, seed=4)
    seen = track(backend.codec.decode(latents)[None])
    assert (seen.colour == 0).all()
    assert (seen.shape == 0).all()
    assert (seen.action == 0).all()
    assert (seen.background == 0).all()


def test_the_shipped_spec_is_the_models() -> None:
    assert BACKENDS["sprites"].spec() == load_backend("sprites").spec
    assert WEIGHTS.stat().st_size < 12 * 2**20


def test_the_shipped_weights_hold_what_they_claim() -> None:
    """A small sample of the model card's figures, with room for its size; the card's own command gives them in full."""
    backend = load_backend("sprites")
    text = accuracy(backend, n=21, prefix=0, seed=77)
    start = accuracy(backend, n=21, prefix=2, seed=77)
    assert text["colour"] >= 0.95
    assert text["shape"] >= 0.9
    assert text["action"] >= 0.8
    assert start["colour"] >= 0.97
    assert start["shape"] >= 0.95
    assert start["action"] >= 0.95
    assert start["position"] < 0.5


def test_weights_round_trip(tmp_path: Path) -> None:
    backend = micro_backend(torch.float32)
    path = tmp_path / "w.safetensors"
    save_weights(path, MICRO, backend.model.state_dict(), backend.codec)
    again = load_backend("sprites", model=path)
    assert again.spec.latent == (6, 2, 2)
    assert len(again.digest) == 16
    for a, b in zip(backend.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.01, atol=0.01)


def test_bad_weights(tmp_path: Path) -> None:
    whole = WEIGHTS.read_bytes()
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
    save_file(
        {"x": torch.zeros(1)}, tmp_path / "part.safetensors", metadata={"format": "rollout-sprites-1", "shape": "{}"}
    )
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


@given(st.integers(0, 10_000))
def test_training_clips_never_leave_the_horizon(seed: int) -> None:
    clip = sample_clip(torch.Generator().manual_seed(seed))
    batch, frames = clip.time.shape
    assert frames % 3 == 0
    assert min(clip.positions) >= 0
    assert max(clip.positions) <= 20
    assert clip.tokens.shape == (batch, frames, 4)
    assert (clip.time[:, 1:] > clip.time[:, :-1]).all()
    skipped = clip.time[:, -1] - (clip.positions[-1] - clip.positions[0])
    assert (skipped >= 0).all()
    if (skipped > 0).any():
        assert not clip.learn.all(), "a jump that positions hide carries no loss"
    subject = clip.tokens[:, :, :3]
    assert (subject == subject[:, :1]).all(), "subject and action are constant within a clip"


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch >= 2.9")
def test_training_runs_and_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "rollout.backends.sprites.train", "--out", str(tmp_path)]
    command += [
        "--threads",
        "1",
        "--procs",
        "1",
        "--frames",
        "6",
        "--channels",
        "8",
        "--log",
        "1",
        "--save",
        "1",
        "--score-clips",
        "2",
        "--device",
        "cpu",
    ]
    for steps in ("1", "2"):
        subprocess.run([*command, "--steps", steps], check=True, capture_output=True, timeout=200)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert {"text", "prefix", "loss"} <= rows[-1].keys()
    assert load_backend("sprites", model=tmp_path / "weights.safetensors").spec.latent == (8, 4, 4)


def test_codec_scales_channels_to_a_power_of_their_spread() -> None:
    codec = fit_codec(16, clips=40)
    _, video = worlds(40)
    spread = codec.encode(video).std((0, 1, 3, 4))
    assert spread[0] > spread[-1]
    torch.testing.assert_close(codec.basis.T @ codec.basis, torch.eye(16), rtol=0, atol=1e-5)
