"""Memory for the bytes of bodies, in blocks that are used again and again.

The first use of memory is what costs: the system has to find and clear every page of it, which takes five times as long as copying bytes into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

BLOCK = 1 << 20
"""Bytes of a block."""
_IDLE = 5.0
"""Seconds after which blocks that were not needed meanwhile go back to the system."""


class Spare:
    """The blocks of one worker. Those that are not in use wait here for the next body."""

    def __init__(self, limit: int) -> None:
        """No block waits while all of them together are more than `limit` bytes."""
        self._most = limit // BLOCK
        self._used = 0
        self._blocks: list[bytearray] = []
        self._unneeded = 0
        """The fewest that waited since the last look."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many blocks wait."""
        return len(self._blocks)

    def take(self) -> bytearray:
        """A block with anything in it."""
        self._used += 1
        if not self._blocks:
            return _new()
        block = self._blocks.pop()
        self._unneeded = min(self._unneeded, len(self._blocks))
        return block

    def give_back(self, block: bytearray) -> None:
        """It is needed no more; from the event loop. One that somebody still has a view of is not used again: what he sees stays as it is."""
        self._used -= 1
        if self._used + len(self._blocks) < self._most and _free(block):
            self._blocks.append(block)
            if self._timer is None:
                self._unneeded = len(self._blocks)
                self._timer = asyncio.get_running_loop().call_later(_IDLE, self._look)

    def _look(self) -> None:
        """The only timer, and there is none while no block waits."""
        self._timer = None
        del self._blocks[: self._unneeded]
        if self._blocks:
            self._unneeded = len(self._blocks)
            self._timer = asyncio.get_running_loop().call_later(_IDLE, self._look)


def _new() -> bytearray:
    block = bytearray(BLOCK + 1)
    block.pop()  # there is room for `_free` to add a byte, without a copy
    return block


def _free(block: bytearray) -> bool:
    """Whether nobody has a view of it: Python refuses to resize one that somebody has."""
    try:
        block.append(0)
    except BufferError:
        return False
    block.pop()
    return True


class Blocks:
    """Bytes in memory, as a file that HTTP clients can send without a copy, any number of times.

    `read` hands out the rest of a block as a view, however much is asked for. `len` is the number of all bytes."""

    __slots__ = ("_at", "_blocks", "_size", "_spare")

    def __init__(self, spare: Spare) -> None:
        self._spare: Spare | None = spare
        self._blocks: list[bytearray] = []
        self._size = 0
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes | bytearray | memoryview, wanted: int = BLOCK) -> None:
        """Copy bytes to the end. `wanted`: see `room`."""
        rest = memoryview(data)
        while rest:
            room = self.room(wanted)[: len(rest)]
            room[:] = rest[: len(room)]
            self._size, rest = self._size + len(room), rest[len(room) :]

    def room(self, wanted: int = BLOCK) -> memoryview:
        """Where the next bytes go: the free rest of a block. They count once `filled` says so.

        `wanted`: how many are expected. Of a few, each body of which would else hold a block, there is room for so many only."""
        spare, used = self._held(), self._size % BLOCK
        if len(self._blocks) * BLOCK == self._size:
            self._blocks.append(bytearray(max(1, wanted)) if wanted <= BLOCK // 2 else spare.take())
        elif used == len(self._blocks[-1]):  # more came than was expected
            block = spare.take()
            block[:used] = self._blocks[-1]
            self._blocks[-1] = block
        return memoryview(self._blocks[-1])[used:]

    def filled(self, n: int) -> None:
        """The first `n` bytes of `room` count now."""
        self._size += n

    def trim(self) -> None:
        """No more is added: a block of which less than half is used goes back, so that small pieces hold little memory."""
        used = self._size % BLOCK
        if self._blocks and len(self._blocks[-1]) == BLOCK and len(self._blocks) * BLOCK - self._size > BLOCK // 2:
            block = self._blocks.pop()
            if used:
                self._blocks.append(block[:used])
            self._held().give_back(block)

    def views(self) -> Iterator[memoryview]:
        """All bytes, in order."""
        self._held()
        for number, block in enumerate(self._blocks):
            yield memoryview(block)[: self._size - number * BLOCK].toreadonly()

    def read(self, size: int = -1) -> memoryview:
        """The rest of a block, and an empty view at the end. Raises `ValueError` after the release."""
        self._held()
        number, begin = divmod(self._at, BLOCK)
        if not size or self._at >= self._size:
            return memoryview(b"")
        view = memoryview(self._blocks[number])[begin : self._size - number * BLOCK].toreadonly()
        self._at += len(view)
        return view

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files do. Raises `ValueError` after the release."""
        self._held()
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        """Where `read` goes on."""
        return self._at

    def release(self) -> None:
        """The bytes are needed no more. Idempotent; from the event loop."""
        spare, self._spare = self._spare, None
        blocks, self._blocks = self._blocks, []
        while blocks:
            block = blocks.pop()
            if spare is not None and len(block) == BLOCK:
                spare.give_back(block)
            del block

    def _held(self) -> Spare:
        if self._spare is None:
            raise ValueError("these bytes were released: they cannot be read or sent any more")
        return self._spare
