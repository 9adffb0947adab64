"""The body of a request in pieces, for stores whose backend takes whole objects or parts and no streams.

A `Cutter` cuts a body, a `Memory` bounds what all bodies of a worker hold at once, a `Sending` has pieces on their way side by side:

    cutter, sending = Cutter(body, memory), Sending[int](most=4)
    async with cutter:
        try:
            while (piece := await cutter.next(floor=5 << 20, target=50 << 20)) is not None:
                lease.check()
                await sending.start(partial(send, piece))      # async def send(piece): try: ... finally: piece.release()
            await sending.end()
        finally:
            await sending.settle()                             # sending.results: those that arrived, in order, without a gap

Nobody waits for memory while it holds some that it cannot use: a piece reserves its `floor` before any byte of it is read, which
slows the client down, and it grows beyond that only while there is memory that nobody waits for.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Self

from .blocks import BLOCK, Blocks, Spare
from .storage import Body
from .waiting import all_ended

_SILENT = 5.0
"""Seconds without a byte after which a body that holds memory ends, if others wait for memory."""
_SPILLED = 256 << 10
"""Bytes that are read at once when they go to a file: each upload that waits for its client holds so many."""


class Memory:
    """The bytes of bodies that one worker may hold."""

    def __init__(self, limit: int, told: Callable[[int], None] | None = None) -> None:
        """`told(n)` is called with the bytes that are held now whenever they, or `waiting`, change."""
        self.limit = limit
        self.used = 0
        self.fillings: set[_Filling] = set()
        """Pieces that still grow."""
        self.spare = Spare(limit)
        """Where their memory comes from."""
        self._told = told
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def reserve(self, n: int) -> None:
        """Wait, in turn, until `n` more bytes may be held. More than the limit are held alone."""
        if not self._waiting and self._fits(n):
            self._change(n)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (n, granted)
        self._waiting.append(entry)
        self._tell()
        for filling in tuple(self.fillings):
            filling.press()
        self._watch()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(n)
            elif entry in self._waiting:  # else `_grant` has been here since
                self._waiting.remove(entry)
                self._tell()
                self._grant()
            raise

    def grow(self, n: int) -> bool:
        """Hold `n` more bytes if that is possible at once and nobody waits."""
        if self.short or self.used + n > self.limit:
            return False
        self._change(n)
        return True

    def release(self, n: int) -> None:
        """`n` bytes are held no more."""
        self._change(-n)
        self._grant()

    @property
    def short(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many bodies are not read at the moment because there is no memory for them."""
        return len(self._waiting)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SILENT / 5, self._look)

    def _look(self) -> None:
        """Somebody waited a moment ago. Whoever still waits does not wait for clients that send nothing."""
        self._timer = None
        if self.short:
            for filling in tuple(self.fillings):
                if monotonic() - filling.since >= _SILENT:
                    filling.quit()
            self._watch()

    def _fits(self, n: int) -> bool:
        return self.used + n <= self.limit or not self.used

    def _change(self, n: int) -> None:
        if n:
            self.used += n
            self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self.used)

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            n, granted = self._waiting.popleft()
            if not granted.cancelled():  # its waiter has not run yet
                self._change(n)
                granted.set_result(None)


@dataclass(slots=True, eq=False)
class Piece:
    """Some of a body's bytes."""

    data: Blocks | BinaryIO
    """The bytes, as a file: read it from its start, any number of times. It is one when they are spilled. What `Blocks.read` returns is a view
    which may not be used after `release`."""
    size: int
    last: bool
    """Nothing of the body comes behind it. False proves nothing: where memory was short nobody has looked."""
    disk_time: float = 0
    """Seconds that spilling took."""
    _memory: Memory | None = None

    def release(self) -> None:
        """The bytes are needed no more. Idempotent; from the event loop."""
        memory, self._memory = self._memory, None
        if isinstance(self.data, Blocks):
            self.data.release()
        else:
            self.data.close()
        if memory is not None:
            memory.release(self.size)


