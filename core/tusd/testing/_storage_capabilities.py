"""What a store must do for each capability that it declares."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from ..errors import LeaseLost, UploadNotFound
from ..model import Final, Partial, State, UploadId, UploadInfo, utcnow
from ..storage import Atomic, Concatenable, DataStore, Listable, Readable, Terminable, Upload
from ._storage_always import assert_not_found
from ._storage_base import (
    StorageBase,
    assert_bytes,
    assert_resumable,
    concatenate,
    full_upload,
    needs,
    new_id,
    new_upload,
    reopen,
    terminate,
)
from .bodies import FakeBody, FakeLease, pattern
from .door import Door

BEFORE = b"what was there before, "
WHOLE = BEFORE + pattern(5, 100)


class TerminableTests(StorageBase):
    """`Terminable`: uploads go, and nothing else does."""

    @needs(Terminable)
    async def test_a_terminated_upload_is_gone(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for sent in (b"", b"12345", b"1234567890"):
                upload = await new_upload(store, 10)
                await upload.append(FakeBody(sent))
                await terminate(upload)
                await assert_not_found(store, upload.info.id)

    @needs(Terminable)
    async def test_terminate_may_be_repeated(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await full_upload(store, b"12345")
            other = await reopen(store, upload.info.id)
            await terminate(upload)
            await terminate(upload)
            await terminate(other)
            await assert_not_found(store, upload.info.id)

    @needs(Terminable)
    async def test_the_id_of_a_terminated_upload_is_free_again(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            first = await full_upload(store, b"the first", notes={"first": "yes"})
            await terminate(first)
            second = await new_upload(store, 6, id=first.info.id)
            assert (second.info.offset, second.info.notes) == (0, {})
            await second.append(FakeBody(b"second"))
            await second.finish()
            assert_bytes(await self.content(store, await store.info(first.info.id)), b"second")

    @needs(Terminable)
    async def test_other_uploads_are_untouched(self, tusd_door: Door[DataStore]) -> None:
        base = new_id("gone")
        others = [UploadId(base + rest) for rest in ("x", "-", ".x", "0/x")]
        async with tusd_door.open() as store:
            for other in others:
                await full_upload(store, other.encode(), id=other)
            await terminate(await full_upload(store, b"12345", id=base))
            for other in others:
                assert_bytes(await self.content(store, await store.info(other)), other.encode())

    @needs(Terminable, Readable)
    async def test_terminating_during_a_read_ends_the_read(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            data = pattern(1, self.large)
            upload = await full_upload(store, data)
            reading = _read(store, upload.info, 0, len(data))
            found = await anext(reading)
            await terminate(upload)
            try:
                found += b"".join([piece async for piece in reading])
            except UploadNotFound:
                pass  # the reader may be told, or get the rest; never other bytes
            assert_bytes(found, data[: len(found)])
            await assert_not_found(store, upload.info.id)


class ConcatenableTests(StorageBase):
    """`Concatenable`: a final upload holds the bytes of its parts, in order."""

    @needs(Concatenable)
    async def test_parts_are_put_together_in_order_and_kept(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for contents in ([b"first ", b"second"], [b"the only one"], [b"", b"x", b""], [b""], [b"22", b"1"]):
                await self._concatenated(store, contents)

    @needs(Concatenable)
    async def test_a_hundred_parts(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            await self._concatenated(store, [pattern(n, n * 7 % 40) for n in range(100)])

    @needs(Concatenable)
    async def test_large_parts(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            await self._concatenated(store, [pattern(1, self.large), pattern(2, 10), pattern(3, self.large)])

    @needs(Concatenable)
    async def test_the_same_part_twice(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            part = (await full_upload(store, b"again ", concat=Partial())).info
            final = await new_final(store, [part, part])
            await concatenate(final, [part, part])
            await final.finish()
            assert_bytes(await self.content(store, await store.info(final.info.id)), b"again again ")

    @needs(Concatenable)
    async def test_concatenate_may_be_repeated(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            parts = await new_parts(store, [b"first ", b"second"])
            final = await new_final(store, parts)
            await concatenate(final, parts)
            await concatenate(final, parts)
            again = await reopen(store, final.info.id)
            await concatenate(again, parts)
            await again.finish()
            assert again.info.offset == 12
            assert_bytes(await self.content(store, await store.info(final.info.id)), b"first second")

    @needs(Concatenable)
    async def test_a_missing_part_is_not_found(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            there = (await new_parts(store, [b"first "]))[0]
            gone = await gone_upload(store)
            final = await new_final(store, [there, gone])
            try:
                await concatenate(final, [there, gone])
            except UploadNotFound:
                pass
            else:
                raise AssertionError("concatenate() with a part that is gone did not raise UploadNotFound")
            assert (await store.info(final.info.id)).state is not State.COMPLETE
            assert_bytes(await self.content(store, await store.info(there.id)), b"first ")

    async def _concatenated(self, store: DataStore, contents: list[bytes]) -> None:
        parts = await new_parts(store, contents)
        final = await new_final(store, parts)
        assert final.info.offset == 0
        await concatenate(final, parts)
        whole = b"".join(contents)
        assert final.info.offset == len(whole)
        await final.finish()
        found = await store.info(final.info.id)
        assert (found.offset, found.state, found.concat) == (len(whole), State.COMPLETE, final.info.concat)
        assert_bytes(await self.content(store, found), whole)
        for part, content in zip(parts, contents, strict=True):
            assert_bytes(await self.content(store, await store.info(part.id)), content)


class AtomicTests(StorageBase):
    """`Atomic`: a whole body counts or does not; what came before it always does."""

    @needs(Atomic)
    async def test_a_whole_body_that_is_intact_is_kept(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await self._before_a_whole_body(store)
            assert await upload.append(self._whole_body()) == 100
            assert upload.info.offset == len(WHOLE)
            await assert_resumable(self, store, upload.info.id, WHOLE, at_least=len(WHOLE))

    @needs(Atomic)
    async def test_whole_bodies_one_after_the_other(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, len(WHOLE))
            for n in range(0, len(WHOLE), 20):
                piece = WHOLE[n : n + 20]
                assert await upload.append(FakeBody(piece, whole=True, intact=False)) == 0
                assert await upload.append(FakeBody(piece, whole=True)) == len(piece)
            await assert_resumable(self, store, upload.info.id, WHOLE, at_least=len(WHOLE))

    @needs(Atomic)
    async def test_nothing_of_a_broken_whole_body_is_kept(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for body in (self._whole_body(intact=False), *(self._whole_body(stop_at=k) for k in (0, 1, 50, 99))):
                upload = await self._before_a_whole_body(store)
                assert await upload.append(body) == 0
                assert upload.info.offset == len(BEFORE)
                assert body.safe is None or body.safe <= len(BEFORE), "body.saved() called bytes safe that do not count"
                await self._only_what_was_before(store, upload.info.id)

    @needs(Atomic)
    async def test_nothing_of_a_cancelled_whole_body_is_kept(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for hang_at in (0, 1, 50, 100):
                upload = await self._before_a_whole_body(store)
                body = self._whole_body(hang_at=hang_at)
                work = asyncio.create_task(upload.append(body))
                await body.hung(work)
                assert (await store.info(upload.info.id)).offset == len(BEFORE), "info() counts a body that may break yet"
                work.cancel()
                await asyncio.wait([work])
                assert work.cancelled()
                assert upload.info.offset == len(BEFORE)
                await self._only_what_was_before(store, upload.info.id)

    @needs(Atomic)
    async def test_nothing_of_a_whole_body_counts_when_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for lose_at in (0, 1, 50, 100):
                upload = await self._before_a_whole_body(store)
                try:
                    await upload.append(self._whole_body(lose_at=lose_at))
                except LeaseLost:
                    await self._only_what_was_before(store, upload.info.id)
                    continue
                raise AssertionError("append() did not raise the LeaseLost of its body")

    async def _before_a_whole_body(self, store: DataStore) -> Upload:
        upload = await new_upload(store, len(WHOLE))
        await upload.append(FakeBody(BEFORE))
        return upload

    def _whole_body(self, *, intact: bool = True, **where: int) -> FakeBody:
        return FakeBody(WHOLE[len(BEFORE) :], FakeLease(), piece=10, whole=True, intact=intact, **where)

    async def _only_what_was_before(self, store: DataStore, upload_id: UploadId) -> None:
        kept = len(BEFORE)
        await assert_resumable(self, store, upload_id, WHOLE, at_least=kept, at_most=kept)


class ReadableTests(StorageBase):
    """`Readable`: the bytes, in every range."""

    @needs(Readable)
    async def test_every_range_of_a_small_upload(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            data = pattern(6, 11)
            info = (await full_upload(store, data)).info
            for start in range(12):
                for stop in range(start, 12):
                    assert_bytes(await _read_all(store, info, start, stop), data[start:stop])

    @needs(Readable)
    async def test_ranges_of_a_large_upload_by_several_readers_at_once(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            data = pattern(7, self.large)
            info = (await full_upload(store, data)).info
            ends = [0, 1, 4096, 65537, self.large // 2, self.large - 1, self.large]
            ranges = [(a, b) for a in ends for b in ends if a <= b]
            found = await asyncio.gather(*(_read_all(store, info, a, b) for a, b in ranges))
            for (start, stop), piece in zip(ranges, found, strict=True):
                assert_bytes(piece, data[start:stop])

    @needs(Readable)
    async def test_abandoned_readers_leak_nothing(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            data = pattern(9, self.large)
            info = (await full_upload(store, data)).info
            await self._abandon(store, info)
            before = _open_files()
            for _ in range(30):
                await self._abandon(store, info)
            assert _open_files() <= before + 5, "files or connections of abandoned readers stay open"
            assert_bytes(await _read_all(store, info, 0, len(data)), data)

    async def _abandon(self, store: DataStore, info: UploadInfo) -> None:
        reading = _read(store, info, 0, info.offset)
        assert await anext(reading)
        close = getattr(reading, "aclose", None)  # an AsyncIterator need not be a generator
        if close is not None:
            await close()

    @needs(Readable)
    async def test_reading_what_is_gone_is_not_found(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            try:
                await _read_all(store, await gone_upload(store), 0, 5)
            except UploadNotFound:
                return
            raise AssertionError("reading an upload that is gone did not raise UploadNotFound")


class ListableTests(StorageBase):
    """`Listable`: what is held. The backend may hold uploads of others, too."""

    @needs(Listable)
    async def test_all_uploads_are_listed(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            base = new_id("listed")
            mine = {(await new_upload(store, id=UploadId(f"{base}{rest}"))).info.id for rest in ("", ".x", "-y", "0/z", "0/y/x")}
            mine.add((await full_upload(store, b"12345")).info.id)
            found = {info.id: info async for info in _uploads(store)}
            assert mine <= set(found), f"not listed: {sorted(mine - set(found))}"
            for upload_id in mine:
                assert found[upload_id] == await store.info(upload_id)

    @needs(Listable)
    async def test_idle_since_leaves_out_those_that_got_bytes_later(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await full_upload(store, b"12345")
            hour = timedelta(hours=1)
            assert upload.info.id in {info.id async for info in _uploads(store, utcnow() + hour)}
            assert upload.info.id not in {info.id async for info in _uploads(store, utcnow() - hour)}

    @needs(Listable, Terminable)
    async def test_listing_while_uploads_come_and_go(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            staying = {(await full_upload(store, b"stays")).info.id for _ in range(5)}
            going = [await full_upload(store, b"goes") for _ in range(5)]
            found = set()
            async for info in _uploads(store):
                found.add(info.id)
                if going:
                    await terminate(going.pop())
                    await new_upload(store)
            assert staying <= found


class CapabilityTests(TerminableTests, ConcatenableTests, AtomicTests, ReadableTests, ListableTests):
    """All that holds for stores which declare it."""


async def new_parts(store: DataStore, contents: list[bytes]) -> list[UploadInfo]:
    """Complete partial uploads."""
    return [(await full_upload(store, content, concat=Partial())).info for content in contents]


async def new_final(store: DataStore, parts: list[UploadInfo]) -> Upload:
    """The final upload of these parts, created and still empty."""
    return await new_upload(store, sum(part.offset for part in parts), concat=Final(tuple(part.id for part in parts)))


async def gone_upload(store: DataStore) -> UploadInfo:
    """What was known of a complete partial upload that is there no more."""
    upload = await full_upload(store, b"12345", concat=Partial())
    if Terminable not in store.capabilities:
        return replace(upload.info, id=new_id("gone"), storage={})
    await terminate(upload)
    return upload.info


def _read(store: DataStore, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
    return cast(Readable, store).read(info, start, stop)


async def _read_all(store: DataStore, info: UploadInfo, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in _read(store, info, start, stop)])


def _uploads(store: DataStore, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
    return cast(Listable, store).uploads(idle_since)


def _open_files() -> int:
    """How many files and sockets this process has open; 0 where that cannot be told."""
    listing = Path("/proc/self/fd")
    return len(os.listdir(listing)) if listing.exists() else 0
