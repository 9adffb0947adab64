"""What `.info` files said is remembered, and never believed when there may be another."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tusd import plugin
from tusd.builtin.file_storage import FileStore
from tusd.plugin import UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease

ID = UploadId("8a18f0c1d2e3f4a5")


@pytest.fixture
async def known(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A store that has read the upload often, and no file is too new to be remembered."""
    monkeypatch.setattr("tusd.builtin.known._SETTLED", -1.0)
    upload = await store.create(UploadInfo(id=ID, length=100), FakeLease())
    await upload.append(FakeBody(b"12345"))
    assert (await store.info(ID)).offset == 5
    return store


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the .info file was read again")

    monkeypatch.setattr("tusd.plugin.decode_sidecar", fail)


async def test_it_is_not_read_again(known: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await known.info(ID)
    forbid_reading(monkeypatch)
    assert await known.info(ID) == first
    assert (await known.open(ID, FakeLease())).info == first


async def test_the_offset_is_always_that_of_now(known: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_reading(monkeypatch)
    with (directory / ID).open("ab") as file:
        file.write(b"67")
    assert (await known.info(ID)).offset == 7


async def test_what_another_process_saves_is_seen(known: FileStore, directory: Path) -> None:
    text = (directory / f"{ID}.info").read_bytes()
    (directory / "new").write_bytes(text.replace(b'"tusd":{', b'"tusd":{"mark":3,'))
    (directory / "new").rename(directory / f"{ID}.info")
    assert (await known.info(ID)).offset == 3


async def test_what_is_written_in_place_is_seen(known: FileStore, directory: Path) -> None:
    await asyncio.sleep(0.02)  # longer than the steps in which a file system counts
    path = directory / f"{ID}.info"
    size, times = path.stat().st_size, (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes().replace(b'"IsPartial":false', b'"IsPartial":true '))
    os.utime(path, ns=times)
    assert path.stat().st_size == size
    assert isinstance((await known.info(ID)).concat, plugin.Partial)


@pytest.mark.parametrize("name", [ID, f"{ID}.info"])
async def test_what_is_gone_is_gone(known: FileStore, directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(plugin.UploadNotFound):
        await known.info(ID)


async def test_a_file_that_is_new_is_read_again(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create(UploadInfo(id=ID, length=100), None)
    await store.info(ID)
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError):
        await store.info(ID)


async def test_a_list_of_uploads_is_always_read(known: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made in threads, and would push out what clients ask for."""
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError):
        async for _ in known.uploads():
            pass


async def test_only_so_many_are_remembered(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.builtin.known._SETTLED", -1.0)
    monkeypatch.setattr("tusd.builtin.known._MOST", 2)
    for name in ("a", "b", "c"):
        await store.create(UploadInfo(id=UploadId(name), length=1), None)
        await store.info(UploadId(name))
    assert list(store._known._found) == ["b", "c"]
