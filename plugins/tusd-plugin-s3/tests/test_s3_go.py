"""A bucket of Go tusd is taken over as it is: uploads in flight, with and without a tail, and finished ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_bucket import RULES, MemoryBucket, Multipart, Thing, new_store
from tusd import plugin
from tusd.plugin import State, UploadId
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_s3.store import S3Store

DATA = pattern(1, 60)
ID = UploadId("obj+mp+1")
"""Go splits at the last +."""


def go_upload(*sizes: int, tail: int = 0, length: int | None = 60, prefix: str = "", **fields: Any) -> MemoryBucket:
    """A bucket as Go tusd leaves it: these parts, a tail."""
    bucket = MemoryBucket()
    objects, key = bucket.server.objects, f"{prefix}obj+mp"
    info = {
        "ID": "obj+mp+1",
        "Size": length or 0,
        "SizeIsDeferred": length is None,
        "Offset": 0,
        "MetaData": {"filename": "a.txt"},
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {"Bucket": "bucket", "Key": key, "Type": "s3store"},
        **fields,
    }
    objects[f"{key}.info"] = Thing(json.dumps(info).encode(), "go")
    multipart = bucket.server.multiparts["1"] = Multipart(key, {})
    begin = 0
    for number, size in enumerate(sizes, 1):
        if size:
            multipart.parts[number] = Thing(DATA[begin : begin + size], f"e{number}")
        begin += size
    if tail:
        objects[f"{key}.part"] = Thing(DATA[begin : begin + tail], "tail")
    return bucket


async def opened(store: S3Store) -> Any:
    return await store.open(ID, FakeLease())


@pytest.mark.parametrize(("sizes", "tail"), [((), 0), ((), 3), ((10,), 0), ((10, 12), 3), ((10, 12, 10, 10), 1)])
async def test_an_upload_in_flight_goes_on(sizes: tuple[int, ...], tail: int) -> None:
    bucket = go_upload(*sizes, tail=tail)
    store = new_store(bucket)
    info = await store.info(ID)
    assert (info.offset, info.length, info.state) == (sum(sizes) + tail, 60, State.RECEIVING)
    assert info.metadata["filename"] == b"a.txt"
    before = dict(bucket.server.objects)
    upload = await opened(store)
    assert upload.info == info
    assert bucket.server.objects == before, "looking at it writes nothing"
    for size in (2, 7, 60):
        start = upload.info.offset
        await upload.append(FakeBody(DATA[start : start + size]))
        assert (await new_store(MemoryBucket(bucket.server)).info(ID)).offset == min(60, start + size)
        upload = await opened(store)
    await store.close()
    assert bucket.server.objects["obj+mp"].data == DATA
    assert sorted(bucket.server.objects) == ["obj+mp", "obj+mp.info"]
    assert not bucket.server.overwritten


async def test_after_the_first_write_nothing_is_listed_any_more() -> None:
    bucket = go_upload(10, 12, tail=3)
    store = new_store(bucket)
    await (await opened(store)).append(FakeBody(DATA[25:27]))
    bucket.calls.clear()
    assert (await store.info(ID)).offset == 27
    assert bucket.calls == [("get_info_object", "obj+mp+1.info"), ("get_info_object", "obj+mp.info")]


async def test_parts_behind_a_gap_do_not_count() -> None:
    bucket = go_upload(10, 0, 12)
    store = new_store(bucket)
    upload = await opened(store)
    assert upload.info.offset == 10
    await upload.append(FakeBody(DATA[10:]))
    assert bucket.server.objects["obj+mp"].data == DATA


async def test_all_bytes_without_an_object_are_made_one() -> None:
    bucket = go_upload(30, 30)
    store = new_store(bucket)
    assert (await store.info(ID)).state is State.RECEIVING
    assert (await opened(store)).info.state is State.COMPLETE
    assert bucket.server.objects["obj+mp"].data == DATA


@pytest.mark.parametrize("length", [60, None])
async def test_a_finished_upload_is_complete(length: int | None) -> None:
    bucket = go_upload(length=length)
    bucket.server.multiparts.clear()
    bucket.server.objects["obj+mp"] = Thing(DATA, "done")
    store = new_store(bucket)
    info = await store.info(ID)
    assert (info.offset, info.length, info.state) == (60, 60, State.COMPLETE)
    assert b"".join([piece async for piece in store.read(info, 10, 20)]) == DATA[10:20]
    await (await opened(store)).terminate()
    assert not bucket.server.objects


async def test_an_upload_whose_parts_are_gone_is_not_found() -> None:
    bucket = go_upload(10)
    bucket.server.multiparts.clear()
    for found in (None, Thing(DATA[:30], "another")):
        if found is not None:
            bucket.server.objects["obj+mp"] = found
        with pytest.raises(plugin.UploadNotFound):
            await new_store(bucket).info(ID)


async def test_only_the_whole_id_is_found() -> None:
    store = new_store(go_upload(10))
    for other in ("obj+mp", "obj+mp+2", "obj", "obj+mp+1+1", "+1", "obj+mp+"):
        with pytest.raises(plugin.UploadNotFound):
            await store.info(UploadId(other))
    with pytest.raises(plugin.UploadExists):
        await store.create(plugin.UploadInfo(id=UploadId("obj+mp"), length=1), FakeLease())


async def test_it_is_listed_under_its_id() -> None:
    store = new_store(go_upload(10, 12, tail=3))
    assert [info.id async for info in store.uploads()] == [ID]
    assert [info.offset async for info in store.uploads()] == [25]


async def test_it_is_terminated_with_its_tail() -> None:
    for tail in (3, 51):  # the second cannot belong to it, and goes all the same
        bucket = go_upload(10, tail=tail)
        upload = await opened(new_store(bucket))
        await upload.terminate()
        assert not bucket.server.objects and not bucket.server.multiparts


async def test_deferred_lengths_and_prefixes() -> None:
    bucket = go_upload(10, tail=2, length=None, prefix="up/")
    store = new_store(bucket, prefix="up")
    upload = await opened(store)
    assert (upload.info.offset, upload.info.length) == (12, None)
    await upload.append(FakeBody(DATA[12:]))
    await upload.save(plugin.UploadInfo(id=ID, length=60))
    assert bucket.server.objects["up/obj+mp"].data == DATA


async def test_a_new_upload_may_have_a_plus_in_its_id() -> None:
    bucket = MemoryBucket()
    store = new_store(bucket, RULES)
    upload = await store.create(plugin.UploadInfo(id=UploadId("a+b"), length=4), FakeLease())
    await upload.append(FakeBody(b"1234"))
    bucket.calls.clear()
    assert (await store.info(UploadId("a+b"))).offset == 4
    assert len(bucket.calls) == 1
