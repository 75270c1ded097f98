"""rollout: cache policies and positional schemes of autoregressive video diffusion, as parts to swap and compare."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.backends import load_backend as load_backend
    from rollout.errors import RolloutError as RolloutError
    from rollout.loop import Result as Result
    from rollout.loop import Rollout as Rollout
    from rollout.loop import generate as generate
    from rollout.registry import register as register
    from rollout.sampler import Schedule as Schedule
    from rollout.script import Script as Script
    from rollout.strategies.presets import preset as preset
    from rollout.strategy import Strategy as Strategy

_WHERE = {
    "Result": "rollout.loop",
    "Rollout": "rollout.loop",
    "RolloutError": "rollout.errors",
    "Schedule": "rollout.sampler",
    "Script": "rollout.script",
    "Strategy": "rollout.strategy",
    "generate": "rollout.loop",
    "load_backend": "rollout.backends",
    "preset": "rollout.strategies.presets",
    "register": "rollout.registry",
}
__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `import rollout` and `rollout --help` need no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rollout' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
