"""What a store does in a bucket: its requests, its objects, trees of compositions, downloads, memory and the event loop."""

from __future__ import annotations

import ast
import asyncio
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gcs_rig import KIB, MIB, Hold, Mode, Place, Requests, assert_bytes, breaking, content, counting, new_info, settled
from tusd.plugin import (
    Final,
    HookError,
    Metadata,
    Partial,
    State,
    StorageFull,
    StorageUnavailable,
    UploadId,
    UploadNotFound,
    utcnow,
)
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_gcs import GcsStorage
from tusd_plugin_gcs import upload as upload_module
from tusd_plugin_gcs.bucket import SMALL_THREADS
from tusd_plugin_gcs.cloud import Cloud, Download, Failure
from tusd_plugin_gcs.manifest import Chunk
from tusd_plugin_gcs.sizes import sizes
from tusd_plugin_gcs.store import GcsStore
from tusd_plugin_gcs.upload import GcsUpload

ROOT = Path(__file__).parents[3]
DATA = pattern(31, 700 * KIB)


async def opened(store: GcsStore, upload_id: str = "upload") -> GcsUpload:
    """As a request opens it."""
    upload = await store.open(UploadId(upload_id), FakeLease(2))
    assert isinstance(upload, GcsUpload)
    return upload


# --- requests


async def measured(store: GcsStore, made: Requests) -> dict[str, dict[str, int]]:
    """What the requests of clients cost in requests to the bucket: request -> operation -> how many."""
    table: dict[str, dict[str, int]] = {}

    async def note(name: str) -> None:
        await settled(store)
        table[name] = made.taken()

    async def patched(upload_id: str, stop: int) -> None:
        await store.info(UploadId(upload_id))  # as the engine does, to ask whether the client may
        upload = await opened(store, upload_id)
        await upload.append(FakeBody(DATA[upload.info.offset : stop]))
        if upload.info.offset == upload.info.length:
            await upload.finish()

    made.taken()
    await store.create(new_info(len(DATA)), None)
    await note("POST")
    await store.info(UploadId("upload"))
    await opened(store)
    await note("HEAD of an unfinished upload")
    await patched("upload", 10)
    await note("PATCH of one piece")
    await patched("upload", len(DATA) - 10)
    await note("PATCH of three pieces")
    await patched("upload", len(DATA))
    await note("the last PATCH, after five pieces")
    await store.info(UploadId("upload"))
    await note("HEAD of a complete upload")
    info = await store.info(UploadId("upload"))
    assert_bytes(await content(store, info), DATA)
    await note("GET")
    await store.info(UploadId("upload"))
    await (await opened(store)).terminate()
    await note("DELETE of a complete upload")
    upload = await store.create(new_info(100, id=UploadId("whole")), FakeLease())
    await upload.append(FakeBody(DATA[:100]))
    await upload.finish()
    await note("POST with all bytes, in one piece")
    await store.create(new_info(100, id=UploadId("later")), None)
    await patched("later", 100)
    await note("POST, then one PATCH with all bytes")
    await store.create(new_info(100, id=UploadId("gone")), None)
    await patched("gone", 10)
    made.taken()
    await store.info(UploadId("gone"))
    await (await opened(store, "gone")).terminate()
    await note("DELETE of an upload with one piece")
    return table


async def test_the_requests_are_those_that_the_documentation_tells_of(place: Place) -> None:
    with counting() as made:
        async with place.store() as store:
            table = await measured(store, made)
    rows = [f"| {name} | {', '.join(f'{n} {op}' for op, n in ops.items())} |" for name, ops in table.items()]
    page = (ROOT / "docs" / "howto" / "gcs.md").read_text()
    assert "\n".join(rows) in page, "the table in docs/howto/gcs.md should be:\n" + "\n".join(rows)


# --- objects


