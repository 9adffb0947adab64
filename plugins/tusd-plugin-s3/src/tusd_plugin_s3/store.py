"""The uploads of one bucket. How one of them lives there: `manifest`, `appending`, and docs/explanation/object-storage.md."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime

from tusd import plugin
from tusd.plugin import Lease, State, UploadId, UploadInfo

from . import go
from . import manifest as manifests
from .bucket import Bucket, Changed, Found, Listed, Missing
from .context import Context
from .manifest import Manifest
from .options import Options
from .profiles import Profile
from .record import Record
from .upload import S3Upload

_LISTED = 10_000
"""How many uploads' infos a worker keeps from listing to listing."""
_LOOKS = 16
"""Of how many uploads the `.info` is read at once for a listing."""


class S3Store(plugin.DataStore, plugin.Readable, plugin.Listable):
    """The uploads of one bucket, for one worker."""

    upload_class = S3Upload

    def __init__(self, bucket: Bucket, options: Options, rules: Profile, memory: plugin.Memory, worker: plugin.Worker) -> None:
        self._context = Context(bucket, options, rules, memory, worker)
        self._bucket = bucket
        self._keys = self._context.keys
        self._logger = worker.logger
        self._listed: OrderedDict[tuple[str, str], UploadInfo] = OrderedDict()
        """By key and ETag of the `.info` object."""

    async def close(self) -> None:
        """Wait for what is removed in the background."""
        await self._context.close()

    async def check(self) -> None:
        """Whether the server answers."""
        await self._bucket.check()

    # --- the seam

    async def create(self, info: UploadInfo, lease: Lease | None) -> plugin.Upload:
        """Exclusive where the server has conditional writes; elsewhere two that come at the same moment are not told apart.

        `info.storage["Key"]`, from a hook, is relative to the prefix."""
        self._context.check_length(info)
        chosen = info.storage.get("Key")
        try:
            key = self._keys.chosen(chosen) if chosen else self._keys.object(info)
        except ValueError as error:
            raise plugin.HookError(f"pre-create: the id or storage.Key cannot be used: {error}") from error
        info = info.at(0, info.created, storage=self._storage(key))
        record = Record(self._bucket, self._logger, self._keys.info(info.id), None, info, Manifest(), lease)
        record.check()
        if chosen and await self._exists(key):
            raise plugin.HookError("pre-create: storage.Key is taken; choose a key where nothing is yet")
        if not self._bucket.conditional and await self._exists(record.key):
            raise plugin.UploadExists()
        try:
            await plugin.unbroken(record.create())
        except Changed as error:
            raise plugin.UploadExists() from error
        return S3Upload(self._context, record)

    async def info(self, upload_id: UploadId) -> UploadInfo:
        """One GET."""
        return (await self._load(upload_id, None)).info

    async def open(self, upload_id: UploadId, lease: Lease) -> plugin.Upload:
        """Lists parts only when a holder has died while it sent some."""
        upload = S3Upload(self._context, await self._load(upload_id, lease))
        await plugin.unbroken(upload.ready())
        return upload

    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The object's bytes, in pieces of 1 MiB at most."""
        if start >= stop:
            return
        try:
            async with aclosing(self._context.stream(info.storage["Key"], start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
        except Missing as error:
            raise (plugin.UploadNotFound() if info.state is State.COMPLETE else plugin.IncompleteUpload()) from error

    async def uploads(self, idle_since: datetime | None = None) -> AsyncGenerator[UploadInfo, None]:
        """All `.info` objects are listed, and those read that are new since the listing before. Unreadable ones are logged."""
        batch: list[Listed] = []
        async for listed in self._bucket.list(self._keys.below):
            if self._keys.upload(listed.key) is not None:
                batch.append(listed)
            if len(batch) == _LOOKS:
                for info in await self._look(batch):
                    if idle_since is None or info.modified < idle_since:
                        yield info
                batch = []
        for info in await self._look(batch):
            if idle_since is None or info.modified < idle_since:
                yield info

    # --- what is there

    async def _load(self, upload_id: UploadId, lease: Lease | None) -> Record:
        key, found = await self._find(upload_id)
        return await self._parsed(upload_id, key, found, lease)

    async def _find(self, upload_id: UploadId) -> tuple[str, Found]:
        key = self._keys.info(upload_id)
        try:
            return key, await self._bucket.get(key, operation="get_info_object")
        except Missing as error:
            if (named := go.split(upload_id)) is None:
                raise plugin.UploadNotFound() from error
        key = self._keys.info(named[0])
        try:
            return key, await self._bucket.get(key, operation="get_info_object")
        except Missing as error:
            raise plugin.UploadNotFound() from error

    async def _parsed(self, upload_id: UploadId, key: str, found: Found, lease: Lease | None) -> Record:
        """Raises `UploadNotFound` when it is another upload's."""
        try:
            said = plugin.decode_sidecar(upload_id, found.data, found.modified.timestamp())
            ours = said.more.get(manifests.NAME)
            manifest = None if ours is None else manifests.from_json(ours)
        except ValueError as error:
            self._logger.error(
                "a damaged .info object: %s; restore it, or remove what belongs to the upload", error, extra={"upload": upload_id}
            )
            raise plugin.StorageUnavailable() from error
        if said.written_for != upload_id:
            raise plugin.UploadNotFound()
        named = go.split(upload_id)
        name = named[0] if manifest is None and named is not None else upload_id
        info = replace(said.info, storage=self._storage(said.info.storage.get("Key") or self._keys.prefix + name))
        if manifest is None:
            info, manifest = await go.adopted(self._bucket, self._keys, info, found.modified)
        return Record(self._bucket, self._logger, key, found.etag, info, manifest, lease)

    async def _look(self, batch: Sequence[Listed]) -> list[UploadInfo]:
        found = await asyncio.gather(*(self._look_at(listed) for listed in batch))
        return [info for info in found if info is not None]

    async def _look_at(self, listed: Listed) -> UploadInfo | None:
        known = (listed.key, listed.etag)
        if known in self._listed:
            self._listed.move_to_end(known)
            return self._listed[known]
        name = UploadId(self._keys.upload(listed.key) or "")
        with suppress(plugin.UploadNotFound, plugin.StorageUnavailable, Missing):  # the second was logged
            found = await self._bucket.get(listed.key, operation="get_info_object")
            upload_id, ours = _written_for(found.data, name)
            record = await self._parsed(upload_id, listed.key, found, None)
            if ours:  # what it says is all
                self._remember((listed.key, found.etag), record.info)
            return record.info
        return None

    def _remember(self, known: tuple[str, str], info: UploadInfo) -> None:
        self._listed[known] = info
        if len(self._listed) > _LISTED:
            self._listed.popitem(last=False)

    async def _exists(self, key: str) -> bool:
        try:
            await self._bucket.head(key)
        except Missing:
            return False
        return True

    def _storage(self, key: str) -> Mapping[str, str]:
        return {"Type": "s3store", "Bucket": self._bucket.name, "Key": key}


def _written_for(text: bytes, name: UploadId) -> tuple[UploadId, bool]:
    """Whose `.info` object it is, that of upload `name` or of one of Go's with this name; and whether its manifest stands in it."""
    with suppress(ValueError, AttributeError, TypeError):
        said = json.loads(text)
        upload_id = UploadId(str(said.get("ID")))
        named = go.split(upload_id)
        return (upload_id if named is not None and named[0] == name else name), manifests.NAME in (said.get("tusd") or {})
    return name, False
