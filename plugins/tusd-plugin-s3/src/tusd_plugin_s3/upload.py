"""One upload of an `S3Store`, open for work under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from tusd import plugin
from tusd.plugin import UploadInfo, unbroken

from .appending import Appending
from .concatenation import Concatenation
from .context import Context
from .record import Record
from .sealing import Sealing


class S3Upload(plugin.Upload, plugin.Terminable, plugin.Concatenable, plugin.Atomic):
    """An upload: what its `.info` says, and the pieces that this names."""

    def __init__(self, context: Context, record: Record) -> None:
        self._context = context
        self._record = record
        self._sealing = Sealing(context, record)
        self.info = record.info
        """As of the last `.info` that is known to be stored."""
        record.told = self._told

    def _told(self, info: UploadInfo) -> None:
        self.info = info

    async def append(self, body: plugin.Body) -> int:
        """Cut the body into parts, send several at once, and name in `.info` those that arrived."""
        await unbroken(self.ready())
        before = self.info.offset
        if self._record.manifest.object is None:
            await Appending(self._context, self._record, self._sealing, body).run()
        return self.info.offset - before

    async def save(self, info: UploadInfo) -> None:
        """A new `.info` in the place of the old one. If its length is that of the bytes, they become the object."""
        await unbroken(self._save(info))

    async def finish(self) -> None:
        """Make the object, unless that was done when the last byte came."""
        await unbroken(self._finish())

    async def terminate(self) -> None:
        """The bytes first, `.info` last: what a crash leaves can be terminated again."""
        await unbroken(self._terminate())

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        """Copy within the bucket, where it can be done. After a crash all is copied again."""
        await unbroken(self._record.settle())
        if self._record.manifest.object is None:
            await Concatenation(self._context, self._record, self._sealing, parts).run()

    async def ready(self) -> None:
        """Know what counts: of a write that ended in doubt, of parts that a dead holder sent; and make the object that is due."""
        await self._record.settle()
        before = self._record.manifest
        if before.claim is not None:
            after = await self._sealing.recovered(before)
            await self._record.write(self.info, after)
            if before.tail is not None and after.tail is None:
                self._context.discard(before.tail.key)
        if self._sealing.due:
            await self._sealing.seal()

    # --- the steps, each to its end

    async def _save(self, info: UploadInfo) -> None:
        self._context.check_length(info)
        await self._record.settle()
        await self._record.write(self.info.saved_as(info), self._record.manifest)
        if self._record.manifest.claim is None and self._sealing.due:
            await self._sealing.seal()

    async def _finish(self) -> None:
        await self.ready()
        if self._record.manifest.object is None:
            await self._sealing.seal()

    async def _terminate(self) -> None:
        bucket, record = self._context.bucket, self._record
        with suppress(plugin.UploadNotFound):  # gone already
            await record.settle()
        manifest = record.manifest
        record.check()
        if manifest.multipart is not None:
            await bucket.abort(record.object, manifest.multipart)
        tails = [manifest.tail.key] if manifest.tail is not None else []
        if manifest.litter or manifest.object is None:
            tails += await self._sealing.tails()
        objects = [] if await self._sealing.taken() else [record.object]
        record.check()
        await bucket.delete(*objects, *dict.fromkeys(tails))
        record.check()
        await bucket.delete(record.key, operation="delete_info_object")
