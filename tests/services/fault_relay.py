"""The proxy's work: takes requests from clients, passes them on, and does to them what their rules say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from http.client import responses
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.services.fault_rules import (
    Answer,
    CutAnswer,
    CutRequest,
    Delay,
    Drop,
    HideNewer,
    Hold,
    LoseAnswer,
    Repeat,
    Request,
    Rule,
    Rules,
    Seen,
)
from tests.services.messages import (
    PIECE,
    Head,
    content,
    length_of_answer,
    length_of_request,
    read_body,
    read_head,
    with_body,
)
from tests.services.s3_listings import Writes
from tests.services.s3_requests import Names
from tests.tcp import tcp_server

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER = 10.0
"""Seconds that the rest of a body may take after the server has answered."""


class Ended(Exception):
    """This connection has served its last request."""


class ServerGone(Exception):
    """The server takes no more of the request."""


@dataclass(slots=True)
class Peer:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __post_init__(self) -> None:
        self.writer.transport.set_write_buffer_limits(high=0)

    async def send(self, data: bytes) -> None:
        """Until the system has taken all of it. Raises ConnectionError if the other side is gone."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End it so that the other side gets an error."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Relay:
    """Serves in one thread; another thread calls `end`."""

    def __init__(self, upstream: str, rules: Rules, names: Names, remember: Callable[[Request], bool]) -> None:
        address = urlsplit(upstream)
        assert address.scheme == "http" and address.hostname and address.port, f"not http://HOST:PORT: {upstream}"
        self.upstream = address.hostname, address.port
        self.rules = rules
        self.names = names
        self.remember = remember
        self.answers: dict[tuple[str, str], bytes] = {}
        """What requests with this method and target got last."""
        self.writes = Writes()
        self.port = 0
        self.listening = threading.Event()
        self.errors: list[Exception] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    async def serve(self) -> None:
        """Until `end`."""
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        async with tcp_server(self._serve, limit=PIECE, backlog=512) as self.port:
            self.listening.set()
            await self._ending.wait()

    def end(self) -> None:
        """Stop serving, and drop all connections."""
        assert self._loop is not None and self._ending is not None
        self._loop.call_soon_threadsafe(self._ending.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, Peer(reader, writer))
        try:
            await connection.serve()
        except (ConnectionError, asyncio.IncompleteReadError, Ended):
            pass  # somebody has gone, or was sent away: the other end learns it by the closing below
        except Exception as error:
            self.errors.append(error)  # raised where the test leaves the proxy
        finally:
            connection.close()


@dataclass(slots=True)
class Connection:
    """A client's connection and, from its first request on, one to the server."""

    relay: Relay
    client: Peer
    server: Peer | None = None

    async def serve(self) -> None:
        """One request after the other, until somebody leaves."""
        while head := await read_head(self.client.reader):
            seen, rule = self.relay.rules.begin(partial(self._request, head))
            try:
                await Exchange(self, head, seen, rule).run()
            finally:
                if rule is not None:
                    rule.over()
            if head.last:
                return

    def _request(self, head: Head, number: int) -> Request:
        method, target, _ = head.first
        split = urlsplit(target)
        path, query = unquote(split.path), dict(parse_qsl(split.query, keep_blank_values=True))
        return Request(number, method, target, path, query, head.headers, self.relay.names(method, path, query, head.headers))

    async def connected(self) -> Peer:
        """To the server, which may have ended the connection meanwhile."""
        if self.server is not None and self.server.reader.at_eof():
            self.server.writer.close()
            self.server = None
        if self.server is None:
            self.server = Peer(*await asyncio.open_connection(*self.relay.upstream, limit=PIECE))
        return self.server

    def close(self) -> None:
        """Both ends."""
        self.client.writer.close()
        if self.server is not None:
            self.server.writer.close()


