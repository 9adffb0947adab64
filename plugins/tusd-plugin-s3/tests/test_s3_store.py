"""What an S3 store does, and which requests it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memory_bucket import MemoryBucket, new_store
from tusd.plugin import UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern
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
        store = new_store(bucket)
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
        assert first == ["put_part_object", "put_info_object"]
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
