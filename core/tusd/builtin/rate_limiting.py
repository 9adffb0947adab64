"""How many requests may come, and how many bytes may pass, in a second: on the whole host, and of one client.

A token bucket is one number, the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371, kept in seconds of
the monotonic clock, which all processes of a host share). A request that has to wait for its token is refused; bytes wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tusd import plugin

from .client_key import By, ClientKey
from .shared_table import HOST, SharedTable

_ROWS = 16384
"""Clients that are remembered at once. When more are active, those whose buckets are the fullest are forgotten: they begin anew."""
_REQUESTS, _BYTES = 0, 1
"""The buckets of a row, of eight bytes each."""
_ROW = 2
_ROUNDING = 1e-6
"""Seconds by which sums of many intervals may be off."""


class RateLimiting:
    """Limit requests and bytes per second."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        """The block in `limiting:`."""

        requests: Annotated[int, Field(ge=1)] | None = None
        """Requests a second, of all clients together."""
        requests_per_client: Annotated[int, Field(ge=1)] | None = None
        """Requests a second, of one client."""
        burst: plugin.Duration = 5
        """How many seconds' worth of requests may come at once, after a pause that was as long."""
        bytes: Annotated[plugin.Size, Field(ge=1)] | None = None
        """Bytes a second of uploads and downloads, of all clients together."""
        bytes_per_client: Annotated[plugin.Size, Field(ge=1)] | None = None
        """Bytes a second of uploads and downloads, of one client."""
        bytes_burst: plugin.Duration = 0.25
        """How many seconds' worth of bytes may pass at once, after a pause that was as long."""
        client: By = "address"
        """What tells clients apart: `address`, `header NAME`, `metadata NAME` or `note NAME`."""

    def __init__(self, options: Options) -> None:
        """Raises `ValueError` when no limit is set."""
        if not (options.requests or options.requests_per_client or options.bytes or options.bytes_per_client):
            raise ValueError("it limits nothing; set requests, requests_per_client, bytes or bytes_per_client")
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self, worker: plugin.Worker) -> AsyncIterator[plugin.Limiter]:
        """Raises `OSError` when the worker's directory cannot hold the buckets."""
        limiter = RateLimiter(self.options, worker.directory)
        try:
            yield limiter
        finally:
            limiter.close()


class RateLimiter(plugin.Limiter):
    """The buckets, as one worker process sees them."""

    def __init__(self, options: RateLimiting.Options, directory: Path) -> None:
        self.options = options
        self.client = ClientKey(options.client)
        self.paces = options.bytes is not None or options.bytes_per_client is not None
        self.table = SharedTable(directory, rows=_ROWS, width=8 * _ROW)
        self._full = self.table.values.cast("d")
        """When each bucket will be full; a time that is over: it is."""

    def close(self) -> None:
        """Leave the table."""
        self.table.close()

    def admit(self, head: plugin.Head, request: plugin.Request) -> RateAllowance:
        return RateAllowance(self, head, request)

    def count_request(self, client: bytes | None, rate: int) -> None:
        """Take a token of one client's, or the host's, bucket for requests. Raises `TooManyRequests` and then has taken none."""
        interval, burst = 1 / rate, max(self.options.burst, 1 / rate)
        with self.table:
            place, now = self._place(client, _REQUESTS), time.monotonic()
            full = max(self._full[place], now) + interval
            early = full - burst - now
            if early > _ROUNDING:
                raise plugin.TooManyRequests(retry_after=early)
            self._full[place] = full

    def take_bytes(self, client: bytes | None, n: int, rate: int) -> float:
        """Take `n` tokens out of a bucket for bytes, also such as it has yet to get. Returns the seconds to wait for them."""
        with self.table:
            place, now = self._place(client, _BYTES), time.monotonic()
            self._full[place] = full = max(self._full[place], now) + n / rate
        return full - self.options.bytes_burst - now

    def give_back(self, client: bytes | None, seconds: float, bucket: int) -> None:
        """Put tokens back that nobody used: so many seconds' worth. One who was forgotten meanwhile has them already."""
        with self.table:
            row = HOST if client is None else self.table.find(client)
            if row is not None:
                self._full[row * _ROW + bucket] -= seconds

    def _place(self, client: bytes | None, bucket: int) -> int:
        row = HOST if client is None else self.table.find_or_take(client, self._fullest)
        assert row is not None
        return row * _ROW + bucket

    def _fullest(self, rows: range) -> int:
        """The row that is the least loss."""
        return min(rows, key=lambda row: max(self._full[row * _ROW : (row + 1) * _ROW]))


class RateAllowance:
    """One request, and its body. Answers to OPTIONS are free: they cost no more than a refusal, and pages in browsers cannot see that one
    was refused."""

    __slots__ = ("_client", "_free", "_head", "_limiter")

    def __init__(self, limiter: RateLimiter, head: plugin.Head, request: plugin.Request) -> None:
        self._limiter = limiter
        self._head = head
        self._free = isinstance(request, plugin.Discover)
        self._client: bytes | None = None

    async def __aenter__(self) -> RateAllowance:
        options = self._limiter.options
        if self._free:
            return self
        if not self._limiter.client.needs_upload:
            self._count_client(self._limiter.client.of(self._head))
        if options.requests is not None:
            try:
                self._limiter.count_request(None, options.requests)
            except plugin.TooManyRequests:
                if self._client is not None and options.requests_per_client is not None:
                    self._limiter.give_back(self._client, 1 / options.requests_per_client, _REQUESTS)
                raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        """What has passed has passed."""

    async def bind(self, info: plugin.UploadInfo) -> None:
        options = self._limiter.options
        if self._limiter.client.needs_upload and not self._free:
            try:
                self._count_client(self._limiter.client.of(self._head, info))
            except plugin.TooManyRequests:
                if options.requests is not None:
                    self._limiter.give_back(None, 1 / options.requests, _REQUESTS)
                raise

    async def spend(self, n: int) -> None:
        options, limiter = self._limiter.options, self._limiter
        taken: list[tuple[bytes | None, float]] = []
        try:
            # One after the other: a client that waits for its own bytes takes none of those of the host.
            for client, rate in ((self._client, options.bytes_per_client), (None, options.bytes)):
                if rate is not None:
                    delay = limiter.take_bytes(client, n, rate)
                    taken.append((client, n / rate))
                    if delay > 0:
                        await asyncio.sleep(delay)
        except BaseException:
            for client, seconds in taken:
                limiter.give_back(client, seconds, _BYTES)
            raise

    def _count_client(self, name: str) -> None:
        """From now on it is known whose request it is. Raises `TooManyRequests`."""
        options = self._limiter.options
        if options.requests_per_client is None and options.bytes_per_client is None:
            return
        self._client = self._limiter.table.key(name)
        if options.requests_per_client is not None:
            self._limiter.count_request(self._client, options.requests_per_client)
