"""PATCH: which calls are made, in which order, and what is kept when something goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest
from tests.engine.rig import FakeSource, Rig

from tusd.errors import (
    ChecksumMismatch,
    InvalidUploadLength,
    LeaseLost,
    MaxSizeExceeded,
    MismatchedOffset,
    ModifyFinal,
    NotSupported,
    StorageFull,
    StorageUnavailable,
    TusError,
    UnexpectedEof,
    UploadInterrupted,
    UploadNotFound,
    UploadSizeExceeded,
)
from tusd.model import Extension, Final, State, UploadId
from tusd.protocol.messages import Checksum
from tusd.protocol.rules import Policy
from tusd.storage import Terminable

UPLOAD = UploadId("upload")
ANYTHING = Policy()


def checksum_of(data: bytes) -> Checksum:
    return Checksum("sha256", hashlib.sha256(data).digest())


@dataclass(frozen=True, kw_only=True)
class Case:
    """A PATCH in a situation. The upload holds `before` of `total` bytes (None: deferred)."""

    name: str
    before: bytes = b"01234"
    total: int | None = 10
    offset: int | None = None
    pieces: tuple[bytes, ...] = ()
    chunked: bool = False
    size: int | None = None
    length: int | None = None
    checksum: Checksum | None = None
    failure: TusError | None = None
    policy: Policy = ANYTHING
    calls: tuple[str, ...]
    error: type[TusError] | None = None
    after: bytes
    state: State = State.RECEIVING
    reads: int | None = None


WITHOUT_HOOKS = (
    Case(
        name="more bytes",
        pieces=(b"56",),
        calls=("lock", "open", "append", "appended 2", "unlock"),
        after=b"0123456",
    ),
    Case(
        name="the last bytes",
        pieces=(b"56", b"789"),
        calls=("lock", "open", "append", "appended 5", "finish", "unlock"),
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(name="no bytes", calls=("lock", "open", "unlock"), after=b"01234", reads=0),
    Case(
        name="chunked",
        pieces=(b"56", b"7"),
        chunked=True,
        calls=("lock", "open", "append", "appended 3", "unlock"),
        after=b"01234567",
    ),
    Case(
        name="wrong offset",
        offset=4,
        pieces=(b"56",),
        calls=("lock", "open", "unlock"),
        error=MismatchedOffset,
        after=b"01234",
        reads=0,
    ),
    Case(
        name="wrong offset of a complete upload",
        before=b"0123456789",
        offset=4,
        calls=("lock", "open", "unlock"),
        error=MismatchedOffset,
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="too big, and says so",
        pieces=(b"56789+",),
        calls=("lock", "open", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
        reads=0,
    ),
    Case(
        name="too big, chunked: kept up to the length, which completes it",
        pieces=(b"567", b"89+", b"+"),
        chunked=True,
        calls=("lock", "open", "append", "appended 5", "finish", "unlock"),
        error=UploadSizeExceeded,
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="too big by a piece of its own, chunked",
        pieces=(b"56789", b"+"),
        chunked=True,
        calls=("lock", "open", "append", "appended 5", "finish", "unlock"),
        error=UploadSizeExceeded,
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="deferred, over the server's limit, and says so",
        total=None,
        pieces=(b"56789",),
        policy=Policy(max_size=8),
        calls=("lock", "open", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
        reads=0,
    ),
    Case(
        name="deferred, over the server's limit, chunked: kept up to the limit",
        total=None,
        pieces=(b"56789",),
        chunked=True,
        policy=Policy(max_size=8),
        calls=("lock", "open", "append", "appended 3", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234567",
    ),
    Case(
        name="deferred, beyond a limit that has been lowered since, chunked: nothing more is kept",
        total=None,
        pieces=(b"56789",),
        chunked=True,
        policy=Policy(max_size=3),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
    ),
    Case(
        name="complete under a limit that has been lowered since",
        before=b"0123456789",
        policy=Policy(max_size=3),
        calls=("lock", "open", "unlock"),
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="the client is lost",
        pieces=(b"56",),
        size=5,
        failure=UnexpectedEof(),
        calls=("lock", "open", "append", "appended 2", "unlock"),
        error=UnexpectedEof,
        after=b"0123456",
    ),
    Case(
        name="the client is lost just after its last byte, chunked",
        pieces=(b"56789",),
        chunked=True,
        failure=UnexpectedEof(),
        calls=("lock", "open", "append", "appended 5", "finish", "unlock"),
        error=UnexpectedEof,
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="an empty body for a complete upload",
        before=b"0123456789",
        calls=("lock", "open", "unlock"),
        after=b"0123456789",
        state=State.COMPLETE,
        reads=0,
    ),
    Case(
        name="bytes for a complete upload",
        before=b"0123456789",
        pieces=(b"+",),
        calls=("lock", "open", "unlock"),
        error=UploadSizeExceeded,
        after=b"0123456789",
        state=State.COMPLETE,
        reads=0,
    ),
    Case(
        name="bytes for a complete upload, chunked",
        before=b"0123456789",
        pieces=(b"+",),
        chunked=True,
        calls=("lock", "open", "unlock"),
        error=UploadSizeExceeded,
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="an empty chunked body for a complete upload",
        before=b"0123456789",
        chunked=True,
        calls=("lock", "open", "unlock"),
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="the length is declared with bytes",
        total=None,
        pieces=(b"56",),
        length=10,
        calls=("lock", "open", "save length=10 receiving", "append", "appended 2", "unlock"),
        after=b"0123456",
    ),
    Case(
        name="the length is declared with the last bytes",
        total=None,
        pieces=(b"56",),
        length=7,
        calls=("lock", "open", "save length=7 receiving", "append", "appended 2", "finish", "unlock"),
        after=b"0123456",
        state=State.COMPLETE,
    ),
    Case(
        name="the length is declared with an empty body, and all is there",
        total=None,
        length=5,
        calls=("lock", "open", "save length=5 receiving", "finish", "unlock"),
        after=b"01234",
        state=State.COMPLETE,
    ),
    Case(
        name="the length is declared with an empty body, and more will come",
        total=None,
        length=6,
        calls=("lock", "open", "save length=6 receiving", "unlock"),
        after=b"01234",
    ),
    Case(
        name="the length is declared again",
        length=10,
        pieces=(b"5",),
        calls=("lock", "open", "append", "appended 1", "unlock"),
        after=b"012345",
    ),
    Case(
        name="another length is declared",
        length=11,
        calls=("lock", "open", "unlock"),
        error=InvalidUploadLength,
        after=b"01234",
    ),
    Case(
        name="a length is declared that is less than what is there",
        total=None,
        length=4,
        calls=("lock", "open", "unlock"),
        error=InvalidUploadLength,
        after=b"01234",
    ),
    Case(
        name="a length is declared that the body does not fit",
        total=None,
        pieces=(b"5678",),
        length=8,
        calls=("lock", "open", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
        reads=0,
    ),
    Case(
        name="a length is declared that the server does not take",
        total=None,
        length=9,
        policy=Policy(max_size=8),
        calls=("lock", "open", "unlock"),
        error=MaxSizeExceeded,
        after=b"01234",
    ),
    Case(
        name="right checksum",
        pieces=(b"5", b"6"),
        checksum=checksum_of(b"56"),
        calls=("lock", "open", "append", "appended 2", "unlock"),
        after=b"0123456",
    ),
    Case(
        name="right checksum of the last bytes, chunked",
        pieces=(b"567", b"89"),
        chunked=True,
        checksum=checksum_of(b"56789"),
        calls=("lock", "open", "append", "appended 5", "finish", "unlock"),
        after=b"0123456789",
        state=State.COMPLETE,
    ),
    Case(
        name="right checksum of nothing",
        checksum=checksum_of(b""),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        after=b"01234",
    ),
    Case(
        name="wrong checksum",
        pieces=(b"5", b"6"),
        checksum=checksum_of(b"57"),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=ChecksumMismatch,
        after=b"01234",
    ),
    Case(
        name="wrong checksum of the last bytes",
        pieces=(b"56789",),
        checksum=checksum_of(b"5678"),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=ChecksumMismatch,
        after=b"01234",
    ),
    Case(
        name="wrong checksum of nothing",
        checksum=checksum_of(b"5"),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=ChecksumMismatch,
        after=b"01234",
    ),
    Case(
        name="wrong checksum of an empty body that declares the length: all is there, so it is finished",
        total=None,
        length=5,
        checksum=checksum_of(b"5"),
        calls=("lock", "open", "save length=5 receiving", "append", "appended 0", "finish", "unlock"),
        error=ChecksumMismatch,
        after=b"01234",
        state=State.COMPLETE,
    ),
    Case(
        name="the client is lost in a body with a checksum: nothing counts",
        pieces=(b"56",),
        size=3,
        checksum=checksum_of(b"567"),
        failure=UnexpectedEof(),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=UnexpectedEof,
        after=b"01234",
    ),
    Case(
        name="too big with a checksum, chunked: nothing counts",
        pieces=(b"56789", b"+"),
        chunked=True,
        checksum=checksum_of(b"56789"),
        calls=("lock", "open", "append", "appended 0", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
    ),
    Case(
        name="checksum where checksums are off",
        pieces=(b"56",),
        checksum=checksum_of(b"56"),
        policy=Policy(extensions=frozenset(Extension) - {Extension.CHECKSUM}),
        calls=("lock", "open", "unlock"),
        error=NotSupported,
        after=b"01234",
        reads=0,
    ),
)


@pytest.mark.parametrize("case", WITHOUT_HOOKS, ids=lambda case: case.name)
async def test_append(case: Case) -> None:
    rig = Rig(case.policy)
    total = case.total
    await rig.put(UPLOAD, case.before, length=total, deferred=total is None)
    source = FakeSource(*case.pieces, failure=case.failure)
    offset = len(case.before) if case.offset is None else case.offset
    size = None if case.chunked else sum(map(len, case.pieces)) if case.size is None else case.size

    async def patch() -> None:
        done = await rig.append(
            UPLOAD, offset, length=case.length, checksum=case.checksum, source=source, size=size, chunked=case.chunked
        )
        assert done.info == await rig.kept.info(UPLOAD)

    if case.error is None:
        await patch()
    else:
        with pytest.raises(case.error) as raised:
            await patch()
        assert raised.value.info == await rig.kept.info(UPLOAD)
    assert tuple(rig.log) == case.calls
    assert await rig.content(UPLOAD) == case.after
    assert (await rig.kept.info(UPLOAD)).state is case.state
    assert rig.metrics.sums.get("tusd_bytes_received", 0) == len(case.after) - len(case.before)
    if case.reads is not None:
        assert source.reads == case.reads


async def test_append_to_an_upload_that_is_not_there() -> None:
    rig = Rig()
    with pytest.raises(UploadNotFound):
        await rig.append(UPLOAD, 0, b"x")
    assert rig.log == ["lock", "open", "unlock"]


async def test_a_final_upload_takes_no_bytes() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", concat=Final(parts=(UploadId("a"),)))
    source = FakeSource(b"x")
    with pytest.raises(ModifyFinal):
        await rig.append(UPLOAD, 5, source=source, size=1)
    assert source.reads == 0


async def test_an_interrupted_append_keeps_its_bytes_and_lets_go() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    append = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    info = await rig.head(UPLOAD)
    assert info.offset == 7
    with pytest.raises(UploadInterrupted) as raised:
        await append
    assert raised.value.info is not None
    assert raised.value.info.offset == 7
    assert rig.log == ["lock", "open", "append", "info", "appended 2", "unlock", "lock", "open", "unlock"]
    await rig.append(UPLOAD, 7, b"789")
    assert await rig.content(UPLOAD) == b"0123456789"


@pytest.mark.parametrize("at", ["append", "appended", "finish", "save", "pre-finish"])
@pytest.mark.parametrize("checksum", [None, checksum_of(b"56789")], ids=["", "checksum"])
async def test_a_waiter_after_the_last_byte_came_does_not_fail_the_append(at: str, checksum: Checksum | None) -> None:
    rig = Rig(hooks=[lambda event: None])
    await rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING)
    source = FakeSource(b"56789")
    reached = rig.hang(at)
    append = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5, checksum=checksum))
    await asyncio.wait_for(reached.wait(), 5)
    waiter = asyncio.create_task(rig.append(UPLOAD, 10))
    await asyncio.wait_for(source.stopped.wait(), 5)
    rig.heal(at)
    if at == "append":  # the body had not been read yet
        with pytest.raises(UploadInterrupted):
            await append
        with pytest.raises(MismatchedOffset):
            await waiter
    else:
        assert (await append).info.state is State.COMPLETE
        assert (await waiter).info.state is State.COMPLETE
    await rig.background()


async def test_a_full_disk_keeps_what_fitted() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("appended", StorageFull)
    with pytest.raises(StorageFull) as raised:
        await rig.append(UPLOAD, 5, b"567")
    assert raised.value.info is not None
    assert raised.value.info.offset == 8
    assert rig.metrics.sums["tusd_bytes_received"] == 3
    rig.heal("appended")
    await rig.append(UPLOAD, 8, b"89")
    assert await rig.content(UPLOAD) == b"0123456789"


@pytest.mark.parametrize("error", [StorageUnavailable, LeaseLost, OSError])
@pytest.mark.parametrize("call", ["open", "append"])
async def test_an_outage_lets_go_of_the_lock(call: str, error: type[Exception]) -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail(call, error)
    with pytest.raises(error):
        await rig.append(UPLOAD, 5, b"567")
    assert rig.log[-1] == "unlock"
    rig.heal(call)
    assert (await rig.append(UPLOAD, 5, b"56789")).info.state is State.COMPLETE


async def test_a_lost_lease_ends_the_append_before_the_next_piece_is_stored() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    append = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    (lease,) = rig.locks.queues[UPLOAD]
    lease.token = 0  # as if it had run out
    source.send(b"789")
    with pytest.raises(LeaseLost) as raised:
        await append
    assert raised.value.info is not None
    assert raised.value.info.offset == 7
    assert await rig.content(UPLOAD) == b"0123456"


async def test_uploads_of_a_store_that_cannot_remove() -> None:
    rig = Rig(without=frozenset({Terminable}))
    await rig.put(UPLOAD, b"01234", length=10)
    assert (await rig.append(UPLOAD, 5, b"56789")).info.state is State.COMPLETE
