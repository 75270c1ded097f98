"""Buffers that hold keys or values in another form than the model's numbers: read as tensors, and written as such."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["Buffer", "Coded", "Float8", "Hosted", "Int8", "pieces"]


class Coded:
    """Rows (B, rows, h*w, heads, channels) of which `parts` hold the code, each with the same first four dimensions.

    `groups`: the channels that are written by themselves, those of time and those of space, share no code, so that turning
    the one leaves the other as it is.
    """

    def __init__(
        self, size: tuple[int, ...], groups: tuple[int, ...], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.size, self.groups, self.dtype, self.device = size, groups, dtype, torch.device(device)
        self.parts: dict[str, Tensor] = self.encode(torch.zeros(size, dtype=dtype, device=device))

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """The code of numbers (..., channels)."""
        raise NotImplementedError

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """The numbers of a code."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of the code."""
        return sum(part.nbytes for part in self.parts.values())

    def __getitem__(self, index: tuple[Any, ...]) -> Tensor:
        numbers = self.decode({name: part[index[:2]] for name, part in self.parts.items()})
        return numbers[index[2:]] if len(index) > 2 else numbers

    def __setitem__(self, index: tuple[Any, ...], x: Tensor) -> None:
        if len(index) > 2:
            numbers = self[index[:2]]
            numbers[index[2:]] = x.to(self.dtype)
            x = numbers
        for name, part in self.encode(x.to(self.dtype)).items():
            self.parts[name][index[:2]] = part.to(self.parts[name].device)


Buffer = Tensor | Coded
"""Rows of keys or values in one layer."""


def pieces(buffer: Buffer) -> list[Tensor]:
    """The tensors that a buffer holds, rows in dimension 1 and heads in dimension 3."""
    return [buffer] if isinstance(buffer, Tensor) else list(buffer.parts.values())


class Int8(Coded):
    """Whole numbers from -127 to 127, with a scale a token, head and group of channels."""

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        codes, scales = [], []
        for part in torch.split(x.float(), list(self.groups), -1):
            # a part that was decoded gets the same code again: its largest number is 127 scales
            scale = part.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
            codes.append((part / scale).round().to(torch.int8))
            scales.append(scale)
        return {"codes": torch.cat(codes, -1), "scales": torch.cat(scales, -1)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        codes = torch.split(parts["codes"], list(self.groups), -1)
        scales = torch.split(parts["scales"], 1, -1)
        return torch.cat([code * scale for code, scale in zip(codes, scales, strict=True)], -1).to(self.dtype)


class Float8(Coded):
    """Numbers of 8 bits, 3 of them mantissa (torch.float8_e4m3fn), as they are: normed keys are far from its limits."""

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": x.float().clamp(-448, 448).to(torch.float8_e4m3fn)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        return parts["codes"].to(self.dtype)

    def __getitem__(self, index: tuple[Any, ...]) -> Tensor:
        codes = self.parts["codes"].view(torch.uint8)[index[:2]].contiguous()
        numbers = self.decode({"codes": codes.view(torch.float8_e4m3fn)})
        return numbers[index[2:]] if len(index) > 2 else numbers

    def __setitem__(self, index: tuple[Any, ...], x: Tensor) -> None:
        if len(index) > 2:
            numbers = self[index[:2]]
            numbers[index[2:]] = x.to(self.dtype)
            x = numbers
        self.parts["codes"].view(torch.uint8)[index[:2]] = self.encode(x)["codes"].view(torch.uint8)


class Hosted(Coded):
    """Numbers as they are, in the host's memory; pinned where a GPU reads them."""

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        return {"numbers": x.cpu()}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        return parts["numbers"].to(self.device, non_blocking=True, copy=True)

    def __init__(
        self, size: tuple[int, ...], groups: tuple[int, ...], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.size, self.groups, self.dtype, self.device = size, groups, dtype, torch.device(device)
        self.parts = {"numbers": torch.zeros(size, dtype=dtype, pin_memory=self.device.type == "cuda")}
