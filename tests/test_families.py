"""The families of the backend Wan on tiny random models of their true classes: each equals its stock model's own forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, WanTransformer3DModel
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2AttnProcessor
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from rollout import Schedule, Strategy, generate, load_backend, preset
from rollout.backends.guidance import Guided
from rollout.backends.wan.family import FAMILIES, Family, family_of, geometry
from rollout.backends.wan.hooks import ExactTimesteps, hooked
from rollout.backends.wan.model import Wan
from rollout.backends.wan.vae import WanDecoder
from rollout.cache import KVCache
from rollout.cli import main
from rollout.errors import BackendError
from rollout.slots import Role, Slot, View
from tests.test_wan import small_parts

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
STRATEGY = Strategy.from_text("relativistic sink:window=16,sink=1+flush")
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "wan2.1": (WanTransformer3DModel, WanAttnProcessor, {}),
    "krea-14b": (WanTransformer3DModel, WanAttnProcessor, {"num_attention_heads": 5, "num_layers": 3}),
    "wan2.2-ti2v": (WanTransformer3DModel, WanAttnProcessor, {"in_channels": 48, "out_channels": 48}),
    "skyreels": (SkyReelsV2Transformer3DModel, SkyReelsV2AttnProcessor, {}),
    "skyreels-with-rate": (SkyReelsV2Transformer3DModel, SkyReelsV2AttnProcessor, {"inject_sample_info": True}),
}


def transformer(kind: str) -> Any:
    cls, _, config = KINDS[kind]
    torch.manual_seed(0)
    model = cls(**SMALL | config)
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.1) + (p.ndim == 1) * p.data
    return model.double().eval().requires_grad_(False)


def small_family(kind: str) -> Family:
    cls, _, config = KINDS[kind]
    return family_of({"_class_name": cls.__name__, **config})


class Worded(Wan):
    """A model without a text encoder: a prompt's features are drawn from its length."""

    def encode(self, prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(len(prompt))
        return torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)


def small(kind: str) -> Worded:
    side = small_family(kind).spatial
    return Worded(transformer(kind), height=4 * side, width=6 * side)


