"""What people have becomes a folder that loads: checkpoints, LoRAs, and what is neither."""

import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

from rollout.backends.wan.folder import describe
from rollout.backends.wan.weights import import_checkpoint
from rollout.errors import OutputError
from rollout.files import alone, link_or_copy, new_tree
from tests.test_wan import original_names, small_parts, transformer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything but weights of a transformer."""
    path = tmp_path_factory.mktemp("base") / "tiny"
    transformer().save_config(path / "transformer")
    small_parts(path)
    return path


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
    killed, living, other = (tmp_path / name for name in (".to.1.partial", ".to.2.partial", ".too.1.partial"))
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
