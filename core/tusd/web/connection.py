"""aiohttp's side of one connection, with what it leaves out: malformed requests are answered as all others are, and one that is
found to be malformed in the middle of its body ends that body at once. The underscored names are aiohttp's own;
there are no public ones for what its parser found and its tasks do."""

from __future__ import annotations

import logging

from aiohttp import web

from ..errors import InternalError, InvalidRequest, TusError
from ..protocol.messages import Response
from ..protocol.tus1 import VERSION
from .reply import ClientGone, last

logger = logging.getLogger("tusd.web")


class Malformed(TimeoutError):
    """Put into a body that the parser gave up; aiohttp takes a time-out as a reason to close the connection quietly."""


class Connection(web.RequestHandler):
    """One connection."""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or what is left of its body thrown away."""
        return self._waiter is None and self._task_handler is not None and not self._task_handler.done()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp's streams call this after every piece that is read; there is something to resume only after a pause."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        """Parse. When the parser fails within a body, it says so in a message of its own and leaves the body waiting for ever:
        behind a body that has not ended there can be no other message."""
        super().data_received(data)
        if not self._messages:
            return
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(Malformed())

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that cannot be parsed. Clients send such things all the time: that is no error of ours."""
        if isinstance(exc, ClientGone):
            raise exc  # aiohttp ends the connection then, and says nothing
        error: TusError
        if status == 400:
            what = (message or "").strip().partition("\n")[0].rstrip(":")
            logger.info("malformed request: %s", what)
            error = InvalidRequest(f"the request is malformed: {what}")
        else:
            super().handle_error(request, status, exc, message)  # it logs, and raises when an answer has begun
            error = InternalError()
        headers = [("Tus-Resumable", VERSION), ("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
        return last(Response(status, headers, f"{error.code}: {error}\n".encode("utf-8", "replace")))


class Server(web.Server):
    """Makes connections."""

    def open_connections(self) -> list[Connection]:
        """Those that are open now."""
        return [connection for connection in self.connections if isinstance(connection, Connection)]

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)
