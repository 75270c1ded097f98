"""Where a run goes: a folder of its own, also when two start at once."""

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from rollout.errors import OutputError
from rollout.files import numbered_folder, output_folder


def test_the_first_number_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "out" / "002").mkdir(parents=True)
    assert [numbered_folder(tmp_path / "out").name for _ in range(3)] == ["001", "003", "004"]


def test_a_number_that_another_run_takes_first_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run makes its folder in the moment between the look and the making."""
    mkdir: Callable[..., None] = Path.mkdir

    def overtaken(path: Path, *args: object, **kwargs: object) -> None:
        if path.name in ("001", "002"):
            mkdir(path)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert numbered_folder(tmp_path).name == "003"


def _take(place: str, count: int) -> list[str]:
    return [numbered_folder(Path(place)).name for _ in range(count)]


def test_processes_that_start_at_once_share_no_folder(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        names = [name for taken in pool.starmap(_take, [(str(tmp_path / "out"), 40)] * 2) for name in taken]
    assert sorted(names) == [f"{number:03d}" for number in range(1, 81)]


def test_a_place_where_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("a file")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"no folder can be made in out.*Choose another --out"):
        output_folder(None)
