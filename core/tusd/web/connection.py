"""aiohttp's side of one connection, with a shorter way from a request to its answer, and with what aiohttp leaves out: malformed
requests are answered as all others are, one that is found to be malformed in the middle of its body ends that body at once, and a client
that has said all still gets its answers.

The underscored names are aiohttp's own; there are no public ones for what its parser found and its tasks do."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser, RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, _ErrInfo

from ..errors import InternalError, InvalidRequest, TusError
from ..metrics import Metrics
from ..protocol.messages import Response
from ..protocol.tus1 import VERSION
from .figures import CONNECTIONS_OPEN
from .lending import HOLD_FROM, show_many_zeros
from .limits import Limits
from .reply import Answer, Reply, last

logger = logging.getLogger("tusd.web")

Handle = Callable[[web.BaseRequest], Awaitable[Answer]]
"""Makes the answer to one request. Raises `ConnectionError` when nobody is left to tell."""

_PAUSE = 0.02
"""Seconds between looks at how many pipelined requests of a half-closed connection are left."""


_QUOTE = re.compile(r"b?['\"]|:")
_WORDS = re.compile(r" [a-z ]+")
_SURPLUS_PATIENCE = 5.0
"""Seconds that a connection beyond `max_connections` gets to send the request that is refused."""
_SPARE = 64
"""Connections beyond `max_connections` that are told so; more of them are ended without a word."""


class Malformed(TimeoutError):
    """Put into a body that the parser gave up."""


class Connection(web.RequestHandler):
    """One connection. `surplus`: there are `max_connections` already; it is told so and ended."""

    def __init__(self, handle: Handle, server: Server, limits: Limits, **options: Any) -> None:
        super().__init__(server, **options)
        self._handle = handle
        self._held = False
        self._unshown = 0
        """Bytes of the current request's body that its stream does not know of."""
        self._overlong = False
        """The head that is still to come is too long already; nothing more is read."""
        self.surplus = False
        self._server = server
        self.wire: asyncio.Transport | None = None
        """The transport, also while what was sent last is still on its way and aiohttp has let go of it."""
        self._limits = limits
        self._head_since = 0.0
        """When the head that is still to come began, or the connection; 0 when none has begun."""
        self._head_size = 0
        self._began = 0.0
        """When the first byte of that head came (`time.monotonic`); 0 when none has."""
        self._beginnings: deque[float] = deque()
        """The same of the requests that wait, in their order."""
        self.request_began = 0.0
        """The same of the request that is being answered."""
        self._newest: StreamReader | None = None
        """The body of the newest request, if there was any."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(asyncio.Transport, transport)
        self._server.count(1)
        beyond = self._server.beyond()
        if beyond >= _SPARE:
            self.wire.abort()  # no room, not even to be told so
            return
        self.surplus = beyond >= 0
        self._head_since = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.wire = None
        self._server.count(-1)
        self._newest = None  # it knows this connection, which would keep both alive
        super().connection_lost(exc)

    def force_close(self) -> None:
        """aiohttp closes a transport that closes already once more, after which those of asyncio's TLS know nothing of themselves."""
        if self.transport is not None and self.transport.is_closing():
            self.transport = None
        super().force_close()

    def head_is_late(self, now: float) -> bool:
        """Whether the client takes too long to send a head that it has begun, or the first one."""
        patience = min(self._limits.header_timeout, _SURPLUS_PATIENCE) if self.surplus else self._limits.header_timeout
        return self._head_since > 0 and now - self._head_since >= patience and not self.busy

    def _head_goes_on(self, size: int) -> None:
        """Bytes came, and no request is whole."""
        self._head_since = self._head_since or self._loop.time()
        self._began = self._began or monotonic()
        self._head_size += size
        if self._head_size <= self._limits.max_head_size:
            return
        self._overlong = True
        self._pause_transport_reading()
        if not self.busy and not self._messages:
            self._refuse_overlong()

    def _refuse_overlong(self) -> None:
        if self.wire is not None:
            self.wire.write(last(self._malformed(f"its head is longer than {self._limits.max_head_size} bytes")).data)
        self.force_close()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or what is left of its body thrown away."""
        return self._waiter is None and self._task_handler is not None and not self._task_handler.done()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp's streams call this after every piece that is read; there is something to resume only after a pause."""
        if self._reading_paused:
            super().resume_reading(resume_parser)
            if self._held:
                self._pause_transport_reading()

    # --- lending the transport: see `lending.Lender`

    def hold(self) -> None:
        """Let what comes wait in the kernel until `release`."""
        self._held = True
        self._pause_transport_reading()

    def release(self) -> None:
        """Whoever waits for the body wants what comes."""
        if self._held:
            self._held = False
            if not self._reading_paused and not self._buffer_paused:
                self._resume_transport_reading()

    def lend(self, protocol: asyncio.BaseProtocol) -> None:
        """Raises `ConnectionResetError` when the client is gone."""
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self.hold()  # so that no byte comes between the two
        self.transport.set_protocol(protocol)
        self._held = False
        self._resume_transport_reading()

    def went_by(self, body: StreamReader, count: int) -> int:
        """At the body's end there is a new parser, which need not know."""
        self._unshown += count
        return count

    def take_back(self, body: StreamReader, *, ended: bool) -> None:
        """What comes next is another request, or waits."""
        if self.transport is None:
            return
        if ended:
            self._parser = self._new_parser()  # the old one would have to be shown all those bytes
            self._unshown = 0
            body.feed_eof()
        else:
            self.hold()
        self.transport.set_protocol(self)

    async def catch_up(self, body: StreamReader, count: int) -> None:
        """The old parser has to do with the rest."""
        self._unshown = 0
        await show_many_zeros(self, body, count)

    def borrowed(self) -> asyncio.Protocol:
        """Itself."""
        return self

    def _new_parser(self) -> HttpRequestParser:
        return HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    # --- requests

    def data_received(self, data: bytes) -> None:
        """Parse. When the parser fails within a body, it says so in a message of its own and leaves the body waiting for ever:
        behind a body that has not ended there can be no other message."""
        if self._overlong:
            return
        waiting = len(self._messages)
        super().data_received(data)
        if (came := len(self._messages) - waiting) == 0:
            if data and (self._newest is None or self._newest.is_eof()):
                self._head_goes_on(len(data))
            return
        now = monotonic()
        self._beginnings.append(self._began or now)
        for _ in range(came - 1):
            self._beginnings.append(now)
        self._head_since, self._head_size, self._began = 0.0, 0, 0.0
        newest, self._newest = self._messages[-1]
        if not self._newest.is_eof() and isinstance(newest, RawRequestMessage):
            size = _size(newest)
            if size is not None and size - self._newest.total_bytes >= HOLD_FROM:
                self.hold()
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(Malformed())

    def eof_received(self) -> bool | None:  # type: ignore[override] # aiohttp always closes
        """The client sends no more, and may still read (RFC 9112 section 9.6): it gets the answers to all that it has asked."""
        waiting = self._messages or self.busy
        if not waiting or self._newest is None or not self._newest.is_eof() or self.transport is None:
            return None
        if self.transport.get_extra_info("sslcontext") is not None:
            return None  # asyncio's TLS cannot go on writing
        self._close_when_answered()
        return True

    def _close_when_answered(self) -> None:
        """aiohttp's `close` forgets what is still in the queue, and there is no event for its end."""
        if self._messages and self.transport is not None:
            asyncio.get_running_loop().call_later(_PAUSE, self._close_when_answered)
        elif self.busy:
            self.close()
        else:
            self.force_close()

    async def start(self) -> None:
        """Answer the requests of this connection, one after the other. aiohttp's own loop makes a task for each of them and takes
        every answer through several coroutines."""
        try:
            while not self._force_close:
                if not self._messages:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                if not await self._serve(*self._next()):
                    break
                if self._overlong and not self._messages:
                    self._refuse_overlong()
        except ConnectionError:
            pass  # the client is gone
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            logger.exception("a connection failed")
            self.force_close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _next(self) -> tuple[RawRequestMessage | _ErrInfo, StreamReader]:
        """The request that came first. The parser may go on where too many that were waiting had made it stop."""
        found = self._messages.popleft()
        self.request_began = self._beginnings.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        if not self._messages and found[1].is_eof() and self._parser is not None:
            # A body that came after its head makes the parser believe that one more request is waiting: it stops one too early and keeps
            # what it has not parsed until more comes.
            self.data_received(b"")
        return found

    async def _serve(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> bool:
        """Answer one request; whether the connection goes on. Raises `ConnectionError` when the client is gone."""
        self._request_in_progress = True
        try:
            if isinstance(message, _ErrInfo):
                closes = self._write(last(self._malformed(_without_quotes(message.message))))
            else:
                closes = await self._answer(message, body)
            self._request_in_progress = False
            if not body.is_eof():
                await self._drop(body, _size(message))
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)  # `shutdown` waits for it
        self._keepalive = not closes
        if closes or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        return True

    async def _answer(self, message: RawRequestMessage, body: StreamReader) -> bool:
        """Whether the connection ends with the answer."""
        if message.url is None:
            # The parser takes `CONNECT` and two spaces for a request of HTTP/0.9 without a target, and aiohttp's requests must have one.
            message = message._replace(path=ERROR.path, url=ERROR.url)
        self._unshown = 0
        writer = StreamWriter(self, self._loop)
        task = cast("asyncio.Task[None]", self._task_handler)
        request = self._current_request = web.BaseRequest(message, body, self, writer, task, self._loop)
        try:
            answer = await self._handle(request)
            if isinstance(answer, Reply):
                return self._write(answer)
            await answer.prepare(request)
            await answer.write_eof()
            return not answer.keep_alive
        except ConnectionError:
            raise
        except Exception as error:
            logger.exception("a request failed")
            if writer.output_size > 0:
                raise ConnectionError("an answer that has begun cannot be taken back") from error
            return self._write(last(_refusal(InternalError())))

    def _write(self, reply: Reply) -> bool:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client went away before the answer")
        self.transport.write(reply.data)
        return reply.closes

    async def _drop(self, body: StreamReader, size: int | None) -> None:
        """Read on for a while, so that a client that still sends sees the answer before the connection ends."""
        self.release()
        try:
            async with asyncio.timeout(self._lingering_time):
                while not body.is_eof() and (size is None or body.total_bytes + self._unshown < size):
                    await body.readany()
        except (TimeoutError, web.RequestPayloadError):
            pass
        except asyncio.CancelledError:  # `shutdown` puts one into the body
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        if not body.is_eof():
            self.close()

    def _malformed(self, what: str) -> Response:
        response = _refusal(InvalidRequest(f"the request is malformed: {what}"))
        request_id = os.urandom(8).hex()
        response.headers.append(("X-Request-ID", request_id))
        peer = self.peername[0] if isinstance(self.peername, tuple) else None
        logger.info("malformed request: %s", what, extra={"request_id": request_id, "peer": peer})
        return response


