"""Whether an object has all that its protocol says, and what to inherit where it has not."""

__all__ = ["lacks", "missing"]


def missing(part: object, protocol: type) -> list[str]:
    """The members of a protocol that an object lacks."""
    members = [name for name in (*protocol.__annotations__, *vars(protocol)) if not name.startswith("_")]
    return [name for name in members if not hasattr(part, name)]


def lacks(part: object, protocol: type, defaults: type) -> str:
    """What an object lacks of a protocol, and the mixin `defaults` that has it, as a sentence or two; empty where nothing."""
    names = missing(part, protocol)
    if not names:
        return ""
    inherited = [name for name in names if hasattr(defaults, name)]
    own = [name for name in names if name not in inherited]
    cures = [f"inherit rollout.{defaults.__name__}, which has {', '.join(inherited)}"] if inherited else []
    cures += [f"add {', '.join(own)}, as rollout.{protocol.__name__} says"] if own else []
    cure = " and ".join(cures)
    return f"lacks {', '.join(names)}. {cure[0].upper()}{cure[1:]}."
