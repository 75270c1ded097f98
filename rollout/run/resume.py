"""Going on with a run that was stopped: from the newest snapshot that the files beside it satisfy, else from its beginning."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rollout.backend import Backend, Spec
from rollout.errors import OutputError
from rollout.ranks import leads
from rollout.run.job import Job, pictures_of
from rollout.run.latents import LatentsWriter, read_latents
from rollout.run.recipe import PrefixRecord, content
from rollout.run.snapshot import DAMAGE, Snapshot, damaged, newest_snapshot, read_snapshot, snapshot_path, snapshots
from rollout.run.video import VideoWriter

__all__ = ["begin_again", "go_on"]


def go_on(
    backend: Backend,
    folder: Path,
    *,
    fits: Callable[[Snapshot], bool] = lambda snapshot: True,
    say: Callable[[OutputError], None] = lambda problem: None,
) -> Job | None:
    """The run in a folder that nobody else writes to, from its newest snapshot that fits and that its files satisfy.

    None where there is none; `say` gets what is wrong with each that is passed over. Of several processes the first one
    chooses, and all must call this.
    """
    ranks, before = backend.ranks, None
    while True:
        snapshot = next(_usable(backend.spec, folder, before, fits, say), None) if leads(ranks) else None
        if ranks is not None:
            block = ranks.share(None if snapshot is None else snapshot.block)
            if not leads(ranks) and block is not None:
                snapshot = read_snapshot(snapshot_path(folder, block))
        if snapshot is None:
            return None
        try:
            return Job.resumed(backend, snapshot, folder)
        except OutputError as error:  # alike in all processes
            say(error)
            before = snapshot.block


def _usable(
    spec: Spec,
    folder: Path,
    before: int | None,
    fits: Callable[[Snapshot], bool],
    say: Callable[[OutputError], None],
) -> Iterator[Snapshot]:
    """The snapshots of blocks before one that can be read and gone on from, the newest first."""
    for path in snapshots(folder):
        try:
            snapshot = read_snapshot(path)
            if (before is None or snapshot.block < before) and fits(snapshot):
                _check_files(spec, folder, snapshot)
                yield snapshot
        except OutputError as error:  # whatever stopped the run may have cut off what it wrote last
            say(error)


def _check_files(spec: Spec, folder: Path, snapshot: Snapshot) -> None:
    """Raise OutputError where the files that grow hold less than a snapshot goes on from."""
    path = snapshot_path(folder, snapshot.block)
    try:
        latents = int(snapshot.state["output"]["latents"]) if snapshot.state["job"]["latents"] else 0
        frames = int(snapshot.state["output"]["frames"]) - len(snapshot.tensors["output.tail"])
        if latents:
            file = LatentsWriter.left(folder / "latents.safetensors")
            held = read_latents(file)
            if held.shape[1:] != spec.latent:
                raise OutputError(f"{file} holds latents of another model, so that {path.name} cannot be used.")
            if len(held) < latents:
                raise OutputError(
                    f"{file} holds {len(held)} of {latents} latent frames, so that {path.name} cannot be used."
                )
        file = VideoWriter.left(folder / "video.mp4")
        held_frames = VideoWriter.held(file, frames)
    except DAMAGE as error:
        raise damaged(path, error) from error
    if held_frames < frames:
        raise OutputError(f"{file} holds {held_frames} of {frames} frames, so that {path.name} cannot be used.")


def begin_again(backend: Backend, folder: Path) -> Job:
    """The run in a folder from its beginning, as its newest snapshot that can be read says. Raises OutputError.

    A fork begins with its history, which its own latents hold.
    """
    snapshot = newest_snapshot(folder)
    path = snapshot_path(folder, snapshot.block)
    try:
        before, recipe = snapshot.state["job"], snapshot.recipe
        frames = int(before["history"]) * backend.spec.block
        every = None if before["every"] is None else int(before["every"])
        prefix = None if before["prefix"] is None else PrefixRecord(**before["prefix"])
        history = None
        if frames:
            history = read_latents(LatentsWriter.left(folder / "latents.safetensors"))[:frames]
            if len(history) < frames or history.shape[1:] != backend.spec.latent:
                raise OutputError(f"{folder} is a fork, and the history that it begins with is not whole. Fork again.")
        job = Job(
            backend,
            recipe,
            folder,
            latents=bool(before["latents"]),
            every=every,
            pictures=pictures_of(before),
            history=history,
        )
    except DAMAGE as error:
        raise damaged(path, error) from error
    if content(job.prefix_record) != content(prefix):
        raise OutputError(f"{recipe.prefix} is not what the run started from ({prefix}). Give that file.")
    if backend.ranks is not None:  # all have read what the first one is about to remove
        backend.ranks.sum(torch.zeros(1))
    return job
