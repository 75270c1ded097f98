"""Rollouts of the released systems' code on a tiny random Wan model: ours must give the same latents.

The folder is tests/golden, or the one in ROLLOUT_GOLDEN; every run of its manifest is one test.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rollout import Schedule, Script, Strategy, generate
from rollout.backends.wan.model import Wan, load_transformer
from rollout.backends.wan.weights import import_checkpoint
from rollout.script import Shot
from rollout.slots import Block

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


@pytest.mark.parametrize("name", MANIFEST["runs"])
def test_golden(golden: Golden, name: str) -> None:
    run = MANIFEST["runs"][name]
    inputs = load_file(GOLDEN / "inputs.safetensors")
    batch = MANIFEST["batch"]

    def noise(block: Block, step: int) -> Tensor:
        if step == 0:
            return inputs["noise"][:, block.start : block.end].double()
        return inputs["renoise"][block.index, step - 1].expand(batch, -1, -1, -1, -1).double()

    schedule = Schedule(tuple(s / 1000 for s in MANIFEST["schedule"]["steps"]), MANIFEST["schedule"]["shift"])
    script = script_of(run, golden.spec.block * golden.spec.stride / golden.spec.fps)
    assert script.count(golden.spec) == run["blocks"]
    strategy = Strategy.from_dict(run["strategy"])
    results = list(generate(golden, strategy, script, noise=noise, schedule=schedule))
    assert [r.prompts[0] for r in results] == list(run["prompt_per_block"][: run["blocks"]])
    found = torch.cat([r.latents for r in results], 1)[0]
    expected = load_file(GOLDEN / f"{name}.safetensors")["latents"]
    assert found.shape == expected.shape
    error = (found - expected).abs().flatten(1).amax(1).view(-1, golden.spec.block).amax(1)
    assert error.max() <= TOLERANCE, f"by block: {[f'{e:.1e}' for e in error.tolist()]}"