async def test_the_object_of_a_complete_upload_carries_what_its_client_said(place: Place) -> None:
    metadata = Metadata(
        {"filename": "größe 1.html".encode(), "filetype": b"text/html; charset=utf-8", "odd key": b"x", "empty": b""}
    )
    async with place.store(prefix="up", key="{date:%Y/%m}/{id}/{filename}", acl="publicRead") as store:
        created = datetime(2026, 3, 5, tzinfo=UTC)
        whole = await store.create(new_info(5, metadata=metadata, created=created), FakeLease())
        await whole.append(FakeBody(b"12345"))
        pieces = await store.create(new_info(5, id=UploadId("other"), metadata=metadata, created=created), FakeLease())
        await pieces.append(FakeBody(b"123"))
        await pieces.append(FakeBody(b"45"))
        for upload_id in ("upload", "other"):
            name = f"up/2026/03/{upload_id}/größe 1.html"
            assert (await store.info(UploadId(upload_id))).storage["Key"] == name
            found = place.fields(name)
            assert found["contentType"] == "text/html; charset=utf-8"
            assert (
                found["contentDisposition"] == "attachment; filename=\"gr__e 1.html\"; filename*=UTF-8''gr%C3%B6%C3%9Fe%201.html"
            )
            assert found["metadata"] == {"filename": "gr??e 1.html", "filetype": "text/html; charset=utf-8", "empty": ""}
            assert found["acl"][0]["entity"] == "allUsers"
            assert_bytes(place.data(name), b"12345")
            assert "acl" not in place.fields(f"up/{upload_id}.info")
            assert place.fields(f"up/{upload_id}.info")["cacheControl"] == "no-store"
        await settled(store)
        assert len(place.names()) == 4


async def test_all_objects_have_the_storage_class_and_the_key_of_the_options(place: Place) -> None:
    key = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    async with place.store(storage_class="NEARLINE", kms_key=key) as store:
        upload = await store.create(new_info(5), FakeLease())
        await upload.append(FakeBody(b"123"))
        for name in place.names():
            assert place.fields(name)["storageClass"] == "NEARLINE"
            assert place.fields(name)["kmsKeyName"].startswith(key)
        await upload.append(FakeBody(b"45"))
        assert place.fields("upload")["storageClass"] == "NEARLINE"
        assert place.fields("upload")["kmsKeyName"].startswith(key)


async def test_pieces_say_when_they_were_made_and_the_object_does_not(place: Place) -> None:
    """For the lifecycle rule of docs/howto/gcs.md."""
    async with place.store() as store:
        upload = await store.create(new_info(5), FakeLease())
        await upload.append(FakeBody(b"123"))
        piece = next(name for name in place.names() if not name.endswith(".info"))
        assert abs(datetime.fromisoformat(place.fields(piece)["customTime"]) - utcnow()) < timedelta(minutes=5)
        await upload.append(FakeBody(b"45"))
        assert "customTime" not in place.fields("upload")
        assert "customTime" not in place.fields("upload.info")


async def test_a_hook_chooses_the_key(place: Place) -> None:
    place.put("there/already", b"x")
    async with place.store(prefix="there") as store:
        upload = await store.create(new_info(1, storage={"Key": "my/own name"}), FakeLease())
        await upload.append(FakeBody(b"1"))
        assert place.data("there/my/own name") == b"1"
        for bad in ("/x", "a/../b", "x.info", "a//b", "x\n", "already", "y" * 1100):
            with pytest.raises(HookError):
                await store.create(new_info(1, id=UploadId("other"), storage={"Key": bad}), None)
            assert "there/other.info" not in place.names()


async def test_ids_that_look_like_pieces_of_each_other(place: Place) -> None:
    async with place.store() as store:
        ids = [UploadId(name) for name in ("a", "a_0", "a_1", "a_0_0", "a_tmp_0_0")]
        uploads = [await store.create(new_info(len(one) + 1, id=one), FakeLease()) for one in ids]
        for upload in uploads:
            await upload.append(FakeBody(upload.info.id.encode()))
        for upload in uploads:
            await upload.append(FakeBody(b"!"))
        for upload in uploads:
            assert_bytes(await content(store, await store.info(upload.info.id)), upload.info.id.encode() + b"!")
        first = uploads[0]
        assert isinstance(first, GcsUpload)
        await first.terminate()
        assert [one for one in ids if f"{one}.info" in place.names()] == ids[1:]


