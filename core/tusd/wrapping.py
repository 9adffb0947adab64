"""Wrappers around a store: they delegate all, and you override what you change.

A wrapper that overrides `append` must override `concatenate` and `read`, too, or take them away from `capabilities`: the bytes
it stores may not be the bytes that came.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import cast

from .locking import Lease
from .model import UploadId, UploadInfo
from .storage import (
    Atomic,
    Body,
    Capability,
    Concatenable,
    DataStore,
    Listable,
    Readable,
    Terminable,
    Upload,
)


class WrappedUpload(Upload, Terminable, Concatenable, Atomic):
    """An upload around another. What it can do is what the store's `capabilities` say."""

    def __init__(self, inner: Upload) -> None:
        self.inner = inner

    @property
    def info(self) -> UploadInfo:  # type: ignore[override]
        """The inner upload's."""
        return self.inner.info

    async def append(self, body: Body) -> int:
        return await self.inner.append(body)

    async def save(self, info: UploadInfo) -> None:
        await self.inner.save(info)

    async def finish(self) -> None:
        await self.inner.finish()

    async def terminate(self) -> None:
        await cast(Terminable, self.inner).terminate()

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        await cast(Concatenable, self.inner).concatenate(parts)


class WrappedStore(DataStore, Readable, Listable):
    """A store around another; `wrap` makes its uploads."""

    upload_class = WrappedUpload

    def __init__(self, inner: DataStore) -> None:
        self.inner = inner

    def wrap(self, upload: Upload) -> Upload:
        """The upload that the engine gets for one of the inner store."""
        return WrappedUpload(upload)

    @property
    def capabilities(self) -> frozenset[type[Capability]]:
        """The inner store's; take away what the wrapper cannot keep."""
        return self.inner.capabilities

    async def create(self, info: UploadInfo, lease: Lease | None) -> Upload:
        return self.wrap(await self.inner.create(info, lease))

    async def info(self, upload_id: UploadId) -> UploadInfo:
        return await self.inner.info(upload_id)

    async def open(self, upload_id: UploadId, lease: Lease) -> Upload:
        return self.wrap(await self.inner.open(upload_id, lease))

    async def check(self) -> None:
        await self.inner.check()

    def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        return cast(Readable, self.inner).read(info, start, stop)

    def uploads(self, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        return cast(Listable, self.inner).uploads(idle_since)
