"""The body between connection and store: room, checksum, lease, pace."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
from tests.engine.rig import FakeSource

from tusd.engine.body import AppendBody, Empty, new_hash
from tusd.errors import LeaseLost, QuotaExceeded, UnexpectedEof, UploadInterrupted, UploadSizeExceeded
from tusd.limiting import Allowance
from tusd.protocol.messages import Algorithm, BodyPlan, Checksum
from tusd.testing.bodies import FakeLease


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


class Lease(FakeLease):
    """Counts how often it is asked."""

    asked = 0

    def check(self) -> None:
        self.asked += 1
        super().check()


class Meter:
    def __init__(self) -> None:
        self.spent: list[int] = []

    async def bind(self, info: object) -> None:
        """Nothing to count."""

    async def spend(self, n: int) -> None:
        self.spent.append(n)


def body(
    source: FakeSource, size: int | None, room: int = 100, *, checksum: Checksum | None = None, pace: Sequence[Allowance] = ()
) -> AppendBody:
    return AppendBody(source, BodyPlan(size, checksum), room, FakeLease(), pace)


async def take(it: AppendBody, way: str, fd: int) -> bytes:
    if way == "pieces":
        return b"".join([piece async for piece in it])
    if way == "read_into":
        found, more = b"", True
        while more:
            buffer, sizes = bytearray(2), list[int]()
            more = await it.read_into(memoryview(buffer), sizes.append)
            found += buffer[: sum(sizes)]
            assert sizes or not more
        assert not await it.read_into(memoryview(buffer), sizes.append)
        return found
    written = await it.write_to(fd, 3)
    assert os.fstat(fd).st_size == (3 + written if written else 0)
    return os.pread(fd, written + 1, 3)


ways = pytest.mark.parametrize("way", ["pieces", "write_to", "read_into"])


@ways
@pytest.mark.parametrize(
    ("pieces", "size", "room", "stored", "failure"),
    [
        ((b"01", b"2"), 3, 3, b"012", None),
        ((b"01", b"2"), 3, 9, b"012", None),
        ((b"01", b"2"), None, 9, b"012", None),
        ((b"01", b"2"), None, 3, b"012", None),
        ((b"01", b"2"), None, 2, b"01", UploadSizeExceeded),
        ((b"012",), None, 2, b"01", UploadSizeExceeded),
        ((b"0",), None, 0, b"", UploadSizeExceeded),
        ((), None, 0, b"", None),
        ((), 0, 0, b"", None),
    ],
)
async def test_room(
    way: str, fd: int, pieces: tuple[bytes, ...], size: int | None, room: int, stored: bytes, failure: type[Exception] | None
) -> None:
    it = body(FakeSource(*pieces), size, room)
    assert await take(it, way, fd) == stored
    assert await it.intact() is (failure is None)
    assert type(it.failure) is (failure or type(None))


@ways
async def test_a_lost_client(way: str, fd: int) -> None:
    it = body(FakeSource(b"01", failure=UnexpectedEof()), 3)
    assert await take(it, way, fd) == b"01"
    assert isinstance(it.failure, UnexpectedEof)
    assert not await it.intact()


@ways
async def test_who_stops_a_body_that_came_whole_stops_nothing(way: str, fd: int) -> None:
    source = FakeSource(b"01", b"2")
    it = body(source, 3, checksum=Checksum("sha1", hashlib.sha1(b"012").digest()))
    assert await take(it, way, fd) == b"012"
    source.stop(UploadInterrupted())
    assert it.failure is None
    assert await it.intact()


@ways
@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@pytest.mark.parametrize("right", [True, False])
async def test_checksums(way: str, fd: int, algorithm: Algorithm, right: bool) -> None:
    data = b"hello world"
    digest = zlib.crc32(data).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, data).digest()
    it = body(FakeSource(data[:4], data[4:] if right else b"!" * 7), 11, checksum=Checksum(algorithm, digest))
    assert it.whole
    await take(it, way, fd)
    assert await it.intact() is right
    assert it.failure is None


def test_crc32_is_that_of_the_check_value() -> None:
    """The check value of CRC-32/ISO-HDLC, as catalogues of CRCs name it."""
    running = new_hash("crc32")
    running.update(b"1234")
    running.update(b"56789")
    assert running.digest().hex() == "cbf43926"


@ways
async def test_nothing_is_handed_out_without_the_lease(way: str, fd: int) -> None:
    lease = Lease()
    it = AppendBody(FakeSource(b"01"), BodyPlan(2), 9, lease)
    lease.lose()
    with pytest.raises(LeaseLost):
        await take(it, way, fd)
    assert os.fstat(fd).st_size == 0
    assert lease.asked == 1


@ways
async def test_the_lease_is_checked_for_each_piece(way: str, fd: int) -> None:
    lease = Lease()
    await take(AppendBody(FakeSource(b"01", b"2", b"3"), BodyPlan(4), 9, lease), way, fd)
    assert lease.asked == 3


@ways
async def test_each_piece_is_paced(way: str, fd: int) -> None:
    meters = [Meter(), Meter()]
    assert await take(body(FakeSource(b"01", b"23"), None, 3, pace=meters), way, fd) == b"012"
    assert [meter.spent for meter in meters] == [[2, 1], [2, 1]]


async def test_the_empty_source(fd: int) -> None:
    empty = Empty()
    empty.stop(UploadInterrupted())
    assert (await empty.read(), await empty.write_to(fd, 0, 9, print), empty.failure) == (b"", 0, None)
    assert await empty.read_into(memoryview(bytearray(9)), print) == 0


@ways
@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize(
    ("pieces", "left", "stored", "refused"),
    [((b"01", b"23"), 4, b"0123", False), ((b"01", b"23"), 3, b"012", True), ((b"01",), 0, b"", True), ((), 0, b"", False)],
)
async def test_no_more_than_was_granted(
    way: str,
    fd: int,
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[bytes, ...],
    left: int,
    stored: bytes,
    refused: bool,
    paced: bool,
) -> None:
    """A step at a time; what is refused is no failure as long as no byte needs it."""
    monkeypatch.setattr("tusd.engine.body.RESERVE_STEP", 2)

    async def reserve(n: int) -> None:
        if n > left:
            raise QuotaExceeded(short_by=n - left)

    it = AppendBody(FakeSource(*pieces), BodyPlan(None), 100, FakeLease(), [Meter()] if paced else (), reserve=reserve)
    assert await take(it, way, fd) == stored
    assert isinstance(it.failure, QuotaExceeded) is refused


@pytest.mark.parametrize("paced", [False, True])
async def test_progress_is_told_of_what_is_written_and_no_more(fd: int, paced: bool) -> None:
    told: list[int] = []
    pieces = [b"ab", b"cde", b"f", b"ghij"]

    def progress(offset: int) -> None:
        assert os.fstat(fd).st_size == offset
        told.append(offset)

    it = AppendBody(FakeSource(*pieces), BodyPlan(10), 100, FakeLease(), [Meter()] if paced else (), progress=progress)
    assert await it.write_to(fd, 3, it.saved) == 10
    assert told == [5, 8, 9]
    it.saved(13)
    assert told[-1] == 13
    quiet = AppendBody(FakeSource(*pieces), BodyPlan(10), 100, FakeLease(), progress=progress)
    assert await quiet.write_to(fd, 3) == 10  # a store that does not call them safe
    assert len(told) == 4


@ways
@pytest.mark.parametrize("keeps_cut", [False, True])
async def test_a_cut_body_with_a_checksum(fd: int, way: str, keeps_cut: bool) -> None:
    checksum = Checksum("sha256", hashlib.sha256(b"abcdef").digest())
    for source, intact in ((FakeSource(b"abc", failure=UnexpectedEof()), keeps_cut), (FakeSource(b"abc", b"def"), True)):
        it = AppendBody(source, BodyPlan(6, checksum, keeps_cut=keeps_cut), 100, FakeLease())
        await take(it, way, fd)
        assert await it.intact() is intact
    wrong = AppendBody(FakeSource(b"abcdex"), BodyPlan(6, checksum, keeps_cut=keeps_cut), 100, FakeLease())
    await take(wrong, way, fd)
    assert await wrong.intact() is False


@ways
async def test_the_digest_of_all_that_was_handed_out(fd: int, way: str) -> None:
    it = AppendBody(FakeSource(b"abc", b"def", b"g"), BodyPlan(None), 6, FakeLease(), digest="sha256")
    await take(it, way, fd)
    assert it.digest == hashlib.sha256(b"abcdef").digest()
    assert body(FakeSource(), 0).digest is None
