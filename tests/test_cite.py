"""What to cite: every preset's paper as BibTeX, the toolkit's own entry, and pages that name every command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

import rollout
from rollout.cli import app
from rollout.errors import SpecError
from rollout.registry import registered
from rollout.strategies.papers import Paper
from rollout.strategies.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAPERS = sorted({paper for preset in PRESETS.values() for paper in preset.papers}, key=lambda paper: paper.key)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_cites_what_its_source_names(name: str) -> None:
    preset = PRESETS[name]
    assert preset.papers
    numbers = re.findall(r"\d{4}\.\d{5}", preset.source)
    assert numbers == [preset.papers[0].arxiv][: len(numbers)]
    output = run("cite", name).stdout
    assert output.count("@misc{") == len(preset.papers)
    for paper in preset.papers:
        assert f"title = {{{{{paper.title}}}}}" in output
        assert f"year = {{{paper.year}}}" in output


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.key)
def test_a_papers_facts_go_together(paper: Paper) -> None:
    assert paper.arxiv or paper.url
    if paper.arxiv:  # of a paper all is known, and the number says the year
        assert paper.year == 2000 + int(paper.arxiv[:2])
        assert len(paper.authors) > 2
    assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in paper.authors)
    assert paper.key.endswith(tuple("abcdefghijklmnopqrstuvwxyz0123456789"))
    assert str(paper.year) in paper.key
    entry = paper.bibtex()
    assert entry.count("{") == entry.count("}")
    assert "author = {}" not in entry


def test_keys_tell_papers_apart() -> None:
    assert len({paper.key for paper in PAPERS}) == len(PAPERS) == len({paper.address for paper in PAPERS})


def test_several_presets_cite_a_paper_once_and_none_means_all() -> None:
    assert run("cite", "memrope", "memrope-released", "lol").stdout.count("@misc{") == 2
    entries = json.loads(run("cite", "--json").stdout)
    assert sorted(entry["key"] for entry in entries) == [paper.key for paper in PAPERS]
    assert all("authors" not in entry or entry["authors"] for entry in entries)


def test_what_cites_nothing_says_so() -> None:
    with registered("presets", "mine", replace(PRESETS["memrope"], papers=())):
        assert "lol" in run("cite").stdout
        refused = run("cite", "mine").exception
    assert isinstance(refused, SpecError)
    assert "names no paper" in str(refused)
    assert "Did you mean 'memrope'" in str(run("cite", "memrop").exception)


def test_the_toolkits_own_entry_has_its_version_and_licence() -> None:
    entry = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert entry["version"] == rollout.__version__
    assert entry["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(entry)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command, from the root on."""
    inner = getattr(command, "commands", {})
    return [path, *(line for name, part in inner.items() for line in commands(part, (*path, name)))]


ALL = commands(typer.main.get_command(app))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_h_is_help_everywhere(path: tuple[str, ...]) -> None:
    short, long = run(*path, "-h"), run(*path, "--help")
    assert short.exit_code == 0
    assert "Usage:" in short.stdout
    assert short.stdout == long.stdout


def test_the_page_of_commands_has_every_one() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.M)) == sorted({path[0] for path in ALL if path})


def test_the_shell_completes_commands_and_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_ROLLOUT_COMPLETE": "complete_bash"}
        return CliRunner().invoke(app, [], env=words, prog_name="rollout").stdout.split()

    assert completed("rollout exp") == ["explain", "export"]
    assert completed("rollout gen --preset mem") == ["memrope", "memrope-released"]
    assert completed("rollout cite lol") == ["lol"]
