"""One thing at a time beside the thread that goes on: a block is decoded, and another written, while the next one is denoised."""

from collections.abc import Callable
from contextlib import nullcontext
from threading import Thread

import torch

__all__ = ["Beside"]


class Beside:
    """Runs one function in a thread of its own; the next one waits for it, and so does `wait`.

    On a GPU its work is in a stream of its own, after what was begun before it: it fills the gaps between other work.
    What the work reads must be held until it has read it, as an argument of its function is.
    """

    def __init__(self, device: torch.device) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, work: Callable[[], None]) -> None:
        """Begin, once what ran before is through. Raises what that raised."""
        self.wait()
        threads = torch.get_num_threads()  # a new thread would take all cores, and give other bits
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

        def run() -> None:
            try:
                torch.set_num_threads(threads)
                with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                    work()
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=run, name="rollout-writes")
        self._thread.start()

    def wait(self) -> None:
        """Until it is through. Raises what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
