"""Wan 2.1 through diffusers, on a tiny random folder: hooks, streams, import, text, and the whole command."""

import copy
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout import Schedule, Strategy, generate, load_backend, preset
from rollout.backends.wan import weights
from rollout.backends.wan.checkpoint import read_checkpoint
from rollout.backends.wan.folder import INDEX, describe
from rollout.backends.wan.hooks import ExactTimesteps, hooked
from rollout.backends.wan.loading import load_transformer
from rollout.backends.wan.model import Wan
from rollout.backends.wan.text import TextEncoder, clean
from rollout.backends.wan.vae import WanDecoder, encode_frames, for_cudnn, unscale
from rollout.backends.wan.weights import import_checkpoint
from rollout.cache import KVCache
from rollout.errors import BackendError, OutputError
from rollout.run.prefix import read_prefix
from rollout.run.video import VideoWriter, read_video
from rollout.slots import Block, Role, Slot, View
from rollout.strategies import Flush, Online, Relativistic, Sink
from rollout.strategies.presets import PRESETS

KINDS = (
    "self-forcing",
    "longlive",
    "infinity-rope",
    "memrope",
    "deep-forcing",
    "deep-forcing-released",
    "rolling-forcing",
    "reward-forcing",
    "rolling-sink",
    "dummy-forcing",
    "causal-forcing",
    "causvid",
    "lol",
)
"""A preset of every kind of rule."""
PLAIN = ("self-forcing", "deep-forcing-released", "causal-forcing")
"""Those of them that compute nothing that no other one does."""

TINY = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "cross_attn_norm": True,
}


def transformer(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    model = WanTransformer3DModel(**TINY)
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.1) + (p.ndim == 1) * p.data
    return model.to(dtype).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Wan folder with random weights: transformer, VAE, UMT5, tokenizer."""
    path = tmp_path_factory.mktemp("wan") / "tiny"
    transformer().save_pretrained(path / "transformer")
    small_parts(path)
    return path


def small_parts(path: Path) -> None:
    """A small VAE, text encoder and tokenizer with random weights into a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(1)
    AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(path / "vae")
    UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        path / "text_encoder"
    )
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "walks", "jumps"]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path / "tokenizer")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Worded(Wan):
    """A Wan without a text encoder: a prompt's embedding is drawn from its text."""

    def encode(self, prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(len(prompt) + 7 * ord(prompt[0]))
        return torch.randn(1, 6, 32, generator=generator).to(self.dtype)


def worded(height: int = 32, width: int = 48, dtype: torch.dtype = torch.float32, seed: int = 0) -> Worded:
    return Worded(transformer(seed, dtype), height=height, width=width)


def latents(run: Any) -> Tensor:
    return torch.cat([r.latents for r in run], 1)


class Masked(WanAttnProcessor):
    """The stock processor with a self-attention mask, which the stock forward does not pass on."""

    mask: Tensor

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        mask = self.mask if encoder_hidden_states is None else None
        return super().__call__(attn, hidden_states, encoder_hidden_states, mask, rotary_emb)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 80), (48, 48)])
