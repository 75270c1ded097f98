"""The sprite world as the rest of the project sees it: its words, its truth over a script, its trackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rollout.backends.sprites.grammar import MARKS, Caption, parse, vocabulary
from rollout.backends.sprites.trackers import WINDOW, torus, track
from rollout.backends.sprites.trackers import Seen as Tracked
from rollout.backends.sprites.world import (
    CENTRE,
    DAY,
    GROUNDS,
    HUE,
    PIXELS,
    SIZE,
    TINT,
    World,
    apply_caption,
    motion,
    render,
    sample_world,
)
from rollout.world import Act, Property, Seen, Video

__all__ = ["IN_THE_DARK", "Scene", "SpriteSeen", "SpriteTruth", "SpriteWorld"]

IN_THE_DARK = ("colour", "shape", "action", "light", "tint", "hue", "position")
"""What a frame shows at night too."""


@dataclass(frozen=True)
class SpriteSeen:
    """Readings of one video; `covered` (F, places) says where the sprite hides a landmark."""

    values: Mapping[str, Tensor]
    covered: Tensor


class Scene(NamedTuple):
    """An act's world, one clip of one frame, and the times of its frames."""

    world: World
    time: Tensor
    """(F,) frames since the subject began its action."""


@dataclass(frozen=True)
class SpriteTruth:
    """A true clip, act by act."""

    values: Mapping[str, Tensor]
    visible: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    scenes: tuple[Scene, ...]

    def video(self) -> Video:
        """The true frames (F, 64, 64, 3), uint8."""
        frames = torch.cat([render(scene.world, scene.time[None])[0] for scene in self.scenes])
        video: Video = (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return video


class SpriteWorld:
    """`backend.world` of the sprites."""

    name = "sprites-2"
    size = (PIXELS, PIXELS)
    example = "a red circle walks right on navy"
    properties: Mapping[str, Property] = {
        "colour": Property("the sprite's colour, of six"),
        "shape": Property("the sprite's shape, of three"),
        "action": Property("what the sprite does, of seven, from a 7-frame window", span=WINDOW),
        "light": Property("day or night"),
        "background": Property("the sky, of six", scene=True),
        "ground": Property("the ground's height, of three; never in a prompt", scene=True),
        "place": Property("the landmark's place, of eight", scene=True),
        "mark": Property("the landmark's column, of four, which a prompt may name", scene=True),
        "ink": Property("the landmark's ink, of two; never in a prompt", scene=True),
        "position": Property("distance from the sprite's true place", "px"),
        "tint": Property(
            "difference of the sprite's brightness, a share of its colour's; never in a prompt", "brightness"
        ),
        "hue": Property("difference of the sprite's hue; never in a prompt", "degrees"),
    }
    groups: Mapping[str, tuple[str, ...]] = {"identity": ("colour", "shape"), "landmark": ("place", "ink")}
    scene = ("background", "ground", "landmark")

    def vocabulary(self) -> str:
        """What a prompt may say, in one sentence."""
        return vocabulary()

    def parse(self, prompt: str) -> Mapping[str, int]:
        """The labels that a prompt names, by property. Raises PromptError."""
        caption = parse(prompt)
        labels = {field.name: getattr(caption, field.name) for field in fields(Caption)}
        return {name: value for name, value in labels.items() if value is not None}

    def truth(self, acts: Sequence[Act], seed: int, start: Mapping[str, int] | None = None) -> SpriteTruth:
        """The subject goes on through all acts; a walk begins where the last one ended; silence is daylight.

        A `start` says which labels hold before the first prompt; what it lacks is not known until a prompt names it.
        """
        world = _started(sample_world(1, 1, torch.Generator().manual_seed(seed % 2**63)), start or {})
        scenes: list[Scene] = []
        for act in acts:
            before, world = world, apply_caption(world, parse(act.prompt), 0)
            begin = int(scenes[-1].time[-1]) + 1 if scenes else 0
            if scenes and not torch.equal(world.action, before.action):
                world, begin = replace(world, start=_end(scenes[-1])), 0
            scenes.append(Scene(world, torch.arange(begin, begin + act.frames)))
        day = torch.cat([(scene.world.light[0] == DAY).expand(len(scene.time)) for scene in scenes])
        return SpriteTruth(
            values=_values(scenes),
            visible={name: torch.ones_like(day) if name in IN_THE_DARK else day for name in self.properties},
            known=self._known(acts, scenes, set() if start is None else set(self.properties) - set(start)),
            scenes=tuple(scenes),
        )

    def _known(self, acts: Sequence[Act], scenes: Sequence[Scene], unsettled: set[str]) -> dict[str, Tensor]:
        """A cut leaves open what its prompt does not name, and where the sprite is; so does a change of action."""
        known_frames: dict[str, list[Tensor]] = {name: [] for name in self.properties}
        for n, (act, scene) in enumerate(zip(acts, scenes, strict=True)):
            if n and (act.cut or not torch.equal(scene.world.action, scenes[n - 1].world.action)):
                unsettled |= {"position"}
            if n and act.cut:
                unsettled |= {name for name, property_ in self.properties.items() if property_.scene}
            unsettled -= {"light", *self.parse(act.prompt)}
            for name, parts in known_frames.items():
                parts.append(torch.full((len(scene.time),), name not in unsettled))
        return {name: torch.cat(parts) for name, parts in known_frames.items()}

    def track(self, video: Video | Tensor) -> SpriteSeen:
        """Read frames (F, 64, 64, 3), uint8."""
        frames = torch.from_numpy(np.asarray(video)) if not isinstance(video, Tensor) else video
        readings = track(frames.permute(0, 3, 1, 2).float().div(255)[None])
        return SpriteSeen(_readings(readings), readings.covered[0])

    def difference(self, name: str, values: Tensor, others: Tensor) -> Tensor:
        """(F, 2) pixels, x on the torus, for places; (F, 1) brightness or degrees."""
        gap = (values - others).reshape(len(values), -1)
        if name == "position":
            gap = torch.stack([torus(gap[:, 0]), gap[:, 1]], 1) * (PIXELS / SIZE)
        return gap

    def error(self, name: str, seen: Seen, true: Tensor) -> Tensor:
        """(F,) 0 or 1 for labels, else pixels, brightness or degrees; NaN where the sprite covers the landmark."""
        assert isinstance(seen, SpriteSeen)
        value = seen.values[name]
        if self.properties[name].unit != "share":
            return torch.linalg.vector_norm(self.difference(name, value, true).flatten(1), dim=1)
        wrong = (value != true).float()
        if name in ("place", "mark", "ink"):
            return wrong.masked_fill(self._covered(name, seen, true), torch.nan)
        return wrong

    @staticmethod
    def _covered(name: str, seen: SpriteSeen, true: Tensor) -> Tensor:
        """(F,) whether the sprite lies on the landmark's true place, or on either of its column's, or on the one seen."""
        places = seen.covered.unflatten(-1, (-1, len(MARKS)))
        if name == "place":
            return seen.covered.gather(-1, true.clamp_min(0)[:, None])[:, 0]
        if name == "mark":
            return places.any(-2).gather(-1, true.clamp_min(0)[:, None])[:, 0]
        return (seen.values["place"] < 0) & seen.covered.any(-1)


def _started(world: World, start: Mapping[str, int]) -> World:
    """A clip of one frame with these labels."""
    labels = {"ground": [GROUNDS.index(start["ground"])] if "ground" in start else []}
    labels |= {
        name: [start[name]] for name in ("background", "place", "ink", "colour", "shape", "action") if name in start
    }
    return replace(
        world, **{name: torch.tensor(value).view_as(getattr(world, name)) for name, value in labels.items() if value}
    )


def _end(scene: Scene) -> Tensor:
    """(1,) how far to the right a sprite stands when an act is over."""
    world = scene.world
    x, _, _, _ = motion(world.action, world.phase, scene.time[-1:] + 1)
    walks = world.action < 2  # only walks go anywhere: all else returns to where it began
    return torch.where(walks, torch.remainder(world.start + x, SIZE), world.start)


def _values(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """(F,) true labels and numbers; (F, 2) places, in units."""
    parts: list[dict[str, Tensor]] = []
    for world, time in scenes:
        count = len(time)
        x, y, _, _ = motion(world.action[:, None], world.phase[:, None], time[None])
        place = torch.stack([CENTRE[0] + world.start + x[0], CENTRE[1] + y[0]], -1)
        parts.append(
            {
                "position": place,
                "tint": (1 + TINT * world.tint).expand(count),
                "hue": (HUE * world.hue).expand(count),
                "ground": torch.tensor(GROUNDS)[world.ground[0]].expand(count),
                "mark": (world.place[0] % len(MARKS)).expand(count),
                **{name: getattr(world, name)[0].expand(count) for name in ("background", "place", "ink", "light")},
                **{name: getattr(world, name).expand(count) for name in ("colour", "shape", "action")},
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _readings(tracks: Tracked) -> dict[str, Tensor]:
    """One clip's readings by property."""
    plain = ("colour", "shape", "action", "light", "background", "ground", "place", "ink", "tint", "hue")
    values = {name: getattr(tracks, name)[0] for name in plain}
    place = values["place"]
    values["mark"] = torch.where(place < 0, -1, place % len(MARKS))
    values["position"] = torch.stack([tracks.x[0], tracks.y[0]], -1)
    return values
