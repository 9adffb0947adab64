"""One request: read, run, write; or refuse."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from aiohttp import web

from ..engine import Engine, Exchange
from ..engine.body import Empty
from ..engine.figures import ERRORS, REQUESTS
from ..errors import (
    InternalError,
    NotSupported,
    OriginNotAllowed,
    ServerShutdown,
    TooManyConnections,
    TusError,
    UnsupportedHttpVersion,
)
from ..metrics import Metrics
from ..protocol.common import method_meant
from ..protocol.cors import Cors
from ..protocol.dialects import Dialects
from ..protocol.messages import Head, HeaderList, Response
from ..protocol.urls import Origins
from .body import BUFFER_SIZE, RequestSource
from .figures import ALL, METHODS, NO_ANSWER, OTHER, REQUEST_DURATION, REQUESTS_ACTIVE
from .interim import Interim
from .limits import Limits
from .pages import Pages
from .reply import Answer, ClientGone, send
from .requests import Entry, RequestIds, RequestLog
from .writing import Writer

logger = logging.getLogger("tusd.web")
_KNOWN = frozenset(METHODS)
_CLASSES = (NO_ANSWER, "1xx", "2xx", "3xx", "4xx", "5xx")
_VERSIONS = ((1, 1), (1, 0))


class Handler:
    """Answers all requests of one worker, or with `uploads=False` those of its admin listener: pages, and nothing else. The log says nothing of the
    pages in `quiet` while they answer 200."""

    def __init__(
        self,
        engine: Engine,
        dialects: Dialects,
        *,
        origins: Origins,
        cors: Cors,
        pages: Pages,
        metrics: Metrics,
        limits: Limits,
        log: RequestLog | None = None,
        quiet: frozenset[str] = frozenset(),
        uploads: bool = True,
    ) -> None:
        self._engine = engine
        self._dialects = dialects
        self._origins = origins
        self._cors = cors
        self._pages = pages
        self._log = log
        self._quiet = quiet
        self._ids = RequestIds()
        self._uploads = uploads
        self._within = frozenset(path for path in pages if origins.holds(path))
        """Pages where uploads would be."""
        self._metrics = metrics
        metrics.declare(*ALL)
        self._limits = limits
        self._buffer = memoryview(bytearray(BUFFER_SIZE))  # filled and written within one callback: one per event loop is enough
        self._writer = Writer()
        self._sources: set[RequestSource] = set()
        self._leaving = False
        self._interrupted = False

    async def __call__(self, request: web.BaseRequest) -> Answer:
        """The answer to one request. Raises `ClientGone` only."""
        head = head_of(request, self._origins)
        entry = self._ids.entry(head.headers.get("X-Request-ID"), getattr(request.protocol, "request_began", 0.0))
        source = RequestSource(request, self._buffer, self._writer, self._limits) if request.body_exists else None
        if source is not None:
            self._sources.add(source)
            if self._interrupted:
                source.stop(ServerShutdown(retry_after=1))
        try:
            return await self._answer(_Call(request, head, source, entry))
        except BaseException as error:
            entry.outcome = "client-gone" if isinstance(error, ClientGone) else "cancelled"
            raise
        finally:
            if source is not None:
                self._sources.discard(source)
                source.close()
            if self._log is not None:
                entry.received = 0 if source is None else source.received
                self._note(self._log, request, head, entry)

    def leave(self) -> None:
        """End each connection with its next answer."""
        self._leaving = True

    def interrupt(self) -> None:
        """Make running appends stop, and those that are still to begin; their bytes are kept."""
        self._interrupted = True
        for source in tuple(self._sources):
            source.stop(ServerShutdown(retry_after=1))

    def close(self) -> None:
        """No request will come any more."""
        self._writer.close()

    def _note(self, log: RequestLog, request: web.BaseRequest, head: Head, entry: Entry) -> None:
        if entry.status == 200 and head.path in self._quiet:
            return  # every few seconds, and nothing happened
        entry.method, entry.path = head.method, head.path
        entry.id_at = len(self._origins.base_path) if self._origins.holds(head.path) else 0
        entry.peer = head.client
        if request.transport is None and entry.outcome == "ok":
            entry.outcome = "client-gone"
        entry.end()
        log(entry)

    async def _answer(self, call: _Call) -> Answer:
        head = call.head
        if call.request.version not in _VERSIONS:  # aiohttp's parser lets 0.9 and 2.0 through
            return await self._refuse(call, UnsupportedHttpVersion())
        if (
            not self._origins.holds(head.path)
            or (head.path in self._within and head.method in ("GET", "HEAD"))
            or not self._uploads
        ):
            return await self._outside(call)
        metrics, meant = self._metrics, method_meant(head)
        method = meant if meant in _KNOWN else OTHER
        metrics.add(REQUESTS, 1, (method,))
        metrics.add(REQUESTS_ACTIVE, 1)
        try:
            return await self._upload(call)
        except TusError as error:
            if isinstance(error, InternalError):
                return await self._fail(call, error)
            if isinstance(error, OriginNotAllowed):
                logger.warning("%s %s: %s", head.method, error.code, error)
            return await self._refuse(call, error)
        except ClientGone:
            raise
        except Exception as error:
            return await self._fail(call, error)
        finally:
            metrics.add(REQUESTS_ACTIVE, -1)
            call.entry.end()
            metrics.observe(REQUEST_DURATION, call.entry.seconds, (method, _CLASSES[call.entry.status // 100]))

    async def _upload(self, call: _Call) -> Answer:
        head, entry = call.head, call.entry
        dialect = self._dialects.of(head)
        call.extra = self._cors.headers(head)
        _check_connection(call)
        interim = Interim(call.request, dialect, head) if call.source is not None and dialect.tells(head) else None
        exchange = Exchange(head, dialect.read(head), call.source or Empty(), interim)
        entry.concerns(exchange.request)
        async with self._engine(exchange) as outcome:
            entry.concerns(outcome)
            return await self._send(call, dialect.write(head, outcome))

    async def _refuse(self, call: _Call, error: TusError) -> Answer:
        response = self._dialects.of(call.head).refuse(call.head, error)
        call.entry.fails(error)
        self._metrics.add(ERRORS, labels=(str(response.status), error.code))
        return await self._send(call, response, close=isinstance(error, TooManyConnections | UnsupportedHttpVersion))

    async def _fail(self, call: _Call, error: Exception) -> Answer:
        """A bug or an outage: the log has all of it, the client only the request's id."""
        method, request_id = call.head.method, call.entry.request_id
        if isinstance(error, InternalError):  # it knows what is wrong; whoever raised it has logged a bug's traceback
            logger.warning("%s %s: %s (request id %s)", method, error.code, error, request_id)
        else:
            logger.error("%s failed (request id %s)", method, request_id, exc_info=error)
            error = InternalError()
        return await self._refuse(call, error)

    async def _outside(self, call: _Call) -> Answer:
        """What is no upload."""
        route = self._pages.get(call.head.path)
        if route is None:
            response = _plain(404, "not found")
        elif call.head.method not in ("GET", "HEAD"):
            response = _plain(405, "method not allowed", ("Allow", "GET, HEAD"))
        else:
            try:
                response = await route(call.head)
            except Exception as error:  # a plugin's bug is answered as ours are
                return await self._fail(call, error)
        if response.status >= 400:
            call.entry.outcome = "refused" if response.status < 500 else "failed"
        return await self._send(call, response)

    async def _send(self, call: _Call, response: Response, *, close: bool = False) -> Answer:
        """The connection ends with the answer when this server leaves, much of the body is still to come, it is not read as it was meant,
        or the client offered another protocol: aiohttp throws away what comes behind such a request."""
        head, source = call.head, call.source
        close = close or self._leaving or (source is not None and source.unread) or _recoded(head)
        close = close or head.method == "CONNECT" or "Upgrade" in head.headers
        return await send(call.request, response, call.extra, close=close, entry=call.entry, metrics=self._metrics)


