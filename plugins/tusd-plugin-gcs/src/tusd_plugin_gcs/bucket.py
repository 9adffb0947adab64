"""The bucket: every request that a store makes, as an asynchronous method. They block threads, never the event loop.

A condition goes with every write, so that one which is tried again, because its answer was lost, does nothing twice: it meets what it
has written itself, and knows it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from tusd import plugin
from tusd.plugin import Blocks, in_thread

from . import checksum
from .cloud import Cloud, Data, Download, Failure, Query, Related, Reply, crc32c, object_path
from .figures import REQUEST_DURATION, REQUEST_ERRORS, RETRIES

T = TypeVar("T")

SMALL_THREADS = 16
"""For all requests without bodies of clients, so that none of them waits behind such a body."""
COMPOSE_LIMIT = 32
"""https://cloud.google.com/storage/quotas#objects"""
_BATCH = 100
"""https://cloud.google.com/storage/docs/batch#overview"""
_ONE_BY_ONE = 3
"""So few objects are deleted side by side, not by a batch."""
_READ_AGAIN = 3
"""How often a download that breaks off is begun anew where it broke, without a byte in between."""
_NO_BUCKET = re.compile(r"(the specified )?bucket [^/]*does not exist", re.IGNORECASE)
"""What is said where not the object is missing, but the bucket."""
_TOKEN = "tusd-piece"
"""In an object's metadata: which request has made it."""


class Missing(Exception):
    """No such object."""


