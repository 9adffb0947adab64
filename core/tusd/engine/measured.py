"""The store, with a clock at every call."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import cast

from ..locking import Lease
from ..metrics import Metrics
from ..model import UploadId, UploadInfo
from ..storage import Concatenable, DataStore, Terminable, Upload
from ..wrapping import WrappedStore, WrappedUpload
from .figures import STORAGE_DURATION


class _Clock:
    """Measures one call, also one that fails."""

    __slots__ = ("_began", "_labels", "_metrics")

    def __init__(self, metrics: Metrics, operation: str) -> None:
        self._metrics = metrics
        self._labels = (operation,)

    def __enter__(self) -> None:
        self._began = monotonic()

    def __exit__(self, *failure: object) -> None:
        self._metrics.observe(STORAGE_DURATION, monotonic() - self._began, self._labels)


class MeasuredUpload(WrappedUpload):
    """An upload of a `MeasuredStore`. `append` is not measured here: it waits for the client most of the time."""

    def __init__(self, inner: Upload, metrics: Metrics) -> None:
        super().__init__(inner)
        self._metrics = metrics

    async def save(self, info: UploadInfo) -> None:
        with _Clock(self._metrics, "save"):
            await self.inner.save(info)

    async def finish(self) -> None:
        with _Clock(self._metrics, "finish"):
            await self.inner.finish()

    async def terminate(self) -> None:
        with _Clock(self._metrics, "terminate"):
            await cast(Terminable, self.inner).terminate()

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        with _Clock(self._metrics, "concatenate"):
            await cast(Concatenable, self.inner).concatenate(parts)


class MeasuredStore(WrappedStore):
    """Tells metrics how long a store takes."""

    def __init__(self, inner: DataStore, metrics: Metrics) -> None:
        super().__init__(inner)
        self._metrics = metrics

    async def create(self, info: UploadInfo, lease: Lease | None) -> Upload:
        with _Clock(self._metrics, "create"):
            upload = await self.inner.create(info, lease)
        return MeasuredUpload(upload, self._metrics)

    async def info(self, upload_id: UploadId) -> UploadInfo:
        with _Clock(self._metrics, "info"):
            return await self.inner.info(upload_id)

    async def open(self, upload_id: UploadId, lease: Lease) -> Upload:
        with _Clock(self._metrics, "open"):
            upload = await self.inner.open(upload_id, lease)
        return MeasuredUpload(upload, self._metrics)
