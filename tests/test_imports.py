"""What people have becomes a folder that loads: checkpoints, LoRAs, and what is neither."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from rollout import load_backend, preset
from rollout.backends.wan import weights
from rollout.backends.wan.folder import INDEX, RECORD, describe, digest_weights, read_block
from rollout.backends.wan.naming import Names, original_name, strip
from rollout.backends.wan.weights import import_checkpoint
from rollout.cli import app
from rollout.errors import BackendError, OutputError
from rollout.files import alone, link_or_copy, new_tree
from rollout.registry import find
from rollout.run.job import Job
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from tests.processes import killed_at
from tests.test_wan import original_names, small_parts, transformer

TUNED = transformer(seed=9)
STATE: dict[str, Tensor] = {name: tensor.clone() for name, tensor in TUNED.state_dict().items()}
PLAIN: dict[str, Tensor] = original_names(TUNED)
"""The tensors of a tuned model by diffusers' and by Wan's own names."""
QUERY = "blocks.0.self_attn.q"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything but weights of a transformer."""
    path = tmp_path_factory.mktemp("base") / "tiny"
    transformer().save_config(path / "transformer")
    small_parts(path)
    return path


@pytest.fixture
def imported(base: Path, tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Import a path, and read what was written; the folder is `to` in the test's own."""

    def run(path: Path, **options: Any) -> dict[str, Tensor]:
        shutil.rmtree(tmp_path / "to", ignore_errors=True)
        import_checkpoint(path, base, tmp_path / "to", **options)
        files = (tmp_path / "to" / "transformer").glob("*.safetensors")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    return run


def record(tmp_path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((tmp_path / "to" / RECORD).read_text())
    return data


def assert_same(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    assert tensors.keys() == STATE.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype is dtype
        assert torch.equal(tensor, STATE[name].to(dtype)), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_import_never_changes_its_base(base: Path, tmp_path: Path) -> None:
    """Files are shared by hard links: also those of a base that was imported itself, whose record is its own."""
    for seed in (1, 2):
        save_file(original_names(transformer(seed)), tmp_path / f"{seed}.safetensors")
    import_checkpoint(tmp_path / "1.safetensors", base, tmp_path / "first")
    before = contents(tmp_path / "first")
    import_checkpoint(tmp_path / "2.safetensors", tmp_path / "first", tmp_path / "second")
    assert contents(tmp_path / "first") == before
    assert [describe(tmp_path / name)["imported"]["checkpoint"] for name in ("first", "second")] == [
        "1.safetensors",
        "2.safetensors",
    ]
    assert (tmp_path / "second" / "vae" / "config.json").samefile(tmp_path / "first" / "vae" / "config.json")


def test_a_base_may_be_links_and_only_its_parts_are_taken(base: Path, tmp_path: Path) -> None:
    """As in a cache of models, and with whatever else lies beside them."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in base.iterdir():
        (linked / part.name).symlink_to(part)
    (linked / "LICENSE").write_text("Apache-2.0")
    (linked / "original.pth").write_bytes(b"5 GB")
    (linked / "assets").mkdir()
    save_file(original_names(transformer(1)), tmp_path / "w.safetensors")
    import_checkpoint(tmp_path / "w.safetensors", linked, tmp_path / "to")
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names == {"LICENSE", "rollout.json", "text_encoder", "tokenizer", "transformer", "vae"}
    assert not any(path.is_symlink() for path in (tmp_path / "to").rglob("*"))


def test_a_link_is_a_new_name_and_a_copy_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / "to-a").symlink_to("a")
    link_or_copy(tmp_path / "to-a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    assert not (tmp_path / "b").is_symlink()
    (tmp_path / "other").write_text("other")
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    link_or_copy(tmp_path / "to-a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "mine"
    assert not (tmp_path / "c").samefile(tmp_path / "a")
    for linkless in (True, False):
        if not linkless:
            monkeypatch.undo()
        (tmp_path / "planted").unlink(missing_ok=True)
        (tmp_path / "planted").symlink_to("other")
        for taken in ("planted", "b"):
            with pytest.raises(FileExistsError):
                link_or_copy(tmp_path / "a", tmp_path / taken)
    assert (tmp_path / "other").read_text() == "other"


def test_a_folder_appears_whole_and_leftovers_of_the_killed_go(tmp_path: Path) -> None:
    killed, living, other = (
        tmp_path / f".{name}.{digit * 16}.partial" for name, digit in (("to", "1"), ("to", "2"), ("too", "1"))
    )
    for folder in (killed, living, other):
        folder.mkdir()
        (folder / "x").touch()
    to = tmp_path / "to"
    with alone(living), new_tree(to) as partial:
        (partial / "x").touch()
        assert not to.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"to", living.name, other.name}
    with pytest.raises(OutputError, match="not empty"), new_tree(to):
        pytest.fail("a folder that holds files is not written into")
    with pytest.raises(ZeroDivisionError), new_tree(tmp_path / "new") as partial:
        (partial / "x").write_text(str(1 / 0))
    assert not list(tmp_path.glob("*new*"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with pytest.raises(OutputError, match="is a link"), new_tree(tmp_path / "link"):
        pytest.fail("nothing is written through a link")


def wrapped(prefix: str, tensors: dict[str, Tensor] = PLAIN) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


NESTED: dict[str, tuple[dict[str, Any], str | None]] = {
    "model": ({"model": wrapped("model.")}, "model"),
    "state_dict": ({"state_dict": PLAIN, "epoch": 3}, "state_dict"),
    "module": ({"module": wrapped("module.")}, "module"),
    "one-unknown-name": ({"student": PLAIN, "step": torch.tensor(3)}, "student"),
    "trained-alone": ({"generator": wrapped("model._fsdp_wrapped_module.")}, "generator"),
    "averaged-first": (
        {"generator": wrapped("model.", original_names(transformer())), "generator_ema": PLAIN},
        "generator_ema",
    ),
    "nested": ({"state_dict": {"generator_ema": PLAIN, "generator": {}}}, "state_dict/generator_ema"),
    "beside-an-optimizer": (
        {"model": PLAIN, "optimizer": {"state": {0: {"exp_avg": PLAIN["head.modulation"]}}}},
        "model",
    ),
    "plain": (wrapped("module._orig_mod."), None),
    "extra-state": ({**PLAIN, "blocks.0._extra_state": None, "freqs": torch.zeros(2)}, None),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_checkpoint_is_found_under_the_names_that_trainers_give_it(kind: str, imported: Any, tmp_path: Path) -> None:
    values, taken = NESTED[kind]
    torch.save(values, tmp_path / "w.pt")
    assert_same(imported(tmp_path / "w.pt"))
    data = record(tmp_path)
    assert data["weights"] == taken
    beside = ["state_dict/generator", "state_dict/generator_ema"] if kind == "nested" else sorted(values)
    assert data["holds"] == ([] if taken is None else beside)


FLAT: dict[str, dict[str, Tensor]] = {
    "comfy": wrapped("model.diffusion_model."),
    "diffusion_model": wrapped("diffusion_model."),
    "diffsynth": wrapped("pipe.dit."),
    "diffusers": STATE,
    "diffusers-wrapped": wrapped("transformer.", STATE),
    "two-models": wrapped("generator_ema.model.") | wrapped("generator.model.", original_names(transformer())),
    "whole-comfy": wrapped("model.diffusion_model.") | {"vae.conv1.weight": torch.zeros(3), "text.x": torch.zeros(2)},
}


@pytest.mark.parametrize("kind", FLAT)
def test_names_are_read_in_every_wrapper(kind: str, imported: Any, tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in FLAT[kind].items()}, tmp_path / "w.safetensors")
    assert_same(imported(tmp_path / "w.safetensors"))
    assert record(tmp_path).get("ignored") == (2 if kind == "whole-comfy" else None)
    two = kind == "two-models"
    assert record(tmp_path)["weights"] == ("generator_ema" if two else None)
    assert record(tmp_path)["holds"] == (["generator", "generator_ema"] if two else [])


@pytest.mark.parametrize("kind", ["WanTransformer3DModel", "SkyReelsV2Transformer3DModel"])
def test_names_are_those_of_diffusers_own_conversion(kind: str) -> None:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    config = {"_class_name": kind, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 8}
    names = Names.of(config | ({"inject_sample_info": True} if kind.startswith("Sky") else {}))
    for name in names.shapes:
        # Its conversion leaves the embedding of the frame rate as it is.
        if not name.startswith("fps_"):
            assert list(convert_wan_transformer_to_diffusers({original_name(name): 0})) == [name]
    originals = {original_name(name) for name in names.shapes}
    assert len(originals) == len(names.shapes)
    if kind.startswith("Sky"):
        assert {n for n in originals if n.startswith("fps_projection")} == {
            f"fps_projection.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")
        }


def split(folder: Path, stem: str = "model", write: Any = save_file, suffix: str = "safetensors") -> Path:
    """Three shards and their index; the index's path."""
    folder.mkdir(parents=True)
    names, place = list(PLAIN), {}
    for i in range(3):
        file = f"{stem}-{i + 1:05d}-of-00003.{suffix}"
        write({name: PLAIN[name].clone() for name in names[i::3]}, folder / file)
        place |= dict.fromkeys(names[i::3], file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return index


def test_shards_and_folders_are_read_as_one(imported: Any, tmp_path: Path) -> None:
    index = split(tmp_path / "shards")
    assert_same(imported(index))
    assert_same(imported(tmp_path / "shards"))
    assert_same(imported(tmp_path / "shards" / "model-00002-of-00003.safetensors"))
    index.unlink()
    assert_same(imported(tmp_path / "shards"))
    assert_same(imported(split(tmp_path / "bin", "pytorch_model", torch.save, "bin").parent))
    TUNED.save_pretrained(tmp_path / "whole" / "transformer", max_shard_size="100KB")
    assert (tmp_path / "whole" / "transformer" / INDEX).is_file()
    assert_same(imported(tmp_path / "whole"))
    (tmp_path / "original").mkdir()
    save_file(PLAIN, tmp_path / "original" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "original" / "Wan2.1_VAE.pth").write_bytes(b"a VAE")
    (tmp_path / "original" / "config.json").write_text("{}")
    assert_same(imported(tmp_path / "original"))


def test_a_folder_that_says_too_little_or_too_much_is_refused(imported: Any, tmp_path: Path) -> None:
    index = split(tmp_path / "shards")
    (tmp_path / "shards" / "model-00002-of-00003.safetensors").unlink()
    for path in (index, tmp_path / "shards"):
        with pytest.raises(BackendError, match=r"lacks model-00002-of-00003\.safetensors, one of 3 shards"):
            imported(path)
    for name in ("../w.safetensors", str(tmp_path / "w.safetensors")):
        index.write_text(json.dumps({"weight_map": {"head.modulation": name}}))
        with pytest.raises(BackendError, match="no file beside it"):
            imported(index)
    index.write_text("[]")
    with pytest.raises(BackendError, match="cannot be read as an index"):
        imported(index)
    (tmp_path / "two").mkdir()
    with pytest.raises(BackendError, match="holds no checkpoint"):
        imported(tmp_path / "two")
    for name in ("a", "b"):
        save_file(PLAIN, tmp_path / "two" / f"{name}.safetensors")
    with pytest.raises(BackendError, match=r"holds a\.safetensors, b\.safetensors\. Give the checkpoint that you mean"):
        imported(tmp_path / "two")
    (tmp_path / "two" / "high_noise_model").mkdir()
    with pytest.raises(BackendError, match="two transformers"):
        imported(tmp_path / "two")


def test_which_of_several_models_is_meant_is_not_guessed(imported: Any, tmp_path: Path) -> None:
    def refused(values: Any, says: str, **options: Any) -> None:
        torch.save(values, tmp_path / "w.pt")
        with pytest.raises(BackendError, match=says):
            imported(tmp_path / "w.pt", **options)

    refused({"student": PLAIN, "teacher": PLAIN}, "several models, student, teacher")
    refused({"generator_ema": PLAIN}, "only averaged weights, 'generator_ema'. Leave --raw out", raw=True)
    refused({"step": 3}, "no mapping of names to tensors, only step")
    refused(wrapped("model.") | PLAIN, "twice")
    refused(
        wrapped("", PLAIN) | {"blocks.0.attn1.to_q.weight": STATE["blocks.0.attn1.to_q.weight"]}, "to_q.weight twice"
    )
    refused(PLAIN | {"blocks.0.cross_attn.k_img.weight": torch.zeros(2)}, "an image-to-video model")
    torch.save({"generator": PLAIN, "generator_ema": wrapped("", original_names(transformer()))}, tmp_path / "w.pt")
    assert_same(imported(tmp_path / "w.pt", raw=True))
    assert record(tmp_path)["weights"] == "generator"


def test_a_lora_is_not_taken_for_a_checkpoint(imported: Any, tmp_path: Path) -> None:
    alone = {f"diffusion_model.{QUERY}.lora_A.weight": torch.ones(2, 48)}
    alone |= {
        f"diffusion_model.{QUERY}.lora_B.weight": torch.ones(48, 2),
        f"diffusion_model.{QUERY}.alpha": torch.ones(()),
    }
    unmerged = {name.replace(f"{QUERY}.weight", f"{QUERY}.base_layer.weight"): tensor for name, tensor in PLAIN.items()}
    unmerged |= {f"{QUERY}.lora_A.default.weight": torch.ones(2, 48)}
    for tensors, says in (
        (alone, "no checkpoint alone: 2 of its tensors are a LoRA's. Give it with --lora, and as CHECKPOINT the model"),
        (unmerged, "no checkpoint alone: 1 of its tensors are a LoRA's. Merge it, or save both apart"),
    ):
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(BackendError, match=says):
            imported(tmp_path / "w.safetensors")


def test_tensors_without_numbers_of_their_own_are_named(imported: Any, tmp_path: Path) -> None:
    name = f"{QUERY}.weight"
    for tensor, says in ((PLAIN[name].to_sparse(), "as a sparse tensor"), (PLAIN[name].to("meta"), "without its num")):
        torch.save({"generator": PLAIN | {name: tensor}}, tmp_path / "w.pt")
        with pytest.raises(BackendError, match=f"holds '{name}' {says}"):
            imported(tmp_path / "w.pt")


def test_an_old_or_misnamed_file_is_read_by_what_it_is(imported: Any, tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(imported(tmp_path / "old.pth"))
    save_file(PLAIN, tmp_path / "really-safetensors.bin")
    assert_same(imported(tmp_path / "really-safetensors.bin"))
    torch.save(PLAIN, tmp_path / "really-torch.safetensors")
    with pytest.raises(BackendError, match=r"a PyTorch file, not safetensors\. Rename it to really-torch\.pt"):
        imported(tmp_path / "really-torch.safetensors")


NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5676070424\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html>\n<html><head>", "an HTML page"),
    "gguf": (b"GGUF" + bytes(64), "a GGUF file"),
    "empty": (b"", "an empty file"),
    "message": (b"Entry not found", "a text file that says 'Entry not found'"),
    "json": (b'{"error": "Access restricted"}', "a JSON file"),
    "pickle": (b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00}\x94.", "a Python pickle, which runs code"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "a gzip archive"),
    "noise": (bytes(range(200, 250)), "of no kind that holds tensors"),
    "header-cut-off": (b"\x00\x10\x00\x00\x00\x00\x00\x00" + b'{"a":', "cut off in its header"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_file_of_weights_is_named(kind: str, suffix: str, imported: Any, tmp_path: Path) -> None:
    data, says = NO_WEIGHTS[kind]
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(data)
    save_file(PLAIN, tmp_path / "good.safetensors")
    for run in (lambda: imported(path), lambda: imported(tmp_path / "good.safetensors", lora=path)):
        with pytest.raises(BackendError, match=says) as caught:
            run()
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "to").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_archives_and_programs_are_named(imported: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("w.safetensors", b"weights")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    torch.save(PLAIN, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    save_file(PLAIN, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    for name, says in (
        ("w.zip", "a zip archive, not one of PyTorch's. Unpack it"),
        ("program.pt", "a TorchScript program"),
        ("cut.pt", "cut off"),
        ("cut.safetensors", "cannot be read as a checkpoint"),
    ):
        with pytest.raises(BackendError, match=says):
            imported(tmp_path / name)


def quantise(names: dict[str, str], suffix: str, *, rows: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Some weights in 8-bit floats with scales, and what all tensors then stand for."""
    stored: dict[str, Tensor] = dict(PLAIN)
    meant: dict[str, Tensor] = {name: STATE[new] for name, new in names.items()}
    for name in list(PLAIN):
        if name.endswith((".q.weight", "ffn.0.weight")):
            tensor = PLAIN[name]
            scale = tensor.abs().amax(1 if rows else (0, 1), keepdim=rows) / 448
            eight = (tensor / scale).to(torch.float8_e4m3fn)
            stored[name], stored[name.replace(".weight", suffix)] = eight, scale
            meant[name] = (eight.float() * scale).bfloat16()
    return stored, {names[name]: tensor for name, tensor in meant.items()}


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("suffix", [".scale_weight", ".weight_scale"])
def test_weights_in_8_bits_are_scaled_back(suffix: str, rows: bool, imported: Any, tmp_path: Path) -> None:
    names = {original_name(name): name for name in STATE}
    stored, meant = quantise(names, suffix, rows=rows)
    stored[f"{QUERY}.input_scale"] = torch.tensor(3.0)
    stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    stored[f"{QUERY}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    save_file(wrapped("model.diffusion_model.", stored), tmp_path / "w.safetensors")
    tensors = imported(tmp_path / "w.safetensors")
    assert tensors.keys() == meant.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype is meant[name].dtype
        assert torch.equal(tensor, meant[name]), name
    name = names[f"{QUERY}.weight"]
    assert (tensors[name].float() - STATE[name]).abs().max() < 0.05 * STATE[name].abs().max()
    assert record(tmp_path)["from"] == ["float32", "float8_e4m3fn", "uint8"]


def test_8_bits_without_a_scale_stand_for_themselves(imported: Any, tmp_path: Path) -> None:
    eight = {name: tensor.to(torch.float8_e5m2) for name, tensor in PLAIN.items()}
    save_file(eight, tmp_path / "w.safetensors")
    tensors = imported(tmp_path / "w.safetensors")
    for name, tensor in tensors.items():
        assert tensor.dtype is torch.bfloat16
        assert torch.equal(tensor.float(), eight[original_name(name)].float()), name


def test_what_is_quantised_in_another_way_is_named(imported: Any, tmp_path: Path) -> None:
    def refused(changes: dict[str, Tensor], says: str, **metadata: str) -> None:
        save_file(PLAIN | changes, tmp_path / "w.safetensors", metadata=metadata)
        with pytest.raises(BackendError, match=says):
            imported(tmp_path / "w.safetensors")

    name, scale = f"{QUERY}.weight", f"{QUERY}.weight_scale"
    eight = PLAIN[name].to(torch.float8_e4m3fn)
    form = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    refused({f"{QUERY}.comfy_quant": form}, "quantised as nvfp4")
    refused({f"{QUERY}.comfy_quant": form[:-1]}, "quantised as something unreadable")
    layers = json.dumps({"layers": {QUERY: {"format": "int8_tensorwise"}}})
    refused({}, "quantised as int8_tensorwise", _quantization_metadata=layers)
    refused({name: PLAIN[name].to(torch.int8), scale: torch.tensor(2.0)}, "as int8: quantised")
    refused({name: eight, scale: torch.ones(3, 3)}, "9 scales for blocks.0.self_attn.q.weight")
    refused({scale: torch.tensor(2.0)}, "with a scale and not in 8 bits")
    refused({"blocks.9.x.weight_scale": torch.tensor(2.0)}, "a scale for blocks.9.x.weight and no such tensor")
    refused(
        {f"{QUERY}.weight_scale_inv": torch.ones(1, 1)}, "unexpected 1 tensors .blocks.0.self_attn.q.weight_scale_inv"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_come_as_they_are_or_as_asked_for(dtype: torch.dtype, imported: Any, tmp_path: Path) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in PLAIN.items()}, tmp_path / "half.safetensors")
    assert_same(imported(tmp_path / "half.safetensors"), dtype)
    save_file(PLAIN, tmp_path / "w.safetensors")
    word = str(dtype).removeprefix("torch.")
    assert_same(imported(tmp_path / "w.safetensors", dtype=word), dtype)
    assert (record(tmp_path)["from"], record(tmp_path)["dtype"]) == (["float32"], [word])
    back = imported(tmp_path / "half.safetensors", dtype="float32")
    assert all(torch.equal(tensor, STATE[name].to(dtype).float()) for name, tensor in back.items())


def test_numbers_that_are_none_are_refused(imported: Any, tmp_path: Path) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = PLAIN[f"{QUERY}.weight"].clone()
        broken[3, 4] = value
        save_file(PLAIN | {f"{QUERY}.weight": broken}, tmp_path / "w.safetensors")
        with pytest.raises(BackendError, match=r"blocks.0.self_attn.q.weight is not finite"):
            imported(tmp_path / "w.safetensors")
    broken[3, 4] = 1e6
    save_file(PLAIN | {f"{QUERY}.weight": broken}, tmp_path / "w.safetensors")
    with pytest.raises(BackendError, match=r"too large for float16\. Use --dtype bfloat16"):
        imported(tmp_path / "w.safetensors", dtype="float16")
    with pytest.raises(BackendError, match="not written as 'int3'"):
        imported(tmp_path / "w.safetensors", dtype="int3")
    assert not list(tmp_path.glob("*to*"))


def test_one_shard_at_a_time_is_in_memory(imported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every tensor is changed on its way."""
    sizes: list[int] = []

    def counted(tensors: dict[str, Tensor], *rest: Any, **options: Any) -> None:
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        save_file(tensors, *rest, **options)

    monkeypatch.setattr(weights, "SHARD", 50_000)
    monkeypatch.setattr(weights, "save_file", counted)
    save_file(PLAIN, tmp_path / "w.safetensors")
    steps: list[tuple[int, int]] = []
    assert_same(
        imported(tmp_path / "w.safetensors", dtype="bfloat16", advance=lambda *step: steps.append(step)), torch.bfloat16
    )
    total = sum(tensor.numel() * 2 for tensor in STATE.values())
    assert len(sizes) > 3
    assert max(sizes) <= 50_000
    assert steps[0] == (0, total)
    assert [done for done, _ in steps[1:]] == [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert steps[-1] == (total, total)


def test_the_command_says_what_was_taken_and_records_a_block(base: Path, tmp_path: Path) -> None:
    torch.save({"generator": PLAIN, "generator_ema": PLAIN, "critic": {}}, tmp_path / "w.pt")
    args = [
        "weights",
        "import",
        str(tmp_path / "w.pt"),
        "--base",
        str(base),
        "--to",
        str(tmp_path / "to"),
        "--block",
        "1",
    ]
    done = CliRunner().invoke(app, [*args, "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    assert "took generator_ema of critic, generator, generator_ema" in done.stderr
    assert "GiB written" in done.stderr
    shown = json.loads(done.stdout)
    assert shown["imported"]["block"] == read_block(tmp_path / "to") == 1
    assert shown["dtype"] == ["BF16"]
    assert CliRunner().invoke(app, ["weights", "show", str(tmp_path / "to")]).stdout == done.stdout
    assert CliRunner().invoke(app, [*args, "--block", "0"]).exit_code == 2


def test_wrappers_are_taken_off_in_any_order() -> None:
    for name in (
        "model.diffusion_model.x.weight",
        "module.model._fsdp_wrapped_module.x.weight",
        "base_model.model.x.weight",
    ):
        assert strip(name) == "x.weight"


def test_the_weights_of_a_record_are_those_that_ran(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor counts, also one far behind the first MiB, and not how they are split in files."""
    save_file(PLAIN, tmp_path / "w.safetensors")
    last = original_name(max(name for name in STATE if name.endswith("weight"))).removesuffix(".weight")
    rows, columns = PLAIN[f"{last}.weight"].shape
    lora = {f"{last}.lora_A.weight": torch.ones(1, columns), f"{last}.lora_B.weight": torch.ones(rows, 1)}
    save_file(lora, tmp_path / "lora.safetensors")
    plain = import_checkpoint(tmp_path / "w.safetensors", base, tmp_path / "plain")
    changed = import_checkpoint(
        tmp_path / "w.safetensors", base, tmp_path / "changed", lora=tmp_path / "lora.safetensors"
    )
    half = import_checkpoint(tmp_path / "w.safetensors", base, tmp_path / "half", dtype="bfloat16")
    monkeypatch.setattr(weights, "SHARD", 20_000)
    sharded = import_checkpoint(tmp_path / "w.safetensors", base, tmp_path / "sharded")
    assert len({shown["weights"] for shown in (plain, changed, half)}) == 3
    assert sharded["weights"] == plain["weights"]
    model = load_backend("wan", model=tmp_path / "changed", height=32, width=48)
    assert model.digest == changed["weights"] == find("backends", "wan").digest(str(tmp_path / "changed"))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in Job(model, Recipe(preset("infinity-rope"), "a cat[0.5s]", backend="wan"), tmp_path / "run").run():
        pass
    assert RunFolder.open(tmp_path / "run").record.backend.weights == changed["weights"]


def test_a_folder_is_described_also_where_it_is_not_whole(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = describe(base)
    assert (shown["weights"], shown["missing"], shown["imported"]) == (None, ["transformer"], None)
    assert (shown["family"], shown["block"]) == ("Wan 2.1", 3)
    capfd.readouterr()
    with pytest.raises(BackendError, match=r"the transformer of .* cannot be loaded: .*no file"):
        load_backend("wan", model=base, height=32, width=48)
    assert not any(capfd.readouterr())  # the error is all that is said
    folder = tmp_path / "folder"
    shutil.copytree(base, folder)
    (folder / RECORD).write_text("[broken")
    assert describe(folder)["imported"] is None
    for data, says in (
        (b"\xff" * 20, "of no kind that holds tensors"),
        (NO_WEIGHTS["pointer"][0], "a Git LFS pointer"),
        (b"\x02" + bytes(7) + b"{]", "cannot be read as safetensors"),
    ):
        (folder / "transformer" / "w.safetensors").write_bytes(data)
        for read in (describe, digest_weights):
            with pytest.raises(BackendError, match=says):
                read(folder)
    for text, says in (("[]", "no Wan folder"), ('{"num_layers": "two"}', "says no"), ("{}", "says no 'num_layers'")):
        (folder / "transformer" / "config.json").write_text(text)
        with pytest.raises(BackendError, match=says):
            describe(folder)
    config = {"num_layers": -1, "num_attention_heads": 2, "attention_head_dim": 2}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError, match=r"it says .*-1"):
        describe(folder)


def test_an_import_that_is_killed_leaves_nothing_under_its_name(base: Path, tmp_path: Path) -> None:
    """At every third of its steps: no folder, the base as it was, and the next import cleans up."""
    save_file(PLAIN, tmp_path / "w.safetensors")
    to, before = tmp_path / "to", contents(base)

    def run() -> None:
        import_checkpoint(tmp_path / "w.safetensors", base, to)

    step = 1
    while killed_at(step, run) and not to.exists():  # where it is after all, it must be whole
        assert contents(base) == before
        step += 3
    assert step > 12
    assert {path.name for path in tmp_path.iterdir()} == {"to", "w.safetensors"}
    assert contents(base) == before
    assert describe(to)["missing"] == []
