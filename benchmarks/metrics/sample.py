"""What a metric sees of one rollout: its frames, its plan, its record. Everything is read once and on demand."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor

from rollout.backend import Spec
from rollout.benchmarks.metrics.features import extractor
from rollout.errors import OutputError
from rollout.registry import find, names
from rollout.run.record import RunFolder, RunRecord
from rollout.run.video import Frames, stream_video, video_fps
from rollout.slots import Block
from rollout.world import World

__all__ = ["FOREIGN", "Sample", "applies", "mean", "sample_of_run", "sample_of_video"]

Numbers = NDArray[np.float64]
FOREIGN = (
    "shows a world of another edition: what measures against a world's truth is left out. Generate it again for that."
)
"""What to say of a run that is `foreign`."""


@dataclass(frozen=True)
class Changes:
    """How a video changes, in grey levels of 0..255 averaged over pixels and channels."""

    mean: Numbers
    """(N-1,) mean absolute difference of neighbouring frames."""
    strong: Numbers
    """(N-1,) 95th percentile of the absolute difference over pixels (channel mean)."""
    bend: Numbers
    """(N-2,) mean absolute difference of a frame and the mean of its two neighbours."""


@dataclass
class Sample:
    """One rollout, or any video: `video` is a file or frames (N, height, width, 3).

    `blocks` and `prompts` (one a shot) are empty where nothing is known but the video; `given` counts the blocks that
    were a prefix; `record` is the run record.
    """

    video: Path | Frames
    fps: float
    spec: Spec | None = None
    blocks: tuple[Block, ...] = ()
    prompts: tuple[str, ...] = ()
    given: int = 0
    record: RunRecord | None = None
    foreign: bool = False
    """It shows another world than its backend has today: nothing here knows its truth."""

    def frames(self) -> Iterator[Frames]:
        """The frames (height, width, 3) one by one, those of a world in its own size. Raises OutputError."""
        frames = stream_video(self.video) if isinstance(self.video, Path) else iter(self.video)
        world = self.world
        return frames if world is None else (_own_size(frame, world.size) for frame in frames)

    @cached_property
    def world(self) -> World | None:
        """The world whose truth is known, if its backend is registered, has one, and it shows that."""
        if self.spec is None or self.foreign:
            return None
        return _world(self.spec.name)

    def pixel(self, frame: int) -> int:
        """The first pixel frame of a latent frame."""
        return frame if self.spec is None else self.spec.pixel_frames(frame)

    def seconds(self, frame: int) -> float:
        """The time of a latent frame."""
        return self.pixel(frame) / self.fps

    @property
    def events(self) -> tuple[Block, ...]:
        """The blocks at which the prompt changes or a cut happens."""
        return tuple(b for b in self.blocks if b.switch or b.cut)

    @property
    def seams(self) -> tuple[int, ...]:
        """Pixel frames that open a generated block, those of prompt changes and cuts left out."""
        return tuple(self.pixel(b.start) for b in self.blocks if b.index > self.given and not (b.switch or b.cut))

    @cached_property
    def changes(self) -> Changes:
        """One pass over the video."""
        means, strong, bends = [], [], []
        two: Any = None
        one: Any = None
        for frame in self.frames():
            now = frame.astype(np.float32)
            if one is not None:
                gap = np.abs(now - one)
                means.append(gap.mean())
                strong.append(np.percentile(gap.mean(-1), 95))
            if two is not None:
                bends.append(np.abs(one - (two + now) / 2).mean())
            two, one = one, now
        return Changes(*(np.array(x, np.float64) for x in (means, strong, bends)))

    def features(self, name: str) -> Tensor:
        """(N, D) unit vectors of every frame, by an extractor's name. Raises SpecError, BackendError."""
        if name not in self._features:
            vectors = torch.cat([chunk.double().cpu() for chunk in extractor(name)(self.frames())])
            self._features[name] = torch.nn.functional.normalize(vectors, dim=-1)
        return self._features[name]

    @cached_property
    def _features(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """A place for what several metrics share, by name."""
        return {}


def sample_of_video(path: Path) -> Sample:
    """A video file alone, whatever made it. Raises OutputError."""
    if not path.is_file():
        raise OutputError(f"the video {path} is not a file. Give an mp4, or the folder of a run.")
    return Sample(path, video_fps(path))


def sample_of_run(folder: Path) -> Sample:
    """A run's folder: frames.mkv where it was kept, else video.mp4, and run.json. Raises OutputError."""
    run = RunFolder.open(folder)
    record, script = run.record, run.record.script
    entry, block = find("backends", record.backend.name), record.backend.options.get("block")
    spec = replace(entry.spec(block), fps=script.fps, stride=script.stride)
    blocks, prompts = record.course(spec)
    return Sample(
        video=run.video,
        fps=script.fps,
        spec=spec,
        blocks=blocks,
        prompts=prompts,
        given=record.costs.given,
        record=record,
        foreign=_foreign(run, _world(spec.name)),
    )


def _world(backend: str) -> World | None:
    if backend not in names("backends"):  # a model of one's own, of this process alone
        return None
    world: World | None = find("backends", backend).world
    return world


def _foreign(run: RunFolder, world: World | None) -> bool:
    """Whether a run shows another world than `world`."""
    if world is None:
        return False
    if run.record.backend.world is not UNSET:
        return run.record.backend.world != world.name
    # the first edition's records name no world; the size of lossless frames tells, an enlarged video does not
    return run.video.suffix != ".mkv" or next(stream_video(run.video)).shape[:2] != world.size


def applies(needs: str, sample: Sample) -> bool:
    """Whether a metric that needs "video", "plan", "record" or "world" can be asked of a sample."""
    if needs == "world":
        return sample.world is not None
    return needs == "video" or bool(sample.blocks)


def _own_size(frame: Frames, size: tuple[int, int]) -> Frames:
    """A frame of a world that was enlarged by a whole factor for its video, as the world drew it."""
    height, width = size
    factor = max(1, frame.shape[0] // height)
    if factor == 1 or frame.shape != (factor * height, factor * width, 3):
        return frame
    small: Frames = frame.reshape(height, factor, width, factor, 3).mean((1, 3)).round().astype(np.uint8)
    return small


def mean(values: Iterable[float]) -> float | None:
    """The mean of some numbers, None of none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
