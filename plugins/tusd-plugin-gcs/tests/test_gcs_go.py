"""A bucket of Go tusd is taken over as it is: complete uploads, and those in flight."""

from __future__ import annotations

import json

import pytest

from gcs_rig import KIB, Mode, Place, assert_bytes, breaking, content, settled
from tusd.plugin import State, StorageUnavailable, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_gcs.store import GcsStore
from tusd_plugin_gcs.upload import GcsUpload

IDS = ("0f1e2d3c4b5a69788796a5b4c3d2e1f0", "with_under_score", "folder/ends_in_7")


def go_info(place: Place, upload_id: str, size: int, prefix: str = "") -> None:
    """`.info` as gcsstore of tusd 2.9 writes it."""
    info = {
        "ID": upload_id,
        "Size": size,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": {"filename": "world.txt", "filetype": "text/plain"},
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {"Bucket": place.bucket, "Key": prefix + upload_id, "Type": "gcsstore"},
    }
    place.put(f"{prefix}{upload_id}.info", json.dumps(info, separators=(",", ":")).encode())


async def listed(store: GcsStore) -> dict[str, UploadInfo]:
    """All uploads."""
    return {info.id: info async for info in store.uploads()}


async def opened(store: GcsStore, upload_id: str) -> GcsUpload:
    """As the next holder of the lock."""
    upload = await store.open(UploadId(upload_id), FakeLease())
    assert isinstance(upload, GcsUpload)
    return upload


@pytest.mark.parametrize("prefix", ["", "uploads/"])
@pytest.mark.parametrize("upload_id", IDS)
async def test_a_complete_upload(place: Place, upload_id: str, prefix: str) -> None:
    go_info(place, upload_id, 11, prefix)
    place.put(prefix + upload_id, b"hello world")
    async with place.store(prefix=prefix) as store:
        info = await store.info(UploadId(upload_id))
        assert (info.offset, info.length, info.state, info.explicit) == (11, 11, State.COMPLETE, False)
        assert info.metadata["filename"] == b"world.txt"
        assert (await listed(store))[upload_id] == info
        assert (await opened(store, upload_id)).info == info
        assert_bytes(await content(store, info, 3, 8), b"lo wo")
        await (await opened(store, upload_id)).terminate()
        assert place.names() == []


@pytest.mark.parametrize("prefix", ["", "uploads/"])
@pytest.mark.parametrize("upload_id", IDS)
async def test_an_upload_in_flight(place: Place, upload_id: str, prefix: str) -> None:
    """Twelve pieces, so that their numbers do not sort as text; and objects of other uploads whose names look like pieces."""
    go_info(place, upload_id, 40, prefix)
    for n in range(12):
        place.put(f"{prefix}{upload_id}_{n}", b"%02d" % n)
    go_info(place, f"{upload_id}_12", 2, prefix)
    place.put(f"{prefix}{upload_id}_12", b"no")
    place.put(f"{prefix}{upload_id}_tmp_0_0", b"no")
    place.put(f"{prefix}{upload_id}_x", b"no")
    begun = b"".join(b"%02d" % n for n in range(12))
    async with place.store(prefix=prefix) as store:
        before = place.names()
        info = await store.info(UploadId(upload_id))
        assert (info.offset, info.state) == (24, State.RECEIVING)
        assert (await listed(store))[upload_id].offset == 24
        assert (await opened(store, upload_id)).info.offset == 24
        assert place.names() == before, "looking changes nothing"
        assert_bytes(await content(store, info), begun)
        upload = await opened(store, upload_id)
        await upload.append(FakeBody(b"some"))
        upload = await opened(store, upload_id)
        assert upload.info.offset == 28
        await upload.append(FakeBody(b" more bytes!"))
        await upload.finish()
        await settled(store)
        found = await store.info(UploadId(upload_id))
        assert (found.offset, found.state) == (40, State.COMPLETE)
        assert_bytes(await content(store, found), begun + b"some more bytes!")
        fields = place.fields(prefix + upload_id)
        assert (fields["contentType"], fields["metadata"]["filename"]) == ("text/plain", "world.txt")
        others = {f"{prefix}{upload_id}{rest}" for rest in ("_12", "_12.info", "_tmp_0_0", "_x")}
        assert set(place.names()) == others | {prefix + upload_id, f"{prefix}{upload_id}.info"}
        await (await opened(store, upload_id)).terminate()
        assert set(place.names()) == others


