"""The house: folders, links, wheel, and the direction of imports."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("strategies", "backends", "benchmarks", "cli")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders() -> dict[str, str]:
    own = [path.parent for path in (ROOT / "rollout").glob("*/__init__.py") if not path.parent.is_symlink()]
    found = {"rollout": "rollout"} | {f"rollout.{path.name}": f"rollout/{path.name}" for path in own}
    for top in TOP:
        for init in sorted((ROOT / top).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT).as_posix()
            found["rollout." + folder.replace("/", ".")] = folder
    return found


def test_the_package_list_is_the_folders() -> None:
    assert sorted(CONFIG["packages"]) == sorted(folders())
    assert CONFIG["package-dir"] == folders()


@pytest.mark.parametrize("top", TOP)
def test_the_links_are_relative(top: str) -> None:
    link = ROOT / "rollout" / top
    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../{top}"


def test_the_wheel_holds_only_rollout(tmp_path: Path) -> None:
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {n.split("/")[0] for n in names} == {"rollout", "rollout_video-0.1.0.dist-info"}
    assert len(names) == len(set(names))
    for need in (
        "py.typed",
        "strategies/policies.py",
        "backends/sprites/sprites.safetensors",
        "backends/sprites/MODEL_CARD.md",
        "benchmarks/suites/smoke.toml",
        "benchmarks/leaderboard/leaderboard.html",
        "benchmarks/report/page.html",
        "benchmarks/report/step.js",
        "benchmarks/study/page.html",
        "cli/gen.py",
        "live/session.py",
        "live/live.html",
        "live/live.css",
        "live/link.js",
        "explain/page.html",
        "explain/page.css",
        "explain/page.js",
        "explain/ruler.js",
    ):
        assert f"rollout/{need}" in names
    sources = {f"rollout/{p.relative_to(ROOT / 'rollout').as_posix()}" for p in (ROOT / "rollout").glob("*.py")}
    assert sources <= set(names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_arrows_point_down() -> None:
    """cli -> benchmarks -> {strategies, backends} -> the core; evaluate.py, a script of a backend, composes strategies."""
    may = {
        "rollout": (),
        "strategies": ("strategies",),
        "backends": ("backends",),
        "benchmarks": ("benchmarks", "strategies", "backends"),
        "cli": TOP,
        "rollout/live": (),
    }
    for folder, allowed in may.items():
        if folder == "rollout":  # the core and its own packages, not what the links lead to
            files = [
                path
                for home in folders().values()
                if home.split("/")[0] == "rollout"
                for path in (ROOT / home).glob("*.py")
            ]
        else:
            files = list((ROOT / folder).rglob("*.py"))
        for path in files:
            if path.name in ("evaluate.py", "__main__.py") or (folder, path.name) == ("rollout", "__init__.py"):
                continue
            used = {
                name.split(".")[1] for name in imports(path) if name.startswith("rollout.") and name.count(".") >= 1
            }
            allowed_here = ("backends",) if path.name == "badge.py" else allowed  # the trackers of one backend, lazily
            assert not (used & set(TOP)) - set(allowed_here), f"{path.relative_to(ROOT)} imports upwards"


def test_pure_modules_import_no_torch() -> None:
    modules = ["script", "slots", "strategy", "plan", "specs", "explain.story", "explain.views", "strategies.presets"]
    code = f"import sys, {', '.join('rollout.' + m for m in modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
