"""Waiting for what a page shows: on a busy machine it plays, paints and answers late, and no test may depend on when."""

import time
from typing import Any

__all__ = ["at_once", "becomes", "painted"]


def becomes(tab: Any, what: str, seconds: float = 100) -> None:
    """Wait until an expression is true; Playwright's own way evaluates text in the page, which its policy may forbid."""
    end = time.monotonic() + seconds
    while not tab.evaluate(what):
        assert time.monotonic() < end, what
        tab.wait_for_timeout(30)


def at_once(tab: Any, what: str, act: str) -> Any:
    """What `act` comes to in the very frame in which an expression becomes true: a video may be over in the next."""
    return tab.evaluate(
        f"new Promise(done => {{const look = () => {what} ? done({act}) : requestAnimationFrame(look); look();}})"
    )


def painted(tab: Any) -> None:
    """Wait until the page has painted what it was told."""
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
