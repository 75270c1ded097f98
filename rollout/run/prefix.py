"""What a rollout starts from instead of noise."""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path

import torch
from msgspec import structs
from safetensors import SafetensorError
from safetensors.torch import load_file

from rollout.backend import Backend, BackendDefaults
from rollout.errors import OutputError
from rollout.run.clip import read_clip
from rollout.run.recipe import PrefixRecord
from rollout.world import Act

__all__ = ["read_prefix", "read_prefixes", "source_of", "true_latents"]


def read_prefix(
    backend: Backend, source: str | None, prompt: str, seed: int
) -> tuple[torch.Tensor | None, PrefixRecord | None]:
    """The latents that a rollout starts from: N true blocks of the backend's world, a latents file, a video or a picture."""
    if source is None:
        return None, None
    if source.isdecimal():
        if backend.world is None:
            raise OutputError(
                f"the backend '{backend.spec.name}' has no true blocks to start from. Give a video or a latents file."
            )
        if not 0 < int(source) <= 1000:
            raise OutputError(f"--prefix {source[:20]} is no number of true blocks. Use 1 to 1000.")
        return true_latents(backend, prompt, int(source), seed), PrefixRecord(blocks=int(source))
    path = Path(source)
    if not path.is_file():
        raise OutputError(
            f"the prefix {path} is not a file. Give a number of true blocks, a video, a picture or a latents file."
        )
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise OutputError(
                f"{path} cannot be read as safetensors: {error}. Give a file with the key 'latents'."
            ) from error
        if "latents" not in tensors:
            raise OutputError(
                f"{path} holds {', '.join(sorted(tensors)[:5])} but no 'latents'. Give a file that --latents wrote."
            )
        return tensors["latents"].float(), _file_record(path)
    if not _takes_video(backend):
        raise OutputError(f"the backend '{backend.spec.name}' cannot encode a video. Give a latents file.")
    clip = read_clip(path, backend.spec)
    return backend.encode_video(clip.frames), structs.replace(_file_record(path), changes=clip.changes)


def source_of(source: str | None) -> PrefixRecord | None:
    """What a record says of a prefix before anything is done to it; a file that is not there has no content."""
    if source is None:
        return None
    if source.isdecimal():
        return PrefixRecord(blocks=int(source))
    return _file_record(Path(source)) if Path(source).is_file() else PrefixRecord(file=Path(source).name)


def _takes_video(backend: Backend) -> bool:
    """Whether it has a way in for a video: known before one is read."""
    return getattr(type(backend), "encode_video", None) is not BackendDefaults.encode_video


def read_prefixes(
    backend: Backend, source: str | None, videos: Sequence[tuple[str, int]]
) -> tuple[torch.Tensor | None, list[PrefixRecord | None]]:
    """What videos (prompt, seed) that are rolled out together start from, (videos, F, C, H, W), and what records say of it."""
    alike = source is not None and not source.isdecimal()  # a file is read once for all
    starts = [read_prefix(backend, source, prompt, seed) for prompt, seed in (videos[:1] if alike else videos)]
    starts *= len(videos) if alike else 1
    latents = [start for start, _ in starts if start is not None]
    return torch.stack(latents) if latents else None, [record for _, record in starts]


def true_latents(backend: Backend, prompt: str, blocks: int, seed: int) -> torch.Tensor:
    """Latents (F, C, H, W) of true blocks of what a prompt names; the rest of the world is drawn from the seed."""
    if backend.world is None:
        raise OutputError(f"the backend '{backend.spec.name}' has no true blocks to start from.")
    truth = backend.world.truth((Act(prompt, blocks * backend.spec.block),), seed)
    return backend.encode_video(truth.video())


def _file_record(path: Path) -> PrefixRecord:
    """A file by its content: a run from it can be repeated wherever it lies."""
    with path.open("rb") as file:
        return PrefixRecord(file=path.name, sha256=file_digest(file, "sha256").hexdigest())
