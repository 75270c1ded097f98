"""How soon a new prompt shows: the metric `reaction`, frame by frame while the rollout runs, in a world that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rollout.backend import Spec
from rollout.run.video import Frames
from rollout.text import Json
from rollout.world import World

__all__ = ["LIMIT", "LOST", "Watch", "watch"]

LIMIT = 15
"""Latent frames within which a prompt change must show, as in the benchmark's metric `reaction`."""
LOST = 6
"""Frames without its subject after which a pane has lost it."""
SUBJECT = "subject"
BEFORE = 24
"""Frames before the change that the trackers see too: they measure a subject's size against its usual one."""


def watch(spec: Spec, world: World | None) -> "Watch | None":
    """What measures a pane of this backend, if anything does: a world whose latent frames are pixel frames."""
    return None if world is None or spec.stride != 1 else Watch(world)


@dataclass
class Watch:
    """Follows one pane; `state` is what its badge says.

    {"state": "waiting", "obeyed", "never" or "lost", "frames": since the change, or without the subject}, and "missing":
    what does not show, in words, where there is something.
    """

    world: World
    state: Json | None = None
    _frames: list[Frames] = field(default_factory=list)
    """The last blocks."""
    _wanted: Mapping[str, int] = field(default_factory=dict)
    _since: int | None = None
    """Frames since the change, while it is looked for."""
    _answer: Json | None = None
    """What came of the last change."""
    _subject: dict[str, int] = field(default_factory=dict)
    """How the prompts want the subject to look."""
    _absent: int = 0
    """Frames for which it has not looked so."""

    def add(self, frames: Frames, before: str | None, prompt: str) -> None:
        """Add a block's frames; `before` is the last block's prompt."""
        if frames.shape[1:3] != self.world.size:
            return
        if before != prompt:
            self._change(before, prompt)
        longest = max(prop.span for prop in self.world.properties.values())
        self._frames.append(frames)
        del self._frames[: -(BEFORE + LIMIT + longest) // len(frames)]
        self._look_at_subject(frames)
        if self._since is not None:
            self._since += len(frames)
            self._look(self._since, longest)
        lost = self._absent >= LOST and (self._answer or {}).get("state") in (None, "obeyed")
        self.state = {"state": "lost", "frames": self._absent, "missing": [SUBJECT]} if lost else self._answer

    def _change(self, before: str | None, prompt: str) -> None:
        new = self.world.parse(prompt)
        identity = self.world.groups.get("identity", ())
        self._subject |= {name: value for name, value in new.items() if name in identity}
        if before is None:
            return
        old = self.world.parse(before)
        self._wanted = {name: value for name, value in new.items() if value != old.get(name)}
        self._since = 0 if self._wanted else None
        self._answer = {"state": "waiting", "frames": 0} if self._wanted else None

    def _look_at_subject(self, frames: Frames) -> None:
        """Count the frames at the end in which the subject is not there, or looks otherwise."""
        if not self._subject:
            return
        values = self.world.track(frames).values
        there = np.all([values[name].numpy() == label for name, label in self._subject.items()], axis=0)
        self._absent = self._absent + len(frames) if not there.any() else int(there[::-1].argmax())

    def _look(self, since: int, longest: int) -> None:
        """Obeyed after n frames: a property that is read from several frames counts from the first of them.

        Not while the subject is gone: what obeys is it, and a scene without it answers to no prompt.
        """
        readings = self.world.track(np.concatenate(self._frames))
        firsts: dict[str, int | None] = {}
        for name, label in self._wanted.items():
            span = self.world.properties[name].span
            values = readings.values[name]
            after = values[len(values) - since + span // 2 :]
            last = min(since - span, LIMIT)  # the last window that lies wholly after the change
            shows = after[: max(0, last + 1)] == label
            firsts[name] = int(shows.int().argmax()) if bool(shows.any()) else None
        missing = [name for name, first in firsts.items() if first is None]
        words = list(dict.fromkeys("scene" if self.world.properties[name].scene else name for name in missing))
        words += [SUBJECT] * (self._absent > 0)
        if not words:
            reactions = [first for first in firsts.values() if first is not None]
            self._answer, self._since = {"state": "obeyed", "frames": max(reactions)}, None
        elif since >= LIMIT + longest:
            self._answer, self._since = {"state": "never", "frames": LIMIT, "missing": words}, None
        else:
            self._answer = {"state": "waiting", "frames": since, "missing": words}