class Exchange:
    """A request and its answer."""

    def __init__(self, connection: Connection, head: Head, seen: Seen, rule: Rule | None) -> None:
        self.connection = connection
        self.relay = connection.relay
        self.client = connection.client
        self.head = head
        self.seen = seen
        self.request = seen.request
        self.rule = rule
        self.fault = seen.fault
        self.length = length_of_request(head)
        self.waits = "100-continue" in head.headers.get("expect", "").lower()
        """The client sends its body when it is told to, or after a while."""

    async def run(self) -> None:
        """Raises Ended if the connection cannot be used again."""
        if self.rule is not None and not isinstance(self.fault, Hold):
            self.rule.reached()
        body = None
        match self.fault:
            case Drop():
                self.client.reset()
                raise Ended
            case CutRequest(after):
                await self._cut(after)
                raise Ended
            case Answer(done=False):
                await self._answer_alone(self.fault)
                return
            case Repeat() if stored := self.relay.answers.get((self.request.method, self.request.target)):
                self.seen.status = 200
                await self.client.send(stored)
                return
            case Hold(at="head") if self.rule is not None:
                await self.rule.hold()
            case Hold(at="body") if self.rule is not None:
                body = await self._take_body()
                await self.rule.hold()
            case Delay(request=seconds):
                await asyncio.sleep(seconds)
        await self._pass(body)

    async def _pass(self, body: bytes | None) -> None:
        """Let the server do it; `body` is what the client has sent already, if it has."""
        server = await self.connection.connected()
        await server.send(self.head.raw)
        sending = asyncio.create_task(self._send_body(server, body))
        reading = asyncio.create_task(self._read_answer(server, tell=body is None))
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # raises if the client has gone: then the server need not answer
            answer = await reading
            self.seen.answered = answer.status
            await self._answer(server, answer)
            await asyncio.wait({sending}, timeout=LINGER if not self.waits else 0)
            if not sending.done() or answer.last:
                raise Ended
            sending.result()
        finally:
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def _send_body(self, server: Peer, body: bytes | None) -> None:
        """What the server does not want, as it answers already, is not an error."""
        with contextlib.suppress(ServerGone):
            if body is not None:
                await self._send(server, body)
                return
            async for piece in read_body(self.client.reader, self.length):
                await self._send(server, piece)

    async def _send(self, server: Peer, piece: bytes) -> None:
        try:
            await server.send(piece)
        except ConnectionError as error:
            raise ServerGone from error
        self.seen.sent += len(piece)

    async def _read_answer(self, server: Peer, *, tell: bool) -> Head:
        """The head of the final answer; those before it (100 Continue) go to the client if `tell`."""
        while True:
            answer = await read_head(server.reader)
            if answer is None:
                raise ConnectionResetError("the server has ended the connection")
            if answer.status >= 200:
                return answer
            if tell:
                self.waits = False
                await self.client.send(answer.raw)

    async def _answer(self, server: Peer, answer: Head) -> None:
        """Pass the server's answer on, or do with it what the fault says."""
        length = length_of_answer(answer, self.request.method)
        pieces = read_body(server.reader, length)
        remember = self.relay.remember(self.request)
        late = isinstance(self.fault, Answer | LoseAnswer | HideNewer) or self.fault == Hold("answer")
        whole = b"".join([piece async for piece in pieces]) if late or remember or self.relay.writes.needs(self.request) else None
        if answer.status < 300:
            self.relay.writes.written(self.request, b"" if whole is None else content(whole, length))
        if remember and whole is not None and answer.status == 200 and length != "until close":
            self.relay.answers[self.request.method, self.request.target] = answer.raw + whole
        match self.fault:
            case LoseAnswer():
                self.client.reset()
                raise Ended
            case Answer():
                await self._say(self.fault)
                return
            case Hold(at="answer") if self.rule is not None:
                await self.rule.hold()
            case HideNewer(seconds) if whole is not None and answer.status == 200:
                self.seen.status = 200
                shown = self.relay.writes.without_newer(self.request, content(whole, length), seconds)
                await self.client.send(with_body(answer, shown))
                return
            case Delay(answer=seconds):
                await asyncio.sleep(seconds)
        self.seen.status = answer.status
        if whole is not None:
            pieces = one(whole)
        await self.client.send(answer.raw)
        if isinstance(self.fault, CutAnswer):
            await self._cut_answer(self.fault, pieces)
        async for piece in pieces:
            await self.client.send(piece)
        if length == "until close":
            raise Ended

    async def _cut_answer(self, fault: CutAnswer, pieces: AsyncIterator[bytes]) -> NoReturn:
        left = fault.after
        async for piece in pieces:
            await self.client.send(piece[:left])
            left -= len(piece[:left])
            if not left:
                break
        if fault.how == "reset":
            self.client.reset()
        raise Ended

    async def _answer_alone(self, fault: Answer) -> None:
        if not fault.early:
            await self._take_body()
            await self._say(fault)
            return
        await self._say(fault)
        self.client.writer.write_eof()
        with contextlib.suppress(TimeoutError):  # an unread body would reset the connection, and the client would lose the answer
            async with asyncio.timeout(LINGER):
                while await self.client.reader.read(PIECE):
                    pass
        raise Ended

    async def _say(self, fault: Answer) -> None:
        headers = {"Content-Length": str(len(fault.body)), **fault.headers}
        if fault.early:
            headers["Connection"] = "close"
        lines = [
            f"HTTP/1.1 {fault.status} {responses.get(fault.status, '')}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.seen.status = fault.status
        body = b"" if self.request.method == "HEAD" else fault.body
        await self.client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def _take_body(self) -> bytes:
        if self.waits and self.length != 0:
            await self.client.send(CONTINUE)
        return b"".join([piece async for piece in read_body(self.client.reader, self.length)])

    async def _cut(self, after: int) -> None:
        server = await self.connection.connected()
        await server.send(self.head.raw)
        if self.waits:
            await self.client.send(CONTINUE)
        async for piece in read_body(self.client.reader, self.length):
            piece = piece[: after - self.seen.sent]
            if piece:
                await self._send(server, piece)
            if self.seen.sent == after:
                break
        self.client.reset()
        server.writer.write_eof()
        with contextlib.suppress(TimeoutError, ConnectionError):  # a reset instead could overtake what was sent
            async with asyncio.timeout(LINGER):
                while await server.reader.read(PIECE):
                    pass


async def one(piece: bytes) -> AsyncIterator[bytes]:
    """It alone."""
    yield piece
