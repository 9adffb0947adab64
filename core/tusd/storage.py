"""The storage seam: where the bytes of uploads are kept.

A store implements `DataStore` and `Upload` (a missing method fails when one is constructed). What else an upload can do
it says by inheriting capabilities: `Terminable`, `Concatenable`, `Atomic`; a store by `Readable` and `Listable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import ClassVar, Protocol

from .locking import Lease
from .model import UploadId, UploadInfo


class Capability:
    """The base of all capabilities. The engine asks `DataStore.capabilities`, never isinstance."""


class Body(Protocol):
    """The bytes of one request, as a store gets them.

    A body ENDS EARLY on whatever happens to the client or to the limits of the request: stores keep what arrived and know
    nothing of networks. It raises one thing only, `LeaseLost`; then nothing more may be written.
    Use one of `__aiter__` and `write_to`, once, or `read_into` until it returns False.
    """

    whole: bool
    """All of the body counts or none of it (see `Atomic`). Only set for stores that can."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces of any size, none empty. The lease has been checked just before each is handed out."""
        ...

    async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
        """Write all of it to an open file from `offset` on, the fastest way there is, checking the lease before each write.

        `written(n)` is called from time to time: all before the file's offset `n` is written. A store to which this makes bytes safe
        passes `body.saved`, if its file's offsets are the upload's. Returns the number of bytes written. Raises `OSError` as `os.pwrite` does; what was written before it stays."""
        ...

    async def read_into(self, buffer: memoryview, filled: Callable[[int], None]) -> bool:
        """Fill a buffer with what comes next, the fastest way there is. False: that was all; True: at least a byte came, and more may come.

        `filled(n)` is called whenever `n` more bytes are there, in order, the lease having been checked. More of the buffer may be overwritten, and all
        of it until this returns or raises, also when it is cancelled."""
        ...

    def abandon(self) -> None:
        """Others wait for what is held for this body, and its client is silent: end it now, early. Any number of times, from the event loop."""
        ...

    async def intact(self) -> bool:
        """Whether the client sent all of it and it is what its checksum says. Ask after reading it."""
        ...

    def saved(self, offset: int) -> None:
        """The store says that every byte of the upload before `offset` is safe now. Optional while running."""
        ...


class Upload(ABC):
    """One upload, open for work under its lock."""

    info: UploadInfo
    """True as of the last call, also of one that raised or was cancelled."""

    @abstractmethod
    async def append(self, body: Body) -> int:
        """Store the body at `info.offset`; return how many of its bytes are safe now.

        With `body.whole` (stores that are `Atomic` only), the number is that of the whole body or 0.
        Raises `StorageFull` (what fitted is kept), `StorageUnavailable`, `LeaseLost`."""

    @abstractmethod
    async def save(self, info: UploadInfo) -> None:
        """Replace what is remembered (length, state, explicit, metadata, expires, max_length, notes), atomically. Never the offset:
        `self.info = self.info.saved_as(info)`."""

    @abstractmethod
    async def finish(self) -> None:
        """Make the bytes final. Called when all are there; again after a crash or a failed pre-finish, so it is idempotent."""


class Terminable(Capability, ABC):
    """An `Upload` that can be removed."""

    @abstractmethod
    async def terminate(self) -> None:
        """Remove the bytes and all that is remembered. Idempotent: what is already gone is no error."""


class Concatenable(Capability, ABC):
    """An `Upload` that can be made of others."""

    @abstractmethod
    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        """Fill this upload with the bytes of `parts`, which are COMPLETE, in order. They are kept.

        May be called again after a crash in the middle. Afterwards `info.offset` is the sum of their lengths.
        Raises `UploadNotFound` when a part is gone, `StorageFull`."""


class Atomic(Capability):
    """A mark on an `Upload`: `append` honours `body.whole`, also when the process dies in between.

    Before the first byte the store remembers "only offset N counts" under a key of its own, writes, asks
    `await body.intact()`, and then takes the mark away, or cuts back to N first. Every reader of the offset takes the smaller
    of what is there and N; only `open`, under the lock, repairs.
    """


class DataStore(ABC):
    """Where uploads are kept. One per worker process."""

    upload_class: ClassVar[type[Upload]]
    """The class of its uploads; capabilities are derived from it."""

    @property
    def capabilities(self) -> frozenset[type[Capability]]:
        """What this instance and its uploads can do. Derived from the classes; options and wrappers may only take away."""
        mine = {c for c in _CAPABILITIES if issubclass(type(self), c) or issubclass(self.upload_class, c)}
        return frozenset(mine)

    @abstractmethod
    async def create(self, info: UploadInfo, lease: Lease | None) -> Upload:
        """Remember a new upload and return it, open. `lease` is None when nothing will be appended in this request.

        Exclusive: raises `UploadExists` and changes nothing when the id is taken. `info.storage` may hold what a pre-create hook
        asked for; the store checks that it stays inside its root and sets it to where the upload is."""

    @abstractmethod
    async def info(self, upload_id: UploadId) -> UploadInfo:
        """What is known, WITHOUT the lock: no repair, no side effect. The offset may be behind the truth, never ahead.
        Raises `UploadNotFound`, `StorageUnavailable`."""

    @abstractmethod
    async def open(self, upload_id: UploadId, lease: Lease) -> Upload:
        """The upload, under its lock, after repairing what a dead holder left. Raises `UploadNotFound`, `StorageUnavailable`."""

    async def check(self) -> None:
        """For readiness: raises `StorageUnavailable` with the reason when the store does not answer."""
        return None


class Readable(Capability, ABC):
    """A `DataStore` that serves the bytes of uploads, with ranges, without the lock."""

    @abstractmethod
    def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `stop`, which is at most `info.offset`.
        Raises `UploadNotFound` before the first byte when it is gone, and `IncompleteUpload` when the upload is not COMPLETE and the store can
        serve only those that are."""


class Listable(Capability, ABC):
    """A `DataStore` that can say what it holds."""

    @abstractmethod
    def uploads(self, idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        """All uploads, in any order; with `idle_since`, those whose last byte came before it. As true as `info`."""


_CAPABILITIES: tuple[type[Capability], ...] = (Terminable, Concatenable, Atomic, Readable, Listable)
