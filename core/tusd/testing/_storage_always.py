"""What every store must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from ..errors import UploadExists, UploadNotFound
from ..model import Final, Metadata, Partial, State, UploadId, UploadInfo, utcnow
from ..storage import Atomic, Capability, Concatenable, DataStore, Listable, Readable, Terminable
from ._storage_base import (
    StorageBase,
    assert_absent,
    assert_bytes,
    exists,
    full_upload,
    new_id,
    new_info,
    new_upload,
    remembered,
    reopen,
)
from .bodies import FakeBody, FakeLease, pattern
from .door import Door

CAPABILITIES: tuple[type[Capability], ...] = (Terminable, Concatenable, Atomic, Readable, Listable)

NOT_TEXT = Metadata(
    {"filename": b"caf\xe9.txt", "empty": b"", "nothing": b"", "bin": bytes(range(256))},
    header="filename Y2Fm6S50eHQ=,  empty ,nothing,bin " + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
)


class CreateTests(StorageBase):
    """Creating, and what is remembered of it."""

    async def test_check_says_that_the_store_is_ready(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            await store.check()

    async def test_capabilities_are_those_that_the_classes_inherit(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for capability in CAPABILITIES:
                if capability not in store.capabilities:
                    assert_absent(self, store, capability)
                    continue
                assert capability not in self.takes_away, f"takes_away names {capability.__name__}, but the store declares it"
                assert issubclass(type(store), capability) or issubclass(store.upload_class, capability), (
                    f"the store declares {capability.__name__}, but neither it nor its uploads inherit it"
                )

    async def test_uploads_are_of_the_class_that_the_store_names(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            assert isinstance(await new_upload(store), store.upload_class)

    async def test_an_unknown_upload_is_not_found(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for upload_id in (new_id(), UploadId(f"{new_id()}/{new_id()}")):
                await assert_not_found(store, upload_id)

    async def test_a_new_upload_is_empty_and_says_where_it_is(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store)
            assert (upload.info.offset, upload.info.state) == (0, State.RECEIVING)
            if self.shared():
                assert upload.info.storage, "create must set info.storage to where the upload is"
            assert (await store.info(upload.info.id)).storage == upload.info.storage

    async def test_an_upload_is_created_without_a_lease(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            info = new_info()
            await store.create(info, None)
            assert remembered(await store.info(info.id)) == remembered(info)

    async def test_every_field_is_remembered(self, tusd_door: Door[DataStore]) -> None:
        now = utcnow()
        moment = now.replace(microsecond=123456)
        parts = (new_id("part"), UploadId(f"folder/{new_id()}"))
        async with tusd_door.open() as store:
            for info in (
                new_info(0),
                new_info(2**40),
                new_info(None),
                new_info(None, max_length=5),
                new_info(metadata=NOT_TEXT),
                new_info(metadata=Metadata({"name": "naïve ☃".encode()}, header="name bmHDr3ZlIOKYgw==")),
                new_info(concat=Partial()),
                new_info(None, concat=Final(parts)),
                new_info(created=moment - timedelta(days=3), expires=moment + timedelta(days=3)),
                new_info(notes={"quota/user": "alice", "ünï": '☃ \n"'}),
                new_info(state=State.FINISHING, explicit=True),
                new_info(state=State.RECEIVING, explicit=True),
            ):
                upload = await store.create(info, FakeLease())
                assert remembered(upload.info) == remembered(info)
                assert remembered(await store.info(info.id)) == remembered(info)
                assert remembered((await reopen(store, info.id)).info) == remembered(info)

    async def test_metadata_comes_back_in_order_and_with_its_header(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, metadata=NOT_TEXT)
            found = (await store.info(upload.info.id)).metadata
            assert list(found.items()) == list(NOT_TEXT.items())
            assert found.header == NOT_TEXT.header

    async def test_create_is_exclusive(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 5, notes={"mine": "yes"})
            await upload.append(FakeBody(b"abc"))
            await assert_taken(store, new_info(7, id=upload.info.id))
            found = await store.info(upload.info.id)
            assert (found.length, found.offset, found.notes) == (5, 3, {"mine": "yes"})
            again = await reopen(store, upload.info.id)
            await again.append(FakeBody(b"de"))
            await again.finish()
            assert_bytes(await self.content(store, again.info), b"abcde")

    async def test_create_is_exclusive_when_many_try_at_once(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            same = new_id("same")
            tries = [new_info(id=same, notes={"try": str(n)}) for n in range(10)]
            results = await asyncio.gather(*(store.create(info, FakeLease()) for info in tries), return_exceptions=True)
            won = [info for info, result in zip(tries, results, strict=True) if not isinstance(result, BaseException)]
            assert [type(r) for r in results if isinstance(r, BaseException)] == [UploadExists] * 9
            assert [remembered(info) for info in won] == [remembered(await store.info(same))]


class IdTests(StorageBase):
    """Ids, which may hold everything that `protocol.urls.checked_id` lets through."""

    async def test_ids_may_hold_any_allowed_character(self, tusd_door: Door[DataStore]) -> None:
        base = new_id("ids")
        names = ["a.b.c", "-dash", "under_score", "file.txt", "in$fo", "x~!$'()*+,;=:@", "folder/upload", "f/o/l/d/e/r/upload"]
        names += ["UPPER", "upper", "info", "data.infos"]
        async with tusd_door.open() as store:
            await self._hold_their_own_bytes(store, [UploadId(f"{base}/{name}") for name in names])

    async def test_ids_may_be_long(self, tusd_door: Door[DataStore]) -> None:
        segment = new_id("long").ljust(240, "x")
        deep = "/".join([new_id("deep").ljust(200, "y")] + ["z" * 200] * 3)
        async with tusd_door.open() as store:
            await self._hold_their_own_bytes(store, [UploadId(segment), UploadId(deep)])

    async def test_ids_may_be_prefixes_of_each_other(self, tusd_door: Door[DataStore]) -> None:
        base = new_id("prefix")
        async with tusd_door.open() as store:
            await self._hold_their_own_bytes(store, [UploadId(base + rest) for rest in ("", "a", "ab", "-", ".b", "+1", "_")])

    async def test_an_id_below_another_id_is_its_own_upload_or_refused(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for below_first in (False, True):
                above = new_id("a")
                ids = [above, UploadId(f"{above}/b")]
                await self._each_or_refused(store, ids[::-1] if below_first else ids)

    async def _each_or_refused(self, store: DataStore, ids: list[UploadId]) -> None:
        first, second = ids
        await full_upload(store, b"the first", id=first)
        try:
            await full_upload(store, b"the second one", id=second)
        except UploadExists:
            await assert_not_found(store, second)
        else:
            assert_bytes(await self.content(store, await store.info(second)), b"the second one")
        assert_bytes(await self.content(store, await store.info(first)), b"the first")

    async def _hold_their_own_bytes(self, store: DataStore, ids: list[UploadId]) -> None:
        for upload_id in ids:
            await full_upload(store, upload_id.encode(), id=upload_id)
        for upload_id in ids:
            found = await store.info(upload_id)
            assert (found.id, found.offset) == (upload_id, len(upload_id))
            assert_bytes(await self.content(store, found), upload_id.encode())


class AppendTests(StorageBase):
    """Appending: the offset says what is there, always."""

    async def test_the_offset_follows_every_append(self, tusd_door: Door[DataStore]) -> None:
        data = pattern(1, 1 + 100 + self.large)
        async with tusd_door.open() as store:
            upload = await new_upload(store, len(data))
            offset = 0
            for size in (0, 1, 0, 100, self.large):
                body = FakeBody(data[offset : offset + size])
                assert await upload.append(body) == size
                assert body.safe is None or offset <= body.safe <= offset + size
                offset += size
                assert upload.info.offset == offset
                assert (await store.info(upload.info.id)).offset == offset
                assert (await reopen(store, upload.info.id)).info.offset == offset
            await upload.finish()
            assert_bytes(await self.content(store, upload.info), data)

    async def test_a_large_body_in_small_and_large_pieces(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for piece in (1000, self.large):
                data = pattern(piece, self.large)
                upload = await new_upload(store, len(data))
                assert await upload.append(FakeBody(data, piece=piece)) == len(data)
                await upload.finish()
                assert_bytes(await self.content(store, await store.info(upload.info.id)), data)

    async def test_each_append_by_a_new_holder(self, tusd_door: Door[DataStore]) -> None:
        data = pattern(2, 50)
        async with tusd_door.open() as store:
            upload_id = (await new_upload(store, len(data))).info.id
            for n in range(0, len(data), 10):
                upload = await reopen(store, upload_id, token=2 + n)
                assert upload.info.offset == n
                assert await upload.append(FakeBody(data[n : n + 10])) == 10
            await upload.finish()
            assert_bytes(await self.content(store, await store.info(upload_id)), data)

    async def test_an_upload_of_zero_bytes(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 0)
            await upload.finish()
            found = await store.info(upload.info.id)
            assert (found.offset, found.length, found.state) == (0, 0, State.COMPLETE)
            assert_bytes(await self.content(store, found), b"")

    async def test_uploads_side_by_side(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            contents = [pattern(n, 30000 + n) for n in range(10)]
            uploads = await asyncio.gather(*(full_upload(store, data) for data in contents))
            for upload, data in zip(uploads, contents, strict=True):
                assert_bytes(await self.content(store, await store.info(upload.info.id)), data)

    async def test_modified_grows_when_bytes_arrive(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store)
            await upload.append(FakeBody(b"12345"))
            first = (await store.info(upload.info.id)).modified
            await asyncio.sleep(1.1)  # some backends count in seconds
            await upload.append(FakeBody(b"67890"))
            second = (await store.info(upload.info.id)).modified
            assert first < second, "info.modified is when a byte last arrived"
            assert abs(utcnow() - second) < timedelta(minutes=5), "info.modified is a time of now, with its zone"

    async def test_info_has_no_side_effects(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store)
            await upload.append(FakeBody(b"12345"))
            first = await store.info(upload.info.id)
            for _ in range(3):
                assert await store.info(upload.info.id) == first
            assert await upload.append(FakeBody(b"67890")) == 5

    async def test_info_during_an_append_is_never_ahead(self, tusd_door: Door[DataStore]) -> None:
        data = pattern(3, 40)
        async with tusd_door.open() as store:
            upload = await new_upload(store, len(data))
            for hang_at in (0, 7, 20):
                start = upload.info.offset
                body = FakeBody(data[start:], piece=5, hang_at=hang_at)
                work = asyncio.create_task(upload.append(body))
                await body.hung(work)
                seen = (await store.info(upload.info.id)).offset
                assert start <= seen <= start + hang_at
                work.cancel()
                await asyncio.wait([work])
                assert work.cancelled()
                said = upload.info.offset
                upload = await reopen(store, upload.info.id)
                assert seen <= upload.info.offset <= start + hang_at
                assert said == upload.info.offset, "upload.info must be true after a cancelled call, too"


class StateTests(StorageBase):
    """Saving, finishing, and the three states."""

    async def test_save_replaces_what_is_remembered(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 10, notes={"old": "1"}, max_length=50)
            await upload.append(FakeBody(b"12345"))
            later = utcnow() + timedelta(hours=1)
            wanted = replace(upload.info, notes={"new": "2"}, expires=later, max_length=None, metadata=NOT_TEXT)
            await upload.save(wanted)
            assert remembered(upload.info) == remembered(wanted)
            assert remembered(await store.info(upload.info.id)) == remembered(wanted)
            assert remembered((await reopen(store, upload.info.id)).info) == remembered(wanted)

    async def test_save_never_changes_the_offset(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 10)
            await upload.append(FakeBody(b"12345"))
            for offset in (0, 3, 10):
                await upload.save(replace(upload.info, offset=offset))
                assert upload.info.offset == 5
                assert (await store.info(upload.info.id)).offset == 5
            await upload.append(FakeBody(b"67890"))
            await upload.finish()
            assert_bytes(await self.content(store, upload.info), b"1234567890")

    async def test_a_deferred_length_is_declared(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, None)
            await upload.append(FakeBody(b"12345"))
            assert (await store.info(upload.info.id)).state is State.RECEIVING
            await upload.save(replace(upload.info, length=8))
            assert (upload.info.length, upload.info.state) == (8, State.RECEIVING)
            upload = await reopen(store, upload.info.id)
            await upload.append(FakeBody(b"678"))
            await upload.finish()
            found = await store.info(upload.info.id)
            assert (found.length, found.offset, found.state) == (8, 8, State.COMPLETE)

    async def test_declaring_the_length_at_the_end_completes(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, None)
            await upload.append(FakeBody(b"12345"))
            await upload.save(replace(upload.info, length=5))
            await upload.finish()
            assert upload.info.state is State.COMPLETE
            assert (await store.info(upload.info.id)).state is State.COMPLETE

    async def test_a_state_that_is_not_explicit_follows_from_the_bytes(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 10)
            for piece, state in ((b"12345", State.RECEIVING), (b"67890", State.COMPLETE)):
                await upload.append(FakeBody(piece))
                assert upload.info.state is state
                assert (await store.info(upload.info.id)).state is state
                assert (await reopen(store, upload.info.id)).info.state is state

    async def test_an_explicit_state_is_kept_whatever_the_bytes_say(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload = await new_upload(store, 10, explicit=True)
            await upload.append(FakeBody(b"1234567890"))
            for state in (State.RECEIVING, State.FINISHING, State.COMPLETE):
                await upload.save(replace(upload.info, state=state, explicit=True))
                for info in (upload.info, await store.info(upload.info.id), (await reopen(store, upload.info.id)).info):
                    assert (info.state, info.explicit, info.offset) == (state, True, 10)
                if state is State.FINISHING:
                    await upload.finish()
                    assert (await store.info(upload.info.id)).state is State.FINISHING

    async def test_finish_may_be_repeated(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            data = pattern(4, 1000)
            upload = await full_upload(store, data)
            await upload.finish()
            again = await reopen(store, upload.info.id)
            await again.finish()
            await again.save(replace(again.info, notes={"seen": "yes"}))
            await (await reopen(store, upload.info.id)).finish()
            found = await store.info(upload.info.id)
            assert (found.offset, found.state) == (1000, State.COMPLETE)
            assert_bytes(await self.content(store, found), data)


async def assert_not_found(store: DataStore, upload_id: UploadId) -> None:
    """Neither `info` nor `open` finds it."""
    assert not await exists(store, upload_id), f"info() finds {upload_id}, which is not there"
    try:
        await store.open(upload_id, FakeLease())
    except UploadNotFound:
        return
    raise AssertionError(f"open() of the unknown upload {upload_id} did not raise UploadNotFound")


async def assert_taken(store: DataStore, info: UploadInfo) -> None:
    """Creating it raises `UploadExists`."""
    try:
        await store.create(info, FakeLease())
    except UploadExists:
        return
    raise AssertionError(f"create() of {info.id}, which exists, did not raise UploadExists")


class AlwaysTests(CreateTests, IdTests, AppendTests, StateTests):
    """All that holds for every store."""
