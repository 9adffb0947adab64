"""A `Response` of ours as one of aiohttp's."""

from __future__ import annotations

from aiohttp import web
from multidict import CIMultiDict

from ..protocol.messages import HeaderList, Response

_REASONS = {460: "Checksum Mismatch"}


async def send(request: web.BaseRequest, response: Response, extra: HeaderList, *, close: bool) -> web.StreamResponse:
    """Send the head, and a streamed body; aiohttp sends what else is left. `close`: nothing may follow on this connection.

    Raises `ConnectionError` when the client goes away."""
    headers = CIMultiDict(response.headers)
    headers.extend(extra)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Server"] = "tusd"
    if response.stream is not None:
        return await _send_stream(request, response, headers, close=close)
    reply = web.Response(status=response.status, reason=_REASONS.get(response.status), headers=headers, body=response.body)
    if close:
        reply.force_close()
    return reply


async def _send_stream(
    request: web.BaseRequest, response: Response, headers: CIMultiDict[str], *, close: bool
) -> web.StreamResponse:
    reply = web.StreamResponse(status=response.status, headers=headers)
    reply.content_length = response.length
    if close:
        reply.force_close()
    stream = response.stream
    assert stream is not None
    try:
        first = await anext(stream, b"")  # a store that fails does so before the head is sent
        await reply.prepare(request)
        if first:
            await reply.write(first)
        async for piece in stream:
            await reply.write(piece)
        await reply.write_eof()
    except BaseException:
        if reply.prepared and request.transport is not None:
            request.transport.abort()  # the length is promised already: only a broken connection tells that it was not kept
        raise
    finally:
        await _close(stream)
    return reply


async def _close(stream: object) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
