"""The body of one request, between the connection and the store: limits, checksum, lease and the reason why it ended early."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from ..errors import QuotaExceeded, ReadTimeout, TusError, UploadSizeExceeded
from ..limiting import Allowance
from ..locking import Lease
from ..protocol.messages import Algorithm, BodyPlan

RESERVE_STEP = 64 << 20
"""Bytes of a body of unknown length that limiters are asked for at once."""
_PACED = 256 << 10
"""Bytes of a body that is slowed down that are read at once."""
_GLANCE = 0.05
"""Seconds between looks, while a limiter slows a body down, at whether it has a reason to end."""


class Source(Protocol):
    """The bytes of a request as they come from the connection. It ends early instead of failing, and `failure` says why."""

    failure: TusError | None
    """Why it ended before its end; None while it runs and when all of it came."""
    arrived: bool
    """All of it is in memory already, so reading it waits for nobody."""

    async def read(self) -> bytes:
        """The next piece; empty at the end, the early one, too. The first call tells the client to send (100 Continue)."""
        ...

    async def write_to(self, fd: int, offset: int, limit: int, seen: Observer) -> int:
        """Write up to `limit` bytes to a file at `offset` and return how many; `seen` is shown each piece before it is written.
        What came beyond `limit` is not lost: `read` returns it. Raises what `seen` and `os.pwrite` raise."""
        ...

    async def read_into(self, buffer: memoryview, seen: Observer) -> int:
        """Fill a buffer and return how many bytes came: fewer than its size at the end, the early one, too. `seen` is shown each piece as soon as
        it is there; what it raises, this raises."""
        ...

    def stop(self, error: TusError) -> None:
        """End now, with this failure; nothing happens when it has ended already. Any number of times, from the event loop."""
        ...


class Observer(Protocol):
    """Looks at each piece of a body before it is stored."""

    def __call__(self, piece: bytes | memoryview, /) -> None: ...


class Empty:
    """The source of a request without a body."""

    failure: TusError | None = None
    arrived = True

    async def read(self) -> bytes:
        return b""

    async def write_to(self, fd: int, offset: int, limit: int, seen: Observer) -> int:
        return 0

    async def read_into(self, buffer: memoryview, seen: Observer) -> int:
        return 0

    def stop(self, error: TusError) -> None:
        """There is nothing to stop."""


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    """CRC-32 with hashlib's interface; the digest is big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def new_hash(algorithm: Algorithm) -> _Hash:
    """A running hash; md5 and sha1 guard against damage here, not against forgery."""
    return _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)


