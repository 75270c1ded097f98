"""The sprite world: a torus of 32x32 units, drawn at 64x64 pixels, on which one sprite acts before a scene. Its truth is exact.

A clip's subject (colour, tint, hue, shape, action, phase) never changes. Its scene (background, ground height, landmark)
is redrawn by a Poisson event of the world's time, seldom enough that consecutive frames share it; the landmark also moves
to a column that a prompt names. By night the scene is dark and the subject stays lit. Tint, hue, ground height and the
landmark's height and ink are never in a prompt: only the cache can carry them.
"""

import math
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from rollout.backends.sprites.grammar import ACTIONS, BACKGROUNDS, COLOURS, MARKS, SHAPES, Caption

__all__ = [
    "CENTRE",
    "DARK",
    "DAY",
    "EYE",
    "GROUNDS",
    "GROUND_SHADE",
    "HUE",
    "INK",
    "LANDMARKS",
    "NIGHT",
    "PALETTE",
    "PERIOD",
    "PIXELS",
    "RADIUS",
    "SCENE",
    "SCENERY",
    "SCENE_LIFE",
    "SIZE",
    "STEP",
    "TINT",
    "World",
    "apply_caption",
    "motion",
    "move_mark",
    "render",
    "sample_world",
    "seeded_world",
    "sprite_distance",
]

SIZE = 32
"""Units of the torus: all places and speeds of the world are in them."""
PIXELS = 64
"""Width and height of a frame."""
CENTRE = (16.0, 18.0)
RADIUS = 6.5
PERIOD = 8
"""Frames of one jump, pulse, spin or sway; a walk crosses the torus in SIZE / STEP = 16."""
STEP = 2.0
EYE = (2.8, 1.6)
"""Distance of the white eye from the sprite's centre, and its radius, units."""
GROUNDS = (4, 7, 10)
LANDMARKS = ((4, 3), (12, 3), (20, 3), (28, 3), (4, 8), (12, 8), (20, 8), (28, 8))
SCENE_LIFE = 5.0
"""Frames in which a scene lives on average once it is out of sight (the Poisson rate of a scene change)."""

TINT, HUE = 0.3, 12.0
"""The largest change of the subject's brightness, as a share, and of its hue, degrees: its continuous identity."""
DAY, NIGHT = 0, 1


