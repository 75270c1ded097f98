"""What goes over the wire: orders that come in, blocks and frames that go out, and a client's short queue."""

import json
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Any

from PIL import Image

from rollout.errors import RolloutError
from rollout.run.video import Frames
from rollout.show.live.pane import Made, Pane
from rollout.text import Json

__all__ = [
    "HEADER",
    "JPEG",
    "LONGEST",
    "PENDING",
    "SPEEDS",
    "VERSION",
    "WEBP",
    "Order",
    "Outbox",
    "block_messages",
    "error",
    "picture",
    "read_order",
]

VERSION = 1
HEADER = struct.Struct("<BBBBHHII")
"""Version, pane, format (1 WebP, 2 JPEG), place in the block, prompt, milliseconds it is seen, block, frame."""
WEBP, JPEG = 1, 2
SMALL = 128
"""Pixels up to which a frame is sent without loss."""
LONGEST = 4096
"""Characters of a message."""
TEXT = 500
"""Characters of a prompt or a strategy."""
PENDING = 64
"""Notes that wait for a client at most."""
SPEEDS = (0.0, 0.5, 1.0, 2.0)
"""0: as fast as possible."""
ORDERS: dict[str, tuple[str, ...]] = {
    "prompt": ("text",),
    "cut": (),
    "flush": (),
    "recache": (),
    "pause": ("on",),
    "speed": ("value",),
    "use": ("strategy",),
    "fork": ("strategy",),
    "close": (),
    "save": (),
}
ALONE = ("fork", "close")
"""Orders that name their pane."""


@dataclass(frozen=True)
class Order:
    """What a client asks; without `pane` it is for all of them."""

    do: str
    pane: int | None = None
    value: Any = None
    reply: Callable[[Json], None] = lambda message: None


def read_order(text: str | bytes, reply: Callable[[Json], None]) -> Order:
    """A client's message as an order. Raises RolloutError."""
    if len(text) > LONGEST:
        raise RolloutError(f"a message has {LONGEST} characters at most, this one {len(text)}.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("do") not in tuple(ORDERS):
        raise RolloutError(f'a message is a JSON object with "do": one of {", ".join(ORDERS)}.')
    do, pane = data["do"], data.get("pane")
    unknown = set(data) - {"do", "pane", *ORDERS[do]}
    if unknown:
        raise RolloutError(f"'{do}' has no field {sorted(unknown)[0][:40]!r}.")
    # type(): JSON's true is an int to isinstance.
    if not (pane is None and do not in ALONE) and type(pane) is not int:
        raise RolloutError(f"'{do}' needs a pane's number." if pane is None else "a pane is a whole number, or null.")
    value = data.get(ORDERS[do][0]) if ORDERS[do] else None
    if do == "fork" and value is None:
        return Order(do, pane, None, reply)
    if do in ("prompt", "use", "fork"):
        value = _text(value, ORDERS[do][0])
    elif do == "pause" and type(value) is not bool:
        raise RolloutError("'pause' needs \"on\": true or false.")
    elif do == "speed" and (type(value) not in (int, float) or value not in SPEEDS):
        raise RolloutError("'speed' needs \"value\": 0.5, 1, 2, or 0 for as fast as possible.")
    return Order(do, pane, value, reply)


def _text(value: Any, name: str) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not 0 < len(text) <= TEXT or not text.isprintable():
        raise RolloutError(f"a {name} is a text of 1 to {TEXT} characters in one line.")
    return text


def error(why: str) -> Json:
    """What a client is told that asked for what cannot be."""
    return {"type": "error", "text": why}


class Outbox:
    """What waits for one client: notes, the newest state, and of each pane its newest block; all else is dropped."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake, self._lock = wake, Lock()
        self._notes: deque[str] = deque(maxlen=PENDING)
        self._state: str | None = None
        self._blocks: dict[int, Sequence[str | bytes]] = {}
        self.dropped = 0
        """Blocks that a slow client did not get."""

    def tell(self, message: Json) -> None:
        """Add a note."""
        with self._lock:
            self._notes.append(json.dumps(message, ensure_ascii=False))
        self._wake()

    def state(self, text: str) -> None:
        """The session's state, which replaces an older one."""
        with self._lock:
            self._state = text
        self._wake()

    def block(self, pane: int, messages: Sequence[str | bytes]) -> None:
        """A pane's block, which replaces an older one."""
        with self._lock:
            self.dropped += pane in self._blocks
            self._blocks[pane] = messages
        self._wake()

    def forget(self, pane: int) -> None:
        """A pane is gone."""
        with self._lock:
            self._blocks.pop(pane, None)

    def take(self) -> list[str | bytes]:
        """All that waits, the state first."""
        with self._lock:
            messages_out: list[str | bytes] = [] if self._state is None else [self._state]
            messages_out += self._notes
            for messages in self._blocks.values():
                messages_out += messages
            self._state, self._blocks = None, {}
            self._notes.clear()
        return messages_out


def block_messages(pane: Pane, finished_block: Made, seconds: float) -> list[str | bytes]:
    """A block as its description and its frames; all of it is seen for `seen` seconds."""
    result, spec = finished_block.result, pane.backend.spec
    block = result.block
    pairs = zip(result.slots, result.placement.slots, strict=True)
    head = {
        "type": "block",
        "pane": pane.number,
        "block": block.index,
        "start": block.start,
        "seconds": spec.seconds(block.start),
        "prompt": result.prompts[0],
        "number": block.prompt,
        "switch": block.switch,
        "cut": block.cut,
        "events": finished_block.events,
        "slots": [(slot.role.value, slot.frame, index) for slot, index in pairs],
        "at": result.placement.block,
        "trained": spec.trained,
        "pace": None if pane.pace is None else round(pane.pace, 2),
        "badge": None if pane.watch is None else pane.watch.state,
    }
    milliseconds = min(65535, round(1000 * seconds / len(finished_block.frames)))
    first = spec.pixel_frames(block.start)
    frames = []
    for n, frame in enumerate(finished_block.frames):
        kind, data = picture(frame)
        number = block.prompt % 65536
        frames.append(
            HEADER.pack(VERSION, pane.number, kind, min(n, 255), number, milliseconds, block.index, first + n) + data
        )
    return [json.dumps(head, ensure_ascii=False), *frames]


def picture(frame: Frames) -> tuple[int, bytes]:
    """A frame (height, width, 3) as WebP without loss where it is small, else as JPEG."""
    out = BytesIO()
    if max(frame.shape[:2]) <= SMALL:
        Image.fromarray(frame).save(out, "WEBP", lossless=True, method=0)
        return WEBP, out.getvalue()
    Image.fromarray(frame).save(out, "JPEG", quality=88)
    return JPEG, out.getvalue()
