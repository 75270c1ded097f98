"""The sprite world: a 32x32 torus on which one sprite acts before a scene. Its truth is exact.

A clip's subject (colour, shape, action, phase) never changes. Its scene (background, ground height, landmark) is
redrawn by a Poisson event of the world's time, seldom enough that consecutive frames share it. Ground height and
landmark are never in a prompt: only the cache can carry them.
"""

import math
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from rollout.backends.sprites.grammar import ACTIONS, BACKGROUNDS, COLOURS, SHAPES, Caption

SIZE = 32
CENTRE = (16.0, 18.0)
RADIUS = 6.5
PERIOD = 8
"""Frames of one jump, pulse, spin or sway; a walk crosses the torus in SIZE / STEP = 16."""
STEP = 2.0
EYE = (2.8, 1.6)
"""Distance of the white eye from the sprite's centre, and its radius, pixels."""
GROUNDS = (4, 7, 10)
LANDMARKS = ((4, 3), (12, 3), (20, 3), (28, 3), (4, 8), (12, 8), (20, 8), (28, 8))
SCENE_LIFE = 5.0
"""Frames in which a scene lives on average once it is out of sight (the Poisson rate of a scene change)."""

PALETTE = torch.tensor(
    [[225, 40, 40], [40, 190, 60], [50, 90, 240], [245, 215, 40], [225, 50, 215], [50, 220, 225]]
).div(255)
SCENERY = torch.tensor([[24, 30, 84], [98, 98, 30], [98, 26, 44], [22, 94, 94], [112, 112, 118], [92, 56, 104]]).div(
    255
)
GROUND_SHADE = 0.5
INK = torch.tensor([[20, 20, 20], [250, 250, 250]]).div(255)


@dataclass(frozen=True)
class World:
    """One row a clip, int64 tensors of shape (B,) for the subject and (B, F) for the scene of each frame."""

    colour: Tensor
    shape: Tensor
    action: Tensor
    phase: Tensor
    background: Tensor
    ground: Tensor
    place: Tensor
    ink: Tensor

    @property
    def frames(self) -> int:
        return self.background.shape[1]

    def caption(self, clip: int, frame: int, *, background: bool = True) -> Caption:
        """What a prompt would say of one frame."""
        place = int(self.background[clip, frame]) if background else None
        return Caption(int(self.colour[clip]), int(self.shape[clip]), int(self.action[clip]), place)

    def to(self, device: torch.device | str) -> "World":
        return World(*(getattr(self, f.name).to(device) for f in fields(self)))


def sample_world(batch: int, frames: int, generator: torch.Generator) -> World:
    """Draw `batch` clips, uniform in every property, one scene each."""

    def draw(n: int) -> Tensor:
        return torch.randint(n, (batch,), generator=generator)

    subject = draw(len(COLOURS)), draw(len(SHAPES)), draw(len(ACTIONS)), draw(PERIOD)
    scene = draw(len(BACKGROUNDS)), draw(len(GROUNDS)), draw(len(LANDMARKS)), draw(len(INK))
    return World(*subject, *(s[:, None].expand(batch, frames).clone() for s in scene))


def seeded_world(caption: Caption, frames: int, seed: int) -> World:
    """One clip of what a caption names; the rest of its world is drawn from the seed."""
    world = sample_world(1, frames, torch.Generator().manual_seed(seed % 2**63))
    named = {name: torch.tensor([value]) for name, value in asdict(caption).items() if value is not None}
    if "background" in named:
        named["background"] = named["background"].expand(1, frames)
    return replace(world, **named)


def motion(action: Tensor, phase: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets from the centre (x, y), radius (pixels) and angle (radians) at integer `time`; shapes broadcast."""
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
    """Signed distance in pixels to the outline of each sprite, negative inside; x, y are in the sprite's own frame."""
    circle = torch.hypot(x, y) - radius
    square = _polygon(x, y, 4, radius * 0.86)
    triangle = _polygon(x, y, 3, radius * 0.66)
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle))


def render(world: World, time: Tensor) -> Tensor:
    """Render frames (B, F, 3, 32, 32) in 0..1 at integer times (B, F), edges one pixel soft."""
    device = time.device
    wide = (slice(None), slice(None), None, None)
    rows = torch.arange(SIZE, device=device, dtype=torch.float32)[None, None, :, None]
    columns = rows.transpose(2, 3)
    sky = SCENERY.to(device)[world.background][..., None, None]
    height = torch.tensor(GROUNDS, device=device)[world.ground][wide]
    image = torch.where((rows >= SIZE - height)[:, :, None], sky * GROUND_SHADE, sky).expand(-1, -1, -1, SIZE, SIZE)
    spot = torch.tensor(LANDMARKS, device=device, dtype=torch.float32)[world.place]
    mark = ((columns - spot[..., 0][wide]).abs() <= 1) & ((rows - spot[..., 1][wide]).abs() <= 1)
    image = torch.where(mark[:, :, None], INK.to(device)[world.ink][..., None, None], image)

    dx, dy, radius, angle = motion(world.action[:, None], world.phase[:, None], time)
    x = torch.remainder(columns - (CENTRE[0] + dx)[wide] + SIZE / 2, SIZE) - SIZE / 2
    y = rows - (CENTRE[1] + dy)[wide]
    cos, sin = angle.cos()[wide], angle.sin()[wide]
    x, y = x * cos + y * sin, y * cos - x * sin
    body = (0.5 - sprite_distance(world.shape[:, None, None, None], x, y, radius[wide])).clamp(0, 1)[:, :, None]
    eye = (0.5 - (torch.hypot(x, y + EYE[0]) - EYE[1])).clamp(0, 1)[:, :, None] * (body > 0)
    image = image * (1 - body) + PALETTE.to(device)[world.colour][:, None, :, None, None] * body
    return image * (1 - eye) + INK[1].to(device)[:, None, None] * eye
