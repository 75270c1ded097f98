"""The README does what it says."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_runs(tmp_path: Path) -> None:
    use, own = blocks("python")
    assert len(use.strip().splitlines()) <= 11
    check = "\nassert frames.shape == (3, 64, 64, 3)\nassert result.prompts == ('a red circle jumps on navy',)"
    exec(compile(use + check, "README.md", "exec"), {})
    (tmp_path / "dilated.py").write_text(own)
    command = [
        sys.executable,
        "-m",
        "rollout",
        "explain",
        "a[9s]",
        "--plugin",
        "dilated.py",
        "--cache",
        "dilated+flush",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "relativistic dilated+flush" in done.stdout


def test_ci_runs_the_readmes_commands() -> None:
    tests = next(b.strip() for b in blocks("bash") if "pytest" in b)
    setup, _, run = tests.rpartition(" && ")
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert setup in ci
    assert run in ci


def test_the_api_page_is_what_the_docstrings_say() -> None:
    import rollout

    space = runpy.run_path(str(ROOT / "docs" / "api.py"))
    assert (ROOT / "docs" / "api.md").read_text() == space["page"](), "run python docs/api.py > docs/api.md"
    assert sorted(" ".join(space["GROUPS"].values()).split()) == rollout.__all__


def test_what_it_links_to_is_there() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_page_of_picks_is_what_the_results_say() -> None:
    space = runpy.run_path(str(ROOT / "docs" / "which.py"))
    page = space["page"]()
    assert (ROOT / "docs" / "which.md").read_text() == page, "run python docs/which.py > docs/which.md"
    assert "| anchor 6/1 | `--pos relativistic --cache anchor:window=6,sink=1+keep` |" in page


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200
