from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tusd import plugin
from tusd.builtin import disk, file_storage
from tusd.builtin.file_storage import FileStorage, FileStore, FileUpload
from tusd.plugin import Partial, State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern

ID = UploadId("8a18f0c1d2e3f4a5")
LOGGER = logging.getLogger("test")


def open_store(directory: Path, **options: object) -> FileStore:
    return FileStore(FileStorage.Options.model_validate({"directory": directory, **options}), LOGGER)


async def new(store: FileStore, name: str = ID, length: int | None = 100, **fields: object) -> FileUpload:
    info = replace(UploadInfo(id=UploadId(name), length=length), **fields)  # type: ignore[arg-type]
    upload = await store.create(info, FakeLease())
    assert isinstance(upload, FileUpload)
    return upload


async def reopen(store: FileStore, name: str = ID) -> FileUpload:
    upload = await store.open(UploadId(name), FakeLease())
    assert isinstance(upload, FileUpload)
    return upload


async def full(store: FileStore, name: str, data: bytes) -> UploadInfo:
    upload = await new(store, name, len(data), concat=Partial())
    await upload.append(FakeBody(data))
    return upload.info


async def content(store: FileStore, info: UploadInfo) -> bytes:
    return b"".join([piece async for piece in store.read(info, 0, info.offset)])


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `async def main(store)`."""
    script = (
        "import asyncio, logging, os, sys, resource\n"
        "from tusd import plugin\n"
        "from tusd.builtin.file_storage import FileStorage, FileStore\n"
        "from tusd.plugin import UploadId, UploadInfo\n"
        "from tusd.testing.bodies import FakeBody, FakeLease, pattern\n"
        "store = FileStore(FileStorage.Options(directory=sys.argv[1], fsync=sys.argv[2]), logging.getLogger('child'))\n"
        f"{code}\nasyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def said(process: subprocess.Popen[str]) -> list[str]:
    """All that it says until its end."""
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return text.splitlines()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fsync, write, pwrite, rename, and telling the body did, in order, by name of file."""
    seen: list[str] = []

    def name(fd: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))

    def spy(function: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(target: int | str, *arguments: object) -> object:
            called = name(target) if isinstance(target, int) else os.path.basename(target)
            seen.append(f"{function} {called}")
            return real(target, *arguments)

        return call

    for function in ("fsync", "pwrite", "replace"):
        monkeypatch.setattr(os, function, spy(function, getattr(os, function)))
    return seen


class TestPlugin:
    async def test_it_makes_its_directory(self, tmp_path: Path) -> None:
        where = tmp_path / "a" / "b"
        storage = FileStorage(FileStorage.Options(directory=where))
        async with storage.open_storage(worker(tmp_path)) as store:
            assert isinstance(store, FileStore)
            assert store.capabilities == {
                plugin.Terminable,
                plugin.Concatenable,
                plugin.Atomic,
                plugin.Readable,
                plugin.Listable,
            }
            await store.check()
        assert where.is_dir()
        assert FileStorage.scope is plugin.Scope.HOST

    async def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        storage = FileStorage(FileStorage.Options(directory=tmp_path / "file" / "data"))
        with pytest.raises(plugin.StorageUnavailable, match=r"file/data: Not a directory; .*storage\.directory"):
            async with storage.open_storage(worker(tmp_path)):
                pass

    async def test_a_directory_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        storage = FileStorage(FileStorage.Options(directory=tmp_path))
        with pytest.raises(plugin.StorageUnavailable, match="cannot be written"):
            async with storage.open_storage(worker(tmp_path)):
                pass

    def test_the_defaults(self) -> None:
        options = FileStorage.Options()
        assert (options.directory, options.fsync, options.dir_mode, options.file_mode) == (Path("data"), "never", 0o775, 0o664)


class NoMetrics(plugin.Metrics):
    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None: ...

    def set(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None: ...

    def observe(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None: ...


def worker(directory: Path) -> plugin.Worker:
    return plugin.Worker("storage:file", LOGGER, NoMetrics(), directory)


class TestCreate:
    async def test_two_files(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        assert files(directory) == [ID, f"{ID}.info"]
        assert upload.info.storage == {
            "Type": "filestore",
            "Path": f"{directory}/{ID}",
            "InfoPath": f"{directory}/{ID}.info",
        }
        found = await store.info(ID)
        assert replace(found, modified=upload.info.modified) == upload.info

    async def test_an_empty_upload_is_complete(self, store: FileStore) -> None:
        assert (await new(store, length=0)).info.state is State.COMPLETE
        assert (await store.info(ID)).state is State.COMPLETE

    async def test_it_never_overwrites_an_upload(self, store: FileStore) -> None:
        await (await new(store)).append(FakeBody(b"hello"))
        with pytest.raises(plugin.UploadExists):
            await new(store, length=7)
        info = await store.info(ID)
        assert (info.length, info.offset) == (100, 5)

    async def test_it_never_overwrites_a_file(self, store: FileStore, directory: Path) -> None:
        (directory / ID).write_bytes(b"somebody's")
        with pytest.raises(plugin.UploadExists):
            await new(store)
        assert files(directory) == [ID]
        assert (directory / ID).read_bytes() == b"somebody's"

    async def test_it_never_follows_a_link(self, store: FileStore, directory: Path, tmp_path: Path) -> None:
        (directory / ID).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(plugin.UploadExists):
            await new(store)
        assert not (tmp_path / "elsewhere").exists()

    async def test_folders_of_an_id_come_and_go_with_it(self, store: FileStore, directory: Path) -> None:
        upload = await new(store, "a/b/one")
        other = await new(store, "a/two")
        assert files(directory) == ["a", "a/b", "a/b/one", "a/b/one.info", "a/two", "a/two.info"]
        await upload.terminate()
        assert files(directory) == ["a", "a/two", "a/two.info"]
        await other.terminate()
        assert files(directory) == []
        assert directory.is_dir()

    @pytest.mark.parametrize("name", ["taken/below", "taken/far/below"])
    async def test_an_id_below_an_upload_is_taken(self, store: FileStore, directory: Path, name: str) -> None:
        await new(store, "taken")
        with pytest.raises(plugin.UploadExists):
            await new(store, name)
        assert files(directory) == ["taken", "taken.info"]
        with pytest.raises(plugin.UploadNotFound):
            await store.info(UploadId(name))

    async def test_an_id_that_is_a_folder_is_taken(self, store: FileStore, directory: Path) -> None:
        await new(store, "folder/x")
        with pytest.raises(plugin.UploadExists):
            await new(store, "folder")
        assert files(directory) == ["folder", "folder/x", "folder/x.info"]

    async def test_an_id_that_the_file_system_cannot_hold(self, store: FileStore, directory: Path) -> None:
        with pytest.raises(plugin.HookError, match="too long"):
            await new(store, "x" * 252)
        assert files(directory) == []
        with pytest.raises(plugin.UploadNotFound):
            await store.info(UploadId("x" * 252))

    async def test_permissions(self, directory: Path) -> None:
        store = open_store(directory, file_mode="0666", dir_mode="0777")
        before = os.umask(0o027)
        try:
            upload = await new(store, "a/x")
            await upload.save(upload.info)
        finally:
            os.umask(before)
        modes = {path: (directory / path).stat().st_mode & 0o777 for path in files(directory)}
        assert modes == {"a": 0o750, "a/x": 0o640, "a/x.info": 0o640}

    async def test_while_another_end_removes_its_folder(self, store: FileStore, directory: Path) -> None:
        done = threading.Event()

        def remove() -> None:
            while not done.is_set():
                with suppress(OSError):
                    os.rmdir(directory / "a")
                time.sleep(0.0001)

        thread = threading.Thread(target=remove)
        thread.start()
        try:
            for n in range(300):
                await (await new(store, f"a/{n}")).terminate()
        finally:
            done.set()
            thread.join()
        assert files(directory) in ([], ["a"])

    async def test_a_full_disk_leaves_nothing(self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(fd: int, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", fails)
        with pytest.raises(plugin.StorageFull):
            await new(store, "a/x")
        assert files(directory) == []

    async def test_no_lease_no_file(self, store: FileStore, directory: Path) -> None:
        lease = FakeLease()
        lease.lose()
        with pytest.raises(plugin.LeaseLost):
            await store.create(UploadInfo(id=ID, length=1), lease)
        assert files(directory) == []

    async def test_without_a_lease(self, store: FileStore) -> None:
        upload = await store.create(UploadInfo(id=ID, length=1), None)
        await upload.save(replace(upload.info, length=None))
        assert (await store.info(ID)).length is None

    async def test_a_directory_that_is_gone_is_not_made_anew(self, store: FileStore, directory: Path) -> None:
        directory.rmdir()
        for work in (new(store), new(store, "a/x"), store.info(ID), store.check()):
            with pytest.raises(plugin.StorageUnavailable):
                await work
        with pytest.raises(plugin.StorageUnavailable):
            await anext(aiter(store.uploads()))
        assert not directory.exists()


class TestLeftByACrash:
    """A creation that was cut off between its two files, of an id that a hook chooses again."""

    @pytest.mark.parametrize("path", [None, "kept/x.bin"])
    @pytest.mark.parametrize("fsync", ["never", "append"])
    async def test_killed_between_the_two_files(self, directory: Path, fsync: str, path: str | None) -> None:
        process = child(
            """
real = os.open
def die(path, flags, *arguments):
    if flags & os.O_EXCL and not path.endswith(".info"):
        os.kill(os.getpid(), 9)
    return real(path, flags, *arguments)
os.open = die

async def main():
    chosen = {"Path": sys.argv[4]} if len(sys.argv) > 4 else {}
    await store.create(UploadInfo(id=UploadId(sys.argv[3]), length=5, notes={"by": "the dead"}, storage=chosen), None)
""",
            directory,
            fsync,
            ID,
            *([path] if path else []),
        )
        process.communicate(timeout=30)
        assert process.returncode == -9
        assert files(directory) == [f"{ID}.info"]
        store = open_store(directory, fsync=fsync)
        with pytest.raises(plugin.UploadNotFound):
            await store.info(ID)
        upload = await new(store, storage={"Path": path} if path else {}, notes={"by": "the living"})
        with pytest.raises(plugin.UploadExists):
            await new(store, storage={"Path": path} if path else {})
        info = await store.info(ID)
        assert (info.length, info.notes) == (100, {"by": "the living"})
        assert await upload.append(FakeBody(b"hello")) == 5
        await (await reopen(store)).terminate()
        assert files(directory) == []

    async def test_half_an_upload_of_another_path_is_not_taken_over(self, store: FileStore, directory: Path) -> None:
        await new(store, storage={"Path": "kept/x.bin"})
        (directory / "kept/x.bin").unlink()
        for storage in ({}, {"Path": "kept/y.bin"}):
            with pytest.raises(plugin.UploadExists):
                await new(store, storage=storage)
        await new(store, storage={"Path": "kept/x.bin"}, length=7)
        assert (await store.info(ID)).length == 7

    async def test_a_damaged_one_is_not_taken_over(self, store: FileStore, directory: Path) -> None:
        (directory / f"{ID}.info").write_bytes(b'{"Size":"many"}')
        with pytest.raises(plugin.UploadExists):
            await new(store)
        assert (directory / f"{ID}.info").read_bytes() == b'{"Size":"many"}'
        assert files(directory) == [f"{ID}.info"]

    async def test_processes_that_race(self, store: FileStore, directory: Path) -> None:
        """Every id goes to one process, though half of them are left over."""
        ids = [f"id{n}" for n in range(400)]
        for name in ids[::2]:
            await new(store, name)
            (directory / name).unlink()
        racers = [
            child(
                """
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(400):
        try:
            await store.create(UploadInfo(id=UploadId(f"id{n}"), length=5, notes={"by": sys.argv[3]}), None)
            print(f"id{n}", flush=True)
        except plugin.UploadExists:
            pass
""",
                directory,
                "never",
                name,
            )
            for name in ("one", "two", "three")
        ]
        assert [says(racer) for racer in racers] == ["ready"] * 3
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [(name, by) for racer, by in zip(racers, ("one", "two", "three"), strict=True) for name in said(racer)]
        assert sorted(name for name, _ in won) == sorted(ids)
        for name, by in won:
            assert (await store.info(UploadId(name))).notes == {"by": by}
        assert files(directory) == sorted([*ids, *(f"{name}.info" for name in ids)])


class TestChosenPath:
    @pytest.mark.parametrize("path", ["kept/x.bin", "{d}/kept/x.bin", "a/../kept/./x.bin"])
    async def test_inside(self, store: FileStore, directory: Path, path: str) -> None:
        upload = await new(store, storage={"Path": path.format(d=directory)})
        await upload.append(FakeBody(b"hello"))
        assert (directory / "kept/x.bin").read_bytes() == b"hello"
        assert files(directory) == [f"{ID}.info", "kept", "kept/x.bin"]
        info = await store.info(ID)
        assert info.storage["Path"] == f"{directory}/kept/x.bin"
        assert await content(store, info) == b"hello"
        assert [found.offset async for found in store.uploads()] == [5]
        await (await reopen(store)).terminate()
        assert files(directory) == []

    @pytest.mark.parametrize(
        "path",
        ["..", "../x", "a/../../x", "/x", "/etc/x", ".", "{d}", "{d}/../x", "{d}x/y", "link/x", "x.info", "x\0y", "\ud800"],
    )
    async def test_outside(self, store: FileStore, directory: Path, tmp_path: Path, path: str) -> None:
        (directory / "link").symlink_to(tmp_path)
        with pytest.raises(plugin.HookError, match=r"storage\.Path must lie inside"):
            await new(store, storage={"Path": path.format(d=directory)})
        assert files(directory) == ["link"]

    @pytest.mark.parametrize("path", ["taken", "folder", "taken/below"])
    async def test_taken(self, store: FileStore, directory: Path, path: str) -> None:
        (directory / "taken").write_bytes(b"somebody's")
        (directory / "folder").mkdir()
        with pytest.raises(plugin.HookError, match="taken"):
            await new(store, storage={"Path": path})
        assert files(directory) == ["folder", "taken"]
        assert (directory / "taken").read_bytes() == b"somebody's"


class TestInfo:
    async def test_the_offset_is_the_size(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        (directory / ID).write_bytes(b"12345")
        info = await store.info(ID)
        assert info.offset == 5
        assert info.modified >= info.created == upload.info.created

    async def test_never_past_the_length(self, store: FileStore, directory: Path) -> None:
        await new(store, length=3)
        (directory / ID).write_bytes(b"12345")
        assert (await store.info(ID)).offset == 3

    @pytest.mark.parametrize("text", [b"", b"\0" * 300])
    async def test_an_empty_file_is_a_creation_that_never_was(self, store: FileStore, directory: Path, text: bytes) -> None:
        await new(store)
        (directory / f"{ID}.info").write_bytes(text)
        with pytest.raises(plugin.UploadNotFound):
            await store.info(ID)

    async def test_half_a_file_without_bytes_is_a_creation_that_never_was(self, store: FileStore, directory: Path) -> None:
        (directory / f"{ID}.info").write_bytes(b'{"ID":"8a1')
        with pytest.raises(plugin.UploadNotFound):
            await store.info(ID)

    async def test_the_log_says_what_is_damaged_and_the_cure_and_the_client_nothing(
        self, store: FileStore, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await new(store)
        (directory / f"{ID}.info").write_bytes(b'{"Size":"many"}')
        for work in (store.info(ID), store.open(ID, FakeLease())):
            with pytest.raises(plugin.StorageUnavailable) as raised:
                await work
            assert str(raised.value) == plugin.StorageUnavailable.message
        assert re.search("8a18f0c1: its .info file is damaged: .*; restore it from a backup, or remove", caplog.text)
        assert ID not in caplog.text

    async def test_a_broken_disk(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await new(store)

        def broken(path: str) -> os.stat_result:
            raise OSError(errno.EIO, "Input/output error", path)

        monkeypatch.setattr(os, "stat", broken)
        with pytest.raises(plugin.StorageUnavailable) as raised:
            await store.info(ID)
        assert str(directory) not in str(raised.value)
        assert "cannot look up upload 8a18f0c1: Input/output error" in caplog.text

    async def test_it_changes_nothing(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        await half_verified(upload)
        before = {path: ((directory / path).stat().st_mtime_ns, (directory / path).read_bytes()) for path in files(directory)}
        assert (await store.info(ID)).offset == 5
        assert before == {
            path: ((directory / path).stat().st_mtime_ns, (directory / path).read_bytes()) for path in files(directory)
        }


async def half_verified(upload: FileUpload, data: bytes = b"67890") -> None:
    """Leaves `data` unverified: cancelled in the middle."""
    body = FakeBody(data + b"?", whole=True, hang_at=len(data))
    task = asyncio.create_task(upload.append(body))
    await body.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestAppend:
    async def test_bytes_that_were_written_before_a_cancellation_count(self, store: FileStore) -> None:
        upload = await new(store)
        body = FakeBody(b"12345", hang_at=3)
        task = asyncio.create_task(upload.append(body))
        await body.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upload.info.offset == (await store.info(ID)).offset == 3

    async def test_the_last_byte_completes(self, store: FileStore) -> None:
        upload = await new(store, length=5)
        body = FakeBody(b"12345")
        assert await upload.append(body) == 5
        assert body.safe == 5
        assert upload.info == await store.info(ID)
        assert upload.info.state is State.COMPLETE

    async def test_an_explicit_state_is_not_moved_by_bytes(self, store: FileStore) -> None:
        upload = await new(store, length=5, explicit=True)
        await upload.append(FakeBody(b"12345"))
        assert upload.info.state is (await store.info(ID)).state is State.RECEIVING

    @pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    async def test_a_full_disk_keeps_what_fitted(self, store: FileStore, reason: int) -> None:
        class Full(FakeBody):
            async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
                os.pwrite(fd, self.data[:3], offset)
                raise OSError(reason, os.strerror(reason))

        upload = await new(store)
        with pytest.raises(plugin.StorageFull) as raised:
            await upload.append(Full(b"12345"))
        assert raised.value.info == upload.info
        assert upload.info.offset == (await store.info(ID)).offset == 3
        assert await upload.append(FakeBody(b"45")) == 2
        assert await content(store, upload.info) == b"12345"

    async def test_another_failure_keeps_what_was_written(self, store: FileStore, directory: Path) -> None:
        class Broken(FakeBody):
            async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
                os.pwrite(fd, self.data[:3], offset)
                raise OSError(errno.EIO, "Input/output error", str(directory))

        upload = await new(store)
        with pytest.raises(plugin.StorageUnavailable) as raised:
            await upload.append(Broken(b"12345"))
        assert str(directory) not in str(raised.value)
        assert upload.info.offset == 3

    async def test_a_limit_of_the_kernel(self, directory: Path) -> None:
        """A real refusal in mid-write, in a process that may make files of 100 000 bytes only."""
        process = child(
            """
async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    upload = await store.create(UploadInfo(id=UploadId("x"), length=200_000), FakeLease())
    for data in (pattern(1, 60_000), pattern(2, 140_000)):
        try:
            print(await upload.append(FakeBody(data)), flush=True)
        except plugin.StorageFull:
            print("full", upload.info.offset, (await store.info(UploadId("x"))).offset, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    for work in (store.create(UploadInfo(id=UploadId("y"), length=5), FakeLease()), upload.save(upload.info)):
        try:
            await work
        except plugin.StorageFull:
            print("full", *sorted(os.listdir(sys.argv[1])), flush=True)
""",
            directory,
            "never",
        )
        assert process.communicate(timeout=30)[0].splitlines() == [
            "60000",
            "full 100000 100000",
            "full x x.info",
            "full x x.info",
        ]
        assert process.returncode == 0
        store = open_store(directory)
        upload = await reopen(store, "x")
        assert await upload.append(FakeBody(pattern(2, 140_000)[40_000:])) == 100_000
        assert await content(store, upload.info) == pattern(1, 60_000) + pattern(2, 140_000)

    async def test_the_file_is_gone(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        (directory / ID).unlink()
        with pytest.raises(plugin.UploadNotFound):
            await upload.append(FakeBody(b"1"))
        with pytest.raises(plugin.UploadNotFound):
            await upload.append(FakeBody(b"1"))
        assert files(directory) == [f"{ID}.info"]

    async def test_a_file_that_nothing_is_appended_to_is_closed(self, store: FileStore) -> None:
        before = os.listdir("/dev/fd")
        upload = await new(store)
        assert len(os.listdir("/dev/fd")) == len(before) + 1
        del upload
        assert os.listdir("/dev/fd") == before


class TestAtomic:
    async def test_a_body_that_is_not_intact_leaves_nothing(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        text = (directory / f"{ID}.info").read_bytes()
        body = FakeBody(b"67890", whole=True, intact=False)
        assert await upload.append(body) == 0
        assert upload.info.offset == (directory / ID).stat().st_size == 5
        assert (directory / f"{ID}.info").read_bytes() == text
        assert await upload.append(FakeBody(b"678", whole=True)) == 3
        assert (directory / f"{ID}.info").read_bytes() == text
        assert await content(store, await store.info(ID)) == b"12345678"

    async def test_a_cancelled_body_does_not_count_and_is_cut_by_open(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        await half_verified(upload)
        assert (directory / ID).read_bytes() == b"1234567890"
        assert upload.info.offset == (await store.info(ID)).offset == 5
        upload = await reopen(store)
        assert (directory / ID).read_bytes() == b"12345"
        assert b"mark" not in (directory / f"{ID}.info").read_bytes()
        assert await upload.append(FakeBody(b"x")) == 1

    async def test_the_same_upload_goes_on_after_a_cancelled_body(self, store: FileStore) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        await half_verified(upload)
        await upload.save(replace(upload.info, notes={"a": "b"}))
        assert (await store.info(ID)).offset == 5
        assert await upload.append(FakeBody(b"x")) == 1
        assert await content(store, await store.info(ID)) == b"12345x"
        assert upload.info.notes == {"a": "b"}

    async def test_a_repair_that_fails_is_tried_again(self, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        await half_verified(upload)

        def fails(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "ftruncate", fails)
            with pytest.raises(plugin.StorageUnavailable):
                await reopen(store)
        assert (await store.info(ID)).offset == 5
        assert await (await reopen(store)).append(FakeBody(b"x")) == 1
        assert await content(store, await store.info(ID)) == b"12345x"

    async def test_a_full_disk_blocks_neither_a_look_nor_the_removal(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is room for no new `.info` file, and what a killed body left is there."""
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        await half_verified(upload)

        def fails(fd: int, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fails)
            for _ in range(2):
                upload = await reopen(store)
                assert upload.info.offset == (directory / ID).stat().st_size == (await store.info(ID)).offset == 5
            with pytest.raises(plugin.StorageFull) as raised:
                await upload.append(FakeBody(b"678"))
            assert raised.value.info == upload.info
            assert (await store.info(ID)).offset == 5
        assert await upload.append(FakeBody(b"678")) == 3
        assert await content(store, await store.info(ID)) == b"12345678"
        await half_verified(upload)
        monkeypatch.setattr(os, "write", fails)
        await (await reopen(store)).terminate()
        assert files(directory) == []

    async def test_open_does_not_hide_that_the_lease_is_lost(self, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = await new(store)
        await half_verified(upload)
        lease = FakeLease()
        monkeypatch.setattr(os, "ftruncate", lambda fd, size: lease.lose())
        with pytest.raises(plugin.LeaseLost):
            await store.open(ID, lease)

    async def test_the_lease_is_lost_in_the_middle(self, store: FileStore, directory: Path) -> None:
        lease = FakeLease()
        upload = await store.create(UploadInfo(id=ID, length=100), lease)
        with pytest.raises(plugin.LeaseLost):
            await upload.append(FakeBody(b"12345", lease, piece=1, whole=True, lose_at=3))
        assert (directory / ID).read_bytes() == b"123"
        assert upload.info.offset == (await store.info(ID)).offset == 0

    async def test_a_mark_that_cannot_be_taken_away_hides_the_body(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload = await new(store)
        await upload.append(FakeBody(b"12345"))
        real, count = os.replace, 0

        def second_fails(source: str, target: str) -> None:
            nonlocal count
            count += 1
            if count == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", second_fails)
        with pytest.raises(plugin.StorageFull):
            await upload.append(FakeBody(b"67890", whole=True))
        assert upload.info.offset == (await store.info(ID)).offset == 5
        upload = await reopen(store)
        assert await upload.append(FakeBody(b"x")) == 1
        assert await content(store, upload.info) == b"12345x"

    @pytest.mark.parametrize("fsync", ["never", "append"])
    @pytest.mark.parametrize("moment", ["in the middle", "before it is verified"])
    async def test_killed(self, directory: Path, fsync: str, moment: str) -> None:
        process = child(
            """
class Body(FakeBody):
    async def intact(self):
        print("unverified", flush=True)
        await asyncio.sleep(60)

async def main():
    upload = await store.create(UploadInfo(id=UploadId("x"), length=200_000), FakeLease())
    await upload.append(FakeBody(pattern(1, 50_000), whole=True))
    body = Body(pattern(2, 150_000), whole=True, hang_at=100_000 if sys.argv[3] == "in the middle" else None)
    task = asyncio.create_task(upload.append(body))
    if sys.argv[3] == "in the middle":
        await body.hanging.wait()
        print("hanging", flush=True)
    await task
""",
            directory,
            fsync,
            moment,
        )
        assert says(process) in ("hanging", "unverified")
        store = open_store(directory, fsync=fsync)
        assert (await store.info(UploadId("x"))).offset == 50_000
        process.kill()
        process.communicate(timeout=30)
        assert (directory / "x").stat().st_size >= 150_000
        info = await store.info(UploadId("x"))
        assert (info.offset, info.state) == (50_000, State.RECEIVING)
        assert [found.offset async for found in store.uploads()] == [50_000]
        upload = await reopen(store, "x")
        assert upload.info.offset == (directory / "x").stat().st_size == 50_000
        assert files(directory) == ["x", "x.info"]
        assert await upload.append(FakeBody(pattern(2, 150_000))) == 150_000
        assert await content(store, await store.info(UploadId("x"))) == pattern(1, 50_000) + pattern(2, 150_000)

    async def test_info_never_sees_unverified_bytes(self, directory: Path) -> None:
        """Another process appends bodies of 1000 bytes, and of 7 that turn out bad; no offset in between may ever be seen."""
        process = child(
            """
async def main():
    upload = await store.create(UploadInfo(id=UploadId("x"), length=None), FakeLease())
    print("ready", flush=True)
    while True:
        await upload.append(FakeBody(b"b" * 7, whole=True, intact=False))
        await upload.append(FakeBody(b"g" * 1000, piece=300, whole=True))
""",
            directory,
            "never",
        )
        try:
            assert says(process) == "ready"
            store = open_store(directory)
            seen, end = [0], time.monotonic() + 1.5
            while time.monotonic() < end:
                seen.append((await store.info(UploadId("x"))).offset)
        finally:
            process.kill()
            process.communicate(timeout=30)
        assert len(set(seen)) > 10
        assert [offset for offset in seen if offset % 1000] == []
        assert seen == sorted(seen)


class TestSave:
    async def test_it_is_remembered(self, store: FileStore) -> None:
        upload = await new(store, length=None)
        await upload.append(FakeBody(b"12345"))
        expires = upload.info.created + timedelta(days=1)
        changed = replace(
            upload.info,
            length=5,
            state=State.FINISHING,
            explicit=True,
            metadata=plugin.Metadata({"a": b"1"}, "a MQ=="),
            expires=expires,
            max_length=7,
            notes={"k": "v"},
        )
        await upload.save(replace(changed, id=UploadId("b"), offset=0, concat=Partial(), storage={}))
        assert upload.info == changed
        assert await store.info(ID) == changed

    async def test_a_failure_leaves_the_old_one(self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = await new(store)
        before = upload.info

        def fails(fd: int, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fails)
            with pytest.raises(plugin.StorageFull):
                await upload.save(replace(before, length=7))
        assert upload.info == before
        assert (await store.info(ID)).length == 100
        assert files(directory) == [ID, f"{ID}.info"]

    async def test_a_lost_lease_leaves_the_old_one(self, store: FileStore, directory: Path) -> None:
        class LostAtTheEnd(FakeLease):
            def check(self) -> None:
                self.lost = f"{ID}.info.tmp" in files(directory)
                super().check()

        upload = await store.create(UploadInfo(id=ID, length=100), LostAtTheEnd())
        with pytest.raises(plugin.LeaseLost):
            await upload.save(replace(upload.info, length=7))
        assert (await store.info(ID)).length == 100
        assert files(directory) == [ID, f"{ID}.info"]


class TestFsync:
    async def test_never(self, directory: Path, calls: list[str]) -> None:
        upload = await new(open_store(directory))
        await upload.append(FakeBody(b"12345"))
        await upload.save(upload.info)
        await upload.finish()
        assert calls == [f"pwrite {ID}", f"replace {ID}.info.tmp"]

    async def test_finish(self, directory: Path, calls: list[str]) -> None:
        upload = await new(open_store(directory, fsync="finish"), "a/x")
        await upload.append(FakeBody(b"12345"))
        assert calls == ["pwrite x"]
        await upload.save(upload.info)
        assert calls[1:] == ["fsync x.info.tmp", "replace x.info.tmp", "fsync a"]
        calls.clear()
        await upload.finish()
        assert calls[-2:] == ["fsync a", "fsync data"]
        assert sorted(calls[:-2]) == ["fsync x", "fsync x.info"]

    async def test_append(self, directory: Path, calls: list[str]) -> None:
        upload = await new(open_store(directory, fsync="append"), "a/x")
        assert calls == ["fsync x.info", "fsync x", "fsync a", "fsync data"]
        calls.clear()
        body = FakeBody(b"12345")
        await upload.append(body)
        assert calls == ["pwrite x", "fsync x"]
        assert body.safe == 5
        calls.clear()
        await upload.append(FakeBody(b"678", whole=True))
        marking = ["fsync x.info.tmp", "replace x.info.tmp", "fsync a"]
        assert calls == [*marking, "pwrite x", "fsync x", *marking]

    @pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
    async def test_what_fitted_is_synced_before_it_is_told(self, directory: Path, calls: list[str], reason: int) -> None:
        class Full(FakeBody):
            async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
                os.pwrite(fd, self.data[:3], offset)
                raise OSError(reason, os.strerror(reason))

        upload = await new(open_store(directory, fsync="append"))
        calls.clear()
        with pytest.raises((plugin.StorageFull, plugin.StorageUnavailable)) as raised:
            await upload.append(Full(b"12345"))
        assert raised.value.info is not None
        assert raised.value.info.offset == 3
        assert calls == [f"pwrite {ID}", f"fsync {ID}"]

    async def test_what_came_before_the_lease_was_lost_is_synced(self, directory: Path, calls: list[str]) -> None:
        lease = FakeLease()
        upload = await open_store(directory, fsync="append").create(UploadInfo(id=ID, length=100), lease)
        calls.clear()
        with pytest.raises(plugin.LeaseLost):
            await upload.append(FakeBody(b"12345", lease, lose_at=3))
        assert upload.info.offset == 3
        assert calls == [f"pwrite {ID}", f"fsync {ID}"]

    @pytest.mark.parametrize("fsync", ["never", "finish", "append"])
    async def test_what_a_dead_holder_wrote_is_synced_before_it_is_told(
        self, directory: Path, calls: list[str], fsync: str
    ) -> None:
        store = open_store(directory, fsync=fsync)
        await new(store, length=5)
        calls.clear()
        (directory / ID).write_bytes(b"123")
        assert (await reopen(store)).info.offset == 3
        (directory / ID).write_bytes(b"12345")
        assert (await reopen(store)).info.state is State.COMPLETE
        assert (await store.info(ID)).state is State.COMPLETE  # whoever sees that does not open it
        assert calls == ([f"fsync {ID}"] * 3 if fsync == "append" else [])

    async def test_what_was_remembered_as_complete_is_not_synced_again(self, directory: Path, calls: list[str]) -> None:
        store = open_store(directory, fsync="append")
        upload = await new(store, length=5, explicit=True)
        await upload.append(FakeBody(b"12345"))
        await upload.save(replace(upload.info, state=State.COMPLETE))
        calls.clear()
        await reopen(store)
        await store.info(ID)
        assert calls == []

    @pytest.mark.parametrize("whole", [False, True])
    async def test_what_cannot_be_synced_is_not_told(self, directory: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
        store = open_store(directory, fsync="append")
        upload = await new(store, length=10)
        await upload.append(FakeBody(b"12345"))
        real = os.fsync

        def fails(fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}") == str(directory / ID):
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises(plugin.StorageUnavailable) as raised:
                await upload.append(FakeBody(b"67890", whole=whole))
            assert raised.value.info is not None
            assert raised.value.info.offset == 5
            with pytest.raises(plugin.StorageUnavailable):
                await reopen(store)
        assert (await reopen(store)).info.offset == (directory / ID).stat().st_size == 5

    async def test_a_failing_sync_acknowledges_nothing(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        upload = await new(open_store(directory, fsync="append"))

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fails)
        body = FakeBody(b"12345")
        for work in (upload.append(body), upload.finish(), upload.save(upload.info)):
            with pytest.raises(plugin.StorageUnavailable):
                await work
        assert body.safe is None

    async def test_a_failing_sync_leaves_no_new_upload(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(plugin.StorageUnavailable):
            await new(open_store(directory, fsync="append"))
        assert files(directory) == []


class TestTerminate:
    async def test_nothing_is_left(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        (directory / f"{ID}.info.tmp").write_bytes(b"left by a crash")
        await upload.terminate()
        await upload.terminate()
        assert files(directory) == []
        with pytest.raises(plugin.UploadNotFound):
            await store.open(ID, FakeLease())

    async def test_a_large_file(self, store: FileStore, directory: Path) -> None:
        upload = await new(store, length=file_storage._LARGE)
        os.truncate(directory / ID, file_storage._LARGE)
        await (await reopen(store)).terminate()
        assert files(directory) == []
        with pytest.raises(plugin.UploadNotFound):
            await upload.append(FakeBody(b"1"))

    async def test_not_without_the_lease(self, store: FileStore, directory: Path) -> None:
        lease = FakeLease()
        upload = await store.create(UploadInfo(id=ID, length=1), lease)
        assert isinstance(upload, FileUpload)
        lease.lose()
        with pytest.raises(plugin.LeaseLost):
            await upload.terminate()
        assert files(directory) == [ID, f"{ID}.info"]

    async def test_a_file_that_cannot_be_removed(self, store: FileStore, directory: Path) -> None:
        upload = await new(store)
        (directory / ID).unlink()
        (directory / ID).mkdir()
        with pytest.raises(plugin.StorageUnavailable):
            await upload.terminate()
        assert files(directory) == [ID, f"{ID}.info"]


class TestConcatenate:
    @pytest.fixture(params=["copy_file_range", "plain", "empty copies"])
    def copying(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file_storage, "_COPY_PIECE", 1000)

        def declines(*arguments: int) -> int:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        if request.param == "plain":
            monkeypatch.setattr(os, "copy_file_range", declines, raising=False)
        elif request.param == "empty copies":
            monkeypatch.setattr(os, "copy_file_range", lambda *arguments: 0, raising=False)

    async def test_in_order(self, store: FileStore, copying: None) -> None:
        contents = [pattern(1, 2500), b"", pattern(2, 1000), b"x"]
        parts = [await full(store, f"part{n}", data) for n, data in enumerate(contents)]
        final = await new(store, "final", 3501)
        await final.concatenate(parts)
        assert final.info == await store.info(UploadId("final"))
        assert final.info.state is State.COMPLETE
        assert await content(store, final.info) == b"".join(contents)
        assert [await content(store, part) for part in parts] == contents

    async def test_it_goes_on_where_it_stopped(self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        contents = [pattern(1, 2500), pattern(2, 1000)]
        parts = [await full(store, f"part{n}", data) for n, data in enumerate(contents)]
        for size in range(0, 3501, 250):
            name = f"final{size}"
            await new(store, name, 3500)
            (directory / name).write_bytes(b"".join(contents)[:size])
            copied: list[int] = []

            def copy(*arguments: int, copied: list[int] = copied) -> int:
                copied.append(disk.copy_piece(*arguments))
                return copied[-1]

            monkeypatch.setattr(file_storage, "copy_piece", copy)
            final = await reopen(store, name)
            await final.concatenate(parts)
            assert sum(copied) == 3500 - size
            assert await content(store, final.info) == b"".join(contents)

    async def test_a_missing_part_copies_nothing(self, store: FileStore, directory: Path) -> None:
        parts = [await full(store, "a", b"123"), await full(store, "b", b"456")]
        (directory / "b").unlink()
        final = await new(store, "final", 6)
        with pytest.raises(plugin.UploadNotFound):
            await final.concatenate(parts)
        assert (directory / "final").stat().st_size == 0

    async def test_a_part_that_became_shorter(self, store: FileStore, directory: Path) -> None:
        parts = [await full(store, "a", b"123456")]
        os.truncate(directory / "a", 3)
        final = await new(store, "final", 6)
        with pytest.raises(plugin.StorageUnavailable):
            await final.concatenate(parts)
        assert final.info.offset == 3

    async def test_a_cancelled_one_writes_no_more(self, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
        data = pattern(1, 10_000)
        parts = [await full(store, "a", data)]
        final = await new(store, "final", len(data))
        begun, working = threading.Event(), [0]

        def slow(*arguments: int) -> int:
            working[0] += 1
            begun.set()
            time.sleep(0.1)
            copied = disk.copy_piece(*arguments)
            working[0] -= 1
            return copied

        monkeypatch.setattr(file_storage, "_COPY_PIECE", 1000)
        monkeypatch.setattr(file_storage, "copy_piece", slow)
        task = asyncio.create_task(final.concatenate(parts))
        await asyncio.to_thread(begun.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert working == [0]
        assert final.info.offset == (await store.info(UploadId("final"))).offset == 1000
        monkeypatch.setattr(file_storage, "copy_piece", disk.copy_piece)
        await final.concatenate(parts)
        assert await content(store, final.info) == data

    async def test_it_stops_when_the_lease_is_lost(self, store: FileStore) -> None:
        parts = [await full(store, "a", b"123")]
        lease = FakeLease()
        final = await store.create(UploadInfo(id=UploadId("final"), length=3), lease)
        assert isinstance(final, FileUpload)
        lease.lose()
        with pytest.raises(plugin.LeaseLost):
            await final.concatenate(parts)
        assert final.info.offset == 0

    async def test_a_full_disk_keeps_what_fitted(self, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = [await full(store, "a", pattern(1, 2000))]
        final = await new(store, "final", 2000)

        def full_after(source: int, target: int, count: int, start: int, position: int) -> int:
            if position >= 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return disk.copy_piece(source, target, count, start, position)

        monkeypatch.setattr(file_storage, "_COPY_PIECE", 1000)
        monkeypatch.setattr(file_storage, "copy_piece", full_after)
        with pytest.raises(plugin.StorageFull):
            await final.concatenate(parts)
        assert final.info.offset == 1000


class TestRead:
    DATA = pattern(3, 3 * disk.READ_PIECE + 17)

    @pytest.mark.parametrize(("start", "stop"), [(0, len(DATA)), (5, 6), (7, 7), (disk.READ_PIECE - 1, 2 * disk.READ_PIECE + 1)])
    async def test_ranges(self, store: FileStore, start: int, stop: int) -> None:
        info = await full(store, "a", self.DATA)
        assert b"".join([piece async for piece in store.read(info, start, stop)]) == self.DATA[start:stop]

    async def test_gone(self, store: FileStore) -> None:
        with pytest.raises(plugin.UploadNotFound):
            await anext(aiter(store.read(UploadInfo(id=ID, length=1), 0, 1)))

    async def test_terminated_in_the_middle(self, store: FileStore, directory: Path) -> None:
        info = await full(store, "a", self.DATA)
        async with aclosing(store.read(info, 0, len(self.DATA))) as reading:
            found = await anext(reading)
            await (await reopen(store, "a")).terminate()
            assert files(directory) == []
            async for piece in reading:
                found += piece
        assert found == self.DATA

    async def test_shorter_than_promised(self, store: FileStore, directory: Path) -> None:
        info = await full(store, "a", b"12345")
        os.truncate(directory / "a", 3)
        with pytest.raises(plugin.StorageUnavailable):
            await content(store, info)

    async def test_a_reader_that_leaves_early_closes_the_file(self, store: FileStore) -> None:
        info = await full(store, "a", self.DATA)
        before = os.listdir("/dev/fd")
        async with aclosing(store.read(info, 0, len(self.DATA))) as reading:
            await anext(reading)
        assert len(os.listdir("/dev/fd")) == len(before)


class TestUploads:
    async def listed(self, store: FileStore) -> list[str]:
        return sorted([info.id async for info in store.uploads()])

    async def test_all_and_nothing_else(self, store: FileStore, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("a", "b/c", "b/d/e"):
            await new(store, name)
        (directory / "a.info.tmp").write_bytes(b"{}")
        (directory / "orphan.info").write_bytes((directory / "a.info").read_bytes())
        (directory / "notes.txt").write_bytes(b"")
        (directory / "bad").write_bytes(b"")
        (directory / "bad.info").write_bytes(b"{")
        (directory / ".hidden").mkdir()
        (directory / ".hidden" / "x").write_bytes(b"")
        (directory / ".hidden" / "x.info").write_bytes((directory / "a.info").read_bytes())
        (directory / "loop").symlink_to(directory)
        assert await self.listed(store) == ["a", "b/c", "b/d/e"]
        assert "upload bad: its .info file is damaged" in caplog.text

    async def test_more_than_one_batch(self, store: FileStore) -> None:
        names = [f"{n % 7}/{n}" for n in range(file_storage._LIST_BATCH * 2 + 3)]
        for name in names:
            await new(store, name)
        assert await self.listed(store) == sorted(names)

    async def test_files_renamed_by_hand(self, store: FileStore, directory: Path) -> None:
        await full(store, "a", b"12345")
        (directory / "a").rename(directory / "b")
        (directory / "a.info").rename(directory / "b.info")
        info = await store.info(UploadId("b"))
        assert await content(store, info) == b"12345"
        assert await self.listed(store) == ["b"]

    async def test_idle_ones(self, store: FileStore, directory: Path) -> None:
        for name in ("old", "new"):
            await new(store, name, created=plugin.utcnow() - timedelta(days=9))
        moment = time.time() - 3600
        os.utime(directory / "old", (moment, moment))
        since = plugin.utcnow() - timedelta(minutes=30)
        assert [info.id async for info in store.uploads(since)] == ["old"]

    async def test_a_folder_that_cannot_be_listed_is_skipped(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a", "b/c"):
            await new(store, name)
        real = os.scandir

        def scandir(path: str) -> Iterator[os.DirEntry[str]]:
            if path.endswith("/b/"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        assert await self.listed(store) == ["a"]
        assert "Permission denied" in caplog.text

    async def test_a_list_that_is_left_early(self, store: FileStore) -> None:
        for name in ("a", "b"):
            await new(store, name)
        before = len(os.listdir("/dev/fd"))
        async with aclosing(store.uploads()) as listing:
            assert (await anext(listing)).id in ("a", "b")
        assert len(os.listdir("/dev/fd")) == before
