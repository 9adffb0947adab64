"""One append: a body becomes parts, and a tail of what is left; `.info` names them at the end.

    claim   `.info` says that parts from a number on may be on their way; again when those numbers are used up, naming what has arrived
    send    parts, several at once, while more of the body comes
    end     what is left becomes a tail, or the last part
    name    `.info` names all of it, and takes the claim away; from here on it counts
    seal    if all is there, the object is made

A body that makes no part needs no claim, and an upload that fits one piece no parts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic

from tusd import plugin
from tusd.plugin import Cutter, Piece, Sending, unbroken

from .bucket import Changed, Gone, Part
from .context import Context
from .manifest import Claim, Manifest, Tail
from .record import Record
from .sealing import Sealing

RECLAIM = 10.0
"""Seconds after which `.info` names what has arrived of a body that still comes."""


class Appending:
    """One append to an upload that is ready for it."""

    def __init__(self, context: Context, record: Record, sealing: Sealing, body: plugin.Body) -> None:
        self._context = context
        self._record = record
        self._sealing = sealing
        self._body = body
        self._base = record.manifest
        """What counted before."""
        self._begin = self._base.sent
        """The offset of the next piece, which begins with the tail's bytes."""
        self._number = self._base.next
        """Of the next part."""
        self._claimed = self._number
        """The lowest part number that is not claimed."""
        self._renewed = 0.0
        """When that was written."""
        self._uniform = self._base.uniform or self._context.sizes.uniform(self._length)
        self._counts = not body.whole
        """What has arrived counts already."""
        self._sending = Sending[Part](most=self._context.concurrency)
        self._left: Piece | None = None
        """The end of the body, when it makes no part."""
        self._all = False
        """That is the whole upload."""

    @property
    def _length(self) -> int | None:
        return self._record.info.length

    async def run(self) -> None:
        """Store the body. What arrived of it in order counts afterwards, however this ends."""
        try:
            await self._run()
        except plugin.LeaseLost:
            raise
        except Gone as error:
            await unbroken(self._without_multipart())
            raise plugin.StorageUnavailable(info=self._record.info) from error
        except BaseException as error:
            with suppress(plugin.TusError):  # logged; what ends the request is the first failure
                await unbroken(self._keep())
            if isinstance(error, OSError):
                self._context.logger.error("cannot gather parts in storage.spill: %s", error.strerror, extra=self._record.named)
                raise plugin.StorageFull(info=self._record.info) from error
            raise
        finally:
            if self._left is not None:
                self._left.release()

    async def _run(self) -> None:
        async with Cutter(self._body, self._context.memory, self._context.spill) as cutter:
            try:
                await self._pieces(cutter)
                await self._sending.end()
            finally:
                await self._sending.settle()
        if self._body.whole and not await self._body.intact():
            await unbroken(self._keep())
        else:
            self._counts = (
                self._counts or self._left is None
            )  # if the end fails: all of a whole body is in its parts, or nothing counts
            await unbroken(self._end())

    # --- cutting and sending

    async def _pieces(self, cutter: Cutter) -> None:
        sizes, tail = self._context.sizes, self._base.tail
        while True:
            head = None if tail is None or self._sending.started else partial(self._context.tail, self._record.info.id, tail)
            if self._number > sizes.numbers:
                await self._nothing_more(cutter)
                return
            floor, target, short = sizes.cut(self._begin, self._length, self._number, self._uniform)
            if head is not None and tail is not None:
                floor, target = max(floor, tail.size + 1), max(target, tail.size + 1)
            piece = await cutter.next(floor, target, head)
            if piece is None:
                return
            self._context.spilled(piece)
            end = self._begin + piece.size
            self._all = self._begin == 0 and end == self._length and piece.last and self._base.multipart is None
            if self._all or (piece.size < short and not self._is_last_part(end)):
                self._left = piece
                return
            await self._send(piece, end)

    def _is_last_part(self, end: int) -> bool:
        return end == self._length and (self._base.multipart is not None or self._sending.started > 0)

    async def _nothing_more(self, cutter: Cutter) -> None:
        """All part numbers are used. Raises `StorageFull` if the body has a byte."""
        piece = await cutter.next(1, 1)
        if piece is not None:
            piece.release()
            raise self._sealing.exhausted()

    async def _send(self, piece: Piece, end: int) -> None:
        try:
            if self._number >= self._claimed or self._due():
                await unbroken(self._claim())
            number, self._number, self._begin = self._number, self._number + 1, end
            await self._sending.start(partial(self._part, number, piece))
        except BaseException:
            piece.release()
            raise

    def _due(self) -> bool:
        """Whether it is time to name what has arrived, so that less has to be looked for after a crash, and others see it."""
        named = len(self._record.manifest.parts) - len(self._base.parts)
        return not self._body.whole and len(self._sending.results) > named and monotonic() - self._renewed >= RECLAIM

    async def _part(self, number: int, piece: Piece) -> Part:
        try:
            self._record.check()
            multipart, size = self._record.manifest.multipart, piece.size
            assert multipart is not None
            etag = await self._context.bucket.upload_part(self._record.object, multipart, number, piece.data)
            return Part(number, size, etag)
        finally:
            piece.release()

    async def _claim(self) -> None:
        """Say in `.info` that parts are on their way from now on, before the first of them is."""
        multipart = self._record.manifest.multipart
        if multipart is None:
            self._record.check()
            multipart = await self._context.bucket.create_multipart(self._record.object, self._context.carries(self._record.info))
        numbers = self._context.sizes.numbers
        stop = min(self._number + self._context.sizes.claimed, numbers)
        stop = max(stop, self._number + 1)
        counted = self._counted()
        claim = Claim(self._base.next + len(self._arrived), self._body.whole)
        await self._record.write(
            self._record.info, replace(counted, multipart=multipart, uniform=self._uniform, claim=claim, next=stop)
        )
        self._claimed, self._renewed = stop, monotonic()
        if self._arrived:
            self._body.saved(self._record.info.offset)

    # --- what counts

    @property
    def _arrived(self) -> tuple[Part, ...]:
        """Parts that count already."""
        return tuple(self._sending.results) if self._counts else ()

    def _counted(self) -> Manifest:
        """The manifest with the parts that have arrived so far."""
        return self._with(self._arrived)

    def _with(self, parts: tuple[Part, ...]) -> Manifest:
        said = self._record.manifest
        base = replace(self._base, multipart=said.multipart, uniform=said.uniform, litter=said.litter)
        if not parts:
            return base
        return replace(base, parts=base.parts + parts, tail=None, modified=plugin.utcnow())

    async def _end(self) -> None:
        """The body has ended, and what was sent has arrived."""
        if not self._sending.started and self._left is None:
            return
        manifest = replace(self._with(tuple(self._sending.results)), next=self._number)
        if self._left is not None and self._all:
            await self._upload_in_one(self._left)
        else:
            if self._left is not None:
                manifest = await self._tail(manifest, self._left)
            await self._record.write(self._record.info, manifest)
            if self._base.tail is not None:
                self._context.discard(self._base.tail.key)
            if self._sealing.due:
                await self._sealing.seal()
        self._body.saved(self._record.info.offset)

    async def _upload_in_one(self, piece: Piece) -> None:
        size = piece.size
        await self._sealing.put_object(piece.data)
        await self._sealing.sealed(replace(self._base, modified=plugin.utcnow()), size)

    async def _tail(self, manifest: Manifest, piece: Piece) -> Manifest:
        """A new object with the bytes behind the parts. Before the upload's first one `.info` says that there may be some: should `.info`
        never name it, it is found all the same when the upload is finished or terminated."""
        if not manifest.litter:
            await self._record.write(self._record.info, replace(self._record.manifest, litter=True))
        tail = Tail(await self._put_tail(manifest.sent, piece), manifest.sent, piece.size)
        if isinstance(piece.data, plugin.Blocks) and piece.size <= self._context.tails.limit:
            self._context.tails.keep(tail.key, bytearray().join(piece.data.views()))
        return replace(manifest, tail=tail, litter=True, modified=plugin.utcnow())

    async def _put_tail(self, begin: int, piece: Piece) -> str:
        """Under a name that no tail has, and least of all the one that counts."""
        while True:
            key = self._context.keys.tail(self._record.info.id, begin)
            if self._base.tail is not None and key == self._base.tail.key:
                continue
            self._record.check()
            with suppress(Changed):
                await self._context.bucket.put(key, piece.data, absent=True, operation="put_part_object")
                return key

    async def _keep(self) -> None:
        """Something has failed: what arrived of the body counts, unless it had to be whole, and the claim is taken away."""
        await self._record.settle()
        if self._record.manifest.claim is None:
            return  # there was none, or the end had been written
        await self._record.write(self._record.info, replace(self._counted(), next=self._number))
        if self._arrived and self._base.tail is not None:
            self._context.discard(self._base.tail.key)

    async def _without_multipart(self) -> None:
        """The multipart upload is gone in the middle: see what is left. Raises `UploadNotFound` if it held what was acknowledged."""
        await self._record.settle()
        manifest = await self._sealing.without_multipart(replace(self._record.manifest, claim=None))
        await self._record.write(self._record.info, manifest)
