"""The model families that the backend runs, a small table each: what no config of theirs says. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.backend import Spec, split_pairs
from rollout.errors import BackendError
from rollout.sampler import Schedule

__all__ = ["FAMILIES", "Family", "family_of", "geometry"]


@dataclass(frozen=True)
class Family:
    """What the models of a family share.

    `transformer`: their class in diffusers, and `channels` of their latents; both together tell a family. `spatial`: pixels
    of a latent pixel's side. `size`: height and width of the released models' videos. `trained`: frames of the training
    horizon. `guidance`: 1 for distilled models, which need none. `frame_times`: a timestep a frame, where others take one a
    token.
    """

    name: str
    transformer: str
    channels: int
    spatial: int
    size: tuple[int, int]
    fps: float
    block: int
    trained: int
    schedule: Schedule = field(default_factory=Schedule)
    guidance: float = 1.0
    frame_times: bool = False
    source: str = ""


FAMILIES = (
    Family(
        "Wan 2.1",
        "WanTransformer3DModel",
        channels=16,
        spatial=8,
        size=(480, 832),
        fps=16.0,
        block=3,
        trained=21,
        source="Wan2.1-T2V-1.3B and 14B, Self-Forcing and what came after it, Krea Realtime 14B",
    ),
    Family(
        "Wan 2.2 TI2V",
        "WanTransformer3DModel",
        channels=48,
        spatial=16,
        size=(704, 1280),
        fps=24.0,
        block=8,
        trained=32,
        schedule=Schedule(renoise=False),
        source="Wan2.2-TI2V-5B, LongLive 2 (arXiv 2605.18739)",
    ),
    Family(
        "SkyReels-V2 DF",
        "SkyReelsV2Transformer3DModel",
        channels=16,
        spatial=8,
        size=(544, 960),
        fps=24.0,
        block=5,
        trained=25,
        schedule=Schedule.of(30, 8.0, renoise=False),
        guidance=6.0,
        frame_times=True,
        source="SkyReels-V2-DF-1.3B and 14B, not distilled: guidance, and 30 steps or more",
    ),
)
"""The families, by the class and the channels of their transformers."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a transformer's config. Raises BackendError for what is of none."""
    name, channels = config.get("_class_name", "WanTransformer3DModel"), config.get("in_channels", 16)
    for family in FAMILIES:
        if (name, channels) == (family.transformer, family.channels):
            return family
    raise BackendError(
        f"a {name} with {channels} channels is of no family that rollout runs: {', '.join(f.name for f in FAMILIES)}, each "
        "text to video. Give a folder of one of them."
    )


def geometry(
    config: Mapping[str, Any], height: int | None = None, width: int | None = None, block: int | None = None
) -> Spec:
    """A transformer's geometry at a size in pixels (default: the family's), with blocks of `block` frames.

    Raises BackendError for a size that is no whole number of tokens.
    """
    family = family_of(config)
    height, width = height or family.size[0], width or family.size[1]
    side = 2 * family.spatial
    for name, size in (("height", height), ("width", width)):
        if size <= 0 or size % side:
            raise BackendError(
                f"{name} {size} is not a multiple of {side}, a token's side in {family.name}. Use such as {family.size[0]} and "
                f"{family.size[1]}."
            )
    latent = height // family.spatial, width // family.spatial
    return Spec(
        name="wan",
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        latent=(family.channels, *latent),
        grid=(latent[0] // 2, latent[1] // 2),
        axes=split_pairs(config["attention_head_dim"]),
        trained=family.trained,
        table=config.get("rope_max_seq_len", 1024),
        fps=family.fps,
        block=block or family.block,
        size=(height, width),
    )
