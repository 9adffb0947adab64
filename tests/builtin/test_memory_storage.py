from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tusd import plugin
from tusd.builtin.memory_storage import MemoryStorage, MemoryStore, MemoryUpload
from tusd.plugin import State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def new(store: MemoryStore, name: str = "a", length: int | None = 10, lease: FakeLease | None = None) -> MemoryUpload:
    upload = await store.create(UploadInfo(id=UploadId(name), length=length, storage={"Path": "x"}), lease or FakeLease())
    assert isinstance(upload, MemoryUpload)
    return upload


async def content(store: MemoryStore, name: str = "a") -> bytes:
    info = await store.info(UploadId(name))
    return b"".join([piece async for piece in store.read(info, 0, info.offset)])


async def test_the_plugin_opens_an_empty_store_for_one_process() -> None:
    assert MemoryStorage.scope is plugin.Scope.PROCESS
    async with MemoryStorage(MemoryStorage.Options()).open_storage() as opened:
        assert isinstance(opened, MemoryStore)
        assert [info async for info in opened.uploads()] == []
        assert opened.capabilities == {
            plugin.Terminable,
            plugin.Concatenable,
            plugin.Atomic,
            plugin.Readable,
            plugin.Listable,
        }


async def test_an_upload_from_beginning_to_end(store: MemoryStore) -> None:
    upload = await new(store)
    assert upload.info.storage == {}
    body = FakeBody(b"0123", piece=2)
    assert await upload.append(body) == 4
    assert body.safe == 4
    assert (upload.info.offset, upload.info.state) == (4, State.RECEIVING)
    upload = await store.open(UploadId("a"), FakeLease())  # type: ignore[assignment]
    assert await upload.append(FakeBody(b"456789")) == 6
    await upload.finish()
    assert await store.info(UploadId("a")) == upload.info
    assert upload.info.state is State.COMPLETE
    assert await content(store) == b"0123456789"


async def test_creation_is_exclusive(store: MemoryStore) -> None:
    first = await new(store)
    await first.append(FakeBody(b"01"))
    with pytest.raises(plugin.UploadExists):
        await new(store, length=5)
    assert await content(store) == b"01"


async def test_creation_needs_no_lease(store: MemoryStore) -> None:
    upload = await store.create(UploadInfo(id=UploadId("a"), length=0), None)
    await upload.save(upload.info)
    assert upload.info.state is State.COMPLETE


async def test_what_is_not_there_is_not_found(store: MemoryStore) -> None:
    gone = UploadInfo(id=UploadId("gone"), length=1)
    with pytest.raises(plugin.UploadNotFound):
        await store.info(gone.id)
    with pytest.raises(plugin.UploadNotFound):
        await store.open(gone.id, FakeLease())
    with pytest.raises(plugin.UploadNotFound):
        await anext(store.read(gone, 0, 1))
    with pytest.raises(plugin.UploadNotFound):
        await (await new(store)).concatenate([gone])


async def test_a_whole_body_counts_at_its_end_or_not_at_all(store: MemoryStore) -> None:
    upload = await new(store)
    await upload.append(FakeBody(b"01"))
    hanging = FakeBody(b"2345", whole=True, piece=1, hang_at=3)
    task = asyncio.create_task(upload.append(hanging))
    await hanging.hanging.wait()
    assert (await store.info(UploadId("a"))).offset == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    upload = await store.open(UploadId("a"), FakeLease())  # type: ignore[assignment]
    assert await upload.append(FakeBody(b"xxxx", whole=True, intact=False)) == 0
    assert await upload.append(FakeBody(b"2345", whole=True)) == 4
    assert await content(store) == b"012345"


async def test_what_came_before_a_cancellation_stays(store: MemoryStore) -> None:
    upload = await new(store)
    body = FakeBody(b"0123", piece=1, hang_at=3)
    task = asyncio.create_task(upload.append(body))
    await body.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.info.offset == 3
    assert await content(store) == b"012"


async def test_nothing_changes_without_the_lease(store: MemoryStore) -> None:
    lease = FakeLease()
    upload = await new(store, lease=lease)
    lease.lose()
    for work in (upload.append(FakeBody(b"01", lease)), upload.save(upload.info), upload.terminate(), upload.concatenate([])):
        with pytest.raises(plugin.LeaseLost):
            await work
    with pytest.raises(plugin.LeaseLost):
        await new(store, "b", lease=lease)
    assert [info.id async for info in store.uploads()] == ["a"]
    assert await content(store) == b""


async def test_save_never_changes_the_offset(store: MemoryStore) -> None:
    upload = await new(store, length=None)
    await upload.append(FakeBody(b"012"))
    await upload.save(upload.info.at(0))
    assert upload.info.offset == 3
    await upload.save(UploadInfo(id=UploadId("b"), length=3, notes={"a": "b"}))
    assert (upload.info.id, upload.info.state, upload.info.notes) == ("a", State.COMPLETE, {"a": "b"})


async def test_concatenation_copies_the_parts_and_may_be_repeated(store: MemoryStore) -> None:
    parts = []
    for name, data in (("a", b"01"), ("b", b""), ("c", b"2345")):
        part = await new(store, name, len(data))
        await part.append(FakeBody(data))
        parts.append(part.info)
    final = await new(store, "final", 6)
    await final.concatenate(parts)
    await final.concatenate(parts)
    assert final.info.state is State.COMPLETE
    assert await content(store, "final") == b"012345"
    assert await content(store, "c") == b"2345"


async def test_a_download_goes_on_while_its_upload_is_terminated(store: MemoryStore) -> None:
    data = bytes(range(256)) * 4096
    upload = await new(store, length=len(data))
    await upload.append(FakeBody(data))
    reading = store.read(upload.info, 5, len(data) - 5)
    pieces = [await anext(reading)]
    await upload.terminate()
    await upload.terminate()
    pieces += [piece async for piece in reading]
    assert len(pieces) > 1
    assert b"".join(pieces) == data[5:-5]
    with pytest.raises(plugin.UploadNotFound):
        await store.info(UploadId("a"))


async def test_a_second_termination_spares_the_next_upload_of_that_id(store: MemoryStore) -> None:
    first = await new(store)
    await first.terminate()
    await new(store, length=3)
    await first.terminate()
    assert (await store.info(UploadId("a"))).length == 3


async def test_idle_uploads_are_listed(store: MemoryStore) -> None:
    old = await new(store, "old")
    await old.append(FakeBody(b"0"))
    new_one = await new(store, "new")
    await asyncio.sleep(0.01)
    await new_one.append(FakeBody(b"0"))
    listed = [info.id async for info in store.uploads(new_one.info.modified)]
    assert listed == ["old"]
    assert [i.id async for i in store.uploads(old.info.modified - timedelta(seconds=1))] == []


async def test_what_is_terminated_while_the_list_is_read_is_left_out(store: MemoryStore) -> None:
    await new(store, "a")
    other = await new(store, "b")
    found = []
    async for info in store.uploads():
        found.append(info.id)
        await other.terminate()
    assert found == ["a"]
