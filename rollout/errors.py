"""One tree of errors: everything that a user can cause is a RolloutError with one clear line."""

__all__ = [
    "BackendError",
    "CacheError",
    "CheckError",
    "CompositionError",
    "OutputError",
    "PromptError",
    "RolloutError",
    "ScriptError",
    "SpecError",
    "Stopped",
    "SuiteError",
]


class RolloutError(Exception):
    """Base of all errors that rollout raises on purpose; its text says what, why and what to do."""


class ScriptError(RolloutError):
    """A prompt script that cannot be read; `position` is the 0-based character it points at."""

    def __init__(self, message: str, script: str = "", position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message} (character {position + 1})")
        self.script, self.position = script, position

    def pointer(self) -> str:
        """The script's surroundings with a caret under the character, or an empty string."""
        if self.position is None:
            return ""
        start = max(0, self.position - 40)
        excerpt = "".join(c if c.isprintable() else "?" for c in self.script[start : self.position + 30])
        return f"{excerpt}\n{' ' * (self.position - start)}^"


class PromptError(RolloutError):
    """A prompt that a backend does not understand."""


class SpecError(RolloutError):
    """A strategy, a part of one, or its text or JSON form that is not valid."""


class CompositionError(SpecError):
    """Parts that do not go together, or that do not fit a backend."""


class CheckError(RolloutError, AssertionError):
    """A rule or a backend that breaks a promise of its protocol; says which."""


class CacheError(RolloutError):
    """A cache used against its rules: a stale reader, an incomplete clean pass, slots beyond the window."""


class BackendError(RolloutError):
    """A backend or checkpoint that cannot be loaded or does not fit."""


class SuiteError(RolloutError):
    """A benchmark suite file that is not valid; says the file and the line."""


class OutputError(RolloutError):
    """An output that cannot be written, or an input file that cannot be read."""


class Stopped(RolloutError):
    """A run that was asked to stop; its last snapshot says where it goes on. `code` is the exit code."""

    code = 130
