"""Published systems as compositions. "-released" differs from the paper as its released code does."""

from dataclasses import dataclass

from rollout.registry import find
from rollout.strategies.policies import Ema, Fifo, Sink
from rollout.strategies.positions import Absolute, Cut, Online, Relativistic
from rollout.strategies.switches import Flush, Keep, Recache
from rollout.strategy import Strategy

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """A composition with its source."""

    strategy: Strategy
    source: str
    note: str


PRESETS = {
    "self-forcing": Preset(
        Strategy(Absolute(), Fifo(21), Keep()),
        "arXiv 2506.08009",
        "the baseline: keys rotated at the frame's own number, first in, first out",
    ),
    "infinite-forcing": Preset(
        Strategy(Online(), Sink(6, 1), Keep()),
        "released code of Infinite-Forcing",
        "one sink frame, contiguous indices",
    ),
    "longlive": Preset(
        Strategy(Absolute(), Sink(12, 3), Recache("causal", "keep")),
        "arXiv 2509.22622",
        "three sink frames, a short window, KV Recache",
    ),
    "longlive-released": Preset(
        Strategy(Absolute(), Sink(12, 3), Recache("bidirectional", "keep")),
        "released code of LongLive",
        "the recached frames attend to each other in both directions",
    ),
    "infinity-rope": Preset(
        Strategy(Relativistic(cut=Cut(20, 1)), Sink(6, 1), Flush(1)),
        "arXiv 2511.20649",
        "Block-Relativistic RoPE, KV Flush, RoPE Cut to the trained horizon",
    ),
    "infinity-rope-released": Preset(
        Strategy(Relativistic(cut=Cut(47, 0)), Sink(6, 1), Flush(2)),
        "released code of Infinity-RoPE",
        "a flush keeps two frames; a cut moves the whole block, to 45, 46, 47",
    ),
    "memrope": Preset(
        Strategy(Online(), Ema(12, 3, (0.01, 0.1), "token", "fold"), Keep()),
        "arXiv 2603.12513",
        "two memory frames that average what is evicted, at each spatial token",
    ),
    "memrope-released": Preset(
        Strategy(Online(), Ema(12, 3, (0.01, 0.1), "frame", "drop"), Keep()),
        "released code of MemRoPE",
        "one mean over all evicted tokens; the first displaced frames are dropped",
    ),
}


def preset(name: str) -> Strategy:
    """The strategy of a preset by name. Raises SpecError with the closest name."""
    strategy: Strategy = find("presets", name).strategy
    return strategy
