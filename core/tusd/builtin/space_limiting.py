"""How much room uploads may take in all, or those of one user."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from tusd import plugin
from tusd.plugin import Allowance, Head, Metric, Request, UploadInfo

from .ledger import Ledger, is_busy

T = TypeVar("T")

USED = Metric("tusd_space_used_bytes", "gauge", "Bytes that uploads take or have reserved, by limiter", ("limiter",))
TOTAL = Metric("tusd_space_total_bytes", "gauge", "Bytes that uploads may take, by limiter", ("limiter",))

_RETRY = 0.001
_PATIENCE = 5.0
"""Seconds to try again while other processes write; each write takes a fraction of a millisecond."""
_SETTLING = 1.0
"""Seconds from the beginning of a count to its listing: uploads whose room was reserved before the beginning are in the store then."""
_AT_WORK = timedelta(minutes=10)
"""After the last byte of an upload of unknown length; until then a request may go on that has reserved more than is stored."""
_BATCH = 100
"""Uploads that are counted in one go; a millisecond or two."""
_REPORT = 5.0
"""Seconds between two looks at how much is used, for metrics."""


def _checked(by: str) -> str:
    if not re.fullmatch(r"(header|metadata|note) \S+", by):
        raise ValueError("does not say whose an upload is; write header NAME, metadata NAME or note NAME")
    return by


def _note(header: str) -> str:
    return f"header {header.lower()}"


Room = Annotated[plugin.Size, Field(gt=0)]


class SpaceLimiting:
    """Limit how many bytes uploads may take in all, or those of each user."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        """The block in `limiting:`."""

        total: Room
        """The most bytes that all uploads may take together; with `by`, those of one key."""
        by: Annotated[str, AfterValidator(_checked)] | None = None
        """`header NAME`, `metadata NAME` or `note NAME`: uploads count by what stands there, each key for itself. Not set: all uploads count together."""
        totals: dict[str, Room] = {}  # noqa: RUF012 (pydantic copies it)
        """With `by`: keys that have another total."""
        when_full: Literal["reject", "evict"] = "reject"
        """What happens to an upload for which there is no room: it is refused, or others are removed for it."""
        evict: Literal["oldest", "largest", "least-recently-touched"] = "oldest"
        """With `when_full: evict`, what goes first."""
        evict_finished: bool = False
        """With `when_full: evict`, finished uploads may go, too."""
        evict_idle: plugin.Duration = 60
        """With `when_full: evict`, for how long no byte has come of an unfinished upload before it may go."""

        @model_validator(mode="after")
        def _fits_together(self) -> Self:
            if self.totals and self.by is None:
                raise ValueError("totals are those of keys; set by, too")
            if self.when_full == "evict" and self.by is not None:
                raise ValueError("when_full: evict is for all uploads together; leave out by, or give it an entry of its own")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self, worker: plugin.Worker) -> AsyncIterator[plugin.Limiter]:
        """Open the ledger of this host. Raises `OSError`."""
        ledger = await asyncio.to_thread(Ledger, worker.directory / "uploads.sqlite")
        limiter = SpaceLimiter(self.options, ledger, worker.logger)
        reporting = asyncio.create_task(limiter.report(worker), name="report space")
        try:
            yield limiter
        finally:
            reporting.cancel()
            await asyncio.wait({reporting})
            ledger.close()


class SpaceLimiter(plugin.Limiter):
    """Refuses what does not fit. What is stored already is never refused, nor is less than before."""

    def __init__(self, options: SpaceLimiting.Options, ledger: Ledger, logger: logging.Logger) -> None:
        self._options = options
        self._ledger = ledger
        self._logger = logger
        self._kind, _, self._name = (options.by or "").partition(" ")
        self._eviction = (
            plugin.Eviction(order=options.evict, finished=options.evict_finished, idle=options.evict_idle)
            if options.when_full == "evict"
            else None
        )

    def admit(self, head: Head, request: Request) -> AbstractAsyncContextManager[Allowance]:
        """Requests cost nothing."""
        return nullcontext(plugin.FreeAllowance())

    def remember(self, head: Head) -> Mapping[str, str]:
        """The header that says whose the upload is: nobody could tell later."""
        if self._kind != "header":
            return {}
        return {_note(self._name): (head.headers.get(self._name) or "").encode("utf-8", "replace").decode()}

    async def reserve(self, info: UploadInfo, total: int) -> None:
        key = self._key(info)
        limit = self._options.totals.get(key, self._options.total)
        stored = total <= info.offset
        missing = await self._do(partial(self._ledger.hold, info.id, key, total, None if stored else limit))
        if missing:
            raise plugin.QuotaExceeded(short_by=missing, evict=self._eviction if total <= limit else None)

    async def recount(self, uploads: AsyncIterator[UploadInfo]) -> None:
        number = await self._do(self._ledger.begin)
        await asyncio.sleep(_SETTLING)
        batches: dict[bool, list[tuple[str, str, int]]] = {True: [], False: []}
        count = 0
        async for info in uploads:
            growing = info.length is None and datetime.now(UTC) - info.modified < _AT_WORK
            batches[growing].append((info.id, self._key(info), info.room))
            count += 1
            if len(batches[growing]) == _BATCH:
                await self._do(partial(self._ledger.found, number, batches[growing], growing=growing))
                batches[growing] = []
                await asyncio.sleep(0)
        for growing, batch in batches.items():
            await self._do(partial(self._ledger.found, number, batch, growing=growing))
        await self._do(partial(self._ledger.end, number))
        after: str | None = ""
        while after is not None:
            after = await self._do(partial(self._ledger.forget, number, after, _BATCH))
            await asyncio.sleep(0)
        self._logger.info("uploads counted: %d, their bytes: %d", count, await self._do(self._ledger.used))

    async def report(self, worker: plugin.Worker) -> None:
        """Set the metrics from time to time, until cancelled. One worker of the host does, because gauges of several are added up."""
        while True:
            if self._ledger.speaks():
                await self._report(worker)
            await asyncio.sleep(_REPORT)

    async def _report(self, worker: plugin.Worker) -> None:
        try:
            worker.metrics.set(USED, await self._do(self._ledger.used), (worker.plugin,))
        except plugin.StorageUnavailable:
            return  # logged
        if self._options.by is None:
            worker.metrics.set(TOTAL, self._options.total, (worker.plugin,))

    def _key(self, info: UploadInfo) -> str:
        """What the upload counts for; uploads without it share the empty one."""
        match self._kind:
            case "metadata":
                return info.metadata.get(self._name, b"").decode("utf-8", "replace")
            case "header":
                return info.notes.get(_note(self._name), "")
            case "note":
                return info.notes.get(self._name, "").encode("utf-8", "replace").decode()
        return ""

    async def _do(self, change: Callable[[], T]) -> T:
        """Try until no other process is in the way. Raises `StorageUnavailable`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while True:
            try:
                return change()
            except sqlite3.Error as error:
                if not is_busy(error) or loop.time() > deadline:
                    self._logger.error("cannot count how much room uploads take: %s", error)
                    raise plugin.StorageUnavailable() from error
            await asyncio.sleep(_RETRY)
