"""What an S3 store does, and which requests it takes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_bucket import RULES, Dead, MemoryBucket, Server, Thing, new_store
from tusd import plugin
from tusd.plugin import State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd.testing.faults import cancelled_at
from tusd_plugin_s3.profiles import Profile
from tusd_plugin_s3.store import S3Store

DATA = pattern(1, 60)


async def new_upload(store: S3Store, length: int | None = 60, **fields: Any) -> Any:
    return await store.create(UploadInfo(**{"id": UploadId("u"), "length": length, **fields}), FakeLease())


async def reopened(store: S3Store, upload_id: str = "u") -> Any:
    return await store.open(UploadId(upload_id), FakeLease())


async def content(store: S3Store, upload_id: str = "u") -> bytes:
    info = await store.info(UploadId(upload_id))
    return b"".join([piece async for piece in store.read(info, 0, info.offset)])


def said(bucket: MemoryBucket, key: str = "u.info") -> Mapping[str, Any]:
    """The manifest in an `.info` object."""
    found: Mapping[str, Any] = json.loads(bucket.server.objects[key].data)["tusd"]["s3"]
    return found


class TestRequests:
    """Which requests each operation takes: what an upload costs, and how long it waits."""

    async def calls(self, store: S3Store, bucket: MemoryBucket, work: Any) -> list[str]:
        bucket.calls.clear()
        await work
        await store.close()
        return [call[0] for call in bucket.calls]

    async def test_head_is_one_get_however_many_parts_there_are(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA, stop_at=55))
        assert await self.calls(store, bucket, store.info(UploadId("u"))) == ["get_info_object"]
        assert await self.calls(store, bucket, reopened(store)) == ["get_info_object"]

    async def test_creation(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        assert await self.calls(store, bucket, new_upload(store)) == ["put_info_object"]

    async def test_a_small_upload_is_one_object(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store, 4)
        assert await self.calls(store, bucket, upload.append(FakeBody(b"1234"))) == ["put_object", "put_info_object"]
        assert await self.calls(store, bucket, upload.finish()) == []
        assert bucket.server.created == 0

    async def test_an_upload_of_zero_bytes_is_one_object(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store, 0)
        assert await self.calls(store, bucket, upload.finish()) == ["put_object", "put_info_object"]
        assert bucket.server.objects["u"].data == b""

    async def test_a_large_upload_at_once(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket, Profile())
        upload = await new_upload(store)
        assert await self.calls(store, bucket, upload.append(FakeBody(DATA))) == [
            "create_multipart_upload",
            "put_info_object",
            *["upload_part"] * 6,
            "put_info_object",
            "complete_multipart_upload",
            "put_info_object",
        ]
        assert await self.calls(store, bucket, upload.finish()) == []

    async def test_small_bodies_one_after_the_other(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        first = await self.calls(store, bucket, upload.append(FakeBody(DATA[:2])))
        assert first == ["put_info_object", "put_part_object", "put_info_object"], "it says first that there may be tails"
        second = await self.calls(store, bucket, upload.append(FakeBody(DATA[2:4])))  # the tail's bytes are remembered
        assert second == ["put_part_object", "put_info_object", "delete_part_object"]
        elsewhere = await reopened(new_store(bucket))
        third = await self.calls(store, bucket, elsewhere.append(FakeBody(DATA[4:8])))  # and here they are not
        assert third[:5] == ["get_part_object", "create_multipart_upload", "put_info_object", "upload_part", "put_info_object"]

    async def test_bodies_of_one_part(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA[:10]))
        calls = await self.calls(store, bucket, upload.append(FakeBody(DATA[10:20])))
        assert calls == ["put_info_object", "upload_part", "put_info_object"]

    async def test_reading_is_one_get(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA))
        assert await self.calls(store, bucket, content(store)) == ["get_info_object", "get_object"]

    async def test_terminating_a_complete_upload(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA))
        assert await self.calls(store, bucket, upload.terminate()) == ["delete_object", "delete_info_object"]

    async def test_terminating_an_unfinished_upload(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA[:13]))
        calls = await self.calls(store, bucket, upload.terminate())
        assert calls == ["abort_multipart_upload", "list_objects", "delete_object", "delete_info_object"]
        assert not bucket.server.objects and not bucket.server.multiparts

    async def test_declaring_the_length_of_what_is_there(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store, None)
        await upload.append(FakeBody(b"1234"))
        calls = await self.calls(store, bucket, upload.save(replace(upload.info, length=4)))
        assert calls == [
            "put_info_object",
            "put_object",
            "put_info_object",
            "list_objects",
            "delete_part_object",
        ]


class TestClaims:
    """Long bodies name in `.info` what has arrived, from time to time."""

    async def test_a_claim_is_renewed_when_its_numbers_are_used(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket, concurrency=1)  # three numbers at a time
        upload = await new_upload(store, 85)
        body = FakeBody(pattern(2, 85))
        await upload.append(body)
        written = [call for call in bucket.calls if call[0] == "put_info_object"]
        assert len(written) == 1 + 3 + 2, "creation; claims at parts 1, 4 and 7; the end; the object"

    async def test_what_it_names_is_called_safe_and_seen_by_others(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket, concurrency=1)
        upload = await new_upload(store, 85)
        body = FakeBody(pattern(2, 85), piece=10, hang_at=75)
        work = asyncio.create_task(upload.append(body))
        await body.hung(work)
        await asyncio.sleep(0.05)
        assert body.safe is not None
        assert (await store.info(UploadId("u"))).offset >= body.safe >= 50
        work.cancel()
        await asyncio.wait([work])
        assert upload.info.offset >= body.safe

    async def test_it_is_renewed_after_some_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tusd_plugin_s3.appending.RECLAIM", 0)
        bucket = MemoryBucket()
        store = new_store(bucket, Profile(), concurrency=1)
        upload = await new_upload(store, 60)
        await upload.append(FakeBody(DATA))
        written = [call for call in bucket.calls if call[0] == "put_info_object"]
        assert len(written) > 5

    async def test_a_body_that_must_be_whole_names_nothing_before_its_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tusd_plugin_s3.appending.RECLAIM", 0)
        bucket = MemoryBucket()
        store = new_store(bucket, concurrency=1)
        upload = await new_upload(store, 60)
        body = FakeBody(DATA, whole=True, hang_at=60)
        work = asyncio.create_task(upload.append(body))
        await body.hung(work)
        assert (await store.info(UploadId("u"))).offset == 0 and body.safe is None
        work.cancel()
        await asyncio.wait([work])
        assert upload.info.offset == 0 and "claim" not in said(bucket)

    async def test_a_crash_costs_numbers_and_no_more(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        bucket.nth, bucket.how = 6, "dies before"
        with pytest.raises(Dead):
            await upload.append(FakeBody(DATA))
        again = await reopened(new_store(MemoryBucket(bucket.server)))
        assert again.info.offset == 20
        assert said(bucket)["next"] == 4 and "claim" not in said(bucket)


class TestNumbers:
    """Part numbers end, here with 7."""

    rules = replace(RULES, most_parts=7, largest_object=200)

    async def test_a_known_length_always_fits(self) -> None:
        for size in (6, 11, 31, 200):
            bucket = MemoryBucket(Server(most=7))
            store = new_store(bucket, self.rules)
            data = pattern(3, 200)
            upload = await new_upload(store, 200)
            for start in range(0, 200, size):
                await upload.append(FakeBody(data[start : start + size]))
            assert await content(store) == data

    async def test_after_crashes_parts_are_larger(self) -> None:
        server, data = Server(most=7), pattern(3, 200)
        await new_upload(new_store(MemoryBucket(server), self.rules), 200)
        for _ in range(2):
            bucket = MemoryBucket(server)
            upload = await reopened(new_store(bucket, self.rules))
            bucket.nth, bucket.how = len(bucket.calls) + 4, "dies before"
            with pytest.raises(Dead):
                await upload.append(FakeBody(data[upload.info.offset :], piece=10))
        store = new_store(MemoryBucket(server), self.rules)
        upload = await reopened(store)
        await upload.append(FakeBody(data[upload.info.offset :]))
        assert await content(store) == data

    async def test_an_unknown_length_ends_with_what_fits(self) -> None:
        bucket = MemoryBucket(Server(most=7))
        store = new_store(bucket, self.rules)
        data = pattern(3, 3000)
        upload = await new_upload(store, None)
        with pytest.raises(plugin.StorageFull, match="too many parts"):
            for _ in range(100):
                start = upload.info.offset
                await upload.append(FakeBody(data[start : start + 25]))
        kept = upload.info.offset
        assert kept > 60
        assert await (await reopened(store)).append(FakeBody(b"")) == 0
        await upload.save(replace(upload.info, length=kept))
        assert await content(store) == data[:kept]

    async def test_what_can_never_fit_is_refused(self) -> None:
        store = new_store(MemoryBucket(), replace(self.rules, largest_part=20))
        with pytest.raises(plugin.StorageFull, match="larger than this server can store"):
            await new_upload(store, 141)
        upload = await new_upload(store, None)
        with pytest.raises(plugin.StorageFull):
            await upload.save(replace(upload.info, length=141))


class TestMemory:
    async def test_bodies_side_by_side_hold_no_more_than_the_budget(self) -> None:
        held: list[int] = []
        memory = plugin.Memory(40, held.append)
        bucket = MemoryBucket()
        store = new_store(bucket, memory=memory)
        data = [pattern(n, 95) for n in range(8)]
        uploads = [await new_upload(store, 95, id=UploadId(f"u{n}")) for n in range(8)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(upload.append(FakeBody(body, piece=11)) for upload, body in zip(uploads, data, strict=True)))
        assert max(held) <= 40 and memory.used == 0
        assert bucket.most_at_once > 2
        for n, body in enumerate(data):
            assert await content(store, f"u{n}") == body

    async def test_parts_may_be_gathered_on_disk(self, tmp_path: Path) -> None:
        memory = plugin.Memory(1)
        store = new_store(MemoryBucket(), memory=memory, spill=tmp_path)
        upload = await new_upload(store)
        for start, stop in ((0, 3), (3, 30), (30, 60)):
            await upload.append(FakeBody(DATA[start:stop]))
        assert await content(store) == DATA
        assert memory.used == 0 and not list(tmp_path.iterdir())

    async def test_a_disk_that_is_full_keeps_what_arrived(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = new_store(MemoryBucket(), spill=tmp_path)
        upload = await new_upload(store)
        real, writes = os.pwrite, 0

        def pwrite(fd: int, data: Any, offset: int) -> int:
            nonlocal writes
            writes += 1
            if writes > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data, offset)

        monkeypatch.setattr("os.pwrite", pwrite)
        with pytest.raises(plugin.StorageFull):
            await upload.append(FakeBody(DATA, piece=5))
        assert upload.info.offset == 20 == (await reopened(store)).info.offset


class TestCreation:
    async def test_is_exclusive_with_conditions_and_without(self) -> None:
        for conditional in (True, False):
            store = new_store(MemoryBucket(conditional=conditional))
            await new_upload(store, notes={"a": "b"})
            with pytest.raises(plugin.UploadExists):
                await new_upload(store)

    async def test_the_key_follows_the_template(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket, key="x/{id}/{filename}", prefix="p", info_prefix="i")
        upload = await new_upload(store, 1, metadata=plugin.Metadata({"filename": b"a.txt"}))
        await upload.append(FakeBody(b"1"))
        assert upload.info.storage == {"Type": "s3store", "Bucket": "bucket", "Key": "p/x/u/a.txt"}
        assert sorted(bucket.server.objects) == ["i/u.info", "p/x/u/a.txt"]
        assert await content(store) == b"1"

    async def test_a_hook_chooses_the_key(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket, prefix="p")
        upload = await new_upload(store, 1, storage={"Key": "mine/x"})
        await upload.append(FakeBody(b"1"))
        assert upload.info.storage["Key"] == "p/mine/x" and await content(store) == b"1"
        for taken_or_wrong in ("mine/x", "../x", "x.info"):
            with pytest.raises(plugin.HookError, match=r"storage\.Key"):
                await new_upload(store, 1, id=UploadId("v"), storage={"Key": taken_or_wrong})

    @pytest.mark.parametrize("conditional", [True, False])
    @pytest.mark.parametrize("length", [4, 60])
    async def test_two_uploads_with_one_chosen_key_do_not_touch_each_others_object(self, length: int, conditional: bool) -> None:
        """Nothing was there yet when the hook chose it for both."""
        bucket = MemoryBucket(conditional=conditional)
        store = new_store(bucket)
        first, second, third = [
            await new_upload(store, length, id=UploadId(name), storage={"Key": "same"}) for name in ("first", "second", "third")
        ]
        await first.append(FakeBody(DATA[:length]))
        with pytest.raises(plugin.StorageUnavailable):
            await second.append(FakeBody(DATA[-length:]))
        assert (await store.info(second.info.id)).state is State.RECEIVING
        for other in (second, third):
            await other.terminate()
        assert await content(store, "first") == DATA[:length]
        assert b"first" not in str(bucket.server.objects["same"].carries).encode(), "an id is a secret"
        await first.terminate()
        assert not bucket.server.objects

    async def test_a_file_name_does_not_lead_to_the_object_of_another_id(self) -> None:
        store = new_store(bucket := MemoryBucket(), key="{id}{filename}")
        first, second = [
            await new_upload(store, 4, id=UploadId(chosen), metadata=plugin.Metadata({"filename": name}))
            for chosen, name in (("12", b"x"), ("1", b"2x"))
        ]
        await first.append(FakeBody(DATA[:4]))
        with pytest.raises(plugin.StorageUnavailable):
            await second.append(FakeBody(b"evil"))
        await second.terminate()
        assert await content(store, "12") == DATA[:4] and set(bucket.server.objects) == {"12x", "12.info"}

    async def test_clients_cannot_say_whose_an_object_is(self) -> None:
        store = new_store(bucket := MemoryBucket())
        metadata = plugin.Metadata({"Tusd-Upload": b"forged"})
        for name, storage in (("chosen", {"Key": "chosen-key"}), ("other", {})):
            upload = await new_upload(store, 4, id=UploadId(name), metadata=metadata, storage=storage)
            await upload.append(FakeBody(DATA[:4]))
        assert b"forged" not in str([thing.carries for thing in bucket.server.objects.values()]).encode()
        assert await content(store, "chosen") == await content(store, "other") == DATA[:4]

    async def test_objects_carry_what_the_upload_is(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        metadata = plugin.Metadata({"filetype": b"image/png", "filename": b"a.png"})
        for upload_id, length in (("small", 4), ("large", 60)):
            upload = await new_upload(store, length, id=UploadId(upload_id), metadata=metadata)
            await upload.append(FakeBody(DATA[:length]))
            carried = bucket.server.objects[upload_id].carries
            assert (carried["ContentType"], carried["Metadata"]["filename"]) == ("image/png", "a.png")


class TestReading:
    async def test_an_unfinished_upload_cannot_be_read(self) -> None:
        store = new_store(MemoryBucket())
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA[:20]))
        with pytest.raises(plugin.IncompleteUpload):
            await content(store)

    async def test_a_damaged_info_object_is_told_of(self, caplog: pytest.LogCaptureFixture) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        await new_upload(store)
        for text in (b"{", b'{"ID":"u","tusd":{"s3":{"parts":[[1,5,["a"]]]}}}', b"[]"):
            bucket.server.objects["u.info"].data = text
            with pytest.raises(plugin.StorageUnavailable):
                await store.info(UploadId("u"))
            assert "damaged .info" in caplog.text
            assert [info async for info in store.uploads()] == []

    async def test_an_info_object_that_somebody_else_has_put_there_does_not_end_a_listing(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        await new_upload(store)
        known = bucket.server.objects["u.info"]
        for name, text in (("a", b'{"ID":"a","tusd":null}'), ("b", b'{"ID":"b","tusd":5}'), ("c", b'{"ID":["c"]}')):
            bucket.server.objects[f"{name}.info"] = replace(known, data=text)
        assert "u" in [info.id async for info in store.uploads()]

    async def test_an_info_object_of_another_name_is_nobodys(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        await new_upload(store)
        bucket.server.objects["v.info"] = bucket.server.objects["u.info"]
        with pytest.raises(plugin.UploadNotFound):
            await store.info(UploadId("v"))
        assert [info.id async for info in store.uploads()] == ["u"]

    async def test_listings_read_only_what_is_new(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        for n in range(40):
            await new_upload(store, id=UploadId(f"u{n}"))
        assert len([info async for info in store.uploads()]) == 40
        bucket.calls.clear()
        upload = await reopened(store, "u7")
        await upload.append(FakeBody(b"123"))
        bucket.calls.clear()
        found = {info.id: info.offset async for info in store.uploads()}
        assert (len(found), found[UploadId("u7")]) == (40, 3)
        assert [call[0] for call in bucket.calls] == ["list_objects", "get_info_object"]


async def test_a_tail_takes_no_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = MemoryBucket()
    store = new_store(bucket)
    upload = await new_upload(store)
    await upload.append(FakeBody(DATA[:2]))
    [first] = [key for key in bucket.server.objects if key.endswith(".part")]
    taken = f"{first[:-6]}x.part"
    bucket.server.objects[taken] = Thing(b"of a process that died", "x")
    names = [first, taken, f"{first[:-6]}y.part"]
    monkeypatch.setattr("tusd_plugin_s3.keys.Keys.tail", lambda *_: names.pop(0))
    await upload.append(FakeBody(DATA[2:4]))
    await store.close()
    assert not names and bucket.server.objects[taken].data == b"of a process that died"
    await (await reopened(new_store(bucket))).append(FakeBody(DATA[4:]))
    assert await content(store) == DATA


class TestLostBytes:
    """Something removes from the bucket what counts."""

    async def test_parts_that_were_aborted(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA[:20]))
        bucket.server.multiparts.clear()
        upload = await reopened(store)
        with pytest.raises(plugin.UploadNotFound):
            await upload.append(FakeBody(DATA[20:40]))
        with pytest.raises(plugin.UploadNotFound):
            await reopened(store)

    async def test_parts_that_nobody_was_told_of(self) -> None:
        bucket = MemoryBucket()
        store = new_store(bucket)
        upload = await new_upload(store)
        await upload.append(FakeBody(DATA[:3]))
        dying = MemoryBucket(bucket.server)
        dying.nth, dying.how = 7, "dies before"
        with pytest.raises(Dead):
            await (await reopened(new_store(dying))).append(FakeBody(DATA[3:]))
        assert bucket.server.multiparts
        bucket.server.multiparts.clear()
        upload = await reopened(store)
        assert upload.info.offset == 3
        await upload.append(FakeBody(DATA[3:]))
        assert await content(store) == DATA

    async def test_a_tail(self) -> None:
        bucket = MemoryBucket()
        upload = await new_upload(new_store(bucket))
        await upload.append(FakeBody(DATA[:3]))
        [tail] = [key for key in bucket.server.objects if key.endswith(".part")]
        del bucket.server.objects[tail]
        with pytest.raises(plugin.UploadNotFound):
            await (await reopened(new_store(bucket))).append(FakeBody(DATA[3:]))

    async def test_a_tail_of_another_size(self) -> None:
        bucket = MemoryBucket()
        upload = await new_upload(new_store(bucket))
        await upload.append(FakeBody(DATA[:3]))
        [tail] = [key for key in bucket.server.objects if key.endswith(".part")]
        bucket.server.objects[tail].data = b"1"
        with pytest.raises(plugin.StorageUnavailable):
            await (await reopened(new_store(bucket))).append(FakeBody(DATA[3:]))


async def test_an_append_may_be_cancelled_anywhere() -> None:
    for late in (None, 0.0005):
        nth, struck = 0, True
        while struck:
            nth += 1
            bucket = MemoryBucket()
            store = new_store(bucket)
            upload = await new_upload(store)
            await upload.append(FakeBody(DATA[:13]))
            struck = await cancelled_at(nth, upload.append(FakeBody(DATA[13:50], piece=7)), late=late)
            assert upload.info.offset == (await store.info(UploadId("u"))).offset
            again = await reopened(store)
            assert again.info.offset == upload.info.offset
            await again.append(FakeBody(DATA[again.info.offset :]))
            assert await content(store) == DATA
            await store.close()
        assert nth > 5
