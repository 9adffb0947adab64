"""Pieces in memory on their way to the server: sent without a copy, again from their start, and never as somebody else's bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from fake_s3 import Answer, Asked, FakeS3, etag, fake_s3
from s3_opening import opened
from tusd.plugin import Cutter, Memory, Piece, StorageUnavailable
from tusd.testing.bodies import FakeBody, pattern
from tusd_plugin_s3.bucket import Bucket, Changed


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        yield server


@pytest.fixture
async def bucket(fake: FakeS3) -> AsyncIterator[Bucket]:
    async with opened(fake.endpoint, attempts=3, concurrency=2) as bucket:
        fake.asked.clear()
        yield bucket


async def held(memory: Memory, data: bytes) -> Piece:
    """A piece in memory."""
    async with Cutter(FakeBody(data), memory) as cutter:
        piece = await cutter.next(1, len(data))
    assert piece is not None and piece.size == len(data)
    return piece


async def send(bucket: Bucket, upload: str, number: int, piece: Piece) -> str:
    """A part, as an append sends it."""
    try:
        return await bucket.upload_part("m", upload, number, piece.data)
    finally:
        piece.release()


async def test_pieces_in_memory_are_sent_as_they_are(bucket: Bucket, fake: FakeS3) -> None:
    data, memory = pattern(1, (3 << 20) + (700 << 10)), Memory(16 << 20)
    upload = await bucket.create_multipart("m", {})
    piece = await held(memory, data)
    piece.data.seek(7)
    assert await bucket.put("k", piece.data) == await send(bucket, upload, 1, piece) == etag(data)
    for asked in fake.asked[1:]:
        assert asked.body == data and "expect" not in asked.headers and "transfer-encoding" not in asked.headers
    assert len(memory.spare) == 4, "the SDK has kept a view"


async def test_a_piece_is_sent_from_its_start_when_the_connection_broke_in_its_middle(bucket: Bucket, fake: FakeS3) -> None:
    data, goes_on = pattern(1, 5 << 20), [False, True]
    upload = await bucket.create_multipart("m", {})
    fake.middle = lambda: goes_on.pop(0)
    assert await send(bucket, upload, 1, await held(Memory(16 << 20), data)) == etag(data)
    assert fake.multiparts[upload] == {1: data} and not goes_on


async def test_memory_of_a_send_that_failed_carries_no_others_bytes(bucket: Bucket, fake: FakeS3) -> None:
    memory = Memory(16 << 20)
    upload = await bucket.create_multipart("m", {})
    fake.middle = lambda: False
    with pytest.raises(StorageUnavailable) as failure:
        await send(bucket, upload, 1, await held(memory, pattern(1, 5 << 20)))
    fake.middle = None
    assert await send(bucket, upload, 2, await held(memory, pattern(2, 5 << 20))) == etag(pattern(2, 5 << 20))
    assert fake.multiparts[upload] == {2: pattern(2, 5 << 20)} and memory.used == 0
    assert failure.value.__traceback__ is not None


async def test_memory_of_a_send_that_is_cancelled_is_used_again_only_after_its_end(bucket: Bucket, fake: FakeS3) -> None:
    memory, halfway, goes_on = Memory(64 << 20), threading.Event(), threading.Event()
    upload = await bucket.create_multipart("m", {})

    def middle() -> bool:
        halfway.set()
        return goes_on.wait(20)

    fake.middle = middle
    sending = asyncio.create_task(send(bucket, upload, 1, await held(memory, pattern(1, 20 << 20))))
    try:
        assert await asyncio.to_thread(halfway.wait, 20)
        sending.cancel()
        await asyncio.sleep(0.05)
        assert not sending.done() and memory.used == 20 << 20 and len(memory.spare) == 0
        other = await held(memory, pattern(2, 20 << 20))
    finally:
        goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert fake.multiparts[upload] == {1: pattern(1, 20 << 20)}
    assert len(memory.spare) == 20
    assert await send(bucket, upload, 2, other) == etag(pattern(2, 20 << 20))


@pytest.mark.parametrize("change", [b"", b"y"])
async def test_a_write_of_a_piece_whose_answer_was_lost_is_recognised(bucket: Bucket, fake: FakeS3, change: bytes) -> None:
    data = pattern(1, (3 << 20) + 5)

    def lost(asked: Asked) -> Answer | None:
        if asked.operation != "put_object":
            return None
        fake.rule = None
        fake.answer(asked)
        fake.objects["k"] = data[: len(data) - len(change)] + change
        return Answer(hang_up=True)

    fake.rule = lost
    piece = await held(Memory(16 << 20), data)
    if change:
        with pytest.raises(Changed):
            await bucket.put("k", piece.data, absent=True)
    else:
        assert await bucket.put("k", piece.data, absent=True) == etag(data)
