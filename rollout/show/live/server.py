"""The page and its WebSocket on 127.0.0.1, for pages of its own origin alone."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rollout.errors import RolloutError
from rollout.show.live.session import Session
from rollout.show.live.wire import LONGEST, Outbox, error, read_order
from rollout.text import cause

__all__ = ["ADDRESS", "listen", "server"]

ADDRESS = "127.0.0.1"
HERE = Path(__file__).parent
PAGE = {
    "live.html": "text/html",
    **dict.fromkeys(("base.css", "live.css"), "text/css"),
    **dict.fromkeys(("live.js", "pane.js", "link.js"), "text/javascript"),
}
HOSTS = (ADDRESS, "localhost")
CONNECTIONS = 64
"""Connections at a time, beyond which the server is busy (HTTP 503)."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; connect-src 'self'"
)
WAITING = 16384
"""Bytes that the system holds for a client."""


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0 is any that is free. Raises RolloutError where the port is in use."""
    try:
        listener = socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as problem:
        raise RolloutError(
            f"port {port} cannot be used: {cause(problem)}. Choose another --port, or 0 for any."
        ) from problem
    # Every connection takes this size over: old frames do not pile up in it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WAITING)
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
        limit_concurrency=CONNECTIONS,
    )
    return uvicorn.Server(config)


def app(session: Session, port: int) -> Starlette:
    """The application for a port: other hosts' names are refused, and WebSockets of other sites' pages."""
    # A browser leaves out the port of plain HTTP in the origin that it names.
    hosts = [f"{name}{'' if port == 80 else f':{port}'}" for name in HOSTS]
    policy = " ".join([POLICY, *(f"ws://{host}" for host in hosts)])
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "cache-control": "no-store"}

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "live.html")
        if name not in PAGE:
            return PlainTextResponse("not found", 404)
        home = HERE.parent if name == "base.css" else HERE  # all pages' colours
        return FileResponse(home / name, media_type=PAGE[name], headers=headers)

    async def live(client: WebSocket) -> None:
        # Browsers let any site's page open a WebSocket to this machine, but they always say which site it is.
        if client.headers.get("origin") in {f"http://{host}" for host in hosts}:
            await _talk(session, client)
        else:
            await client.close()  # before accept: HTTP 403

    return Starlette(
        routes=[Route("/", page), Route("/{name}", page), WebSocketRoute("/live", live)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


async def _talk(session: Session, client: WebSocket) -> None:
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
    while True:
        message: dict[str, Any] = dict(await client.receive())
        if message["type"] == "websocket.disconnect":
            return
        try:
            session.order(read_order(message.get("text") or message.get("bytes") or "", box.tell))
        except RolloutError as problem:
            box.tell(error(str(problem)))