class Changed(Exception):
    """The object is not the one that the request was meant for, or is there already."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object's bytes."""

    data: bytes
    generation: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object."""

    name: str
    size: int
    crc: int
    """Its CRC32C."""
    generation: int
    updated: datetime
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """An object that is a part of another."""

    name: str
    size: int
    crc: int
    generation: int | None = None
    """None: an object of this name is never replaced."""


class Settings(Protocol):
    """What of the options is asked for here."""

    @property
    def bucket(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def acl(self) -> str | None: ...
    @property
    def kms_key(self) -> str | None: ...
    @property
    def storage_class(self) -> str | None: ...
    @property
    def read_timeout(self) -> float: ...


class Bucket:
    """The bucket of one worker. What cannot be done raises `StorageUnavailable` and is logged once."""

    def __init__(self, cloud: Cloud, settings: Settings, worker: plugin.Worker) -> None:
        self.name = settings.bucket
        self._cloud = cloud
        self._settings = settings
        self._metrics = worker.metrics
        self._logger: logging.Logger = worker.logger
        self._bodies = ThreadPoolExecutor(settings.concurrency, "gcs-body")
        self._others = ThreadPoolExecutor(SMALL_THREADS, "gcs")
        self._reads = ThreadPoolExecutor(SMALL_THREADS, "gcs-read")

    def close(self) -> None:
        """Let the threads end. Nothing is under way any more."""
        self._bodies.shutdown(wait=False)
        self._others.shutdown(wait=False)
        self._reads.shutdown(wait=False)

    async def get(self, name: str, operation: str = "get_object") -> Found:
        """A small object. Raises `Missing`."""
        path = f"/download{object_path(self.name, name)}"
        reply = await self._request(operation, name, "GET", path, {"alt": "media"})
        try:
            generation = int(reply.headers["X-Goog-Generation"])
            return Found(reply.data, generation, _written(reply.headers.get("Last-Modified"), generation))
        except (KeyError, ValueError, OverflowError, OSError) as error:
            raise self._unusable(operation, name, error) from error

    async def stat(self, name: str, operation: str = "stat_object") -> Stat:
        """What is known of an object. Raises `Missing`."""
        reply = await self._request(operation, name, "GET", object_path(self.name, name), {"projection": "noAcl"})
        return self._stat(operation, name, reply)

    async def insert(
        self,
        name: str,
        data: Data,
        *,
        match: int,
        about: Mapping[str, Any] | None = None,
        crc: int | None = None,
        final: bool = False,
        operation: str,
    ) -> Stat:
        """Write an object in the place of generation `match`, 0: where none is. `crc`: its CRC32C, if that is known already; Cloud Storage
        compares it. `final`: it is what clients have uploaded. Raises `Changed`."""
        token = secrets.token_hex(8)

        def send(tried: Callable[[], None]) -> Reply:
            known = crc32c(data) if crc is None else crc
            size = len(data) if isinstance(data, bytes | bytearray | Blocks) else os.fstat(data.fileno()).st_size
            described = dict(about or {})
            described["metadata"] = {**described.get("metadata", {}), _TOKEN: token}
            described |= {"name": name, "crc32c": checksum.encoded(known)}
            if self._settings.storage_class:
                described["storageClass"] = self._settings.storage_class
            path = f"/upload{object_path(self.name, '').removesuffix('/')}"
            query: Query = {"uploadType": "multipart", "ifGenerationMatch": match, **self._keys(final=final, composing=False)}
            return self._cloud.request("POST", path, query, body=Related(described, data, size), tried=tried)

        pool = self._others if isinstance(data, bytes) else self._bodies
        try:
            return self._stat(operation, name, await self._do(operation, name, send, pool, of_bucket=True))
        except Changed:
            return await self._own(name, lambda stat: stat.metadata.get(_TOKEN) == token)

    async def crc32c(self, data: Data) -> int:
        """The CRC32C of a body, which may take a while."""
        return await in_thread(partial(crc32c, data), self._bodies)

    async def compose(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        match: int | None,
        about: Mapping[str, Any] | None = None,
        final: bool = False,
    ) -> Stat:
        """Put up to `COMPOSE_LIMIT` objects together. `match` as for `insert`; None: in the place of whatever is there.

        Raises `Missing` when a source is not there, `Changed`. The CRC32C is the caller's to compare."""
        token = secrets.token_hex(8)
        described = dict(about or {})
        described["metadata"] = {**described.get("metadata", {}), _TOKEN: token}
        body = {"sourceObjects": [_as_source(source) for source in sources], "destination": described}
        query: dict[str, str | int | list[str]] = dict(self._keys(final=final, composing=True))
        if match is not None:
            query["ifGenerationMatch"] = match
        path = f"{object_path(self.name, name)}/compose"
        try:
            reply = await self._request("compose", name, "POST", path, query, body)
            return self._stat("compose", name, reply)
        except Changed:
            return await self._own(name, lambda stat: stat.metadata.get(_TOKEN) == token)

    async def remove(self, name: str, generation: int, operation: str = "delete_object") -> None:
        """Delete one object, of this generation. What is not there is no error. Raises `Changed`."""
        try:
            await self._request(operation, name, "DELETE", object_path(self.name, name), {"ifGenerationMatch": generation})
        except Missing:
            return

    async def delete(self, *names: str) -> None:
        """Delete objects whose names are never used again. What is not there is no error."""

        async def one(name: str) -> None:
            try:
                await self._request("delete_object", name, "DELETE", object_path(self.name, name), {})
            except Missing:
                return

        if len(names) <= _ONE_BY_ONE:
            await all_of([partial(one, name) for name in names])
            return
        for start in range(0, len(names), _BATCH):
            await self._delete_batch(list(names[start : start + _BATCH]))

    async def _delete_batch(self, names: list[str]) -> None:
        def send(_: Callable[[], None]) -> Iterable[str]:
            try:
                return self._cloud.delete_all(self.name, names)
            except Failure as error:
                if error.status in (404, 405, 501):  # not every server has batches
                    return names
                raise

        left = await self._do("delete_batch", names[0], send, self._others)
        await all_of([partial(self.delete, name) for name in left])  # tells why, or succeeds now

    async def listed(self, prefix: str, suffix: str = "", operation: str = "list_objects") -> AsyncIterator[Stat]:
        """The objects whose names begin with `prefix` and end in `suffix`."""
        fields = "nextPageToken,items(name,size,crc32c,generation,updated)"
        query: dict[str, str | int | list[str]] = {"prefix": prefix, "fields": fields, "maxResults": 1000}
        while True:
            reply = await self._request(
                operation, prefix, "GET", object_path(self.name, "").removesuffix("/"), query, of_bucket=True
            )
            try:
                page = reply.json()
                found = [_stat_of(item) for item in page.get("items", ())]
            except (Failure, KeyError, ValueError, TypeError) as error:
                raise self._unusable(operation, prefix, error) from error
            for stat in found:
                if stat.name.endswith(suffix):
                    yield stat
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = str(page["nextPageToken"])

    async def stream(self, name: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes of an object, which is not replaced meanwhile. Begun again where a connection breaks. Raises `Missing` before the first byte."""
        position, failures, generation = start, 0, None
        while position < stop:
            download = await self._begin(name, position, stop, generation)
            generation = generation or download.headers.get("X-Goog-Generation")
            try:
                while position < stop:
                    piece = await in_thread(download.read, self._reads)
                    if not piece:
                        raise Failure(None, "the download broke off", passing=True)
                    piece = piece[: stop - position]
                    position, failures = position + len(piece), 0
                    yield piece
            except Failure as error:
                failures += 1
                if failures > _READ_AGAIN:
                    raise self._failed("get_object_data", name, error) from error
            finally:
                download.close()

    async def _begin(self, name: str, start: int, stop: int, generation: str | None) -> Download:
        path = f"/download{object_path(self.name, name)}"
        query = {"alt": "media", **({"ifGenerationMatch": generation} if generation else {})}
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        begun: list[Download] = []

        def begin(tried: Callable[[], None]) -> Download:
            begun.append(self._cloud.download(path, query, headers, tried))
            return begun[0]

        try:
            return await self._do("get_object_data", name, begin, self._reads)
        except Changed:
            raise Missing(name) from None
        except asyncio.CancelledError:
            for download in begun:
                download.close()
            raise

    def _keys(self, *, final: bool, composing: bool) -> dict[str, str]:
        keys = {"kmsKeyName": self._settings.kms_key} if self._settings.kms_key else {}
        if final and self._settings.acl:
            keys["destinationPredefinedAcl" if composing else "predefinedAcl"] = self._settings.acl
        return keys

    async def _own(self, name: str, ours: Callable[[Stat], bool]) -> Stat:
        """What is there instead, if it is of the request that was refused: its answer was lost. Raises `Changed`."""
        try:
            stat = await self.stat(name)
        except Missing:
            raise Changed(name) from None
        if not ours(stat):
            raise Changed(name)
        return stat

    async def _request(
        self,
        operation: str,
        name: str,
        method: str,
        path: str,
        query: Query,
        body: Mapping[str, Any] | None = None,
        *,
        of_bucket: bool = False,
    ) -> Reply:
        def send(tried: Callable[[], None]) -> Reply:
            return self._cloud.request(method, path, query, body=body, tried=tried)

        return await self._do(operation, name, send, self._others, of_bucket=of_bucket)

    async def _do(
        self,
        operation: str,
        name: str,
        work: Callable[[Callable[[], None]], T],
        pool: ThreadPoolExecutor,
        *,
        of_bucket: bool = False,
    ) -> T:
        """Do it in a thread, count it, and say in our words what went wrong. `of_bucket`: what is not found can only be the bucket."""
        retries: list[int] = []
        began = monotonic()

        def begun() -> T:
            # So long only when the server has stopped to answer. Else each would wait for all those before it.
            if pool is not self._bodies and monotonic() - began > self._settings.read_timeout:
                raise Failure(None, "it was not sent: those before it wait for answers for too long")
            return work(lambda: retries.append(1))

        try:
            return await in_thread(begun, pool)
        except Failure as error:
            raise self._failed(operation, name, error, of_bucket=of_bucket) from error
        finally:
            self._metrics.observe(REQUEST_DURATION, (monotonic() - began) * 1000, (operation,))
            if retries:
                self._metrics.add(RETRIES, len(retries), (operation,))

    def _failed(self, operation: str, name: str, error: Failure, *, of_bucket: bool = False) -> Exception:
        """What to raise; what is no answer to a question that was asked is logged."""
        if error.status == 404 and not of_bucket and not _NO_BUCKET.match(str(error)):
            return Missing(name)
        if error.status in (304, 412):
            return Changed(name)
        self._metrics.add(REQUEST_ERRORS, 1, (operation, error.code))
        status = "no answer" if error.status is None else f"status {error.status}"
        self._logger.error("%s of %s failed with %s: %s", operation, shortened(name), status, without(str(error), name))
        return plugin.StorageUnavailable()

    def _unusable(self, operation: str, name: str, error: Exception) -> plugin.StorageUnavailable:
        self._logger.error("%s of %s: the answer makes no sense: %s", operation, shortened(name), error)
        return plugin.StorageUnavailable()

    def _stat(self, operation: str, name: str, reply: Reply) -> Stat:
        try:
            return _stat_of(reply.json())
        except (Failure, KeyError, ValueError, TypeError) as error:
            raise self._unusable(operation, name, error) from error


async def all_of(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do works side by side; all have ended when this returns or raises what the first of them did."""
    results = await asyncio.gather(*(work() for work in works), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def shortened(name: str) -> str:
    """A name for the log, which must not have the whole of an id."""
    return "/".join(f"{part[:8]}…" if len(part) > 8 else part for part in name.split("/"))


def without(text: str, name: str) -> str:
    """A text for the log with the name shortened wherever it stands."""
    for written in filter(None, (name, quote(name, safe=""))):  # the second: in an address
        text = text.replace(written, shortened(name))
    return text


def _as_source(source: Source) -> dict[str, Any]:
    if source.generation is None:
        return {"name": source.name}
    return {"name": source.name, "objectPreconditions": {"ifGenerationMatch": str(source.generation)}}


def _written(last_modified: str | None, generation: int) -> datetime:
    """When an object was written. Where nobody says it: generations are microseconds since 1970."""
    return parsedate_to_datetime(last_modified) if last_modified else datetime.fromtimestamp(generation / 1e6, UTC)


def _stat_of(item: Mapping[str, Any]) -> Stat:
    updated = datetime.fromisoformat(str(item["updated"]))
    metadata = item.get("metadata") or {}
    crc = checksum.decoded(str(item["crc32c"]))
    return Stat(str(item["name"]), int(item.get("size", 0)), crc, int(item["generation"]), updated, metadata)
