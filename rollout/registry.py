"""Names to rules, backends and metrics: the home's own, those of installed plugins, those of a plugin file."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from rollout.errors import RolloutError, SpecError
from rollout.text import hint

__all__ = ["GROUPS", "RULES", "find", "load_plugin", "names", "register", "registered"]

_HOME = {
    "positions": ("rollout.strategies.positions:POSITIONS",),
    "policies": (
        "rollout.strategies.policies:POLICIES",
        "rollout.strategies.deep:POLICIES",
        "rollout.strategies.archive:POLICIES",
        "rollout.strategies.heads:POLICIES",
        "rollout.strategies.clips:POLICIES",
        "rollout.benchmarks.controls.policies:POLICIES",
    ),
    "switches": ("rollout.strategies.switches:SWITCHES",),
    "spectra": ("rollout.strategies.spectra:SPECTRA",),
    "reads": ("rollout.strategies.reads:READS",),
    "orders": ("rollout.strategies.orders:ORDERS",),
    "stores": ("rollout.strategies.stores:STORES",),
    "scores": ("rollout.picks:SCORES",),
    "facts": ("rollout.facts:FACTS",),
    "presets": ("rollout.strategies.presets:PRESETS",),
    "backends": ("rollout.backends:BACKENDS",),
    "metrics": ("rollout.benchmarks.metrics:METRICS",),
}
RULES = ("positions", "policies", "switches", "spectra", "reads", "orders", "stores")
GROUPS = tuple(_HOME)
_added: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
T = TypeVar("T")


def register(group: str, name: str) -> Callable[[T], T]:
    """Decorator that adds a rule, backend or metric under `name` for this process (a plugin file's way in).

    Raises SpecError for a group that is none, a rule of another kind than `name`, and a name that is built in.
    """
    if group not in GROUPS:
        raise SpecError(f"there is no group {group!r} to register in; there are {', '.join(GROUPS)}.")

    def add(item: T) -> T:
        _same_name(group, name, item)
        if _home(group).get(name, item) is not item:
            raise SpecError(f"{name!r} is the name of a built-in {_singular(group)}. Register yours under another.")
        _added[group][name] = item
        return item

    return add


@contextmanager
def registered(group: str, name: str, item: object) -> Iterator[None]:
    """As register, for a with block."""
    before = dict(_added[group])
    register(group, name)(item)
    try:
        yield
    finally:
        _added[group] = before


def _same_name(group: str, name: str, item: object) -> None:
    """A rule's `kind` is how records and specs name it: it must be the name that it is found under."""
    kind = getattr(item, "kind", name)
    if group in RULES and kind != name:
        raise SpecError(f"the rule {item!r} is registered as {name!r} but its kind is {kind!r}. Make them the same.")


@cache
def _home(group: str) -> dict[str, Any]:
    items: dict[str, Any] = {}
    for place in _HOME.get(group, ()):
        module, attribute = place.split(":")
        items |= getattr(importlib.import_module(module), attribute)
    return items


@cache
def _plugins(group: str) -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=f"rollout.{group}")}


def names(group: str) -> list[str]:
    """All names of a group, the home's own first."""
    return list(dict.fromkeys([*_home(group), *_plugins(group), *_added[group]]))


def find(group: str, name: str) -> Any:
    """The object called `name` in a group.

    Raises SpecError with the closest name, or where an installed plugin takes a built-in one.
    """
    if name in _plugins(group) and name in _home(group):
        raise SpecError(
            f"the installed plugin {_plugins(group)[name].value!r} offers a {_singular(group)} called {name!r}, which is built "
            "in: records could mean either. Uninstall it, or have it renamed."
        )
    for table in (_added[group], _home(group), _plugins(group)):
        if name in table:
            item = table[name]
            if table is _plugins(group):
                try:
                    item = item.load()
                except Exception as error:
                    raise SpecError(
                        f"the plugin {item.value!r} for {group} {name!r} failed to load: {error}"
                    ) from error
                _same_name(group, name, item)
            return item
    known_names = names(group)
    raise SpecError(
        f"there is no {_singular(group)} called {str(name)[:60]!r}. {hint(str(name), known_names)}"
        f"There are: {', '.join(known_names)}."
    )


def load_plugin(path: Path) -> None:
    """Run a plugin file, whose `register` decorators add its rules. Raises SpecError."""
    if not path.is_file():
        raise SpecError(f"the plugin file {path} does not exist. Give the path of a Python file.")
    spec = importlib.util.spec_from_file_location(f"rollout_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"the plugin file {path} is no Python file. Its name must end in .py.")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    before = {group: dict(items) for group, items in _added.items()}
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        _added.update(before)  # a file that fails adds nothing
        if isinstance(error, RolloutError):
            raise
        raise SpecError(f"the plugin file {path} failed: {type(error).__name__}: {error}") from error


def _singular(group: str) -> str:
    irregular = {
        "policies": "policy",
        "switches": "switch",
        "positions": "positions",
        "spectra": "spectrum",
        "reads": "reads",
    }
    return irregular.get(group, group[:-1])
