"""The page and its WebSocket on 127.0.0.1, for pages of its own origin alone."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from rollout.errors import RolloutError
from rollout.show.live.session import Session
from rollout.show.live.wire import LONGEST, Outbox, error, read_order

__all__ = ["ADDRESS", "BURST", "FLOOD", "Bucket", "listen", "server"]

ADDRESS = "127.0.0.1"
HERE = Path(__file__).parent
PAGE = {
    "live.html": "text/html",
    **dict.fromkeys(("base.css", "live.css"), "text/css"),
    **dict.fromkeys(("live.js", "pane.js", "link.js"), "text/javascript"),
}
CLIENTS = 16
RATE, BURST = 20.0, 40.0
"""Messages a second, and at once, that a client may send."""
FLOOD = 200
"""Messages over the rate after which a client is sent away."""
WAITING = 16384
"""Bytes that the system holds for a client."""
CROWDED, TOO_MUCH = 1013, 1008
"""Close codes of RFC 6455: try again later, policy violation."""


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0 is any that is free. Raises RolloutError where the port is in use."""
    try:
        listener = socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise RolloutError(f"port {port} cannot be used: {why}. Choose another --port, or 0 for any.") from problem
    listener.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, WAITING
    )  # each connection's: old frames do not pile up in it
    return listener


def server(session: Session, port: int) -> uvicorn.Server:
    """What serves a session; `run(sockets=[...])` blocks until Ctrl-C."""
    config = uvicorn.Config(
        app(session, port),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=16 * LONGEST,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
        limit_concurrency=8 * CLIENTS,
    )
    return uvicorn.Server(config)


def app(session: Session, port: int) -> ASGIApp:
    """The application for a port: other hosts' names and other sites' pages are refused."""

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "live.html")
        if name not in PAGE:
            return PlainTextResponse("not found", 404)
        home = HERE.parent if name == "base.css" else HERE  # all pages' colours
        return FileResponse(home / name, media_type=PAGE[name])

    async def talk(socket: WebSocket) -> None:
        await _talk(session, socket)

    routes = [Route("/", page), Route("/{name}", page), WebSocketRoute("/live", talk)]
    return Guard(Starlette(routes=routes), port)


class Guard:
    """Lets through what names this address as its host, and comes from a page of this origin or from no page at all.

    A WebSocket must name its origin: browsers always do, and no policy of theirs would keep other sites from it.
    """

    def __init__(self, inner: ASGIApp, port: int) -> None:
        self.inner = inner
        self.hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        if port == 80:
            self.hosts |= {ADDRESS, "localhost"}
        self.origins = {f"http://{host}" for host in self.hosts}
        sockets = " ".join(f"ws://{host}" for host in sorted(self.hosts))
        policy = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {sockets}"
        self.headers = {
            "content-security-policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.inner(scope, receive, send)
            return
        why = self._refused(scope)
        if why and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": TOO_MUCH, "reason": why})  # before accept: HTTP 403
        elif why:
            await PlainTextResponse(f"refused: {why}", 403)(scope, receive, send)
        else:
            await self.inner(scope, receive, self._with_headers(send))

    def _refused(self, scope: Scope) -> str:
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value.decode("latin-1").lower())
        hosts, origins = headers.get(b"host", []), headers.get(b"origin", [])
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return "another host"
        if not origins:
            return "no origin" if scope["type"] == "websocket" else ""
        return "" if len(origins) == 1 and origins[0] in self.origins else "another origin"

    def _with_headers(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in self.headers.items())]
            await send(message)

        return sent


class Bucket:
    """How many messages a client may still send."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.left, self.then, self.over = clock, BURST, clock(), 0

    def take(self) -> bool:
        """Whether one more is within the rate."""
        now = self.clock()
        self.left, self.then = min(BURST, self.left + RATE * (now - self.then)), now
        if self.left < 1:
            self.over += 1
            return False
        self.left -= 1
        return True


async def _talk(session: Session, client: WebSocket) -> None:
    if session.clients >= CLIENTS:
        await client.close(CROWDED)
        return
    await client.accept()
    loop, bell = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server ends
            loop.call_soon_threadsafe(bell.set)

    box = Outbox(wake)
    session.join(box)
    sender = asyncio.create_task(_send(client, box, bell))
    try:
        await _receive(session, client, box)
    finally:
        session.leave(box)
        sender.cancel()
        with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
            await sender


async def _send(client: WebSocket, box: Outbox, bell: asyncio.Event) -> None:
    """Send what waits; a slow client holds up nothing but itself."""
    while True:
        await bell.wait()
        bell.clear()
        for message in box.take():
            if isinstance(message, bytes):
                await client.send_bytes(message)
            else:
                await client.send_text(message)


async def _receive(session: Session, client: WebSocket, box: Outbox) -> None:
    bucket = Bucket()
    while True:
        message: dict[str, Any] = dict(await client.receive())
        if message["type"] == "websocket.disconnect":
            return
        if not bucket.take():
            if bucket.over == 1 or bucket.over % 50 == 0:
                box.tell(error(f"more than {RATE:g} messages a second; this one does nothing. Slow down."))
            if bucket.over > FLOOD:
                await client.close(TOO_MUCH)
                return
            continue
        try:
            session.order(read_order(message.get("text") or message.get("bytes") or "", box.tell))
        except RolloutError as problem:
            box.tell(error(str(problem)))
