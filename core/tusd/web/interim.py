"""104 (Upload Resumption Supported): news for a client whose request goes on."""

from __future__ import annotations

import time

from aiohttp import web

from ..protocol.messages import Dialect, Head, News, Progress

_EVERY = 1.0
"""Seconds between two 104s that tell of progress."""


class Interim:
    """Tells one request's client news."""

    def __init__(self, request: web.BaseRequest, dialect: Dialect, head: Head) -> None:
        self._request = request
        self._dialect = dialect
        self._head = head
        self._next = time.monotonic() + _EVERY

    def __call__(self, news: News) -> None:
        """Send it; this never waits. Of progress no more than one a second, and none to a client that does not read: it can do
        without. That its upload exists it has to know, and is told once a request."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._request.version < (1, 1):
            return
        if isinstance(news, Progress):
            now = time.monotonic()
            if now < self._next or transport.get_write_buffer_size():
                return
            self._next = now + _EVERY
        lines = [f"{name}: {value}" for name, value in self._dialect.interim(self._head, news)]
        if lines:
            transport.write("\r\n".join(["HTTP/1.1 104 Upload Resumption Supported", *lines, "", ""]).encode("ascii"))