@dataclass(slots=True, eq=False)
class _Filling:
    """A piece that is not full yet."""

    floor: int
    target: int
    memory: Memory | None
    done: Callable[[bool], None]
    """Hand it over; whether it is the last."""
    quit: Callable[[], None]
    """End the body."""
    data: Blocks | BinaryIO
    granted: int
    size: int = 0
    disk_time: float = 0
    since: float = field(default_factory=monotonic)
    """When its last byte came, or the wait for its first began."""

    @property
    def full(self) -> bool:
        return self.size >= self.target

    def take(self, chunk: memoryview) -> memoryview:
        """Add what fits; returns what does not. Adds nothing where memory is short."""
        room = min(self._grown(len(chunk)), self.target) - self.size
        if room <= 0:
            return chunk
        self._add(chunk[:room])
        return chunk[room:]

    def _grown(self, n: int) -> int:
        """Up to which size it may hold bytes, when `n` more would come."""
        if self.memory is None:
            return self.target
        while self.granted < min(self.size + n, self.target):
            step = min(BLOCK, self.target - self.granted)
            if not self.memory.grow(step):
                break
            self.granted += step
        return self.granted

    def room(self) -> memoryview:
        """Where the next bytes may be read into; empty where memory is short. `filled` says how many came."""
        assert isinstance(self.data, Blocks)
        room = min(self._grown(BLOCK - self.size % BLOCK), self.target) - self.size
        return self.data.room(room)[:room] if room > 0 else memoryview(b"")

    def filled(self, n: int) -> None:
        assert isinstance(self.data, Blocks)
        self.data.filled(n)
        self.size += n
        self.since = monotonic()
        if self.memory is not None and self.memory.short:
            self.press()

    def _add(self, chunk: memoryview) -> None:
        self.since = monotonic()
        if isinstance(self.data, Blocks):
            self.data.add(chunk, min(self.granted, self.target) - self.size)
            self.size += len(chunk)
            return
        began = monotonic()
        while chunk:
            n = os.pwrite(self.data.fileno(), chunk, self.size)
            self.size, chunk = self.size + n, chunk[n:]
        self.disk_time += monotonic() - began

    def press(self) -> None:
        """Somebody waits for memory: hand it over as it is, if it is worth it."""
        if self.size >= self.floor:
            self.done(False)

    def piece(self, *, last: bool) -> Piece:
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.fillings.discard(self)
            memory.release(self.granted - self.size)
        if isinstance(self.data, Blocks):
            self.data.trim()
        return Piece(self.data, self.size, last, self.disk_time, memory)

    def drop(self) -> None:
        self.piece(last=False).release()


