"""Feature extractors: what two frames are compared by. A metric's name carries its extractor's: `consistency@pool8`."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.errors import BackendError, SpecError
from rollout.files import fingerprint
from rollout.video import Frames

Extractor = Callable[[Iterable[Frames]], Iterator[Tensor]]
"""Frames (height, width, 3), one by one, to chunks of vectors (n, D)."""
CHUNK = 32
"""Frames that go through an extractor together."""
HUB = {
    "dino-vitb16": ("facebook/dino-vitb16", "VBench's subject consistency (arXiv 2311.17982)"),
    "clip-vitb32": ("openai/clip-vit-base-patch32", "VBench's background consistency (arXiv 2311.17982)"),
}
"""Extractors by transformers, with their weights on the hub or in its local cache."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, where a model's folder does not say."""


def extractor(name: str) -> Extractor:
    """An extractor by name: pool8, dino-vitb16, clip-vitb32, or a folder of a ViT or CLIP in transformers' format.

    Raises SpecError for a name that is none, BackendError for weights that are not at hand.
    """
    check_extractor(name)
    return _pool if name == "pool8" else _transformer(name)


def check_extractor(name: str) -> None:
    """Raise SpecError unless there is such an extractor; loads nothing."""
    if name != "pool8" and name not in HUB and not (Path(name) / "config.json").is_file():
        raise SpecError(
            f"there is no feature extractor {name[:60]!r}. There are pool8, {', '.join(HUB)}, and any folder of a ViT or CLIP "
            "in transformers' format."
        )


def label(name: str) -> str:
    """How a metric's name shows its extractor: a folder by its name and the identity of its weights."""
    folder = Path(name)
    if name == "pool8" or name in HUB:
        return name
    return f"{folder.resolve().name}-{fingerprint(folder.glob('*.safetensors'))[:8]}"


def _pool(frames: Iterable[Frames]) -> Iterator[Tensor]:
    """Weight-free: RGB averaged to 8x8, less mid-grey."""
    for some in batched_frames(frames):
        yield F.interpolate(some, (8, 8), mode="area").flatten(1) - 0.5


def batched_frames(frames: Iterable[Frames]) -> Iterator[Tensor]:
    """Frames as float tensors (n, 3, height, width) in 0..1."""
    for some in chunked(frames):
        yield torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float().div(255)


def chunked(frames: Iterable[Frames]) -> Iterator[list[Frames]]:
    """Lists of at most CHUNK frames."""
    some: list[Frames] = []
    for frame in frames:
        some.append(frame)
        if len(some) == CHUNK:
            yield some
            some = []
    if some:
        yield some


@cache
def _transformer(name: str) -> Extractor:
    """The class token of a ViT, or the image embedding of a CLIP, after the model's own resizing and normalising."""
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection
    from transformers.utils import logging

    where = HUB[name][0] if name in HUB else name
    try:
        config: Any = AutoConfig.from_pretrained(where)
        clip = config.model_type.startswith("clip")
        kind: Any = CLIPVisionModelWithProjection if clip else AutoModel
        if clip and hasattr(config, "vision_config"):
            config.vision_config.projection_dim = config.projection_dim
            config = config.vision_config
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # half of a CLIP is its text tower, which is left out on purpose
        model = kind.from_pretrained(where, config=config).eval().requires_grad_(False)
        logging.set_verbosity(before)
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"the weights of the feature extractor {name!r} are not at hand: {str(error).splitlines()[0]} "
            "Give their folder, or leave the metric out."
        ) from error
    side = config.image_size
    means, stds = _normalising(where, clip)

    def run(frames: Iterable[Frames]) -> Iterator[Tensor]:
        for some in batched_frames(frames):
            small = F.interpolate(some, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            found = model(pixel_values=(small - means) / stds)
            yield found.image_embeds if clip else found.last_hidden_state[:, 0]

    return run


def _normalising(where: str, clip: bool) -> tuple[Tensor, Tensor]:
    means: Any = (0.48145466, 0.4578275, 0.40821073) if clip else MEAN
    stds: Any = (0.26862954, 0.26130258, 0.27577711) if clip else STD
    told = Path(where) / "preprocessor_config.json"
    if told.is_file():
        found = json.loads(told.read_text(encoding="utf-8"))
        means, stds = found.get("image_mean", means), found.get("image_std", stds)
    return torch.tensor(means)[:, None, None], torch.tensor(stds)[:, None, None]
