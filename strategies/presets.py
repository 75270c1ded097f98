"""Published systems as compositions. "-released" differs from the paper as its released code does."""

from dataclasses import dataclass

from rollout.registry import find
from rollout.sampler import Schedule
from rollout.strategies.archive import Archive
from rollout.strategies.clips import Clips
from rollout.strategies.deep import Deep
from rollout.strategies.heads import Dummy
from rollout.strategies.orders import Rolling
from rollout.strategies.papers import (
    CAUSAL_FORCING,
    CAUSAL_FORCING_PLUS,
    CAUSVID,
    DEEP_FORCING,
    DUMMY_FORCING,
    INFINITE_FORCING,
    INFINITY_ROPE,
    LOL,
    LONGLIVE,
    MEMROPE,
    REWARD_FORCING,
    ROLLING_FORCING,
    ROLLING_SINK,
    SELF_FORCING,
    Paper,
)
from rollout.strategies.policies import Ema, EmaSink, Fifo, Sink
from rollout.strategies.positions import Absolute, Cut, Online, Relativistic
from rollout.strategies.reads import Newest
from rollout.strategies.spectra import Jitter
from rollout.strategies.switches import Flush, Keep, Recache
from rollout.strategy import Strategy

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """A composition with its source; some models go with noise levels and a block size of their own.

    `papers` are what to cite, the first before the others.
    """

    strategy: Strategy
    source: str
    note: str
    schedule: Schedule | None = None
    block: int | None = None
    papers: tuple[Paper, ...] = ()


PRESETS = {
    "self-forcing": Preset(
        Strategy(Absolute(), Fifo(21), Keep()),
        "arXiv 2506.08009",
        "the baseline: keys rotated at the frame's own number, first in, first out",
        papers=(SELF_FORCING,),
    ),
    "infinite-forcing": Preset(
        Strategy(Online(), Sink(6, 1), Keep()),
        "released code of Infinite-Forcing",
        "one sink frame, contiguous indices",
        papers=(INFINITE_FORCING, SELF_FORCING),
    ),
    "longlive": Preset(
        Strategy(Absolute(), Sink(12, 3), Recache("causal", "keep")),
        "arXiv 2509.22622",
        "three sink frames, a short window, KV Recache",
        papers=(LONGLIVE,),
    ),
    "longlive-released": Preset(
        Strategy(Absolute(), Sink(12, 3), Recache("bidirectional", "keep")),
        "released code of LongLive",
        "the recached frames attend to each other in both directions",
        papers=(LONGLIVE,),
    ),
    "infinity-rope": Preset(
        Strategy(Relativistic(cut=Cut(20, 1)), Sink(6, 1), Flush(1)),
        "arXiv 2511.20649",
        "Block-Relativistic RoPE, KV Flush, RoPE Cut to the trained horizon",
        papers=(INFINITY_ROPE,),
    ),
    "infinity-rope-released": Preset(
        Strategy(Relativistic(cut=Cut(47, 0)), Sink(6, 1), Flush(2)),
        "released code of Infinity-RoPE",
        "a flush keeps two frames; a cut moves the whole block, to 45, 46, 47",
        papers=(INFINITY_ROPE,),
    ),
    "memrope": Preset(
        Strategy(Online(), Ema(12, 3, (0.01, 0.1), "token", "fold"), Keep()),
        "arXiv 2603.12513",
        "two memory frames that average what is evicted, at each spatial token",
        papers=(MEMROPE,),
    ),
    "memrope-released": Preset(
        Strategy(Online(), Ema(12, 3, (0.01, 0.1), "frame", "drop"), Keep()),
        "released code of MemRoPE",
        "one mean over all evicted tokens; the first displaced frames are dropped",
        papers=(MEMROPE,),
    ),
    "deep-forcing": Preset(
        Strategy(Absolute(), Deep(21, 10, 16, 4, 7, "unified"), Keep()),
        "arXiv 2512.05081",
        "deep sinks and the tokens that most queries ask for, dated right before the recent frames",
        papers=(DEEP_FORCING,),
    ),
    "deep-forcing-released": Preset(
        Strategy(Absolute(), Deep(21, 10, 16, 4, 7, "own"), Keep()),
        "released code of Deep Forcing",
        "chosen tokens keep their own index; sinks stop a block short, and move at a compression only",
        papers=(DEEP_FORCING,),
    ),
    "deep-sink-released": Preset(
        Strategy(Relativistic(24, beyond=True), Sink(21, 14), Keep()),
        "released code of Deep Forcing, without compression",
        "fourteen sinks, re-dated every block with a hole of one block before the recent frames",
        papers=(DEEP_FORCING,),
    ),
    "rolling-forcing": Preset(
        Strategy(Online(), Sink(24, 3), Keep(), reads=Newest(21), order=Rolling()),
        "arXiv 2509.25161",
        "five blocks at five noise levels in one pass; the clean pass reads no sinks once they are old",
        Schedule.of(5),
        papers=(ROLLING_FORCING,),
    ),
    "reward-forcing": Preset(
        Strategy(Online(), EmaSink(9, 3, 0.001), Keep()),
        "arXiv 2512.04678",
        "each sink averages the frames that are evicted, one in a thousand parts a block",
        papers=(REWARD_FORCING,),
    ),
    "rolling-sink": Preset(
        Strategy(Absolute(), Archive(21), Keep()),
        "arXiv 2602.07775",
        "the first window is played to and fro in place of what grows old, at its dates",
        papers=(ROLLING_SINK,),
    ),
    "dummy-forcing": Preset(
        Strategy(Absolute(), Dummy(0.5), Keep()),
        "arXiv 2601.20499",
        "heads sorted by what they look at: half of them see one frame, the others three, or the first",
        papers=(DUMMY_FORCING,),
    ),
    "causal-forcing": Preset(
        Strategy(Absolute(), Fifo(21), Keep()),
        "released code of Causal-Forcing++, frame by frame",
        "blocks of one frame in two steps, the first frame in four",
        Schedule((1.0, 0.5), first=Schedule()),
        1,
        papers=(CAUSAL_FORCING_PLUS, CAUSAL_FORCING),
    ),
    "causvid": Preset(
        Strategy(Online(), Clips(21, 3), Keep()),
        "arXiv 2412.07772",
        "clips of 21 frames, each from the last three of the one before, encoded again; three steps, not warped",
        Schedule((1.0, 0.757, 0.522), 8.0, warp=False),
        papers=(CAUSVID,),
    ),
    "lol": Preset(
        Strategy(Absolute(), Sink(12, 3), Keep(), Jitter(0.8)),
        "arXiv 2601.16914",
        "a base angle of its own for every head, so that not all fall back on the sinks at once",
        papers=(LOL,),
    ),
}


def preset(name: str) -> Strategy:
    """The strategy of a preset by name. Raises SpecError with the closest name."""
    strategy: Strategy = find("presets", name).strategy
    return strategy
