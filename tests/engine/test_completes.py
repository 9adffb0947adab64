"""Uploads whose client says itself when it has sent all (IETF draft): `completes` is True or False, for tus 1.0 it is None."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rig import FakeSource, Rig, exchange

from tusd import errors
from tusd.builtin.file_storage import FileStorage
from tusd.engine.complete import all_sent
from tusd.errors import TusError
from tusd.hooks import HookEvent, HookResponse, PreFinish
from tusd.locking import Lease
from tusd.model import State, UploadId, UploadInfo
from tusd.plugin import Worker
from tusd.protocol.messages import Announced, Append, Appended, BodyPlan, Checksum, Create, Created, News, Progress
from tusd.protocol.rules import Policy
from tusd.storage import Atomic, DataStore, Readable, Terminable
from tusd.testing.bodies import FakeBody
from tusd.testing.faults import cancelled_at

UPLOAD = UploadId("upload")
CONTENT = b"0123456789"


def plan(pieces: tuple[bytes, ...], *, chunked: bool = False, digest: bytes | None = None, limit: int | None = None) -> BodyPlan:
    checksum = None if digest is None else Checksum("sha256", hashlib.sha256(digest).digest())
    return BodyPlan(None if chunked else sum(map(len, pieces)), checksum, keeps_cut=True, limit=limit)


async def create(
    rig: Rig,
    *pieces: bytes,
    completes: bool,
    length: int | None = None,
    note: str | None = None,
    source: FakeSource | None = None,
    interim: Callable[[News], None] | None = None,
    **given: Any,
) -> UploadInfo:
    """A creation of the draft; of known size it tells the length as the dialect derives it."""
    body = plan(pieces, **given) if pieces or given else None
    if completes and length is None:
        length = body.size if body else 0
    asked = exchange(
        Create(length=length, body=body, completes=completes, digest=note), source or (FakeSource(*pieces) if body else None)
    )
    asked.interim = interim
    async with rig.engine(asked) as outcome:
        assert isinstance(outcome, Created)
        return outcome.info


async def append(
    rig: Rig,
    upload: UploadId,
    offset: int,
    *pieces: bytes,
    completes: bool,
    length: int | None = None,
    source: FakeSource | None = None,
    **given: Any,
) -> UploadInfo:
    """An append of the draft."""
    body = plan(pieces, **given)
    if completes and length is None and body.size is not None:
        length = offset + body.size
    request = Append(upload_id=upload, offset=offset, body=body, length=length, completes=completes)
    outcome = await rig.run(request, source or FakeSource(*pieces))
    assert isinstance(outcome, Appended)
    return outcome.info


def agree(event: HookEvent) -> HookResponse | None:
    return None


async def killed_at(rig: Rig, nth: int, work: Coroutine[Any, Any, object]) -> asyncio.Task[object] | None:
    """Run `work` as in a process that is killed just before the `nth` call of a backend: nothing of it happens any more, no cleaning
    up either. None when there are fewer calls. The task is to be cancelled once everything has been looked at."""
    reached, calls = asyncio.Event(), 0
    step = rig.script.step

    async def counted(name: str, detail: object = "") -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            reached.set()
            await asyncio.Event().wait()
        await step(name, detail)

    rig.script.step = counted  # type: ignore[method-assign]
    task, death = asyncio.ensure_future(work), asyncio.ensure_future(reached.wait())
    await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
    death.cancel()
    if task.done():
        task.result()
        return None
    return task


async def bury(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait([task])


# --- who completes what


@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [None, 10])
async def test_a_creation_with_everything(hooks: list[Any], chunked: bool, length: int | None) -> None:
    rig = Rig(hooks=hooks, limits="A")
    info = await create(rig, b"01234", b"56789", completes=True, length=length, chunked=chunked)
    assert (info.state, info.length, info.offset) == (State.COMPLETE, 10, 10)
    assert await rig.content(info.id) == CONTENT
    assert await rig.restarted().head(info.id) == info
    assert rig.limiters[0].held == {info.id: 10}
    await rig.background()
    assert rig.told.count("post-finish") == len(hooks)


async def test_of_known_size_it_costs_no_more_than_in_tus() -> None:
    ours, theirs = Rig(), Rig()
    await create(ours, CONTENT, completes=True)
    await theirs.create(10, CONTENT)
    assert ours.log == theirs.log


@pytest.mark.parametrize("length", [None, 10])
async def test_an_empty_creation_completes_nothing(length: int | None) -> None:
    rig = Rig()
    info = await create(rig, completes=False, length=length)
    assert (info.state, info.length, info.offset) == (State.OPEN, length, 0)
    assert (await rig.restarted().head(info.id)).state is State.OPEN


@pytest.mark.parametrize("length", [None, 0])
async def test_an_empty_representation(length: int | None) -> None:
    rig = Rig()
    info = await create(rig, completes=True, length=length)
    assert (info.state, info.length) == (State.COMPLETE, 0)
    nothing = await create(rig, completes=False, length=0)
    assert (await rig.head(nothing.id)).state is State.OPEN
    assert (await append(rig, nothing.id, 0, completes=True)).state is State.COMPLETE


@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
@pytest.mark.parametrize("length", [None, 10])
@pytest.mark.parametrize("chunked", [False, True])
async def test_in_several_requests(hooks: list[Any], length: int | None, chunked: bool) -> None:
    rig = Rig(hooks=hooks, limits="A")
    info = await create(rig, b"0123", completes=False, length=length, chunked=chunked)
    assert (info.state, info.offset) == (State.OPEN, 4)
    info = await append(rig, info.id, 4, b"456", completes=False, chunked=chunked)
    assert (info.state, info.offset, info.length) == (State.OPEN, 7, length)
    info = await append(rig, info.id, 7, b"789", completes=True, chunked=chunked)
    assert (info.state, info.offset, info.length) == (State.COMPLETE, 10, 10)
    assert await rig.content(info.id) == CONTENT
    assert rig.limiters[0].held == {info.id: 10}


@pytest.mark.parametrize("length", [None, 10])
async def test_all_bytes_are_not_all_sent(length: int | None) -> None:
    rig = Rig(hooks=[agree])
    info = await create(rig, CONTENT, completes=False, length=length)
    for process in (rig, rig.restarted()):
        found = await process.head(info.id)
        assert (found.state, found.offset, found.length) == (State.OPEN, 10, length)
        with pytest.raises(errors.IncompleteUpload):
            await process.read(info.id)
        assert "pre-finish" not in process.log
        assert "finish" not in process.log
    done = await append(rig, info.id, 10, completes=True)
    assert (done.state, done.length) == (State.COMPLETE, 10)
    assert rig.log.count("pre-finish") == 1


async def test_an_upload_of_tus_whose_last_bytes_complete_nothing() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    assert (await append(rig, UPLOAD, 5, b"56789", completes=False)).state is State.OPEN
    assert (await rig.restarted().head(UPLOAD)).state is State.OPEN
    assert (await append(rig, UPLOAD, 10, completes=True)).state is State.COMPLETE


@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
@pytest.mark.parametrize("rest", [b"", b"56789"])
async def test_an_upload_of_the_draft_goes_on_in_tus(hooks: list[Any], rest: bytes) -> None:
    rig = Rig(hooks=hooks)
    first = CONTENT[: 10 - len(rest)]
    info = await create(rig, first, completes=False, length=10)
    done = (await rig.append(info.id, len(first), *filter(None, [rest]))).info
    assert done.state is State.COMPLETE
    assert await rig.content(info.id) == CONTENT
    assert rig.log.count("pre-finish") == len(hooks)


async def test_an_upload_of_deferred_length_goes_on_in_tus() -> None:
    rig = Rig(limits="A")
    info = await create(rig, b"01234", completes=False)
    assert (await rig.append(info.id, 5, b"567")).info.state is State.RECEIVING
    done = (await rig.append(info.id, 8, b"89", length=10)).info
    assert (done.state, rig.limiters[0].held) == (State.COMPLETE, {info.id: 10})


@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_of_tus_goes_on_in_the_draft(hooks: list[Any], chunked: bool) -> None:
    rig = Rig(hooks=hooks)
    upload = (await rig.create(10, b"01")).info.id
    await append(rig, upload, 2, b"234", completes=False, chunked=chunked)
    done = await append(rig, upload, 5, b"56789", completes=True, chunked=chunked)
    assert done.state is State.COMPLETE
    assert await rig.content(upload) == CONTENT


# --- interruptions


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [None, 10])
async def test_a_cut_body_is_kept_and_completes_nothing(chunked: bool, length: int | None) -> None:
    rig = Rig(limits="A")
    for cut in (CONTENT[:4], CONTENT) if chunked else (CONTENT[:4],):  # all bytes may have come, but not the end
        source = FakeSource(cut, failure=errors.UnexpectedEof())
        with pytest.raises(errors.UnexpectedEof) as raised:
            await create(rig, CONTENT, completes=True, length=length, chunked=chunked, source=source)
        info = raised.value.info
        assert info is not None
        found = await rig.restarted().head(info.id)
        assert found.offset == len(cut)
        assert found.state is not State.COMPLETE
        assert rig.limiters[0].held[info.id] == (len(cut) if chunked and length is None else 10)
        done = await append(rig, info.id, len(cut), CONTENT[len(cut) :], completes=True)
        assert (done.state, await rig.content(info.id)) == (State.COMPLETE, CONTENT)


async def test_another_request_interrupts_the_creation() -> None:
    rig = Rig()
    told: list[News] = []
    source = FakeSource(b"0123", hangs=True)
    running = asyncio.create_task(create(rig, CONTENT, completes=True, source=source, interim=told.append))
    await source.hanging.wait()
    news = told[0]
    assert isinstance(news, Announced)
    found = await rig.head(news.info.id)
    assert (found.offset, found.state) == (4, State.RECEIVING)
    with pytest.raises(errors.UploadInterrupted):
        await running
    assert (await append(rig, found.id, 4, CONTENT[4:], completes=True)).state is State.COMPLETE


WORKS: dict[str, tuple[Callable[[Rig], Awaitable[object]], Callable[[Rig], Coroutine[Any, Any, object]]]] = {
    "all bytes, more to say": (
        lambda rig: rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING if rig.hooks else None),
        lambda rig: append(rig, UPLOAD, 5, b"567", b"89", completes=False),
    ),
    "all bytes of a deferred length": (
        lambda rig: rig.put(UPLOAD, b"01234", deferred=True, state=State.OPEN),
        lambda rig: append(rig, UPLOAD, 5, b"567", b"89", completes=False, length=10, chunked=True),
    ),
    "the end, of known size": (
        lambda rig: rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING if rig.hooks else None),
        lambda rig: append(rig, UPLOAD, 5, b"567", b"89", completes=True),
    ),
    "the end, chunked": (
        lambda rig: rig.put(UPLOAD, b"01234", deferred=True, state=State.OPEN),
        lambda rig: append(rig, UPLOAD, 5, b"567", b"89", completes=True, chunked=True),
    ),
    "the end, without bytes": (
        lambda rig: rig.put(UPLOAD, CONTENT, deferred=True, state=State.OPEN),
        lambda rig: append(rig, UPLOAD, 10, completes=True),
    ),
    "the end, by tus": (
        lambda rig: rig.put(UPLOAD, b"01234", length=10, state=State.OPEN),
        lambda rig: rig.append(UPLOAD, 5, b"567", b"89"),
    ),
}


async def look(rig: Rig, name: str) -> None:
    """Nothing may pass for complete that was not said to be; whatever is there can be completed and is right."""
    process = rig.restarted()
    found = await process.head(UPLOAD)
    if "more to say" in name or "deferred" in name:
        assert found.state is not State.COMPLETE
    if found.state is not State.COMPLETE:
        assert not all_sent(found)
        assert CONTENT.startswith(await process.content(UPLOAD))
        found = await append(process, UPLOAD, found.offset, CONTENT[found.offset :], completes=True)
    assert (found.state, found.length, await process.content(UPLOAD)) == (State.COMPLETE, 10, CONTENT)
    for dispatcher in process.dispatchers:  # asked once more rather than never
        assert any(isinstance(event, PreFinish) for event in dispatcher.seen + rig.dispatchers[0].seen)


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
async def test_a_process_that_is_killed_between_any_two_calls(name: str, hooks: list[Any]) -> None:
    prepare, work = WORKS[name]
    nth = 0
    while True:
        nth += 1
        rig = Rig(hooks=hooks)
        await prepare(rig)
        task = await killed_at(rig, nth, work(rig))
        await look(rig, name)
        if task is None:
            break
        await bury(task)
    assert nth > 5


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("hooks", [[], [agree]], ids=["no hooks", "pre-finish"])
async def test_a_request_that_is_cancelled_anywhere(name: str, hooks: list[Any]) -> None:
    prepare, work = WORKS[name]
    nth = 0
    while True:
        nth += 1
        rig = Rig(hooks=hooks)
        rig.script.pause = True
        await prepare(rig)
        cancelled = await cancelled_at(nth, work(rig))
        await look(rig, name)
        await asyncio.wait_for(rig.head(UPLOAD), 5)  # nobody holds its lock
        if not cancelled:
            break
    assert nth > 5


@pytest.mark.parametrize("call", ["save", "append", "appended", "finish"])
@pytest.mark.parametrize("name", WORKS)
async def test_a_store_that_fails(name: str, call: str) -> None:
    prepare, work = WORKS[name]
    rig = Rig()
    await prepare(rig)
    rig.fail(call, errors.StorageUnavailable)
    try:
        await work(rig)
    except TusError as error:
        assert isinstance(error, errors.StorageUnavailable)
    rig.heal(call)
    await look(rig, name)


async def test_the_file_store_remembers(tmp_path: Path) -> None:
    class Held:
        token = 1

        def check(self) -> None:
            """It is held."""

    lease: Lease = Held()
    worker = Worker(plugin="test", logger=logging.getLogger("test"), metrics=Rig().metrics, directory=tmp_path / "run")
    storage = FileStorage(FileStorage.Options(directory=tmp_path / "data"))

    async def stored(store: DataStore) -> None:
        upload = await store.create(UploadInfo(id=UPLOAD, length=10, state=State.OPEN, explicit=True), lease)
        await upload.append(FakeBody(CONTENT))

    async with storage.open_storage(worker) as store:
        await stored(store)
    async with storage.open_storage(worker) as again:
        for info in (await again.info(UPLOAD), (await again.open(UPLOAD, lease)).info):
            assert (info.state, info.offset, info.length, info.explicit) == (State.OPEN, 10, 10, True)


# --- the last request


@pytest.mark.parametrize("rest", [b"", b"56789"])
async def test_pre_finish_refuses(rest: bytes) -> None:
    rig = Rig(hooks=[lambda event: HookResponse(reject=True, status=422) if isinstance(event, PreFinish) else None], limits="A")
    first = CONTENT[: 10 - len(rest)]
    info = await create(rig, first, completes=False)
    with pytest.raises(errors.UploadRejected) as raised:
        await append(rig, info.id, len(first), *filter(None, [rest]), completes=True)
    assert raised.value.hook is not None
    assert raised.value.hook.status == 422
    assert await rig.uploads() == []
    assert rig.limiters[0].held == {}


@pytest.mark.parametrize("chunked", [False, True])
async def test_pre_finish_fails_and_is_asked_again(chunked: bool) -> None:
    rig = Rig(hooks=[agree])
    rig.fail("pre-finish", lambda: errors.HookError("down"))
    with pytest.raises(errors.HookError) as raised:
        await create(rig, CONTENT, completes=True, chunked=chunked)
    upload = raised.value.info
    assert upload is not None
    assert upload.state is State.FINISHING
    with pytest.raises(errors.FinishPending):
        await rig.head(upload.id)
    with pytest.raises(errors.FinishPending):
        await append(rig, upload.id, 10, completes=True)
    rig.heal("pre-finish")
    assert (await append(rig, upload.id, 10, completes=True)).state is State.COMPLETE
    assert (await rig.head(upload.id)).state is State.COMPLETE


async def test_the_completing_request_may_come_again() -> None:
    rig = Rig(hooks=[agree])
    info = await create(rig, CONTENT, completes=True)
    assert (await append(rig, info.id, 10, completes=True)).state is State.COMPLETE  # its answer was lost
    await rig.background()
    assert rig.log.count("pre-finish") == 1
    assert rig.told == ["post-create", "post-finish"]


@pytest.mark.parametrize(
    ("offset", "pieces", "completes", "chunked", "error"),
    [
        (10, (), False, False, errors.UploadCompleted),
        (10, (b"x",), True, False, errors.UploadCompleted),
        (10, (b"x",), False, False, errors.UploadCompleted),
        (10, (b"x",), True, True, errors.UploadCompleted),
        (5, (b"56789",), True, False, errors.MismatchedOffset),
        (0, (), True, False, errors.MismatchedOffset),
    ],
)
async def test_a_complete_upload_never_changes(
    offset: int, pieces: tuple[bytes, ...], completes: bool, chunked: bool, error: type[TusError]
) -> None:
    rig = Rig()
    info = await create(rig, CONTENT, completes=True)
    with pytest.raises(error) as raised:
        await append(rig, info.id, offset, *pieces, completes=completes, chunked=chunked)
    assert raised.value.info == info
    assert await rig.head(info.id) == info
    assert await rig.content(info.id) == CONTENT


# --- lengths and limits


async def test_a_body_that_runs_past_its_length_invalidates_the_upload() -> None:
    for completes in (True, False):
        rig = Rig(limits="A")
        info = await create(rig, b"01234", completes=False, length=10)
        with pytest.raises(errors.UploadSizeExceeded) as raised:
            await append(rig, info.id, 5, b"56789", b"x", completes=completes, chunked=True)
        assert raised.value.gone
        with pytest.raises(errors.UploadNotFound):  # "rejecting any further interaction with it"
            await rig.head(info.id)
        assert rig.limiters[0].held == {}
        with pytest.raises(errors.UploadSizeExceeded):
            await create(rig, CONTENT, b"x", completes=completes, length=10, chunked=True)
        assert await rig.uploads() == []


async def test_a_store_that_cannot_remove_keeps_what_fits() -> None:
    rig = Rig(without=frozenset({Terminable}))
    info = await create(rig, b"01234", completes=False, length=10)
    with pytest.raises(errors.UploadSizeExceeded) as raised:
        await append(rig, info.id, 5, b"56789x", completes=True, chunked=True)
    assert not raised.value.gone
    assert (await rig.head(info.id)).state is State.OPEN


async def test_a_length_that_is_known_to_be_exceeded_costs_nothing() -> None:
    rig = Rig()
    info = await create(rig, b"01234", completes=False, length=10)
    for completes in (True, False):
        source = FakeSource(b"56789x")
        with pytest.raises((errors.UploadSizeExceeded, errors.InvalidUploadLength)):
            await append(rig, info.id, 5, b"56789x", completes=completes, source=source)
        assert source.reads == 0
    assert (await rig.head(info.id)).offset == 5


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_end_before_the_length(chunked: bool) -> None:
    rig = Rig()
    info = await create(rig, b"01234", completes=False, length=10)
    with pytest.raises(errors.InvalidUploadLength) as raised:
        await append(rig, info.id, 5, b"567", completes=True, chunked=chunked)
    assert raised.value.info is not None
    found = await rig.head(info.id)
    assert (found.state, found.offset) == (State.OPEN, 8 if chunked else 5)


async def test_lengths_must_match_over_requests() -> None:
    rig = Rig()
    info = await create(rig, b"01234", completes=False, length=10)
    with pytest.raises(errors.InvalidUploadLength):
        await append(rig, info.id, 5, completes=False, length=11)
    late = await create(rig, b"01234", completes=False)
    assert (await append(rig, late.id, 5, b"5", completes=False, length=10)).length == 10
    with pytest.raises(errors.InvalidUploadLength):
        await append(rig, late.id, 6, b"6", completes=True)


async def test_a_request_may_carry_so_much_and_no_more() -> None:
    rig = Rig(Policy(max_append_size=4), limits="A")
    for length in (None, 100):
        with pytest.raises(errors.MaxSizeExceeded) as raised:
            await create(rig, b"012", b"3456", completes=False, length=length, chunked=True, limit=4)
        info = raised.value.info
        assert info is not None
        assert (info.offset, await rig.content(info.id)) == (4, b"0123")
        assert (await append(rig, info.id, 4, b"4567", completes=False, chunked=True, limit=4)).offset == 8
        assert rig.limiters[0].held[info.id] == (8 if length is None else 100)


async def test_the_most_that_an_upload_may_hold() -> None:
    rig = Rig(Policy(max_size=8), limits="A")
    with pytest.raises(errors.UploadSizeExceeded) as raised:
        await create(rig, CONTENT, completes=True, chunked=True)
    info = raised.value.info
    assert info is not None
    assert not raised.value.gone
    assert (await rig.head(info.id)).offset == 8
    assert rig.limiters[0].held == {info.id: 8}


async def test_a_quota_that_refuses_the_length_leaves_the_upload_as_it_was() -> None:
    rig = Rig(limits="A")
    info = await create(rig, b"01234", completes=False)
    rig.fail("A.reserve", errors.QuotaExceeded)
    with pytest.raises(errors.QuotaExceeded):
        await append(rig, info.id, 5, b"56789", completes=True)
    rig.heal("A.reserve")
    found = await rig.head(info.id)
    assert (found.offset, found.length, found.state, rig.limiters[0].held) == (5, None, State.OPEN, {info.id: 5})


# --- digests


@pytest.mark.parametrize("chunked", [False, True])
async def test_content_digest(chunked: bool) -> None:
    rig = Rig()
    info = await create(rig, b"01234", completes=False, digest=b"01234", chunked=chunked)
    with pytest.raises(errors.ChecksumMismatch) as raised:
        await append(rig, info.id, 5, b"56789", completes=True, digest=b"56780", chunked=chunked)
    assert raised.value.info is not None
    found = await rig.head(info.id)
    assert (found.offset, found.state, await rig.content(info.id)) == (5, State.OPEN, b"01234")
    assert (await append(rig, info.id, 5, b"56789", completes=True, digest=b"56789", chunked=chunked)).state is State.COMPLETE


async def test_a_cut_body_with_a_content_digest_is_kept() -> None:
    rig = Rig()
    source = FakeSource(b"012", failure=errors.UnexpectedEof())
    with pytest.raises(errors.UnexpectedEof) as raised:
        await create(rig, CONTENT, completes=True, digest=CONTENT, source=source)
    info = raised.value.info
    assert info is not None
    assert (await rig.head(info.id)).offset == 3
    assert (await append(rig, info.id, 3, CONTENT[3:], completes=True)).state is State.COMPLETE
    assert await rig.content(info.id) == CONTENT


NOTE = "sha256:"


def promise(content: bytes = CONTENT) -> str:
    return NOTE + base64.b64encode(hashlib.sha256(content).digest()).decode()


@pytest.mark.parametrize("note", [NOTE, promise()], ids=["wanted", "promised"])
@pytest.mark.parametrize("several", [False, True])
async def test_representation_digest(note: str, several: bool) -> None:
    rig = Rig()
    if several:
        info = await create(rig, b"0123", completes=False, note=note)
        info = await append(rig, info.id, 4, b"456", completes=False)
        info = await append(rig, info.id, 7, b"789", completes=True)
        assert "read 0-10" in rig.log
    else:
        info = await create(rig, b"0123", b"456789", completes=True, note=note)
        assert "read 0-10" not in rig.log  # it was hashed while it came
    assert info.state is State.COMPLETE
    assert info.notes["repr-digest"] == promise()
    assert (await rig.restarted().head(info.id)).notes == info.notes


@pytest.mark.parametrize("several", [False, True])
async def test_an_upload_that_is_not_what_was_promised(several: bool) -> None:
    rig = Rig(hooks=[agree], limits="A")
    with pytest.raises(errors.DigestMismatch) as raised:
        if several:
            info = await create(rig, b"0123", completes=False, note=promise(b"other"))
            await append(rig, info.id, 4, b"456789", completes=True)
        else:
            await create(rig, CONTENT, completes=True, note=promise(b"other"))
    assert raised.value.gone
    assert raised.value.info is None
    assert await rig.uploads() == []
    assert rig.limiters[0].held == {}
    assert "pre-finish" not in rig.log  # "not process the representation further"


async def test_a_digest_whose_computing_died_is_computed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    info = await create(rig, b"0123", completes=False, note=NOTE)
    rig.fail("finish", errors.StorageUnavailable)
    with pytest.raises(errors.StorageUnavailable):
        await append(rig, info.id, 4, b"456789", completes=True)
    found = await rig.restarted().head(info.id)
    assert (found.state, found.notes["repr-digest"]) == (State.COMPLETE, promise())


@pytest.mark.parametrize("by_head", [False, True])
async def test_a_wrong_digest_that_only_the_next_request_finds(by_head: bool) -> None:
    rig = Rig(limits="A")
    rig.fail("finish", errors.StorageUnavailable)
    with pytest.raises(errors.StorageUnavailable) as raised:
        await create(rig, CONTENT, completes=True, note=promise(b"other"))
    info = raised.value.info
    assert info is not None
    rig.heal("finish")
    with pytest.raises(errors.DigestMismatch):
        await (rig.head(info.id) if by_head else append(rig, info.id, 10, completes=True))
    with pytest.raises(errors.UploadNotFound):
        await rig.head(info.id)
    assert rig.limiters[0].held == {}


async def test_a_store_that_cannot_read_verifies_what_it_hears_at_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(without=frozenset({Readable}))
    info = await create(rig, CONTENT, completes=True, note=promise())
    assert info.notes["repr-digest"] == promise()
    info = await create(rig, b"01234", completes=False, note=promise(b"other"))
    info = await append(rig, info.id, 5, b"56789", completes=True)
    assert (info.state, dict(info.notes)) == (State.COMPLETE, {})
    assert "not verified" in caplog.text


async def test_a_store_that_cannot_take_a_body_back_offers_no_content_digest() -> None:
    rig = Rig(without=frozenset({Atomic}))
    with pytest.raises(errors.NotSupported):  # the dialect does not read the field then
        await create(rig, CONTENT, completes=True, digest=CONTENT)


# --- news


@pytest.mark.parametrize("announced", [False, True])
async def test_an_upload_that_is_announced_has_a_lock_though_its_body_is_here(announced: bool) -> None:
    rig, source = Rig(), FakeSource(CONTENT)
    source.arrived = True
    await create(rig, CONTENT, completes=True, source=source, interim=(lambda news: None) if announced else None)
    assert ("lock" in rig.log) is announced


async def test_news_of_a_creation() -> None:
    told: list[News] = []
    info = await create(Rig(), b"01234", b"56789", completes=True, interim=told.append)
    assert isinstance(told[0], Announced)
    assert told[0].info.id == info.id
    assert told[0].info.offset == 0
    assert all(isinstance(news, Progress) for news in told[1:])
    told.clear()
    await create(Rig(), completes=False, interim=told.append)
    assert told == []  # the answer says it all
