"""Parts of a strategy to and from JSON and text.

The same spec in Python, in JSON and on the command line: `relativistic:head=21,cut=20/1`. The grammar of a part is
read off its dataclass fields, so that a new rule needs no parser of its own.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rollout.errors import SpecError
from rollout.registry import find, names
from rollout.text import Json, hint

__all__ = [
    "GROUP_OF",
    "LEFT_OUT",
    "kind_of",
    "part_from_dict",
    "part_from_text",
    "part_to_dict",
    "part_to_text",
    "policy_and_switch",
    "refinements",
]

GROUP_OF = {
    "positions": "positions",
    "policy": "policies",
    "switch": "switches",
    "spectrum": "spectra",
    "reads": "reads",
    "order": "orders",
    "store": "stores",
}
"""The registry's group of each axis of a strategy."""
LEFT_OUT = {"left_out": True}
"""Metadata of a field that JSON leaves out at its default: one that came later, so that older records keep their identity."""


def kind_of(part: Any) -> str:
    """A part's kind: the name it is registered under."""
    return str(type(part).kind)


def part_to_dict(part: Any) -> Json:
    """The JSON form of one part: {"kind": ..., field: value, ...}."""
    fields = [
        f for f in dataclasses.fields(part) if not (f.metadata == LEFT_OUT and getattr(part, f.name) == _default(f))
    ]
    return {"kind": kind_of(part)} | {f.name: _plain(getattr(part, f.name)) for f in fields}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def part_from_dict(axis: str, data: Any) -> Any:
    """Build a part of an axis (positions, policy, switch, a refinement) from its JSON form. Raises SpecError."""
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
        raise SpecError(
            f'{axis} must be an object with a "kind", such as {{"kind": {names(GROUP_OF[axis])[0]!r}}}, not {_shown(data)}.'
        )
    cls = find(GROUP_OF[axis], data["kind"])
    return _build(cls, {k: v for k, v in data.items() if k != "kind"}, f"{axis} '{data['kind']}'")


def _build(cls: Any, values: Mapping[Any, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            advice = f"Its fields are {', '.join(fields)}." if fields else "It has no fields."
            raise SpecError(f"{where} has no field {str(name)[:60]!r}. {advice}")
    return cls(**{name: _coerce(value, fields[name], f"{where}: {name}") for name, value in values.items()})


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Check one JSON value against a field's type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        if value in args and isinstance(value, str):
            return value
        raise SpecError(f"{where} is one of {', '.join(map(repr, args))}, not {_shown(value)}.")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_coerce(v, args[0], where) for v in value)
        raise SpecError(f"{where} is a list, not {_shown(value)}.")
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(hint, value, where)
        raise SpecError(f"{where} is an object, not {_shown(value)}.")
    # JSON writes 1.0 as 1 and true is an int in Python: numbers are told apart by hand.
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SpecError(f"{where} is {_type_name(hint)}, not {_shown(value)}.")


def _type_name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, str(hint))


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def part_to_text(part: Any) -> str:
    """The command-line form with the fields that differ from their defaults: `relativistic:head=21,cut=47/0`."""
    texts = []
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if value != _default(f):
            flat = (
                dataclasses.astuple(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
            )
            parts = flat if isinstance(flat, tuple) else (flat,)
            texts.append(f"{f.name}=" + "/".join(map(_word, parts)))
    return kind_of(part) + (":" + ",".join(texts) if texts else "")


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def part_from_text(axis: str, text: str) -> Any:
    """Build a part from its command-line form. Raises SpecError."""
    kind, _, rest = text.partition(":")
    cls = find(GROUP_OF[axis], kind.strip())
    hints = typing.get_type_hints(cls)
    data: Json = {"kind": kind.strip()}
    for pair in rest.split(",") if rest.strip() else ():
        name, equals, value = (piece.strip() for piece in pair.partition("="))
        if not equals or not value:
            raise SpecError(f"{axis} {text!r}: {pair.strip()!r} is no FIELD=VALUE. Write {kind}:FIELD=VALUE,...")
        if name in data:
            raise SpecError(f"{axis} {text!r} gives {name!r} twice. Keep one.")
        data[name] = _read(value, hints[name]) if name in hints else value
    return part_from_dict(axis, data)


def _read(text: str, hint: Any) -> Any:
    """A field's text as JSON: numbers, null, words; lists and objects by `/` in the order of their fields."""
    args = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        names_ = [f.name for f in dataclasses.fields(hint)]
        pieces = text.split("/")
        if len(pieces) > len(names_):
            raise SpecError(f"{text!r} has {len(pieces)} parts; it takes {'/'.join(names_)}.")
        return {n: _scalar(p) for n, p in zip(names_, pieces, strict=False)}
    if typing.get_origin(hint) is tuple:
        return [_scalar(p) for p in text.split("/")]
    if hint is str or typing.get_origin(hint) is Literal or (args and str in args):
        return None if text == "null" else text
    return _scalar(text)


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text) if len(text) < 40 else text
    except ValueError:
        return text
    return value if isinstance(value, int | float | bool | None) else text


def policy_and_switch(text: str) -> tuple[Any, Any]:
    """Read `--cache`: POLICY+SWITCH, POLICY (switch keep) or SWITCH (policy sink). Raises SpecError."""
    pieces = [piece.strip() for piece in text.split("+")]
    if len(pieces) > 2 or not all(pieces):
        raise SpecError(
            f"the cache {text!r} is not POLICY+SWITCH. Write one of each, such as sink:window=12,sink=3+flush."
        )
    policies, switches = names("policies"), names("switches")
    policy = switch = None
    for piece in pieces:
        kind = piece.partition(":")[0].strip()
        if kind in switches and kind not in policies:
            if switch is not None:
                raise SpecError(f"the cache {text!r} names two switches. Keep one.")
            switch = part_from_text("switch", piece)
        elif kind in policies:
            if policy is not None:
                raise SpecError(f"the cache {text!r} names two policies. Keep one.")
            policy = part_from_text("policy", piece)
        else:
            raise SpecError(
                f"there is no policy or switch called {kind[:60]!r}. {hint(kind, policies + switches)}"
                f"Policies: {', '.join(policies)}; switches: {', '.join(switches)}."
            )
    return policy or find("policies", "sink")(), switch or find("switches", "keep")()


def refinements(texts: Sequence[str]) -> dict[str, Any]:
    """Read refinements, each "AXIS=RULE" such as `reads=commit:recent=9`. Raises SpecError."""
    axes = [axis for axis in GROUP_OF if axis not in ("positions", "policy", "switch")]
    parts: dict[str, Any] = {}
    for text in texts:
        axis, equals, rule = text.partition("=")
        if not equals or axis not in axes:
            raise SpecError(
                f"{text[:60]!r} is no refinement. {hint(axis, axes)}Write {', '.join(f'{name}=RULE' for name in axes)}."
            )
        if axis in parts:
            raise SpecError(f"the strategy names {axis} twice. Keep one.")
        parts[axis] = part_from_text(axis, rule)
    return parts
