"""Every part of a Wan folder is checked as it is loaded: nothing runs on random, missing or broken weights."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout import load_backend
from rollout.backends.wan import loading, text
from rollout.backends.wan.checks import finite
from rollout.backends.wan.folder import read_config
from rollout.backends.wan.headers import check_parts
from rollout.backends.wan.text import TextEncoder
from rollout.backends.wan.weights import import_checkpoint
from rollout.errors import BackendError
from tests.test_wan import original_names, small_parts, transformer

WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
SHARED, TIED = "shared.weight", "encoder.embed_tokens.weight"
Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wan") / "tiny"
    transformer().save_pretrained(path / "transformer")
    small_parts(path)
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to break; embeddings are cached beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def change(folder: Path, part: str, edit: Change) -> None:
    file = folder / part / WEIGHTS[part]
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def encoder(folder: Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
    return TextEncoder(folder, device=torch.device("cpu"), dtype=dtype)


def load(folder: Path) -> None:
    load_backend("wan", model=folder, height=32, width=48).encode("a cat")


def lose(tensors: dict[str, Tensor]) -> None:
    del tensors[min(tensors)]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["scale_weight"] = torch.ones(1)


def reshape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.ndim > 1)
    tensors[name] = torch.zeros(*tensors[name].shape[:-1], tensors[name].shape[-1] + 1)


def spoil(tensors: dict[str, Tensor]) -> None:
    tensors[max(tensors)].flatten()[-1] = float("nan")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    ("edit", "says"),
    [(lose, "lacks 1 tensors"), (add, "has unexpected 1 tensors"), (reshape, ""), (spoil, "not finite")],
)
def test_no_part_loads_that_does_not_fit_its_config(
    part: str, edit: Change, says: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(folder, part, edit)
    capfd.readouterr()
    with pytest.raises(BackendError, match=f"the {part.replace('_', ' ').replace('vae', 'VAE')} of .*{says}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert "initialized" not in "".join(capfd.readouterr())  # the libraries' own warnings of the same
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5676070424\n"
PART_FILES = [f"{part}/{name}" for part, name in WEIGHTS.items()] + ["tokenizer/tokenizer.json", "vae/config.json"]


@pytest.mark.parametrize("file", PART_FILES)
@pytest.mark.parametrize("kind", ["pointer", "empty", "cut off"])
def test_what_is_no_file_of_a_part_is_named(file: str, kind: str, folder: Path, tmp_path: Path) -> None:
    """As a clone without Git LFS has in place of every large file, the tokenizer's own included."""
    path = folder / file
    whole = path.read_bytes()
    path.write_bytes({"pointer": POINTER, "empty": b"", "cut off": whole[: len(whole) // 2]}[kind])
    part, named = file.partition("/")[0], kind != "cut off" or file.endswith("safetensors")
    what = {"pointer": "a Git LFS pointer.*git lfs pull", "empty": "an empty file"}.get(kind, "cut off.*Download it")
    says = f"{re.escape(str(path))} is {what}" if named else "cannot be loaded"
    with pytest.raises(BackendError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    if not named:
        return
    assert (part, str(caught.value), False) in list(check_parts(folder))
    if part != "transformer":  # a base's own weights of that are not needed
        save_file(original_names(transformer(1)), tmp_path / "w.safetensors")
        with pytest.raises(BackendError, match=says):
            import_checkpoint(tmp_path / "w.safetensors", folder, tmp_path / "to")
        assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("file", ["tokenizer/tokenizer.json", "text_encoder/config.json", "vae/config.json"])
@pytest.mark.parametrize("text", ["[1]", '{"d_model": "wide", "base_dim": "wide", "version": []}'])
def test_a_json_file_of_another_kind_is_one_line(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(BackendError, match=r"cannot be loaded|is of another model") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [(SHARED,), (TIED,), (SHARED, TIED)])
@pytest.mark.parametrize("tied", [True, False, None])
def test_the_embedding_is_right_under_either_name(names: tuple[str, ...], tied: bool | None, folder: Path) -> None:
    """Wan's released folders hold shared.weight alone and say tie_word_embeddings: false."""
    expected = encoder(folder).encode("a cat walks")

    def rename(tensors: dict[str, Tensor]) -> None:
        weight = tensors.pop(SHARED)
        tensors |= {name: weight.clone() for name in names}

    change(folder, "text_encoder", rename)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    config |= {} if tied is None else {"tie_word_embeddings": tied}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    assert torch.equal(encoder(folder).encode("a cat walks"), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_a_text_encoder_without_its_embedding_is_refused(tied: bool, folder: Path, tmp_path: Path) -> None:
    change(folder, "text_encoder", lambda tensors: lose_all(tensors, SHARED, TIED))
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    with pytest.raises(
        BackendError, match=r"text encoder of .* lacks 2 tensors, such as encoder\.embed_tokens\.weight"
    ):
        encoder(folder).encode("a cat")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def lose_all(tensors: dict[str, Tensor], *names: str) -> None:
    for name in names:
        tensors.pop(name, None)


def test_an_embedding_that_is_not_finite_is_neither_used_nor_cached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a text encoder gives whose dtype has too small a range."""
    right = encoder(folder).encode("a cat")
    (stored,) = (tmp_path / "cache").rglob("*.safetensors")
    save_file({"embedding": right * float("nan")}, stored)
    assert torch.equal(encoder(folder).encode("a cat"), right)
    assert torch.equal(load_file(stored)["embedding"], right)
    stored.unlink()
    monkeypatch.setattr(TextEncoder, "_compute", lambda self, text: right * float("inf"))
    with pytest.raises(BackendError, match=r"not finite as torch\.float16\. Use --dtype bfloat16 or float32"):
        encoder(folder, torch.float16).encode("a cat")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_embedding_is_cached_with_the_version_that_made_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder(folder).encode("a cat")
    monkeypatch.setattr(text, "version", lambda name: {"transformers": "99.0"}[name])
    encoder(folder).encode("a cat")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


def test_a_folder_of_two_experts_is_refused(whole: Path, folder: Path) -> None:
    """Wan 2.2 A14B denoises with one transformer above a noise level and with another below."""
    index = {"_class_name": "WanPipeline", "boundary_ratio": None, "transformer_2": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    read_config(folder)  # as one of Wan 2.1 says it
    (folder / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": 0.875}))
    with pytest.raises(BackendError, match="holds two transformers"):
        load(folder)
    (folder / "model_index.json").unlink()
    shutil.copytree(whole / "transformer", folder / "transformer_2")
    with pytest.raises(BackendError, match="holds two transformers"):
        load(folder)


def test_what_is_given_in_place_of_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    """A checkpoint's file, the transformer's own folder, and what Wan's and Self-Forcing's code download."""
    original = tmp_path / "Wan2.1-T2V-1.3B"
    original.mkdir()
    (original / "Wan2.1_VAE.pth").touch()
    (original / "config.json").write_text('{"_class_name": "WanModel", "dim": 1536}')
    for path, says in (
        (folder / "transformer" / WEIGHTS["transformer"], "it is a file. Make a folder of it: rollout weights import"),
        (folder / "transformer", f"it is a part of one. Give {folder}"),
        (original, "it has Wan's own files. Get the model whose name ends in -Diffusers"),
        (folder / "vae", "config.json is missing. Give the folder of"),
    ):
        with pytest.raises(BackendError, match=f"{path} is no Wan folder of diffusers: .*{says}"):
            load(path)
        with pytest.raises(BackendError, match=says):
            import_checkpoint(tmp_path / "w.pt", path, tmp_path / "to")


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("vae", {"z_dim": 48}, "VAE .* latents of 48 channels, a pixel for 8, and .* of 16 channels, a pixel for 8"),
        (
            "vae",
            {"patch_size": 2},
            "VAE .* latents of 16 channels, a pixel for 16, and .* of 16 channels, a pixel for 8",
        ),
        ("text_encoder", {"d_model": 64}, "text encoder .* 64 numbers a token, and the transformer 32 numbers"),
    ],
)
def test_parts_of_two_models_are_refused_before_anything_is_loaded(
    part: str, changes: dict[str, int], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Wan 2.2's VAE lies in a folder of Wan 2.1: it decodes other latents than the model makes."""
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    monkeypatch.setattr(loading, "_load", lambda *rest: pytest.fail("a part was loaded"))
    with pytest.raises(BackendError, match=says):
        load(folder)
    seen = {name: (text, whole) for name, text, whole in check_parts(folder)}
    assert not seen[part][1]
    assert seen["transformer"][1]


def test_a_whole_vae_of_another_model_is_seen_by_the_doctor(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    AutoencoderKLWan(
        base_dim=8, z_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 8, latents_std=[1.0] * 8
    ).save_pretrained(folder / "vae")
    (seen,) = [text for name, text, whole in check_parts(folder) if not whole]
    assert "is of another model: it has latents of 8 channels" in seen


def test_finite_sees_one_number_of_any_kind() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        tensor = torch.randn(100, 7).to(dtype)
        assert finite(tensor)
        for value in (float("nan"), float("inf"), -float("inf")):
            broken: Any = tensor.clone()
            broken[57, 3] = value
            assert not finite(broken)
    assert finite(torch.zeros(0))
