"""LoRAs of every trainer's names merge to base + scale * up @ down, or are refused by name."""

import json
import re
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout.backends.wan.folder import RECORD
from rollout.backends.wan.naming import original_name
from rollout.backends.wan.weights import import_checkpoint
from rollout.errors import BackendError
from tests.test_wan import transformer

STATE: dict[str, Tensor] = {name: tensor.double() for name, tensor in transformer().state_dict().items()}
"""A model's tensors in float64, so that a sum that is right is right to twelve digits."""
RANK = 2
MODULES = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.0.ffn.net.0.proj", "patch_embedding")
ORIGINAL = {module: original_name(f"{module}.weight").removesuffix(".weight") for module in MODULES}
Factors = dict[str, tuple[Tensor, Tensor]]
Importer = Callable[..., dict[str, Tensor]]


def factors(rank: int = RANK) -> Factors:
    """Down (rank, in) and up (out, rank) of each module; the patch embedding is a convolution."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pairs = {}
    for module in MODULES:
        rows, *row = STATE[f"{module}.weight"].shape
        pairs[module] = draw(rank, *row), draw(rows, rank, *[1] * (len(row) - 1))
    return pairs


PAIRS = factors()


def merged(scales: float | dict[str, float], pairs: Factors = PAIRS) -> dict[str, Tensor]:
    """What the model's tensors are with all factors."""
    state = dict(STATE)
    for module, (down, up) in pairs.items():
        scale = scales[module] if isinstance(scales, dict) else scales
        name = f"{module}.weight"
        product = torch.einsum("or,ri->oi", up.flatten(1).double(), down.flatten(1).double())
        state[name] = state[name] + scale * product.reshape(state[name].shape)
    return state


