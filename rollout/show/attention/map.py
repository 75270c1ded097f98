"""Frame-level attention maps: how much each frame looks at each other (Infinity-RoPE, arXiv 2511.20649, supplement G)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout.cache import Watch
from rollout.errors import OutputError, RolloutError
from rollout.facts import HEADS
from rollout.files import write_whole
from rollout.loop import Result, Rollout
from rollout.slots import Block, Role, Slot, of_role

__all__ = ["ROLES", "AttentionMap", "Change", "FrameMap", "frame_shares", "middle"]

LONGEST = 4096
"""Frames of a map: M takes 64 MiB then."""
ROLES = ("", Role.SINK.value, Role.RECENT.value, "block")
"""What a frame is to the one that looks at it, as FrameMap.roles counts: not cached, a sink, recent, of its own block."""


def middle(layers: int) -> int:
    """The layer that stands for a model: two fifths up, which is the published 13th of 30 (index 12)."""
    return 2 * layers // 5


@dataclass(frozen=True)
class Change:
    """A new prompt or a cut before `frame`: `kind` is "prompt" or "cut", `cache` what it did there, such as "flush"."""

    frame: int
    kind: str
    cache: str
    prompt: str


@dataclass(frozen=True)
class FrameMap:
    """M[t, s] of T frames: the share of frame t's self-attention that goes to frame s, heads averaged.

    Rows of `M` (T, T) and `memory` (T, streams) together sum to 1 where `watched` (T,), else they are zero: frames that
    were given were never denoised. M is zero where s was not cached; `roles` (T, T) tells as what it was, by ROLES.
    `seconds` (T,) is when each frame is first seen.
    """

    M: NDArray[np.float32]
    memory: NDArray[np.float32]
    labels: tuple[str, ...]
    """Of the memory's streams."""
    roles: NDArray[np.uint8]
    watched: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    changes: tuple[Change, ...]
    layer: int
    step: int

    def shares(self, begin: int, end: int) -> dict[str, tuple[float, float]]:
        """The share of attention by role ("sink", "memory", "recent", "block"), and how many frames or streams have it.

        Means over the frames begin..end - 1 that were watched; empty where none was.
        """
        rows = np.arange(begin, end)[self.watched[begin:end]]
        if not len(rows):
            return {}
        masks = {role: self.roles[rows] == n for n, role in enumerate(ROLES)}
        parts = {role: (self.M[rows], masks[role]) for role in ROLES[1:]}
        parts[Role.MEMORY.value] = self.memory[rows], self.memory[rows] > 0
        order = (*(role.value for role in Role), "block")
        return {
            role: (float((m * mask).sum(1).mean()), float(mask.sum(1).mean()))
            for role, (m, mask) in ((role, parts[role]) for role in order)
        }

    def summary(self) -> list[dict[str, Any]]:
        """As JSON, where attention goes between changes; the first block after a change is told apart from the rest."""
        parts: list[dict[str, Any]] = []
        edges = [(0, None), *((change.frame, change) for change in self.changes), (len(self.M), None)]
        for (begin, change), (end, _) in pairwise(edges):
            first = begin if change is None else begin + int((self.roles[begin] == ROLES.index("block")).sum())
            label = None if change is None else f"{change.kind}, {change.cache}"
            for part, after in (((begin, first), label), ((first, end), None)):
                shares = self.shares(*part)
                if shares:
                    parts.append({"frames": list(part), "after": after, "shares": shares})
        return parts

    def save(self, path: Path) -> None:
        """Write an .npz that needs no pickle: the fields, changes as `change_frame`, `change_kind`, ... Raises OutputError."""
        arrays = {name: np.asarray(getattr(self, name)) for name in self.__annotations__ if name != "changes"}
        arrays["labels"] = np.array(self.labels, dtype=np.str_)
        arrays["role_names"] = np.array(ROLES)
        for name, kind in Change.__annotations__.items():
            arrays[f"change_{name}"] = np.array([getattr(c, name) for c in self.changes], np.dtype(kind))
        write_whole(path, lambda partial: _savez(partial, arrays))

    @classmethod
    def load(cls, path: str | Path) -> "FrameMap":
        """Read what `save` wrote. Raises OutputError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays: dict[str, Any] = {name: file[name] for name in cls.__annotations__ if name != "changes"}
                columns = [file[f"change_{name}"].tolist() for name in Change.__annotations__]
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise OutputError(
                f"{path} cannot be read as an attention map. Give an attention.npz of 'rollout attn'."
            ) from error
        arrays |= {
            "labels": tuple(arrays["labels"].tolist()),
            "layer": int(arrays["layer"]),
            "step": int(arrays["step"]),
        }
        return cls(**arrays, changes=tuple(Change(*row) for row in zip(*columns, strict=True)))


def _savez(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


class AttentionMap:
    """Watches one layer at one denoising step of a rollout of one video; its latents stay the same, bit for bit.

    Iterate over it for the rollout's results; `map` has what was seen so far. `layer` and `step` count from 0; the default
    is the `middle` layer at the last noisy step. Raises RolloutError.
    """

    def __init__(self, run: Rollout, *, layer: int | None = None, step: int | None = None) -> None:
        spec, steps = run.backend.spec, len(run.schedule.steps)
        if run.batch != 1:
            raise RolloutError(f"an attention map is of one video, not of a batch of {run.batch}. Roll out one script.")
        if run.strategy.order.joint(steps) > 1 or run.engine.lanes or HEADS in run.strategy.policy.needs:
            raise RolloutError(
                f"an attention map is of one block at a time and of heads that see the same, not of {run.strategy}. Use another "
                "order or policy."
            )
        if run.blocks * spec.block > LONGEST:
            raise RolloutError(
                f"a map of {run.blocks * spec.block} frames is too large; the longest has {LONGEST}. Shorten the script."
            )
        self.run = run
        self.layer = _within("layer", middle(spec.layers) if layer is None else layer, spec.layers)
        self.step = _within("step", steps - 1 if step is None else step, steps)
        self._shares: Tensor | None = None
        self._seen: list[tuple[Block, tuple[Slot, ...], NDArray[np.float32] | None]] = []
        self._changes: list[Change] = []
        run.cache.observer = self._observe

    def __iter__(self) -> Iterator[Result]:
        """The rollout's results, block by block."""
        for result in self.run:
            shares, self._shares = self._shares, None
            slots = tuple(result.slots[i] for i in result.placement.read)
            self._seen.append((result.block, slots, None if shares is None else shares.float().cpu().numpy()))
            self._change(result.block, result.prompts[0])
            yield result

    def _observe(self, rows: Sequence[int]) -> Watch:
        """A reader's passes are a block's denoising steps, in order."""
        passes, tokens = count(), self.run.backend.spec.tokens

        def watch(layer: int, q: Tensor, keys: Tensor) -> None:
            if layer == self.layer and next(passes) == self.step:
                self._shares = frame_shares(q, keys, tokens)[:, list(rows)]

        return watch

    def map(self) -> FrameMap:
        """What was seen so far. Raises RolloutError where that is nothing."""
        if not self._seen:
            raise RolloutError("no block was rolled out under this attention map. Iterate over it first.")
        spec, policy = self.run.backend.spec, self.run.strategy.policy
        frames = self._seen[-1][0].end
        streams = max(len(of_role(slots, Role.MEMORY)) for _, slots, _ in self._seen)
        rates = policy.rates
        names = [f"{rate:g}" for rate in rates] if len(rates) == streams else [str(n + 1) for n in range(streams)]
        frame_map = FrameMap(
            np.zeros((frames, frames), np.float32),
            np.zeros((frames, streams), np.float32),
            tuple(f"memory {name}" for name in names),
            np.zeros((frames, frames), np.uint8),
            np.zeros(frames, np.bool_),
            np.array([spec.seconds(frame) for frame in range(frames)]),
            tuple(self._changes),
            self.layer,
            self.step,
        )
        for block, slots, shares in self._seen:
            _fill(frame_map, block, slots, shares)
        return frame_map

    def _change(self, block: Block, prompt: str) -> None:
        switch = self.run.strategy.switch
        if block.index > 0 and (block.switch or block.cut):
            flushes = block.cut and not switch.flushes
            kind = "cut" if block.cut else "prompt"
            self._changes.append(Change(block.start, kind, "flush" if flushes else switch.kind, prompt))


