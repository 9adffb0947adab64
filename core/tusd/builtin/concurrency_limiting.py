"""How many requests, and how many uploads, run at once: on the whole host, and of one client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tusd import plugin

from .client_key import By, ClientKey
from .shared_table import HOST, SEATS, SharedTable

_ROWS = 8192
"""Clients that are counted at once. Further ones count for the host only."""
_ROW = 2 * SEATS
"""Counts in a row: the requests of each seat, then the uploads of each. A count has two bytes."""
_EMPTY = bytes(2 * _ROW)
_MOST = 0xFFFF
_RETRY_AFTER = 1.0
"""Seconds. Nobody knows when a request will end; asking once a second costs little."""
_LOOK = 1.0
"""Seconds between looks for processes that are gone, while requests are refused."""

Count = Annotated[int, Field(ge=1, le=_MOST)]


class ConcurrencyLimiting:
    """Limit how many requests and uploads run at once."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        """The block in `limiting:`."""

        requests: Count | None = None
        """Requests at once, of all clients together."""
        requests_per_client: Count | None = None
        """Requests at once, of one client."""
        uploads: Count | None = None
        """Requests that send bytes of an upload at once, of all clients together."""
        uploads_per_client: Count | None = None
        """Requests that send bytes of an upload at once, of one client."""
        client: By = "address"
        """What tells clients apart: `address`, `header NAME`, `metadata NAME` or `note NAME`."""

    def __init__(self, options: Options) -> None:
        """Raises `ValueError` when no limit is set."""
        if not (options.requests or options.requests_per_client or options.uploads or options.uploads_per_client):
            raise ValueError("it limits nothing; set requests, requests_per_client, uploads or uploads_per_client")
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self, worker: plugin.Worker) -> AsyncIterator[plugin.Limiter]:
        """Raises `OSError` when the worker's directory cannot hold the counts."""
        limiter = ConcurrencyLimiter(self.options, worker.directory)
        try:
            yield limiter
        finally:
            limiter.close()


class ConcurrencyLimiter(plugin.Limiter):
    """Counts what runs. Each process counts in a column of its own, which is cleared when the process is gone."""

    def __init__(self, options: ConcurrencyLimiting.Options, directory: Path) -> None:
        self.client = ClientKey(options.client)
        self.of_host = (options.requests, options.uploads)
        self.of_client = (options.requests_per_client, options.uploads_per_client)
        self.table = SharedTable(directory, rows=_ROWS, width=2 * _ROW)
        self._counts = self.table.values.cast("H")
        self._looked = time.monotonic()
        with self.table:
            self._clear(self.table.seat, *self.table.vacant())

    def close(self) -> None:
        """Leave the table."""
        self.table.close()

    def admit(self, head: plugin.Head, request: plugin.Request) -> Admission:
        return Admission(self, head, request)

    def take(self, client: str | None, limits: tuple[int | None, int | None], *, upload: bool) -> list[int]:
        """Count a request of one client, or of the host. Returns where it counts; raises `TooManyRequests` and then has counted nothing."""
        kinds = [(0, limits[0]), (SEATS, limits[1] if upload else None)]
        found = []
        with self.table:
            row = HOST if client is None else self.table.find_or_take(self.table.key(client), self._spare)
            if row is None:
                return []
            for kind, limit in kinds:
                if limit is not None:
                    first = row * _ROW + kind
                    if self._sum(first) >= limit and (not self._look() or self._sum(first) >= limit):
                        raise plugin.TooManyRequests(retry_after=_RETRY_AFTER)
                    found.append(first + self.table.seat)
            for place in found:
                self._counts[place] += 1
        return found

    def give_back(self, places: list[int]) -> None:
        """A request has ended. Nobody else writes in these places."""
        for place in places:
            self._counts[place] -= 1

    def _sum(self, first: int) -> int:
        return sum(self._counts[first : first + self.table.seats])

    def _spare(self, rows: range) -> int | None:
        """A row in which nothing is counted."""
        return next((row for row in rows if bytes(self._counts[row * _ROW : (row + 1) * _ROW]) == _EMPTY), None)

    def _look(self) -> bool:
        """Clear what processes that are gone have counted, if nobody has looked just now. Whether there were any."""
        now = time.monotonic()
        if now < self._looked + _LOOK:
            return False
        self._looked = now
        vacant = self.table.vacant()
        self._clear(*vacant)
        return bool(vacant)

    def _clear(self, *seats: int) -> None:
        for seat in seats:
            column = self._counts[seat::SEATS]
            column[:] = memoryview(bytes(2 * len(column))).cast("H")


class Admission(plugin.FreeAllowance):
    """One request. Answers to OPTIONS are free: they cost no more than a refusal, and pages in browsers cannot see that one was refused."""

    __slots__ = ("_head", "_limiter", "_places", "_request")

    def __init__(self, limiter: ConcurrencyLimiter, head: plugin.Head, request: plugin.Request) -> None:
        self._limiter = limiter
        self._head = head
        self._request = request
        self._places: list[int] = []

    async def __aenter__(self) -> Admission:
        if not isinstance(self._request, plugin.Discover):
            self._take(None, self._limiter.of_host)
            if not self._limiter.client.needs_upload:
                try:
                    self._take(self._limiter.client.of(self._head), self._limiter.of_client)
                except BaseException:
                    self._limiter.give_back(self._places)
                    raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._limiter.give_back(self._places)

    async def bind(self, info: plugin.UploadInfo) -> None:
        if self._limiter.client.needs_upload:
            self._take(self._limiter.client.of(self._head, info), self._limiter.of_client)

    def _take(self, client: str | None, limits: tuple[int | None, int | None]) -> None:
        if limits != (None, None):
            self._places += self._limiter.take(client, limits, upload=_sends_bytes(self._request))


def _sends_bytes(request: plugin.Request) -> bool:
    """Whether it has a body that is not known to be empty."""
    return isinstance(request, plugin.Append | plugin.Create) and request.body is not None and request.body.size != 0
