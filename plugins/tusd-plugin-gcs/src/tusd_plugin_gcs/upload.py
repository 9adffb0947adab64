"""One upload, open for work under its lock.

Every change of what counts is one replacement of the `.info` object, which only succeeds in the place of the version that was read. All
other objects have names that are used once. So a holder whose lock was lost, however late it writes, replaces nothing that counts.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tusd import plugin
from tusd.plugin import Body, Cutter, Lease, Piece, Sending, State, UploadInfo, unbroken, utcnow

from .bucket import COMPOSE_LIMIT, Changed, Missing, Source, Stat, all_of
from .figures import SPILL_DURATION
from .headers import RUN, object_fields, owner
from .manifest import Chunk, Manifest, Sealed
from .pieces import chunk_fields, find, longest
from .sealing import Target, compose_all, compose_groups, place
from .sizes import LARGEST, sizes

if TYPE_CHECKING:
    from .store import GcsStore, Loaded

MOST_LISTED = 512
"""So many pieces stand in `.info`, which is read and written by every request; when there are more, some become one."""
FOLDED = 256
"""So many of them at a time."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BytesLost(plugin.StorageUnavailable):
    """A piece that counted is not there any more."""


def shown(kept: UploadInfo, manifest: Manifest) -> UploadInfo:
    """What is told of an upload. One whose bytes are all there is not complete before its object is."""
    info = kept.at(manifest.offset, manifest.modified)
    if manifest.sealed is None and info.state is State.COMPLETE and not info.explicit:
        return replace(info, state=State.FINISHING, explicit=True)
    return info