def masked(processor: Any, mask: Tensor) -> Any:
    """A stock processor whose self-attention has a mask."""

    class Masked(processor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
            given = mask if encoder_hidden_states is None else None
            return super().__call__(attn, hidden_states, encoder_hidden_states, given, rotary_emb)

    return Masked()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_rollout_equals_the_stock_models_masked_forward(kind: str) -> None:
    """Block by block against a cache = one block-causal pass of the untouched model, a timestep a frame."""
    model, wan = transformer(kind), small(kind)
    spec, blocks = wan.spec, 2
    frames = blocks * spec.block
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, frames, *spec.latent, generator=generator, dtype=torch.float64)
    t = torch.rand(1, frames, generator=generator, dtype=torch.float64) * 1000
    prompt = torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)
    model.condition_embedder.timesteps_proj = ExactTimesteps(32)
    block = torch.arange(blocks).repeat_interleave(spec.block * spec.tokens)
    model.set_attn_processor(masked(KINDS[kind][1], (block[None] <= block[:, None])[None, None]))
    if kind.startswith("skyreels"):
        times: dict[str, Any] = {"timestep": t, "enable_diffusion_forcing": True}
        times |= {"fps": [1]} if model.config.inject_sample_info else {}
    else:
        times = {"timestep": t.repeat_interleave(spec.tokens, 1)}
    whole = model(x.transpose(1, 2), encoder_hidden_states=prompt, return_dict=False, **times)[0].transpose(1, 2)

    cache = KVCache(spec, frames, dtype=torch.float64)
    for start in range(0, frames, spec.block):
        place = View(tuple(range(start)), tuple(range(start, start + spec.block)))
        part = slice(start, start + spec.block)
        flow = wan.denoise(x[:, part], t[:, part], prompt, cache.writer(place))
        cache.commit([Slot(Role.RECENT, start + i, start // spec.block) for i in range(spec.block)])
        error = (flow - whole[:, part]).abs().max() / whole.abs().max()
        assert error < 1e-6, f"block at {start}: {error:.1e}"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_single_rollouts_and_the_model_leaves_as_it_came(kind: str) -> None:
    wan = small(kind)
    stock = dict(wan.transformer.config), wan.transformer.state_dict().keys()
    single = [
        torch.cat([r.latents for r in generate(small(kind), STRATEGY, script, seeds=n)], 1)
        for n, script in enumerate(("a cat[1s]", "a brown dog[1s]"))
    ]
    both = torch.cat([r.latents for r in generate(wan, STRATEGY, ["a cat[1s]", "a brown dog[1s]"], seeds=[0, 1])], 1)
    torch.testing.assert_close(both, torch.cat(single), rtol=1e-6, atol=1e-6)
    wan.close()
    model = transformer(kind)
    with hooked(model):
        pass
    assert (dict(model.config), model.state_dict().keys()) == (dict(transformer(kind).config), stock[1])


def test_guidance_is_the_flow_away_from_the_other_prompt() -> None:
    """Two rows of one pass, each with its own keys = two models with a cache each, whose flows are combined by hand."""
    guided, apart = Guided(small("skyreels"), 3.0, "bad"), small("skyreels")
    guided.encode("a cat")
    spec, generator = apart.spec, torch.Generator().manual_seed(0)
    caches = KVCache(spec, 10, dtype=torch.float64), KVCache(spec, 10, dtype=torch.float64)
    doubled = KVCache(spec, 10, 2, dtype=torch.float64)
    prompts = apart.encode("a cat"), apart.encode("bad")
    for start in (0, 5):
        x = torch.randn(1, 5, *spec.latent, generator=generator, dtype=torch.float64)
        place = View(tuple(range(start)), tuple(range(start, start + 5)))
        slots = [Slot(Role.RECENT, start + i, start // 5) for i in range(5)]
        flow = guided.denoise(x, 500.0, prompts[0], doubled.writer(place))
        doubled.commit(slots)
        with_prompt, without = (
            apart.denoise(x, 500.0, prompt, cache.writer(place)) for prompt, cache in zip(prompts, caches, strict=True)
        )
        for cache in caches:
            cache.commit(slots)
        torch.testing.assert_close(flow, without + 3.0 * (with_prompt - without), rtol=1e-9, atol=1e-9)
    with pytest.raises(BackendError, match="guidance scale of nan"):
        Guided(apart, float("nan"))


def test_a_guided_rollout_has_two_rows_a_video_and_scale_one_is_none() -> None:
    schedule = Schedule.of(3, 8.0, renoise=False)
    plain = list(generate(small("skyreels"), preset("infinity-rope"), "a cat[1s]", schedule=schedule))
    run = generate(Guided(small("skyreels"), 1.0), preset("infinity-rope"), "a cat[1s]", schedule=schedule)
    guided = list(run)
    assert run.cache.bytes == 2 * generate(small("skyreels"), preset("infinity-rope"), "a cat[1s]").cache.bytes
    for one, other in zip(plain, guided, strict=True):
        torch.testing.assert_close(one.latents, other.latents, rtol=1e-6, atol=1e-6)


def test_without_new_noise_a_step_goes_straight_along_the_flow() -> None:
    """A field that always points from one clean video to one noise is followed to that video from any step on."""
    clean, noise = torch.randn(2, 1, 3, 4, 2, 2)
    schedule = Schedule.of(5, 8.0, renoise=False)
    x = noise
    for level in range(5):
        x = schedule.step(x, noise - clean, level, lambda step: pytest.fail("no noise is drawn"))
        if level < 4:
            sigma = schedule.sigmas[level + 1]
            torch.testing.assert_close(x, (1 - sigma) * clean + sigma * noise)
    torch.testing.assert_close(x, clean)
    assert schedule.to_dict()["renoise"] is False
    assert "renoise" not in Schedule().to_dict()


def test_a_vae_of_patches_streams_as_it_decodes_whole() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        is_residual=True,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    ).eval()
    latents = torch.randn(5, 48, 2, 3)
    with torch.no_grad():
        whole = vae.decode(latents.transpose(0, 1)[None]).sample[0].permute(1, 2, 3, 0)
    expected = ((whole + 1) * 127.5).round().byte()
    decoder = WanDecoder(vae, home=torch.device("cpu"))
    parts = [decoder.push(latents[:2])]
    state = decoder.state()
    parts.append(decoder.push(latents[2:]))
    assert torch.equal(torch.cat(parts), expected)
    decoder.restore(state)  # what later pushes did has not reached it
    assert torch.equal(decoder.push(latents[2:]), parts[1])


def test_a_family_is_told_by_class_and_channels() -> None:
    assert [small_family(kind).name for kind in KINDS] == [
        "Wan 2.1", "Wan 2.1", "Wan 2.2 TI2V", "SkyReels-V2 DF", "SkyReels-V2 DF",
    ]  # fmt: skip
    spec = geometry({"in_channels": 48, "num_layers": 30, "num_attention_heads": 24, "attention_head_dim": 128})
    assert (spec.latent, spec.grid, spec.block, spec.fps) == ((48, 44, 80), (22, 40), 8, 24.0)
    with pytest.raises(BackendError, match=r"multiple of 32, a token's side in Wan 2\.2"):
        geometry({"in_channels": 48}, 480, 840)
    with pytest.raises(BackendError, match="LTXVideoTransformer3DModel with 128 channels is of no family"):
        family_of({"_class_name": "LTXVideoTransformer3DModel", "in_channels": 128})
    assert len({(family.transformer, family.channels) for family in FAMILIES}) == len(FAMILIES)


def test_an_attention_backend_whose_package_is_missing_is_one_line() -> None:
    for name, says in (
        ("flash", r"needs the package flash-attn\S*\. Install it, or use another"),
        ("sage", r"needs the package sageattention\S*\. Install it, or use another"),
        ("flash_hub", r"needs the package kernels\. Install it, or use another"),
        ("_flash_3", "is not here: .* build FA3 beta release from source. Do that, or use another"),
    ):
        with pytest.raises(BackendError, match=f"the attention backend '{name}' {says}") as refused:
            Worded(transformer("wan2.1"), height=32, width=48, attention_backend=name)
        assert "\n" not in str(refused.value)
    with pytest.raises(BackendError, match="no attention backend 'fast'"):
        Worded(transformer("wan2.1"), height=32, width=48, attention_backend="fast")


def test_an_attention_backend_that_the_device_lacks_is_refused_before_anything_is_rolled_out() -> None:
    """cuDNN's is PyTorch's own, so that no package is missing on a CPU; it failed at the first block, as a traceback."""
    with pytest.raises(
        BackendError, match=r"'_native_cudnn' does not run on cpu with torch.float\d+ and heads of"
    ) as refused:
        Worded(transformer("wan2.1"), height=32, width=48, attention_backend="_native_cudnn")
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SkyReels folder with random weights."""
    path = tmp_path_factory.mktemp("skyreels") / "tiny"
    transformer("skyreels").float().save_pretrained(path / "transformer")
    small_parts(path)
    return path


def test_the_whole_command_on_a_model_that_is_not_distilled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wan = load_backend("wan", model=str(folder), height=32, width=48)
    assert (wan.rows, wan.schedule) == (2, Schedule.of(30, 8.0, renoise=False))
    assert load_backend("wan", model=str(folder), height=32, width=48, guidance=1.0).rows == 1
    out = tmp_path / "run"
    options = ["--backend", "wan", "--model", str(folder), "--height", "32", "--width", "48", "--steps", "2"]
    monkeypatch.setattr(
        "sys.argv",
        [
            "rollout",
            "gen",
            "a cat[1s] | a dog[1s]",
            *options,
            "--guidance",
            "4",
            "--negative",
            "a dog",
            "--out",
            str(out),
        ],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    assert (out / "video.mp4").is_file()
    text = (out / "run.json").read_text()
    assert '"renoise": false' in text
    assert '"guidance": 4.0' in text
