"""The identity of what a metric measures with: a digest of source files, so that a corrected metric gets another."""

import ast
import sys
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from rollout.registry import find, names

__all__ = ["digest", "worlds"]

FOLLOWED = ("rollout.benchmarks.metrics.", "rollout.backends.")
"""Packages whose modules measure: what a metric imports from them, trackers and extractors, is part of it."""


def digest(modules: Iterable[str]) -> str:
    """Sixteen digits for the source files of modules and of all that they import from FOLLOWED, near or far.

    How a video is decoded and which version of torch computes is not in it: versions stand in the run's record.
    """
    sources: dict[str, bytes] = {}
    waiting = sorted(set(modules))
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name not in sources and path is not None:
            sources[name] = path.read_bytes()
            waiting += [other for other in _imported(sources[name]) if other.startswith(FOLLOWED)]
    total = sha256()
    for name, text in sorted(sources.items()):
        total.update(f"{name} {len(text)} ".encode() + text)
    return total.hexdigest()[:16]


def worlds() -> tuple[str, ...]:
    """The modules of all worlds whose truth is known: they track what a metric of a world judges."""
    every = (find("backends", name).world for name in names("backends"))
    return tuple(type(world).__module__ for world in every if world is not None)


def _source(name: str) -> Path | None:
    """The file of a module, None where there is no such module or no file."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:  # a name in a module, which an import may as well be
            return None
        file = spec.origin if spec is not None else None
    return Path(file) if file is not None and Path(file).is_file() else None


@cache
def _imported(text: bytes) -> tuple[str, ...]:
    """Every dotted name that a source file imports, also in functions: modules, or names in them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
