"""An HTTP proxy between a store and its server, which does what a test tells it to do with chosen requests.

    with FaultProxy(bucket.server.endpoint) as proxy:
        store = open_store(endpoint=proxy.endpoint)
        proxy.add(SLOW_DOWN, "UploadPart", times=2)
        late = proxy.add(Hold(), "UploadPart", part=2)
        ...
        late.wait()         # until it is held
        late.release()
        assert [seen.status for seen in proxy.seen("UploadPart")] == [503, 503, 200, 200]

What no rule concerns passes unchanged, byte for byte, so signatures stay valid: sign for the proxy's address. A test with an event
loop of its own uses it as well, since the proxy has a thread; what waits here belongs into `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from tests.services.fault_relay import Relay
from tests.services.fault_rules import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY_REQUESTS,
    Answer,
    CutAnswer,
    CutRequest,
    Delay,
    Drop,
    Fault,
    HideNewer,
    Hold,
    LoseAnswer,
    Repeat,
    Request,
    Rule,
    Rules,
    Seen,
    json_error,
    s3_error,
)
from tests.services.s3_requests import Names, s3_request

__all__ = [
    "INTERNAL_ERROR",
    "SLOW_DOWN",
    "TOO_MANY_REQUESTS",
    "Answer",
    "CutAnswer",
    "CutRequest",
    "Delay",
    "Drop",
    "Fault",
    "FaultProxy",
    "HideNewer",
    "Hold",
    "LoseAnswer",
    "Repeat",
    "Request",
    "Rule",
    "Seen",
    "json_error",
    "s3_error",
]


def lists(request: Request) -> bool:
    """Whether it is one of S3's listings."""
    return request.operation.startswith("List")


class FaultProxy:
    """Listens on a free port of 127.0.0.1, in a thread, while the context is entered.

    At the end what is held is dropped, and an error of the proxy itself is raised.
    """

    def __init__(self, upstream: str, *, names: Names = s3_request, remember: Callable[[Request], bool] = lists) -> None:
        """Before the server at `upstream`, `http://HOST:PORT`.

        `names` says what a request is by its method, path, query and headers; `remember` which answers Repeat may need.
        """
        self._rules = Rules()
        self._relay = Relay(upstream, self._rules, names, remember)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._relay.serve()), name="fault proxy", daemon=True)

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`, once the context is entered."""
        return f"http://127.0.0.1:{self._relay.port}"

    def add(
        self,
        fault: Fault,
        match: str | Callable[[Request], bool] | None = None,
        *,
        key: str = "*",
        part: int | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Rule:
        """Apply `fault` to requests that match: S3's name of an operation, or what a predicate says, or any; of these the ones with
        this key (a pattern as `*.info`) and this part's number.

        The first `skip` that match pass, the next `times` (None: all) have the fault. Where several rules match, the one that was
        added first counts, and the others do not count the request.
        """

        def matches(request: Request) -> bool:
            if part not in (None, request.part) or not fnmatchcase(request.key, key):
                return False
            return match(request) if callable(match) else match in (None, request.operation)

        rule = Rule(fault, matches, skip, times)
        self._rules.add(rule)
        return rule

    def seen(self, operation: str | None = None) -> list[Seen]:
        """All requests so far, or those for one operation, in the order in which they came."""
        return [seen for seen in self._rules.seen() if operation in (None, seen.operation)]

    def clear(self) -> None:
        """Forget all rules and requests, and release what is held."""
        self._rules.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        self._relay.listening.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._relay.end()
        self._thread.join()
        if self._relay.errors:
            raise ExceptionGroup("the proxy failed", self._relay.errors)
