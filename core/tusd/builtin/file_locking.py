"""Locks for the processes of one host: a kernel lock on a small file per name, and a named pipe per process to talk through.

The lock is `flock`, so a process that dies, however it dies, holds nothing; no process id is ever looked at. The pipes carry
two messages, of one line each, written in one piece:

    want <key> <sender's pipe>      from a waiter to the holder, who wrote the name of its pipe into the lock file
    free <key>                      from the holder to each process that sent a `want`, once the lock is free

A message may get lost (the pipe is full, the holder has just died): every waiter also tries by itself, soon at first and then
every `_RETRY_MAX` seconds. A pipe that nobody reads any more belonged to a process that is dead, and is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

from tusd import plugin

try:
    import fcntl
except ImportError as error:
    raise ImportError("file locking needs a Unix system (flock, named pipes); here, write `locking: {use: memory}`") from error

_RETRY_MIN = 0.001
_RETRY_MAX = 0.05
"""Seconds between the tries of a waiter. The first is as long as a message takes, the second is what a lost message costs."""
_COURTESY = 0.002
"""Seconds for which a process that let go leaves the lock to others, while more of its own requests wait for it."""
_STARTING = 60.0
"""Seconds after which a pipe that was never finished counts as left behind by a process that died while it started."""


class FileLocking:
    """Keep locks in a folder that the server's processes on this host share."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        directory: Path | None = None
        """Where lock files live; by default in `server.run_directory`. A folder of its own; tmpfs (`/run`, `/dev/shm`) is best."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self, worker: plugin.Worker) -> AsyncIterator[plugin.Locker]:
        directory = (self.options.directory or worker.directory / "locks").absolute()
        try:
            locker = FileLocker(directory, worker.logger)
        except OSError as error:
            raise plugin.LockUnavailable(
                f"the folder {directory} cannot hold locks: {error.strerror}; name another one in locking.directory"
            ) from error
        try:
            yield locker
        finally:
            locker.close()


class FileLocker(plugin.Locker):
    """The locks of one worker process. Made on its event loop; raises `OSError` when the folder cannot be used."""

    def __init__(self, directory: Path, logger: logging.Logger) -> None:
        self.directory = directory
        self.logger = logger
        self.places: dict[bytes, _Place] = {}
        """Key -> who holds it and who waits for it in this process. Only keys in use are in here."""
        self._prefix = os.fsencode(directory) + b"/"
        self._last_token = 0
        self._loop = asyncio.get_running_loop()
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(self._prefix)
        self._pipe = _Pipe(self._prefix, self._receive)

    def close(self) -> None:
        """Stop listening. Locks still held stay so until their contexts or the process end."""
        self._pipe.close()

    def lock(self, name: str, wanted: Callable[[], None]) -> FileLease:
        return FileLease(self, blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest().encode(), wanted)

    async def check(self) -> None:
        try:
            self._pipe.check()
            place = _Place(b"check-" + self._pipe.name)
            if self.take(place):
                place.let_go(self._prefix)
        except OSError as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: OSError) -> plugin.LockUnavailable:
        """What a waiter is told; the log gets the rest."""
        cure = {
            errno.ENOENT: "; it was removed while the server ran: restart the server",
            errno.EMFILE: "; raise the limit of open files (ulimit -n)",
        }.get(error.errno or 0, "")
        self.logger.error("cannot lock in %s: %s%s", self.directory, error.strerror, cure)
        return plugin.LockUnavailable()

    def next_token(self) -> int:
        """Time, so that tokens grow over all processes of the host and over their restarts."""
        self._last_token = max(time.time_ns(), self._last_token + 1)
        return self._last_token

    def take(self, place: _Place) -> bool:
        """Take the kernel lock, or tell its holder that it is wanted. Raises `OSError`."""
        path = place.path(self._prefix)
        fd = _flock(path)
        if fd is None:
            if holder := _holder(path):
                self._pipe.send(holder, b"want %b %b\n" % (place.key, self._pipe.name))
            return False
        place.fd = fd
        try:
            os.pwrite(fd, self._pipe.name, 0)
        except OSError:
            place.let_go(self._prefix)
            raise
        return True

    def wait(self, place: _Place, first: float = _RETRY_MIN) -> None:
        """Keep trying for the first in the queue."""
        place.delay = _RETRY_MIN
        place.timer = self._loop.call_later(first, self._try, place)

    def leave(self, lease: FileLease, place: _Place) -> None:
        """Take the holder, or a waiter, out of the queue."""
        del place.queue[lease]
        if lease.token:
            lease.token = 0
            if place.queue and not place.foreign:
                self._begin(place)
                return
            place.let_go(self._prefix)
            for pipe in place.foreign:
                self._pipe.send(pipe, b"free %b\n" % place.key)
            place.foreign.clear()
            if place.queue:
                self.wait(place, _COURTESY)
        if not place.queue:
            if place.timer:
                place.timer.cancel()
            del self.places[place.key]

    def _begin(self, place: _Place) -> None:
        """The first in the queue holds the lock from now on."""
        first = next(iter(place.queue))
        first.begin(self.next_token())
        if len(place.queue) > 1:
            self._loop.call_soon(first.wanted)

    def _try(self, place: _Place) -> None:
        if place.timer:
            place.timer.cancel()
            place.timer = None
        try:
            if self.take(place):
                self._begin(place)
                return
        except OSError as error:
            next(iter(place.queue)).fail(self.unavailable(error))
        place.timer = self._loop.call_later(place.delay, self._try, place)
        place.delay = min(place.delay * 2, _RETRY_MAX)

    def _receive(self, message: list[bytes]) -> None:
        match message:
            case [b"want", key, pipe] if pipe.isalnum():
                place = self.places.get(key)
                if place is None or place.fd < 0:
                    self._pipe.send(pipe, b"free %b\n" % key)  # it came when we had just let go
                else:
                    place.foreign[pipe] = None
                    self._loop.call_soon(next(iter(place.queue)).wanted)
            case [b"free", key]:
                place = self.places.get(key)
                if place is not None and place.fd < 0:
                    place.delay = _RETRY_MIN
                    self._try(place)


class FileLease:
    """One request for a lock: the context manager and, inside of it, the lease."""

    __slots__ = ("_key", "_locker", "_place", "_turn", "token", "wanted")

    def __init__(self, locker: FileLocker, key: bytes, wanted: Callable[[], None]) -> None:
        self._locker = locker
        self._key = key
        self._turn: asyncio.Future[None] | None = None
        self.wanted = wanted
        self.token = 0
        """0 while the lock is not held."""

    async def __aenter__(self) -> FileLease:
        locker = self._locker
        place = locker.places.get(self._key)
        if place is None:
            place = _Place(self._key)
            try:
                taken = locker.take(place)
            except OSError as error:
                raise locker.unavailable(error) from error
            locker.places[self._key] = place
            if not taken:
                locker.wait(place)
        else:
            taken = False
            if place.fd >= 0:
                asyncio.get_running_loop().call_soon(next(iter(place.queue)).wanted)
        self._place = place
        place.queue[self] = None
        if taken:
            self.token = locker.next_token()
            return self
        self._turn = asyncio.get_running_loop().create_future()
        try:
            await self._turn
        except BaseException:
            locker.leave(self, place)  # it may have been our turn already
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._locker.leave(self, self._place)

    def check(self) -> None:
        # The kernel takes no lock away from a process that lives.
        if not self.token:
            raise plugin.LeaseLost()

    def begin(self, token: int) -> None:
        """The wait is over. One that is being cancelled holds the lock until its task runs and passes it on."""
        self.token = token
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def fail(self, error: plugin.LockUnavailable) -> None:
        """The wait is over, and in vain."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)


