"""What the log says of one request."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from time import monotonic

from ..errors import InternalError, ReadTimeout, ServerShutdown, TusError, UnexpectedEof, UploadInterrupted
from ..model import UploadId
from ..protocol.messages import Outcome, Request

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Entry:
    """One request while it is answered, and then its line. All of it may be shown, except for the path, whose end from `id_at` on is an
    upload's id (0: none is)."""

    __slots__ = (
        "_began",
        "code",
        "id_at",
        "id_given",
        "method",
        "outcome",
        "path",
        "peer",
        "received",
        "request_id",
        "seconds",
        "sent",
        "status",
        "upload",
    )

    def __init__(self, request_id: str, *, id_given: bool, began: float = 0.0) -> None:
        self._began = began or monotonic()
        self.request_id = request_id
        self.id_given = id_given
        """Whether the client chose it."""
        self.method = self.path = ""
        self.id_at = 0
        self.peer: str | None = None
        """The client's address; behind a trusted proxy the one that it forwards for."""
        self.status = 0
        """0: nothing was answered."""
        self.outcome = "ok"
        """ok, refused, failed, timeout, interrupted, shutdown, client-gone, cancelled."""
        self.code = ""
        """Of the error, such as ERR_UPLOAD_NOT_FOUND."""
        self.upload: UploadId | None = None
        self.received = self.sent = 0
        """Bytes of the bodies, as far as they came and were written."""
        self.seconds = 0.0

    def concerns(self, about: Request | Outcome) -> None:
        """Find the upload in what is asked or answered."""
        found = getattr(about, "upload_id", None)
        self.upload = found or (about.info.id if hasattr(about, "info") else self.upload)

    def fails(self, error: TusError) -> None:
        """This error is the answer."""
        self.code = error.code
        self.outcome = _outcome(error)
        if error.info is not None:
            self.upload = error.info.id

    def end(self) -> None:
        """Nothing more happens."""
        self.seconds = monotonic() - self._began


RequestLog = Callable[[Entry], None]
"""Takes the entry of each request when it has ended. Never blocks for long and never raises."""


class RequestIds:
    """Finds a request's id, or makes one."""

    def __init__(self) -> None:
        self._prefix = os.urandom(5).hex()
        self._numbers = count(1)

    def entry(self, given: str | None, began: float = 0.0) -> Entry:
        """The entry of a request with this `X-Request-ID` that began then (`time.monotonic`); 0: now."""
        if given and _VALID_ID.fullmatch(given):
            return Entry(given, id_given=True, began=began)
        return Entry(f"{self._prefix}{next(self._numbers):06x}", id_given=False, began=began)


def _outcome(error: TusError) -> str:
    match error:
        case UnexpectedEof():
            return "client-gone"
        case ReadTimeout():
            return "timeout"
        case UploadInterrupted():
            return "interrupted"
        case ServerShutdown():
            return "shutdown"
        case InternalError():
            return "failed"
        case _:
            return "refused"
