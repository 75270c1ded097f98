"""The control `swap`: whose memory a rollout gets, and when."""

from collections.abc import Sequence

from rollout.backend import Spec
from rollout.script import Script
from rollout.timeline import blocks_of

__all__ = ["donor_of", "swap_block"]


def donor_of(scripts: Sequence[Script], prompt: int) -> int | None:
    """The next prompt whose script has the same timing, so that both can be rolled out together; None where there is none."""
    timings = [tuple((shot.seconds, shot.cut) for shot in script.shots) for script in scripts]
    after = ((prompt + n) % len(scripts) for n in range(1, len(scripts)))
    return next((other for other in after if timings[other] == timings[prompt]), None)


def swap_block(script: Script, spec: Spec, first: int) -> int:
    """The first block of the last shot, or a single shot's middle one; `first` blocks are a prefix."""
    blocks = list(blocks_of(script, spec, first=first))
    if len(script.shots) == 1:
        return max(first, len(blocks) // 2)
    return next(block.index for block in blocks if block.prompt == len(script.shots) - 1)
