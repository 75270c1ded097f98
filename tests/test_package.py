"""The house: folders, links, wheel, and the direction of imports."""

import ast
import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("strategies", "backends", "benchmarks", "cli")
STOREYS = ("run", "show")
"""What lies in the core's folder and stands above strategies and backends."""
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders() -> dict[str, str]:
    """Every package and its folder, each once: the core's own, and what its links name."""
    packages = {"rollout": "rollout"}
    for top in (*(f"rollout/{part}" for part in ("testing", *STOREYS)), *TOP):
        for init in sorted((ROOT / top).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT).as_posix()
            packages["rollout." + folder.removeprefix("rollout/").replace("/", ".")] = folder
    return packages


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
        "benchmarks/study/study.html",
        "cli/gen.py",
        "show/base.html",
        "show/base.css",
        "show/theme.js",
        "show/live/session.py",
        "show/live/live.html",
        "show/live/live.css",
        "show/live/link.js",
        "show/explain/page.html",
        "show/explain/page.css",
        "show/explain/page.js",
        "show/explain/ruler.js",
    ):
        assert f"rollout/{need}" in names
    sources = {f"rollout/{p.relative_to(ROOT / 'rollout').as_posix()}" for p in (ROOT / "rollout").glob("*.py")}
    assert sources <= set(names)


def imported(tree: ast.AST) -> set[str]:
    """The modules, and the names from them, that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports(path: Path) -> set[str]:
    return imported(ast.parse(path.read_text()))


def sources() -> list[Path]:
    """Every module once, not through the links."""
    return [path for folder in sorted(set(folders().values())) for path in sorted((ROOT / folder).glob("*.py"))]


UPWARDS = {
    "rollout/__init__.py": "the names that users import",
    "rollout/__main__.py": "starts the command",
}
"""Modules that may import what stands above them, and why."""


def storey(name: str) -> str:
    """The storey of a module, by its dotted name without "rollout.": one of STOREYS and TOP, or the core."""
    first = name.split(".")[0]
    return first if first in (*STOREYS, *TOP) else "core"


def test_arrows_point_down() -> None:
    """cli -> benchmarks -> show -> run -> {strategies, backends} -> core."""
    may = {
        "core": {"core"},
        "strategies": {"core", "strategies"},
        "backends": {"core", "backends"},
        "run": {"core", "strategies", "backends", "run"},
        "show": {"core", "strategies", "backends", "run", "show"},
        "benchmarks": {"core", "strategies", "backends", "run", "show", "benchmarks"},
        "cli": {"core", *STOREYS, *TOP},
    }
    upwards = set()
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        used = {storey(module.removeprefix("rollout.")) for module in imports(path) if module.startswith("rollout.")}
        if used - may[storey(name.removeprefix("rollout/").removesuffix(".py").replace("/", "."))]:
            upwards.add(name)
    assert upwards == set(UPWARDS)


KNOWS = {"backends/__init__.py": "the registry's table: a name, and what is imported for it on first use"}
"""Modules outside backends/sprites that may name the sprites elsewhere than in a default, and why."""


def defaults(tree: ast.AST) -> set[ast.AST]:
    """What an option, a field or a key that is not there falls back on: def f(x=VALUE), x: str = VALUE, d.get(x, VALUE)."""
    values: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            values |= {value for value in (*node.defaults, *node.kw_defaults) if value is not None}
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            values.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            values |= set(node.args[1:])
    return values


def knows_sprites(source: str) -> bool:
    """Whether a module imports the sprites, or has their name anywhere but as a default: to compare with, or to look up."""
    tree = ast.parse(source)
    constants = {node for node in ast.walk(tree) if isinstance(node, ast.Constant)} - defaults(tree)
    texts = [node.value for node in constants if isinstance(node.value, str)]
    modules = [name for name in (*imported(tree), *texts) if f"{name}.".startswith("rollout.backends.sprites.")]
    return bool(modules) or "sprites" in texts


def test_a_second_world_is_one_folder() -> None:
    """Nothing outside backends/sprites compares a backend's name with theirs or imports them."""
    outside = [
        path for path in [*sources(), *(ROOT / "docs").glob("*.py")] if "backends/sprites" not in path.as_posix()
    ]
    assert len(outside) > 100
    names = {path.relative_to(ROOT).as_posix() for path in outside if knows_sprites(path.read_text())}
    assert names == set(KNOWS)