@dataclass(slots=True)
class _Call:
    """One request on its way to its answer."""

    request: web.BaseRequest
    head: Head
    source: RequestSource | None
    """Its body, if it has one."""
    entry: Entry
    extra: HeaderList = field(default_factory=list)
    """Headers that its answer gets, whatever that is."""


def _check_connection(call: _Call) -> None:
    """Raises for what no dialect has to do with."""
    if getattr(call.request.protocol, "surplus", False):
        raise TooManyConnections(retry_after=1)
    if _recoded(call.head):
        raise NotSupported("of the transfer codings only chunked is supported")
    if call.source is not None and isinstance(call.request, web.Request) and _content_coded(call.head):
        raise NotSupported("a body with a Content-Encoding is not taken here")


def _plain(status: int, what: str, *headers: tuple[str, str]) -> Response:
    return Response(status, [*headers, ("Content-Type", "text/plain; charset=utf-8")], f"{what}\n".encode())


def head_of(request: web.BaseRequest, origins: Origins) -> Head:
    """What aiohttp has parsed, as the core sees it."""
    url = request.rel_url
    peer = request.protocol.peername
    address, port = (peer[0], peer[1]) if isinstance(peer, tuple) else (None, None)
    head = Head(
        method=request.method,
        path=url.raw_path,
        headers=request.headers,
        peer=address,
        peer_port=port,
        scheme="https" if request.secure else "http",
        query=url.raw_query_string,
        client=address,
    )
    return replace(head, client=origins.client(head)) if origins.behind_proxy else head


def _recoded(head: Head) -> bool:
    """Whether the body has a transfer coding besides `chunked`, which nobody here undoes (RFC 9112 section 6.1)."""
    codings = head.headers.getall("Transfer-Encoding", [])
    return bool(codings) and ",".join(codings).strip(" \t").lower() != "chunked"


def _content_coded(head: Head) -> bool:
    """Whether aiohttp undoes the body's content coding before we see it, unless told not to: the offset would not count what was sent."""
    return head.headers.get("Content-Encoding") not in (None, "identity")
