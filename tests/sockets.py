"""A process's children, and where they listen, as the kernel tells it."""

import socket
import struct
from contextlib import suppress
from pathlib import Path

__all__ = ["LOOPBACK", "family", "listening"]

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
"""Addresses that nothing beyond this machine reaches."""
LISTENS = "0A"
"""The state of a socket that waits for connections, in /proc/net/tcp."""


def listening(process: int) -> set[tuple[str, int]]:
    """The addresses and ports on which a process, its children and theirs wait for TCP connections. Linux only."""
    own = {inode for member in family(process) for inode in _sockets(member)}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
    ]
    return {_address(row[1]) for row in rows if row[3] == LISTENS and row[9] in own}


def family(process: int) -> list[int]:
    """A process, its children and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    members = [process]
    for member in members:
        members += children.get(member, [])
    return members


def _sockets(process: int) -> set[str]:
    """The inodes of a process's sockets."""
    inodes = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    inodes.add(inode.strip("[]"))
    return inodes


def _address(text: str) -> tuple[str, int]:
    """An address as the kernel writes it: words of 32 bits in this machine's order, in hexadecimal."""
    number, _, port = text.partition(":")
    words = [int(number[at : at + 8], 16) for at in range(0, len(number), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)