def test_cached_blocks_equal_the_stock_models_masked_forward(height: int, width: int) -> None:
    """Block by block against a cache = one block-causal pass of the untouched model: batch 2, a timestep a frame."""
    generator = torch.Generator().manual_seed(0)
    frames, batch = 9, 2
    x = torch.randn(batch, frames, 16, height // 8, width // 8, generator=generator)
    t = torch.rand(batch, frames, generator=generator) * 1000
    prompt = torch.randn(batch, 6, 32, generator=generator)
    model = transformer()
    tokens = height // 16 * width // 16
    model.condition_embedder.timesteps_proj = ExactTimesteps(32)
    block = torch.arange(frames).div(3, rounding_mode="floor").repeat_interleave(tokens)
    Masked.mask = (block[None] <= block[:, None])[None, None]
    model.set_attn_processor(Masked())
    whole = model(x.transpose(1, 2), t.repeat_interleave(tokens, 1), prompt, return_dict=False)[0].transpose(1, 2)

    wan = Worded(transformer(), height=height, width=width)
    cache = KVCache(wan.spec, frames, batch)
    for start in range(0, frames, 3):
        place = View(tuple(range(start)), tuple(range(start, start + 3)))
        part = wan.denoise(x[:, start : start + 3], t[:, start : start + 3], prompt, cache.writer(place))
        cache.commit([Slot(Role.RECENT, start + i, start // 3) for i in range(3)])
        error = (part - whole[:, start : start + 3]).abs().max() / whole.abs().max()
        assert error < 1e-6, f"block at {start}: {error:.1e}"


def test_the_model_leaves_as_it_came_also_after_an_exception() -> None:
    model = transformer()
    x, t, prompt = torch.randn(1, 16, 3, 4, 6), torch.tensor([500.0]), torch.randn(1, 6, 32)
    before = model(x, t, prompt, return_dict=False)[0]
    parts = (model.rope, model.condition_embedder.timesteps_proj, *model.attn_processors.values())
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def interrupted() -> None:
        with hooked(model):
            assert model.rope is not parts[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert all(
        a is b
        for a, b in zip(
            parts, (model.rope, model.condition_embedder.timesteps_proj, *model.attn_processors.values()), strict=True
        )
    )
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x, t, prompt, return_dict=False)[0], before)
    wan = Worded(model, height=32, width=48)
    next(generate(wan, preset("self-forcing"), "a cat[0.75s]"))
    with pytest.raises(RuntimeError, match="outside a denoise pass"):
        model(x, t, prompt)
    wan.close()
    assert torch.equal(model(x, t, prompt, return_dict=False)[0], before)


def test_the_hook_points_are_there() -> None:
    """What backends/wan/hooks.py replaces, in this release of diffusers."""
    model = transformer()
    assert {n.split(".")[-2] for n in model.attn_processors} == {"attn1", "attn2"}
    assert list(model.condition_embedder.timesteps_proj.parameters()) == []
    exact, stock = ExactTimesteps(32), model.condition_embedder.timesteps_proj
    t = torch.tensor([0.0, 625.0, 1000.0])
    torch.testing.assert_close(exact(t).float(), stock(t), rtol=0, atol=2e-4)
    assert exact(t).dtype is torch.float64


def test_fused_projections_and_lora_go_through_the_hooks() -> None:
    script = "a cat[1.5s]"
    plain = latents(generate(worded(), preset("infinity-rope"), script))
    fused = worded()
    for block in fused.transformer.blocks:
        block.attn1.fuse_projections()
        block.attn2.fuse_projections()
    torch.testing.assert_close(latents(generate(fused, preset("infinity-rope"), script)), plain, rtol=1e-4, atol=1e-4)

    peft = pytest.importorskip("peft")
    tuned = worded()
    tuned.transformer.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    moved = latents(generate(tuned, preset("infinity-rope"), script))
    assert (moved - plain).abs().max() > 1e-2


@pytest.mark.parametrize("positions", [Relativistic(), Online()])
def test_a_million_frames_on_nothing_changes(positions: Any) -> None:
    wan = worded()
    generator = torch.Generator().manual_seed(5)
    x, past = (torch.randn(1, 3, 16, 4, 6, generator=generator) for _ in range(2))
    prompt = wan.encode("a")
    found = []
    for start in (3, 999_999):
        cache = KVCache(wan.spec, 6)
        slots = [Slot(Role.RECENT, start - 3 + i, start // 3 - 1) for i in range(3)]
        wan.denoise(past, 0.0, prompt, cache.writer(View((), (0, 1, 2))))
        cache.commit(slots)
        place = positions.place(cache.slots, Block(start // 3, start, 3), 6)
        found.append(wan.denoise(x, 625.0, prompt, cache.reader(place)))
        absolute = View(tuple(s.frame for s in slots), (start, start + 1, start + 2))
        found.append(wan.denoise(x, 625.0, prompt, cache.reader(absolute)))
    for other in found[1:]:
        assert (other - found[0]).abs().max() / found[0].abs().max() < 1e-6 * (20 if other is found[3] else 1)


def test_after_an_early_flush_no_zero_frames_are_attended() -> None:
    """The released code keeps the last two slots of a buffer that holds one block, here zeros; ours keeps real frames."""
    strategy = Strategy(Relativistic(), Sink(12, 3), Flush(2))
    results = list(generate(worded(), strategy, "a cat[0.75s] | b dog[0.75s]"))
    assert [(s.role.value, s.frame) for s in results[1].slots] == [("sink", 0), ("sink", 1), ("sink", 2)]
    assert results[1].placement.slots == (0, 1, 2)
    wide = list(generate(worded(), Strategy(Relativistic(), Sink(6, 1), Flush(2)), "a cat[0.75s] | b dog[0.75s]"))
    assert [s.frame for s in wide[1].slots] == [0, 1, 2]


def test_after_a_flush_queries_sit_with_their_own_keys_whatever_the_window() -> None:
    """The released code leaves queries at the window's end and writes keys behind the kept ones; ours share one index."""
    strategy = Strategy(Relativistic(), Sink(12, 1), Flush(2))
    results = list(generate(worded(), strategy, "a cat[5.25s] | b dog[1.5s]"))
    after = next(r for r in results if r.block.switch)
    assert after.placement.block == (9, 10, 11)
    assert after.placement.slots == (0, 7, 8)


def test_a_batch_equals_its_rows_on_wan() -> None:
    scripts = ["a cat[1.5s] | b dog[1.5s]", "c bird[1.5s] | d fish[1.5s]"]
    for name in ("infinity-rope", "memrope-released", "longlive"):
        both = latents(generate(worded(), preset(name), scripts, seeds=[1, 2]))
        for row, script in enumerate(scripts):
            one = latents(generate(worded(), preset(name), script, seeds=row + 1))
            torch.testing.assert_close(both[row : row + 1], one, rtol=0, atol=2e-5 * float(one.abs().max()))


def test_the_sampler_is_diffusers_stochastic_euler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0, stochastic_sampling=True)
    sigmas = torch.tensor([1.0, 0.75, 0.5, 0.25])
    scheduler.set_timesteps(sigmas=sigmas.numpy())
    torch.testing.assert_close(scheduler.sigmas[:-1], torch.tensor(Schedule().sigmas))
    noises = torch.randn(4, 1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))

    class Model:
        def denoise(self, x: Tensor, t: float, prompt: Tensor, attend: object) -> Tensor:
            return torch.sin(3 * x) + t / 1000

    schedule, ours = Schedule(), noises[0]
    for level, (t, _) in enumerate(schedule.levels):
        flow = Model().denoise(ours, t, torch.zeros(1), None)
        ours = schedule.step(ours, flow, level, lambda after: noises[after])
    x = noises[0]
    for i, t in enumerate(scheduler.timesteps):
        flow = Model().denoise(x, float(t), torch.zeros(1), None)
        torch.manual_seed(0)  # the scheduler draws its own noise: take ours for the comparison
        drawn = torch.randn_like(x)
        torch.manual_seed(0)
        x = scheduler.step(flow, t, x).prev_sample
        after = scheduler.sigmas[i + 1]
        if i < 3:
            x = x - after * drawn + after * noises[i + 1]
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def vae(folder: Path) -> Any:
    return AutoencoderKLWan.from_pretrained(folder / "vae").eval()


@torch.no_grad()
def test_streaming_decode_equals_the_whole_decode_also_interleaved(vae: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    streams = [torch.randn(9, 16, 4, 6, generator=generator) for _ in range(2)]
    whole = []
    for z in streams:
        video = vae.decode(unscale(vae, z).transpose(0, 1)[None]).sample[0]
        whole.append(((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0))
    decoders = [WanDecoder(vae), WanDecoder(vae)]
    parts: list[list[Tensor]] = [[], []]
    for start in (0, 3, 6):
        for n in (0, 1):
            parts[n].append(decoders[n].push(streams[n][start : start + 3]))
    for n in (0, 1):
        assert [len(p) for p in parts[n]] == [9, 12, 12]
        assert torch.equal(torch.cat(parts[n]), whole[n])


@torch.no_grad()
def test_a_vae_laid_out_for_cudnn_decodes_the_same(vae: Any) -> None:
    torch.manual_seed(3)
    latents = torch.randn(3, 16, 4, 6)
    frames = WanDecoder(vae).push(latents)
    other = copy.deepcopy(vae)
    for_cudnn(other)
    convolutions = [m for m in other.modules() if isinstance(m, torch.nn.Conv3d) and m.in_channels > 1]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in convolutions)
    assert (WanDecoder(other).push(latents).int() - frames.int()).abs().max() <= 1


def test_a_decoders_state_can_be_saved_and_gone_back_to(vae: Any) -> None:
    z = torch.randn(9, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    decoder = WanDecoder(vae)
    decoder.push(z[:3])
    state = decoder.state()
    once = decoder.push(z[3:6])
    decoder.push(z[6:])
    other = WanDecoder(vae)
    other.restore(state)
    assert torch.equal(other.push(z[3:6]), once)


def test_a_video_becomes_latents_of_its_length(vae: Any) -> None:
    frames = torch.randint(0, 255, (21, 32, 48, 3), dtype=torch.uint8)
    assert encode_frames(vae, frames).shape == (6, 16, 4, 6)


def test_text_is_padded_with_zeros_cleaned_and_cached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clean("  a&amp;amp;b   c\n d ") == "a&b c d"
    encoder = TextEncoder(folder, device=torch.device("cpu"), dtype=torch.float32)
    embedding = encoder.encode("a cat walks")
    assert embedding.shape == (1, 512, 32)
    assert (embedding[0, :3].abs().amax(-1) > 0).all()
    assert (embedding[0, 3:] == 0).all()
    encoder.free()
    again = TextEncoder(folder, device=torch.device("cpu"), dtype=torch.float32)
    monkeypatch.setattr(TextEncoder, "_load", lambda self: pytest.fail("the encoder was loaded for a cached prompt"))
    assert torch.equal(again.encode("a  cat walks "), embedding)
    stored = next((tmp_path / "cache").rglob("*.safetensors"))
    monkeypatch.undo()
    stored.write_bytes(b"broken")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert torch.equal(
        TextEncoder(folder, device=torch.device("cpu"), dtype=torch.float32).encode("a cat walks"), embedding
    )


def original_names(model: Any) -> dict[str, Tensor]:
    """A diffusers state dict under the original Wan names (the inverse of the mapping, found by running it)."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    stems = [
        "patch_embedding",
        "text_embedding.0",
        "text_embedding.2",
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "head.head",
    ]
    for i in range(2):
        stems += [
            f"blocks.{i}.{a}.{p}" for a in ("self_attn", "cross_attn") for p in ("q", "k", "v", "o", "norm_q", "norm_k")
        ]
        stems += [f"blocks.{i}.{p}" for p in ("norm3", "ffn.0", "ffn.2")]
    names = (
        [f"{s}.{p}" for s in stems for p in ("weight", "bias")]
        + [f"blocks.{i}.modulation" for i in range(2)]
        + ["head.modulation"]
    )
    mapping = convert_wan_transformer_to_diffusers({n: n for n in names})
    state = model.state_dict()
    assert state.keys() <= mapping.keys()
    return {mapping[name]: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("kind", ["pt", "fsdp", "safetensors", "diffusers"])
def test_import_reads_every_form_of_a_checkpoint(kind: str, folder: Path, tmp_path: Path) -> None:
    tuned = transformer(seed=9)
    plain = original_names(tuned)
    path = tmp_path / ("w.safetensors" if kind in ("safetensors", "diffusers") else "w.pt")
    if kind == "safetensors":
        save_file(plain, path)
    elif kind == "diffusers":
        save_file({k: v.clone() for k, v in tuned.state_dict().items()}, path)
    else:
        prefix = "model." if kind == "pt" else "model._fsdp_wrapped_module."
        ema = {prefix + k: v for k, v in plain.items()}
        torch.save({"generator_ema": ema, "generator": {k: v * 0 for k, v in ema.items()}}, path)
    found = import_checkpoint(path, folder, tmp_path / "to")
    assert found["parts"] == ["vae", "text_encoder", "tokenizer"]
    assert describe(tmp_path / "to") == found
    model = load_transformer(tmp_path / "to", device=torch.device("cpu"), dtype=torch.float32)
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    if kind == "pt":
        import_checkpoint(path, folder, tmp_path / "raw", raw=True)
        raw = load_transformer(tmp_path / "raw", device=torch.device("cpu"), dtype=torch.float32)
        assert all((p == 0).all() for p in raw.parameters())


def test_a_large_checkpoint_is_written_in_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = transformer(seed=9)
    save_file(original_names(tuned), tmp_path / "w.safetensors")
    plain = import_checkpoint(tmp_path / "w.safetensors", folder, tmp_path / "one")
    monkeypatch.setattr(weights, "SHARD", 20_000)
    sharded = import_checkpoint(tmp_path / "w.safetensors", folder, tmp_path / "to")
    files = list((tmp_path / "to" / "transformer").glob("*-of-*.safetensors"))
    assert len(files) > 2
    assert sharded == plain
    model = load_transformer(tmp_path / "to", device=torch.device("cpu"), dtype=torch.float32)
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    index = tmp_path / "to" / "transformer" / INDEX
    for name in ("../w.safetensors", str(tmp_path / "w.safetensors"), "w.bin"):
        index.write_text(json.dumps({"weight_map": {"proj_out.weight": name}}))
        with pytest.raises(BackendError, match="no safetensors file beside it"):
            load_transformer(tmp_path / "to", device=torch.device("cpu"), dtype=torch.float32)
    index.write_text("[]")
    with pytest.raises(BackendError, match="cannot be read"):
        describe(tmp_path / "to")


def test_import_merges_a_lora(folder: Path, tmp_path: Path) -> None:
    base = original_names(transformer())
    save_file(base, tmp_path / "w.safetensors")
    name = "blocks.0.self_attn.q"
    down, up = torch.randn(2, 48), torch.randn(48, 2)
    torch.save(
        {
            "generator_lora": {
                f"base_model.model.{name}.lora_A.weight": down,
                f"base_model.model.{name}.lora_B.weight": up,
            }
        },
        tmp_path / "lora.pt",
    )
    import_checkpoint(tmp_path / "w.safetensors", folder, tmp_path / "to", lora=tmp_path / "lora.pt", alpha=4.0)
    found = load_file(tmp_path / "to" / "transformer" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(found["blocks.0.attn1.to_q.weight"], base[f"{name}.weight"] + 2.0 * up @ down)
    save_file({"blocks.7.x.lora_A.weight": down}, tmp_path / "other.safetensors")
    with pytest.raises(BackendError, match="none of its 1 modules is in the model"):
        import_checkpoint(tmp_path / "w.safetensors", folder, tmp_path / "no", lora=tmp_path / "other.safetensors")
    assert not (tmp_path / "no").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/rollout-was-here",)


def test_bad_checkpoints(folder: Path, tmp_path: Path) -> None:
    good = original_names(transformer())
    cases: list[tuple[str, str]] = []

    def case(name: str, says: str, tensors: Any = None, data: bytes | None = None) -> None:
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        elif name.endswith("safetensors"):
            save_file(tensors, path)
        elif tensors is not None:
            torch.save(tensors, path)
        cases.append((name, says))

    case("missing.pt", "is not a file")
    torch.save({"generator_ema": good}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    case("truncated.pt", "is cut off", data=whole[: len(whole) // 2])
    case("evil.pt", "is a Python pickle", data=pickle.dumps({"generator_ema": Evil()}))
    case(
        "evil-zip.pt",
        "needs pickled code .posix.system., and rollout runs no pickled code",
        tensors={"generator": Evil()},
    )
    case("list.pt", "no mapping of names", tensors=[1, 2])
    case("other.safetensors", "lacks .* has unexpected", tensors={"conv.weight": torch.zeros(1)})
    case(
        "lacks.safetensors",
        "lacks 1 tensors .blocks.1.attn1.to_q.weight",
        tensors={k: v for k, v in good.items() if k != "blocks.1.self_attn.q.weight"},
    )
    case(
        "shape.safetensors",
        "blocks.0.self_attn.q.weight has the shape",
        tensors={**good, "blocks.0.self_attn.q.weight": torch.zeros(3, 3)},
    )
    for name, says in cases:
        with pytest.raises(BackendError, match=says) as caught:
            import_checkpoint(tmp_path / name, folder, tmp_path / "to")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "to").exists()
    assert not Path("/tmp/rollout-was-here").exists()
    with pytest.raises(BackendError, match="no Wan folder"):
        import_checkpoint(tmp_path / "whole.pt", tmp_path, tmp_path / "to")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        import_checkpoint(tmp_path / "whole.pt", folder, tmp_path / "full")
    assert read_checkpoint(tmp_path / "whole.pt").tensors.keys() == good.keys()


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    def without(part: str) -> Path:
        path = tmp_path / f"no-{part}"
        shutil.copytree(folder, path)
        shutil.rmtree(path / part)
        return path

    with pytest.raises(BackendError, match="has no VAE"):
        load_backend("wan", model=without("vae"), height=32, width=48)
    with pytest.raises(BackendError, match="has no tokenizer"):
        load_backend("wan", model=without("tokenizer"), height=32, width=48).encode("a")
    with pytest.raises(BackendError, match="no Wan folder"):
        load_backend("wan", model=without("transformer"))
    with pytest.raises(BackendError, match="height 100 is not a multiple of 16"):
        load_backend("wan", model=folder, height=100)
    with pytest.raises(BackendError, match="Add --model"):
        load_backend("wan")
    with pytest.raises(BackendError, match="no option 'modle'"):
        load_backend("wan", modle=folder)
    with pytest.raises(BackendError, match="no dtype 'int3'"):
        load_backend("wan", model=folder, dtype="int3")
    with pytest.raises(BackendError, match="no attention backend 'magic'"):
        load_backend("wan", model=folder, height=32, width=48, attention_backend="magic")
    with pytest.raises(BackendError, match="keeps weights on the CPU"):
        load_backend("wan", model=folder, height=32, width=48, low_vram=True)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = next((broken / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(BackendError, match=r"file of the transformer .* is cut off"):
        load_backend("wan", model=broken, height=32, width=48)


def test_weights_are_kept_in_8_bits_and_work_in_the_models_dtype(folder: Path) -> None:
    options = {"model": folder, "height": 32, "width": 48}
    plain, eight = (load_backend("wan", **options, fp8_weights=fp8) for fp8 in (False, True))
    assert isinstance(eight, Wan)
    runs = [generate(wan, preset("infinity-rope"), "a cat[1s]", seeds=0) for wan in (plain, eight)]
    exact, coarse = (torch.cat([result.latents for result in run], 1) for run in runs)
    difference = float((exact - coarse).norm() / exact.norm())
    assert 1e-4 < difference < 0.1
    linear = eight.transformer.blocks[0].ffn.net[2].weight
    assert linear.dtype is torch.float8_e4m3fn
    assert eight.dtype is torch.float32
    kinds = {p.dtype for p in plain.transformer.parameters()} if isinstance(plain, Wan) else set()
    assert kinds == {torch.float32}


def test_a_wrong_prompt_embedding_is_refused() -> None:
    wan = worded()
    for shape in ((1, 6, 31), (2, 6, 32), (6, 32)):
        with pytest.raises(BackendError, match="prompt embedding"):
            wan.denoise(torch.zeros(1, 3, 16, 4, 6), 1.0, torch.zeros(shape), lambda *a: a[1])


def test_what_does_not_fit_in_memory_is_refused_before_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.inputs.free_bytes", lambda device: 1000)
    with pytest.raises(BackendError, match="MiB of keys and values"):
        generate(worded(), preset("self-forcing"), "a cat[1s]")


def test_a_frame_of_the_released_model_takes_274_mib() -> None:
    from rollout.backends.wan import spec
    from rollout.cache import kv_bytes

    assert round(kv_bytes(spec(), 1, 1, torch.bfloat16) / 2**20) == 274


@pytest.mark.parametrize("options", [{}, {"attention_backend": "native"}, {"dtype": "bfloat16"}])
def test_options_give_the_same_video_within_their_precision(folder: Path, options: dict[str, str]) -> None:
    script, strategy = "a cat walks[1.5s] | a dog jumps[0.75s#]", preset("infinity-rope")
    truth = latents(generate(load_backend("wan", model=folder, height=32, width=48, dtype="float64"), strategy, script))
    found = latents(generate(load_backend("wan", model=folder, height=32, width=48, **options), strategy, script))
    error = ((found - truth).norm() / truth.norm()).item()
    assert error < (0.1 if "dtype" in options else 1e-4)


def test_the_whole_command_on_a_whole_folder(folder: Path, tmp_path: Path) -> None:
    from tests.processes import Forked  # here: this file's tiny models serve where the tests are no package

    base = [
        "gen",
        "a cat walks[1.5s] | a dog jumps[0.75s#] ; first | second",
        "--backend",
        "wan",
        "--model",
        str(folder),
    ]
    command = [*base, "--height", "32", "--width", "48", "--latents", "--threads", "1"]
    done = Forked(*command, "--out", str(tmp_path / "out"))
    assert done.wait() == 0, done.stderr
    assert "MiB of keys and values" in done.stdout
    assert load_file(tmp_path / "out" / "latents.safetensors")["latents"].shape == (9, 16, 4, 6)
    assert len(read_video(tmp_path / "out" / "video.mp4")) == 4 * 9 - 3
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["backend"]["name"] == "wan"
    assert record["script"]["shots"][1]["begin"] == 21 / 16
    bad = Forked(*command, "--out", str(tmp_path / "bad"), "--height", "100")
    assert bad.wait() == 2
    assert "not a multiple of 16" in bad.stderr
    assert not (tmp_path / "bad").exists()


def test_a_video_of_another_rate_starts_a_rollout_in_its_own_time(vae: Any, tmp_path: Path) -> None:
    """Two seconds of 30 frames a second are 6 latent frames, of what it shows at 0, 1/16, 2/16 ... s, and not 60 frames' 15."""
    frames = np.random.default_rng(0).integers(0, 255, (60, 32, 48, 3), np.uint8)
    with VideoWriter(tmp_path / "fps30.mkv", 30.0, exact=True) as video:
        video.write(frames)
    wan = Worded(transformer(), height=32, width=48, vae=vae)
    start, record = read_prefix(wan, str(tmp_path / "fps30.mkv"), "a cat", 0)
    shown = [i * 30 // 16 for i in range(4 * 6 - 3)]
    assert torch.equal(start, encode_frames(vae, torch.from_numpy(frames[shown])))
    assert record.changes == ("30 frames a second taken at 16",)
    with pytest.raises(BackendError, match="built without a VAE"):
        Worded(transformer(), height=32, width=48).encode_video(frames)


def test_a_picture_is_the_first_block_of_a_model_that_goes_frame_by_frame(vae: Any, tmp_path: Path) -> None:
    """A picture is one latent frame: the whole first block where blocks are one frame, and a third of it where they are 3."""
    picture = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "start.png")
    wan = Worded(transformer(), height=32, width=48, block=1, vae=vae)
    start, _ = read_prefix(wan, str(tmp_path / "start.png"), "a cat", 0)
    assert torch.equal(start, encode_frames(vae, torch.from_numpy(picture[None])))
    results = list(generate(wan, preset("causal-forcing"), "a cat[0.5s]", prefix=start))
    assert torch.equal(results[0].latents[0], start)
    assert not torch.equal(results[1].latents[0], start)
    with pytest.raises(
        OutputError, match=r"is one frame, and this model's blocks are 3 latent frames, 9 frames of video"
    ):
        read_prefix(Worded(transformer(), height=32, width=48, vae=vae), str(tmp_path / "start.png"), "a cat", 0)


def test_the_weights_commands(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rollout.cli import app

    save_file(original_names(transformer(seed=2)), tmp_path / "w.safetensors")
    args = ["weights", "import", str(tmp_path / "w.safetensors"), "--base", str(folder), "--to", str(tmp_path / "to")]
    assert CliRunner().invoke(app, args).exit_code == 0
    shown = json.loads(CliRunner().invoke(app, ["weights", "show", str(tmp_path / "to")]).output)
    assert shown["layers"] == 2
    assert shown["imported"]["checkpoint"] == "w.safetensors"
    assert shown["missing"] == []


def test_bench_speed_on_random_weights(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rollout.cli import app

    args = ["bench", "speed", "--backend", "wan", "--random", "--size", "tiny", "--height", "32", "--width", "48"]
    done = CliRunner().invoke(app, [*args, "--blocks", "1", "--threads", "1", "--json", str(tmp_path / "speed.json")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [r["strategy"] for r in rows] == ["self-forcing", "longlive", "infinity-rope", "memrope"]
    for row in rows:
        assert row["strategy"] in done.output
        assert min(row["model"], row["attention"], row["cache"], row["decoding"], row["change"]) > 0
        assert row["frames_per_second"] > row["decoded"] > 0
        assert row["host_syncs"] == 1  # whether the block is finite
        assert (row["plain"] > 0) == (row["strategy"] != "memrope"), "its memory tokens are no window with sinks"


class Spoils(torch.fx.Interpreter):
    """Runs a graph, and writes over what `attend` was given once it is back, as a compiler that needs the memory does."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if "rollout.attend" in str(target):
            for x in args[1:]:
                x.fill_(float("nan"))
        return result


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("infinity-rope", 1),
        ("memrope", 1),
        pytest.param("longlive", 1, marks=pytest.mark.slow),
        pytest.param("lol", 1, marks=pytest.mark.slow),
        ("deep-forcing", 1),  # picks
        ("dummy-forcing", 1),  # lanes, and facts before
        # a timestep for all frames; one a frame; and that for any number of them
        pytest.param("rolling-forcing", 3, marks=pytest.mark.slow),
    ],
)
def test_all_layers_and_passes_share_one_graph(name: str, least: int) -> None:
    """Over a full window and a switch, and with the same video, bit for bit."""
    from rollout.backends.wan.hooks import compile_blocks
    from rollout.backends.wan.random import random_wan

    torch._dynamo.reset()
    graphs: list[Any] = []

    def counts(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return Spoils(graph).run

    plain, wan = (random_wan("tiny", layers=3, height=32, width=48) for _ in range(2))
    compile_blocks(wan.transformer, fullgraph=True, backend=counts)
    strategy, schedule, script = preset(name), PRESETS[name].schedule, "a cat[6s] | a dog[1.5s]"
    with torch.no_grad():
        compiled = latents(generate(wan, strategy, script, schedule=schedule))
    assert torch.equal(compiled, latents(generate(plain, strategy, script, schedule=schedule)))
    assert len(graphs) == least


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in PLAIN else name for name in KINDS]
)
def test_precision_against_float64(name: str) -> None:
    """The relative error of float32 and bfloat16 over 8 blocks and a switch; run with -s to see it."""
    preset, videos = PRESETS[name], {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        wan = Worded(transformer().to(dtype), height=32, width=48, block=preset.block)
        run = generate(wan, preset.strategy, "a cat[5.25s] | b dog[0.75s]", schedule=preset.schedule)
        videos[dtype] = latents(run)
    truth = videos[torch.float64]
    single, half = (((videos[d] - truth).norm() / truth.norm()).item() for d in (torch.float32, torch.bfloat16))
    print(f"\n{name}: float32 {single:.1e}, bfloat16 {half:.1e}")
    assert single < 1e-6
    assert half < 1.5e-2


@pytest.mark.usefixtures("small_videos")
def test_a_run_goes_on_from_a_snapshot_of_its_decoder(folder: Path, tmp_path: Path) -> None:
    """The VAE's feature cache holds tensors, None and a mark: all go through the file."""
    from rollout.errors import Stopped
    from rollout.run.job import Job
    from rollout.run.recipe import Recipe
    from rollout.run.snapshot import read_snapshot, snapshots

    def finish(job: Job, stop: int = -1) -> dict[str, Any]:
        for result in job.run():
            if result.block.index == stop:
                job.stop()
        found: dict[str, Any] = json.loads((job.folder / "run.json").read_text())
        return found

    wan = load_backend("wan", model=str(folder), height=32, width=48)
    recipe = Recipe(preset("infinity-rope"), "a cat[2.25s] | a dog[2.25s]", backend="wan")
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = finish(Job(wan, recipe, tmp_path / "whole"))
    for stop in (0, 3):
        with pytest.raises(Stopped):
            finish(Job(wan, recipe, tmp_path / "cut"), stop)
        snapshot = read_snapshot(snapshots(tmp_path / "cut")[0])
        assert snapshot.block == stop + 1
        found = finish(Job.resumed(wan, snapshot, tmp_path / "cut"))
        assert found["digests"] == whole["digests"]
        assert found["timings"]["frames"] == wan.spec.pixel_frames(18)


@pytest.mark.usefixtures("small_videos")
def test_a_live_session_knows_no_backend(folder: Path, tmp_path: Path) -> None:
    """Panes, forks and saved records with Wan's decoder, whose state goes over block edges; no badge."""
    from rollout import preset
    from rollout.run.job import Job
    from rollout.run.recipe import Recipe
    from rollout.run.record import RunFolder
    from rollout.show.live.session import Session
    from rollout.show.live.wire import JPEG, Order, Outbox, picture

    model = load_backend("wan", model=str(folder), height=32, width=48)
    names = ("infinity-rope", "longlive")
    session = Session(model, Recipe(preset(names[0]), "a cat walks"), [preset(n) for n in names], tmp_path / "out")
    box, said = Outbox(lambda: None), []
    session.join(box)
    for pane in session.panes:
        pane.speed = 0.0
    for order in (None, Order("prompt", None, "a dog jumps", said.append), Order("fork", 1, None, said.append)):
        if order is not None:
            session.order(order)
        session.turn()
        session.turn()
    session.order(Order("save", None, None, said.append))
    session.turn()
    assert not said
    heads = [json.loads(message) for message in box.take() if isinstance(message, str)]
    assert {head["badge"] for head in heads if head["type"] == "block"} == {None}
    session.close()
    for saved in sorted((tmp_path / "out" / "001").iterdir()):
        record, into = RunFolder.open(saved).record, tmp_path / saved.name
        into.mkdir()
        for _ in Job(model, record.recipe, into).run():
            pass
        assert RunFolder.open(into).record.digests == record.digests, saved.name
    assert picture(np.zeros((480, 832, 3), np.uint8))[0] == JPEG
