"""What all uploads of one worker share."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, cast

from tusd import plugin
from tusd.plugin import UploadId, UploadInfo

from .bucket import Bucket, Missing
from .figures import DISK_WRITE_DURATION
from .headers import carried
from .keys import Keys
from .manifest import Tail
from .options import Options
from .profiles import Profile
from .sizes import sizes

_TAILS = 32 << 20
"""Bytes of tails that a worker keeps at most."""


class Tails:
    """Bytes of tails that were written lately, by key: they are asked for by the next request of the same client."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of all of them together at most."""
        self._size = 0
        self._kept: OrderedDict[str, bytearray] = OrderedDict()

    def keep(self, key: str, data: bytearray) -> None:
        """Remember them; those kept longest make room."""
        self._kept[key] = data
        self._size += len(data)
        while self._size > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)

    def get(self, key: str) -> bytearray | None:
        """The bytes, if they are known."""
        return self._kept.get(key)


class Context:
    """The bucket and the rules of a store, and what is done behind its back."""

    def __init__(self, bucket: Bucket, options: Options, rules: Profile, memory: plugin.Memory, worker: plugin.Worker) -> None:
        self.bucket = bucket
        self.keys = Keys(options.prefix, options.below_info, options.key)
        self.sizes = sizes(options, rules, memory)
        self.memory = memory
        self.spill = options.spill
        self.concurrency = options.concurrency
        self.copies = rules.copies_parts and not rules.uniform_parts
        """Parts can be made of other objects."""
        self.tails = Tails(min(_TAILS, memory.limit // 8))
        self.logger = worker.logger
        self._metrics = worker.metrics
        self._options = options
        self._later: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is removed in the background."""
        while self._later:
            await asyncio.wait(self._later)

    def carries(self, info: UploadInfo) -> dict[str, Any]:
        """What the upload's object carries besides its bytes."""
        return carried(info, self._options, self.mark(info))

    def mark(self, info: UploadInfo) -> str | None:
        """What tells an upload's object from that of another upload with the same key; None: there is no other.

        Not the id itself: it is a secret, and whoever may read the object may read this."""
        return None if self.keys.apart(info) else hashlib.sha256(info.id.encode()).hexdigest()[:32]

    async def tail(self, upload_id: UploadId, tail: Tail) -> bytearray:
        """A tail's bytes. They never change."""
        known = self.tails.get(tail.key)
        if known is not None:
            return known
        try:
            found = await self.bucket.get(tail.key, operation="get_part_object")
        except Missing as error:
            self.logger.error("the tail of an unfinished upload is gone; who has removed it?", extra={"upload": upload_id})
            raise plugin.UploadNotFound() from error
        if len(found.data) != tail.size:
            self.logger.error(
                "the tail of an upload has %d bytes, not %d", len(found.data), tail.size, extra={"upload": upload_id}
            )
            raise plugin.StorageUnavailable()
        return bytearray(found.data)

    async def stream(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes of an object in pieces of 1 MiB at most. To be closed. Raises `Missing` before the first of them."""
        async with aclosing(cast(AsyncGenerator[bytes, None], self.bucket.stream(key, start, stop))) as pieces:
            async for piece in pieces:
                yield piece

    def spilled(self, piece: plugin.Piece) -> None:
        """Count how long writing a piece to disk took, if it was."""
        if self.spill is not None:
            self._metrics.observe(DISK_WRITE_DURATION, piece.disk_time * 1000)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in the background: something that nobody needs any more is removed. A failure is logged, and leaves it there."""

        async def quietly() -> None:
            with suppress(plugin.TusError):  # logged
                await work

        task = asyncio.create_task(quietly())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def discard(self, *tails: str) -> None:
        """Remove tails that nothing names any more, soon."""
        if tails:
            self.later(self.bucket.delete(*dict.fromkeys(tails), operation="delete_part_object"))

    def check_length(self, info: UploadInfo) -> None:
        """Raises `StorageFull` for an upload that can never be stored."""
        if (wrong := self.sizes.check(info.length)) is not None:
            self.logger.error("an upload of %s bytes cannot be stored: %s", info.length, wrong, extra={"upload": info.id})
            raise plugin.StorageFull("the upload is larger than this server can store")
