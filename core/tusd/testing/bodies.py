"""Bodies and leases for tests of stores: a `Body` that ends, breaks, hangs or loses its lease wherever the test wants."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable

from ..errors import LeaseLost


def pattern(seed: int, size: int) -> bytes:
    """`size` random bytes, the same ones for the same `seed`, in every process."""
    return random.Random(seed).randbytes(size)


class FakeLease:
    """A `Lease` that is held until the test says `lose()`."""

    def __init__(self, token: int = 1) -> None:
        self.token = token
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost()

    def lose(self) -> None:
        """From now on `check` raises `LeaseLost`."""
        self.lost = True


class FakeBody:
    """A `Body` over bytes in memory.

    It hands out pieces of `piece` bytes, lets the event loop run before each (`pause` seconds long) and checks `lease` just
    before it hands one out. All the positions below count bytes of this body; pieces are cut there.
    """

    def __init__(
        self,
        data: bytes,
        lease: FakeLease | None = None,
        *,
        piece: int = 65536,
        pause: float = 0,
        whole: bool = False,
        intact: bool = True,
        stop_at: int | None = None,
        lose_at: int | None = None,
        hang_at: int | None = None,
    ) -> None:
        self.data = data
        self.lease = lease or FakeLease()
        self.whole = whole
        self.handed = 0
        """How many bytes were handed out."""
        self.safe: int | None = None
        """The last offset that the store called safe while running, if it did."""
        self.hanging = asyncio.Event()
        """Set once the body hangs. See `hung`."""
        self._piece = piece
        self._pause = pause
        self._matches = intact
        self._end = len(data) if stop_at is None else stop_at
        self._lose_at = lose_at
        self._hang_at = hang_at
        self._begun = self._ended = False
        self._abandoned = asyncio.Event()
        self._coming: AsyncIterator[bytes] | None = None
        self._rest = b""
        """Of a piece that was longer than what `read_into` might fill."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def write_to(self, fd: int, offset: int, written: Callable[[int], None] | None = None) -> int:
        done = 0
        async for piece in self._pieces():
            if written is not None:
                written(offset + done)
            rest = memoryview(piece)
            while rest:
                n = os.pwrite(fd, rest, offset + done)
                done += n
                rest = rest[n:]
        return done

    async def read_into(self, buffer: memoryview, filled: Callable[[int], None]) -> bool:
        self._coming = self._coming or aiter(self)
        at = 0
        while at < len(buffer):
            if self._rest:
                self.lease.check()
            elif not (rest := await anext(self._coming, b"")):
                return False
            else:
                self._rest = rest
            n = min(len(self._rest), len(buffer) - at)
            buffer[at : at + n], self._rest = self._rest[:n], self._rest[n:]
            at += n
            filled(n)
        return True

    def abandon(self) -> None:
        self._end = self.handed
        self._abandoned.set()

    async def intact(self) -> bool:
        assert self._ended, "the store asked body.intact() before it had read the body to its end"
        return self._matches and self.handed == len(self.data)

    def saved(self, offset: int) -> None:
        assert self.safe is None or offset >= self.safe, f"body.saved({offset}) after body.saved({self.safe})"
        self.safe = offset

    async def hung(self, work: asyncio.Task[int]) -> None:
        """Wait until the body hangs in `work`, an append of it. Fails when the append ends before that."""
        hanging = asyncio.create_task(self.hanging.wait())
        await asyncio.wait([work, hanging], return_when=asyncio.FIRST_COMPLETED)
        hanging.cancel()
        if not self.hanging.is_set():
            raise AssertionError(f"append() returned {work.result()} while its body was still coming")

    async def _pieces(self) -> AsyncIterator[bytes]:
        assert not self._begun, "the store read the body twice; use one of `async for`, `write_to` and `read_into`, once"
        self._begun = True
        while True:
            await self._event()
            if self.handed >= self._end:
                break
            start = self.handed
            cuts = [c for c in (self._lose_at, self._hang_at) if c is not None and c > start]
            self.handed = min(start + self._piece, self._end, *cuts)
            yield self.data[start : self.handed]
        self._ended = True

    async def _event(self) -> None:
        """What happens at this position, then the check of the lease."""
        if self.handed == self._hang_at:
            self.hanging.set()
            await self._abandoned.wait()
        await asyncio.sleep(self._pause)
        if self.handed == self._lose_at:
            self.lease.lose()
        self.lease.check()