def _rotation(degrees: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of RGB about the grey axis: hue changes, brightness does not."""
    angle = torch.deg2rad(degrees)[..., None, None]
    axis = torch.full((3,), 1 / math.sqrt(3.0), device=degrees.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=degrees.device) / math.sqrt(3.0)
    return (
        angle.cos() * torch.eye(3, device=degrees.device)
        + angle.sin() * cross
        + (1 - angle.cos()) * axis[:, None] * axis
    )


def _palette(rgb: list[list[int]]) -> Tensor:
    """Colours whose brightest and most turned variants still lie within 0..1, so that no tint is ever clipped."""
    colours = torch.tensor(rgb) / 255
    hues = torch.stack([colours @ _rotation(torch.tensor(h)).T for h in (-HUE, 0.0, HUE)])
    return colours / hues.amax((0, 2))[:, None] / (1 + TINT)


PALETTE = _palette([[225, 40, 40], [40, 190, 60], [50, 90, 240], [245, 215, 40], [225, 50, 215], [50, 220, 225]])
SCENERY = torch.tensor([[20, 26, 72], [84, 84, 26], [84, 22, 38], [19, 80, 80], [94, 94, 100], [78, 48, 88]]).div(255)
DARK = torch.tensor([10, 10, 14]).div(255)
"""Sky, ground and landmark at night."""
GROUND_SHADE = 0.5
INK = torch.tensor([[20, 20, 20], [250, 250, 250]]).div(255)


@dataclass(frozen=True)
class World:
    """One row a clip: int64 tensors (B,) for the subject, its `tint` and `hue` in -1..1, and (B, F) for each frame's scene."""

    colour: Tensor
    shape: Tensor
    action: Tensor
    phase: Tensor
    background: Tensor
    ground: Tensor
    place: Tensor
    ink: Tensor
    light: Tensor
    tint: Tensor
    hue: Tensor
    start: Tensor
    """(B,) units by which the path is shifted to the right."""

    @property
    def frames(self) -> int:
        return self.background.shape[1]

    def caption(self, clip: int, frame: int, *, background: bool = True) -> Caption:
        """What a prompt would say of one frame; daylight and the landmark's place are left unsaid."""
        place = int(self.background[clip, frame]) if background else None
        light = NIGHT if int(self.light[clip, frame]) == NIGHT else None
        return Caption(int(self.colour[clip]), int(self.shape[clip]), int(self.action[clip]), place, light)

    def subject_colour(self) -> Tensor:
        """The subject's colour (B, 3), RGB in 0..1, with its tint and hue."""
        plain = PALETTE.to(self.colour.device)[self.colour]
        tinted_colour = (_rotation(HUE * self.hue) @ plain[..., None])[..., 0]
        return tinted_colour * (1 + TINT * self.tint[:, None])

    def to(self, device: torch.device | str) -> "World":
        return World(*(getattr(self, f.name).to(device) for f in fields(self)))


SCENE = ("background", "ground", "place", "ink")
"""What a scene change redraws."""


def sample_world(batch: int, frames: int, generator: torch.Generator) -> World:
    """Draw `batch` clips by day, uniform in every property, one scene each."""

    def draw(n: int) -> Tensor:
        return torch.randint(n, (batch,), generator=generator)

    subject = draw(len(COLOURS)), draw(len(SHAPES)), draw(len(ACTIONS)), draw(PERIOD)
    scene = draw(len(BACKGROUNDS)), draw(len(GROUNDS)), draw(len(LANDMARKS)), draw(len(INK))
    tint, hue = torch.rand(2, batch, generator=generator) * 2 - 1
    over_time = [s[:, None].expand(batch, frames).clone() for s in scene]
    return World(*subject, *over_time, torch.full((batch, frames), DAY), tint, hue, torch.zeros(batch))


def seeded_world(caption: Caption, frames: int, seed: int) -> World:
    """One clip of what a caption names; the rest of its world is drawn from the seed."""
    world = sample_world(1, frames, torch.Generator().manual_seed(seed % 2**63))
    return apply_caption(world, caption, 0)


def apply_caption(world: World, caption: Caption, start: int) -> World:
    """The world from frame `start` on as a caption has it; what it does not name stays as it is, but silence is daylight."""
    labels = {name: value for name, value in asdict(caption).items() if value is not None}
    labels.setdefault("light", DAY)
    changes = {}
    for name in ("colour", "shape", "action"):
        if name in labels:
            changes[name] = torch.full_like(getattr(world, name), labels[name])
    for name in ("background", "light"):
        if name in labels:
            changes[name] = getattr(world, name).clone()
            changes[name][:, start:] = labels[name]
    if "mark" in labels:
        changes["place"] = world.place.clone()
        changes["place"][:, start:] = move_mark(world.place[:, start:], torch.tensor(labels["mark"]))
    return replace(world, **changes)


def move_mark(place: Tensor, column: Tensor) -> Tensor:
    """The landmark's place in another column, at the height where it was."""
    return place // len(MARKS) * len(MARKS) + column


def motion(action: Tensor, phase: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets from the centre (x, y), radius (units) and angle (radians) at integer `time`; shapes broadcast."""
    turn = 2 * math.pi * (time + phase) / PERIOD
    still = torch.zeros_like(turn)
    names = [ACTIONS.index(name) for name in ("walks right", "walks left", "jumps", "pulses", "spins", "sways")]
    right, left, jumps, pulses, spins, sways = (action == i for i in names)
    x = torch.where(right, STEP * time, torch.where(left, -STEP * time, still))
    x = torch.where(sways, torch.round(6 * torch.sin(turn)), x)
    y = torch.where(jumps, -torch.round(7 * torch.sin(turn / 2).abs()), still)
    radius = RADIUS * torch.where(pulses, 1 + 0.3 * torch.sin(turn), still + 1)
    return x, y, radius, torch.where(spins, turn, still)


def _polygon(x: Tensor, y: Tensor, sides: int, apothem: Tensor) -> Tensor:
    """Signed distance (a lower bound outside) of a regular polygon with a vertex or a side up."""
    start = 0.0 if sides == 4 else math.pi / 2
    far = [
        x * math.cos(start + 2 * math.pi * k / sides) + y * math.sin(start + 2 * math.pi * k / sides)
        for k in range(sides)
    ]
    return torch.stack(far).amax(0) - apothem


def sprite_distance(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in units to the outline of each sprite, negative inside; x, y are in the sprite's own frame."""
    circle = torch.hypot(x, y) - radius
    square = _polygon(x, y, 4, radius * 0.86)
    triangle = _polygon(x, y, 3, radius * 0.66)
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle))


def render(world: World, time: Tensor) -> Tensor:
    """Render frames (B, F, 3, 64, 64) in 0..1 at integer times (B, F), edges one pixel soft."""
    device = time.device
    wide = (slice(None), slice(None), None, None)
    scale = PIXELS / SIZE
    line = (torch.arange(PIXELS, device=device, dtype=torch.float32) + 0.5) / scale - 0.5  # centres, in units
    rows = line[None, None, :, None]
    columns = rows.transpose(2, 3)
    sky = SCENERY.to(device)[world.background][..., None, None]
    height = torch.tensor(GROUNDS, device=device)[world.ground][wide]
    below = rows >= SIZE - height - 0.5
    image = torch.where(below[:, :, None], sky * GROUND_SHADE, sky).expand(-1, -1, -1, PIXELS, PIXELS)
    spot = torch.tensor(LANDMARKS, device=device, dtype=torch.float32)[world.place]
    mark = ((columns - spot[..., 0][wide]).abs() <= 1.5) & ((rows - spot[..., 1][wide]).abs() <= 1.5)
    image = torch.where(mark[:, :, None], INK.to(device)[world.ink][..., None, None], image)
    night = (world.light == NIGHT)[:, :, None, None, None]
    image = torch.where(night, DARK.to(device)[:, None, None], image)

    dx, dy, radius, angle = motion(world.action[:, None], world.phase[:, None], time)
    x = torch.remainder(columns - (CENTRE[0] + world.start[:, None] + dx)[wide] + SIZE / 2, SIZE) - SIZE / 2
    y = rows - (CENTRE[1] + dy)[wide]
    cos, sin = angle.cos()[wide], angle.sin()[wide]
    x, y = x * cos + y * sin, y * cos - x * sin
    distance = sprite_distance(world.shape[:, None, None, None], x, y, radius[wide])
    body = (0.5 - distance * scale).clamp(0, 1)[:, :, None]
    eye = (0.5 - (torch.hypot(x, y + EYE[0]) - EYE[1]) * scale).clamp(0, 1)[:, :, None] * (body > 0)
    image = image * (1 - body) + world.subject_colour()[:, None, :, None, None] * body
    return image * (1 - eye) + INK[1].to(device)[:, None, None] * eye