class Cutter:
    """Cuts one body. An asynchronous context manager, which ends reading."""

    def __init__(self, body: Body, memory: Memory, spill: Path | None = None) -> None:
        """`spill`: a folder for unnamed files that hold the pieces instead of memory. Raises `OSError` from `next` when it is full."""
        self._body = body
        self._memory = memory
        self._spill = spill
        self._pump: asyncio.Task[None] | None = None
        self._filling: _Filling | None = None
        self._wanted = asyncio.Event()
        """A piece is to be filled, or nothing more is wanted."""
        self._ready: asyncio.Future[Piece] | None = None
        self._begun = asyncio.Event()
        """A first byte of the body is here, or its end."""
        self._buffer: bytearray | None = None
        """For bytes on their way to a file."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            cancelled = await all_ended([pump])
            if not pump.cancelled():
                pump.exception()  # seen: `next` raised it, or the block has ended before
            if cancelled is not None:
                raise cancelled
        if self._filling is not None:
            self._filling.drop()
            self._filling = None

    async def next(self, floor: int, target: int, head: Callable[[], Awaitable[bytes | bytearray]] | None = None) -> Piece | None:
        """The next piece: what `head` returns, then bytes of the body, up to `target` bytes together; None at the body's end.

        It is smaller where the body ends, and where memory is short, but then it has `floor` bytes, unless the body ends. `head` is awaited when
        the body has a byte; `floor` is more than what it returns. Raises what the body raises."""
        if self._pump is not None and self._pump.done() and not self._pump.cancelled():
            self._pump.result()
            return None
        memory = None if self._spill is not None else self._memory
        if memory is not None:
            await memory.reserve(floor)
        filling = _Filling(floor, target, memory, self._hand_over, self._body.abandon, self._room(), floor)
        try:
            if self._pump is None:
                self._pump = asyncio.create_task(self._read())
            if head is not None:
                if memory is not None:
                    memory.fillings.add(filling)
                await self._first(self._pump)
                if memory is not None:
                    memory.fillings.discard(filling)  # what is waited for now is not the client
                if not self._pump.done():
                    filling._add(memoryview(await head()))
            return await self._filled(filling, self._pump)
        except BaseException:
            if self._filling is filling:
                self._filling = None
                self._wanted.clear()
            filling.drop()
            raise

    def _room(self) -> Blocks | BinaryIO:
        return Blocks(self._memory.spare) if self._spill is None else tempfile.TemporaryFile(dir=self._spill, buffering=0)

    async def _first(self, pump: asyncio.Task[None]) -> None:
        waiting = asyncio.ensure_future(self._begun.wait())
        both: set[asyncio.Future[Any]] = {pump, waiting}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _filled(self, filling: _Filling, pump: asyncio.Task[None]) -> Piece | None:
        ready: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()
        self._ready, self._filling = ready, filling
        if filling.memory is not None:
            filling.memory.fillings.add(filling)
        self._wanted.set()
        both: set[asyncio.Future[Any]] = {ready, pump}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if ready.done():  # handed over at the same moment, and nobody takes it
                ready.result().release()
            raise
        self._ready = self._filling = None
        if ready.done():
            return ready.result()
        self._wanted.clear()
        filling.drop()
        pump.result()
        return None

    def _hand_over(self, last: bool) -> None:
        filling, self._filling = self._filling, None
        if filling is not None and self._ready is not None and not self._ready.done():
            self._wanted.clear()
            self._ready.set_result(filling.piece(last=last))

    async def _read(self) -> None:
        """Read the body into whatever piece is to be filled."""
        first, more = memoryview(bytearray(1)), True
        while more:
            more, came = await self._read_into(first, None)
            self._begun.set()
            await self._place(came)
            while more and (filling := self._filling) is not None and (room := self._room_of(filling)):
                more, came = await self._read_into(room, filling if isinstance(filling.data, Blocks) else None)
                del filling, room  # no view of a block is kept while the next byte is waited for
                await self._place(came)
                came.release()
        if self._filling is not None and self._filling.size:
            self._hand_over(True)

    async def _read_into(self, room: memoryview, filling: _Filling | None) -> tuple[bool, memoryview]:
        """Whether more may come, and what came beyond `filling`, which `room` is a part of. When somebody waits for memory it is handed over
        meanwhile. The reading goes on all the same, in a block that is not used again before it ends."""
        own = size = 0

        def filled(n: int) -> None:
            nonlocal own, size
            size += n
            if filling is not None and self._filling is filling:
                own += n
                filling.filled(n)

        more = await self._body.read_into(room, filled)
        return more, room[own:size]

    def _room_of(self, filling: _Filling) -> memoryview:
        """Where to read what `filling` gets: itself, or what is then written to its file."""
        if isinstance(filling.data, Blocks):
            return filling.room()
        self._buffer = self._buffer or bytearray(_SPILLED)
        return memoryview(self._buffer)[: max(0, filling.target - filling.size)]

    async def _place(self, chunk: memoryview) -> None:
        while chunk:
            filling = await self._to_fill()
            if filling.full or len(rest := filling.take(chunk)) == len(chunk):
                self._hand_over(False)
            else:
                chunk = rest

    async def _to_fill(self) -> _Filling:
        while self._filling is None:
            await self._wanted.wait()
        return self._filling
