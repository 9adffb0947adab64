"""A `Response` of ours as one of aiohttp's."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from ..protocol.messages import HeaderList, Response
from .requests import Entry

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {460: "Checksum Mismatch"}
_OURS: HeaderList = [("X-Content-Type-Options", "nosniff"), ("Server", "tusd")]


class ClientGone(ConnectionError):
    """The client went away while it was answered; nobody is left to tell, and nothing is wrong."""


async def send(
    request: web.BaseRequest, response: Response, extra: HeaderList, *, close: bool, entry: Entry
) -> web.StreamResponse:
    """Send a streamed body; aiohttp sends what else is left. `close`: nothing may follow on this connection. `entry` is told what is sent.

    Raises `ClientGone`."""
    headers = response.headers + extra + _OURS
    if entry.id_given or response.status >= 400:
        headers.append(("X-Request-ID", entry.request_id))
    entry.status = response.status
    if response.stream is not None:
        return await _send_stream(request, response, headers, close=close, entry=entry)
    if request.method != "HEAD":
        entry.sent = len(response.body)
    transport = request.transport
    inside = isinstance(request, web.Request)  # of an application, whose middlewares may change the answer
    if not inside and transport is not None and transport.get_write_buffer_size() == 0:
        return _Reply(response.status, headers, response.body, close=close)
    reply = web.Response(
        status=response.status, reason=_reason(response.status), headers=CIMultiDict(headers), body=response.body
    )
    if close:
        reply.force_close()
    return reply


def last(response: Response) -> web.StreamResponse:
    """A small answer after which nothing may follow, also to what could not be read as a request."""
    return _Reply(response.status, response.headers + _OURS, response.body, close=True)


def raw(response: Response) -> bytes:
    """A small answer as it stands on the wire, for a connection that has no request and ends."""
    head = [f"HTTP/1.1 {response.status} {_reason(response.status)}", *(f"{n}: {v}" for n, v in response.headers + _OURS)]
    head += ["Connection: close", f"Content-Length: {len(response.body)}", "", ""]
    return "\r\n".join(head).encode() + response.body


class _Reply(web.StreamResponse):
    """A small answer, written as one piece of bytes: half the work of `web.Response`, for the requests that are most of all.

    For a connection whose write buffer is empty or that ends with it, so that waiting for the client is never needed."""

    def __init__(self, status: int, headers: HeaderList, body: bytes, *, close: bool) -> None:
        super().__init__(status=status, reason=_reason(status))
        self._given = headers
        self._bytes = body
        self._closes = close

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection may go on."""
        return not self._closes

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. Raises `ConnectionResetError` when the client is gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away before the answer")
        self._closes = self._closes or not request.keep_alive
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self._given]
        lines.append(f"Date: {_date(int(time.time()))}")
        if self._closes:
            lines.append("Connection: close")
        elif request.version < (1, 1):
            lines.append("Connection: keep-alive")
        if self.status >= 200 and self.status not in (204, 304) and (request.method != "HEAD" or self._bytes):
            lines.append(f"Content-Length: {len(self._bytes)}")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
            raise ValueError("a header of the answer holds a control character")
        head = text.encode("utf-8", "surrogateescape") + b"\r\n\r\n"
        transport.write(head if request.method == "HEAD" or self.status in (204, 304) else head + self._bytes)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """All of it is written already."""


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The Date header, made once a second."""
    return formatdate(second, usegmt=True)


def _reason(status: int) -> str:
    return _REASONS.get(status, "Unknown")


async def _send_stream(
    request: web.BaseRequest, response: Response, headers: HeaderList, *, close: bool, entry: Entry
) -> web.StreamResponse:
    reply = web.StreamResponse(status=response.status, headers=CIMultiDict(headers))
    reply.content_length = response.length
    if close:
        reply.force_close()
    stream = response.stream
    assert stream is not None
    try:
        first = await anext(stream, b"")  # a store that fails does so before the head is sent
        await _sent(reply.prepare(request))
        if first:
            await _sent(reply.write(first))
            entry.sent = len(first)
        async for piece in stream:
            await _sent(reply.write(piece))
            entry.sent += len(piece)
        await _sent(reply.write_eof())
    except BaseException:
        if reply.prepared and request.transport is not None:
            request.transport.abort()  # the length is promised already: only a broken connection tells that it was not kept
        raise
    finally:
        await _close(stream)
    return reply


async def _sent(sending: Awaitable[object]) -> None:
    """Tell a failure of the client's connection from one of the store's."""
    try:
        await sending
    except ConnectionError as error:
        raise ClientGone("the client went away before the end of the answer") from error


async def _close(stream: object) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
