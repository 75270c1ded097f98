"""How soon a new prompt shows: the metric `reaction`, frame by frame while the rollout runs. For the sprite world alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rollout.backend import Spec
from rollout.video import Frames

if TYPE_CHECKING:
    from rollout.backends.sprites.trackers import Seen

LIMIT = 15
"""Latent frames within which a prompt change must show, as in the benchmark's metric `reaction`."""
BEFORE = 24
"""Frames before the change that the trackers see too: they measure a sprite's size against its usual one."""
SIZE = 32
PATH = ("x", "y", "radius", "eye")
"""From what an action is read."""
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
    _seen: list["Seen"] = field(default_factory=list)
    """The last blocks, each tracked once."""
    _wanted: Mapping[str, int] = field(default_factory=dict)
    _done: int | None = None
    """Frames since the change, while it is looked for."""

    def add(self, frames: Frames, before: str | None, prompt: str) -> None:
        """Add a block's frames; `before` is the last block's prompt."""
        from rollout.backends.sprites.trackers import WINDOW, track

        if frames.shape[1:3] != (SIZE, SIZE):
            return
        if before is not None and before != prompt:
            self._change(before, prompt)
        self._seen.append(track(torch.from_numpy(frames).movedim(-1, 1)[None] / 255))
        del self._seen[: -(BEFORE + LIMIT + WINDOW) // len(frames)]
        if self._done is not None:
            self._done += len(frames)
            self._look(self._done)

    def _change(self, before: str, prompt: str) -> None:
        from rollout.backends.sprites.grammar import parse

        old, new = parse(before), parse(prompt)
        named = {name: getattr(new, name) for name in NAMES}
        self._wanted = {n: v for n, v in named.items() if v is not None and v != getattr(old, n)}
        self._done = 0 if self._wanted else None
        self.told = {"state": "waiting", "frames": 0} if self._wanted else None

    def _look(self, done: int) -> None:
        """Obeyed after n frames: the action from the first window that shows it, all else from its first frame."""
        from rollout.backends.sprites.trackers import WINDOW, action

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(seen, name) for seen in self._seen], 1)

        firsts = []
        for name, wanted in self._wanted.items():
            if name == "action":
                shown, shift, last = action(*map(joined, PATH)), WINDOW // 2, done - WINDOW
            else:
                shown, shift, last = joined(name), 0, done - 1
            since = shown[0, shown.shape[1] - done + shift :]
            shows = since[: max(0, min(last, LIMIT) + 1)] == wanted
            firsts.append(int(shows.int().argmax()) if bool(shows.any()) else None)
        found = [first for first in firsts if first is not None]
        if len(found) == len(firsts):
            self.told, self._done = {"state": "obeyed", "frames": max(found)}, None
        elif done >= LIMIT + WINDOW:
            self.told, self._done = {"state": "never", "frames": LIMIT}, None
        else:
            self.told = {"state": "waiting", "frames": done}
