"""What `file_storage` does with files and folders, free of uploads."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

READ_PIECE = 512 << 10
_MAKE_FOLDER_TRIES = 1000
"""A folder may be removed, empty, by another upload's end while this one is being created in it."""
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
"""Why copy_file_range(2) declines files that plain reads and writes can copy; EPERM is what seccomp filters answer."""


async def in_thread(work: Callable[[], T]) -> T:
    """Do `work` in a thread. A caller that is cancelled waits for it to end, however often it is cancelled."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # seen: what ends the request is the cancellation
        raise cancelled
    return future.result()


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
        try:
            fd = self._open_new(path)
        except FileNotFoundError:
            fd = self._open_new_in_new_folder(path)
        try:
            write_all(fd, text)
        except OSError:
            self.remove_file(path)
            raise
        finally:
            os.close(fd)

    def _open_new(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.file_mode)

    def _open_new_in_new_folder(self, path: str) -> int:
        for _ in range(_MAKE_FOLDER_TRIES):
            for end in range(len(self.root) + 1, len(path)):
                if path[end] == "/":
                    with suppress(FileExistsError, FileNotFoundError):
                        os.mkdir(path[:end], self.dir_mode)
            with suppress(FileNotFoundError):
                return self._open_new(path)
        raise OSError(errno.ENXIO, "the directory is gone", path)

    def replace_file(self, path: str, text: bytes, *, durable: bool, allowed: Callable[[], None]) -> None:
        """Put a new file in the place of `path`, or leave the old one untouched. What `allowed`, asked last, raises goes to the caller."""
        temporary = path + ".tmp"
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
