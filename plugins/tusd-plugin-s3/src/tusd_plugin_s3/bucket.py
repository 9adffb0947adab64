"""Every request to the S3 server, as a typed call that does not block the event loop. The one file that uses the SDK's client.

Small requests to single objects are tried by `quick` first. All others, and what it cannot do, run in threads: those with bodies in as many as
`concurrency`, downloads in others, and small requests in others again, so that a HEAD never waits behind parts. The SDK retries what may be
retried. What its errors say is logged here, once, and goes no further.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from botocore.exceptions import ClientError

from tusd import plugin

from . import figures
from .answers import Changed, Conflict, Found, Gone, Listed, Missing, Part, Stat, changed, gone, gone_or_missing, missing
from .calling import BROKEN, Calling, Means
from .headers import MARK, encrypted
from .options import Options
from .quick import Answer, Quick, Request, Tried, headers_of
from .reasons import status_of

if TYPE_CHECKING:  # the stubs are no dependency
    from mypy_boto3_s3 import S3Client

__all__ = ["Bucket", "Changed", "Data", "Found", "Gone", "Listed", "Missing", "Part", "Parts", "Stat"]

T = TypeVar("T")
Data = bytes | bytearray | plugin.Blocks | BinaryIO
Parts = list[Part]  # inside the class `list` is a method

_CHUNK = 1 << 20
"""Bytes of a download that are read at once; and from which on a body is not small."""
_CONFLICTS = 3
"""How often a write is tried again that another one at the same moment got in the way of."""


class Bucket:
    """One bucket, for one worker. ETags are without quotes.

    All methods raise `StorageUnavailable` when the server cannot be reached or refuses, and `StorageFull` when it has no room, beside
    what they say themselves. A caller that is cancelled waits for its request to end."""

    def __init__(self, client: S3Client, options: Options, metrics: plugin.Metrics, logger: logging.Logger) -> None:
        self.conditional = options.conditional_writes == "on"
        """Writes with conditions work; without, `match` and `absent` are left out."""
        self.quoted = options.profile_name != "ceph"
        """If-Match takes an ETag in quotes, as it should."""
        self.quick: Quick | None = None
        """Asks for small things without the SDK."""
        self.client = client
        self.name = options.bucket
        self._options = options
        self._always = encrypted(options)
        self.calling = Calling(options, metrics, logger)
        client.meta.events.register("before-send.s3", self.calling.count)

    async def close(self) -> None:
        """Wait for the requests that are on their way."""

        if self.quick is not None:
            await self.quick.close()
        await plugin.in_thread(self.calling.close)
        await plugin.in_thread(self.client.close)

    # --- objects

    async def get(self, key: str, operation: str = "get_object") -> Found:
        """A small object, whole. Raises `Missing`."""
        quick = Request("GET", key), lambda answer: (answer.facts, answer.data)
        got, data = await self._call(operation, key, partial(self._read, key), means=missing, quick=quick)
        return Found(data, _etag(got), self._modified(operation, key, got))

    async def get_range(self, key: str, start: int, stop: int, operation: str = "get_object") -> bytes:
        """The bytes of an object from `start` up to, not including, `stop`. Raises `Missing`."""
        if stop <= start:
            return b""
        _, data = await self._call(operation, key, partial(self._read, key, Range=f"bytes={start}-{stop - 1}"), means=missing)
        if len(data) != stop - start:
            raise self.calling.odd(operation, key, f"{len(data)} bytes came instead of {stop - start}")
        return data

    async def stream(self, key: str, start: int, stop: int, operation: str = "get_object") -> AsyncIterator[bytes]:
        """The bytes of an object in pieces of 1 MiB at most, as the caller takes them. Goes on where a connection broke. Raises `Missing`
        before the first piece; the connection is closed when it is abandoned."""
        at, etag, failures = start, "", 0
        body: Any = None

        def opened() -> Any:
            nonlocal body  # here, because a caller that is cancelled meanwhile gets no result
            got = self.client.get_object(Bucket=self.name, Key=key, Range=f"bytes={at}-{stop - 1}", **same)
            body = got["Body"]
            return got

        try:
            while at < stop:
                if body is None:
                    same: dict[str, Any] = {"IfMatch": self._quote(etag)} if etag else {}
                    got = await self._call(operation, key, opened, self.calling.downloads, missing)
                    etag = _etag(got)
                    if at and got["ResponseMetadata"]["HTTPStatusCode"] != 206:
                        raise self.calling.odd(operation, key, "the server sent all of it instead of a range")
                try:
                    data = await plugin.in_thread(partial(body.read, min(_CHUNK, stop - at)), self.calling.downloads)
                    if not data:
                        raise self.calling.odd(operation, key, f"it ended {stop - at} bytes too early")
                except BROKEN as error:
                    body.close()
                    body, failures = None, failures + 1
                    if failures >= self._options.attempts:
                        raise self.calling.failed(operation, key, error) from error
                    self.calling.metrics.add(figures.RETRIES)
                    await asyncio.sleep(_pause(failures))
                else:
                    at, failures = at + len(data), 0
                    yield data
        finally:
            if body is not None:
                body.close()

    async def head(self, key: str, operation: str = "head_object") -> Stat:
        """How large an object is, since when, and whose. Raises `Missing`."""
        work: Any = partial(self.client.head_object, Bucket=self.name, Key=key)
        got = await self._call(operation, key, work, means=missing, quick=(Request("HEAD", key), lambda answer: answer.facts))
        metadata = {name.lower(): text for name, text in got.get("Metadata", {}).items()}  # servers write them as they like
        return Stat(got["ContentLength"], _etag(got), self._modified(operation, key, got), metadata.get(MARK))

    async def put(
        self,
        key: str,
        data: Data,
        *,
        carries: Mapping[str, Any] | None = None,
        match: str | None = None,
        absent: bool = False,
        operation: str = "put_object",
    ) -> str:
        """Write an object; returns its ETag. `match`: only over the object with this ETag; `absent`: only where there is none. `carries` is what
        `headers.carried` returns. Raises `Changed`: not when what is there is what was to be written, because then an answer was lost."""
        conditions = self._conditions(match, absent)
        arguments = {**self._always, **(carries or {}), **conditions}
        pool = (
            self.calling.small
            if isinstance(data, bytes | bytearray | plugin.Blocks) and len(data) < _CHUNK
            else self.calling.bodies
        )
        headers = headers_of(arguments) if pool is self.calling.small and self._options.checksums == "none" else None
        quick = None if headers is None else (Request("PUT", key, headers, _slice(data, 0, _size(data))), _tag)
        for attempt in range(1, _CONFLICTS + 1):
            work = partial(self._put, key, data, arguments)
            try:
                return await self._call(operation, key, work, pool, changed if conditions else None, quick)
            except Changed as refusal:
                mine = await self._is_mine(key, data, operation)
                if mine is not None:
                    return mine
                if not isinstance(refusal, Conflict) or attempt == _CONFLICTS:
                    raise Changed from refusal
            await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def delete(self, *keys: str, operation: str = "delete_object") -> None:
        """Remove objects. What is not there is no error."""

        async def one(key: str) -> None:
            try:
                work: Any = partial(self.client.delete_object, Bucket=self.name, Key=key)
                await self._call(operation, key, work, means=missing, quick=(Request("DELETE", key), lambda answer: answer.facts))
            except Missing:
                return

        results = await asyncio.gather(*(one(key) for key in keys), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure

    async def list(self, prefix: str, operation: str = "list_objects") -> AsyncIterator[Listed]:
        """All objects whose keys begin so, as the server lists them: what was written just now may be missing."""
        more: dict[str, Any] = {}
        while True:
            work = partial(self.client.list_objects_v2, Bucket=self.name, Prefix=prefix, **more)
            page = await self._call(operation, prefix, work)
            for one in page.get("Contents", ()):
                yield Listed(one["Key"], one["Size"], _etag(one), one["LastModified"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    # --- multipart uploads

    async def create_multipart(self, key: str, carries: Mapping[str, Any], operation: str = "create_multipart_upload") -> str:
        """Begin a multipart upload; returns its id."""
        arguments = {**self._always, **carries}
        work = partial(self.client.create_multipart_upload, Bucket=self.name, Key=key, **arguments)
        return (await self._call(operation, key, work))["UploadId"]

    async def upload_part(self, key: str, multipart: str, number: int, data: Data, operation: str = "upload_part") -> str:
        """Send a part; returns its ETag. Raises `Gone`."""
        return await self._call(
            operation, key, partial(self._upload_part, key, multipart, number, data), self.calling.bodies, gone
        )

    async def copy_part(
        self,
        key: str,
        multipart: str,
        number: int,
        source: str,
        start: int,
        stop: int,
        whole: bool,
        operation: str = "upload_part_copy",
    ) -> str:
        """Make a part of the bytes of another object, from `start` up to, not including, `stop`; `whole`: of all of it. Returns the part's ETag.
        Raises `Gone`, and `Missing` when there is no such source."""
        arguments: dict[str, Any] = {"CopySource": {"Bucket": self.name, "Key": source}}
        if not whole:
            arguments["CopySourceRange"] = f"bytes={start}-{stop - 1}"
        work = partial(
            self.client.upload_part_copy, Bucket=self.name, Key=key, UploadId=multipart, PartNumber=number, **arguments
        )
        got = await self._call(operation, key, work, self.calling.bodies, gone_or_missing)
        return _etag(got["CopyPartResult"])

    async def list_parts(self, key: str, multipart: str, after: int = 0, operation: str = "list_parts") -> Parts:
        """All parts with numbers above `after`, in order. Raises `Gone`."""
        parts: Parts = []
        marker = after
        while True:
            work = partial(
                self.client.list_parts, Bucket=self.name, Key=key, UploadId=multipart, PartNumberMarker=cast(Any, marker)
            )
            page = await self._call(operation, key, work, means=gone)
            parts += (Part(one["PartNumber"], one["Size"], _etag(one)) for one in page.get("Parts", ()))
            if not page.get("IsTruncated"):
                return sorted((one for one in parts if one.number > after), key=lambda part: part.number)
            marker = int(page["NextPartNumberMarker"])

    async def complete(
        self, key: str, multipart: str, parts: Sequence[Part], operation: str = "complete_multipart_upload"
    ) -> None:
        """Make the object of these parts, in this order. Raises `Gone`."""
        listed: Any = {"Parts": [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]}
        work = partial(
            self.client.complete_multipart_upload, Bucket=self.name, Key=key, UploadId=multipart, MultipartUpload=listed
        )
        await self._call(operation, key, partial(self._ending, work, key, multipart), means=gone)

    async def abort(self, key: str, multipart: str, operation: str = "abort_multipart_upload") -> None:
        """Forget a multipart upload and its parts. One that is gone is no error."""
        work = partial(self.client.abort_multipart_upload, Bucket=self.name, Key=key, UploadId=multipart)
        try:
            await self._call(operation, key, partial(self._ending, work, key, multipart), means=gone)
        except Gone:
            return

    async def check(self) -> None:
        """Raises `StorageUnavailable` when the server does not answer as it did when it was opened."""
        try:
            await self.head(self._options.below_info + "tusd-check")
        except Missing:
            return

    # --- in threads

    def _read(self, key: str, **arguments: Any) -> tuple[Any, bytes]:
        for attempt in range(1, self._options.attempts + 1):
            got = self.client.get_object(Bucket=self.name, Key=key, **arguments)
            try:
                return got, got["Body"].read()
            except BROKEN:  # the answer broke off, where the SDK does not see it any more
                if attempt == self._options.attempts:
                    raise
            finally:
                got["Body"].close()
            threading.Event().wait(_pause(attempt))
        raise AssertionError("unreachable")

    def _put(self, key: str, data: Data, arguments: Mapping[str, Any]) -> str:
        return _etag(self.client.put_object(Bucket=self.name, Key=key, **self._body(data), **arguments))

    def _upload_part(self, key: str, multipart: str, number: int, data: Data) -> str:
        body = self._body(data)
        return _etag(self.client.upload_part(Bucket=self.name, Key=key, UploadId=multipart, PartNumber=number, **body))

    def _body(self, data: Data) -> dict[str, Any]:
        # A bytearray goes to the socket as it is. Of bytes the SDK would make a file, and read it in small pieces.
        body = bytearray(data) if isinstance(data, bytes) else data
        if not isinstance(body, bytearray):
            body.seek(0)
        if self._options.checksums == "none":
            return {"Body": body}
        return {"Body": body, "ContentMD5": base64.b64encode(_md5(body)).decode()}

    def _ending(self, work: Callable[[], T], key: str, multipart: str) -> T:
        """Complete or abort; some servers answer 500 when that has been done before."""
        try:
            return work()
        except ClientError as error:
            if status_of(error) < 500:
                raise
            try:
                self.client.list_parts(Bucket=self.name, Key=key, UploadId=multipart, MaxParts=1)
            except ClientError as answer:
                if gone(answer) is not None:
                    raise answer from error
            raise

    # --- around all of them

    async def _call(
        self,
        operation: str,
        key: str,
        work: Callable[[], T],
        pool: ThreadPoolExecutor | None = None,
        means: Means | None = None,
        quick: tuple[Request, Callable[[Answer], T]] | None = None,
    ) -> T:
        """`quick`: the same request for a try without the SDK, and what its answer comes to."""
        first = None if quick is None or self.quick is None else partial(_first, self.quick, *quick)
        return await self.calling.call(operation, key, work, pool, means, first)

    def _modified(self, operation: str, key: str, got: Any) -> datetime:
        if "LastModified" not in got:
            raise self.calling.odd(operation, key, "the answer has no Last-Modified")
        return cast(datetime, got["LastModified"])

    async def _is_mine(self, key: str, data: Data, operation: str) -> str | None:
        """The ETag of an object if it is what was to be written; else None."""
        size = _size(data)
        try:
            if size < _CHUNK:
                found = await self.get(key, operation="get_object")
                return found.etag if found.data == _slice(data, 0, size) else None
            stat, at = await self.head(key), 0
            if stat.size != size:
                return None
            async with aclosing(cast(AsyncGenerator[bytes, None], self.stream(key, 0, size))) as pieces:
                async for piece in pieces:
                    if piece != await plugin.in_thread(partial(_slice, data, at, at + len(piece)), self.calling.small):
                        return None
                    at += len(piece)
            return stat.etag
        except Missing:
            return None

    def _conditions(self, match: str | None, absent: bool) -> dict[str, Any]:
        if not self.conditional:
            return {}
        if absent:
            return {"IfNoneMatch": "*"}
        return {} if match is None else {"IfMatch": self._quote(match)}

    def _quote(self, etag: str) -> str:
        return f'"{etag}"' if self.quoted else etag


async def _first(client: Quick, request: Request, read: Callable[[Answer], T], tried: Tried) -> T | None:
    answer = await client.ask(request, tried)
    if answer is None:
        return None
    if answer.status == 404:
        raise Missing
    if answer.status in (409, 412):
        raise Conflict if answer.status == 409 else Changed
    return read(answer)


def _tag(answer: Answer) -> str:
    return _etag(answer.facts)


def _etag(answer: Any) -> str:
    return cast(str, answer.get("ETag", "")).strip('"')


def _pause(attempt: int) -> float:
    """Seconds before another attempt."""
    return random.uniform(0, min(0.1 * 2**attempt, 5))


def _size(data: Data) -> int:
    return len(data) if isinstance(data, bytes | bytearray) else data.seek(0, 2)


def _slice(data: Data, start: int, stop: int) -> bytes:
    if isinstance(data, bytes | bytearray):
        return bytes(data[start:stop])
    data.seek(start)
    found = bytearray()
    while len(found) < stop - start and (chunk := data.read(stop - start - len(found))):
        found += chunk  # blocks return more than that
    return bytes(found[: stop - start])


def _md5(data: bytearray | plugin.Blocks | BinaryIO) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(data, bytearray):
        digest.update(data)
    else:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
        data.seek(0)
    return digest.digest()
