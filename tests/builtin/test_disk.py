from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


class TestPair:
    """`a.info` and `a`: however creators, removers and crashes meet, at most one creator has both."""

    @staticmethod
    def make(directory: Directory, text: bytes, other: str = "a") -> None:
        def names(found: bytes) -> str:
            name, _, rest = (found.strip(b"\0") or b"a:").decode().partition(":")
            if rest == "damaged":
                raise ValueError(found)
            return f"{directory.root}/{name}"

        path = f"{directory.root}/a.info"
        directory.new_pair(path, other.encode() + b":" + text, f"{directory.root}/{other}", usual=other == "a", names=names)

    @staticmethod
    def text(directory: Directory) -> bytes:
        return Path(directory.root, "a.info").read_bytes()

    def makes(self, directory: Directory, text: bytes, other: str = "a") -> bool:
        try:
            self.make(directory, text, other)
        except FileExistsError:
            return False
        return True

    @pytest.mark.parametrize("left", [b"", b"\0" * 20, b"a:old"])
    def test_a_first_file_that_a_crash_left_alone_is_taken_over(self, directory: Directory, left: bytes) -> None:
        Path(directory.root, "a.info").write_bytes(left)
        self.make(directory, b"new")
        assert sorted(os.listdir(directory.root)) == ["a", "a.info"]
        assert self.text(directory) == b"a:new"

    @pytest.mark.parametrize(("left", "other"), [(b"a:damaged", "a"), (b"b:", "a"), (b"a:", "b"), (b"", "b")])
    def test_one_that_may_be_of_another_pair_is_not(self, directory: Directory, left: bytes, other: str) -> None:
        Path(directory.root, "a.info").write_bytes(left)
        with pytest.raises(FileExistsError) as raised:
            self.make(directory, b"new", other)
        assert raised.value.filename == f"{directory.root}/a.info"
        assert os.listdir(directory.root) == ["a.info"]
        assert self.text(directory) == left

    def test_a_link_is_not(self, directory: Directory, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"")
        os.symlink(tmp_path / "elsewhere", f"{directory.root}/a.info")
        assert not self.makes(directory, b"new")
        assert (tmp_path / "elsewhere").read_bytes() == b""

    def test_on_a_full_disk_it_stays_as_it_is(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(directory.root, "a.info").write_bytes(b"a:old")

        def fails(fd: int, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fails)
            with pytest.raises(OSError, match="No space"):
                self.make(directory, b"new")
        assert os.listdir(directory.root) == ["a.info"]
        assert self.text(directory) == b"a:old"
        self.make(directory, b"new")

    def test_without_locks_nothing_is_taken_over(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", none)
        for other in ("a", "b"):
            self.make(directory, b"text", other)
            assert not self.makes(directory, b"new", other)
            directory.remove_pair(f"{directory.root}/a.info", f"{directory.root}/{other}")
            assert os.listdir(directory.root) == []
        Path(directory.root, "a.info").write_bytes(b"a:old")
        assert not self.makes(directory, b"new")

    @pytest.mark.parametrize("other", ["a", "b"])
    def test_a_crash_at_any_call_blocks_nothing(self, directory: Directory, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
        """Twice, as the second creator may die while it takes over. Blocked is only who cannot know what an empty file belongs to."""
        for first in range(1, 30):
            for second in range(1, 30):
                died = [self.dies(directory, monkeypatch, nth, text, other) for nth, text in ((first, b"1"), (second, b"2"))]
                there = set(os.listdir(directory.root)) - {"a.info.new.tmp"}
                empty = there and not self.text(directory)
                if self.makes(directory, b"3", other):
                    assert there in (set(), {"a.info"}), (first, second)
                else:
                    assert there == {"a.info", other} or (empty and other == "b"), (first, second)
                if not empty:
                    assert self.text(directory) in [other.encode() + b":" + text for text in (b"1", b"2", b"3")]
                for name in os.listdir(directory.root):
                    os.unlink(f"{directory.root}/{name}")
                if not died[1]:
                    break
            if not died[0]:
                return
        raise AssertionError("it never ends")

    def dies(self, directory: Directory, monkeypatch: pytest.MonkeyPatch, nth: int, text: bytes, other: str) -> bool:
        def die() -> None:
            raise Killed

        with at_call(nth, die, monkeypatch):
            try:
                self.makes(directory, text, other)
            except Killed:
                return True
        return False

    @pytest.mark.parametrize("left", [None, b"", b"a:old", b"b:old"])
    @pytest.mark.parametrize("slow", ["a", "b"])
    @pytest.mark.parametrize("fast", ["a", "b"])
    @pytest.mark.parametrize("full", [False, True])
    def test_two_creators(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch, left: bytes | None, slow: str, fast: str, full: bool
    ) -> None:
        """One does all its work, or finds the disk full, before any call of the other."""
        for nth in range(1, 30):
            if left is not None:
                Path(directory.root, "a.info").write_bytes(left)
            won: list[str] = []

            def meanwhile(won: list[str] = won) -> None:
                if full:
                    with at_call(3, no_room, monkeypatch), suppress(OSError):
                        self.make(directory, b"fast", fast)
                        won.append("fast")
                elif self.makes(directory, b"fast", fast):
                    won.append("fast")

            with at_call(nth, meanwhile, monkeypatch) as struck:
                if self.makes(directory, b"slow", slow):
                    won.append("slow")
            assert len(won) <= 1, nth
            names = {"slow": slow, "fast": fast}
            for winner in won:
                assert self.text(directory) == f"{names[winner]}:{winner}".encode()
                assert sorted(os.listdir(directory.root)) == sorted(["a.info", names[winner]])
            if not won:
                assert set(os.listdir(directory.root)) <= {"a.info"}
            for name in os.listdir(directory.root):
                os.unlink(f"{directory.root}/{name}")
            if not struck:
                return
        raise AssertionError("it never ends")

    def test_a_creator_while_the_pair_is_removed(self, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        for nth in range(1, 30):
            self.make(directory, b"old")
            won: list[bool] = []

            def meanwhile(won: list[bool] = won) -> None:
                won.append(self.makes(directory, b"new"))

            with at_call(nth, meanwhile, monkeypatch) as struck:
                directory.remove_pair(f"{directory.root}/a.info", f"{directory.root}/a")
            assert won in ([], [False])
            assert os.listdir(directory.root) == []
            if not struck:
                return
        raise AssertionError("it never ends")


class Killed(BaseException):
    """Nothing tidies up after it, as after a `kill -9`; but the kernel closes files."""


def no_room() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def at_call(nth: int, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """`do` something just before the nth call that reaches the disk. Yields a list with that call's name once it was made."""
    struck: list[str] = []
    count = 0

    def spy(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal count
            if not struck:
                count += 1
                if count == nth:
                    struck.append(name)
                    do()
            return real(*arguments, **keywords)

        return call

    with monkeypatch.context() as patched:
        for name in ("open", "write", "replace", "unlink", "lstat", "fstat", "read"):
            patched.setattr(os, name, spy(name, getattr(os, name)))
        patched.setattr(fcntl, "flock", spy("flock", fcntl.flock))
        yield struck
