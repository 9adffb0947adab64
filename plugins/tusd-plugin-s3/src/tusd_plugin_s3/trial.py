"""What is tried when the storage opens: that we may do what uploads need, and what the server can."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from typing import TypeVar

from botocore.exceptions import ClientError

from tusd import plugin

from .bucket import Bucket, Changed, Missing
from .cures import NoS3, explain, wrong_region
from .headers import carried
from .options import Options
from .reasons import status_of

T = TypeVar("T")


async def try_out(bucket: Bucket, options: Options, origin: str, logger: logging.Logger) -> None:
    """Write, replace, read and remove an object below `info_prefix`, begin a multipart upload and abort it. Sets `bucket.conditional` and
    `bucket.quoted`. `origin`: whose credentials they are. Raises `StorageUnavailable`, which names all that is wrong, and the cures."""
    trial = _Trial(bucket, options)
    bucket.conditional = False
    bucket.calling.silent = True
    try:
        if await trial.all(trial.written()):
            try:
                await trial.all(trial.conditions(), trial.read(), trial.missing(), trial.multipart())
            finally:
                await trial.all(trial.removed())
    finally:
        bucket.calling.silent = False
    wrong = dict.fromkeys(explain(error, operation, options, origin) for operation, error in trial.wrong)
    *before, region = bucket.calling.regions or [""]
    if before:
        wrong[wrong_region(region)] = None
    if wrong:
        raise plugin.StorageUnavailable(f"{options.place}: {'; '.join(wrong)}")
    if options.conditional_writes == "on" and not bucket.conditional:
        raise plugin.StorageUnavailable(
            f"{options.place}: the server cannot write with conditions; set storage.conditional_writes: auto"
        )
    if options.conditional_writes == "auto" and not bucket.conditional:
        logger.warning("the server cannot write with conditions: what keeps uploads right is their locks alone")


class _Failed(Exception):
    """A request of the trial failed; it stands in `wrong`."""


class _Trial:
    def __init__(self, bucket: Bucket, options: Options) -> None:
        self.wrong: list[tuple[str, BaseException]] = []
        """(operation, what the SDK said)."""
        self._bucket = bucket
        self._options = options
        self._name = f"tusd-trial-{secrets.token_hex(8)}"
        self._key = options.below_info + self._name
        self._etag = ""

    async def all(self, *tries: Awaitable[None]) -> bool:
        """Do them side by side, each until a request fails; whether none has."""
        results = await asyncio.gather(*tries, return_exceptions=True)
        for result in results:
            if result is not None and not isinstance(result, _Failed):
                raise result
        return not any(results)

    async def written(self) -> None:
        self._etag = await self._asked("put_object", self._bucket.put(self._key, b"1"))
        if not self._etag:
            self._no_s3("put_object")

    async def read(self) -> None:
        found = await self._asked("get_object", self._bucket.get(self._key))
        if found.data not in (b"1", b"2", b"3", b"4"):
            self._no_s3("get_object")

    async def missing(self) -> None:
        """A key that is not there is told apart from one that may not be read."""
        await self._asked("head_object", self._is_missing())
        await self._asked("list_objects", anext(aiter(self._bucket.list(self._key)), None))

    async def _is_missing(self) -> None:
        try:
            await self._bucket.head(self._key + "-missing")
        except Missing:
            return
        raise Missing

    async def multipart(self) -> None:
        """With all that objects of uploads carry."""
        info = plugin.UploadInfo(id=plugin.UploadId("tusd-trial"), length=None)
        key = f"{self._options.prefix}{self._name}-multipart"
        carries = carried(info, self._options)
        upload = await self._asked("create_multipart_upload", self._bucket.create_multipart(key, carries))
        try:
            await self._asked("list_parts", self._bucket.list_parts(key, upload))
        finally:
            await self._asked("abort_multipart_upload", self._bucket.abort(key, upload))

    async def conditions(self) -> None:
        if self._options.conditional_writes == "off":
            return
        bucket = self._bucket
        bucket.conditional = True
        try:
            bucket.conditional = await self._not_created() and await self._replaced()
        except plugin.StorageUnavailable as error:
            bucket.conditional = False
            answer = error.__cause__
            if not isinstance(answer, ClientError) or status_of(answer) not in (400, 405, 501):
                self.wrong.append(("put_object", answer or error))

    async def _not_created(self) -> bool:
        try:
            await self._bucket.put(self._key, b"2", absent=True)
        except Changed:
            return True
        return False

    async def _replaced(self) -> bool:
        bucket = self._bucket
        for quoted in (True, False):
            bucket.quoted = quoted
            try:
                await bucket.put(self._key, b"3", match=self._etag)
                break
            except Changed:
                continue
        else:
            return False
        try:
            await bucket.put(self._key, b"4", match="0" * 32)
        except Changed:
            return True
        return False

    async def removed(self) -> None:
        await self._asked("delete_object", self._bucket.delete(self._key))

    async def _asked(self, operation: str, request: Awaitable[T]) -> T:
        try:
            return await request
        except plugin.StorageUnavailable as error:
            self.wrong.append((operation, error.__cause__ or NoS3()))
            raise _Failed from error
        except Missing as error:  # where it was written
            self.wrong.append((operation, NoS3()))
            raise _Failed from error

    def _no_s3(self, operation: str) -> None:
        self.wrong.append((operation, NoS3()))
        raise _Failed
