"""The HTTP side of one worker: listening, answering, draining."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..engine import Engine
from ..metrics import Metrics
from ..plugin import Routes
from ..protocol.cors import Cors
from ..protocol.dialects import Dialects
from ..protocol.urls import Origins
from .connection import Server
from .handler import Handler
from .health import PROBES, Check, Health
from .limits import Limits
from .pages import admin_pages, public_pages
from .requests import RequestLog
from .watch import Watch

logger = logging.getLogger("tusd.web")

_LINGER = 2.0
"""Seconds for which a refused body is read and thrown away, so that its client sees the answer before the connection ends."""

BACKLOG = 1024
"""Connections that wait to be accepted; the kernel lowers it to its own limit (net.core.somaxconn)."""

_PAUSE = 0.02
"""Seconds between looks at what is still running while a server stops."""

_CROSSING = 0.1
"""Seconds for which an idle connection stays open at a stop: a request may be on its way on it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that is bound and listens, and what is spoken on it."""

    sock: socket.socket
    tls: ssl.SSLContext | None = None
    admin: bool = False
    """For operators: no uploads, but what others may not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a site serves besides uploads."""

    routes: Routes
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What a backend is called -> a call that raises when it cannot be used."""
    details: bool = False
    """Tell everybody which backend fails."""
    index: bool = True
    profile: bool = False


class Site:
    """Serves an engine over HTTP/1.1 on sockets that are bound already."""

    def __init__(
        self,
        engine: Engine,
        *,
        origins: Origins,
        cors: Cors,
        metrics: Metrics,
        limits: Limits,
        extras: Extras,
        informational: bool = True,
        log: RequestLog | None = None,
    ) -> None:
        dialects = Dialects(engine.policy, origins, informational=informational)
        self._extras = extras
        self._origins = origins
        self._health = Health(extras.checks)
        quiet = frozenset((*PROBES, *extras.routes.admin))
        self._handle = partial(
            Handler, engine, dialects, origins=origins, cors=cors, metrics=metrics, limits=limits, log=log, quiet=quiet
        )
        self._limits = limits
        self._metrics = metrics
        self._listeners: list[asyncio.Server] = []
        self._handlers: list[Handler] = []
        self._servers: list[Server] = []
        self._watches: list[Watch] = []

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Accept connections on these sockets."""
        extras, admin = self._extras, any(listener.admin for listener in listeners)
        pages = public_pages(extras.routes, self._origins, self._health, details=extras.details, index=extras.index, admin=admin)
        await self._serve([one for one in listeners if not one.admin], self._handle(pages=pages))
        if admin:
            pages = admin_pages(extras.routes, self._health, profile=extras.profile)
            await self._serve([one for one in listeners if one.admin], self._handle(pages=pages, uploads=False))
        elif extras.profile:
            logger.warning("debug.profile has no effect: only the admin listener serves it; set server.admin_listen")

    async def _serve(self, listeners: Sequence[Listener], handler: Handler) -> None:
        loop = asyncio.get_running_loop()
        server = Server(handler, self._limits, self._metrics, access_log=None, auto_decompress=False, lingering_time=_LINGER)
        self._handlers.append(handler)
        self._servers.append(server)
        self._watches.append(Watch(server, self._limits))
        self._watches[-1].start()
        for listener in listeners:
            self._listeners.append(await _listen(loop, server, listener))

    @property
    def deserted(self) -> bool:
        """Whether no connection is open."""
        return not any(server.connections for server in self._servers)

    async def leave(self) -> None:
        """Stop accepting, and end each connection with its next answer. Running requests, appends too, go on."""
        self._health.draining = True
        for handler in self._handlers:
            handler.leave()
        await _let_in(self._listeners)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def stop(self, timeout: float) -> None:
        """Stop accepting, make running appends stop with their bytes kept, and wait for the answers, `timeout` seconds at the most.

        Until the last is given, whatever is asked on other connections is answered, too."""
        await self.leave()
        for handler in self._handlers:
            handler.interrupt()
        await asyncio.gather(*(_close(server, timeout) for server in self._servers))
        for server in self._servers:
            server.count_no_more()
        for watch in self._watches:
            watch.stop()
        for handler in self._handlers:
            handler.close()


async def _let_in(listeners: Sequence[asyncio.Server]) -> None:
    """Accept no more, and let those in that are accepted: asyncio opens them one turn of the loop later, and would leave them open, known to
    nobody, if their listener were closed by then."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return
    for listener in listeners:
        for sock in listener.sockets:
            loop.remove_reader(sock.fileno())
    await asyncio.sleep(0)


async def _close(server: Server, timeout: float) -> None:
    """aiohttp's own `shutdown` would wait twice, and leave connections open whose clients do not read what was sent."""
    loop = asyncio.get_running_loop()
    transports = [(connection, connection.transport) for connection in server.open_connections()]
    now = loop.time()
    crossed, deadline = now + min(timeout, _CROSSING), now + timeout
    # aiohttp has no event for it
    while server.connections and (now := loop.time()) < deadline:
        if now >= crossed and not any(connection.busy for connection in server.open_connections()):
            break
        await asyncio.sleep(_PAUSE)
    server.pre_shutdown()
    await server.shutdown(_PAUSE)
    for _, transport in transports:
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()


async def _listen(loop: asyncio.AbstractEventLoop, server: Server, listener: Listener) -> asyncio.Server:
    sock, tls = listener.sock, listener.tls
    if sock.family != getattr(socket, "AF_UNIX", None):
        return await loop.create_server(server, sock=sock, ssl=tls, backlog=BACKLOG)
    if sys.version_info >= (3, 13) and isinstance(loop, asyncio.SelectorEventLoop):
        # Other workers listen on the same socket, and this loop would remove its file with the first that ends.
        return await loop.create_unix_server(server, sock=sock, ssl=tls, backlog=BACKLOG, cleanup_socket=False)
    return await loop.create_unix_server(server, sock=sock, ssl=tls, backlog=BACKLOG)
