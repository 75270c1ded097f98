"""rollout: cache policies and positional schemes of autoregressive video diffusion, as parts to swap and compare."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.backend import Attend as Attend
    from rollout.backend import Backend as Backend
    from rollout.backend import BackendDefaults as BackendDefaults
    from rollout.backend import Decoder as Decoder
    from rollout.backend import Spec as Spec
    from rollout.backends import load_backend as load_backend
    from rollout.benchmarks.metrics.check import check_metric as check_metric
    from rollout.benchmarks.metrics.sample import Sample as Sample
    from rollout.benchmarks.metrics.score import Curve as Curve
    from rollout.benchmarks.metrics.score import Metric as Metric
    from rollout.benchmarks.metrics.score import Score as Score
    from rollout.errors import BackendError as BackendError
    from rollout.errors import CacheError as CacheError
    from rollout.errors import CompositionError as CompositionError
    from rollout.errors import PromptError as PromptError
    from rollout.errors import RolloutError as RolloutError
    from rollout.errors import ScriptError as ScriptError
    from rollout.errors import SpecError as SpecError
    from rollout.loop import Result as Result
    from rollout.loop import Rollout as Rollout
    from rollout.loop import generate as generate
    from rollout.parts import Policy as Policy
    from rollout.parts import PolicyDefaults as PolicyDefaults
    from rollout.parts import Positions as Positions
    from rollout.parts import PositionsDefaults as PositionsDefaults
    from rollout.parts import Switch as Switch
    from rollout.parts import SwitchDefaults as SwitchDefaults
    from rollout.refinements import Order as Order
    from rollout.refinements import OrderDefaults as OrderDefaults
    from rollout.refinements import Reads as Reads
    from rollout.refinements import ReadsDefaults as ReadsDefaults
    from rollout.refinements import Spectrum as Spectrum
    from rollout.refinements import SpectrumDefaults as SpectrumDefaults
    from rollout.refinements import StoreDefaults as StoreDefaults
    from rollout.refinements import StoreRule as StoreRule
    from rollout.registry import load_plugin as load_plugin
    from rollout.registry import register as register
    from rollout.run.record import RunFolder as RunFolder
    from rollout.run.record import RunRecord as RunRecord
    from rollout.sampler import Schedule as Schedule
    from rollout.sampler import seeded as seeded
    from rollout.script import Script as Script
    from rollout.show.explain.trace import Trace as Trace
    from rollout.show.explain.trace import explain as explain
    from rollout.slots import Block as Block
    from rollout.slots import Edit as Edit
    from rollout.slots import Facts as Facts
    from rollout.slots import Mix as Mix
    from rollout.slots import Pass as Pass
    from rollout.slots import Pick as Pick
    from rollout.slots import Replay as Replay
    from rollout.slots import Role as Role
    from rollout.slots import Row as Row
    from rollout.slots import Slot as Slot
    from rollout.slots import View as View
    from rollout.slots import flush as flush
    from rollout.slots import in_order as in_order
    from rollout.slots import keep as keep
    from rollout.slots import of_role as of_role
    from rollout.strategies.policies import admit as admit
    from rollout.strategies.presets import preset as preset
    from rollout.strategy import Strategy as Strategy
    from rollout.testing import check_backend as check_backend
    from rollout.testing import check_rule as check_rule
    from rollout.timeline import Cut as Cut
    from rollout.timeline import Event as Event
    from rollout.timeline import Moment as Moment
    from rollout.timeline import Once as Once
    from rollout.timeline import Prompt as Prompt
    from rollout.timeline import Timeline as Timeline
    from rollout.timeline import Use as Use
    from rollout.world import World as World

_HOME = {
    "backend": "Attend Backend BackendDefaults Decoder Spec",
    "backends": "load_backend",
    "benchmarks.metrics.check": "check_metric",
    "benchmarks.metrics.sample": "Sample",
    "benchmarks.metrics.score": "Curve Metric Score",
    "errors": "BackendError CacheError CompositionError PromptError RolloutError ScriptError SpecError",
    "loop": "Result Rollout generate",
    "registry": "load_plugin register",
    "run.record": "RunFolder RunRecord",
    "sampler": "Schedule seeded",
    "script": "Script",
    "refinements": "Order OrderDefaults Reads ReadsDefaults Spectrum SpectrumDefaults StoreDefaults StoreRule",
    "show.explain.trace": "Trace explain",
    "slots": "Block Edit Facts Mix Pass Pick Replay Role Row Slot View flush in_order keep of_role",
    "strategies.policies": "admit",
    "strategies.presets": "preset",
    "parts": "Policy PolicyDefaults Positions PositionsDefaults Switch SwitchDefaults",
    "strategy": "Strategy",
    "testing": "check_backend check_rule",
    "timeline": "Cut Event Moment Once Prompt Timeline Use",
    "world": "World",
}
_WHERE = {name: f"rollout.{module}" for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `import rollout` and `rollout --help` need no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rollout' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
