"""A suite file as TOML has it; whatever is wrong is said with its line and the fix."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rollout.benchmarks.suites.lines import line_of
from rollout.errors import SuiteError
from rollout.text import hint

__all__ = ["KEYS", "Source", "read_source"]

KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "about": (str,),
    "backend": (str,),
    "options": (dict,),
    "scripts": (list,),
    "fill": (dict,),
    "draw": (int,),
    "seeds": (int, list),
    "fixed": (bool,),
    "marks": (bool,),
    "prefix": (int,),
    "steps": (int,),
    "metrics": (list,),
    "baseline": (str,),
    "primary": (str,),
    "axis": (dict,),
    "strategies": (dict,),
    "grid": (dict,),
    "controls": (dict,),
    "claims": (list,),
    "answers": (dict,),
}
SORTS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}


class Source:
    """A file's values, with the lines on which they stand."""

    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path, self.text, self.data = path, text, data

    def refuse(self, message: str, *keys: str, nth: int = 0) -> NoReturn:
        """Raise SuiteError at the line of a key, such as "grid", "positions"; in the `nth` of several tables."""
        raise SuiteError(f"{self.path}:{line_of(self.text, *keys, nth=nth)}: {message}")

    def check_keys(self) -> None:
        """Every key is known and of its kind. Raises SuiteError."""
        for key, value in self.data.items():
            self.known(key, KEYS, key)
            if not isinstance(value, KEYS[key]) or (isinstance(value, bool) and bool not in KEYS[key]):
                self.refuse(f"{key!r} is {' or '.join(SORTS[sort] for sort in KEYS[key])}, not {value!r}.", key)

    def known(self, key: str, among: Mapping[str, Any] | tuple[str, ...], *keys: str, nth: int = 0) -> None:
        """Raise SuiteError for a key that is none, with the closest."""
        if key not in among:
            self.refuse(f"unknown key {key!r}. {hint(key, among)}There are {', '.join(among)}.", *keys, nth=nth)

    def texts(self, *keys: str) -> tuple[str, ...]:
        """A list of texts under a key, () where there is none."""
        *tables, last = keys
        table = self.data
        for name in tables:
            table = table.get(name, {})
        value = table.get(last, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.refuse(f"{last!r} is a list of texts, not {value!r}.", *keys)
        return tuple(value)

    def number(self, key: str, low: int, high: int, *, default: int = 0) -> int:
        """A whole number within bounds."""
        value: int = self.data.get(key, default)
        if not low <= value <= high:
            self.refuse(f"{key} is {value}. Use {low} to {high}.", key)
        return value


def read_source(path: Path) -> Source:
    """A suite file's content, its keys checked. Raises SuiteError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"the suite {path} cannot be read: {error}. Give a TOML file in UTF-8.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(where[1]) if where else len(text.splitlines())
        raise SuiteError(f"{path}:{line}: not valid TOML: {re.sub(r' *[(]at .*', '', str(error))}.") from error
    source = Source(path, text, data)
    source.check_keys()
    return source
