"""POST: which calls are made, in which order, and what is left when something goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest
from tests.engine.rig import FakeSource, Rig

from tusd.errors import (
    ChecksumMismatch,
    ConcatenationUnsupported,
    LockUnavailable,
    MaxSizeExceeded,
    NotSupported,
    QuotaExceeded,
    StorageFull,
    StorageUnavailable,
    TusError,
    UnexpectedEof,
    UploadExists,
    UploadInterrupted,
    UploadSizeExceeded,
)
from tusd.hooks import Changes, HookEvent, HookResponse, PreCreate
from tusd.model import Extension, Partial, State, UploadId
from tusd.protocol.messages import BodyPlan, Checksum, Create
from tusd.protocol.rules import Policy

ANYTHING = Policy()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A POST; one that leaves nothing has no `after`."""

    name: str
    length: int | None = 5
    pieces: tuple[bytes, ...] | None = None
    chunked: bool = False
    size: int | None = None
    checksum: Checksum | None = None
    failure: TusError | None = None
    concat: Partial | None = None
    policy: Policy = ANYTHING
    calls: tuple[str, ...]
    error: type[TusError] | None = None
    after: bytes | None
    state: State = State.RECEIVING


CASES = (
    Case(name="no body", calls=("create",), after=b""),
    Case(name="deferred length", length=None, calls=("create",), after=b""),
    Case(name="partial", concat=Partial(), calls=("create",), after=b""),
    Case(name="an empty body", pieces=(), calls=("create",), after=b""),
    Case(
        name="length zero",
        length=0,
        calls=("lock", "create with lease", "finish", "unlock"),
        after=b"",
        state=State.COMPLETE,
    ),
    Case(
        name="length zero with an empty body",
        length=0,
        pieces=(),
        calls=("lock", "create with lease", "finish", "unlock"),
        after=b"",
        state=State.COMPLETE,
    ),
    Case(
        name="a body",
        pieces=(b"01", b"2"),
        calls=("lock", "create with lease", "append", "appended 3", "unlock"),
        after=b"012",
    ),
    Case(
        name="the whole body",
        pieces=(b"01", b"234"),
        calls=("lock", "create with lease", "append", "appended 5", "finish", "unlock"),
        after=b"01234",
        state=State.COMPLETE,
    ),
    Case(
        name="a body of deferred length",
        length=None,
        pieces=(b"01",),
        calls=("lock", "create with lease", "append", "appended 2", "unlock"),
        after=b"01",
    ),
    Case(
        name="a chunked body, whole",
        pieces=(b"01", b"234"),
        chunked=True,
        calls=("lock", "create with lease", "append", "appended 5", "finish", "unlock"),
        after=b"01234",
        state=State.COMPLETE,
    ),
    Case(
        name="a chunked body that is too big",
        pieces=(b"01", b"2345"),
        chunked=True,
        calls=("lock", "create with lease", "append", "appended 5", "finish", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
        state=State.COMPLETE,
    ),
    Case(
        name="a chunked body of deferred length over the server's limit",
        length=None,
        pieces=(b"01", b"2345"),
        chunked=True,
        policy=Policy(max_size=5),
        calls=("lock", "create with lease", "append", "appended 5", "unlock"),
        error=UploadSizeExceeded,
        after=b"01234",
    ),
    Case(
        name="the client is lost",
        pieces=(b"01",),
        size=5,
        failure=UnexpectedEof(),
        calls=("lock", "create with lease", "append", "appended 2", "unlock"),
        error=UnexpectedEof,
        after=b"01",
    ),
    Case(
        name="right checksum",
        pieces=(b"012",),
        checksum=Checksum("md5", hashlib.md5(b"012").digest()),
        calls=("lock", "create with lease", "append", "appended 3", "unlock"),
        after=b"012",
    ),
    Case(
        name="wrong checksum",
        pieces=(b"012",),
        checksum=Checksum("md5", hashlib.md5(b"01").digest()),
        calls=("lock", "create with lease", "append", "appended 0", "unlock"),
        error=ChecksumMismatch,
        after=b"",
    ),
    Case(
        name="wrong checksum of nothing",
        length=0,
        pieces=(),
        checksum=Checksum("md5", hashlib.md5(b"0").digest()),
        calls=("lock", "create with lease", "append", "appended 0", "finish", "unlock"),
        error=ChecksumMismatch,
        after=b"",
        state=State.COMPLETE,
    ),
    Case(name="too long", policy=Policy(max_size=4), calls=(), error=MaxSizeExceeded, after=None),
    Case(name="a body longer than the upload", pieces=(b"012345",), calls=(), error=UploadSizeExceeded, after=None),
    Case(
        name="a body of deferred length longer than the server takes",
        length=None,
        pieces=(b"012345",),
        policy=Policy(max_size=5),
        calls=(),
        error=MaxSizeExceeded,
        after=None,
    ),
    Case(
        name="deferred length where that is off",
        length=None,
        policy=Policy(extensions=frozenset(Extension) - {Extension.CREATION_DEFER_LENGTH}),
        calls=(),
        error=NotSupported,
        after=None,
    ),
    Case(
        name="a body where that is off",
        pieces=(b"0",),
        policy=Policy(extensions=frozenset(Extension) - {Extension.CREATION_WITH_UPLOAD}),
        calls=(),
        error=NotSupported,
        after=None,
    ),
    Case(
        name="partial where concatenation is off",
        concat=Partial(),
        policy=Policy(extensions=frozenset(Extension) - {Extension.CONCATENATION}),
        calls=(),
        error=ConcatenationUnsupported,
        after=None,
    ),
    Case(
        name="checksum where checksums are off",
        pieces=(b"0",),
        checksum=Checksum("md5", hashlib.md5(b"0").digest()),
        policy=Policy(extensions=frozenset(Extension) - {Extension.CHECKSUM}),
        calls=(),
        error=NotSupported,
        after=None,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_create(case: Case) -> None:
    rig = Rig(case.policy)
    body = source = None
    if case.pieces is not None:
        source = FakeSource(*case.pieces, failure=case.failure)
        source.arrived = False
        size = None if case.chunked else sum(map(len, case.pieces)) if case.size is None else case.size
        body = BodyPlan(size, case.checksum)
    source = source or FakeSource()
    request = Create(length=case.length, concat=case.concat, body=body)
    if case.error is None:
        outcome = await rig.run(request, source)
        (info,) = await rig.uploads()
        assert outcome == type(outcome)(info, body is not None)  # type: ignore[call-arg, arg-type]
    else:
        with pytest.raises(case.error) as raised:
            await rig.run(request, source)
        assert [raised.value.info] == [*await rig.uploads(), None][:1]
    assert tuple(rig.log) == case.calls
    if case.after is None:
        assert await rig.uploads() == []
        assert source.reads == 0
    else:
        (info,) = await rig.uploads()
        assert await rig.content(info.id) == case.after
        assert info.state is case.state
        assert info.concat == case.concat
        assert not info.explicit


async def test_a_body_that_is_here_already_needs_no_lock() -> None:
    rig = Rig()
    source = FakeSource(b"01234")
    source.arrived = True
    await rig.run(Create(length=5, body=BodyPlan(5)), source)
    assert rig.log == ["create with lease", "append", "appended 5", "finish"]


async def test_a_body_that_is_here_already_needs_the_lock_when_a_hook_may_tell_of_the_upload() -> None:
    rig = Rig(hooks=[lambda event: None])
    source = FakeSource(b"012")
    source.arrived = True
    await rig.run(Create(length=5, body=BodyPlan(3)), source)
    assert rig.log == ["pre-create", "lock", "create with lease", "append", "tell", "appended 3", "unlock"]
    assert rig.told == ["post-create"]


async def test_ids_are_random_and_long() -> None:
    rig = Rig()
    ids = {(await rig.create(1)).info.id for _ in range(100)}
    assert len(ids) == 100
    assert {len(upload) for upload in ids} == {32}


async def test_an_interrupted_creation_keeps_its_bytes() -> None:
    rig = Rig()
    source = FakeSource(b"012", hangs=True)
    creation = asyncio.create_task(rig.run(Create(length=5, body=BodyPlan(5)), source))
    await source.hanging.wait()
    (info,) = await rig.uploads()
    assert (await rig.head(info.id)).offset == 3
    with pytest.raises(UploadInterrupted) as raised:
        await creation
    assert raised.value.info == await rig.kept.info(info.id)
    assert (await rig.append(info.id, 3, b"34")).info.state is State.COMPLETE
    assert await rig.content(info.id) == b"01234"


# --- reservations


async def test_room_is_reserved_before_the_lock_and_the_creation() -> None:
    rig = Rig(limits="A", hooks=[lambda event: None])
    await rig.create(5, b"01")
    assert rig.log[:6] == ["A.admit", "pre-create", "A.bind", "A.reserve 5", "lock", "create with lease"]
    assert rig.log[-2:] == ["unlock", "A.leave"]


@pytest.mark.parametrize("error", [StorageFull, StorageUnavailable, OSError, asyncio.CancelledError])
@pytest.mark.parametrize("pieces", [(), (b"01",)], ids=["no body", "body"])
async def test_a_failed_creation_gives_back_what_was_reserved(error: type[BaseException], pieces: tuple[bytes, ...]) -> None:
    rig = Rig(limits="AB")
    rig.fail("create", error)
    with pytest.raises(error):
        await rig.create(5, *pieces)
    assert [call for call in rig.log if "reserve" in call] == ["A.reserve 5", "B.reserve 5", "A.reserve 0", "B.reserve 0"]
    assert [limiter.held for limiter in rig.limiters] == [{}, {}]


@pytest.mark.parametrize("error", [LockUnavailable, OSError, asyncio.CancelledError])
async def test_a_creation_that_gets_no_lock_gives_back_what_was_reserved(error: type[BaseException]) -> None:
    rig = Rig(limits="A")
    rig.fail("lock", error)
    with pytest.raises(error):
        await rig.create(5, b"01")
    assert rig.limiters[0].held == {}
    assert "create with lease" not in rig.log


async def test_a_later_refusal_gives_back_what_the_first_limiters_reserved() -> None:
    rig = Rig(limits="ABC")
    rig.fail("C.reserve", lambda: QuotaExceeded(short_by=3))
    with pytest.raises(QuotaExceeded) as raised:
        await rig.create(5)
    assert raised.value.info is None
    assert [call for call in rig.log if "reserve" in call] == [
        "A.reserve 5",
        "B.reserve 5",
        "C.reserve 5",
        "A.reserve 0",
        "B.reserve 0",
    ]
    assert await rig.uploads() == []


def named(name: str) -> HookResponse:
    return HookResponse(change=Changes(id=UploadId(name)))


@pytest.mark.parametrize("pieces", [(), (b"01",)], ids=["no body", "body"])
@pytest.mark.parametrize(("length", "content", "room"), [(10, b"0123", 10), (None, b"0123", 4)], ids=["length", "deferred"])
async def test_an_id_that_is_taken_keeps_the_room_of_the_upload_that_has_it(
    pieces: tuple[bytes, ...], length: int | None, content: bytes, room: int
) -> None:
    rig = Rig(limits="A", hooks=[lambda event: named("taken")], events=[PreCreate])
    taken = await rig.put("taken", content, length=length, deferred=length is None)
    rig.limiters[0].held[taken] = room
    with pytest.raises(UploadExists):
        await rig.create(5, *pieces)
    assert rig.limiters[0].held == {taken: room}
    assert await rig.content(taken) == content


async def test_an_id_that_is_taken_does_not_interrupt_the_upload_that_has_it() -> None:
    rig = Rig(limits="A", hooks=[lambda event: named("taken")], events=[PreCreate])
    taken = await rig.put("taken", b"0123", length=10)
    rig.limiters[0].held[taken] = 10
    source = FakeSource(b"45", hangs=True)
    running = asyncio.create_task(rig.append(taken, 4, source=source, size=6))
    await source.hanging.wait()
    rig.clear()
    with pytest.raises(UploadExists):
        await rig.create(5, b"01")
    assert not source.stopped.is_set()
    assert rig.log == ["A.admit", "pre-create", "info", "A.leave"]
    assert rig.limiters[0].held == {taken: 10}
    source.send(b"6789")
    assert (await running).info.state is State.COMPLETE


# --- pre-create


async def test_pre_create_refuses_before_anything_is_done() -> None:
    rig = Rig(limits="A", hooks=[lambda event: HookResponse(reject=True, status=403)])
    with pytest.raises(TusError) as raised:
        await rig.create(5, b"01")
    assert raised.value.code == "ERR_UPLOAD_REJECTED"
    assert raised.value.hook == HookResponse(reject=True, status=403)
    assert raised.value.info is None
    assert rig.log == ["A.admit", "pre-create", "A.leave"]
    await rig.background()
    assert rig.told == []


async def test_pre_create_lowers_the_limit() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(change=Changes(max_length=4))], events=[PreCreate])
    with pytest.raises(MaxSizeExceeded):
        await rig.create(5)
    with pytest.raises(MaxSizeExceeded):
        await rig.create(None, b"01234")
    assert await rig.uploads() == []
    rig.clear()
    with pytest.raises(UploadSizeExceeded):
        await rig.create(None, b"01", b"234", body=BodyPlan(None))
    (info,) = await rig.uploads()
    assert (info.max_length, info.offset) == (4, 4)
    with pytest.raises(UploadSizeExceeded):
        await rig.append(info.id, 4, b"4")
    with pytest.raises(MaxSizeExceeded):
        await rig.append(info.id, 4, length=5)


async def test_pre_create_changes_the_upload() -> None:
    def answers(event: HookEvent) -> HookResponse | None:
        return HookResponse(change=Changes(id=UploadId("mine/1")), headers={"X-A": "1"})

    rig = Rig(hooks=[answers], events=[PreCreate])
    created = await rig.create(5)
    assert created.info.id == "mine/1"
    assert created.answer == answers(rig.dispatchers[0].seen[0])
    assert [info.id for info in await rig.uploads()] == ["mine/1"]
