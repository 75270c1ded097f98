"""Whether an object has all that its protocol says, and what to inherit where it has not."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["NEAR", "alike", "lacks", "missing", "unheard"]

NEAR = 0.75
"""How alike, of 1, two names are for one to be taken for a slip of the other."""


def missing(part: object, protocol: type) -> list[str]:
    """The members of a protocol that an object lacks."""
    return [name for name in _members(protocol) if not hasattr(part, name)]


def lacks(part: object, protocol: type, defaults: type) -> str:
    """What an object lacks of a protocol, what it has instead that reads alike, and the mixin `defaults` that has the rest.

    A sentence or two; empty where nothing lacks.
    """
    names = missing(part, protocol)
    if not names:
        return ""
    slips = alike(names, (name for name, _ in _own(part, defaults) if name not in _members(protocol)))
    left = [name for name in names if name not in slips]
    from_defaults = [name for name in left if hasattr(defaults, name)]
    to_add = [name for name in left if name not in from_defaults]
    cures = [f"rename {slip} to {name}" for name, slip in slips.items()]
    cures += [f"inherit rollout.{defaults.__name__}, which has {', '.join(from_defaults)}"] if from_defaults else []
    cures += [f"add {', '.join(to_add)}, as rollout.{protocol.__name__} says"] if to_add else []
    cure, has = " and ".join(cures), f"; it has {', '.join(slips.values())}" if slips else ""
    return f"lacks {', '.join(names)}{has}. {cure[0].upper()}{cure[1:]}."


def unheard(part: object, protocol: type, defaults: type) -> str:
    """A method of an object that nobody calls, since it reads like one that comes from `defaults`; empty where none does.

    Fields are the object's own affair: `share` is no slip of `spare`.
    """
    own, members = dict(_own(part, defaults)), _members(protocol)
    methods = [
        name for name, value in own.items() if name not in members and (callable(value) or type(value) is property)
    ]
    slips = alike((name for name in members if name not in own), methods)
    for name, slip in slips.items():
        return (
            f"has {slip}, which nobody asks: rollout.{protocol.__name__} calls it {name}. Rename it, or write _{slip}."
        )
    return ""


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """By name the one of `others` that reads most like it, where one does."""
    candidates = list(others)
    nearest = {name: get_close_matches(name, candidates, n=1, cutoff=NEAR) for name in names}
    return {name: near[0] for name, near in nearest.items() if near}


def _members(protocol: type) -> list[str]:
    """The public names of a protocol."""
    return [name for name in (*protocol.__annotations__, *vars(protocol)) if not name.startswith("_")]


def _own(part: object, defaults: type) -> list[tuple[str, object]]:
    """The public names of an object that are not of `defaults`, with what its class says of each."""
    classes = [base for base in type(part).__mro__[:-1] if base not in defaults.__mro__]
    fields = [name for base in classes for name in vars(base).get("__annotations__", ())]
    values = [(name, value) for base in classes for name, value in vars(base).items()]
    named = [*((name, None) for name in (*fields, *getattr(part, "__dict__", ()))), *values]
    return [(name, value) for name, value in named if not name.startswith("_")]
