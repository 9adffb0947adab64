"""Blocks of memory that are used again, and bytes in them as a file."""

from __future__ import annotations

import asyncio
import gc
import io
import weakref

import pytest

from tusd import blocks
from tusd.blocks import BLOCK, Blocks, Spare
from tusd.testing.bodies import pattern


def filled(spare: Spare, data: bytes) -> Blocks:
    found = Blocks(spare)
    found.add(data)
    return found


def content(found: Blocks) -> bytes:
    found.seek(0)
    return b"".join(iter(found.read, b""))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("step", [BLOCK // 3, 5 * BLOCK])
async def test_they_are_a_file(size: int, step: int) -> None:
    data, found = pattern(1, size), Blocks(Spare(0))
    for at in range(0, size, step):
        found.add(data[at : at + step])
    assert (len(found), content(found), found.tell()) == (size, data, size)
    assert b"".join(found.views()) == data
    found.trim()
    assert content(found) == data and b"".join(found.views()) == data
    model = io.BytesIO(data)
    for offset, whence in ((0, 0), (size // 2, 0), (7, 0), (0, 2), (-min(size, 3), 2), (0, 1), (size + 5, 0)):
        assert found.seek(offset, whence) == model.seek(offset, whence) == found.tell()
        assert b"".join(iter(found.read, b"")) == model.read()


async def test_a_read_is_a_view_of_the_rest_of_a_block_however_much_is_asked_for() -> None:
    found = filled(Spare(0), pattern(1, 2 * BLOCK + 5))
    found.seek(3)
    assert [len(found.read(size)) for size in (1, 8192, 1 << 30, 10)] == [BLOCK - 3, BLOCK, 5, 0]
    found.seek(0)
    assert len(found.read(0)) == 0 and found.tell() == 0
    with pytest.raises(TypeError):
        found.read()[0] = 0


async def test_a_block_is_used_again() -> None:
    spare = Spare(4 * BLOCK)
    first = filled(spare, bytes(2 * BLOCK))
    known = {id(block) for block in first._blocks}
    first.release()
    assert len(spare) == 2
    second = filled(spare, pattern(2, 2 * BLOCK))
    assert {id(block) for block in second._blocks} == known and content(second) == pattern(2, 2 * BLOCK)


async def test_one_that_somebody_still_sees_is_not_used_again() -> None:
    """As a client that keeps what it could not send, or sends it late."""
    spare = Spare(4 * BLOCK)
    first = filled(spare, pattern(1, 2 * BLOCK))
    first.seek(0)
    late = memoryview(first.read())[5:10]
    first.release()
    assert len(spare) == 1
    second = filled(spare, pattern(2, 3 * BLOCK))
    assert late == pattern(1, 2 * BLOCK)[5:10]
    second.release()
    assert len(spare) == 3, "it was counted as one in use for ever"


async def test_nothing_can_be_read_after_the_release() -> None:
    found = filled(Spare(BLOCK), b"secret")
    found.release()
    found.release()
    for asking in (found.read, lambda: found.seek(0), lambda: list(found.views()), lambda: found.add(b"x")):
        with pytest.raises(ValueError, match="were released"):
            asking()


async def test_no_more_wait_than_the_limit() -> None:
    spare = Spare(3 * BLOCK)
    held = [filled(spare, bytes(2 * BLOCK)) for _ in range(3)]
    for number, found in enumerate(held):
        found.release()
        assert len(spare) == (0, 1, 3)[number]
    for limit in (0, 100):
        small = Spare(limit)
        filled(small, b"x").release()
        assert len(small) == 0


async def test_a_small_one_holds_little() -> None:
    spare = Spare(4 * BLOCK)
    for size, blocks_held in ((1, 0), (BLOCK // 2 - 1, 0), (BLOCK // 2, 1), (BLOCK + 1, 1)):
        found = filled(spare, pattern(1, size))
        found.trim()
        assert sum(len(block) == BLOCK for block in found._blocks) == blocks_held
        assert sum(map(len, found._blocks)) <= max(2 * size, BLOCK * blocks_held + size % BLOCK)
        assert content(found) == pattern(1, size)
        found.release()
    assert len(spare) == 2


async def test_blocks_go_back_to_the_system_when_nothing_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_IDLE", 0.1)
    spare = Spare(4 * BLOCK)
    filled(spare, b"x").release()
    held = filled(spare, b"y")
    await asyncio.sleep(0.25)
    assert spare._timer is None, "none runs while one is in use"
    held.release()
    await asyncio.sleep(0.06)
    filled(spare, b"z").release()
    await asyncio.sleep(0.06)
    assert len(spare) == 1, "it was used a moment ago"
    await asyncio.sleep(0.25)
    assert len(spare) == 0 and spare._timer is None


async def test_what_is_not_needed_goes_back_though_others_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_IDLE", 0.2)
    spare = Spare(8 * BLOCK)
    many = [filled(spare, b"x") for _ in range(6)]
    for one in many:
        one.release()
    held = filled(spare, b"y")
    for _ in range(12):
        filled(spare, b"z").release()
        await asyncio.sleep(0.05)
    assert len(spare) == 1, "one is used all the time, five are not"
    held.release()


def test_no_timer_keeps_a_loop_or_the_blocks() -> None:
    async def work() -> weakref.ref[Spare]:
        spare = Spare(BLOCK)
        filled(spare, b"x").release()
        assert len(spare) == 1
        return weakref.ref(spare)

    began = asyncio.new_event_loop()
    kept = began.run_until_complete(work())
    at = began.time()
    began.close()
    assert began.time() - at < 1
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("wanted", [1, 10, BLOCK // 2, BLOCK // 2 + 1, BLOCK])
@pytest.mark.parametrize("size", [1, 10, 11, BLOCK // 2 + 5, BLOCK, BLOCK + 7, 2 * BLOCK + 1])
async def test_few_bytes_take_little_memory_and_more_may_come(wanted: int, size: int) -> None:
    spare, data = Spare(8 * BLOCK), pattern(1, size)
    found, at = Blocks(spare), 0
    while at < size:
        room = found.room(wanted)
        n = min(len(room), size - at)
        room[:n] = data[at : at + n]
        del room
        found.filled(n)
        at += n
    assert content(found) == data
    if wanted <= BLOCK // 2 and size <= wanted:
        assert sum(map(len, found._blocks)) == wanted
    found.trim()
    assert content(found) == data
    found.release()
    assert spare._used == 0 and all(len(block) == BLOCK for block in spare._blocks)
