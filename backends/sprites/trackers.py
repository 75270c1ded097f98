"""Exact trackers of the sprite world: what a video shows, read off its pixels alone.

Identity by nearest palette colour, by the median colour inside the sprite and by the angular moments of its mask; scene by
the colours around it; action by the best fit of a 7-frame window's trajectory to the world's own motions. They are defined
by the renderer and know nothing of any model. Frames are averaged down to one pixel a unit first.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backends.sprites.grammar import ACTIONS, SHAPES
from rollout.backends.sprites.world import (
    DARK,
    DAY,
    EYE,
    GROUND_SHADE,
    GROUNDS,
    INK,
    LANDMARKS,
    NIGHT,
    PALETTE,
    PERIOD,
    RADIUS,
    SCENERY,
    SIZE,
    TINT,
    motion,
    sprite_distance,
)

__all__ = ["CHUNK", "FIT", "WINDOW", "Seen", "action", "torus", "track"]

WINDOW = 7
"""Frames over which an action is read."""
FIT = 1.5
"""Root mean square distance (pixels, and half pixels of radius) beyond which a window shows no action."""


CHUNK = 256
"""Frames that are looked at together: bounds the memory, whatever the video's length."""
_TINTS = torch.linspace(-1, 1, 5)
_BODY = (PALETTE[:, None] * (1 + TINT * _TINTS[:, None])).flatten(0, 1)
_KNOWN = torch.cat([_BODY, SCENERY, SCENERY * GROUND_SHADE, INK, DARK[None]])
"""Every colour that a pixel can have, but for hue and soft edges: sprites, skies, grounds, ink, night."""
_SKY, _GROUND, _INK = (len(_BODY) + n * len(SCENERY) for n in range(3))
_WHITE, _DARK = _INK + 1, _INK + 2


@dataclass(frozen=True)
class Seen:
    """What each frame shows, (B, F) each; -1 where nothing fits, or where it is too dark to see.

    `x`, `y` (units, x on the torus), `radius` (of a disc of the sprite's area) and `eye` (B, F, 2), the white eye's
    offset from the centre; `ground` in rows; `tint` the subject's brightness, a factor of its palette colour, and `hue`
    its turn from there in degrees; `covered` (B, F, places) says which landmarks the sprite hides or touches.
    """

    colour: Tensor
    shape: Tensor
    action: Tensor
    background: Tensor
    ground: Tensor
    place: Tensor
    ink: Tensor
    light: Tensor
    tint: Tensor
    hue: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    eye: Tensor
    covered: Tensor


