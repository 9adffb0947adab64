"""What `file_storage` does with files and folders, free of uploads."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "file storage needs a Unix system (pwrite, flock); here, write `storage: {use: memory}`, for tests"
    ) from error

READ_PIECE = 512 << 10
_MAKE_FOLDER_TRIES = 1000
"""A folder may be removed, empty, by another upload's end while this one is being created in it."""
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
"""Why copy_file_range(2) declines files that plain reads and writes can copy; EPERM is what seccomp filters answer."""


class NewFile:
    """A file that is open for writing, until somebody has taken it or nobody knows of it any more."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> int:
        """The file descriptor; whoever calls this closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that files are made in and removed from. All paths are absolute and lie below `root`."""

    root: str
    """Absolute and free of symbolic links."""
    dir_mode: int
    file_mode: int

    def inside(self, path: str) -> str | None:
        """`path`, which may be relative to the root, free of symbolic links; None when that lies outside or can be no file's name."""
        try:
            real = os.path.realpath(os.path.join(self.root, path))
            os.fsencode(real)
        except ValueError:
            return None
        return real if real.startswith(self.root + "/") else None

    def new_file(self, path: str, text: bytes = b"") -> None:
        """Make a file that is not there yet (`FileExistsError`), and the folders that it needs; with all of `text` or not at all."""
        fd = self._open_new(path)
        try:
            write_all(fd, text)
        except OSError:
            self.remove_file(path)
            raise
        finally:
            os.close(fd)

    def new_pair(self, path: str, text: bytes, other: str, *, usual: bool, names: Callable[[bytes], str]) -> NewFile:
        """Make two files that are not there yet (`FileExistsError` with the name of one): `path` with `text`, which names `other`, empty.
        Returns the second, open for writing.

        Whoever makes the second has the pair. A first file without its second, which a crash left, is taken over when no live
        process can be about to make another second for it: when it is what `names` says of its text, which raises `ValueError`
        for a damaged one. What that says of an empty text is the `usual` second file; only there is no lock needed."""
        try:
            fd = self._open_new(path)
        except FileExistsError:
            self._take_over(path, text, other, names)
            return NewFile(os.open(other, os.O_WRONLY))
        try:
            write_all(fd, text)
            if not (usual or _claim(fd, path)):
                raise FileExistsError(errno.EEXIST, "it was taken over while it was empty", path)
            return NewFile(self._open_new(other))
        except OSError:
            if _claim(fd, path):
                self.remove_file(path)
            raise
        finally:
            os.close(fd)

    def _take_over(self, path: str, text: bytes, other: str, names: Callable[[bytes], str]) -> None:
        taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise taken from error
        try:
            if not _left_behind(fd, path, other, names):
                raise taken
            # The second file is made last of all: a full disk changes nothing, and its maker, if alive, has it or fails.
            self.replace_file(path, text, durable=False, allowed=partial(self.new_file, other), temporary=".new.tmp")
        except FileExistsError:
            raise taken from None
        finally:
            os.close(fd)

    def remove_pair(self, path: str, other: str) -> None:
        """Remove `other`, then `path` and what was to replace it; what of them is there. Nobody takes the rest over in between."""
        fd: int | None = None
        with suppress(OSError):
            fd = os.open(path, os.O_RDWR)
        try:
            if fd is not None:
                _claim(fd, path)
            self.remove_file(other)
            with suppress(FileNotFoundError):
                os.unlink(path + ".tmp")
            self.remove_file(path)
        finally:
            if fd is not None:
                os.close(fd)

    def _open_new(self, path: str) -> int:
        try:
            return self._open_exclusively(path)
        except FileNotFoundError:
            return self._open_new_in_new_folder(path)

    def _open_exclusively(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.file_mode)

    def _open_new_in_new_folder(self, path: str) -> int:
        for _ in range(_MAKE_FOLDER_TRIES):
            for end in range(len(self.root) + 1, len(path)):
                if path[end] == "/":
                    with suppress(FileExistsError, FileNotFoundError):
                        os.mkdir(path[:end], self.dir_mode)
            with suppress(FileNotFoundError):
                return self._open_exclusively(path)
        raise OSError(errno.ENXIO, "the directory is gone", path)

    def replace_file(
        self, path: str, text: bytes, *, durable: bool, allowed: Callable[[], None], temporary: str = ".tmp"
    ) -> None:
        """Put a new file in the place of `path`, or leave the old one untouched. What `allowed`, asked last, raises goes to the caller.

        The text is first written to a file beside it whose name ends in `temporary`."""
        temporary = path + temporary
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, self.file_mode)
        replaced = False
        try:
            try:
                write_all(fd, text)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            allowed()
            os.replace(temporary, path)
            replaced = True
        finally:
            if not replaced:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        if durable:
            fsync(os.path.dirname(path))

    def remove_file(self, path: str) -> None:
        """Remove a file, if there is one, and the folders that are empty without it."""
        with suppress(FileNotFoundError):
            os.unlink(path)
        folder = os.path.dirname(path)
        while folder != self.root:
            try:
                os.rmdir(folder)
            except OSError:  # not empty, or somebody else removed it
                return
            folder = os.path.dirname(folder)

    def sync(self, *files: str) -> None:
        """Let files survive a power cut: them and the folders that name them."""
        paths = set(files)
        for path in files:
            while path != self.root:
                path = os.path.dirname(path)
                paths.add(path)
        for path in sorted(paths, key=len, reverse=True):
            fsync(path)


def write_all(fd: int, text: bytes) -> None:
    """Write all of a short text, or raise."""
    while text:
        text = text[os.write(fd, text) :]


def fsync(path: str) -> None:
    """fsync(2) a file or folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def copy_piece(source: int, target: int, count: int, start: int, position: int) -> int:
    """Copy up to `count` bytes at `start` of `source` to `position` of `target`, in the kernel where it can; at least one.

    Returns how many. Raises `OSError` also when `source` has none there."""
    copied = 0
    if sys.platform == "linux":
        try:
            copied = os.copy_file_range(source, target, count, start, position)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
    if not copied:
        copied = os.pwrite(target, os.pread(source, min(count, READ_PIECE), start), position)
    if not copied:
        raise OSError(errno.EIO, "a file has become shorter")
    return copied


def _left_behind(fd: int, path: str, other: str, names: Callable[[bytes], str]) -> bool:
    try:
        return _claim(fd, path, wait=False) and names(os.read(fd, os.fstat(fd).st_size)) == other
    except (OSError, ValueError):
        return False


def _claim(fd: int, path: str, *, wait: bool = True) -> bool:
    """Whether `path` is the open file `fd`; it stays so, among those who ask this before they take `path` away, until `fd` is closed.

    Without `wait`, raises `OSError` when somebody else has claimed it, or when the file system has no locks: where nobody can be
    without waiting, those who wait need no lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if not wait:
            raise
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
