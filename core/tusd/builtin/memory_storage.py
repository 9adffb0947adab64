"""Uploads in the memory of one process, for tests and examples: all is gone when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from tusd import plugin
from tusd.plugin import Lease, UploadId, UploadInfo

_READ_PIECE = 256 << 10


class MemoryStorage:
    """Keep uploads in memory; for tests and examples."""

    api_version = 1
    scope = plugin.Scope.PROCESS

    class Options(plugin.Options):
        """The `storage:` block: nothing to choose."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[plugin.DataStore]:
        """Open an empty store."""
        yield MemoryStore()


@dataclass(slots=True)
class _Kept:
    """What is kept of one upload. Bytes behind `info.offset` belong to a body that is not verified yet."""

    info: UploadInfo
    data: bytearray = field(default_factory=bytearray)


class MemoryUpload(plugin.Upload, plugin.Terminable, plugin.Concatenable, plugin.Atomic):
    """One upload of a `MemoryStore`, open for work."""

    def __init__(self, store: dict[UploadId, _Kept], kept: _Kept, lease: Lease | None) -> None:
        self._store = store
        self._kept = kept
        self._lease = lease

    @property
    def info(self) -> UploadInfo:  # type: ignore[override]
        """What is kept."""
        return self._kept.info

    async def append(self, body: plugin.Body) -> int:
        """Each piece counts at once; of a body that has to be whole, all pieces at its end."""
        data, start = self._kept.data, self.info.offset
        del data[start:]
        async for piece in body:
            data += piece
            if not body.whole:
                self._count(body)
        if body.whole and await body.intact():
            self._check_lease()
            self._count(body)
        del data[self.info.offset :]
        return self.info.offset - start

    def _count(self, body: plugin.Body) -> None:
        self._kept.info = self.info.at(len(self._kept.data), plugin.utcnow())
        body.saved(self.info.offset)

    async def save(self, info: UploadInfo) -> None:
        """Replaces what may change."""
        self._check_lease()
        self._kept.info = self.info.saved_as(info)

    async def finish(self) -> None:
        """Nothing to do."""

    async def terminate(self) -> None:
        """Forget it; downloads under way go on."""
        self._check_lease()
        if self._store.get(self.info.id) is self._kept:
            del self._store[self.info.id]

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        """Copy the parts."""
        self._check_lease()
        data = bytearray()
        for part in parts:
            if part.id not in self._store:
                raise plugin.UploadNotFound()
            data += self._store[part.id].data
        self._kept.data[:] = data
        self._kept.info = self.info.at(len(data), plugin.utcnow())

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()


class MemoryStore(plugin.DataStore, plugin.Readable, plugin.Listable):
    """The uploads of one process."""

    upload_class = MemoryUpload

    def __init__(self) -> None:
        self._kept: dict[UploadId, _Kept] = {}

    async def create(self, info: UploadInfo, lease: Lease | None) -> plugin.Upload:
        """Another entry. There are no places to choose: `info.storage` is answered empty."""
        if info.id in self._kept:
            raise plugin.UploadExists()
        if lease is not None:
            lease.check()
        kept = self._kept[info.id] = _Kept(replace(info, storage={}).at(0))
        return MemoryUpload(self._kept, kept, lease)

    async def info(self, upload_id: UploadId) -> UploadInfo:
        """What is kept."""
        return self._find(upload_id).info

    async def open(self, upload_id: UploadId, lease: Lease) -> plugin.Upload:
        """Drops what a body left that was not verified."""
        kept = self._find(upload_id)
        del kept.data[kept.info.offset :]
        return MemoryUpload(self._kept, kept, lease)

    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        """An upload that is terminated in the middle is served to its end."""
        data = self._find(info.id).data
        for begin in range(start, stop, _READ_PIECE):
            yield bytes(data[begin : min(begin + _READ_PIECE, stop)])

    async def uploads(self, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        """Those that were there at the start and still are."""
        for upload_id in list(self._kept):
            kept = self._kept.get(upload_id)
            if kept is not None and (idle_since is None or kept.info.modified < idle_since):
                yield kept.info

    def _find(self, upload_id: UploadId) -> _Kept:
        kept = self._kept.get(upload_id)
        if kept is None:
            raise plugin.UploadNotFound()
        return kept
