"""HeadSplit: the heads of each layer by the process that holds them, and tensors with heads as snapshots hold them: whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.ranks import Ranks, leads

__all__ = ["HeadSplit"]


@dataclass(frozen=True)
class HeadSplit:
    """`counts`: of each layer the heads that each process holds; `ranks` is None where one holds all."""

    counts: tuple[tuple[int, ...], ...]
    ranks: Ranks | None = None

    @classmethod
    def of(cls, heads: Sequence[int], ranks: Ranks | None) -> "HeadSplit":
        """Of the heads by layer that are here; all processes must ask."""
        if ranks is None:
            return cls(tuple((count,) for count in heads))
        by_rank = ranks.join(torch.tensor([list(heads)]), 0)
        return cls(tuple(map(tuple, by_rank.T.tolist())), ranks)

    @property
    def _alike(self) -> bool:
        """Whether all layers have the same number of heads."""
        return len({sum(counts) for counts in self.counts}) == 1

    def collected(self, layer: int, x: Tensor, dim: int) -> Tensor:
        """A layer's tensor with all heads along `dim`, on the CPU; of several processes in the first one."""
        if self.ranks is None:
            return x.cpu().contiguous()
        return self.ranks.collect(x, dim, self.counts[layer])

    def part(self, layer: int, x: Tensor, dim: int) -> Tensor:
        """Of a layer's tensor with all heads along `dim` those that are here. Raises ValueError where they are others."""
        counts, number = self.counts[layer], 0 if self.ranks is None else self.ranks.number
        if x.shape[dim] != sum(counts):
            raise ValueError(f"it holds {x.shape[dim]} heads, not {sum(counts)}")
        return x.narrow(dim, sum(counts[:number]), counts[number]).contiguous()

    def packed(self, name: str, layers: Sequence[Tensor], dim: int) -> dict[str, Tensor]:
        """A tensor a layer as one, with all heads along `dim`; as several where layers differ in heads.

        Of several processes the first one gets them, and the others nothing.
        """
        return self._named(name, [self.collected(n, layer, dim) for n, layer in enumerate(layers)])

    def packed_wins(self, name: str, layers: Sequence[Tensor]) -> dict[str, Tensor]:
        """The same of counts (B, heads or 1, tokens): one row where all heads have won alike, wherever they are."""
        if self.ranks is None:
            return self._named(name, [wins.cpu() for wins in layers])
        here = [counts[self.ranks.number] for counts in self.counts]
        whole = [
            self.collected(n, wins.expand(-1, count, -1), 1)
            for n, (wins, count) in enumerate(zip(layers, here, strict=True))
        ]
        if all(wins.equal(wins[:, :1].expand_as(wins)) for wins in whole if wins.shape[1]):
            # a layer without heads has a row too
            whole = [wins[:, :1] if wins.shape[1] else wins.new_zeros(len(wins), 1, wins.shape[2]) for wins in whole]
        return self._named(name, whole)

    def _named(self, name: str, layers: Sequence[Tensor]) -> dict[str, Tensor]:
        if not leads(self.ranks):  # what it has is in the first one's
            return {}
        if self._alike:
            return {name: torch.stack(list(layers))}
        return {f"{name}/{n}": layer.contiguous() for n, layer in enumerate(layers)}

    def unpacked(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        size: tuple[int, ...],
        dtype: torch.dtype,
        dim: int,
        *,
        shared: bool = False,
    ) -> list[Tensor]:
        """The heads that are here of a tensor a layer, of this size but along `dim`; `shared`: one row for all heads.

        Raises KeyError, ValueError.
        """
        count = len(self.counts)
        layers = list(tensors[name]) if self._alike else [tensors[f"{name}/{n}"] for n in range(count)]
        sizes = [(*size[:dim], 1 if shared else sum(heads), *size[dim + 1 :]) for heads in self.counts]
        if [tuple(layer.shape) for layer in layers] != sizes or any(layer.dtype != dtype for layer in layers):
            raise ValueError(f"{name} is {layers[0].dtype} {tuple(layers[0].shape)}, not {dtype} {sizes[0]}")
        return layers if shared else [self.part(n, layer, dim) for n, layer in enumerate(layers)]
