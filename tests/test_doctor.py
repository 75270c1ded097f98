"""`rollout doctor`: what is whole, what fits, and what to turn on; and the count of memory that it rests on."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from rollout import generate, preset
from rollout.backends.wan import SIZES, memory
from rollout.backends.wan.text import TextEncoder
from rollout.cli import main
from rollout.memory import cache_bytes
from rollout.registry import find, names
from tests.test_families import small
from tests.test_wan import small_parts, transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Wan folder with random weights."""
    path = tmp_path_factory.mktemp("doctor") / "tiny"
    transformer().save_pretrained(path / "transformer")
    small_parts(path)
    return path


def doctor(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["rollout", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def on(folder: Path) -> tuple[str, ...]:
    return "--backend", "wan", "--model", str(folder), "--height", "32", "--width", "48"


def test_a_whole_folder_will_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert doctor(monkeypatch, *on(folder)) == 0
    said = capsys.readouterr().out
    assert "infinity-rope takes about 0.0 GiB" in said
    assert "it will run" in said
    for name in names("presets"):
        assert f"\n{name} " in said
    assert "NO" not in said


def test_the_embedded_model_will_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert doctor(monkeypatch) == 0
    assert "'sprites' loads, and infinity-rope fits it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("transformer", "lacks 1 of"),
        ("vae", "lacks 1 of"),
        ("text_encoder", "lacks 1 of"),
        ("tokenizer", "has neither tokenizer.json nor spiece.model"),
    ],
)
def test_a_part_that_is_not_whole_is_named(
    part: str, says: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    if part == "tokenizer":
        (copy / part / "tokenizer.json").unlink()
    else:
        file = next((copy / part).glob("*.safetensors"))
        tensors = load_file(file)
        name = next(n for n in tensors if n.endswith("weight") and n not in ("shared.weight",))
        del tensors[name]
        file.unlink()
        save_file(tensors, file, metadata={"format": "pt"})
    assert doctor(monkeypatch, *on(copy)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("NO")).startswith(f"NO  {part}: {says}")
    assert "it will not run" in lines[-1]


def test_what_does_not_fit_is_told_what_to_turn_on(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    big = SIZES["1.3b"]
    with torch.device("meta"):
        models = {"transformer": WanTransformer3DModel(text_dim=4096, **big), "vae": AutoencoderKLWan()}
    real = folder.parent / "real"
    for part, model in models.items():
        (real / part).mkdir(parents=True)
        (real / part / "config.json").write_text(
            json.dumps({**model.config, "_class_name": type(model).__name__}, default=list)
        )
    monkeypatch.setattr("rollout.backends.wan.headers.check_parts", lambda folder: iter(()))
    # a pass of so many layers takes a second to count, and each command counts some
    wan_needs = cache(memory.wan_needs)
    monkeypatch.setattr(memory, "wan_needs", wan_needs)
    options = ("--backend", "wan", "--model", str(real), "--dtype", "bfloat16", "--free")
    assert doctor(monkeypatch, *options, "24") == 0
    assert doctor(monkeypatch, *options, "7") == 1
    said = capsys.readouterr().out
    assert "with --low-vram: 5.7 GiB, which fits" in said
    assert doctor(monkeypatch, *options, "7", "--low-vram") == 0
    needs = wan_needs(
        real, dtype=torch.bfloat16, vae_dtype=torch.float32, height=None, width=None, low_vram=False, guidance=None
    )
    assert round(needs.rolling["the VAE's features"] / 2**30, 1) == 3.5
    assert round(needs.rolling["transformer"] / 2**30, 2) == 2.64
    assert 0.2 < needs.passing / 2**30 < 0.6, "weights, of which a pass has views, are counted once"
    assert doctor(monkeypatch, *options, "8") == 1
    assert "with --vae-dtype bfloat16 --fp8-weights: " in capsys.readouterr().out


def test_the_vaes_features_take_what_is_counted(folder: Path) -> None:
    from rollout.backends.wan.vae import WanDecoder

    needs = memory.wan_needs(
        folder, dtype=torch.float32, vae_dtype=torch.float32, height=32, width=48, low_vram=False, guidance=None
    )
    decoder = WanDecoder(AutoencoderKLWan.from_pretrained(folder / "vae"))
    decoder.push(torch.randn(3, 16, 4, 6))
    features = [f for f in decoder.state()["features"] if isinstance(f, torch.Tensor)]
    assert sum(f.numel() * 4 for f in features) == needs.rolling["the VAE's features"]


@pytest.mark.parametrize("name", sorted(names("presets")))
def test_the_cache_takes_no_more_than_is_counted_and_not_much_less(name: str) -> None:
    entry = find("presets", name)
    wan = small("wan2.1")
    if entry.block:
        wan.spec = replace(wan.spec, block=entry.block)
    run = generate(wan, entry.strategy, "a cat[6s] | a dog[3s]", schedule=entry.schedule)
    steps = len(run.schedule.steps)
    for _ in run:
        pass
    count = cache_bytes(preset(name), wan.spec, 8, steps=steps)
    assert run.costs.held_bytes <= count <= 1.1 * run.costs.held_bytes


def test_a_text_encoder_that_does_not_fit_goes_to_the_cpu(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rollout.backends.wan.text.check_finite", lambda *_: None)  # "meta" has no values
    monkeypatch.setattr("rollout.backends.wan.text.free_bytes", lambda device: 10)
    encoder = TextEncoder(folder, device=torch.device("meta"), dtype=torch.float32, store=tmp_path)
    assert encoder._load()[1].device.type == "cpu"
    monkeypatch.setattr("rollout.backends.wan.text.free_bytes", lambda device: 2**30)
    assert encoder._load()[1].device.type == "meta"
