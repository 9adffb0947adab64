"""A `Response` of ours as bytes, or as one of aiohttp's."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion, HttpVersion11, web
from multidict import CIMultiDict

from ..metrics import Metrics
from ..protocol.messages import HeaderList, Response
from .figures import BYTES_SENT
from .requests import Entry

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {460: "Checksum Mismatch"}
_OURS: HeaderList = [("X-Content-Type-Options", "nosniff"), ("Server", "tusd")]


class ClientGone(ConnectionError):
    """The client went away while it was answered; nobody is left to tell, and nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer as it goes over the wire: half the work of `web.Response`, for the requests that are most of all."""

    data: bytes
    closes: bool
    """Nothing may follow on this connection."""


Answer = web.StreamResponse | Reply


async def send(
    request: web.BaseRequest, response: Response, extra: HeaderList, *, close: bool, entry: Entry, metrics: Metrics
) -> Answer:
    """Send a streamed body; the connection sends what else is left. `close`: nothing may follow on this connection. `entry` and `metrics` are
    told what is sent.

    Raises `ClientGone`."""
    headers = response.headers + extra
    if entry.id_given or response.status >= 400:
        headers.append(("X-Request-ID", entry.request_id))
    entry.status = response.status
    if response.stream is not None:
        return await _send_stream(request, response, headers + _OURS, close=close, entry=entry, metrics=metrics)
    if request.method != "HEAD":
        entry.sent = len(response.body)
    transport = request.transport
    inside = isinstance(request, web.Request)  # of an application, whose middlewares may change the answer
    if not inside and (transport is None or transport.get_write_buffer_size() == 0):
        return _reply(response.status, headers, response.body, request.method, request.version, close or not request.keep_alive)
    reply = web.Response(  # aiohttp waits for a client that does not read
        status=response.status, reason=_reason(response.status), headers=CIMultiDict(headers + _OURS), body=response.body
    )
    if close:
        reply.force_close()
    return reply


def last(response: Response) -> Reply:
    """A small answer after which nothing may follow, also to what could not be read as a request."""
    return _reply(response.status, response.headers, response.body, "", HttpVersion11, True)


def _reply(status: int, headers: HeaderList, body: bytes, method: str, version: HttpVersion, closes: bool) -> Reply:
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if closes:
        lines.append("Connection: close")
    elif version < HttpVersion11:
        lines.append("Connection: keep-alive")
    bodiless = status in (204, 304)
    if status >= 200 and not bodiless and (method != "HEAD" or body):
        lines.append(f"Content-Length: {len(body)}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header of the answer holds a control character")
    head = text.encode("utf-8", "surrogateescape") + _end_of_head(int(time.time()))
    return Reply(head if bodiless or method == "HEAD" else head + body, closes)


@lru_cache(maxsize=2)
def _end_of_head(second: int) -> bytes:
    """The headers that all answers have, made once a second."""
    ours = [f"{name}: {value}" for name, value in _OURS]
    return "\r\n".join(["", *ours, f"Date: {formatdate(second, usegmt=True)}", "", ""]).encode()


def _reason(status: int) -> str:
    return _REASONS.get(status, "Unknown")


async def _send_stream(
    request: web.BaseRequest, response: Response, headers: HeaderList, *, close: bool, entry: Entry, metrics: Metrics
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
            metrics.add(BYTES_SENT, len(first))
        async for piece in stream:
            await _sent(reply.write(piece))
            entry.sent += len(piece)
            metrics.add(BYTES_SENT, len(piece))
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
