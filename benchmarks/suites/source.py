"""A suite file as TOML has it; whatever is wrong is said with its line and the fix."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import Struct, field

from rollout.benchmarks.suites.lines import line_of
from rollout.documents import check_depth, read_bytes
from rollout.errors import SuiteError
from rollout.text import Json, cause, hint

__all__ = ["SORTS", "Source", "SuiteFile", "read_source"]


class SuiteFile(Struct, frozen=True):
    """The keys of a suite file, each of its kind; what stands in lists and tables is read by those who use it."""

    name: str | None = None
    about: str = ""
    backend: str = "sprites"
    options: Json = field(default_factory=dict)
    scripts: list[Any] = field(default_factory=list)
    fill: Json = field(default_factory=dict)
    draw: int | None = None
    seeds: int | list[Any] = 1
    fixed: bool = False
    marks: bool = True
    prefix: int = 0
    steps: int = 4
    metrics: list[Any] = field(default_factory=list)
    baseline: str | None = None
    primary: str | None = None
    axis: Json | None = None
    strategies: Json = field(default_factory=dict)
    grid: Json | None = None
    controls: Json = field(default_factory=dict)
    claims: list[Any] = field(default_factory=list)
    answers: Json = field(default_factory=dict)


MOST = 16 * 2**20
"""Bytes of a suite file."""
SORTS = {
    "str": "a text",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls each kind, and what a person does."""


class Source:
    """A file's values, with the lines on which they stand."""

    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path, self.text, self.data = path, text, data
        for key in data:
            self.known(key, SuiteFile.__struct_fields__, key)
        try:
            self.file = msgspec.convert(data, SuiteFile)
        except msgspec.ValidationError as error:
            key = str(error).rpartition("$.")[2].rstrip("`")
            kinds = [sort for kind, sort in SORTS.items() if kind in str(error).partition(", got")[0]]
            self.refuse(f"{key!r} is {' or '.join(kinds)}, not {data[key]!r}.", key)

    def refuse(self, message: str, *keys: str, nth: int = 0) -> NoReturn:
        """Raise SuiteError at the line of a key, such as "grid", "positions"; in the `nth` of several tables."""
        raise SuiteError(f"{self.path}:{line_of(self.text, *keys, nth=nth)}: {message}")

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

    def number(self, key: Literal["prefix", "steps"], low: int, high: int) -> int:
        """A whole number within bounds."""
        value: int = self.file.prefix if key == "prefix" else self.file.steps
        if not low <= value <= high:
            self.refuse(f"{key} is {value}. Use {low} to {high}.", key)
        return value


def read_source(path: Path) -> Source:
    """A suite file's content, its keys checked. Raises SuiteError."""
    try:
        text = read_bytes(path, MOST).decode("utf-8-sig")  # editors of Windows write a mark first
    except (OSError, ValueError) as error:
        raise SuiteError(f"the suite {path} cannot be read: {cause(error)}. Give a TOML file in UTF-8.") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise SuiteError(f"the suite {path} cannot be read: it nests too deeply. Give a suite.") from error
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(where[1]) if where else len(text.splitlines())
        raise SuiteError(f"{path}:{line}: not valid TOML: {re.sub(r' *[(]at .*', '', str(error))}.") from error
    try:
        check_depth(data)
    except ValueError as error:
        raise SuiteError(f"the suite {path} cannot be read: {error}. Give a suite.") from error
    return Source(path, text, data)