class AppendBody:
    """A `storage.Body`: `room` bytes of a source at the most."""

    def __init__(
        self,
        source: Source,
        plan: BodyPlan,
        room: int,
        lease: Lease,
        allowances: Sequence[Allowance] = (),
        *,
        digest: Algorithm | None = None,
        progress: Callable[[int], None] | None = None,
        reserve: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`reserve(n)` makes sure that the body may have `n` bytes in all, or raises; without it all of them may come."""
        self.whole = plan.checksum is not None
        self._source = source
        self._checksum = plan.checksum
        self._keeps_cut = plan.keeps_cut
        self._hash = new_hash(plan.checksum.algorithm) if plan.checksum else None
        self._digest = new_hash(digest) if digest else None
        self._progress = progress
        self._written: Callable[[int], None] | None = None
        self._offset = 0
        self._room = room
        self._size = plan.size
        self._got = 0
        self._reserve = reserve
        self._granted = room if reserve is None else 0
        self._lease = lease
        self._allowances = allowances
        self._overflow: TusError | None = None
        self._ended = False

    def watch(self, progress: Callable[[int], None]) -> None:
        """Show it, too, the offset before which every byte of the upload is safe, from time to time."""
        first = self._progress

        def both(offset: int) -> None:
            if first is not None:
                first(offset)
            progress(offset)

        self._progress = both

    @property
    def failure(self) -> TusError | None:
        """Why the body ended early, to be raised once the store has kept what came."""
        if self._got == self._size:
            return None  # all of it came, so whoever stops the source now stops nothing
        return self._overflow or self._source.failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._room
        while left and (piece := await self._source.read()):
            if len(piece) > left:
                piece, self._overflow = piece[:left], UploadSizeExceeded()
            while self._got + len(piece) > self._granted:
                if (refusal := await self._grant()) is not None:
                    piece, self._overflow = piece[: self._granted - self._got], refusal
                    break
            await self._spend(len(piece))
            if piece:
                self._seen(piece)
                yield piece
            left = 0 if self._overflow is not None else left - len(piece)
            del piece  # not kept while the next one is waited for: a stalled upload costs little memory
        await self._end()

    async def _grant(self) -> TusError | None:
        """Ask for more room; what refuses it."""
        assert self._reserve is not None
        wanted = min(self._room, self._granted + RESERVE_STEP)
        try:
            try:
                await self._reserve(wanted)
            except QuotaExceeded as error:  # what is left is less than a step
                wanted -= error.short_by
                if not error.short_by or wanted <= self._granted:
                    return error
                await self._reserve(wanted)
        except TusError as error:
            return error
        self._granted = wanted
        return None

    async def _spend(self, n: int) -> None:
        """Wait until `n` more bytes may pass, or until there is a reason to end."""
        for allowance in self._allowances:
            spending = asyncio.ensure_future(allowance.spend(n))
            try:
                while not spending.done() and self._source.failure is None:
                    await asyncio.wait({spending}, timeout=_GLANCE)
            finally:
                if not spending.done():
                    spending.cancel()
                    await asyncio.wait({spending})
            if not spending.cancelled():
                spending.result()

    @property
    def digest(self) -> bytes | None:
        """The digest of what was handed out, in the algorithm asked for."""
        return self._digest.digest() if self._digest else None

    async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
        self._written, self._offset = (written, offset) if self._progress is not None else (None, offset)
        if self._allowances:
            return await self._write_pieces(fd, offset)
        size = 0
        while size < self._room and self._overflow is None:
            window = self._granted - size
            if window > 0:
                added = await self._source.write_to(fd, offset + size, window, self._seen)
                size += added
                if added < window:
                    break
            elif (refusal := await self._grant()) is not None and await self._source.read():
                self._overflow = refusal
            elif refusal is not None:
                break
        await self._end()
        return size

    async def read_into(self, buffer: memoryview, filled: Callable[[int], None]) -> bool:
        if self._ended:
            return False
        if self._got == self._granted < self._room and (refusal := await self._grant()) is not None:
            if await self._source.read():
                self._overflow = refusal
            await self._end()
            return False
        buffer = buffer[: self._granted - self._got]

        def seen(piece: bytes | memoryview) -> None:
            self._seen(piece)
            filled(len(piece))

        if self._allowances:
            buffer = buffer[:_PACED]
            came = await self._source.read_into(buffer, _nothing)
            if came:
                await self._spend(came)
                seen(buffer[:came])
        else:
            came = await self._source.read_into(buffer, seen)
        if came and came == len(buffer):
            return True
        await self._end()
        return False

    def abandon(self) -> None:
        self._source.stop(ReadTimeout("this client was silent while others waited for their turn"))

    async def intact(self) -> bool:
        if not self._ended:
            await self._end()
        if self.failure is not None:
            return self._keeps_cut
        return self._checksum is None or self._hash is None or self._hash.digest() == self._checksum.digest

    def saved(self, offset: int) -> None:
        if self._progress is not None:
            self._progress(offset)

    async def _write_pieces(self, fd: int, offset: int) -> int:
        at = offset
        async for piece in self:
            view = memoryview(piece)
            while view:
                n = os.pwrite(fd, view, at)
                at, view = at + n, view[n:]
        return at - offset

    def _seen(self, piece: bytes | memoryview) -> None:
        self._lease.check()
        if self._hash is not None:
            self._hash.update(piece)
        if self._digest is not None:
            self._digest.update(piece)
        if self._written is not None and self._got:  # a piece is shown when the one before it is written
            self._written(self._offset + self._got)
        self._got += len(piece)

    async def _end(self) -> None:
        """A body of unknown size may go on after the room is full; the source says so only when asked."""
        if self._size is None and self._overflow is None and self._source.failure is None and await self._source.read():
            self._overflow = UploadSizeExceeded()
        self._ended = True


def _nothing(piece: bytes | memoryview) -> None:
    """Who sees it sees it later."""
