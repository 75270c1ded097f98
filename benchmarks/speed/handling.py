"""Three ways to handle a cache for one block, without the model: ours, the least that is possible, and the released one.

At the geometry of Wan2.1-1.3B, one layer. The attention kernel returns its queries, so that all that is left is evicting,
rotating, writing and re-rotating, over a block's five passes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rollout.backend import Spec, split_pairs
from rollout.cache import KVCache
from rollout.devices import now
from rollout.plan import Step, chunks, decide, replayed
from rollout.rope import rotate, table
from rollout.slots import Block
from rollout.strategy import Strategy
from rollout.views import reach

__all__ = ["PASSES", "Floor", "Ours", "Plain", "geometry", "milliseconds"]

PASSES = 5
"""Four denoising steps and the clean pass."""


def geometry(layers: int = 1) -> Spec:
    """Wan2.1-T2V-1.3B at 480x832, with fewer layers."""
    return Spec("wan", layers, 12, 128, (16, 60, 104), (30, 52), split_pairs(128))


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """What some work takes, the device idle before and after."""
    begun = now(device)
    work()
    return 1000 * (now(device) - begun)


def _qkv(spec: Spec, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries, keys and values."""
    shape = (1, spec.block * spec.tokens, spec.heads, spec.head_dim)
    q, k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
    return q, k, v


class Ours:
    """A cache under a strategy, one block after another."""

    def __init__(self, strategy: Strategy, spec: Spec, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.strategy, self.spec = strategy, spec
        self.cache = KVCache(spec, strategy.policy.window, dtype=dtype, device=device, attention=lambda q, k, v: q)
        self.qkv = _qkv(spec, dtype, device)
        self.next = 0

    def fill(self) -> None:
        """Blocks until the window is full and every kind of slot is there."""
        for _ in range(-(-self.strategy.policy.window // self.spec.block) + 2):
            self.block(self.step())

    def step(self, *, switch: bool = False, cut: bool = False) -> Step:
        """The decisions for the next block, which are not timed: they are microseconds of Python."""
        n = self.spec.block
        return decide(
            self.strategy, self.cache.slots, Block(self.next, self.next * n, n, switch=switch, cut=cut), self.spec
        )

    def block(self, step: Step) -> None:
        """All that a strategy does for one block, without the model."""
        self.cache.apply(step.room)
        read = self.cache.reader(step.placement)
        for _ in range(PASSES - 1):
            self._pass(read)
        self._pass(self.cache.writer(step.placement, step.admitted))
        self.cache.commit(step.admitted)
        self.next += 1

    def switch(self, step: Step) -> int:
        """A prompt change or a cut: the edit and the replay's writes; the passes that a replay takes."""
        assert step.switch is not None
        self.cache.apply(step.switch)
        if step.replay is None:
            return 0
        count, slots = 0, iter(replayed(step.replay, self.spec.block))
        for part, placement in chunks(
            self.strategy, step.switch.slots, step.replay, self.spec.block, reach(self.strategy, self.spec)
        ):
            members = [next(slots) for _ in part]
            self._pass(self.cache.writer(placement, members), len(part))
            self.cache.commit(members)
            count += 1
        return count

    def _pass(self, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor], frames: int | None = None) -> None:
        tokens = (frames or self.spec.block) * self.spec.tokens
        for layer in range(self.spec.layers):
            attend(layer, *(x[:, :tokens] for x in self.qkv))


class Plain:
    """The released handling of one layer, plainly: rolled by clones, rotated in float64.

    `raw`: keys are kept unrotated and all turn in every pass, as where they are dated relative to the block; else each is
    rotated once, at the frame's own number.
    """

    def __init__(
        self,
        window: int,
        sink: int,
        spec: Spec,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        raw: bool = True,
    ) -> None:
        self.spec, self.sink, self.size, self.raw = spec, sink * spec.tokens, spec.block * spec.tokens, raw
        shape = (1, window * spec.tokens, spec.heads, spec.head_dim)
        self.keys, self.values = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        self.turns = table(range(window), spec.grid, spec.axes, dtype=torch.float64, device=device)
        self.qkv = _qkv(spec, dtype, device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q, keys and values of a pass; `keep`: what was rolled stays so."""
        fresh_turns = self.turns[-self.size :]
        keys, values = self.keys.clone(), self.values.clone()
        for side, fresh in ((keys, k if self.raw else self._rotated(k, fresh_turns)), (values, v)):
            side[:, self.sink : -self.size] = side[:, self.sink + self.size :].clone()
            side[:, -self.size :] = fresh
        if keep:
            self.keys, self.values = keys, values
        return self._rotated(q, fresh_turns), self._rotated(keys, self.turns) if self.raw else keys, values

    def block(self) -> None:
        """Five passes; the last one keeps what it rolled."""
        for n in range(PASSES):
            self.attend(*self.qkv, keep=n == PASSES - 1)

    @staticmethod
    def _rotated(x: Tensor, turns: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.double().view(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x.dtype)


class Floor:
    """What no handling can do without: rotate q, rotate and write k, write v."""

    def __init__(
        self, window: int, sink: int, spec: Spec, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        exact = torch.promote_types(dtype, torch.float32)
        self.qkv = _qkv(spec, dtype, device)
        self.turns = table(range(spec.block), spec.grid, spec.axes, dtype=exact, device=device)
        shape = (1, window * spec.tokens, spec.heads, spec.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))

    def block(self) -> None:
        """Five passes."""
        q, k, v = self.qkv
        for _ in range(PASSES):
            rotate(q, self.turns)
            rotate(k, self.turns, out=self.keys[:, -k.shape[1] :])
            self.values[:, -v.shape[1] :].copy_(v)
