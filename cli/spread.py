"""Options that many commands share, declared once: a command takes them all as one value."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from rollout.text import Json

__all__ = ["Command", "spread"]

Command = Callable[..., None]


def spread(
    parameter: str, options: Mapping[str, tuple[Any, Any]], build: Callable[[Json], Any]
) -> Callable[[Command], Command]:
    """Give a command `options` (name: type and default) in place of its `parameter`, which gets what `build` makes of them."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapper(**values: Any) -> None:
            values_of_options = {name: values.pop(name) for name in options}
            command(**values, **{parameter: build(values_of_options)})

        parameters: list[inspect.Parameter] = []
        for parameter_of_command in inspect.signature(command, eval_str=True).parameters.values():
            if parameter_of_command.name != parameter:
                parameters.append(parameter_of_command.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for name, (annotation, default) in options.items()
            ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        wrapper.__annotations__ = {
            parameter_of_command.name: parameter_of_command.annotation for parameter_of_command in parameters
        }
        return wrapper

    return decorate
