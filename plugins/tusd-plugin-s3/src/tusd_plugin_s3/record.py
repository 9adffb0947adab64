"""The `.info` object of one upload: read, and replaced only by whoever knows what stands there."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tusd import plugin
from tusd.plugin import Lease, UploadId, UploadInfo

from . import manifest as manifests
from .bucket import Bucket, Changed, Found, Missing
from .manifest import Manifest


class Record:
    """What an upload's `.info` says, as its holder last read or wrote it."""

    def __init__(
        self,
        bucket: Bucket,
        logger: logging.Logger,
        key: str,
        etag: str | None,
        info: UploadInfo,
        manifest: Manifest,
        lease: Lease | None = None,
    ) -> None:
        self.key = key
        """Of the `.info` object."""
        self.manifest = manifest
        self.info = manifest.shown(info)
        self.told: Callable[[UploadInfo], None] = lambda info: None
        """Called with every new `info`."""
        self.lease = lease
        self._bucket = bucket
        self._logger = logger
        self._etag = etag
        """The version that this is; None: there is none yet."""
        self._doubt: bytes | None = None
        """What was sent last, when nobody knows whether it was stored."""

    @property
    def object(self) -> str:
        """The key of the upload's object."""
        return self.info.storage["Key"]

    def check(self) -> None:
        """Immediately before each write. Raises `LeaseLost`."""
        if self.lease is not None:
            self.lease.check()

    async def create(self) -> None:
        """Write it for the first time. Raises `Changed` when there is one already."""
        text = self._text(self.info, self.manifest)
        self.check()
        self._etag = await self._bucket.put(self.key, text, absent=True, operation="put_info_object")

    async def write(self, info: UploadInfo, manifest: Manifest) -> None:
        """Replace it. The upload is, from then on, what it says.

        Raises `LeaseLost` when somebody else has replaced it, `UploadNotFound` when it is gone, `StorageUnavailable`."""
        await self.settle()
        text = self._text(info, manifest)
        self.check()
        self._doubt = text
        try:
            etag = await self._bucket.put(self.key, text, match=self._etag, operation="put_info_object")
        except Changed as error:  # with something else in its place, so what was sent will never be stored
            self._doubt = None
            await self._read()
            raise self._overtaken() from error
        self._take(etag, info, manifest)

    async def settle(self) -> None:
        """Find out what became of a write that ended in doubt. Raises as `write` does."""
        if self._doubt is None:
            return
        found = await self._read()
        if found.data == self._doubt:
            said = plugin.decode_sidecar(self.info.id, found.data, found.modified.timestamp())
            self._take(found.etag, said.info, manifests.from_json(said.more[manifests.NAME]))
        elif found.etag == self._etag:
            self._doubt = None  # should it come yet, it is refused: the next write changes the version
        else:
            raise self._overtaken()

    async def _read(self) -> Found:
        try:
            return await self._bucket.get(self.key, operation="get_info_object")
        except Missing as error:
            raise plugin.UploadNotFound() from error

    def _take(self, etag: str, info: UploadInfo, manifest: Manifest) -> None:
        self._etag, self._doubt = etag, None
        self.manifest = manifest
        self.info = manifest.shown(info)
        self.told(self.info)

    def _overtaken(self) -> plugin.TusError:
        """Somebody else works on this upload."""
        try:
            self.check()
        except plugin.LeaseLost as lost:
            return lost
        self._logger.warning(
            "the .info object was replaced by somebody else; is the locking shared by all servers?", extra=self.named
        )
        return plugin.StorageUnavailable(info=self.info)

    @property
    def named(self) -> dict[str, UploadId]:
        """For log lines."""
        return {"upload": self.info.id}

    def _text(self, info: UploadInfo, manifest: Manifest) -> bytes:
        return plugin.encode_sidecar(info, more={manifests.NAME: manifest.to_json()})
