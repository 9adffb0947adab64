"""A right store, kept in memory, and as many wrong ones as the suite has to tell from it: each breaks one promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from tusd import plugin
from tusd.plugin import UploadId, UploadInfo


@dataclass
class Book:
    """What the shelf keeps of one upload."""

    info: UploadInfo
    data: bytearray
    counts: int | None = None
    """Only so many bytes count; None: all."""

    @property
    def seen(self) -> UploadInfo:
        return self.info.at(len(self.data) if self.counts is None else min(len(self.data), self.counts), self.info.modified)


async def backend() -> None:
    """Called before each change, so that tests can make it fail."""
    await asyncio.sleep(0)


class ShelfUpload(plugin.Upload, plugin.Terminable, plugin.Concatenable, plugin.Atomic):
    def __init__(self, store: ShelfStore, book: Book, lease: plugin.Lease | None) -> None:
        self.store = store
        self.book = book
        self.lease = lease
        self.info = book.seen

    async def append(self, body: plugin.Body) -> int:
        start = self.info.offset
        await backend()
        if body.whole:
            self.book.counts = start
        try:
            await self.fill(body)
            if body.whole:
                await self.settle(body, start)
        finally:
            self.info = self.book.seen
        return self.info.offset - start

    async def fill(self, body: plugin.Body) -> None:
        async for piece in body:
            self.book.data += piece
            self.book.info = replace(self.book.info, modified=plugin.utcnow())

    async def settle(self, body: plugin.Body, start: int) -> None:
        if not await body.intact():
            del self.book.data[start:]
        await backend()
        self.book.counts = None

    async def change(self) -> None:
        await backend()
        if self.lease is not None:
            self.lease.check()

    async def save(self, info: UploadInfo) -> None:
        await self.change()
        self.book.info = replace(info, offset=0, modified=self.book.info.modified)
        self.info = self.book.seen

    async def finish(self) -> None:
        self.info = self.book.seen

    async def terminate(self) -> None:
        await self.change()
        self.store.books.pop(self.info.id, None)

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        await self.change()
        self.book.data[:] = b"".join([bytes(self.store.find(part.id).data) for part in parts])
        self.info = self.book.seen


class ShelfStore(plugin.DataStore, plugin.Readable, plugin.Listable):
    upload_class = ShelfUpload

    def __init__(self) -> None:
        self.books: dict[UploadId, Book] = {}

    def find(self, upload_id: UploadId) -> Book:
        if upload_id not in self.books:
            raise plugin.UploadNotFound()
        return self.books[upload_id]

    async def create(self, info: UploadInfo, lease: plugin.Lease | None) -> ShelfUpload:
        await backend()
        if info.id in self.books:
            raise plugin.UploadExists()
        return self.put(info, lease)

    def put(self, info: UploadInfo, lease: plugin.Lease | None) -> ShelfUpload:
        if lease is not None:
            lease.check()
        self.books[info.id] = Book(replace(info, storage={"Type": "shelf"}), bytearray())
        return self.upload_class(self, self.books[info.id], lease)

    async def info(self, upload_id: UploadId) -> UploadInfo:
        return self.find(upload_id).seen

    async def open(self, upload_id: UploadId, lease: plugin.Lease) -> ShelfUpload:
        book = self.find(upload_id)
        if book.counts is not None:
            del book.data[book.counts :]
            book.counts = None
        return self.upload_class(self, book, lease)

    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        data = bytes(self.find(info.id).data[start:stop])
        for n in range(0, len(data), 65536):
            yield data[n : n + 65536]

    async def uploads(self, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        for book in list(self.books.values()):
            if idle_since is None or book.seen.modified < idle_since:
                yield book.seen


class Shelf:
    """Keep uploads on a shelf."""

    scope = plugin.Scope.PROCESS
    store_class: ClassVar[type[ShelfStore]] = ShelfStore

    class Options(plugin.Options):
        pass

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[plugin.DataStore]:
        yield self.store_class()


# --- one broken promise each


class _LosingUpload(ShelfUpload):
    """Calls bytes safe that it only remembers, and forgets them when it is cancelled."""

    async def fill(self, body: plugin.Body) -> None:
        held = b""
        async for piece in body:
            held += piece
            body.saved(self.info.offset + len(held))
        self.book.data += held


class _LosingStore(ShelfStore):
    upload_class = _LosingUpload


class LosesBytesOnCancellation(Shelf):
    store_class = _LosingStore


class _DamagingUpload(ShelfUpload):
    async def fill(self, body: plugin.Body) -> None:
        try:
            await super().fill(body)
        except asyncio.CancelledError:
            self.book.data.clear()
            raise


class _DamagingStore(ShelfStore):
    upload_class = _DamagingUpload


class DamagesOnCancellation(Shelf):
    store_class = _DamagingStore


class _SwallowingUpload(ShelfUpload):
    async def fill(self, body: plugin.Body) -> None:
        try:
            await super().fill(body)
        except asyncio.CancelledError:
            pass


class _SwallowingStore(ShelfStore):
    upload_class = _SwallowingUpload


class SwallowsCancellation(Shelf):
    store_class = _SwallowingStore


class _OverwritingStore(ShelfStore):
    async def create(self, info: UploadInfo, lease: plugin.Lease | None) -> ShelfUpload:
        return self.put(info, lease)


class OverwritesOnCreate(Shelf):
    store_class = _OverwritingStore


class _RacingStore(ShelfStore):
    async def create(self, info: UploadInfo, lease: plugin.Lease | None) -> ShelfUpload:
        if info.id in self.books:
            raise plugin.UploadExists()
        await backend()
        return self.put(info, lease)


class CreatesTwiceInARace(Shelf):
    store_class = _RacingStore


class _AheadStore(ShelfStore):
    async def info(self, upload_id: UploadId) -> UploadInfo:
        book = self.find(upload_id)
        return book.info.at(len(book.data))


class InfoCountsBodiesThatMayBreak(Shelf):
    store_class = _AheadStore


class _TrustingUpload(ShelfUpload):
    async def settle(self, body: plugin.Body, start: int) -> None:
        self.book.counts = None


class _TrustingStore(ShelfStore):
    upload_class = _TrustingUpload


class KeepsBrokenWholeBodies(Shelf):
    store_class = _TrustingStore


class _PlainUpload(plugin.Upload):
    info: UploadInfo

    async def append(self, body: plugin.Body) -> int:
        return 0

    async def save(self, info: UploadInfo) -> None:
        self.info = info

    async def finish(self) -> None:
        return None


class _BoastingStore(ShelfStore):
    upload_class = _PlainUpload  # type: ignore[assignment]

    @property
    def capabilities(self) -> frozenset[type[plugin.Capability]]:
        return frozenset({plugin.Terminable, plugin.Readable, plugin.Listable})


class DeclaresWhatItHasNot(Shelf):
    store_class = _BoastingStore


class _ModestStore(ShelfStore):
    @property
    def capabilities(self) -> frozenset[type[plugin.Capability]]:
        return frozenset({plugin.Readable})


class HasWhatItDoesNotDeclare(Shelf):
    store_class = _ModestStore


class _StubbornUpload(ShelfUpload):
    async def fill(self, body: plugin.Body) -> None:
        held = b""
        try:
            async for piece in body:
                held += piece
        finally:
            self.book.data += held


class _StubbornStore(ShelfStore):
    upload_class = _StubbornUpload


class WritesAfterTheLeaseIsLost(Shelf):
    store_class = _StubbornStore


class _CarelessUpload(ShelfUpload):
    async def change(self) -> None:
        await backend()


class _CarelessStore(ShelfStore):
    upload_class = _CarelessUpload


class NeverChecksItsLease(Shelf):
    store_class = _CarelessStore


class _LyingUpload(ShelfUpload):
    async def append(self, body: plugin.Body) -> int:
        try:
            return await super().append(body)
        except OSError:
            raise plugin.UploadNotFound() from None


class _LyingStore(ShelfStore):
    upload_class = _LyingUpload


class CallsAFailureNotFound(Shelf):
    store_class = _LyingStore


class _ForgetfulStore(ShelfStore):
    def put(self, info: UploadInfo, lease: plugin.Lease | None) -> ShelfUpload:
        return super().put(replace(info, metadata=plugin.Metadata(dict(info.metadata))), lease)


class ForgetsTheMetadataHeader(Shelf):
    store_class = _ForgetfulStore


class _OffByOneStore(ShelfStore):
    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        yield bytes(self.find(info.id).data[start : max(stop, start + 1)])


class ReadsEmptyRangesWrong(Shelf):
    store_class = _OffByOneStore


class _SortingUpload(ShelfUpload):
    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        await super().concatenate(sorted(parts, key=lambda part: part.offset))


class _SortingStore(ShelfStore):
    upload_class = _SortingUpload


class ConcatenatesInAnotherOrder(Shelf):
    store_class = _SortingStore


class ClaimsAScopeThatItHasNot(Shelf):
    scope = plugin.Scope.HOST


class TakesAway(Shelf):
    """Right, if its suite says so."""

    store_class = _ModestStore
