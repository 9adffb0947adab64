"""A request's body as an `engine.body.Source`.

Small and chunked bodies are read from aiohttp. A large one is written straight from the socket: while it runs, the connection's
transport belongs to a small `BufferedProtocol`, so that the kernel fills one shared buffer which goes to `pwrite`; no chunk
becomes a Python object. It never asks for more than the body has left, so a pipelined next request stays in the kernel, and the
transport can be handed back at any byte (`lending`). For stores that gather bytes in memory the kernel fills their buffer instead.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import cast

from aiohttp import StreamReader, web

from ..engine.body import Observer
from ..errors import InvalidRequest, ReadTimeout, TusError, UnexpectedEof
from ..protocol.headers import parse_number
from .connection import Malformed
from .lending import HOLD_FROM, Lender, lender_of
from .limits import Limits
from .rate import Rate
from .writing import Writer

DIRECT_FROM = HOLD_FROM // 2
"""What is still to come of a body that waits in the kernel, or of another that is large."""
BUFFER_SIZE = 1024 * 1024


class Stopped(Exception):
    """Put into aiohttp's stream to wake its reader, and taken out again at the end of the request."""


class RequestSource:
    """The body of one request. It ends early instead of failing; `failure` says why."""

    def __init__(self, request: web.BaseRequest, buffer: memoryview, writer: Writer, limits: Limits) -> None:
        self.failure: TusError | None = None
        self._request = request
        self._content = request.content
        self._connection = lender_of(request)
        self.unshown = 0
        """Bytes that came past aiohttp's stream, which it does not know of."""
        self.arrived = request.content.is_eof()
        self._size = parse_number(request.headers.get("Content-Length", ""))
        """None: only its end will tell, as of a chunked body. (aiohttp's own `content_length` raises for thousands of zeros.)"""
        self._buffer = buffer
        self._writer = writer
        self._timeout = limits.read_timeout
        self._expects = request.headers.get("Expect", "").lower() == "100-continue"
        self._ended = False
        self._rest = b""
        """Of a piece that was longer than what `write_to` might write or `read_into` fill."""
        self._direct: _Direct | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0
        self._rate = None if limits.min_transfer_rate is None else Rate(limits.min_transfer_rate, limits.read_timeout)

    @property
    def received(self) -> int:
        """Bytes of the body that came."""
        return self._content.total_bytes + self.unshown

    @property
    def unread(self) -> bool:
        """Whether so much of the body is, or may be, still on its way that the connection is better closed."""
        if self._content.is_eof():
            return False
        if self._expects or self.failure is not None or self._size is None:
            return True
        return self._size - self._content.total_bytes > 64 * 1024

    async def read(self) -> bytes:
        """The next piece; empty at the end, the early one, too."""
        self._begin()
        if self._ended or self.failure is not None:
            return b""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        if self.unshown and not self._content.is_eof():
            await self._catch_up()
        try:
            piece = self._content.read_nowait(-1)
            if not piece and not self._content.is_eof():
                self._wait()
                self._connection.release()
                piece = await self._content.readany()
            self.came(len(piece))
        except Stopped:
            return b""
        except (Malformed, web.RequestPayloadError):
            self.failure = InvalidRequest("the body's transfer coding is not valid")
            return b""
        except (ConnectionError, asyncio.IncompleteReadError):
            self.failure = UnexpectedEof()
            return b""
        if not piece:
            self._end()
        return piece

    async def write_to(self, fd: int, offset: int, limit: int, seen: Observer) -> int:
        """Write up to `limit` bytes to a file at `offset`."""
        at, end = offset, offset + limit
        while at < end:
            if self._goes_direct(end - at):
                at = await self._write_direct(fd, at, end, seen)
            elif piece := await self.read():
                self._rest = piece[end - at :]
                view = memoryview(piece)[: end - at]
                seen(view)
                at = await self._writer.write(fd, view, at)
                del piece, view  # a client that stalls now may stay for long
            else:
                break
        return at - offset

    async def read_into(self, buffer: memoryview, seen: Observer) -> int:
        """Fill a buffer; the return value says how far."""
        at = 0
        while at < len(buffer) and self.failure is None:
            if self._rest or not self._fills_direct():
                piece = await self.read()
                if not piece:
                    break
            elif not (piece := self._buffered()):
                return at + await self._read_direct(buffer[at:], seen)
            n = min(len(buffer) - at, len(piece))
            buffer[at : at + n], self._rest = piece[:n], piece[n:]
            del piece  # a client that stalls now may stay for long
            seen(buffer[at : at + n])
            at += n
        return at

    def _fills_direct(self) -> bool:
        """Whether the connection is worth lending. Once bytes have gone past aiohttp's stream, all others do: it need not be told of them then."""
        if self._size is None or self._content.is_eof():
            return False
        return self.unshown > 0 or self._size - self._content.total_bytes >= DIRECT_FROM

    async def _read_direct(self, buffer: memoryview, seen: Observer) -> int:
        if self.failure is not None:
            return 0
        left = cast(int, self._size) - self._content.total_bytes - self.unshown
        room = min(left, len(buffer))
        sink = _DirectRead(self, self._connection, seen, buffer)
        await self._lend(sink, left, room)
        if self.failure is None and self._content.at_eof():
            self._end()
        return sink.came

    def _goes_direct(self, room: int) -> bool:
        """Whether so much of the body is still to come that lending the connection pays, and the disk takes it at once."""
        if self._size is None or self._content.is_eof() or self.failure is not None or self._rest:
            return False
        return min(self._size - self._content.total_bytes, room) >= DIRECT_FROM and not self._writer.slow

    def stop(self, error: TusError) -> None:
        """End now, with this failure; a body that has been read to its end stays whole."""
        if self._ended or self.failure is not None or self._content.at_eof():
            return
        self.failure = error
        self._cancel_timer()
        if self._direct is not None:
            self._direct.finish()
        self._content.set_exception(Stopped())

    def close(self) -> None:
        """The request is over. aiohttp reads on for a while, so that a client that still sends sees the answer and no reset."""
        self._ended = True
        self._cancel_timer()
        if isinstance(self._content.exception(), Stopped):
            self._content.set_exception(cast(BaseException, None))

    def _buffered(self) -> bytes:
        """What aiohttp has of the body already, without waiting for more."""
        self._begin()
        if self.failure is not None:
            return b""
        try:
            piece = self._content.read_nowait(-1)
        except (ConnectionError, web.RequestPayloadError):
            self.failure = UnexpectedEof()
            return b""
        self.came(len(piece))
        return piece

    async def _write_direct(self, fd: int, offset: int, end: int, seen: Observer) -> int:
        if view := memoryview(self._buffered()):
            seen(view)
            offset = self._writer.write_now(fd, view, offset)
            if self._writer.slow:
                return offset
        if self.failure is not None:
            return offset
        left = cast(int, self._size) - self._content.total_bytes
        sink = _DirectWrite(self, self._connection, self._writer, fd, offset, seen, self._buffer)
        await self._lend(sink, left, min(left, end - offset))
        if self.failure is None and not self._content.is_eof():
            await self._catch_up()
        elif self.failure is None and self._content.at_eof():
            self._end()
        return sink.offset

    async def _lend(self, sink: _Direct, left: int, room: int) -> None:
        """Let `sink` have the next `room` bytes of the `left` that the body has still to come, until it or the body ends."""
        try:
            sink.start(self._content, left, room)
        except ConnectionResetError:
            self.failure = UnexpectedEof()
            return
        self._direct = sink
        self._wait()
        try:
            await sink.done
        finally:
            sink.finish()
            self._direct = None
            self._waiting_since = 0.0
        if sink.lost:
            self.failure = self.failure or UnexpectedEof()
        if sink.error is not None:
            raise sink.error

    async def _catch_up(self) -> None:
        count, self.unshown = self.unshown, 0
        await self._connection.catch_up(self._content, count)

    def _begin(self) -> None:
        if self._expects:
            self._expects = False
            transport = self._request.transport
            if transport is not None and self._request.version >= (1, 1):
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _end(self) -> None:
        self._ended = True
        self._cancel_timer()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._look)

    def came(self, size: int) -> None:
        """Bytes came, and what they are for begins."""
        if self._rate is not None:
            waited = asyncio.get_running_loop().time() - self._waiting_since if self._waiting_since else 0.0
            self._rate.count(waited, size)
        self._waiting_since = 0.0

    def active(self) -> None:
        """What came is stored, and more is waited for."""
        self._waiting_since = asyncio.get_running_loop().time()

    def _look(self) -> None:
        """Only the time that we wait for the client counts, not the time that the store takes."""
        loop = asyncio.get_running_loop()
        idle = loop.time() - self._waiting_since if self._waiting_since else 0.0
        self._timer = None
        if idle >= self._timeout:
            self.stop(ReadTimeout())
        elif self._rate is not None and self._rate.too_low(idle):
            self.stop(ReadTimeout(f"fewer than {self._rate.least} bytes a second came"))
        elif not self._ended:
            self._timer = loop.call_later(self._timeout - idle, self._look)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Direct(ABC, asyncio.BufferedProtocol):
    """Holds the transport while the kernel fills a buffer with a body."""

    def __init__(self, source: RequestSource, connection: Lender, seen: Observer, buffer: memoryview) -> None:
        self.error: BaseException | None = None
        self.lost = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._source = source
        self._connection = connection
        self._seen = seen
        self._buffer = buffer
        self._holds = False

    def start(self, body: StreamReader, left: int, room: int) -> None:
        """Take the next `room` bytes of the `left` that the body has still to come. Raises `ConnectionResetError`."""
        self._body, self._left, self._room = body, left, room
        self._connection.lend(self)
        self._holds = True

    @abstractmethod
    def take(self, nbytes: int) -> bool:
        """Do with the bytes what they are for. False: for now no more can be taken."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: self._room] if self._holds else memoryview(bytearray(BUFFER_SIZE))

    def buffer_updated(self, nbytes: int) -> None:
        if not self._holds:
            return  # the connection is over: nobody waits for these, and the file may be closed
        self._source.came(nbytes)
        more = False
        try:
            more = self.take(nbytes)
        except Exception as error:  # handed to whoever waits for `done`
            self.error = error
        self._left -= nbytes
        self._room -= nbytes
        self._source.active()
        if not more or not self._room:
            self.finish()
        self._source.unshown += self._connection.went_by(self._body, nbytes)

    def finish(self) -> None:
        """Give the transport back."""
        if not self.done.done():
            self.done.set_result(None)
        if self._holds:
            self._holds = False
            self._connection.take_back(self._body, ended=not self._left)

    def eof_received(self) -> bool | None:
        self._connection.borrowed().eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._holds = False
        self.lost = True
        self._connection.borrowed().connection_lost(exc)
        self.finish()

    def pause_writing(self) -> None:
        self._connection.borrowed().pause_writing()

    def resume_writing(self) -> None:
        self._connection.borrowed().resume_writing()


class _DirectWrite(_Direct):
    """To a file."""

    def __init__(
        self,
        source: RequestSource,
        connection: Lender,
        writer: Writer,
        fd: int,
        offset: int,
        seen: Observer,
        buffer: memoryview,
    ) -> None:
        super().__init__(source, connection, seen, buffer)
        self.offset = offset
        self._writer = writer
        self._fd = fd

    def take(self, nbytes: int) -> bool:
        view = self._buffer[:nbytes]
        self._seen(view)
        self.offset = self._writer.write_now(self._fd, view, self.offset)
        return not self._writer.slow


class _DirectRead(_Direct):
    """Into the caller's buffer."""

    came = 0

    def take(self, nbytes: int) -> bool:
        self._seen(self._buffer[:nbytes])
        self._buffer = self._buffer[nbytes:]
        self.came += nbytes
        return True

    def finish(self) -> None:
        """The buffer is the caller's again."""
        super().finish()
        self._buffer = memoryview(b"")
