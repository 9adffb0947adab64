"""A directory of Go tusd is taken over as it is, and a Go server could take it back."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tusd import plugin
from tusd.builtin.file_storage import FileStorage, FileStore
from tusd.plugin import Final, Partial, State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease

ID = UploadId("8a18f0c1d2e3f4a5b6c7d8e9f0a1ce10")


def go_upload(
    directory: Path,
    upload_id: str = ID,
    data: bytes | None = b"",
    *,
    size: int = 11,
    deferred: bool = False,
    metadata: str = '{"filename":"world.txt","filetype":"text/plain"}',
    kind: str = '"IsPartial":false,"IsFinal":false,"PartialUploads":null',
    path: str | None = None,
    info_path: str | None = None,
    at: str | None = None,
) -> None:
    """Files as Go tusd writes them; `at` is where the bytes really are, when that is not beside the `.info` file."""
    path = f"{directory}/{upload_id}" if path is None else path
    info_path = f"{directory}/{upload_id}.info" if info_path is None else info_path
    if data is not None:
        where = Path(at or f"{directory}/{upload_id}")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
    sidecar = directory / f"{upload_id}.info"
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    sidecar.write_text(
        f'{{"ID":"{upload_id}","Size":{0 if deferred else size},"SizeIsDeferred":{"true" if deferred else "false"},"Offset":0,'
        f'"MetaData":{metadata},{kind},"Storage":{{"InfoPath":"{info_path}","Path":"{path}","Type":"filestore"}}}}'
    )


async def content(store: FileStore, info: UploadInfo) -> bytes:
    return b"".join([piece async for piece in store.read(info, 0, info.offset)])


async def test_a_complete_upload_is_complete(store: FileStore, directory: Path) -> None:
    go_upload(directory, data=b"hello world")
    os.utime(directory / f"{ID}.info", (1_500_000_000, 1_500_000_000))
    os.utime(directory / ID, (1_500_000_060, 1_500_000_060))
    info = await store.info(ID)
    assert (info.offset, info.length, info.state, info.explicit) == (11, 11, State.COMPLETE, False)
    assert info.created == datetime.fromtimestamp(1_500_000_000, UTC)
    assert info.modified == datetime.fromtimestamp(1_500_000_060, UTC)
    assert dict(info.metadata) == {"filename": b"world.txt", "filetype": b"text/plain"}
    assert info.metadata.header == "filename d29ybGQudHh0,filetype dGV4dC9wbGFpbg=="
    assert await content(store, info) == b"hello world"


async def test_an_upload_in_flight_goes_on(store: FileStore, directory: Path) -> None:
    go_upload(directory, data=b"hello")
    upload = await store.open(ID, FakeLease())
    assert (upload.info.offset, upload.info.state) == (5, State.RECEIVING)
    assert await upload.append(FakeBody(b" world")) == 6
    await upload.finish()
    assert upload.info.state is State.COMPLETE
    assert await content(store, upload.info) == b"hello world"
    assert "tusd" not in json.loads((directory / f"{ID}.info").read_text())


async def test_a_deferred_length_is_declared(store: FileStore, directory: Path) -> None:
    go_upload(directory, data=b"hello", deferred=True)
    upload = await store.open(ID, FakeLease())
    assert (upload.info.length, upload.info.state) == (None, State.RECEIVING)
    created = upload.info.created
    await upload.save(UploadInfo(id=ID, length=5, metadata=upload.info.metadata))
    found = json.loads((directory / f"{ID}.info").read_text())
    assert (found["Size"], found["SizeIsDeferred"]) == (5, False)
    info = await store.info(ID)
    assert (info.length, info.state, info.created) == (5, State.COMPLETE, created)


async def test_parts_are_concatenated(store: FileStore, directory: Path) -> None:
    partial = '"IsPartial":true,"IsFinal":false,"PartialUploads":null'
    go_upload(directory, "one", b"hello", size=5, kind=partial)
    go_upload(directory, "two", b" world", size=6, kind=partial)
    # Go died in the middle of copying the first part.
    go_upload(directory, ID, b"hel", kind='"IsPartial":false,"IsFinal":true,"PartialUploads":["one","two"]')
    final = await store.open(ID, FakeLease())
    assert final.info.concat == Final((UploadId("one"), UploadId("two")))
    parts = [await store.info(UploadId(part)) for part in ("one", "two")]
    assert [part.concat for part in parts] == [Partial(), Partial()]
    assert isinstance(final, plugin.Concatenable)
    await final.concatenate(parts)
    assert final.info.state is State.COMPLETE
    assert await content(store, await store.info(ID)) == b"hello world"


async def test_escapes_of_go_in_metadata_are_read(store: FileStore, directory: Path) -> None:
    go_upload(directory, metadata='{"filename":"a\\u003cb\\u003e\\u0026.txt","note":"é\\\\\\""}')
    info = await store.info(ID)
    assert dict(info.metadata) == {"filename": b"a<b>&.txt", "note": 'é\\"'.encode()}


async def test_an_id_with_a_folder(store: FileStore, directory: Path) -> None:
    go_upload(directory, "videos/2024/x", b"hello")
    assert (await store.info(UploadId("videos/2024/x"))).offset == 5
    assert [info.id async for info in store.uploads()] == ["videos/2024/x"]


async def test_an_info_file_without_bytes_is_not_found(store: FileStore, directory: Path) -> None:
    go_upload(directory, data=None)
    with pytest.raises(plugin.UploadNotFound):
        await store.info(ID)


async def test_bytes_without_an_info_file_are_not_found(store: FileStore, directory: Path) -> None:
    (directory / ID).write_bytes(b"hello")
    with pytest.raises(plugin.UploadNotFound):
        await store.info(ID)


@pytest.mark.parametrize(
    ("path", "info_path", "at"),
    [
        ("{d}/{i}", "{d}/{i}.info", "{d}/{i}"),  # the command line of Go
        ("data/{i}", "data/{i}.info", "{d}/{i}"),  # a Go program with a relative directory
        ("{i}", "{i}.info", "{d}/{i}"),
        ("{d}/kept/by a hook.bin", "{d}/{i}.info", "{d}/kept/by a hook.bin"),
        ("/somewhere/else/{i}", "/somewhere/else/{i}.info", "{d}/{i}"),  # the directory was moved
        ("/somewhere/else/kept/x", "/somewhere/else/{i}.info", "{d}/kept/x"),
        ("C:\\data\\{i}", "C:\\data\\{i}.info", "{d}/{i}"),
        ("{d}/kept/x", "", "{d}/kept/x"),
        ("", "", "{d}/{i}"),
        # what lies outside does not count
        ("{o}/secret", "{d}/{i}.info", "{d}/{i}"),
        ("{d}/../secret", "{d}/{i}.info", "{d}/{i}"),
        ("{o}/../secret", "{o}/{i}.info", "{d}/{i}"),
        ("{d}/link/secret", "{d}/{i}.info", "{d}/{i}"),
        ("{d}", "{d}/{i}.info", "{d}/{i}"),
        ("{d}/other.info", "{d}/{i}.info", "{d}/{i}"),
        ("{d}/a\\u0000b", "{d}/{i}.info", "{d}/{i}"),
        ("{d}/\\ud800", "{d}/{i}.info", "{d}/{i}"),
    ],
)
async def test_where_the_bytes_are(store: FileStore, directory: Path, tmp_path: Path, path: str, info_path: str, at: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "secret").write_bytes(b"a secret")
    (tmp_path / "outside" / "secret").write_bytes(b"a secret")
    (directory / "link").symlink_to(tmp_path / "outside")
    (directory / "other.info").write_bytes(b"{}")
    names = {"d": str(directory), "i": ID, "o": str(tmp_path / "outside")}
    where = at.format(**names)
    escaped = path.replace("\\", "\\\\") if path.startswith("C:") else path
    go_upload(
        directory,
        data=b"hello",
        path=escaped.format(**names),
        info_path=info_path.replace("\\", "\\\\").format(**names),
        at=where,
    )
    info = await store.info(ID)
    assert info.offset == 5
    assert info.storage == {"Type": "filestore", "Path": where, "InfoPath": f"{directory}/{ID}.info"}
    assert await content(store, info) == b"hello"
    upload = await store.open(ID, FakeLease())
    assert isinstance(upload, plugin.Terminable)
    await upload.terminate()
    assert not Path(where).exists()
    assert (tmp_path / "outside" / "secret").exists()
    assert sorted(os.listdir(directory)) == ["link", "other.info"]


async def test_a_directory_of_ours_is_moved_with_a_path_that_a_hook_chose(store: FileStore, directory: Path) -> None:
    upload = await store.create(UploadInfo(id=ID, length=5, storage={"Path": "kept/x"}), FakeLease())
    await upload.append(FakeBody(b"hello"))
    moved = directory.parent / "moved"
    directory.rename(moved)
    there = FileStore(FileStorage.Options(directory=moved), logging.getLogger("test"))
    info = await there.info(ID)
    assert info.storage["Path"] == f"{moved}/kept/x"
    assert await content(there, info) == b"hello"


async def test_go_can_read_what_we_write(store: FileStore, directory: Path) -> None:
    metadata = plugin.Metadata({"filename": b"w.txt"}, "filename dy50eHQ=")
    upload = await store.create(UploadInfo(id=ID, length=11, metadata=metadata, concat=Partial()), None)
    await upload.append(FakeBody(b"hello"))
    found = json.loads((directory / f"{ID}.info").read_text())
    assert list(found)[:-1] == [
        "ID",
        "Size",
        "SizeIsDeferred",
        "Offset",
        "MetaData",
        "IsPartial",
        "IsFinal",
        "PartialUploads",
        "Storage",
    ]
    ours = found.pop("tusd")
    assert found == {
        "ID": ID,
        "Size": 11,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": {"filename": "w.txt"},
        "IsPartial": True,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {"Type": "filestore", "Path": f"{directory}/{ID}", "InfoPath": f"{directory}/{ID}.info"},
    }
    assert list(ours) == ["created", "metadata"]
    assert (directory / ID).read_bytes() == b"hello"
    assert sorted(os.listdir(directory)) == [ID, f"{ID}.info"]