class _Place:
    """One name that is locked, or waited for, in this process."""

    __slots__ = ("delay", "fd", "foreign", "key", "queue", "timer")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.queue: OrderedDict[FileLease, None] = OrderedDict()
        """The one that holds the lock or tries to get it, then those behind, in the order in which they came."""
        self.foreign: dict[bytes, None] = {}
        """Pipes of other processes that want it from this one, in the order in which they asked."""
        self.fd = -1
        """The lock file, while this process holds it."""
        self.timer: asyncio.TimerHandle | None = None
        """The next try, while this process does not hold it."""
        self.delay = _RETRY_MIN
        """Seconds between the next try and the one after."""

    def path(self, prefix: bytes) -> bytes:
        return prefix + self.key + b".lock"

    def let_go(self, prefix: bytes) -> None:
        # Removed while it is held: afterwards nobody can tell whether it is somebody else's.
        _remove(self.path(prefix))
        os.close(self.fd)
        self.fd = -1


class _Pipe:
    """Hears what other processes say to this one, and speaks to them."""

    def __init__(self, prefix: bytes, receive: Callable[[list[bytes]], None]) -> None:
        self.name = secrets.token_hex(8).encode()
        self._prefix = prefix
        self._receive = receive
        self._rest = b""
        # Under another name until it is open, so that nobody takes it for the pipe of a dead process.
        unfinished = self._path(self.name) + b".new"
        os.mkfifo(unfinished, 0o600)
        self._fd = os.open(unfinished, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # RDWR: has no end when a writer leaves
        try:
            os.rename(unfinished, self._path(self.name))
        except OSError:
            os.close(self._fd)
            raise
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        _remove(self._path(self.name))

    def check(self) -> None:
        """Raises `OSError` when others cannot reach it."""
        os.stat(self._path(self.name))

    def send(self, to: bytes, message: bytes) -> None:
        """Write a message into another process's pipe, or lose it."""
        fd = _reach(self._path(to))
        if fd is not None:
            with contextlib.suppress(OSError):  # it is full, or its reader has died just now
                os.write(fd, message)
            os.close(fd)

    def _path(self, name: bytes) -> bytes:
        return self._prefix + name + b".fifo"

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            for line in lines:
                self._receive(line.split())


def _flock(path: bytes) -> int | None:
    """Hold the lock on a file, which is made if needed; None if somebody else holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder removes the file before it lets go; ours may be that one, a lock on nothing. (Asking for st_nlink would be
            # cheaper, but it is 1 on network file systems.)
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                held, fd = fd, -1
                return held
        except BlockingIOError:
            return None
        except FileNotFoundError:
            continue
        finally:
            if fd >= 0:
                os.close(fd)


def _holder(path: bytes) -> bytes | None:
    """The pipe of the process that holds the lock, as far as it has said so."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        name = os.read(fd, 64)
    finally:
        os.close(fd)
    return name if name.isalnum() else None


def _reach(path: bytes) -> int | None:
    """Open a pipe for writing, if that can be. One that has no reader belonged to a process that is dead, and is removed."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            _remove(path)
        return None


def _sweep(prefix: bytes) -> None:
    """Remove what dead processes left behind. It would do no harm, but pile up."""
    for name in os.listdir(prefix):
        path = prefix + name
        with contextlib.suppress(OSError):  # somebody else has removed it, or may and we may not
            if name.endswith(b".lock"):
                if (fd := _flock(path)) is not None:
                    _remove(path)
                    os.close(fd)
            elif name.endswith(b".fifo"):
                if (fd := _reach(path)) is not None:
                    os.close(fd)
            elif name.endswith(b".fifo.new") and os.stat(path).st_mtime < time.time() - _STARTING:
                _remove(path)


def _remove(path: bytes) -> None:
    with contextlib.suppress(OSError):  # what stays is harmless, and a lock that cannot be let go is not
        os.unlink(path)