def assert_merged(tensors: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """All tensors are what is expected, in float64; what is not expected to change is the base's, bit for bit."""
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor.double(), rtol=tolerance, atol=tolerance, msg=name)
        if tensor is STATE[name]:
            assert torch.equal(tensors[name], tensor), name
    assert any(not torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.fixture
def imported(tmp_path: Path) -> Importer:
    """Merge a LoRA into the model's own checkpoint, and read what was written; no other part of a base is there."""
    transformer().save_config(tmp_path / "base" / "transformer")
    save_file(STATE, tmp_path / "w.safetensors")
    number = iter(range(99))

    def run(lora: Path, **options: Any) -> dict[str, Tensor]:
        to = tmp_path / f"to-{next(number)}"
        import_checkpoint(tmp_path / "w.safetensors", tmp_path / "base", to, lora=lora, **options)
        (tmp_path / "record").write_text((to / RECORD).read_text())
        return dict(load_file(to / "transformer" / "diffusion_pytorch_model.safetensors"))

    return run


def state(
    prefix: str, down: str, up: str, *, original: bool = True, flat: bool = False, alpha: float | None = None
) -> dict[str, Tensor]:
    """All pairs under a trainer's names."""
    tensors = {}
    for module, pair in PAIRS.items():
        name = ORIGINAL[module] if original else module
        name = prefix + (name.replace(".", "_") if flat else name)
        tensors |= {f"{name}.{down}": pair[0], f"{name}.{up}": pair[1]}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


FORMS = {
    "peft": (state("base_model.model.", "lora_A.weight", "lora_B.weight"), 1.0),
    "peft-named": (state("base_model.model.model.", "lora_A.default.weight", "lora_B.default.weight"), 1.0),
    "comfy": (state("diffusion_model.", "lora_A.weight", "lora_B.weight"), 1.0),
    "comfy-alpha": (state("diffusion_model.", "lora_down.weight", "lora_up.weight", alpha=1.0), 0.5),
    "kohya": (state("lora_unet_", "lora_down.weight", "lora_up.weight", flat=True, alpha=3.0), 1.5),
    "kohya-diffusers": (
        state("lora_transformer_", "lora_down.weight", "lora_up.weight", original=False, flat=True, alpha=1.0),
        0.5,
    ),
    "kohya-fun": (state("lora_unet__", "lora_down.weight", "lora_up.weight", flat=True, alpha=8.0), 4.0),
    "diffusers": (state("transformer.", "lora_A.weight", "lora_B.weight", original=False), 1.0),
    "old-diffusers": (state("transformer.", "lora.down.weight", "lora.up.weight", original=False), 1.0),
    "diffsynth": (state("pipe.dit.", "lora_A.default.weight", "lora_B.default.weight"), 1.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_trainers_names_merge_to_the_same(form: str, imported: Importer, tmp_path: Path) -> None:
    tensors, scale = FORMS[form]
    if form == "kohya":
        assert "lora_unet_blocks_0_self_attn_q.lora_down.weight" in tensors
    save_file(tensors, tmp_path / "lora.safetensors")
    assert_merged(imported(tmp_path / "lora.safetensors"), merged(scale))
    record = json.loads((tmp_path / "record").read_text())
    assert record["lora"] == "lora.safetensors"
    assert record["lora_tensors"] == len(MODULES)
    assert record["lora_scales"] == [scale]
    assert record["lora_alpha"] == ("the rank, as nothing says it" if scale == 1 else "of the file itself")
    assert_merged(imported(tmp_path / "lora.safetensors", alpha=6.0), merged(6.0 / RANK))
    assert json.loads((tmp_path / "record").read_text())["lora_alpha"] == "6, as asked for"


def adapter(tmp_path: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q"], **config}))
    return folder


def test_what_peft_says_beside_a_lora_is_done(imported: Importer, tmp_path: Path) -> None:
    peft = FORMS["peft"][0]
    folder = adapter(tmp_path, peft, r=RANK, lora_alpha=4 * RANK)
    for path in (folder, folder / "adapter_model.safetensors"):
        assert_merged(imported(path), merged(4.0))
        assert json.loads((tmp_path / "record").read_text())["lora_alpha"] == "of adapter_config.json"
    assert_merged(imported(folder, alpha=1.0), merged(0.5))
    folder = adapter(tmp_path, peft, r=RANK, lora_alpha=3, use_rslora=True)
    assert_merged(imported(folder), merged(3 / sqrt(RANK)))
    folder = adapter(tmp_path, peft, r=RANK, lora_alpha=2, alpha_pattern={"self_attn.q": 10, r"blocks\.\d+\.ffn\.0": 4})
    scales = dict.fromkeys(MODULES, 1.0) | {"blocks.0.attn1.to_q": 5.0, "blocks.0.ffn.net.0.proj": 2.0}
    assert_merged(imported(folder), merged(scales))
    folder = adapter(tmp_path, peft, r=8, lora_alpha=4, rank_pattern={".*": RANK})
    assert_merged(imported(folder), merged(2.0))


@pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # so peft calls its own biases
def test_it_is_what_peft_itself_merges(imported: Importer, tmp_path: Path) -> None:
    """Patterns, ranks, rank-stabilised scales and biases, as its own merge has them."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_v", "ffn.net.2"],
        rank_pattern={"attn1.to_q": 2},
        alpha_pattern={"blocks.1.attn2.to_v": 16, "ffn.net.2": 1},
        use_rslora=True,
        lora_bias=True,
        init_lora_weights=False,
    )
    torch.manual_seed(4)
    model = peft.get_peft_model(transformer(), config)
    for name, parameter in model.named_parameters():  # which begin as 0
        if "lora_B" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    expected = dict(model.merge_and_unload().state_dict())
    assert not torch.equal(expected["blocks.0.attn1.to_q.bias"].double(), STATE["blocks.0.attn1.to_q.bias"])
    assert_merged(imported(tmp_path / "adapter"), expected, tolerance=1e-5)  # peft adds in float32


def test_what_diffusers_says_in_a_lora_is_done(imported: Importer, tmp_path: Path) -> None:
    said = {"transformer.r": RANK, "transformer.lora_alpha": 3 * RANK, "transformer.target_modules": ["to_q"]}
    save_file(FORMS["diffusers"][0], tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": json.dumps(said)})
    assert_merged(imported(tmp_path / "x.safetensors"), merged(3.0))


def test_differences_are_added(imported: Importer, tmp_path: Path) -> None:
    """Of weights, biases and modulations, beside factors and alone."""
    changes = {
        "blocks.0.norm2.weight": ("blocks.0.norm3.diff", 1.0),
        "blocks.0.norm2.bias": ("blocks.0.norm3.diff_b", 2.0),
        "blocks.0.attn1.to_q.bias": ("blocks.0.self_attn.q.diff_b", 3.0),
        "blocks.1.scale_shift_table": ("blocks.1.diff_m", 4.0),
        "scale_shift_table": ("head.diff_m", 5.0),
        "blocks.0.scale_shift_table": ("blocks.0.modulation.diff", 6.0),
        "proj_out.weight": ("head.head.diff", 7.0),
    }
    tensors = dict(FORMS["comfy-alpha"][0])
    expected = merged(0.5)
    for name, (stored, value) in changes.items():
        tensors[f"diffusion_model.{stored}"] = torch.full(STATE[name].shape, value)
        expected[name] = expected[name] + value
    save_file(tensors, tmp_path / "lora.safetensors")
    assert_merged(imported(tmp_path / "lora.safetensors"), expected)


def test_a_lora_is_added_in_float32_and_rounded_once(tmp_path: Path) -> None:
    transformer().save_config(tmp_path / "base" / "transformer")
    half = {name: tensor.bfloat16() for name, tensor in STATE.items()}
    save_file(half, tmp_path / "w.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in FORMS["comfy"][0].items()}, tmp_path / "lora.safetensors")
    import_checkpoint(
        tmp_path / "w.safetensors", tmp_path / "base", tmp_path / "to", lora=tmp_path / "lora.safetensors"
    )
    tensors = load_file(tmp_path / "to" / "transformer" / "diffusion_pytorch_model.safetensors")
    for module, (down, up) in PAIRS.items():
        name = f"{module}.weight"
        product = up.bfloat16().float().flatten(1) @ down.bfloat16().float().flatten(1)
        assert torch.equal(tensors[name], (half[name].float() + product.reshape(half[name].shape)).bfloat16()), name


def test_several_loras_in_one_training_state_are_told_apart(imported: Importer, tmp_path: Path) -> None:
    """As LongLive's lora.pt holds them."""
    critic = {name: tensor * 0 for name, tensor in FORMS["peft"][0].items()}
    torch.save({"generator_lora": FORMS["peft"][0], "critic_lora": critic, "step": 7}, tmp_path / "lora.pt")
    assert_merged(imported(tmp_path / "lora.pt"), merged(1.0))


def assert_refused(imported: Importer, tmp_path: Path, tensors: dict[str, Tensor], says: str, **options: Any) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(BackendError, match=says) as caught:
        imported(tmp_path / "lora.safetensors", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*to-*"))


def pair(module: str) -> dict[str, Tensor]:
    return {f"{module}.lora_down.weight": torch.ones(2, 48), f"{module}.lora_up.weight": torch.ones(48, 2)}


def test_a_lora_of_modules_that_are_not_there_says_how_many_fit(imported: Importer, tmp_path: Path) -> None:
    comfy, here = FORMS["comfy"][0], "diffusion_model.blocks"
    deep = {name: tensor for i in range(40) for name, tensor in pair(f"{here}.{i}.self_attn.q").items()}
    flat = {name: tensor for i in range(6) for name, tensor in pair(f"lora_unet_input_blocks_{i}_1_proj").items()}
    own = "Give it with its own base"
    image, text = f"{here}.0.cross_attn.k_img", "lora_te_x"
    for tensors, says in (
        (flat, f"none of its 6 modules is in the model, and the weight of 'lora_unet_input_.*' is not. {own}"),
        (deep, f"only 2 of its 40 modules are in the model, and the weight of '{here}.10.self_attn.q' is not. {own}"),
        (comfy | pair(image), f"only 4 of its 5 modules are .* '{image}' is not. It is of an image-to-video model"),
        (comfy | {"diffusion_model.img_emb.proj.1.diff": torch.ones(2)}, "of an image-to-video model"),
        (comfy | pair(text), f"only 4 of its 5 modules are .* '{text}' is not. It is of a text encoder too"),
        (pair("transformer.blocks.0.attn1.to_qkv"), "none of its 1 modules .* It is of fused projections"),
        (comfy | pair(f"{here}.0.self_attn.qkv"), "only 4 of its 5 modules .* It is of fused projections"),
        (comfy | pair("lora_unet_blocks_0_cross_attn_kv"), "only 4 of its 5 modules .* It is of fused projections"),
        (comfy | {f"{here}.0.self_attn.norm_q.diff_b": torch.ones(48)}, "the bias of '.*norm_q' is not"),
    ):
        assert_refused(imported, tmp_path, tensors, says)


def test_what_is_no_plain_lora_is_refused_by_name(imported: Importer, tmp_path: Path) -> None:
    comfy = FORMS["comfy"][0]
    query = "diffusion_model.blocks.0.self_attn.q"

    def refused(tensors: dict[str, Tensor], says: str, **options: Any) -> None:
        assert_refused(imported, tmp_path, tensors, says, **options)

    refused(comfy | {f"{query}.dora_scale": torch.ones(48)}, "which is DoRA")
    refused({f"{query}.lokr_w1": torch.ones(2, 2)}, "LoKr, LoHa or another relative")
    refused(comfy | {"text_encoder.x": torch.ones(2)}, "a LoRA of the text encoder")
    refused(STATE, "no LoRA tensor. Give a LoRA of the transformer alone")
    for end in ("lora_A.bias", "diff.bias", "alpha.bias"):
        refused(comfy | {f"{query}.{end}": torch.ones(48)}, f"{end}', which is no LoRA tensor")
    refused({f"{query}.lora_B.bias": torch.ones(48)}, "lacks a factor of .*self_attn.q")
    refused(comfy | {f"{query}.lora_B.bias": torch.ones(47)}, "the difference of .*self_attn.q is of another shape")
    refused(
        {name: t for name, t in comfy.items() if name != f"{query}.lora_B.weight"}, "lacks a factor of .*self_attn.q"
    )
    refused({f"{query}.alpha": torch.ones(())}, "lacks a factor")
    refused(comfy | {f"{query}.lora_A.weight": torch.ones(2, 47)}, "the size of .*self_attn.q is of another shape")
    refused(comfy | {f"{query}.lora_B.weight": torch.ones(2, 48)}, "the size of .*self_attn.q is of another shape")
    refused(comfy | {f"{query}.lora_A.weight": torch.ones(3, 48)}, "the size of .*self_attn.q is of another shape")
    refused(comfy | {f"{query}.diff_b": torch.ones(47)}, "the difference of .*self_attn.q is of another shape")
    refused(comfy | {f"{query}.lora_down.weight": torch.ones(2, 48)}, "twice, perhaps of two adapters")
    refused(comfy | {f"{query}.alpha": torch.tensor(float("nan"))}, "no number as the alpha of .*self_attn.q")
    refused(comfy | {f"{query}.alpha": torch.ones(2)}, "no number as the alpha of .*Add --lora-alpha")
    zero = {name.replace("lora_A.weight", "alpha"): torch.zeros(()) for name in comfy if "lora_A" in name}
    refused(comfy | zero, "an alpha of 0, and changes nothing")
    for dtype in (torch.int8, torch.complex64):
        word = str(dtype).removeprefix("torch.")
        refused({name: tensor.to(dtype) for name, tensor in comfy.items()}, f"lora_A.weight' as {word}. Get it in fp16")
    refused(
        comfy | {f"{query}.lora_A.weight": torch.full((2, 48), float("nan"))},
        "the checkpoint's blocks.0.attn1.to_q.weight with the LoRA is not finite. Get the LoRA again",
    )
    for alpha in (float("nan"), float("inf"), 0.0):
        refused(comfy, re.escape(f"alpha of {alpha} is no scale"), alpha=alpha)
    with pytest.raises(BackendError, match="Add --lora"):
        import_checkpoint(tmp_path / "w.safetensors", tmp_path / "base", tmp_path / "to", alpha=1.0)


def test_a_config_that_does_not_fit_or_cannot_be_read_is_refused(imported: Importer, tmp_path: Path) -> None:
    def refused(says: str, **config: Any) -> None:
        with pytest.raises(BackendError, match=says):
            imported(adapter(tmp_path, FORMS["peft"][0], **config))

    refused("has the rank 2 in .* and adapter_config.json says 4.*or add --lora-alpha", r=4, lora_alpha=4)
    refused("is of DoRA", r=2, lora_alpha=4, use_dora=True)
    refused("is of LOHA", r=2, lora_alpha=4, peft_type="LOHA")
    refused("is of transposed weights", r=2, lora_alpha=4, fan_in_fan_out=True)
    refused("cannot be read", r=2, lora_alpha="much")
    refused("cannot be read", r=2, lora_alpha=4, alpha_pattern={"(": 2})
    refused("cannot be read", r=2, lora_alpha=float("nan"))
    folder = adapter(tmp_path, FORMS["peft"][0], r=4, lora_alpha=4)
    assert_merged(imported(folder, alpha=2.0), merged(1.0))  # who says alpha need not be told the rank
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(BackendError, match="cannot be read"):
        imported(folder)
