"""HEAD, GET, DELETE and OPTIONS; expiry; locks that are not had in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.engine.rig import FakeSource, Rig, exchange

from tusd.errors import (
    HookError,
    IncompleteUpload,
    LockUnavailable,
    NotSupported,
    RangeNotSatisfiable,
    StorageUnavailable,
    TerminationRejected,
    TooManyRequests,
    UploadInterrupted,
    UploadLocked,
    UploadNotFound,
)
from tusd.hooks import HookResponse, PostTerminate, PreTerminate
from tusd.model import Extension, Final, State, UploadId, utcnow
from tusd.protocol.messages import Create, Discover, Discovered, Read, Reading, Terminated
from tusd.protocol.rules import Policy
from tusd.storage import Atomic, Capability, Concatenable, Readable, Terminable

UPLOAD = UploadId("upload")
EVERY: dict[str, Callable[[Rig], Coroutine[object, object, object]]] = {
    "HEAD": lambda rig: rig.head(UPLOAD),
    "PATCH": lambda rig: rig.append(UPLOAD, 5, b"x"),
    "GET": lambda rig: rig.read(UPLOAD),
    "DELETE": lambda rig: rig.terminate(UPLOAD),
}
every = pytest.mark.parametrize("method", EVERY)


# --- HEAD


async def test_head_of_an_unfinished_upload_tells_the_truth_under_the_lock() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    assert (await rig.head(UPLOAD)).offset == 5
    assert rig.log == ["info", "lock", "open", "unlock"]


async def test_head_of_a_complete_upload_takes_no_lock() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234")
    async with rig.locks.lock(UPLOAD, lambda: None):
        assert (await rig.head(UPLOAD)).state is State.COMPLETE
    assert rig.log == ["info"]


async def test_head_of_an_upload_that_goes_away_meanwhile() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    reached = rig.hang("lock")
    head = asyncio.create_task(rig.head(UPLOAD))
    await reached.wait()
    async with asyncio.timeout(5):
        del rig.kept._kept[UPLOAD]
        rig.heal("lock")
        with pytest.raises(UploadNotFound):
            await head
    assert rig.locks.queues == {}


# --- GET


async def test_get_of_a_complete_upload_takes_no_lock() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234")
    async with rig.locks.lock(UPLOAD, lambda: None):
        assert await rig.read(UPLOAD) == b"01234"
        assert await rig.read(UPLOAD, "bytes=1-2") == b"12"
    assert rig.log == ["info", "read 0-5", "info", "read 1-3"]


async def test_get_of_what_the_client_has_sends_nothing() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234")
    outcome = await rig.run(Read(UPLOAD, if_none_match="*"))
    assert isinstance(outcome, Reading)
    assert outcome.content is None
    assert rig.log == ["info"]


async def test_get_of_a_range_behind_the_end() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234")
    with pytest.raises(RangeNotSatisfiable):
        await rig.read(UPLOAD, "bytes=5-")


@pytest.mark.parametrize(
    ("state", "length", "unfinished", "served"),
    [
        (None, 10, False, False),
        (None, 10, True, True),
        (State.RECEIVING, 10, True, True),
        (State.RECEIVING, 5, True, False),
        (State.FINISHING, 5, False, False),
        (State.FINISHING, 5, True, False),
        (State.COMPLETE, 5, False, True),
    ],
)
async def test_get_never_takes_a_lock_and_never_serves_what_is_being_finished(
    state: State | None, length: int, unfinished: bool, served: bool
) -> None:
    rig = Rig(Policy(unfinished_downloads=unfinished))
    await rig.put(UPLOAD, b"01234", length=length, state=state)
    if served:
        assert await rig.read(UPLOAD) == b"01234"
        assert rig.log == ["info", "read 0-5"]
    else:
        with pytest.raises(IncompleteUpload) as raised:
            await rig.read(UPLOAD)
        assert raised.value.info is not None
        assert rig.log == ["info"]


# --- DELETE


@pytest.mark.parametrize(("content", "length"), [(b"01234", 10), (b"01234", 5), (b"", 10)], ids=["some", "all", "none"])
async def test_delete(content: bytes, length: int) -> None:
    rig = Rig(limits="A", hooks=[lambda event: None])
    await rig.put(UPLOAD, content, length=length)
    rig.limiters[0].held[UPLOAD] = length
    before = await rig.kept.info(UPLOAD)
    assert await rig.terminate(UPLOAD) == Terminated()
    assert rig.log == [
        "A.admit",
        "info",
        "A.bind",
        "lock",
        "open",
        "pre-terminate",
        "terminate",
        "A.reserve 0",
        "unlock",
        "A.leave",
    ]
    assert rig.limiters[0].held == {}
    assert await rig.uploads() == []
    await rig.background()
    assert rig.told == ["post-terminate"]
    asked, told = rig.dispatchers[0].seen
    assert isinstance(asked, PreTerminate)
    assert isinstance(told, PostTerminate)
    assert asked.upload == told.upload == before
    assert rig.metrics.sums["tusd_uploads_terminated"] == 1


async def test_delete_makes_an_append_stop() -> None:

    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    append = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    await rig.terminate(UPLOAD)
    with pytest.raises(UploadInterrupted):
        await append
    assert await rig.uploads() == []


async def test_pre_terminate_refuses() -> None:
    answer = HookResponse(reject=True, body="keep it")
    rig = Rig(hooks=[lambda event: answer], limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(TerminationRejected) as raised:
        await rig.terminate(UPLOAD)
    assert raised.value.hook == answer
    assert rig.log == ["A.admit", "info", "A.bind", "lock", "open", "pre-terminate", "unlock", "A.leave"]
    assert await rig.content(UPLOAD) == b"01234"
    await rig.background()
    assert rig.told == []


async def test_pre_terminate_fails() -> None:
    rig = Rig(hooks=[lambda event: None])
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("pre-terminate", HookError)
    with pytest.raises(HookError) as raised:
        await rig.terminate(UPLOAD)
    assert raised.value.info == await rig.kept.info(UPLOAD)


async def test_an_answer_of_pre_terminate_reaches_the_response() -> None:
    answer = HookResponse(headers={"X-A": "1"})
    rig = Rig(hooks=[lambda event: answer])
    await rig.put(UPLOAD, b"01234", length=10)
    assert await rig.terminate(UPLOAD) == Terminated(answer)


async def test_a_delete_that_fails_tells_nobody_and_gives_nothing_back() -> None:
    rig = Rig(hooks=[lambda event: None], limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("terminate", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.terminate(UPLOAD)
    await rig.background()
    assert rig.told == []
    assert "A.reserve 0" not in rig.log
    assert "tusd_uploads_terminated" not in rig.metrics.sums


# --- OPTIONS and what the store cannot do


@pytest.mark.parametrize(
    ("missing", "off"),
    [
        (frozenset[type[Capability]](), frozenset[Extension]()),
        (frozenset({Terminable}), frozenset({Extension.TERMINATION})),
        (frozenset({Atomic}), frozenset({Extension.CHECKSUM})),
        (frozenset({Concatenable}), frozenset({Extension.CONCATENATION, Extension.CONCATENATION_UNFINISHED})),
        (
            frozenset({Terminable, Atomic, Concatenable}),
            frozenset({Extension.TERMINATION, Extension.CHECKSUM, Extension.CONCATENATION, Extension.CONCATENATION_UNFINISHED}),
        ),
    ],
)
async def test_extensions_that_the_store_cannot_do_are_off(
    missing: frozenset[type[Capability]], off: frozenset[Extension]
) -> None:
    rig = Rig(Policy(max_size=7), without=missing)
    assert await rig.run(Discover()) == Discovered(tuple(e for e in Extension if e not in off), 7)
    assert rig.log == []
    assert rig.engine.policy.downloads


async def test_downloads_that_the_store_cannot_do_are_off() -> None:
    assert not Rig(without=frozenset({Readable})).engine.policy.downloads
    assert not Rig(Policy(downloads=False)).engine.policy.downloads


async def test_unfinished_concatenation_needs_concatenation() -> None:
    rig = Rig(Policy(extensions=frozenset({Extension.CREATION, Extension.CONCATENATION_UNFINISHED})))
    assert await rig.run(Discover()) == Discovered((Extension.CREATION,), None)


async def test_what_is_off_is_refused() -> None:
    rig = Rig(without=frozenset({Concatenable}))
    part = await rig.put("part", b"0")
    with pytest.raises(NotSupported.__mro__[1]):
        await rig.run(Create(length=None, concat=Final((part,))))
    assert [info.id for info in await rig.uploads()] == [part]


# --- expiry


@every
@pytest.mark.parametrize("fixed", [False, True], ids=["after its last byte", "fixed"])
async def test_an_expired_upload_is_not_found(method: str, fixed: bool) -> None:
    rig = Rig(Policy(expire_after=None if fixed else 60))
    await rig.put(UPLOAD, b"01234", length=10)
    kept = rig.kept._kept[UPLOAD]
    long_ago = utcnow() - timedelta(seconds=61)
    kept.info = replace(kept.info, expires=long_ago) if fixed else replace(kept.info, modified=long_ago)
    with pytest.raises(UploadNotFound):
        await EVERY[method](rig)
    assert rig.locks.queues == {}
    assert await rig.content(UPLOAD) == b"01234"


async def test_each_byte_puts_expiry_off_and_completion_ends_it() -> None:
    rig = Rig(Policy(expire_after=60))
    await rig.put(UPLOAD, b"01234", length=10)
    kept = rig.kept._kept[UPLOAD]
    kept.info = replace(kept.info, modified=utcnow() - timedelta(seconds=59))
    await rig.append(UPLOAD, 5, b"5")
    assert utcnow() - (await rig.kept.info(UPLOAD)).modified < timedelta(seconds=30)
    await rig.append(UPLOAD, 6, b"6789")
    kept.info = replace(kept.info, modified=utcnow() - timedelta(seconds=61))
    assert (await rig.head(UPLOAD)).state is State.COMPLETE


# --- locks


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
async def test_a_lock_that_is_not_let_go_in_time(method: str) -> None:
    rig = Rig(Policy(lock_timeout=0.02))
    await rig.put(UPLOAD, b"01234", length=10)
    asked = asyncio.Event()
    async with rig.locks.lock(UPLOAD, asked.set):
        with pytest.raises(UploadLocked) as raised:
            await EVERY[method](rig)
        assert asked.is_set()
        assert len(rig.locks.queues[UPLOAD]) == 1
    assert raised.value.retry_after
    assert "open" not in rig.log
    await EVERY[method](rig)


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
async def test_a_locker_that_does_not_work(method: str) -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("lock", LockUnavailable)
    with pytest.raises(LockUnavailable):
        await EVERY[method](rig)
    assert "open" not in rig.log


# --- limiters around all of it


@every
async def test_limiters_are_asked_before_the_lock_and_left_after_the_answer(method: str) -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", length=5 if method == "GET" else 10)
    await EVERY[method](rig)
    assert rig.log[:5] == ["A.admit", "B.admit", "info", "A.bind", "B.bind"]
    assert rig.log[-2:] == ["B.leave", "A.leave"]


@every
@pytest.mark.parametrize(
    ("call", "log"),
    [
        ("A.admit", ["A.admit"]),
        ("B.admit", ["A.admit", "B.admit", "A.leave"]),
        ("A.bind", ["A.admit", "B.admit", "info", "A.bind", "B.leave", "A.leave"]),
        ("B.bind", ["A.admit", "B.admit", "info", "A.bind", "B.bind", "B.leave", "A.leave"]),
    ],
)
async def test_a_limiter_says_later_and_nobody_is_interrupted(method: str, call: str, log: list[str]) -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail(call, lambda: TooManyRequests(retry_after=7))
    with pytest.raises(TooManyRequests) as raised:
        await EVERY[method](rig)
    assert raised.value.retry_after == 7
    assert rig.log == log


async def test_a_limiter_counts_a_download_until_its_last_byte_is_sent() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234")
    async with rig.engine(exchange(Read(UPLOAD))) as outcome:
        assert isinstance(outcome, Reading)
        assert outcome.content is not None
        async for _ in outcome.content:
            rig.log.append("sent")
    assert rig.log == ["A.admit", "info", "A.bind", "read 0-5", "A.spend 5", "sent", "A.leave"]


async def test_a_limiter_is_left_when_sending_fails() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234")
    with pytest.raises(ConnectionResetError):
        async with rig.engine(exchange(Read(UPLOAD))):
            raise ConnectionResetError()
    assert rig.log[-1] == "A.leave"


async def test_limiters_admit_what_concerns_no_upload() -> None:
    rig = Rig(limits="A", hooks=[lambda event: None])
    await rig.run(Discover())
    assert rig.log == ["A.admit", "A.leave"]
