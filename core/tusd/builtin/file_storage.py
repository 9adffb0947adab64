"""Uploads in a directory of the local disk, laid out as Go tusd's filestore does.

    <directory>/<id>          the bytes, in order from the first: the file's size is the offset
    <directory>/<id>.info     all else that is remembered (`plugin.Sidecar`)

The `.info` file is made first and replaced as a whole ever after, so its inode tells one version from another. What takes
microseconds (opening, stat, the small files) is done on the event loop; what may take long (fsync, copies, downloads, removing
large files) goes to a thread, and a cancelled request waits for the piece at hand: nothing is written once its lock is free.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from tusd import plugin
from tusd.plugin import Lease, State, UploadId, UploadInfo, in_thread

from .disk import READ_PIECE, Directory, NewFile, copy_piece, fsync
from .known import Known, measured

Fsync = Literal["never", "finish", "append"]

_COPY_PIECE = 64 << 20
"""Bytes that one call copies in a thread: as long as a cancelled concatenation has to be waited for."""
_LARGE = 16 << 20
"""Removing a file from this size on takes milliseconds on some file systems."""
_LIST_BATCH = 256
_OURS = (".info", ".tmp", ".lock", ".part")
"""How no file of bytes may end: these are the files beside them."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


class FileStorage:
    """Keep uploads in a directory of the local disk."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        """The `storage:` block."""

        directory: Path = Path("./data")
        """Where the uploads are; a directory of Go tusd is taken over as it is."""
        fsync: Fsync = "never"
        """What a power cut may take: whatever the kernel had not written; unfinished uploads only; nothing acknowledged."""
        dir_mode: plugin.Mode = 0o775
        """Permissions of new folders, minus the process's umask."""
        file_mode: plugin.Mode = 0o664
        """Permissions of new files, minus the process's umask."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
        """Make the directory and open it. Raises `StorageUnavailable`."""
        directory = self.options.directory
        try:
            directory.mkdir(mode=self.options.dir_mode, parents=True, exist_ok=True)
        except OSError as error:
            raise plugin.StorageUnavailable(
                f"cannot make the directory {directory}: {error.strerror}; make it yourself, or set another storage.directory"
            ) from error
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise plugin.StorageUnavailable(
                f"the directory {directory} cannot be written; give this server's user permission, or set another storage.directory"
            )
        yield FileStore(self.options, worker.logger)


class FileUpload(plugin.Upload, plugin.Terminable, plugin.Concatenable, plugin.Atomic):
    """One upload of a `FileStore`, open for work."""

    def __init__(
        self, store: FileStore, info: UploadInfo, mark: int | None, lease: Lease | None, new: NewFile | None = None
    ) -> None:
        self.info = info
        self._store = store
        self._new = new
        """The file of bytes, still open since it was made."""
        self._mark = mark
        """What the `.info` file says of how many bytes count."""
        self._lease = lease
        self._data = info.storage["Path"]

    async def append(self, body: plugin.Body) -> int:
        """Write the body behind what is there; the file's size says what was stored, however it ends."""
        start = self.info.offset
        await self.repair()
        if body.whole:
            await self._remember(self.info, mark=start)
        try:
            await self._append(body)
        except OSError as error:
            failure = self._failure("append to", error)
            with suppress(plugin.TusError):  # a full disk gets back at once what does not count; else the next `open` does it
                await self.repair()
            raise failure from error
        body.saved(self.info.offset)
        return self.info.offset - start

    async def _append(self, body: plugin.Body) -> None:
        new, self._new = self._new, None
        fd = os.open(self._data, os.O_WRONLY) if new is None else new.take()
        try:
            try:
                try:
                    safe = None if body.whole or self._store.fsync == "append" else body.saved
                    await body.write_to(fd, self.info.offset, safe)
                except (OSError, plugin.LeaseLost):  # after which the client is told an offset; after a cancellation it is not
                    if not body.whole:
                        await self._sync(fd)
                    raise
                if body.whole:
                    await self._settle(body, fd)
                else:
                    await self._sync(fd)
            finally:
                there = self._measure(fd)
            if not there:
                raise FileNotFoundError(errno.ENOENT, "it was removed", self._data)
        finally:
            os.close(fd)

    async def _sync(self, fd: int) -> None:
        """Let the bytes survive a power cut, if they have to before they are told of. What cannot be synced is cut away."""
        if self._store.fsync == "append":
            try:
                await in_thread(partial(os.fsync, fd))
            except OSError:
                self._cut(fd)
                raise

    async def _settle(self, body: plugin.Body, fd: int) -> None:
        """All of the body counts from here on, or nothing of it. What ends an append before this leaves it to `repair`."""
        if not await body.intact():
            self._cut(fd)
        else:
            await self._sync(fd)
        await self._remember(self.info, mark=None)

    def _measure(self, fd: int) -> bool:
        """Whether the file has a name yet."""
        found = os.fstat(fd)
        self.info = measured(self.info, found, self._mark)
        return found.st_nlink > 0

    async def save(self, info: UploadInfo) -> None:
        """A new `.info` file in the place of the old one."""
        await self._remember(self.info.saved_as(info), self._mark)

    async def finish(self) -> None:
        """Nothing to do, unless the bytes have to survive a power cut from now on."""
        if self._store.fsync != "never":
            try:
                await in_thread(partial(self._store.directory.sync, self._data, self.info.storage["InfoPath"]))
            except OSError as error:
                raise self._failure("finish", error) from error

    async def terminate(self) -> None:
        """The bytes first: a crash in between leaves no more than a small file."""
        self._check_lease()
        try:
            if self.info.offset >= _LARGE:
                await in_thread(self._remove)
            else:
                self._remove()
        except OSError as error:
            raise self._failure("terminate", error) from error

    def _remove(self) -> None:
        self._store.directory.remove_pair(self.info.storage["InfoPath"], self._data)

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        """Copy in the kernel where it can. Goes on where a crash left it: parts never change."""
        await self.repair()
        try:
            for path in {self._store.data_path(part) for part in parts}:
                os.stat(path)
            fd = os.open(self._data, os.O_WRONLY)
            try:
                try:
                    await self._copy(parts, fd)
                finally:
                    self._measure(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._failure("concatenate", error) from error

    async def _copy(self, parts: Sequence[UploadInfo], target: int) -> None:
        position, start = self.info.offset, 0
        for part in parts:
            end = start + part.offset
            if position < end:
                source = os.open(self._store.data_path(part), os.O_RDONLY)
                try:
                    while position < end:
                        self._check_lease()
                        count = min(_COPY_PIECE, end - position)
                        position += await in_thread(partial(copy_piece, source, target, count, position - start, position))
                finally:
                    os.close(source)
            start = end

    async def repair(self) -> None:
        """Take away the mark that a body left which did not end in order, and the bytes behind it."""
        if self._mark is not None:
            await self._cut_back()
            await self._remember(self.info, mark=None)

    async def opened(self) -> None:
        """`repair` as far as it goes: bytes are cut away, but with no room for a new `.info` file the mark waits for the next append.

        With `fsync: append` what is there is synced before anybody is told of it: a holder that died may not have done that."""
        if self._mark is not None:
            await self._cut_back()
            with suppress(plugin.StorageFull, plugin.StorageUnavailable):  # logged; it hides nothing but what was cut away
                await self._remember(self.info, mark=None)
        try:
            await self._store.sync_bytes(self.info)
        except OSError as error:
            raise self._failure("sync", error) from error

    async def _cut_back(self) -> None:
        self._check_lease()
        try:
            fd = os.open(self._data, os.O_WRONLY)
            try:
                self._cut(fd)
                if self._store.fsync != "never":
                    await in_thread(partial(os.fsync, fd))
            finally:
                os.close(fd)
        except OSError as error:
            raise self._failure("repair", error) from error

    def _cut(self, fd: int) -> None:
        if os.fstat(fd).st_size > self.info.offset:
            self._check_lease()
            os.ftruncate(fd, self.info.offset)

    async def _remember(self, info: UploadInfo, mark: int | None) -> None:
        def write() -> None:
            self._store.directory.replace_file(
                info.storage["InfoPath"],
                plugin.encode_sidecar(info, mark),
                durable=self._store.fsync != "never",
                allowed=self._check_lease,
            )
            self.info, self._mark = info, mark

        self._check_lease()
        try:
            if self._store.fsync == "never":
                write()
            else:
                await in_thread(write)
        except OSError as error:
            raise self._failure("remember", error) from error

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _failure(self, doing: str, error: OSError) -> plugin.TusError:
        return self._store.failure(doing, self.info.id, error, self.info)


class FileStore(plugin.DataStore, plugin.Readable, plugin.Listable):
    """The uploads of one directory."""

    upload_class = FileUpload

    def __init__(self, options: FileStorage.Options, logger: logging.Logger) -> None:
        self.fsync: Fsync = options.fsync
        self.logger = logger
        self.directory = Directory(os.path.realpath(options.directory), options.dir_mode, options.file_mode)
        self._known = Known()

    async def create(self, info: UploadInfo, lease: Lease | None) -> plugin.Upload:
        """Exclusive: who makes the file of bytes has the upload. An `.info` file that a crash left without one is taken over.

        `info.storage["Path"]`, from a hook, is relative to the directory or inside it."""
        info_path, chosen = self.info_path(info.id), info.storage.get("Path")
        data_path = self._chosen_path(chosen) if chosen else self._id_path(info.id)
        info = info.at(0, storage=_storage(data_path, info_path))
        if lease is not None:
            lease.check()
        try:
            names = partial(self._names, info.id)
            new = self.directory.new_pair(info_path, plugin.encode_sidecar(info), data_path, usual=not chosen, names=names)
            if self.fsync == "append":
                await self._sync_new(data_path, info_path)
        except OSError as error:
            if isinstance(error, FileExistsError | NotADirectoryError):
                if chosen and error.filename == data_path:
                    raise plugin.HookError("pre-create: storage.Path is taken; choose a path where nothing is yet") from error
                raise plugin.UploadExists() from error
            if error.errno == errno.ENAMETOOLONG:
                raise plugin.HookError("pre-create: the id or storage.Path is too long for the file system") from error
            raise self.failure("create", info.id, error) from error
        return FileUpload(self, info, None, lease, None if lease is None else new)

    def _names(self, upload_id: UploadId, text: bytes) -> str:
        """Which file of bytes an `.info` file names. `ValueError` when it is damaged."""
        if not text.strip(b"\0"):
            return self._id_path(upload_id)
        return self.data_path(plugin.decode_sidecar(upload_id, text, 0).info)

    async def _sync_new(self, data_path: str, info_path: str) -> None:
        try:
            await in_thread(partial(self.directory.sync, data_path, info_path))
        except OSError:
            self.directory.remove_pair(info_path, data_path)
            raise

    async def info(self, upload_id: UploadId) -> UploadInfo:
        """As of one moment: read between two looks at which `.info` file there is."""
        info = self._load(upload_id).info
        if info.state is State.COMPLETE:  # what the engine tells clients without opening it
            try:
                await self.sync_bytes(info)
            except OSError as error:
                raise self.failure("sync", upload_id, error) from error
        return info

    async def sync_bytes(self, info: UploadInfo) -> None:
        """With `fsync: append`, see to it that the bytes which `info` tells of survive a power cut; unless it tells of that too."""
        if self.fsync == "append" and not (info.explicit and info.state is State.COMPLETE):
            await in_thread(partial(fsync, info.storage["Path"]))

    async def open(self, upload_id: UploadId, lease: Lease) -> plugin.Upload:
        """Cuts away what a dead process wrote and had not verified."""
        found = self._load(upload_id)
        upload = FileUpload(self, found.info, found.mark, lease)
        await upload.opened()
        return upload

    async def check(self) -> None:
        """Whether the directory is there and can be written."""
        if not await in_thread(partial(os.access, self.directory.root, os.R_OK | os.W_OK | os.X_OK)):
            self.logger.error("the directory %s is gone or cannot be written", self.directory.root)
            raise plugin.StorageUnavailable("the storage directory is gone or cannot be written")

    async def read(self, info: UploadInfo, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """An upload that is terminated in the middle is served to its end."""
        try:
            fd = os.open(self.data_path(info), os.O_RDONLY)
        except OSError as error:
            raise self.failure("read", info.id, error) from error
        try:
            while start < stop:
                piece = await in_thread(partial(os.pread, fd, min(READ_PIECE, stop - start), start))
                if not piece:
                    raise OSError(errno.EIO, "the file has become shorter")
                start += len(piece)
                yield piece
        except OSError as error:
            raise self.failure("read", info.id, error) from error
        finally:
            os.close(fd)

    async def uploads(self, idle_since: datetime | None = None) -> AsyncGenerator[UploadInfo, None]:
        """Those in hidden folders and behind symbolic links to folders are not found. Unreadable ones are logged."""
        with closing(self._walk()) as walk:
            while batch := await in_thread(lambda: list(islice(walk, _LIST_BATCH))):
                for info in batch:
                    if idle_since is None or info.modified < idle_since:
                        yield info

    # --- where things are

    def info_path(self, upload_id: UploadId) -> str:
        """The `.info` file of an upload."""
        return f"{self.directory.root}/{upload_id}.info"

    def data_path(self, info: UploadInfo) -> str:
        """The file of an upload's bytes: what `info.storage` says if it lies in the directory, else what follows from the id.

        A path is taken as it lies towards the `.info` file, so that a directory may be moved as a whole."""
        default = self._id_path(info.id)
        path, info_path = info.storage.get("Path"), info.storage.get("InfoPath", "")
        if not path or path == default:
            return default
        suffix = f"{info.id}.info"
        root = info_path.removesuffix(suffix)
        if info_path.endswith(suffix) and path.startswith(root):
            path = f"{self.directory.root}/{path[len(root) :]}"
        if path == default:
            return default
        return self._inside(path) or default

    def _id_path(self, upload_id: UploadId) -> str:
        return f"{self.directory.root}/{upload_id}"

    def _chosen_path(self, wanted: str) -> str:
        path = self._inside(wanted)
        if path is None:
            raise plugin.HookError(
                "pre-create: storage.Path must lie inside the storage directory and not end in " + ", ".join(_OURS)
            )
        return path

    def _inside(self, path: str) -> str | None:
        real = self.directory.inside(path)
        return None if real is None or real.endswith(_OURS) else real

    # --- what is there

    def _load(self, upload_id: UploadId) -> plugin.Sidecar:
        """As `_read`, without reading what is known. For the event loop only."""
        return self._known.get(upload_id, self.info_path(upload_id)) or self._read(upload_id, self._known)

    def _read(self, upload_id: UploadId, known: Known | None = None) -> plugin.Sidecar:
        """What the disk says, without side effects; the offset counts the bytes before the mark only."""
        path = self.info_path(upload_id)
        try:
            while True:
                fd = os.open(path, os.O_RDONLY)
                try:
                    before = os.fstat(fd)
                    text = os.read(fd, before.st_size)
                    found, data = self._parse(upload_id, text, before.st_mtime)
                    # While it is open no other file gets its inode: the same one means that no mark came or went in between.
                    after = os.stat(path)
                finally:
                    os.close(fd)
                if (before.st_ino, before.st_dev) == (after.st_ino, after.st_dev):
                    if known is not None:
                        known.put(upload_id, found, before)
                    return plugin.Sidecar(measured(found.info, data, found.mark), found.mark)
        except OSError as error:
            raise self.failure("look up", upload_id, error) from error

    def _parse(self, upload_id: UploadId, text: bytes, written: float) -> tuple[plugin.Sidecar, os.stat_result]:
        try:
            found = plugin.decode_sidecar(upload_id, text, written)
        except ValueError as error:
            os.stat(self._id_path(upload_id))  # an upload that never came to be has no file of bytes
            if not text.strip(b"\0"):
                raise FileNotFoundError(errno.ENOENT, "the .info file is empty") from error
            self.logger.error(
                "upload %.8s: its .info file is damaged: %s; restore it from a backup, or remove both its files", upload_id, error
            )
            raise plugin.StorageUnavailable() from error
        path = self.data_path(found.info)
        storage = _storage(path, self.info_path(upload_id))
        if found.info.storage != storage:
            found = found._replace(info=replace(found.info, storage=storage))
        return found, os.stat(path)

    def _walk(self) -> Generator[UploadInfo, None, None]:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(f"{self.directory.root}/{folder}")
            except OSError as error:
                if not folder:
                    self.logger.error("cannot list the uploads: %s", error)
                    raise plugin.StorageUnavailable() from error
                if not isinstance(error, FileNotFoundError):
                    self.logger.warning("skip a folder that cannot be listed: %s", error)
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{folder}{entry.name}/")
                    elif entry.name.endswith(".info"):
                        with suppress(plugin.UploadNotFound, plugin.StorageUnavailable):  # the latter has been logged
                            yield self._read(UploadId(folder + entry.name.removesuffix(".info"))).info

    def failure(self, doing: str, upload_id: UploadId, error: OSError, info: UploadInfo | None = None) -> plugin.TusError:
        """What to raise for an error of the operating system; its text is for the log alone."""
        if error.errno in _GONE and os.path.isdir(self.directory.root):
            return plugin.UploadNotFound()
        self.logger.error("cannot %s upload %.8s: %s", doing, upload_id, error.strerror)
        if error.errno in _FULL:
            return plugin.StorageFull(info=info)
        return plugin.StorageUnavailable(info=info)


def _storage(path: str, info_path: str) -> Mapping[str, str]:
    return {"Type": "filestore", "Path": path, "InfoPath": info_path}