def _size(message: RawRequestMessage | _ErrInfo) -> int | None:
    """Content-Length."""
    text = message.headers.get("Content-Length", "") if isinstance(message, RawRequestMessage) else ""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _refusal(error: TusError) -> Response:
    headers = [("Tus-Resumable", VERSION), ("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    return Response(error.status, headers, f"{error.code}: {error}\n".encode("utf-8", "replace"))


def _without_quotes(message: str) -> str:
    """What aiohttp says of a request that it cannot parse, without what it quotes of it: that may be a password."""
    what, *quoted = _QUOTE.split(message.strip().partition("\n")[0])
    behind = quoted[-1] if quoted and _WORDS.fullmatch(quoted[-1]) else ""
    return f"{what.rstrip(' :,')} ...{behind}" if behind else what.rstrip(" :,")


class Server(web.Server):
    """Makes connections."""

    def __init__(self, handle: Handle, limits: Limits, metrics: Metrics, **options: Any) -> None:
        super().__init__(
            cast(Any, handle),  # aiohttp calls it in its own loop over requests only, which `Connection.start` replaces
            keepalive_timeout=limits.keepalive_timeout,
            max_line_size=limits.max_header_size,
            max_field_size=limits.max_header_size,
            max_headers=limits.max_headers,
            **options,
        )
        self._handle = handle
        self._limits = limits
        self._metrics = metrics
        self._counted: int | None = 0
        """Connections that the metrics know of; None: it is over."""

    def count(self, number: int) -> None:
        """So many connections more are open."""
        if self._counted is not None:
            self._counted += number
            self._metrics.add(CONNECTIONS_OPEN, number)

    def count_no_more(self) -> None:
        """The server has ended: connections that take longer, for their TLS to end, count no more."""
        if self._counted:
            self._metrics.add(CONNECTIONS_OPEN, -self._counted)
        self._counted = None

    def open_connections(self) -> list[Connection]:
        """Those that are open now."""
        return [connection for connection in self.connections if isinstance(connection, Connection)]

    def beyond(self) -> int:
        """How many connections too many there are with one more; negative: none."""
        return -1 if self._limits.max_connections is None else len(self._connections) - self._limits.max_connections

    def __call__(self) -> Connection:
        return Connection(self._handle, self, self._limits, loop=self._loop, **self._kwargs)
