"""Looks at all connections once in a while, and ends those that keep the server waiting for a request's head, or do not take what
is sent to them. One timer for all: the requests that are in time cost nothing."""

from __future__ import annotations

import array
import asyncio
import logging

from .connection import Connection, Server
from .limits import Limits

try:
    import fcntl
    import termios
except ImportError:  # not a Unix system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tusd.web")

_OFTEN, _SELDOM = 0.05, 5.0
"""Seconds between looks, at the least and the most; a quarter of the shorter time-out in between."""


class Watch:
    """Enforces `header_timeout` and `write_timeout` on a server's connections, from `start` to `stop`."""

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        self._pause = max(_OFTEN, min(limits.header_timeout, limits.write_timeout, 4 * _SELDOM) / 4)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[Connection, tuple[int, float]] = {}
        """Connections with bytes that their clients have not taken -> how many, and since when."""

    def start(self) -> None:
        """Look from now on, again and again."""
        self._timer = self._loop.call_later(self._pause, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        now = self._loop.time()
        waiting: dict[Connection, tuple[int, float]] = {}
        for connection in self._server.open_connections():
            transport = connection.wire
            if transport is None:
                continue
            if connection.head_is_late(now):
                connection.force_close()
            if transport.get_write_buffer_size():
                left = transport.get_write_buffer_size() + _on_its_way(transport)
                before = self._waiting.get(connection)
                waiting[connection] = since = before if before is not None and before[0] == left else (left, now)
                if now - since[1] >= self._limits.write_timeout:
                    logger.info("a client takes nothing of its answer; connection ended", extra={"unsent": left})
                    transport.abort()
        self._waiting = waiting


def _on_its_way(transport: asyncio.Transport) -> int:
    """Bytes in the kernel that the client's side has not acknowledged: a slow client takes of them for long before the kernel asks for
    more. 0 where the system does not tell."""
    sock = transport.get_extra_info("socket")
    if fcntl is None or sock is None:
        return 0
    found = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, found)
    except OSError:
        return 0
    return found[0]
