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
    from_defaults = [name for name in names if hasattr(defaults, name)]
    to_add = [name for name in names if name not in from_defaults]
    cures = [f"inherit rollout.{defaults.__name__}, which has {', '.join(from_defaults)}"] if from_defaults else []
    cures += [f"add {', '.join(to_add)}, as rollout.{protocol.__name__} says"] if to_add else []
    cure = " and ".join(cures)
    return f"lacks {', '.join(names)}. {cure[0].upper()}{cure[1:]}."
