"""Rollouts of the released systems' code on a tiny random Wan model: ours must give the same latents.

The folder is tests/golden, or the one in ROLLOUT_GOLDEN; every run of its manifest is one test.
"""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rollout import Schedule, Script, Strategy, generate
from rollout.backends.wan.loading import load_transformer
from rollout.backends.wan.model import Wan
from rollout.backends.wan.weights import import_checkpoint
from rollout.facts import head_masses
from rollout.script import Shot
from rollout.slots import Block
from rollout.strategies import Absolute, Dummy, Keep
from rollout.strategies.presets import preset

GOLDEN = Path(os.environ.get("ROLLOUT_GOLDEN") or Path(__file__).parent / "golden")
MANIFEST: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())
TOLERANCE = 5e-5


class Golden(Wan):
    """The imported model, with the manifest's embeddings as prompts."""

    texts: dict[str, Tensor]

    def encode(self, prompt: str) -> Tensor:
        return self.texts[f"text.{prompt}"].double()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    model, latent = MANIFEST["model"], MANIFEST["latent"]
    config = {
        "_class_name": "WanTransformer3DModel",
        "patch_size": model["patch_size"],
        "num_attention_heads": model["num_heads"],
        "attention_head_dim": model["dim"] // model["num_heads"],
        "in_channels": model["in_dim"],
        "out_channels": model["out_dim"],
        "text_dim": model["text_dim"],
        "freq_dim": model["freq_dim"],
        "ffn_dim": model["ffn_dim"],
        "num_layers": model["num_layers"],
        "cross_attn_norm": model["cross_attn_norm"],
        "qk_norm": "rms_norm_across_heads",
        "eps": model["eps"],
        "rope_max_seq_len": 1024,
    }
    base = tmp_path_factory.mktemp("base")
    (base / "transformer").mkdir()
    (base / "transformer" / "config.json").write_text(json.dumps(config))
    to = tmp_path_factory.mktemp("golden") / "imported"
    import_checkpoint(GOLDEN / "weights.safetensors", base, to)
    transformer = load_transformer(to, device=torch.device("cpu"), dtype=torch.float32).double()
    found = Golden(transformer, height=8 * latent[1], width=8 * latent[2])
    assert list(found.spec.grid) == MANIFEST["grid"]
    assert list(found.spec.axes) == MANIFEST["rope"]["pairs_t_h_w"]
    found.texts = {k: v for k, v in load_file(GOLDEN / "inputs.safetensors").items() if k.startswith("text.")}
    return found


def schedule_of(run: dict[str, Any]) -> Schedule:
    """The run's own schedule, else the manifest's."""
    data = run.get("schedule") or MANIFEST["schedule"]
    first = data.get("first_block")
    return Schedule(
        tuple(step / 1000 for step in data["steps"]),
        data["shift"],
        warp=data.get("warp", True),
        first=None if first is None else schedule_of({"schedule": first}),
    )


def script_of(run: dict[str, Any], block_seconds: float) -> Script:
    """One shot a stretch of blocks under one prompt; a cut opens a shot."""
    shots: list[Shot] = []
    for n, prompt in enumerate(run["prompt_per_block"][: run["blocks"]]):
        cut = n in run["cut_at_blocks"]
        if shots and shots[-1].prompt == prompt and not cut:
            last = shots.pop()
            shots.append(Shot(prompt, (last.seconds or 0) + block_seconds, last.cut))
        else:
            shots.append(Shot(prompt, block_seconds, cut))
    return Script(tuple(shots))


