"""Cutting bodies, and the memory that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tusd.blocks import BLOCK, Blocks
from tusd.errors import LeaseLost
from tusd.pieces import Cutter, Memory, Piece
from tusd.testing.bodies import FakeBody, pattern


def bytes_of(piece: Piece) -> bytes:
    piece.data.seek(0)
    return b"".join(iter(partial(piece.data.read, 5), b""))


class FedBody(FakeBody):
    """Its pieces come when the test says so."""

    def __init__(self) -> None:
        super().__init__(b"")
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    def feed(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    def end(self) -> None:
        self._queue.put_nowait(b"")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._fed()

    async def _fed(self) -> AsyncIterator[bytes]:
        while data := await self._queue.get():
            yield data


def filled_with_zeros(memory: Memory, blocks: int) -> list[Blocks]:
    """All spare blocks, and more, in use by somebody else."""
    known = [Blocks(memory.spare) for _ in range(blocks)]
    for one in known:
        one.add(bytes(BLOCK))
    return known


async def soon() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def all_pieces(cutter: Cutter, floor: int, target: int) -> list[tuple[bytes, bool]]:
    found = []
    while (piece := await cutter.next(floor, target)) is not None:
        found.append((bytes_of(piece), piece.last))
        piece.release()
    return found


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 100, 105])
async def test_a_body_is_cut_at_the_target(piece: int, size: int, spilled: bool, tmp_path: Path) -> None:
    data, memory = pattern(1, size), Memory(100)
    async with Cutter(FakeBody(data, piece=piece), memory, tmp_path if spilled else None) as cutter:
        found = await all_pieces(cutter, 5, 10)
        assert await cutter.next(5, 10) is None
    assert [part for part, _ in found] == [data[n : n + 10] for n in range(0, size, 10)]
    assert [last for _, last in found] == [n + 10 >= size for n in range(0, size, 10)]
    assert memory.used == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_head_comes_first_and_only_before_bytes() -> None:
    asked = []

    async def head() -> bytes:
        asked.append(True)
        return b"head"

    memory = Memory(100)
    async with Cutter(FakeBody(b""), memory) as cutter:
        assert await cutter.next(5, 10, head) is None
    assert not asked
    async with Cutter(FakeBody(pattern(1, 10)), memory) as cutter:
        first = await cutter.next(5, 10, head)
        second = await cutter.next(5, 10)
    assert first is not None and second is not None
    assert (bytes_of(first) + bytes_of(second), first.size, second.last) == (b"head" + pattern(1, 10), 10, True)


async def test_nothing_is_read_before_there_is_memory() -> None:
    memory, body = Memory(10), FakeBody(pattern(1, 20))
    await memory.reserve(8)
    async with Cutter(body, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(5, 10))
        await soon()
        assert body.handed == 0
        memory.release(8)
        piece = await waiting
    assert piece is not None and piece.size == 10


async def test_where_memory_is_short_pieces_are_smaller_but_not_below_the_floor() -> None:
    memory = Memory(7)
    async with Cutter(FakeBody(pattern(1, 30), piece=1), memory) as cutter:
        sizes = [len(data) for data, _ in await all_pieces(cutter, 5, 100)]
    assert sum(sizes) == 30
    assert all(5 <= size <= 7 for size in sizes[:-1])


async def test_a_stalled_body_gives_up_what_others_wait_for() -> None:
    memory, stalled = Memory(3 << 20), FedBody()
    async with Cutter(stalled, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(1 << 20, 4 << 20))
        stalled.feed(bytes(2 << 20))
        await soon()
        other = asyncio.create_task(memory.reserve(2 << 20))
        piece = await asyncio.wait_for(waiting, 5)
        assert piece is not None and (piece.size, piece.last) == (2 << 20, False)
        piece.release()
        await asyncio.wait_for(other, 5)
        memory.release(2 << 20)
        stalled.end()
        assert await cutter.next(1 << 20, 4 << 20) is None
    assert memory.used == 0


@pytest.mark.parametrize("short", [0, 3, 1 << 19])
async def test_what_comes_after_a_piece_was_given_up_is_in_the_next_one(short: int) -> None:
    """The reading into the last block of the piece was under way, and nobody uses the block before it has ended."""
    memory, stalled, data = Memory(8 << 20), FedBody(), pattern(1, 4 << 20)
    at = (3 << 20) - short
    async with Cutter(stalled, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(1 << 20, 8 << 20))
        stalled.feed(data[:at])
        await soon()
        other = asyncio.create_task(memory.reserve(6 << 20))
        first = await asyncio.wait_for(waiting, 5)
        assert first is not None and first.size == at and bytes_of(first) == data[:at]
        first.release()
        await asyncio.wait_for(other, 5)
        assert memory.used == 6 << 20
        known = filled_with_zeros(memory, 6)
        waiting = asyncio.create_task(cutter.next(1 << 20, 8 << 20))
        stalled.feed(data[at : at + 5])
        await soon()
        stalled.feed(data[at + 5 :])
        stalled.end()
        second = await asyncio.wait_for(waiting, 5)
        assert second is not None and (bytes_of(second), second.last) == (data[at:], True)
        second.release()
        assert all(not any(view) for blocks in known for view in blocks.views()), "a block was written to that is somebody else's"
    memory.release(6 << 20)
    assert memory.used == 0


async def test_a_body_that_grows_to_its_floor_while_others_wait_is_handed_over() -> None:
    memory, stalled = Memory(3 << 20), FedBody()
    async with Cutter(stalled, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(2 << 20, 3 << 20))
        stalled.feed(bytes(1 << 20))
        await soon()
        other = asyncio.create_task(memory.reserve(2 << 20))
        await soon()
        assert not waiting.done() and not other.done()
        stalled.feed(bytes(1 << 20))
        piece = await asyncio.wait_for(waiting, 5)
        assert piece is not None and piece.size == 2 << 20
        piece.release()
        await asyncio.wait_for(other, 5)
    memory.release(2 << 20)
    assert memory.used == 0


@pytest.mark.parametrize("cuts", [1, 2])
async def test_all_blocks_are_used_again(cuts: int) -> None:
    memory = Memory(16 << 20)
    for _ in range(3):
        async with Cutter(FakeBody(pattern(1, 8 << 20), piece=100_000), memory) as cutter:
            assert len(await all_pieces(cutter, 1 << 20, (8 << 20) // cuts)) == cuts
        assert len(memory.spare) == 8 // cuts


@pytest.mark.parametrize("target", [3, 8 << 20])
async def test_small_bodies_that_stall_hold_no_more_than_they_have_reserved(target: int) -> None:
    memory, held = Memory(20), 0
    bodies = [FedBody() for _ in range(3)]
    cutters = [Cutter(body, memory) for body in bodies]
    waiting = [asyncio.create_task(cutter.next(3, target)) for cutter in cutters]
    for body in bodies:
        body.feed(b"x")
    await soon()
    for cutter in cutters:
        assert cutter._filling is not None and isinstance(cutter._filling.data, Blocks)
        held += sum(len(block) for block in cutter._filling.data._blocks)
    assert 9 <= held <= memory.used
    for body in bodies:
        body.feed(b"yz" + b"more" * (target > 3))
        body.end()
    pieces = await asyncio.gather(*waiting)
    assert all(piece is not None and bytes_of(piece).startswith(b"xyz") for piece in pieces)
    for cutter in cutters:
        await cutter.__aexit__()


async def test_a_block_that_is_still_read_into_is_nobody_elses_after_a_cancellation() -> None:
    memory, stalled = Memory(16 << 20), FedBody()
    async with Cutter(stalled, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(1 << 20, 8 << 20))
        stalled.feed(bytes((1 << 20) + 5))
        await soon()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert memory.used == 0 and len(memory.spare) == 1
        known = filled_with_zeros(memory, 3)
        stalled.feed(b"x" * 100)
        await soon()
        assert all(not any(view) for blocks in known for view in blocks.views())


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("sent", [0, 3])
async def test_a_silent_body_ends_when_others_wait(sent: int, headed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.pieces._SILENT", 0.2)

    async def head() -> bytes:
        return b"head"

    memory, silent = Memory(10), FakeBody(bytes(8), piece=3, hang_at=sent)
    async with Cutter(silent, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(9, 12, head if headed else None))
        await asyncio.sleep(0.5)
        assert not waiting.done(), "nobody waits for what it holds"
        other = asyncio.create_task(memory.reserve(6))
        piece = await asyncio.wait_for(waiting, 5)
        if sent:
            assert piece is not None and piece.last and bytes_of(piece) == (b"head" if headed else b"") + bytes(3)
            piece.release()
        else:
            assert piece is None
        await asyncio.wait_for(other, 5)
        memory.release(6)
        assert await cutter.next(5, 10) is None
    assert memory.used == 0


async def test_a_body_that_sends_a_little_now_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.pieces._SILENT", 0.4)
    memory = Memory(10)
    async with Cutter(FakeBody(pattern(1, 8), piece=1, pause=0.1), memory) as cutter:
        waiting = asyncio.create_task(cutter.next(9, 9))
        await asyncio.sleep(0.05)
        other = asyncio.create_task(memory.reserve(6))
        piece = await waiting
        assert piece is not None and bytes_of(piece) == pattern(1, 8)
        piece.release()
        await other


async def test_one_below_its_floor_keeps_what_it_has() -> None:
    memory, stalled = Memory(10), FedBody()
    async with Cutter(stalled, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(6, 8))
        stalled.feed(b"12345")
        other = asyncio.create_task(memory.reserve(6))
        await soon()
        assert not waiting.done() and not other.done()
        stalled.end()
        piece = await waiting
        assert piece is not None and (bytes_of(piece), piece.last) == (b"12345", True)
        piece.release()
        await other


async def test_memory_is_given_in_turn_and_a_cancelled_waiter_takes_none() -> None:
    memory = Memory(10)
    await memory.reserve(10)
    large, small = asyncio.create_task(memory.reserve(9)), asyncio.create_task(memory.reserve(1))
    await soon()
    memory.release(2)
    await soon()
    assert not small.done(), "the small one has overtaken"
    large.cancel()
    await asyncio.wait([large, small])
    assert (memory.used, memory.short) == (9, False)


async def test_what_is_held_and_who_waits_is_told() -> None:
    told: list[tuple[int, int]] = []
    memory = Memory(10, lambda used: told.append((used, memory.waiting)))
    await memory.reserve(10)
    waiting = asyncio.create_task(memory.reserve(4))
    await soon()
    assert told == [(10, 0), (10, 1)]
    memory.release(10)
    await waiting
    assert told[-1] == (4, 0)


async def test_a_waiter_that_is_cancelled_at_the_moment_of_its_turn_gives_it_back() -> None:
    memory = Memory(10)
    await memory.reserve(10)
    waiting = asyncio.create_task(memory.reserve(9))
    await soon()
    memory.release(10)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() and memory.used == 0


async def test_more_than_there_is_at_all_is_held_alone() -> None:
    memory = Memory(10)
    await memory.reserve(50)
    other = asyncio.create_task(memory.reserve(1))
    await soon()
    assert not other.done()
    memory.release(50)
    await other


@pytest.mark.parametrize("lose_at", [0, 3, 12])
async def test_a_lost_lease_comes_through_and_no_memory_is_kept(lose_at: int) -> None:
    memory = Memory(100)
    with pytest.raises(LeaseLost):
        async with Cutter(FakeBody(pattern(1, 50), piece=3, lose_at=lose_at), memory) as cutter:
            await all_pieces(cutter, 5, 10)
    assert memory.used == 0


@pytest.mark.parametrize("hang_at", [0, 3, 10, 12])
async def test_a_cancelled_one_keeps_no_memory(hang_at: int) -> None:
    memory, body = Memory(100), FakeBody(pattern(1, 50), piece=3, hang_at=hang_at)

    async def work() -> int:
        async with Cutter(body, memory) as cutter:
            await all_pieces(cutter, 5, 10)
        return 0

    task = asyncio.create_task(work())
    await body.hung(task)
    await soon()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled() and memory.used == 0 and not memory.fillings


async def test_a_waiter_that_is_cancelled_is_so_though_memory_comes_free_before_it_runs() -> None:
    memory = Memory(10)
    await memory.reserve(10)
    waiting = asyncio.create_task(memory.reserve(9))
    await soon()
    waiting.cancel()
    memory.release(10)
    await asyncio.wait([waiting])
    assert waiting.cancelled() and memory.used == 0


@pytest.mark.parametrize("steps", range(6))
async def test_one_that_is_cancelled_while_its_piece_is_handed_over_keeps_no_memory(steps: int) -> None:
    memory, body = Memory(100), FedBody()
    async with Cutter(body, memory) as cutter:
        waiting = asyncio.create_task(cutter.next(5, 10))
        await soon()
        body.feed(bytes(8))
        await soon()
        cutter._hand_over(False)
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled() and (piece := waiting.result()) is not None:
            piece.release()
    assert memory.used == 0 and not memory.fillings
