"""The rules: one small frozen dataclass each, and the published systems as compositions of them."""

from rollout.strategies.archive import Archive
from rollout.strategies.clips import Clips
from rollout.strategies.deep import Deep
from rollout.strategies.heads import ByHead, Dummy
from rollout.strategies.orders import Blocks, Rolling
from rollout.strategies.policies import Anchor, Ema, EmaSink, Fifo, Sink
from rollout.strategies.positions import Absolute, Cut, Online, Relativistic
from rollout.strategies.reads import All, Commit, Newest
from rollout.strategies.spectra import Interpolate, Jitter, Ntk, Plain, Riflex
from rollout.strategies.stores import Dense, Fp8, Host, Int8
from rollout.strategies.switches import Flush, Keep, Recache

__all__ = [
    "Absolute",
    "All",
    "Anchor",
    "Archive",
    "Blocks",
    "ByHead",
    "Clips",
    "Commit",
    "Cut",
    "Deep",
    "Dense",
    "Dummy",
    "Ema",
    "EmaSink",
    "Fifo",
    "Flush",
    "Fp8",
    "Host",
    "Int8",
    "Interpolate",
    "Jitter",
    "Keep",
    "Newest",
    "Ntk",
    "Online",
    "Plain",
    "Recache",
    "Relativistic",
    "Riflex",
    "Rolling",
    "Sink",
]
