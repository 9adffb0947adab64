from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tusd.errors import LeaseLost
from tusd.testing.bodies import FakeBody, FakeLease, pattern

DATA = pattern(1, 100)


async def pieces(body: FakeBody) -> list[bytes]:
    return [piece async for piece in body]


def test_a_pattern_is_the_same_everywhere() -> None:
    assert pattern(7, 6).hex() == pattern(7, 6).hex() != pattern(8, 6).hex()
    assert len(pattern(1, 0)) == 0


async def test_a_body_hands_out_its_bytes_in_pieces() -> None:
    body = FakeBody(DATA, piece=30)
    assert [len(piece) for piece in await pieces(body)] == [30, 30, 30, 10]
    assert body.handed == 100
    assert await body.intact()


async def test_an_empty_body() -> None:
    body = FakeBody(b"")
    assert await pieces(body) == []
    assert await body.intact()


@pytest.mark.parametrize("k", [0, 1, 29, 30, 99])
async def test_a_body_that_ends_early_is_not_intact(k: int) -> None:
    body = FakeBody(DATA, piece=30, stop_at=k)
    assert b"".join(await pieces(body)) == DATA[:k]
    assert not await body.intact()


async def test_a_body_that_is_not_what_its_checksum_says() -> None:
    body = FakeBody(DATA, intact=False)
    assert b"".join(await pieces(body)) == DATA
    assert not await body.intact()


@pytest.mark.parametrize("k", [0, 1, 30, 45, 100])
async def test_the_lease_is_lost_after_k_bytes(k: int) -> None:
    body = FakeBody(DATA, piece=30, lose_at=k)
    found = b""
    with pytest.raises(LeaseLost):
        async for piece in body:
            found += piece
    assert found == DATA[:k]


async def test_the_lease_is_checked_before_each_piece() -> None:
    lease = FakeLease()
    body = FakeBody(DATA, lease, piece=50)
    reading = aiter(body)
    await anext(reading)
    lease.lose()
    with pytest.raises(LeaseLost):
        await anext(reading)
    assert body.handed == 50


@pytest.mark.parametrize("k", [0, 45, 100])
async def test_a_body_hangs_until_it_is_cancelled(k: int) -> None:
    body = FakeBody(DATA, piece=30, hang_at=k)

    async def read() -> int:
        return len(await pieces(body))

    work = asyncio.create_task(read())
    await body.hung(work)
    assert body.handed == k
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()


async def test_waiting_for_a_body_that_nobody_reads_fails() -> None:
    async def ignore() -> int:
        return 0

    with pytest.raises(AssertionError, match="still coming"):
        await FakeBody(DATA, hang_at=5).hung(asyncio.create_task(ignore()))


async def test_writing_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    fd = os.open(path, os.O_WRONLY)
    try:
        assert await FakeBody(DATA, piece=30).write_to(fd, 3) == 100
    finally:
        os.close(fd)
    assert path.read_bytes() == b"abc" + DATA


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
@pytest.mark.parametrize("stop_at", [0, 45, None])
async def test_filling_a_buffer(size: int, stop_at: int | None) -> None:
    body, found, more = FakeBody(DATA, piece=30, stop_at=stop_at), b"", True
    while more:
        buffer, sizes = bytearray(size), list[int]()
        more = await body.read_into(memoryview(buffer), sizes.append)
        assert sum(sizes) == size or not more
        found += buffer[: sum(sizes)]
    assert found == DATA[:stop_at]
    assert await body.intact() is (stop_at is None)


async def test_the_lease_is_checked_before_each_filling() -> None:
    lease, sizes = FakeLease(), list[int]()
    body = FakeBody(DATA, lease)
    assert await body.read_into(memoryview(bytearray(5)), sizes.append)
    lease.lose()
    with pytest.raises(LeaseLost):
        await body.read_into(memoryview(bytearray(5)), sizes.append)
    assert sizes == [5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
async def test_a_full_disk_raises_what_pwrite_raises() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space"):
            await FakeBody(DATA).write_to(fd, 0)
    finally:
        os.close(fd)


async def test_misuse_by_a_store_is_found() -> None:
    body = FakeBody(DATA)
    with pytest.raises(AssertionError, match="read the body to its end"):
        await body.intact()
    await pieces(body)
    with pytest.raises(AssertionError, match="twice"):
        await pieces(body)
    body.saved(10)
    with pytest.raises(AssertionError, match="after"):
        body.saved(9)