async def test_5_tib_are_the_most(place: Place) -> None:
    async with place.store() as store:
        await store.create(new_info(5 << 40), None)
        with pytest.raises(StorageFull):
            await store.create(new_info((5 << 40) + 1, id=UploadId("more")), None)


def test_pieces_grow_so_that_there_are_about_ten_thousand(tmp_path: Path) -> None:
    options = GcsStorage.Options(bucket="bkt", buffer=2000 * MIB)
    for length, position, largest in (
        (100, 0, 50 * MIB),
        (5 << 40, 0, -(-(5 << 40) // 10_000)),
        (None, 0, 50 * MIB),
        (None, 2 << 40, -(-(4 << 40) // 10_000)),
    ):
        floor, target = sizes(options, length, position)
        assert target == largest
        assert floor == (100 if length == 100 else 5 * MIB)
    assert sizes(GcsStorage.Options(bucket="bkt"), 5 << 40, 0)[1] == 128 * MIB, "never more than half of what may be held"
    spilling = GcsStorage.Options(bucket="bkt", spill=tmp_path)
    assert sizes(spilling, 5 << 40, 0)[1] == -(-(5 << 40) // 10_000)
    assert sizes(options, 10, 10) == (1, 50 * MIB)


# --- compositions


async def test_a_thousand_pieces_become_one_object_with_few_requests(place: Place) -> None:
    async with place.store() as store:
        upload = await store.create(new_info(None), FakeLease())
        assert isinstance(upload, GcsUpload)
        pieces = [b"%d," % n for n in range(1000)]

        async def sent(number: int) -> Chunk:
            name = upload._chunk_name(number)
            stat = await store.bucket.insert(name, pieces[number], match=0, operation="put_chunk_object")
            return Chunk(number, stat.size, stat.crc)

        chunks = await asyncio.gather(*(sent(number) for number in range(1000)))
        await upload._write(upload._kept, upload._manifest.with_chunks(chunks, 1000, utcnow()))
        assert len(place.data("upload.info")) < 40_000
        whole = b"".join(pieces)
        with counting() as made:
            await upload.save(replace(upload.info, length=len(whole)))
            await settled(store)
        assert made.taken() == {"compose": 33, "delete_batch": 11, "put_info_object": 1}
        assert sorted(place.names()) == ["upload", "upload.info"]
        assert_bytes(place.data("upload"), whole)
        assert place.fields("upload")["componentCount"] == 1000
        assert (await store.info(upload.info.id)).state is State.COMPLETE


@pytest.mark.parametrize("fault", [None, "before", "after", "dead"])
async def test_very_many_requests_do_not_make_info_larger_and_larger(
    place: Place, monkeypatch: pytest.MonkeyPatch, fault: Mode | None
) -> None:
    """Also when the folding fails, which the client does not hear of."""
    monkeypatch.setattr(upload_module, "MOST_LISTED", 12)
    monkeypatch.setattr(upload_module, "FOLDED", 8)
    monkeypatch.setattr(upload_module, "COMPOSE_LIMIT", 4)
    async with place.store() as store:
        await store.create(new_info(60), None)
        told, composed = 0, 0
        for n in range(60):
            upload = await opened(store)
            assert upload.info.offset >= told
            with counting() as made, breaking(2 if fault and n % 5 == 2 and n > 12 else 10**9, fault or "before"):
                try:
                    await upload.append(FakeBody(DATA[upload.info.offset : n + 1]))
                except StorageUnavailable:
                    assert fault
                else:
                    told = n + 1
                    assert upload.info.offset == told
            composed += made.made["compose"]
            assert len(json.loads(place.data("upload.info"))["tusd"]["gcs"].get("chunks", ())) <= 30
        assert 10 < composed < 60
        upload = await opened(store)
        if upload.info.offset < 60:
            await upload.append(FakeBody(DATA[upload.info.offset : 60]))
        await upload.finish()
        await settled(store)
        assert_bytes(place.data("upload"), DATA[:60])
        if fault is None:
            assert place.names() == ["upload", "upload.info"]
        await (await opened(store)).terminate()
        assert place.names() == []


async def test_a_composition_that_is_not_what_was_sent_is_not_kept(place: Place) -> None:
    async with place.store() as store:
        upload = await store.create(new_info(6), FakeLease())
        await upload.append(FakeBody(b"123"))
        piece = next(name for name in place.names() if not name.endswith(".info"))
        right = place.data(piece)
        place.put(piece, b"321")
        with pytest.raises(StorageUnavailable):
            await upload.append(FakeBody(b"456"))
        assert "upload" not in place.names()
        info = await store.info(UploadId("upload"))
        assert (info.offset, info.state) == (6, State.FINISHING), "the bytes are there, and the upload is not complete"
        place.put(piece, right)
        again = await opened(store)
        await again.finish()
        assert (await store.info(UploadId("upload"))).state is State.COMPLETE
        assert_bytes(place.data("upload"), b"123456")


async def test_parts_are_composed_in_a_tree(place: Place) -> None:
    async with place.store() as store:
        parts = []
        for n in range(70):
            part = await store.create(new_info(2, id=UploadId(f"part{n}"), concat=Partial()), FakeLease())
            await part.append(FakeBody(b"%02d" % n))
            parts.append(part.info)
        final = await store.create(
            new_info(140, id=UploadId("final"), concat=Final(tuple(part.id for part in parts)), explicit=True), FakeLease()
        )
        assert isinstance(final, GcsUpload)
        with counting() as made:
            await final.concatenate(parts)
            await settled(store)
        assert made.taken() == {"compose": 4, "delete_object": 3, "put_info_object": 1, "stat_part_object": 70}
        assert_bytes(place.data("final"), b"".join(b"%02d" % n for n in range(70)))
        assert [name for name in place.names("final")] == ["final", "final.info"]


# --- downloads


async def test_an_unfinished_upload_is_read_from_its_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which become fewer while it is read, and then one."""
    async with place.store() as store:
        upload = await store.create(new_info(len(DATA) + 1), FakeLease())
        for stop in (10, 300 * KIB, len(DATA)):
            await upload.append(FakeBody(DATA[upload.info.offset : stop]))
        info = await store.info(upload.info.id)
        for start, stop in ((0, len(DATA)), (5, 15), (10, 11), (299 * KIB, 301 * KIB), (7, 7), (len(DATA) - 1, len(DATA))):
            assert_bytes(await content(store, info, start, stop), DATA[start:stop])
        reading = store.read(info, 0, len(DATA))
        first = await anext(reading)
        assert isinstance(upload, GcsUpload)
        monkeypatch.setattr(upload_module, "FOLDED", 2)
        await upload._write(upload._kept, *await upload._folded(upload._manifest))
        await settled(store)
        assert len(upload._manifest.chunks) == 4
        first += await anext(reading)
        await upload.append(FakeBody(b"!"))
        await settled(store)
        rest = [piece async for piece in reading]
        assert_bytes(first + b"".join(rest), DATA)


async def test_a_download_goes_on_where_its_connection_broke(place: Place) -> None:
    async with place.store() as store:
        data = pattern(32, 3 * MIB)
        upload = await store.create(new_info(len(data)), FakeLease())
        await upload.append(FakeBody(data))
        real, reads = Download.read, 0

        def breaking(download: Download) -> bytes:
            nonlocal reads
            reads += 1
            if reads % 2 == 0:
                raise Failure(None, "connection reset", passing=True)
            return real(download)

        with mock.patch.object(Download, "read", breaking), counting() as made:
            assert_bytes(await content(store, upload.info), data)
        assert made.taken()["get_object_data"] >= 3
        with (
            mock.patch.object(Download, "read", side_effect=Failure(None, "gone", passing=True)),
            pytest.raises(StorageUnavailable),
        ):
            await content(store, upload.info)


# --- memory and the loop


async def test_bodies_take_no_more_memory_than_they_may(place: Place) -> None:
    async with place.store(buffer="1MiB") as store:
        most = 0
        real = store.memory._change

        def change(n: int) -> None:
            nonlocal most
            real(n)
            most = max(most, store.memory.used)

        with mock.patch.object(store.memory, "_change", change):
            uploads = [await store.create(new_info(len(DATA), id=UploadId(f"u{n}")), FakeLease()) for n in range(8)]
            await asyncio.gather(*(upload.append(FakeBody(DATA)) for upload in uploads))
        assert 0 < most <= MIB
        assert store.memory.used == 0
        for upload in uploads:
            assert_bytes(place.data(upload.info.id), DATA)


async def test_pieces_are_spilled_to_disk(place: Place, tmp_path: Path) -> None:
    async with place.store(spill=str(tmp_path)) as store:
        upload = await store.create(new_info(len(DATA) + 3), FakeLease())
        await upload.append(FakeBody(DATA))
        assert store.memory.used == 0
        await upload.append(FakeBody(b"123"))
        assert_bytes(place.data("upload"), DATA + b"123")
        whole = await store.create(new_info(len(DATA), id=UploadId("at once")), FakeLease())
        await whole.append(FakeBody(DATA, whole=True))
        assert_bytes(place.data("at once"), DATA)
        full = await store.create(new_info(3, id=UploadId("full")), FakeLease())
        with mock.patch("os.pwrite", side_effect=OSError(28, "No space left on device")), pytest.raises(StorageFull):
            await full.append(FakeBody(b"123"))


async def test_the_event_loop_never_waits_for_the_bucket(place: Place) -> None:
    """Every request takes long, and the loop goes on meanwhile."""
    real = Cloud.request
    slow = 0.1

    def request(*args: Any, **kwargs: Any) -> Any:
        time.sleep(slow)
        return real(*args, **kwargs)

    longest = 0.0

    async def ticking() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)

    async with place.store() as store:
        ticker = asyncio.create_task(ticking())
        began = time.monotonic()
        with mock.patch.object(Cloud, "request", request):
            upload = await store.create(new_info(len(DATA)), FakeLease())
            await upload.append(FakeBody(DATA[:10]))
            await upload.append(FakeBody(DATA[10:]))
            await (await opened(store)).terminate()
            await settled(store)
        ticker.cancel()
        assert time.monotonic() - began > 8 * slow
        assert longest < slow, "the loop stood still while a request was under way"


async def test_small_requests_do_not_wait_behind_bodies(place: Place) -> None:
    hold = Hold()
    async with place.store(concurrency=1) as store:
        upload = await store.create(new_info(len(DATA)), FakeLease())
        with hold.at(lambda method, name: "tusd-begin" in name):
            work = asyncio.create_task(upload.append(FakeBody(DATA[:10])))
            await asyncio.to_thread(hold.held.wait, 30)
            async with asyncio.timeout(10):
                assert (await store.info(upload.info.id)).offset == 0
            hold.go_on.set()
            assert await work == 10


# --- listings, and what is damaged


async def test_a_listing_reads_only_what_has_changed(place: Place) -> None:
    async with place.store(prefix="p") as store:
        for n in range(20):
            await store.create(new_info(5, id=UploadId(f"folder/u{n}")), None)
        place.put("p/not-an-upload.info", b"{}")
        place.put("p/broken.info", b"[")
        place.put("elsewhere.info", b"{}")
        with counting() as made:
            assert len([info async for info in store.uploads()]) == 20
            assert made.taken() == {"get_info_object": 22, "list_info_objects": 1}
            await (await store.open(UploadId("folder/u3"), FakeLease())).append(FakeBody(b"1"))
            made.taken()
            found = {info.id: info.offset async for info in store.uploads()}
            assert len(found) == 20 and found[UploadId("folder/u3")] == 1
            assert made.taken() == {"get_info_object": 3, "list_info_objects": 1}


async def test_an_info_that_is_not_one(place: Place) -> None:
    async with place.store() as store:
        await store.create(new_info(5), None)
        right = json.loads(place.data("upload.info"))
        place.put("renamed.info", json.dumps(right).encode())
        with pytest.raises(UploadNotFound):
            await store.info(UploadId("renamed"))
        wrongs: list[tuple[str, object]] = [
            ("run", "../x"),
            ("next", -1),
            ("chunks", [[0, 1]]),
            ("object", [1]),
            ("modified", "x"),
        ]
        for key, value in wrongs:
            damaged = {**right, "tusd": {**right["tusd"], "gcs": {**right["tusd"]["gcs"], key: value}}}
            place.put("upload.info", json.dumps(damaged).encode())
            with pytest.raises(StorageUnavailable):
                await store.info(UploadId("upload"))
        outside = {**right, "Storage": {**right["Storage"], "Key": "other/secret"}}
        place.put("p/upload.info", json.dumps(outside).encode())
    async with place.store(prefix="p") as store:
        assert (await store.info(UploadId("upload"))).storage["Key"] == "p/upload", "a key outside the prefix does not count"


async def test_an_id_that_is_too_long_is_no_upload(place: Place) -> None:
    async with place.store() as store:
        long = UploadId("x" * 1020)
        with pytest.raises(UploadNotFound):
            await store.info(long)
        with pytest.raises(HookError):
            await store.create(new_info(1, id=long), None)


async def test_an_upload_that_waits_for_a_hook_is_there_when_it_is_finished(place: Place) -> None:
    async with place.store() as store:
        upload = await store.create(new_info(6, explicit=True), FakeLease())
        await upload.append(FakeBody(b"123"))
        await upload.append(FakeBody(b"456"))
        assert "upload" not in place.names()
        await upload.save(replace(upload.info, state=State.FINISHING))
        await upload.finish()
        assert place.data("upload") == b"123456"
        assert_bytes(await content(store, await store.info(upload.info.id)), b"123456")


async def test_a_bucket_that_is_gone_is_not_an_upload_that_is_gone(place: Place) -> None:
    async with place.store() as store:
        upload = await store.create(new_info(6), FakeLease())
        for name in place.names():
            place.delete(name)
        place.delete_bucket()
        for work in (
            store.info(upload.info.id),
            store.create(new_info(6, id=UploadId("other")), None),
            upload.append(FakeBody(b"123")),
            store.check(),
        ):
            with pytest.raises(StorageUnavailable):
                await work
        with pytest.raises(StorageUnavailable):
            assert [info async for info in store.uploads()] == []


def test_nothing_else_of_tusd_is_imported() -> None:
    """Only `tusd.plugin` is a promise."""

    for file in (ROOT / "plugins/tusd-plugin-gcs/src/tusd_plugin_gcs").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "tusd":
                assert node.module in ("tusd", "tusd.plugin"), file
                assert node.module != "tusd" or [name.name for name in node.names] == ["plugin"], file
            if isinstance(node, ast.Import):
                assert not [name for name in node.names if name.name.split(".")[0] == "tusd"], file


async def test_who_waits_long_behind_requests_without_answers_is_not_sent(place: Place) -> None:
    """Or the last of many would wait as many times as long as the first."""
    async with place.store() as store:
        bucket, release, sent = store.bucket, threading.Event(), list[int]()
        pool, usual = bucket._others, bucket._settings
        hanging = [asyncio.create_task(bucket._do("stat", "n", lambda _: release.wait(20), pool)) for _ in range(SMALL_THREADS)]
        late = asyncio.create_task(bucket._do("stat", "n", lambda _: sent.append(1), pool))
        await asyncio.sleep(0)  # all of them wait now
        await asyncio.sleep(0.2)
        bucket._settings = store.options.model_copy(update={"read_timeout": 0.1})
        release.set()
        assert all(await asyncio.gather(*hanging))
        with pytest.raises(StorageUnavailable):
            await late
        assert not sent
        bucket._settings = usual
        await bucket._do("stat", "n", lambda _: sent.append(1), pool)
        assert sent
