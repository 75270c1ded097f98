"""The session: up to four panes that one thread rolls out in turn, paced by the clock; orders act at the next block."""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, Full, Queue
from tempfile import gettempdir
from threading import Event, Lock, Thread

from rollout.backend import Backend
from rollout.errors import OutputError, RolloutError
from rollout.files import new_tree, numbered_folder
from rollout.registry import find, names
from rollout.run.recipe import Recipe
from rollout.show.live.orders import MOST, obey
from rollout.show.live.pane import Made, Pane, first_text, told
from rollout.show.live.wire import SPEEDS, Order, Outbox, block_messages
from rollout.show.live.words import for_page
from rollout.strategy import Strategy
from rollout.temporary import remove_leftovers, temporary
from rollout.text import Json, cause

__all__ = ["ORDERS", "Session"]

ORDERS = 64
"""Orders that wait at most."""
LINES = 40
"""Lines of the log that a page shows."""


UNFIT = r"[^\w.,=+-]"
"""What a preset of a plugin may have in its name, and no folder may everywhere."""


class Session:
    """Owns the panes; `start` lets a thread of its own take one turn after the other, `close` ends it.

    `recipe` is what the panes begin with, but for the strategy; its text is the first prompt. Saved runs go below `out`.
    """

    def __init__(
        self,
        backend: Backend,
        recipe: Recipe,
        strategies: Sequence[Strategy],
        out: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= len(strategies) <= MOST:
            raise RolloutError(f"a session has 1 to {MOST} panes, not {len(strategies)}.")
        self.backend, self.out, self.clock = backend, out, clock
        self.presets = {name: str(find("presets", name).strategy) for name in names("presets")}
        # of two presets with one strategy the first is meant
        self.names = {text: name for name, text in reversed(self.presets.items())}
        self._recipe = replace(recipe, text=first_text(recipe.text, backend))
        self._recordings = ExitStack()
        self._folder = self._recordings.enter_context(_recordings(out))
        self._folders = 0
        self.panes: list[Pane] = []
        try:
            for number, strategy in enumerate(strategies, 1):
                begin = replace(self._recipe, strategy=strategy)
                self.panes.append(Pane(number, backend, begin, self.new_folder()))
        except BaseException:
            self._recordings.close()
            raise
        self._log: deque[Json] = deque(maxlen=LINES)
        self._lines = 0
        self._orders: Queue[Order] = Queue(ORDERS)
        self._wake, self._over, self._lock = Event(), False, Lock()
        self._clients: set[Outbox] = set()
        self._last: dict[int, list[str | bytes]] = {}
        self._state = self._told()
        self._thread = Thread(target=self._work, name="rollout live", daemon=True)

    def start(self) -> None:
        """Begin."""
        now = self.clock()
        for pane in self.panes:
            pane.due = now
        self._thread.start()

    def close(self, *, save: bool = False) -> Path | None:
        """Finish the block that is made, on request save all panes, and remove the recordings. Raises OutputError."""
        self._over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            panes = [pane for pane in self.panes if pane.blocks and not pane.lost]
            return self.save(panes) if save and panes else None
        finally:
            for pane in self.panes:
                pane.close()
            self._recordings.close()

    def order(self, order: Order) -> None:
        """Let an order act at the next block, from any thread. Raises RolloutError where too many wait."""
        try:
            self._orders.put_nowait(order)
        except Full:
            raise RolloutError(f"{ORDERS} orders wait already. Try again in a moment.") from None
        self._wake.set()

    def join(self, client: Outbox) -> None:
        """Tell a client the state as it is now, and from now on whatever happens."""
        with self._lock:
            self._clients.add(client)
            client.state(self._state)
            for pane, messages in self._last.items():
                client.block(pane, messages)

    def leave(self, client: Outbox) -> None:
        """A client is gone."""
        with self._lock:
            self._clients.discard(client)

    def _work(self) -> None:
        while not self._over:
            self._wake.wait(self.turn())
            self._wake.clear()

    def turn(self) -> float | None:
        """Obey what waits, and make the blocks that are wanted by now; seconds until the next turn, None for ever.

        A block is begun so late that it is just done when the one before has been seen: a prompt shows soonest then.
        """
        news = False
        for order in self._waiting():
            obey(self, order)
            news = True
        now = self.clock()
        ready = [pane for pane, begin in self._begins() if begin <= now]
        for pane in ready:
            news |= self._advance(pane)
        now = self.clock()
        # A pane that is late goes on from now: it does not hurry to catch up.
        for pane in ready:
            pane.due = max(pane.due, now) + pane.length
        if news:
            self._publish()
        waits = [begin - now for _, begin in self._begins()]
        return max(0.0, min(waits)) if waits else None

    def _begins(self) -> list[tuple[Pane, float]]:
        """The panes that go on, and when the next block of each is to be begun."""
        running = [pane for pane in self.panes if pane.running]
        # A fifth more than blocks took of late; one thread makes them all in turn.
        lead = 1.2 * sum(pane.cost for pane in running)
        return [(pane, pane.due - min(lead, pane.length)) for pane in running]

    def _waiting(self) -> Iterator[Order]:
        for _ in range(ORDERS):
            try:
                yield self._orders.get_nowait()
            except Empty:
                return

    def _advance(self, pane: Pane) -> bool:
        """One block of a pane; whether its state is another now."""
        before, begun = told(pane, self.names), self.clock()
        try:
            block = pane.advance()
        except Exception as problem:
            known = isinstance(problem, RolloutError)
            pane.stopped = for_page(str(problem)) if known else f"{type(problem).__name__}: {problem}"
            pane.restart()
            self.note([pane], f"stopped: {pane.stopped}")
            return True
        now = self.clock()
        spent = now - begun
        pane.at(now)
        pane.cost = 0.7 * pane.cost + 0.3 * spent if pane.cost else spent
        self._show(pane, block, pane.length or spent)
        return told(pane, self.names) != before

    def _show(self, pane: Pane, block: Made, seconds: float) -> None:
        messages = block_messages(pane, block, seconds)
        with self._lock:
            self._last[pane.number] = messages
            for client in self._clients:
                client.block(pane.number, messages)

    def save(self, panes: Sequence[Pane]) -> Path:
        """Write the runs of panes into a new folder below `out`, whole or not at all. Raises OutputError."""
        folder = numbered_folder(self.out)  # empty until all of it is there
        try:
            with new_tree(folder, "--out") as partial:
                for pane in panes:
                    name = self.names.get(str(pane.run.strategy), pane.run.strategy.policy.kind)
                    into = partial / f"{pane.number}-{re.sub(UNFIT, '_', name)[:80]}"
                    into.mkdir()
                    pane.save(into)
        finally:
            with suppress(OSError):  # holds what was saved
                folder.rmdir()
        return folder

    def forget(self, pane: Pane) -> None:
        """Take a pane off the session and off every client's queue."""
        self.panes.remove(pane)
        with self._lock:
            self._last.pop(pane.number, None)
            for client in self._clients:
                client.forget(pane.number)

    def rejoin(self, pane: Pane) -> None:
        """Bring a pane into step with another of its speed."""
        pane.restart()
        now = self.clock()
        others = [p.due for p in self.panes if p is not pane and p.running and p.speed == pane.speed]
        pane.due = others[0] if others and others[0] > now - pane.length else now

    def new_folder(self) -> Path:
        """A path for a pane's recording, not made yet."""
        self._folders += 1
        return self._folder / str(self._folders)

    def note(self, panes: Sequence[Pane] | None, text: str) -> None:
        """Add a line to the log; a line about all panes names none."""
        everyone = panes is None or len(panes) == len(self.panes) > 1
        numbers = [] if panes is None or everyone else [pane.number for pane in panes]
        self._lines += 1
        block = max(pane.blocks for pane in panes or self.panes)
        self._log.append({"line": self._lines, "panes": numbers, "block": block, "text": text})

    def _publish(self) -> None:
        with self._lock:
            self._state = self._told()
            for client in self._clients:
                client.state(self._state)

    def _told(self) -> str:
        spec = self.backend.spec
        state = {
            "type": "state",
            "backend": {"name": spec.name, "fps": spec.fps, "block": spec.block * spec.stride, "trained": spec.trained},
            "vocabulary": "" if self.backend.world is None else self.backend.world.vocabulary(),
            "most": MOST,
            "speeds": SPEEDS,
            "presets": self.presets,
            "panes": [told(pane, self.names) for pane in self.panes],
            "log": list(self._log),
        }
        return json.dumps(state, ensure_ascii=False)


@contextmanager
def _recordings(out: Path) -> Iterator[Path]:
    """A temporary folder, locked as long as the session lives. Raises OutputError.

    What sessions left there, or half-saved in `out`, when they were killed is removed; what a living process has stays.
    """
    remove_leftovers(out)
    try:
        with temporary(Path(gettempdir()) / "rollout-live", folder=True) as folder:
            folder.chmod(0o700)  # others may look into a system's temporary folder
            yield folder
    except OSError as error:
        raise OutputError(
            f"nothing can be recorded in {gettempdir()}: {cause(error)}. Free some space, or set TMPDIR to another folder."
        ) from error