def track(video: Tensor) -> Seen:
    """Track a video (B, F, 3, 64, 64) in 0..1."""
    parts = [_look(F.avg_pool2d(part.flatten(0, 1), part.shape[-1] // SIZE)) for part in _chunks(video)]
    readings = {name: torch.cat([part[name] for part in parts]).unflatten(0, video.shape[:2]) for name in parts[0]}
    return Seen(action=action(readings["x"], readings["y"], readings["radius"], readings["eye"]), **readings)


def _chunks(video: Tensor) -> list[Tensor]:
    """(1, n, 3, H, W) pieces of all clips one after another."""
    return list(video.flatten(0, 1)[None].split(CHUNK, 1))


def _look(frames: Tensor) -> dict[str, Tensor]:
    """Everything but the action of frames (N, 3, 32, 32), one row a frame."""
    video = frames[None]
    label = torch.cdist(video.movedim(2, -1).flatten(2, 3), _KNOWN).argmin(-1).unflatten(-1, (SIZE, SIZE))
    count = F.one_hot(label.flatten(2), len(_KNOWN)).sum(2)
    bodies = count[..., :_SKY].unflatten(-1, (len(PALETTE), -1)).sum(-1)
    colour = torch.where(bodies.amax(-1) >= 8, bodies.argmax(-1), -1)
    body = (label < _SKY) & (label // len(_TINTS) == colour[..., None, None])
    white = label == _WHITE
    x, y, near = _centre(body)
    body = body | (white & (near < RADIUS))
    x, y, near = _centre(body)
    radius = (body.sum((2, 3)).float() / math.pi).sqrt()
    light = torch.where(count[..., _DARK] > count[..., _SKY:_INK].sum(-1), NIGHT, DAY)
    day = light == DAY
    background = torch.where(day, count[..., _SKY:_GROUND].argmax(-1), -1)
    place, ink = _landmark(video, background.clamp_min(0))
    tint, hue = _identity(video, colour, near < 0.6 * radius[..., None, None], white)
    readings = {
        "colour": colour,
        "shape": _shape(body, x, y, radius),
        "background": background,
        "ground": torch.where(day, _ground(label, body), -1),
        "place": torch.where(day, place, -1),
        "ink": torch.where(day, ink, -1),
        "light": light,
        "tint": tint,
        "hue": hue,
        "x": x,
        "y": y,
        "radius": radius,
        "eye": _eye(video, x, y, near),
        "covered": _covered(body),
    }
    return {name: values[0] for name, values in readings.items()}


def _identity(video: Tensor, colour: Tensor, inside: Tensor, white: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness (a factor) and hue (degrees) of the median colour inside the sprite, off its palette colour; NaN if none."""
    eye = F.max_pool2d(white.float(), 3, 1, 1) > 0  # the eye's soft edge too
    pixels = torch.where((inside & ~eye)[:, :, None], video, torch.nan).flatten(3)
    median = pixels.nanmedian(-1).values
    plain = PALETTE[colour.clamp_min(0)]
    mean, turn = median.mean(-1) / plain.mean(-1), _angle(median) - _angle(plain)
    there = colour >= 0
    return torch.where(there, mean, torch.nan), torch.where(there, torch.remainder(turn + 180, 360) - 180, torch.nan)


def _angle(rgb: Tensor) -> Tensor:
    """The hue angle about the grey axis, degrees."""
    red, green, blue = rgb.unbind(-1)
    return torch.rad2deg(torch.atan2(math.sqrt(3.0) * (green - blue), 2 * red - green - blue))


def _covered(body: Tensor) -> Tensor:
    """(B, F, places): the sprite lies on a landmark's 3x3 spot or beside it, where soft edges blend."""
    near = F.max_pool2d(body.float(), 3, 1, 1) > 0
    return torch.stack([near[..., y - 1 : y + 2, x - 1 : x + 2].any((-2, -1)) for x, y in LANDMARKS], -1)


def _grid() -> tuple[Tensor, Tensor]:
    line = torch.arange(SIZE, dtype=torch.float32)
    return line[:, None].expand(SIZE, SIZE), line[None].expand(SIZE, SIZE)


def torus(x: Tensor) -> Tensor:
    """A horizontal difference in units, wrapped to -16..16."""
    return torch.remainder(x + SIZE / 2, SIZE) - SIZE / 2


def _centre(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Circular-mean centre (B, F) of a mask, and every pixel's distance to it (B, F, 32, 32)."""
    rows, columns = _grid()
    weight = mask.float()
    total = weight.sum((2, 3)).clamp_min(1e-6)
    turn = columns * (2 * math.pi / SIZE)
    x = torch.atan2((weight * turn.sin()).sum((2, 3)), (weight * turn.cos()).sum((2, 3))) * (SIZE / (2 * math.pi))
    x = torch.remainder(x, SIZE)
    # the circular mean is biased for wide masks: one step of the plain mean around it
    x = torch.remainder(x + (weight * torus(columns - x[..., None, None])).sum((2, 3)) / total, SIZE)
    y = (weight * rows).sum((2, 3)) / total
    return x, y, torch.hypot(torus(columns - x[..., None, None]), rows - y[..., None, None])


def _harmonics(mask: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Size of a mask's third and fourth angular moments (B, F, 2): (0, 0) a disc, the third a triangle, the fourth a square.

    Moments |mean (z / r)^m| about the centre, r the radius of the disc of equal area: blind to size and angle.
    """
    rows, columns = _grid()
    scale = radius.clamp_min(1.0)[..., None, None]
    z = torch.complex(torus(columns - x[..., None, None]) / scale, (rows - y[..., None, None]) / scale)
    total = mask.sum((2, 3)).clamp_min(1)
    return torch.stack([((z**m) * mask).sum((2, 3)).abs() / total for m in (3, 4)], -1)


@cache
def _shapes() -> Tensor:
    """The harmonics of every shape (shapes, 2), averaged over sizes and angles."""
    rows, columns = _grid()
    out = []
    for shape in range(len(SHAPES)):
        masks = []
        for size in (0.7, 1.0, 1.3):
            for angle in range(PERIOD):
                turn = torch.tensor(2 * math.pi * angle / PERIOD)
                x, y = columns - 16, rows - 16
                x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
                masks.append(sprite_distance(torch.tensor(shape), x, y, torch.tensor(RADIUS * size)) < 0)
        mask = torch.stack(masks)[None]
        x, y, _ = _centre(mask)
        out.append(_harmonics(mask, x, y, (mask.sum((2, 3)) / math.pi).sqrt()).mean((0, 1)))
    return torch.stack(out)


def _shape(mask: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    nearest = torch.cdist(_harmonics(mask, x, y, radius), _shapes()).argmin(-1)
    return torch.where(mask.sum((2, 3)) >= 8, nearest, -1)


def _eye(video: Tensor, x: Tensor, y: Tensor, near: Tensor) -> Tensor:
    """The offset (B, F, 2) of the brightest spot, by its darkest channel, within the sprite's disc."""
    rows, columns = _grid()
    white = (video.amin(2) - 0.5).clamp_min(0) * (near < EYE[0] + 2 * EYE[1])
    total = white.sum((2, 3)).clamp_min(1e-6)
    dx = (white * torus(columns - x[..., None, None])).sum((2, 3)) / total
    dy = (white * (rows - y[..., None, None])).sum((2, 3)) / total
    return torch.stack([dx, dy], -1)


def _ground(label: Tensor, body: Tensor) -> Tensor:
    """Rows of the darker band: the height that explains most pixels outside the sprite."""
    dark = ((label >= _GROUND) & (label < _INK) & ~body).sum(3).float()
    light = ((label >= _SKY) & (label < _GROUND) & ~body).sum(3).float()
    scores = [
        dark[..., SIZE - g :].sum(-1)
        - light[..., SIZE - g :].sum(-1)
        + light[..., : SIZE - g].sum(-1)
        - dark[..., : SIZE - g].sum(-1)
        for g in GROUNDS
    ]
    return torch.tensor(GROUNDS)[torch.stack(scores, -1).argmax(-1)]


def _landmark(video: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Place and ink of the landmark: the 3x3 spot that differs most from the sky, if one does; else -1."""
    sky = SCENERY[background]
    gap = (INK[None, None] - sky[..., None, :]).square().sum(-1)
    errors = []
    for px, py in LANDMARKS:
        spot = video[..., py - 1 : py + 2, px - 1 : px + 2].flatten(3)
        errors.append(
            torch.stack([(spot - INK[i][:, None]).square().sum(2).mean(-1) for i in range(len(INK))], -1) / gap
        )
    best = torch.stack(errors, -2).flatten(2).min(-1)
    fits = best.values < 0.25
    return torch.where(fits, best.indices // len(INK), -1), torch.where(fits, best.indices % len(INK), -1)


@cache
def _motions() -> tuple[Tensor, Tensor]:
    """Trajectories (actions * phases, WINDOW, 5) of x, y, 2 * radius and eye, less their mean places; their actions."""
    action, phase = torch.meshgrid(torch.arange(len(ACTIONS)), torch.arange(PERIOD), indexing="ij")
    action, phase = action.flatten()[:, None], phase.flatten()[:, None]
    x, y, radius, angle = motion(action, phase, torch.arange(WINDOW)[None])
    eye = torch.stack([EYE[0] * angle.sin(), -EYE[0] * angle.cos()], -1)
    place = torch.stack([x, y], -1)
    return torch.cat(
        [place - place.mean(1, keepdim=True), 2 * (radius / RADIUS - 1)[..., None] * RADIUS, eye], -1
    ), action[:, 0]


def action(x: Tensor, y: Tensor, radius: Tensor, eye: Tensor) -> Tensor:
    """The action at every frame, from the window around it (the nearest whole window at the ends); -1 where none fits."""
    batch, frames = x.shape
    if frames < WINDOW:
        return torch.full((batch, frames), -1)
    path = torch.cat([x[:, :1], x[:, :1] + torus(x[:, 1:] - x[:, :-1]).cumsum(1)], 1)
    usual = radius.median(1, keepdim=True).values
    size = 2 * (radius / usual.clamp_min(1.0) - 1) * RADIUS
    tracks = torch.cat([torch.stack([path, y, size], -1), eye], -1).unfold(1, WINDOW, 1).transpose(2, 3).clone()
    tracks[..., :2] -= tracks[..., :2].mean(2, keepdim=True)
    paths, actions = _motions()
    error = (tracks[:, :, None] - paths).square().sum(-1).mean(-1).sqrt()
    best = error.min(-1)
    labels = torch.where(best.values < FIT, actions[best.indices], -1)
    half = WINDOW // 2
    return torch.cat([labels[:, :1].expand(-1, half), labels, labels[:, -1:].expand(-1, half)], 1)