@pytest.mark.parametrize("name", [name for name, run in MANIFEST["runs"].items() if run["strategy"]])
def test_golden(golden: Golden, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = MANIFEST["runs"][name]
    inputs = load_file(GOLDEN / "inputs.safetensors")
    size = run.get("frames_per_block", MANIFEST["frames_per_block"])
    monkeypatch.setattr(golden, "spec", replace(golden.spec, block=size))
    given = run.get("parameters", {}).get("prefix_frames", 0)
    prefix = inputs["image"][0, :given].double() if given else None
    noise = Drawn(inputs, given)
    script = script_of(run, golden.spec.block_seconds)
    assert script.count(golden.spec) == run["blocks"]
    strategy = Strategy.from_dict(run["strategy"])
    results = list(generate(golden, strategy, script, noise=noise, schedule=schedule_of(run), prefix=prefix))
    assert [r.prompts[0] for r in results[given // size :]] == list(run["prompt_per_block"][: run["blocks"]])
    latents = torch.cat([r.latents for r in results], 1)[0]
    expected = load_file(GOLDEN / f"{name}.safetensors")["latents"]
    assert latents.shape == expected.shape
    error = (latents - expected).abs().flatten(1).amax(1).view(-1, size).amax(1)
    assert error.max() <= TOLERANCE, f"by block: {[f'{e:.1e}' for e in error.tolist()]}"


@pytest.mark.skipif("dummy" not in MANIFEST["runs"], reason="the folder has no run of Dummy Forcing")
def test_heads_are_sorted_as_dummy_forcing_sorts_them(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released code looks at a random third of a frame's queries; with the same ones the lanes and latents are its own."""
    run, wanted = MANIFEST["runs"]["dummy"], load_file(GOLDEN / "dummy.safetensors")
    rows, layer = wanted["sampled_rows"].long(), itertools.count()

    def sampled(q: Tensor, keys: Tensor, tokens: int) -> Tensor:
        return head_masses(q[:, :, rows[next(layer) % len(rows)]], keys, tokens)

    monkeypatch.setattr("rollout.cache.head_masses", sampled)
    heads = run["parameters"]["heads"]
    strategy = Strategy(Absolute(), Dummy(run["parameters"]["dummies"] / heads), Keep())
    rollout = generate(
        golden,
        strategy,
        script_of(run, golden.spec.block_seconds),
        noise=Drawn(load_file(GOLDEN / "inputs.safetensors"), 0),
    )
    latents = torch.cat([result.latents for result in rollout], 1)[0]
    named = {"first": "first", "local": "mid", "dummy": "last"}
    for lane in rollout.engine.lanes:
        assert [list(part) for part in lane.heads] == [group[named[lane.name]] for group in run["groups"]]
    assert (latents - wanted["latents"]).abs().max() <= TOLERANCE


@pytest.mark.skipif("causvid_long" not in MANIFEST["runs"], reason="the folder has no run of CausVid")
def test_clips_go_on_as_causvids_do(golden: Golden) -> None:
    """Two clips; the frame that the released code takes through its VAE once more is put in its place."""
    run, wanted = MANIFEST["runs"]["causvid_long"], load_file(GOLDEN / "causvid_long.safetensors")
    inputs = load_file(GOLDEN / "inputs.safetensors")
    first, second = Drawn(inputs, 0), Drawn({"noise": inputs["noise2"], "renoise": inputs["renoise2"]}, 18)

    def noise(block: Block, step: int) -> Tensor:  # the second clip's first block is the overlap, frames 18 to 20
        return first(block, step) if block.start < 21 else second(block, step)

    rollout = generate(
        golden,
        preset("causvid"),
        script_of(run, golden.spec.block_seconds),
        noise=noise,
        schedule=schedule_of(run),
    )
    results = [next(rollout) for _ in range(7)]
    held = rollout.engine._latents
    for n, latents in enumerate(wanted["start_latents"]):
        held[18 + n] = latents[None, None].double()
    results += list(rollout)
    latents = torch.cat([result.latents for result in results], 1)[0]
    expected = torch.cat([wanted["latents"][:21], wanted["latents"][24:]])
    assert (latents - expected).abs().max() <= TOLERANCE


class Drawn:
    """The manifest's noise: frame f takes noise[0, f], and between step i and i + 1 renoise[f // 3, i, f % 3].

    Frames are counted from the first that is generated, after `given` frames of a prefix.
    """

    def __init__(self, inputs: dict[str, Tensor], given: int) -> None:
        self.given = given
        self.start = inputs["noise"].double()
        self.again = inputs["renoise"].double().transpose(1, 2).flatten(0, 1)

    def __call__(self, block: Block, step: int) -> Tensor:
        part = slice(block.start - self.given, block.end - self.given)
        return self.start[:, part] if step == 0 else self.again[part, step - 1].expand(len(self.start), -1, -1, -1, -1)
