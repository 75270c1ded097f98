"""How soon a new prompt shows: the metric `reaction`, frame by frame while the rollout runs. For the sprite world alone."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rollout.backend import Spec
from rollout.video import Frames

LIMIT = 15
"""Latent frames within which a prompt change must show, as in the benchmark's metric `reaction`."""
BEFORE = 24
"""Frames before the change that the trackers see too: they measure a sprite's size against its usual one."""
SIZE = 32
NAMES = ("colour", "shape", "action", "background")


def vocabulary(spec: Spec) -> str:
    """What a prompt may say, where the backend knows only so much."""
    if spec.name != "sprites":
        return ""
    from rollout.backends.sprites.grammar import vocabulary as told

    return told()


def watch(spec: Spec) -> "Watch | None":
    """What measures a pane of this backend, if anything does."""
    return Watch() if spec.name == "sprites" and spec.stride == 1 else None


@dataclass
class Watch:
    """Follows one pane; `told` is what its badge says."""

    told: dict[str, Any] | None = None
    _frames: deque[Frames] = field(default_factory=lambda: deque(maxlen=BEFORE))
    _wanted: Mapping[str, int] = field(default_factory=dict)
    _since: list[Frames] | None = None

    def add(self, frames: Frames, before: str | None, prompt: str) -> None:
        """Add a block's frames; `before` is the last block's prompt."""
        if frames.shape[1:3] != (SIZE, SIZE):
            return
        if before is not None and before != prompt:
            self._change(before, prompt)
        if self._since is None:
            self._frames.extend(frames)
            return
        self._since.extend(frames)
        self._look()

    def _change(self, before: str, prompt: str) -> None:
        from rollout.backends.sprites.grammar import parse

        old, new = parse(before), parse(prompt)
        named = {name: getattr(new, name) for name in NAMES}
        self._wanted = {n: v for n, v in named.items() if v is not None and v != getattr(old, n)}
        self._frames.extend(self._since or ())
        self._since = [] if self._wanted else None
        self.told = {"state": "waiting", "frames": 0} if self._wanted else None

    def _look(self) -> None:
        """Obeyed after n frames: the action from the first window that shows it, all else from its first frame."""
        from rollout.backends.sprites.trackers import WINDOW, track

        assert self._since is not None
        video = np.stack([*self._frames, *self._since])
        seen = track(torch.from_numpy(video).movedim(-1, 1)[None] / 255)
        start, done = len(self._frames), len(self._since)
        firsts = []
        for name, wanted in self._wanted.items():
            shift, last = (WINDOW // 2, done - WINDOW) if name == "action" else (0, done - 1)
            shows = getattr(seen, name)[0, start + shift : start + shift + min(last, LIMIT) + 1] == wanted
            firsts.append(int(shows.int().argmax()) if bool(shows.any()) else None)
        found = [first for first in firsts if first is not None]
        if len(found) == len(firsts):
            self.told = {"state": "obeyed", "frames": max(found)}
        elif done >= LIMIT + WINDOW:
            self.told = {"state": "never", "frames": LIMIT}
        else:
            self.told = {"state": "waiting", "frames": done}
            return
        self._frames.extend(self._since)
        self._since = None