@pytest.mark.parametrize(
    ("source", "knows"),
    [
        ("if spec.name == 'sprites': pass", True),
        ("if spec.name in ('wan', 'sprites'): pass", True),
        ("match name:\n    case 'sprites': pass", True),
        ("TRACKERS = {'sprites': 1}", True),
        ("NAME = 'sprites'", True),
        ("from rollout.backends.sprites.trackers import track", True),
        ("from rollout.backends import sprites", True),
        ("import rollout.backends.sprites as s", True),
        ("import_module('rollout.backends.sprites.world')", True),
        ("def gen(backend: str = 'sprites'): pass", False),
        ("class Recipe:\n    backend: str = 'sprites'", False),
        ("find('backends', data.get('backend', 'sprites'))", False),
        ("from rollout.backends import load_backend", False),
        ("a = 'the sprites'", False),
    ],
)
def test_the_look_for_sprites_sees_them(source: str, knows: bool) -> None:
    assert knows_sprites(source) is knows


def public_names(body: list[ast.stmt]) -> list[str]:
    """The names without an underscore that a module defines itself; type variables of one letter are its own affair."""
    names: list[str] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
    return [name for name in names if not name.startswith("_") and len(name) > 1]


@pytest.mark.parametrize("path", [p.relative_to(ROOT).as_posix() for p in sources() if p.stem != "__main__"])
def test_a_module_says_what_is_public(path: str) -> None:
    """`__all__` names only what is there, and in the core, the strategies and the backends all of it."""
    names = public_names(ast.parse((ROOT / path).read_text()).body)
    module = importlib.import_module("rollout." + path.removeprefix("rollout/").removesuffix(".py").replace("/", "."))
    told = getattr(module, "__all__", None)
    if told is None:
        assert not names, f"{path} has public names and no __all__"
        return
    assert len(told) == len(set(told))
    assert all(hasattr(module, name) for name in told)
    if storey(path.removeprefix("rollout/").removesuffix(".py").replace("/", ".")) in (
        "core",
        "strategies",
        "backends",
    ):
        assert not set(names) - set(told)


def test_what_a_rule_needs_is_imported_flat_and_without_torch() -> None:
    code = (
        "import sys; import rollout; assert 'torch' not in sys.modules; "
        "from rollout import Block, Edit, View, PolicyDefaults, Replay, Role, Slot, Strategy, SwitchDefaults, "
        "admit, flush, keep, of_role, register; assert 'torch' not in sys.modules; "
        "assert all(hasattr(rollout, name) for name in rollout.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pure_modules_import_no_torch() -> None:
    modules = [
        "script",
        "slots",
        "strategy",
        "plan",
        "specs",
        "show.explain.cells",
        "show.explain.views",
        "strategies.presets",
    ]
    code = f"import sys, {', '.join('rollout.' + m for m in modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def imported_at_start(path: Path) -> set[str]:
    """The modules that are imported with a module, and not by its functions or for its types alone."""
    body = ast.parse(path.read_text()).body
    nodes = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    run = [node for node in nodes if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return set().union(*map(imported, run))


def test_matplotlib_is_imported_where_a_picture_is_drawn() -> None:
    """In the function that draws: a command that draws nothing starts without it."""
    eager = [
        path for path in sources() if any(f"{name}.".startswith("matplotlib.") for name in imported_at_start(path))
    ]
    assert not eager
