"""What each order of a client does to the panes of a session."""

from collections.abc import Callable, Sequence
from shutil import rmtree
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.registry import find
from rollout.show.live.pane import Pane
from rollout.show.live.wire import Order, error
from rollout.show.live.words import for_page
from rollout.specs import part_from_text
from rollout.strategy import Strategy

if TYPE_CHECKING:
    from rollout.show.live.session import Session

__all__ = ["MOST", "obey"]

MOST = 4
"""Panes at a time."""


def obey(session: "Session", order: Order) -> None:
    """Carry out an order; what speaks against it goes to whoever asked."""
    try:
        panes = [pane for pane in session.panes if order.pane in (None, pane.number)]
        if not panes:
            raise RolloutError(f"there is no pane {order.pane}.")
        ACTIONS[order.do](session, order, panes)
    except RolloutError as problem:
        order.reply(error(for_page(str(problem))))
    except Exception as problem:  # a plugin's, or the disk's: the session goes on
        order.reply(error(f"{order.do} failed: {type(problem).__name__}: {problem}"))


def _change(
    session: "Session", order: Order, panes: Sequence[Pane], change: Callable[[Pane], None], pending: str, line: str
) -> None:
    """Change each pane that takes it at its next block; the others' refusals go to whoever asked."""
    panes_done = []
    for pane in panes:
        try:
            change(pane)
        except RolloutError as problem:
            order.reply(error(for_page(f"pane {pane.number}: {problem}")))
            continue
        pane.stopped = ""
        pane.pending.append(pending)
        panes_done.append(pane)
    if panes_done:
        session.note(None if len(panes_done) == len(session.panes) else panes_done, line)


def _prompt(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    panes[0].run.backend.encode(order.value)  # refused for all, or for none
    _change(session, order, panes, lambda pane: pane.run.prompt(order.value), order.value, f"prompt: {order.value}")


def _cut(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    _change(session, order, panes, lambda pane: pane.run.cut(), "cut", "cut")


def _switch(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    switch = part_from_text("switch", order.do)
    _change(session, order, panes, lambda pane: pane.run.switch(switch), order.do, order.do)


def _use(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    strategy = _strategy(session, order.value)
    name = session.names.get(str(strategy), str(strategy))
    _change(session, order, panes, lambda pane: pane.run.use(strategy), name, f"strategy: {name}")


def _pause(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    for pane in panes:
        if pane.paused and not order.value:
            session.rejoin(pane)
        pane.paused = order.value
    session.note(panes, "paused" if order.value else "goes on")


def _speed(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    for pane in panes:
        if pane.speed != order.value:
            pane.speed = float(order.value)
            session.rejoin(pane)
    session.note(panes, f"speed: {order.value:g}x" if order.value else "as fast as possible")


def _fork(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    free = [n for n in range(1, MOST + 1) if n not in {pane.number for pane in session.panes}]
    if not free:
        raise RolloutError(f"there are {MOST} panes already. Close one first.")
    strategy = None if order.value is None else _strategy(session, order.value)
    folder = session.new_folder()
    try:
        fork = panes[0].fork(free[0], folder, strategy)
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    session.panes.append(fork)
    session.panes.sort(key=lambda pane: pane.number)
    session.note([fork], f"forked from {fork.origin}")


def _close(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    if len(session.panes) == 1:
        raise RolloutError("the last pane stays open.")
    (pane,) = panes
    session.forget(pane)
    pane.close()
    rmtree(pane.folder, ignore_errors=True)
    session.note([pane], "closed")


def _save(session: "Session", order: Order, panes: Sequence[Pane]) -> None:
    session.note(panes, f"saved in {session.save(panes)}")


def _strategy(session: "Session", text: str) -> Strategy:
    if " " in text or text not in session.presets:
        return Strategy.from_text(text)
    strategy: Strategy = find("presets", text).strategy
    return strategy


ACTIONS: dict[str, Callable[["Session", Order, Sequence[Pane]], None]] = {
    "prompt": _prompt,
    "cut": _cut,
    "flush": _switch,
    "recache": _switch,
    "use": _use,
    "pause": _pause,
    "speed": _speed,
    "fork": _fork,
    "close": _close,
    "save": _save,
}
