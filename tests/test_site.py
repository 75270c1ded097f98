"""The site is built from the docs and the docstrings without a warning, and every public name has its page."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rollout
from tests.test_package import public_names

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
ROOT = Path(__file__).parent.parent
FOLDERS = {
    "rollout": ROOT / "rollout",
    "rollout.strategies": ROOT / "strategies",
    "rollout.backends": ROOT / "backends",
}
MODULES = {
    ".".join((package, *(part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"))): path
    for package, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
    if path.stem != "__main__"
}
"""All of the core, the strategies and the backends; links are not followed."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, "\n".join(line for line in built.stderr.splitlines() if "INFO" not in line)
    return folder


def test_every_name_that_users_import_has_a_page(site: Path) -> None:
    for name in rollout.__all__:
        page = (site / "reference" / f"{name}.html").read_text()
        assert f'id="{rollout._WHERE[name]}.{name}"' in page, name
        assert "doc-contents" in page, name


def test_every_public_name_of_a_module_has_its_place(site: Path) -> None:
    """On the page of the module that defines it, or on its own; a module may say that another's are public too."""
    places = {
        identifier
        for path in (site / "reference").rglob("*.html")
        for identifier in re.findall(r'id="(rollout\.[\w.]+)"', path.read_text())
    }
    ends = {place.rpartition(".")[2] for place in places}
    assert len(MODULES) > 60
    for module, path in MODULES.items():
        assert (site / "reference" / "modules" / f"{module}.html").is_file()
        own = public_names(ast.parse(path.read_text()).body)
        for name in getattr(importlib.import_module(module), "__all__", ()):
            assert f"{module}.{name}" in places or (name not in own and name in ends), f"{module}.{name}"


def test_every_page_of_the_docs_is_in_it(site: Path) -> None:
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    for name in (*pages, "index", "contributing", "changelog", "results", "model-card"):
        assert (site / f"{name}.html").is_file(), name
    names = (site / "api.html").read_text()
    for name in rollout.__all__:
        assert f'href="reference/{name}.html"' in names, name


def test_it_asks_for_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        asked = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text())
        assert not asked, path
