from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from tusd.builtin import disk
from tusd.builtin.disk import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    (tmp_path / "root").mkdir()
    return Directory(str(tmp_path / "root"), 0o775, 0o664)


class TestDirectory:
    @pytest.mark.parametrize("path", ["a", "a/b", "{r}/a", "a/../b", "./a"])
    def test_inside(self, directory: Directory, path: str) -> None:
        found = directory.inside(path.format(r=directory.root))
        assert found == os.path.normpath(os.path.join(directory.root, path.format(r=directory.root)))

    @pytest.mark.parametrize("path", ["", ".", "..", "{r}", "{r}x", "../root2/a", "/", "link/a", "a\0b", "\ud800"])
    def test_outside(self, directory: Directory, path: str) -> None:
        os.symlink("/", directory.root + "/link")
        assert directory.inside(path.format(r=directory.root)) is None

    def test_a_new_file_and_its_folders_come_and_go(self, directory: Directory) -> None:
        path = f"{directory.root}/a/b/c"
        directory.new_file(path, b"text")
        assert Path(path).read_bytes() == b"text"
        with pytest.raises(FileExistsError):
            directory.new_file(path, b"other")
        directory.remove_file(path)
        directory.remove_file(path)
        assert os.listdir(directory.root) == []

    def test_a_file_that_cannot_be_written_is_not_left(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(fd: int, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", fails)
        with pytest.raises(OSError, match="No space"):
            directory.new_file(f"{directory.root}/a/b", b"text")
        assert os.listdir(directory.root) == []

    def test_short_writes_are_continued(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, text: real(fd, text[:3]))
        directory.new_file(f"{directory.root}/a", b"some text")
        assert Path(directory.root, "a").read_bytes() == b"some text"

    def test_a_root_that_is_gone_is_not_made(self, directory: Directory) -> None:
        os.rmdir(directory.root)
        with pytest.raises(OSError, match="gone"):
            directory.new_file(f"{directory.root}/a/b")
        assert not os.path.exists(directory.root)

    @pytest.mark.parametrize("durable", [False, True])
    def test_a_file_is_replaced_by_another_one(self, directory: Directory, durable: bool) -> None:
        path = f"{directory.root}/a"
        directory.new_file(path, b"old")
        with open(path, "rb") as old:
            directory.replace_file(path, b"new", durable=durable, allowed=lambda: None)
            assert old.read() == b"old"
        assert Path(path).read_bytes() == b"new"
        assert os.listdir(directory.root) == ["a"]

    def test_a_replacement_that_is_not_allowed(self, directory: Directory) -> None:
        def allowed() -> None:
            assert sorted(os.listdir(directory.root)) == ["a", "a.tmp"]
            raise RuntimeError("no")

        path = f"{directory.root}/a"
        directory.new_file(path, b"old")
        with pytest.raises(RuntimeError, match="no"):
            directory.replace_file(path, b"new", durable=False, allowed=allowed)
        assert Path(path).read_bytes() == b"old"
        assert os.listdir(directory.root) == ["a"]

    def test_sync_reaches_every_folder(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.new_file(f"{directory.root}/a/b/c")
        synced: list[str] = []
        monkeypatch.setattr(disk, "fsync", synced.append)
        directory.sync(f"{directory.root}/a/b/c")
        assert synced == [f"{directory.root}/a/b/c", f"{directory.root}/a/b", f"{directory.root}/a", directory.root]


class TestCopyPiece:
    @pytest.mark.parametrize("reason", [None, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
    def test_a_piece(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int | None) -> None:
        def declines(*arguments: int) -> int:
            assert reason is not None
            raise OSError(reason, os.strerror(reason))

        if reason is not None:
            monkeypatch.setattr(os, "copy_file_range", declines, raising=False)
        (tmp_path / "a").write_bytes(b"0123456789")
        (tmp_path / "b").write_bytes(b"xx")
        with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("r+b") as target:
            assert disk.copy_piece(source.fileno(), target.fileno(), 5, 3, 2) == 5
            assert disk.copy_piece(source.fileno(), target.fileno(), 5, 8, 7) == 2
            with pytest.raises(OSError, match="shorter"):
                disk.copy_piece(source.fileno(), target.fileno(), 5, 10, 9)
        assert (tmp_path / "b").read_bytes() == b"xx3456789"

    def test_a_full_disk_is_no_reason_to_copy_otherwise(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*arguments: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "a").write_bytes(b"12345")
        monkeypatch.setattr(os, "copy_file_range", fails, raising=False)
        monkeypatch.setattr(os, "pwrite", fails)
        with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
            with pytest.raises(OSError, match="No space"):
                disk.copy_piece(source.fileno(), target.fileno(), 5, 0, 0)


class TestInThread:
    async def test_it_hands_back_results_and_errors(self) -> None:
        def fails() -> None:
            raise OSError(errno.EIO, "x")

        assert await disk.in_thread(lambda: 5) == 5
        with pytest.raises(OSError, match="x"):
            await disk.in_thread(fails)

    async def test_a_cancelled_caller_waits_and_hears_of_the_cancellation(self) -> None:
        begun, ended = threading.Event(), threading.Event()

        def fails() -> None:
            begun.set()
            time.sleep(0.1)
            ended.set()
            raise OSError(errno.EIO, "x")

        task = asyncio.create_task(disk.in_thread(fails))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
