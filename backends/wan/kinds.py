"""What a file that is said to hold weights really is, by its first bytes: read, or named with what to get instead."""

import zipfile
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from rollout.errors import BackendError
from rollout.text import cause

__all__ = ["AGAIN", "FOREIGN", "OLD_TORCH", "POINTER", "Kind", "check_files", "file_kind"]

Kind = Literal["safetensors", "torch", "old torch"]
"""How a file holds tensors; `old torch`: as before PyTorch 1.6, which cannot be memory-mapped."""

AGAIN = "Download it again."
POINTER = b"version https://git-lfs"
"""How a file begins that a clone without Git LFS has in place of a large one."""
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        POINTER,
        "a Git LFS pointer, which names the file and is not it",
        "Get the file with 'git lfs pull' or 'hf download'.",
    ),
    (
        b"GGUF",
        "a GGUF file, quantised in blocks for other programs",
        "Get the same model as safetensors or .pt, in fp8, fp16 or bf16.",
    ),
    (b"\x1f\x8b", "a gzip archive", "Unpack it, and give the file in it."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, and give the file in it."),
    (b"Rar!", "a RAR archive", "Unpack it, and give the file in it."),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "Get the model as safetensors or .pt."),
)
"""First bytes of what is no file of tensors, its name, and what to do."""
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that PyTorch wrote first before 1.6, pickled."""


def file_kind(path: Path, role: str) -> Kind:
    """How the file holds its tensors. Raises BackendError, which names what else it is; `role`: what it was to be."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(1024)
    except OSError as error:
        raise BackendError(f"the {role} {path} cannot be read: {cause(error)}.") from error
    kind, what, remedy = _kind(path, head, size)
    if kind is None:
        raise BackendError(f"the {role} {path} is {what}. {remedy}")
    return kind


def check_files(folder: Path) -> None:
    """Raise BackendError for a file of a model's part that is not what its name says; of weights the headers are read."""
    role = f"file of the {folder.name.replace('_', ' ').replace('vae', 'VAE')}"
    for file in sorted(folder.rglob("[!.]*")):
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            if file_kind(file, role) != "safetensors":
                raise BackendError(f"the {role} {file} is a PyTorch file, not safetensors. {AGAIN}")
            try:
                with safe_open(file, "pt"):
                    continue
            except (SafetensorError, OSError) as error:
                raise BackendError(f"the {role} {file} is cut off or damaged: {cause(error)}. {AGAIN}") from error
        with file.open("rb") as stream:
            head = stream.read(len(POINTER))
        if head in (b"", POINTER):
            file_kind(file, role)


def _kind(path: Path, head: bytes, size: int) -> tuple[Kind | None, str, str]:
    """The kind, or what it is instead and what to do."""
    if not head:
        return None, "an empty file", AGAIN
    for start, what, remedy in FOREIGN:
        if head.startswith(start):
            return None, what, remedy
    if head.startswith(b"PK"):
        return _zip(path)
    if head.startswith(OLD_TORCH):
        return "old torch", "", ""
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < 2**32:
        if size < 8 + header:
            return None, "cut off in its header: the download is not whole", AGAIN
        return "safetensors", "", ""
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return None, "a Python pickle, which runs code as it is read", "Get the weights as safetensors."
    return None, *_text(head)


def _zip(path: Path) -> tuple[Kind | None, str, str]:
    """PyTorch's own zip archives, and others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return None, "cut off: it begins as an archive and does not end as one", AGAIN
    if "constants.pkl" in names:
        return None, "a TorchScript program", "Get the model's state dict, as safetensors or .pt."
    if "data.pkl" not in names:
        return None, "a zip archive, not one of PyTorch's", "Unpack it, and give the file in it."
    return "torch", "", ""


def _text(head: bytes) -> tuple[str, str]:
    """What a file of no known kind is."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page: the link led to a page about the file", "Download the file itself."
    if start[:1] in (b"{", b"["):
        return "a JSON file", "Give the file of weights."
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        first_line = start.decode("ascii").splitlines()[0][:60] if start else ""
        return f"a text file that says {first_line!r}", AGAIN
    return f"of no kind that holds tensors (it begins with {head[:8].hex()})", "Give safetensors or a .pt file."
