"""The rules: one small frozen dataclass each, and the published systems as compositions of them."""

from rollout.strategies.policies import Anchor, Ema, Fifo, Sink
from rollout.strategies.positions import Absolute, Cut, Online, Relativistic
from rollout.strategies.switches import Flush, Keep, Recache

__all__ = ["Absolute", "Anchor", "Cut", "Ema", "Fifo", "Flush", "Keep", "Online", "Recache", "Relativistic", "Sink"]
