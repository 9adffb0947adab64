"""The uploads of one bucket."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from tusd import plugin
from tusd.plugin import Lease, State, UploadId, UploadInfo

from .bucket import Bucket, Changed, Missing, Stat, all_of
from .keys import MOST_BYTES, check_length, chosen_key, new_key
from .manifest import Chunk, Manifest, Sealed, is_go_chunk, read_manifest
from .options import GcsOptions
from .sizes import LARGEST
from .upload import GcsUpload, shown

_INFO = ".info"
_CHECKED = "tusd-check.info"
"""An object that is never there: asking for it tells whether the bucket answers."""
_LISTED_AT_ONCE = 8
_REMEMBERED = 10_000
"""So many uploads are not read again for each listing."""
_DISCARDING = 4
"""So many batches of objects that are needed no more are deleted at once."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an `.info` object says."""

    kept: UploadInfo
    """As it is written there; `manifest` knows the offset."""
    manifest: Manifest
    generation: int
    ours: bool
    """The manifest stands there; else it was made of what Go tusd has left."""


class GcsStore(plugin.DataStore, plugin.Readable, plugin.Listable):
    """The uploads of one bucket."""

    upload_class = GcsUpload

    def __init__(
        self, bucket: Bucket, options: GcsOptions, memory: plugin.Memory, logger: logging.Logger, metrics: plugin.Metrics
    ) -> None:
        self.bucket = bucket
        self.options = options
        self.memory = memory
        self.logger = logger
        self.metrics = metrics
        self._known: OrderedDict[tuple[str, int], UploadInfo] = OrderedDict()
        self._discarding: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(_DISCARDING)

    async def close(self) -> None:
        """Wait for what is deleted in the background, then let go of the bucket."""
        while self._discarding:
            await asyncio.wait(self._discarding)
        self.bucket.close()

    # --- names

    def base(self, upload_id: str) -> str:
        """How the names of all objects of an upload begin, but for the complete one."""
        return self.options.prefix + upload_id

    def info_name(self, upload_id: str) -> str:
        """The name of the `.info` object."""
        return self.base(upload_id) + _INFO

    def key_of(self, info: UploadInfo) -> str:
        """The name of the complete object. A name outside the prefix, in an `.info` of whatever origin, does not count."""
        key = info.storage.get("Key", "")
        return key if key.startswith(self.options.prefix) and key != self.options.prefix else self.base(info.id)

    # --- the methods of the seam

    async def create(self, info: UploadInfo, lease: Lease | None) -> plugin.Upload:
        """Exclusive: who writes the `.info` object first has the upload.

        `info.storage["Key"]`, from a hook, is the object's name below the prefix."""
        if info.length is not None and info.length > LARGEST:
            raise plugin.StorageFull("an object of Cloud Storage has 5 TiB at the most")
        key = await self._new_key(info)
        storage = {"Type": "gcsstore", "Bucket": self.bucket.name, "Key": self.options.prefix + key}
        kept, manifest = info.at(0, storage=storage), Manifest.new(info.modified)
        if lease is not None:
            lease.check()
        try:
            generation = await self.write_info(kept, manifest, 0)
        except Changed:
            raise plugin.UploadExists() from None
        upload = GcsUpload(self, Loaded(kept, manifest, generation, ours=True), lease)
        if info.length == 0 and not info.explicit:
            await upload.finish()
        return upload

    async def _new_key(self, info: UploadInfo) -> str:
        chosen = info.storage.get("Key")
        key = chosen_key(chosen) if chosen else new_key(self.options.key, info)
        check_length(self.options.prefix, info.id, key)
        if chosen:
            with suppress(Missing):
                await self.bucket.stat(self.options.prefix + key)
                raise plugin.HookError("pre-create: storage.Key is taken; choose a name that no object has yet")
        return key

    async def info(self, upload_id: UploadId) -> UploadInfo:
        """One request, unless Go tusd has written it."""
        loaded = await self.load(upload_id)
        return shown(loaded.kept, loaded.manifest)

    async def open(self, upload_id: UploadId, lease: Lease) -> plugin.Upload:
        """After looking whether there are pieces that `.info` does not know yet."""
        upload = GcsUpload(self, await self.load(upload_id), lease)
        await upload.repair()
        return upload

    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        """From the complete object, or from the pieces while there is none."""
        whole = [(self.key_of(info), 0, info.offset)]
        places = whole if info.state is State.COMPLETE else await self._places(info)
        position = start
        while True:
            try:
                if start >= stop:
                    await self.bucket.stat(places[0][0]) if places else None
                for name, begin, end in places:
                    if begin <= position < min(end, stop):
                        async with aclosing(self.bucket.stream(name, position - begin, min(end, stop) - begin)) as pieces:
                            async for piece in pieces:
                                position += len(piece)
                                yield piece
                return
            except Missing:
                before, places = places, whole if places == whole else await self._places(info)
                if places == before:
                    raise plugin.UploadNotFound() from None

    async def _places(self, info: UploadInfo) -> list[tuple[str, int, int]]:
        """Which objects hold which bytes now."""
        manifest = (await self.load(info.id)).manifest
        if manifest.sealed is not None:
            return [(self.key_of(info), 0, manifest.sealed.size)]
        places, begin = [], 0
        for chunk in manifest.chunks:
            places.append((manifest.chunk_name(self.base(info.id), chunk.number), begin, begin + chunk.size))
            begin += chunk.size
        return places

    async def uploads(self, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        """By listing the `.info` objects; those that have not changed since the last time are not read again."""
        batch: list[tuple[str, int]] = []
        async for stat in self.bucket.listed(self.options.prefix, _INFO, "list_info_objects"):
            batch.append((stat.name, stat.generation))
            if len(batch) == _LISTED_AT_ONCE:
                for info in await self._listed(batch, idle_since):
                    yield info
                batch = []
        for info in await self._listed(batch, idle_since):
            yield info

    async def _listed(self, found: Sequence[tuple[str, int]], idle_since: datetime | None) -> list[UploadInfo]:
        infos: Sequence[UploadInfo | None] = await all_of([partial(self._one_listed, *one) for one in found])
        return [info for info in infos if info is not None and (idle_since is None or info.modified < idle_since)]

    async def _one_listed(self, name: str, generation: int) -> UploadInfo | None:
        if (known := self._known.get((name, generation))) is not None:
            self._known.move_to_end((name, generation))
            return known
        try:
            loaded = await self.load(UploadId(name[len(self.options.prefix) : -len(_INFO)]))
        except (plugin.UploadNotFound, Unreadable):
            return None
        info = shown(loaded.kept, loaded.manifest)
        if loaded.ours or loaded.manifest.sealed is not None:
            self._known[name, loaded.generation] = info
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return info

    async def check(self) -> None:
        """One request."""
        with suppress(Missing):
            await self.bucket.get(self.options.prefix + _CHECKED, "check")

    # --- `.info`

    async def write_info(self, kept: UploadInfo, manifest: Manifest, generation: int) -> int:
        """Write `.info` in the place of a generation, 0: where there is none. Returns the new one. Raises `Changed`."""
        text = plugin.encode_sidecar(kept, more=manifest.more())
        about = {"contentType": "application/json", "cacheControl": "no-store"}
        written = await self.bucket.insert(
            self.info_name(kept.id), text, match=generation, about=about, operation="put_info_object"
        )
        return written.generation

    async def load(self, upload_id: UploadId) -> Loaded:
        """What `.info` says. Raises `UploadNotFound`, `StorageUnavailable`."""
        name = self.info_name(upload_id)
        if len(name.encode()) > MOST_BYTES:
            raise plugin.UploadNotFound()
        try:
            found = await self.bucket.get(name, "get_info_object")
        except Missing:
            raise plugin.UploadNotFound() from None
        try:
            sidecar = plugin.decode_sidecar(upload_id, found.data, found.modified.timestamp())
            manifest = read_manifest(sidecar.more)
        except ValueError as error:
            self.logger.error("the .info object of upload %.8s cannot be read: %s", upload_id, error)
            raise Unreadable() from error
        if sidecar.written_for != upload_id:
            raise plugin.UploadNotFound()
        ours = manifest is not None
        if manifest is None:
            manifest = await self._of_go(sidecar.info, found.modified)
        storage = {"Type": "gcsstore", "Bucket": self.bucket.name, "Key": self.key_of(sidecar.info)}
        return Loaded(sidecar.info.at(0, manifest.modified, storage), manifest, found.generation, ours)

    async def _of_go(self, info: UploadInfo, created: datetime) -> Manifest:
        """What holds the bytes of an upload that Go tusd has begun: the complete object, or pieces that are found by their names."""
        manifest = Manifest.new(created)
        try:
            stat = await self.bucket.stat(self.key_of(info))
            if stat.size == info.length:
                return manifest.with_object(Sealed(stat.size, stat.crc, stat.generation), stat.updated)
        except Missing:
            pass
        base = self.base(info.id) + "_"
        found: Mapping[str, Stat] = {stat.name: stat async for stat in self.bucket.listed(base, operation="list_chunk_objects")}
        chunks = [
            (int(suffix), Chunk(suffix, stat.size, stat.crc), stat.updated)
            for name, stat in found.items()
            if is_go_chunk(suffix := name[len(base) :]) and name + _INFO not in found  # that one is another upload's object
        ]
        if not chunks:
            return manifest
        modified = max(updated for _, _, updated in chunks)
        return manifest.with_chunks([chunk for _, chunk, _ in sorted(chunks, key=lambda one: one[0])], 0, modified)

    def discard(self, names: Sequence[str]) -> None:
        """Delete objects that are needed no more, in the background. What fails is litter, which termination removes."""
        if names:
            task = asyncio.create_task(self._discard(names))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)

    async def _discard(self, names: Sequence[str]) -> None:
        with suppress(plugin.StorageUnavailable):  # logged
            async with self._turn:
                await self.bucket.delete(*names)


class Unreadable(plugin.StorageUnavailable):
    """An `.info` object that is damaged."""
