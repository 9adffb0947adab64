"""Making an upload's object of its pieces; and what is found when that was done by somebody who could not say so any more."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from tusd import plugin
from tusd.plugin import Final

from . import go
from .bucket import Changed, Data, Gone, Missing, Part, Stat
from .context import Context
from .manifest import Manifest, Tail, counted, with_counted
from .record import Record

_TRIES = 3
"""How often the object is tried to be put in the place of another one."""


class Sealing:
    """For one upload, under its lock. Each step is to be done to its end (`unbroken`)."""

    def __init__(self, context: Context, record: Record) -> None:
        self._context = context
        self._record = record

    @property
    def due(self) -> bool:
        """Whether all bytes are there, and the object is not."""
        info, manifest = self._record.info, self._record.manifest
        return manifest.object is None and manifest.offset == info.length and not isinstance(info.concat, Final)

    async def seal(self, manifest: Manifest | None = None) -> None:
        """Make the object of all that counts, and say so in `.info`.

        What it is made of stands in `.info` before: whoever has the lock next makes the same of it, and nothing else, so it does not matter whose
        request comes late. `manifest`: what it is made of, where that is the same for everybody anyway."""
        manifest = self._record.manifest if manifest is None else manifest
        size = manifest.offset
        if manifest.tail is not None and manifest.multipart is not None:
            manifest = await self._with_tail(manifest, manifest.multipart, manifest.tail)
        if manifest.parts and manifest.multipart is not None:
            await self._refuse_taken()
            self._record.check()
            try:
                await self._context.bucket.complete(self._record.object, manifest.multipart, manifest.parts)
            except Gone:
                await self._there(size)
        else:
            await self.put_object(b"" if manifest.tail is None else await self._context.tail(self._record.info.id, manifest.tail))
        await self.sealed(manifest, size)

    async def _with_tail(self, manifest: Manifest, multipart: str, tail: Tail) -> Manifest:
        """The tail as the last part."""
        data, number = await self._context.tail(self._record.info.id, tail), manifest.next
        if number > self._context.sizes.numbers:
            raise self.exhausted()
        self._record.check()
        try:
            etag = await self._context.bucket.upload_part(self._record.object, multipart, number, data)
        except Gone:
            etag = ""  # completed already, or aborted: completing it again tells
        return replace(manifest, parts=(*manifest.parts, Part(number, len(data), etag)), tail=None)

    async def _there(self, size: int) -> None:
        """The multipart upload is gone: because the object was made of it?"""
        try:
            found = await self._context.bucket.head(self._record.object)
        except Missing:
            found = None
        if found is None or found.size != size or self._is_anothers(found):
            raise self.lost()

    def _is_anothers(self, there: Stat) -> bool:
        mark = self._context.mark(self._record.info)
        return mark is not None and there.mark not in (None, mark)

    async def taken(self) -> bool:
        """Whether another upload's object is there: a hook has chosen one key for both, while nothing was there."""
        if self._context.mark(self._record.info) is None:
            return False
        try:
            return self._is_anothers(await self._context.bucket.head(self._record.object))
        except Missing:
            return False

    async def _refuse_taken(self) -> None:
        if await self.taken():
            self._context.logger.error(
                "another upload's object is there; let the pre-create hook choose a storage.Key for each upload",
                extra=self._record.named,
            )
            raise plugin.StorageUnavailable(info=self._record.info)

    async def put_object(self, data: Data) -> None:
        """Make the object in one piece. What a holder before has put there, and nobody was told of, is replaced; what one puts there later
        is refused."""
        bucket, key, there = self._context.bucket, self._record.object, None
        carries = self._context.carries(self._record.info)
        for _ in range(_TRIES):
            await self._refuse_taken()
            self._record.check()
            try:
                await bucket.put(key, data, carries=carries, match=there, absent=there is None)
                return
            except Changed:
                with suppress(Missing):
                    there = (await bucket.head(key)).etag
        self._context.logger.error("an upload's object is replaced again and again by somebody else", extra=self._record.named)
        raise plugin.StorageUnavailable(info=self._record.info)

    async def sealed(self, manifest: Manifest, size: int) -> None:
        """Say in `.info` that the object is there. What has led to it is removed."""
        before = self._record.manifest
        await self._record.write(self._record.info, manifest.finished(size))
        leftover = manifest.multipart if not manifest.parts else None
        if leftover is not None:
            self._context.later(self._context.bucket.abort(self._record.object, leftover))
        tails = [before.tail.key] if before.tail is not None else []
        if manifest.litter:
            with suppress(plugin.TusError):  # logged; all is done, and it stays litter
                found = await self.tails()
                self._record.check()  # what was listed is this upload's only if the lock was held until then
                tails += found
        self._context.discard(*tails)

    # --- what is left over

    async def tails(self) -> list[str]:
        """Tails that are found, this upload's alone."""
        keys, upload_id = self._context.keys, self._record.info.id
        named = go.split(upload_id)
        found = [keys.go_tail(named[0])] if named is not None and self._record.key == keys.info(named[0]) else []
        async for listed in self._context.bucket.list(keys.tails(upload_id)):
            if keys.begin(upload_id, listed.key) is not None:
                found.append(listed.key)
        return found

    def exhausted(self) -> plugin.TusError:
        """There is no part number any more."""
        self._context.logger.error(
            "all %d part numbers of an upload are used", self._context.sizes.numbers, extra=self._record.named
        )
        return plugin.StorageFull("the upload is in too many parts; nothing more can be added to it", info=self._record.info)

    def lost(self) -> plugin.TusError:
        """Bytes that were acknowledged are gone from the bucket."""
        self._context.logger.error(
            "the parts of an unfinished upload are gone; does a rule of the bucket remove multipart uploads before uploads expire?",
            extra=self._record.named,
        )
        return plugin.UploadNotFound(info=self._record.info)

    async def without_multipart(self, manifest: Manifest) -> Manifest:
        """What counts when the multipart upload is gone. Raises `UploadNotFound` when that was more than nothing."""
        length = self._record.info.length
        if length is not None:
            try:
                found = await self._context.bucket.head(self._record.object)
                if found.size == length and not self._is_anothers(found):
                    return manifest.finished(length)
            except Missing:
                pass
        if manifest.parts:
            raise self.lost()
        return Manifest(tail=manifest.tail, modified=manifest.modified, litter=manifest.litter)

    async def recovered(self, manifest: Manifest) -> Manifest:
        """What counts once a holder is gone that has not said it. Its part numbers are left alone."""
        assert manifest.multipart is not None and manifest.claim is not None
        ours, length = replace(manifest, claim=None), self._record.info.length
        try:
            listed = await self._context.bucket.list_parts(self._record.object, manifest.multipart, manifest.claim.start - 1)
        except Gone:
            return await self.without_multipart(ours)
        parts = counted(manifest, listed, length, self._context.sizes.least)
        return with_counted(ours, parts, plugin.utcnow())
