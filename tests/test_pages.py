"""The documentation's programs run, and print what the pages say."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollout import registry
from rollout.cli import app

DOCS = Path(__file__).parent.parent / "docs"


def programs(page: str) -> dict[str, str]:
    """The programs of a page in Python, each by the heading above it."""
    sections = (section.partition("\n") for section in re.split(r"^##+ ", (DOCS / page).read_text(), flags=re.M)[1:])
    return {title: program for title, _, body in sections for program in re.findall(r"```python\n(.*?)```", body, re.S)}


def outputs(program: str) -> list[str]:
    """The lines that a program says it prints: comments behind a print, and below the last one."""
    behind = re.findall(r"^\s*print\(.*\)  # (.+)$", program, re.M)
    return behind + re.findall(r"^# (.+)$", program, re.M)


def run(program: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a program prints, line by line. What it registers stays until the test's end."""
    exec(compile(program, "page", "exec"), {"__name__": "page"})  # the project's own text
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, and a registry that forgets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_added", {group: dict(items) for group, items in registry._added.items()})
    return tmp_path


TEN = programs("python.md")


def test_there_are_ten_short_programs() -> None:
    assert len(TEN) == 10
    for title, program in TEN.items():
        assert 3 <= sum(map(bool, program.splitlines())) <= 18, title


@pytest.mark.parametrize("title", TEN)
def test_a_program_runs_and_prints_what_the_page_says(
    title: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(TEN[title], capsys)
    for text in outputs(TEN[title]):
        assert text in lines
    files = {"The trace and its picture": "trace.png", "A GIF": "circle.gif", "Save and restore": "run.safetensors"}
    assert [path.name for path in scratch.iterdir()] == ([files[title]] if title in files else [])


OWN = programs("own.md")
FILES = dict(re.findall(r"^## (.+)\n+Save it as `(\w+\.py)`", (DOCS / "own.md").read_text(), re.M))


def commands(page: str) -> list[list[str]]:
    """The commands of a page, without `rollout`."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.S)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("title", OWN)
def test_a_rule_of_ones_own_passes_its_check_and_works_in_every_command(title: str, scratch: Path) -> None:
    path = scratch / FILES[title]
    path.write_text(OWN[title])
    with pytest.MonkeyPatch.context() as once:  # as a program, which checks what it registers
        once.setattr(registry, "_added", {group: dict(items) for group, items in registry._added.items()})
        runpy.run_path(str(path), run_name="__main__")
    lines = [line for line in commands("own.md") if path.name in line]
    assert lines
    for line in lines:
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
        assert path.stem in result.stdout


def test_the_page_has_one_of_each_kind() -> None:
    assert sorted(FILES) == sorted(OWN)
    checks = [re.findall(r"check_(\w+)\(", program)[-1] for program in OWN.values()]
    assert checks == ["rule", "rule", "rule", "metric", "backend"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_page_links_to_is_there(name: str) -> None:
    """Those of docs/ are looked at where they are built."""
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", (DOCS.parent / name).read_text()):
        assert (DOCS.parent / path).exists(), path
