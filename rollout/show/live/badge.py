"""How soon a new prompt shows: the metric `reaction`, frame by frame while the rollout runs, in a world that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rollout.backend import Spec
from rollout.run.video import Frames
from rollout.text import Json
from rollout.world import World

__all__ = ["LIMIT", "Watch", "watch"]

LIMIT = 15
"""Latent frames within which a prompt change must show, as in the benchmark's metric `reaction`."""
BEFORE = 24
"""Frames before the change that the trackers see too: they measure a subject's size against its usual one."""


def watch(spec: Spec, world: World | None) -> "Watch | None":
    """What measures a pane of this backend, if anything does: a world whose latent frames are pixel frames."""
    return None if world is None or spec.stride != 1 else Watch(world)


@dataclass
class Watch:
    """Follows one pane; `state` is what its badge says."""

    world: World
    state: Json | None = None
    _frames: list[Frames] = field(default_factory=list)
    """The last blocks."""
    _wanted: Mapping[str, int] = field(default_factory=dict)
    _since: int | None = None
    """Frames since the change, while it is looked for."""

    def add(self, frames: Frames, before: str | None, prompt: str) -> None:
        """Add a block's frames; `before` is the last block's prompt."""
        if frames.shape[1:3] != self.world.size:
            return
        if before is not None and before != prompt:
            self._change(before, prompt)
        longest = max(prop.span for prop in self.world.properties.values())
        self._frames.append(frames)
        del self._frames[: -(BEFORE + LIMIT + longest) // len(frames)]
        if self._since is not None:
            self._since += len(frames)
            self._look(self._since, longest)

    def _change(self, before: str, prompt: str) -> None:
        old, new = self.world.parse(before), self.world.parse(prompt)
        self._wanted = {name: value for name, value in new.items() if value != old.get(name)}
        self._since = 0 if self._wanted else None
        self.state = {"state": "waiting", "frames": 0} if self._wanted else None

    def _look(self, since: int, longest: int) -> None:
        """Obeyed after n frames: a property that is read from several frames counts from the first of them."""
        readings = self.world.track(np.concatenate(self._frames))
        firsts = []
        for name, label in self._wanted.items():
            span = self.world.properties[name].span
            values = readings.values[name]
            after = values[len(values) - since + span // 2 :]
            last = min(since - span, LIMIT)  # the last window that lies wholly after the change
            shows = after[: max(0, last + 1)] == label
            firsts.append(int(shows.int().argmax()) if bool(shows.any()) else None)
        reactions = [first for first in firsts if first is not None]
        if len(reactions) == len(firsts):
            self.state, self._since = {"state": "obeyed", "frames": max(reactions)}, None
        elif since >= LIMIT + longest:
            self.state, self._since = {"state": "never", "frames": LIMIT}, None
        else:
            self.state = {"state": "waiting", "frames": since}