class GcsUpload(plugin.Upload, plugin.Terminable, plugin.Concatenable, plugin.Atomic):
    """One upload of a `GcsStore`, open for work."""

    def __init__(self, store: GcsStore, loaded: Loaded, lease: Lease | None) -> None:
        self._store = store
        self._lease = lease
        self._gaps = False
        """Numbers are not in the order of the bytes."""
        self._take(loaded)

    def _take(self, loaded: Loaded) -> None:
        self._kept, self._manifest, self._generation = loaded.kept, loaded.manifest, loaded.generation
        self._claimed = loaded.ours
        """`.info` has our manifest, so that what is sent from now on will be found."""
        self._next = self._manifest.next
        self._stale = False
        """What `.info` says may be something else by now."""
        self.info = shown(self._kept, self._manifest)

    # --- the methods of the seam

    async def append(self, body: Body) -> int:
        """Send the body in pieces, several at once, then count them by a new `.info`."""
        await self._fresh()
        if not self._claimed:
            await unbroken(self._write(self._kept, self._manifest))
        before = self._manifest.offset
        first = self._next
        sending: Sending[Chunk] = Sending(self._store.options.concurrency)
        if not body.whole:
            sending.arrived = self._teller(body, before)
        try:
            whole_object = await self._receive(body, sending)
            counted = sending.results if not body.whole or await body.intact() else []
        except plugin.LeaseLost:
            self._stale = True
            raise
        except (asyncio.CancelledError, plugin.TusError, OSError) as error:
            with suppress(plugin.TusError):  # it is logged; what arrived is found by whoever opens the upload next
                await unbroken(self._count([] if body.whole else sending.results, first))
            if isinstance(error, OSError):
                raise self._spilling_failed(error) from error
            raise
        await unbroken(self._count(counted, first, whole_object))
        body.saved(self.info.offset)
        return self.info.offset - before

    async def save(self, info: UploadInfo) -> None:
        """A new `.info`; first the object, if the upload is complete by what that will say."""
        await self._fresh()
        await unbroken(self._save(self._kept.saved_as(info)))

    async def _save(self, kept: UploadInfo) -> None:
        self._check_lease()
        manifest, unneeded = self._manifest, list[str]()
        if manifest.sealed is None and not kept.explicit and manifest.offset == kept.length:
            manifest, unneeded = await self._sealed(manifest, kept)
        await self._write(kept, manifest, unneeded)

    async def finish(self) -> None:
        """Make the object of the pieces, if it is not there yet."""
        await self._fresh()
        if self._manifest.sealed is None:
            await unbroken(self._finish())

    async def _finish(self) -> None:
        await self._write(self._kept, *await self._sealed(self._manifest, self._kept))

    async def terminate(self) -> None:
        """Everything else first, `.info` last: a crash in between leaves an upload that can be terminated again."""
        self._check_lease()
        try:
            if self._stale:
                await self._reload()
            await self._remove()
        except plugin.UploadNotFound:
            return  # gone already

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        """Compose the objects of the parts, within the bucket."""
        await self._fresh()
        self._check_lease()
        if self._manifest.sealed is None:
            await unbroken(self._concatenate(parts))

    # --- appending

    async def _receive(self, body: Body, sending: Sending[Chunk]) -> Sealed | None:
        """Send all of the body; the complete object if it was all of the upload in one piece."""
        async with Cutter(body, self._store.memory, self._store.options.spill) as cutter:
            try:
                position, whole = self._manifest.offset, body.whole
                while (piece := await cutter.next(*sizes(self._store.options, self._kept.length, position))) is not None:
                    sealed = None
                    try:
                        if self._store.options.spill is not None:
                            self._store.metrics.observe(SPILL_DURATION, piece.disk_time * 1000)
                        if position + piece.size > LARGEST:
                            raise plugin.StorageFull("an object of Cloud Storage has 5 TiB at the most")
                        if piece.last and not sending.started:
                            if whole and not await body.intact():
                                piece.release()
                                break
                            whole = False  # it counts, as soon as it is there
                            if not position and piece.size == self._kept.length:
                                sealed = await self._insert_all(piece)
                        if sealed is None:
                            await sending.start(partial(self._send, piece, self._new_number(), position, whole=whole))
                    except BaseException:
                        piece.release()
                        raise
                    if sealed is not None:
                        return sealed
                    position += piece.size
                await sending.end()
                return None
            finally:
                await sending.settle()

    def _new_number(self) -> int:
        self._next += 1
        return self._next - 1

    async def _send(self, piece: Piece, number: int, begin: int, *, whole: bool) -> Chunk:
        """Send a piece under a number that nobody has used."""
        try:
            while True:
                self._check_lease()
                about = chunk_fields(self._kept.id, begin, utcnow(), whole=whole)
                try:
                    stat = await self._store.bucket.insert(
                        self._chunk_name(number), piece.data, match=0, about=about, operation="put_chunk_object"
                    )
                    return Chunk(number, stat.size, stat.crc)
                except Changed:  # a holder that has lost the lock was not dead
                    number = self._new_number()
                    self._gaps = True
        finally:
            piece.release()

    def _teller(self, body: Body, offset: int) -> Callable[[Chunk], None]:
        def arrived(chunk: Chunk) -> None:
            nonlocal offset
            offset += chunk.size
            if not self._gaps:  # or `find` might stop before it
                body.saved(offset)

        return arrived

    async def _insert_all(self, piece: Piece) -> Sealed:
        """The object at once, of an upload that came in one piece."""
        try:
            crc = await self._store.bucket.crc32c(piece.data)
            target = self._target(self._manifest, self._kept)

            async def write(match: int) -> Stat:
                return await self._store.bucket.insert(
                    target.name, piece.data, match=match, about=target.fields, crc=crc, final=True, operation="put_object"
                )

            return await self._place(target, (piece.size, crc), write)
        finally:
            piece.release()

    async def _count(self, chunks: Sequence[Chunk], first: int, whole_object: Sealed | None = None) -> None:
        """Let these pieces count, and no other that was sent."""
        now = utcnow()
        manifest = self._manifest.with_chunks(chunks, self._next, now)
        if whole_object is not None:
            manifest = manifest.with_object(whole_object, now)
        if manifest == self._manifest:
            return
        failure: plugin.StorageUnavailable | None = None
        unwanted = set(range(first, self._next)) - {chunk.number for chunk in chunks}
        unneeded = [self._chunk_name(number) for number in sorted(unwanted)]
        try:
            if manifest.sealed is None and not self._kept.explicit and manifest.offset == self._kept.length:
                manifest, done_with = await self._sealed(manifest, self._kept)
                unneeded += done_with
            elif len(manifest.chunks) > MOST_LISTED:
                manifest, done_with = await self._folded(manifest)
                unneeded += done_with
        except BytesLost:
            raise
        except plugin.StorageUnavailable as error:  # the bytes count all the same
            failure = error if manifest.offset == self._kept.length else None
        await self._write(self._kept, manifest, unneeded)
        if failure is not None:
            raise failure

    async def _folded(self, manifest: Manifest) -> tuple[Manifest, list[str]]:
        """With the oldest pieces put together, some dozens in one, so that `.info` stays small; and what is not needed then."""
        target = self._target(manifest, self._kept)
        old, rest = manifest.chunks[:FOLDED], manifest.chunks[FOLDED:]
        groups = [old[start : start + COMPOSE_LIMIT] for start in range(0, FOLDED, COMPOSE_LIMIT)]
        sources = [[Source(manifest.chunk_name(target.base, one.number), one.size, one.crc) for one in group] for group in groups]
        try:
            made = await compose_groups(
                self._store.bucket,
                target,
                sources,
                lambda _: self._chunk_name(self._new_number()),
                self._check_lease,
                self._store.logger,
            )
        except (Missing, Changed):  # a name that is taken is left alone; what is missing is found out when all is there
            return replace(manifest, next=self._next), []
        folded = tuple(Chunk(int(one.name.rpartition("_")[2]), one.size, one.crc) for one in made)
        return replace(manifest, chunks=folded + rest, next=self._next), [one.name for group in sources for one in group]

    def _spilling_failed(self, error: OSError) -> plugin.TusError:
        self._store.logger.error("a piece cannot be kept in %s: %s", self._store.options.spill, error.strerror)
        return plugin.StorageFull() if error.errno in _FULL else plugin.StorageUnavailable()

    # --- the complete object

    async def _sealed(self, manifest: Manifest, kept: UploadInfo) -> tuple[Manifest, list[str]]:
        """With the object that the pieces make; and the names of what is not needed then."""
        target = self._target(manifest, kept)
        if not manifest.chunks:
            return manifest.with_object(await self._insert_empty(target)), []
        sources = [Source(manifest.chunk_name(target.base, one.number), one.size, one.crc) for one in manifest.chunks]
        try:
            sealed, made = await compose_all(self._store.bucket, target, sources, self._check_lease, self._store.logger)
        except Missing:
            await self._recount(manifest, target)
            raise BytesLost() from None
        return manifest.with_object(sealed), [source.name for source in sources] + made

    async def _insert_empty(self, target: Target) -> Sealed:
        async def write(match: int) -> Stat:
            return await self._store.bucket.insert(
                target.name, b"", match=match, about=target.fields, crc=0, final=True, operation="put_object"
            )

        return await self._place(target, (0, 0), write)

    async def _place(self, target: Target, expected: tuple[int, int], write: Callable[[int], Awaitable[Stat]]) -> Sealed:
        return await place(self._store.bucket, target, expected, write, self._check_lease, self._store.logger)

    async def _recount(self, manifest: Manifest, target: Target) -> None:
        """A piece is not there: a termination broke off, or somebody else has removed it. What lies before it is left."""
        names = [manifest.chunk_name(target.base, one.number) for one in manifest.chunks]
        there = 0
        for name in names:
            try:
                await self._store.bucket.stat(name, "stat_chunk_object")
            except Missing:
                break
            there += 1
        left = replace(manifest, chunks=manifest.chunks[:there])
        self._store.logger.error(
            "upload %.8s has lost bytes: object %d of its %d pieces was removed; %d bytes are left",
            self._kept.id,
            there + 1,
            len(names),
            left.offset,
        )
        await self._write(self._kept, left)

    async def _concatenate(self, parts: Sequence[UploadInfo]) -> None:
        bucket, names = self._store.bucket, [self._store.key_of(part) for part in parts]
        try:
            found = await all_of([partial(bucket.stat, name, "stat_part_object") for name in dict.fromkeys(names)])
            stats: dict[str, Stat] = {stat.name: stat for stat in found}
            target = self._target(self._manifest, self._kept)
            sources = [Source(one.name, one.size, one.crc, one.generation) for name in names if (one := stats[name]).size]
            if sources:
                sealed, made = await compose_all(bucket, target, sources, self._check_lease, self._store.logger)
            else:
                sealed, made = await self._insert_empty(target), []
        except (Missing, Changed):
            raise plugin.UploadNotFound() from None
        manifest = replace(self._manifest, next=max(self._manifest.next, 1)).with_object(sealed, utcnow())
        await self._write(self._kept, manifest, made)

    # --- `.info`

    async def repair(self) -> None:
        """Count what a holder had sent that died before it could."""
        if not self._claimed or self._manifest.sealed is not None:
            return

        async def stat(number: int) -> Stat:
            return await self._store.bucket.stat(self._chunk_name(number), "stat_chunk_object")

        found, self._next = await find(stat, self._manifest.next)
        chain = longest(found, self._manifest.offset)
        if chain:
            modified = max(one.updated for one in chain)
            manifest = self._manifest.with_chunks([one.chunk for one in chain], self._next, modified)
            await unbroken(self._write(self._kept, manifest))

    async def _fresh(self) -> None:
        """See to it that we know what `.info` says."""
        if self._stale:
            await self._reload()
            await self.repair()

    async def _reload(self) -> None:
        loaded = await self._store.load(self._kept.id)
        if self._claimed and loaded.manifest.run != self._manifest.run:
            raise plugin.UploadNotFound()  # another upload has the id now
        self._take(loaded)

    async def _write(self, kept: UploadInfo, manifest: Manifest, unneeded: Sequence[str] = ()) -> None:
        """Replace `.info`; from then on that is the truth, and these objects are not needed any more."""
        self._check_lease()
        self._stale = True
        try:
            generation = await self._store.write_info(kept, manifest, self._generation)
        except Changed:
            raise await self._overtaken() from None
        self._stale = False
        self._kept, self._manifest, self._generation, self._claimed = kept, manifest, generation, True
        self._next = max(self._next, manifest.next)
        self.info = shown(kept, manifest)
        self._store.discard(unneeded)

    async def _overtaken(self) -> plugin.TusError:
        """Somebody else has replaced `.info`, or removed it, so our lock must have been lost."""
        self._check_lease()
        try:
            await self._store.load(self._kept.id)
        except plugin.UploadNotFound as error:
            return error
        self._store.logger.error("upload %.8s was changed by somebody else, though it is locked here", self._kept.id)
        return plugin.StorageUnavailable(info=self.info)

    async def _remove(self) -> None:
        bucket, manifest, base = self._store.bucket, self._manifest, self._store.base(self._kept.id)
        names = [manifest.chunk_name(base, chunk.number) for chunk in manifest.chunks]
        if self._claimed and (manifest.next or self._next):
            names += [stat.name async for stat in bucket.listed(f"{base}_{manifest.run}_", operation="list_chunk_objects")]
        self._check_lease()
        await bucket.delete(*dict.fromkeys(names))
        with suppress(Changed):  # another upload's by now
            await self._remove_object(manifest)
        self._check_lease()
        try:
            await bucket.remove(self._store.info_name(self._kept.id), self._generation, "delete_info_object")
        except Changed:
            self._stale = True
            raise await self._overtaken() from None

    async def _remove_object(self, manifest: Manifest) -> None:
        bucket, key = self._store.bucket, self._store.key_of(self._kept)
        if manifest.sealed is not None:
            self._check_lease()
            await bucket.remove(key, manifest.sealed.generation)
            return
        try:
            stat = await bucket.stat(key)
        except Missing:
            return
        if stat.metadata.get(RUN) == manifest.run:
            self._check_lease()
            await bucket.remove(key, stat.generation)

    def _target(self, manifest: Manifest, kept: UploadInfo) -> Target:
        key, base = self._store.key_of(kept), self._store.base(kept.id)
        return Target(key, base, owner(kept.id), manifest.run, object_fields(kept, manifest.run))

    def _chunk_name(self, number: int) -> str:
        return self._manifest.chunk_name(self._store.base(self._kept.id), number)

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()