def frame_shares(q: Tensor, keys: Tensor, tokens: int) -> Tensor:
    """The share of each frame's attention on each row of keys (frames, rows), heads averaged; q, keys (1, heads, n, D).

    Softmax in float32 or better, one head and frame at a time: `tokens` by cached tokens are held at most.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    rows, heads = keys.shape[2] // tokens, q.shape[1]
    total = q.new_zeros(q.shape[2] // tokens, rows, dtype=exact)
    for head in range(heads):
        across = keys[0, head].to(exact).T * q.shape[-1] ** -0.5
        for frame, part in enumerate(q[0, head].to(exact).reshape(-1, tokens, q.shape[-1])):
            total[frame] += (part @ across).softmax(-1).mean(0).view(rows, tokens).sum(-1)
    return total / heads


def _within(noun: str, value: int, number: int) -> int:
    if not 0 <= value < number:
        raise RolloutError(f"there is no {noun} {value}: the {number} {noun}s count from 0. Use 0 to {number - 1}.")
    return value


def _fill(frame_map: FrameMap, block: Block, slots: Sequence[Slot], shares: NDArray[np.float32] | None) -> None:
    """Put a block's shares (frames, slots then own frames) where they belong."""
    rows, streams = slice(block.start, block.end), count()
    frame_map.roles[rows, rows] = ROLES.index("block")
    for slot in slots:
        if slot.role is not Role.MEMORY:
            frame_map.roles[rows, slot.frame] = ROLES.index(slot.role.value)
    if shares is None:
        return
    frame_map.watched[rows] = True
    frame_map.M[rows, rows] = shares[:, len(slots) :]
    for n, slot in enumerate(slots):
        if slot.role is Role.MEMORY:
            frame_map.memory[rows, next(streams)] = shares[:, n]
        else:
            frame_map.M[rows, slot.frame] += shares[:, n]
