"""`attend` as one operator that a compiler does not look into: to a compiled model a cache is shapes alone.

What the cache does changes with layer, window, pass and strategy; traced, each would be a graph of its own. Which layer
calls is a number in a tensor, whose value no guard looks at, so that all layers share one graph.
"""

from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from rollout.backend import Attend

__all__ = ["Opaque"]


class Opaque:
    """What a compiled model calls in place of `attend`, which may be another in every pass; None outside of one."""

    def __init__(self) -> None:
        self.attend: Attend | None = None
        self._handle = next(_HANDLES)
        _ALIVE[self._handle] = self

    def place(self, layer: int) -> Tensor:
        """What tells the operator who calls, and in which layer: made once a layer, and held where the layer finds it."""
        return torch.tensor([self._handle, layer])

    @staticmethod
    def call(place: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `attend` (B, F*h*w, heads, D), in a graph. Raises what `attend` raises, and RuntimeError outside of a pass."""
        out: Tensor = _attend(place, q, k, v)
        return out


_HANDLES = count()
_ALIVE: WeakValueDictionary[int, Opaque] = WeakValueDictionary()


@torch.library.custom_op("rollout::attend", mutates_args=())
def _attend(place: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    handle, layer = place.tolist()
    attend = _ALIVE[handle].attend
    if attend is None:
        raise RuntimeError("the model was called outside a denoise pass")
    out = attend(layer, q, k, v).to(v.dtype).contiguous()
    handed_over = {x.untyped_storage().data_ptr() for x in (q, k, v)}
    # the graph takes the result for new, and may write over what it has handed over
    return out.clone() if out.untyped_storage().data_ptr() in handed_over else out


@_attend.register_fake
def _(place: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(q.shape)