@pytest.mark.parametrize("mode", ["before", "after", "dead", "dead after"])
async def test_no_byte_that_was_called_safe_is_lost_in_the_first_request(place: Place, mode: Mode) -> None:
    """Which is the one that writes our list of pieces into Go's `.info`."""
    data = pattern(51, 600 * KIB)
    async with place.store() as store:
        for nth in range(1, 50):
            upload_id = f"upload{nth}"
            go_info(place, upload_id, len(data) + 4)
            place.put(f"{upload_id}_0", b"123")
            body = FakeBody(data)
            safe = 3
            with breaking(nth, mode) as broken:
                try:
                    upload = await opened(store, upload_id)
                    await upload.append(body)
                    safe = upload.info.offset
                except StorageUnavailable:
                    assert broken.struck
            upload = await opened(store, upload_id)
            assert max(safe, body.safe or 0) <= upload.info.offset <= 3 + len(data)
            await upload.append(FakeBody((data + b"!")[upload.info.offset - 3 :]))
            await upload.finish()
            await settled(store)
            assert_bytes(place.data(upload_id), b"123" + data + b"!")
            if not broken.struck:
                assert nth > 5
                return
    raise AssertionError("it never ends")


async def test_an_upload_that_has_no_byte_yet(place: Place) -> None:
    go_info(place, "upload", 5)
    async with place.store() as store:
        assert (await store.info(UploadId("upload"))).offset == 0
        upload = await opened(store, "upload")
        await upload.append(FakeBody(b"12345"))
        assert (await store.info(UploadId("upload"))).state is State.COMPLETE
        assert_bytes(place.data("upload"), b"12345")


async def test_an_upload_whose_pieces_are_all_there(place: Place) -> None:
    """Go tusd ended before it could put them together."""
    go_info(place, "upload", 6)
    place.put("upload_0", b"123")
    place.put("upload_1", b"456")
    async with place.store() as store:
        info = await store.info(UploadId("upload"))
        assert (info.offset, info.state) == (6, State.FINISHING), "so the next request finishes it"
        upload = await opened(store, "upload")
        await upload.finish()
        await settled(store)
        found = await store.info(UploadId("upload"))
        assert (found.offset, found.state) == (6, State.COMPLETE)
        assert sorted(place.names()) == ["upload", "upload.info"]
        assert_bytes(place.data("upload"), b"123456")


async def test_an_upload_of_zero_bytes_which_go_tusd_could_not_finish(place: Place) -> None:
    go_info(place, "upload", 0)
    async with place.store() as store:
        assert (await store.info(UploadId("upload"))).state is State.FINISHING
        await (await opened(store, "upload")).finish()
        assert (await store.info(UploadId("upload"))).state is State.COMPLETE
        assert place.data("upload") == b""


async def test_an_upload_in_flight_is_terminated(place: Place) -> None:
    go_info(place, "upload", 6)
    place.put("upload_0", b"123")
    async with place.store() as store:
        await (await opened(store, "upload")).terminate()
        assert place.names() == []


async def test_what_we_write_go_tusd_can_read(place: Place) -> None:
    """Its fields stand in `.info` as it writes them, and ours in one more that it ignores."""
    go_info(place, "go", 5)
    async with place.store() as store:
        upload = await opened(store, "go")
        await upload.append(FakeBody(b"12"))
        ours = json.loads(place.data("go.info"))
    go_info(place, "same", 5)
    theirs = json.loads(place.data("same.info"))
    assert list(ours)[:-1] == list(theirs)
    assert list(ours)[-1] == "tusd"
    assert {key: ours[key] for key in theirs if key not in ("ID", "Storage")} == {
        key: theirs[key] for key in theirs if key not in ("ID", "Storage")
    }
    assert set(ours["Storage"]) == set(theirs["Storage"])
