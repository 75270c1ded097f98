"""Latents on disk as they come: one safetensors file that grows by blocks and can be read from anywhere in it."""

import json
import mmap
import struct
from contextlib import suppress
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from rollout.documents import parse_json
from rollout.errors import OutputError
from rollout.files import new_file, own_file
from rollout.text import cause

__all__ = ["LatentsWriter", "as_bytes", "read_latents"]

HEADER = 256
"""Bytes kept free for the header, which the format lets us pad with spaces."""
LEAST = (1, 1, 1, 1, 0)
"""Of a shape's numbers, and of where the numbers begin."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class LatentsWriter:
    """Writes NAME.partial.safetensors, whole after every block, and gives it its name in `close`.

    `keep` frames of an earlier NAME.partial.safetensors stay, and what follows them is cut off.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self.path, self.partial = path, path.with_suffix(f".partial{path.suffix}")
        self.frames = 0
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        try:
            if keep:
                if self.left(path) == path:
                    path.replace(self.partial)
                own_file(self.partial)
                earlier = read_latents(self.partial)
                if len(earlier) < keep:
                    raise OutputError(f"{self.partial} holds {len(earlier)} of {keep} frames. Start again.")
                self.frames, self._shape, self._dtype = keep, tuple(earlier.shape[1:]), NAMES[earlier.dtype]
                del earlier
            else:
                new_file(self.partial)
            self._file = self.partial.open("r+b")
            self._file.truncate(HEADER + self._bytes)
            self._file.seek(0, 2)
        except OSError as error:
            if not keep:  # else it is what the next attempt goes on from
                with suppress(OSError):
                    self.partial.unlink()
            raise OutputError(f"{self.partial} cannot be written: {cause(error)}. Choose another --out.") from error

    @staticmethod
    def left(path: Path) -> Path:
        """Where the latents of an earlier writer of `path` are: they may be finished where the run is not."""
        partial = path.with_suffix(f".partial{path.suffix}")
        return path if path.exists() and not partial.exists() else partial

    @property
    def _bytes(self) -> int:
        if not self._shape:
            return 0
        return self.frames * torch.Size(self._shape).numel() * DTYPES[self._dtype].itemsize

    def write(self, latents: Tensor) -> None:
        """Append frames (F, C, H, W). Raises OutputError."""
        shape, dtype = tuple(latents.shape[1:]), NAMES[latents.dtype]
        if self.frames and (shape, dtype) != (self._shape, self._dtype):
            raise OutputError(f"{self.partial} holds latents of another model. Choose another --out.")
        self._shape, self._dtype = shape, dtype
        try:
            self._file.seek(0, 2)
            self._file.write(as_bytes(latents))
            self.frames += len(latents)
            self._head()
        except OSError as error:
            raise OutputError(f"{self.partial} cannot be written: {cause(error)}. Free some space.") from error

    def _head(self) -> None:
        shape = [self.frames, *self._shape]
        head = {"latents": {"dtype": self._dtype, "shape": shape, "data_offsets": [0, self._bytes]}}
        self._file.seek(0)
        self._file.write(struct.pack("<Q", HEADER - 8) + json.dumps(head).encode().ljust(HEADER - 8))
        self._file.flush()

    def close(self) -> None:
        """Give the file its name. Raises OutputError."""
        try:
            self._file.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {cause(error)}. Free some space.") from error

    def __enter__(self) -> "LatentsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(OSError):  # a buffer that a full disk did not take is tried again; the first error says more
                self._file.close()


def as_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers, as the machine holds them."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def read_latents(path: Path) -> Tensor:
    """Frames (F, C, H, W) of a file that LatentsWriter wrote, finished or not, mapped and not read. Raises OutputError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 0 < length <= 2**20:
                raise ValueError("its header is no safetensors header")
            header = parse_json(file.read(length))["latents"]
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        dtype, shape, place = DTYPES[header["dtype"]], header["shape"], header["data_offsets"][0]
        if len(shape) != 4 or any(
            type(n) is not int or n < least for n, least in zip([*shape, place], LEAST, strict=True)
        ):
            raise ValueError(f"its latents have the shape {str(shape)[:40]}")
        begin, frame = 8 + length + place, prod(shape[1:])
        frames = min(shape[0], (len(buffer) - begin) // (frame * dtype.itemsize))
        if frames < 1 or begin % dtype.itemsize:
            raise ValueError("it holds no frames")
        numbers = torch.frombuffer(buffer, dtype=dtype, offset=begin, count=frames * frame)
        return numbers.view(frames, *shape[1:])
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        why = "it is missing" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error})"
        raise OutputError(f"no latents in {path}: {why}. Give a file that --latents wrote.") from error
