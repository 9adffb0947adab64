"""Final uploads: filled at once, later, again after a restart, or never."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from tests.engine.rig import Rig

from tusd.errors import (
    HookError,
    IncompleteUpload,
    InvalidConcat,
    MaxSizeExceeded,
    QuotaExceeded,
    StorageFull,
    StorageUnavailable,
    UploadNotFinished,
    UploadNotFound,
    UploadRejected,
)
from tusd.hooks import Changes, HookEvent, HookResponse, PostFinish, PreCreate, PreFinish
from tusd.model import Extension, Final, Partial, State, UploadId, UploadInfo
from tusd.protocol.messages import Created
from tusd.protocol.rules import Policy
from tusd.testing.bodies import FakeBody

SLOW = Policy(concatenation_timeout=0.02)


async def part(rig: Rig, name: str, content: bytes = b"", length: int | None = None) -> UploadId:
    return await rig.put(name, content, length=length, concat=Partial())


async def final(rig: Rig, *parts: UploadId) -> Created:
    return await rig.create(None, concat=Final(parts))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.001)


async def complete(rig: Rig, upload: UploadId) -> UploadInfo:
    """The upload, once it is complete; nobody asks the engine for it."""

    async def is_complete() -> bool:
        return (await rig.kept.info(upload)).state is State.COMPLETE

    await until(is_complete)
    return await rig.kept.info(upload)


async def gone(rig: Rig, upload: UploadId) -> None:
    """Until the upload is removed."""

    async def is_gone() -> bool:
        return upload not in {info.id for info in await rig.uploads()}

    await until(is_gone)


# --- complete parts


async def test_complete_parts_are_concatenated_before_the_answer() -> None:
    rig = Rig(limits="A", hooks=[lambda event: None])
    a, b = await part(rig, "a", b"012"), await part(rig, "b", b"34")
    created = await final(rig, a, b, a)
    assert (created.info.length, created.info.offset, created.info.state) == (8, 8, State.COMPLETE)
    assert created.info.concat == Final((a, b, a))
    assert not created.appended
    assert await rig.content(created.info.id) == b"01234012"
    assert [call for call in rig.log if call not in ("info", "tell")] == [
        "A.admit",
        "pre-create",
        "A.bind",
        "A.reserve 8",
        "create",
        "lock",
        "open",
        "A.reserve 8",
        "save length=8 finishing",
        "concatenate a b a",
        "finish",
        "pre-finish",
        "save length=8 complete",
        "unlock",
        "A.leave",
    ]
    await rig.background()
    assert rig.told == ["post-create", "post-finish"]
    assert rig.dispatchers[0].seen[0].upload.concat == Final((a, b, a))


async def test_the_parts_are_kept() -> None:
    rig = Rig()
    a = await part(rig, "a", b"012")
    await final(rig, a)
    assert await rig.read(a) == b"012"


async def test_parts_without_bytes() -> None:
    rig = Rig()
    a = await part(rig, "a")
    created = await final(rig, a, a)
    assert (created.info.length, created.info.state) == (0, State.COMPLETE)


@pytest.mark.parametrize("concat", [None, Final((UploadId("x"),))])
async def test_only_partial_uploads_can_be_parts(concat: Final | None) -> None:
    rig = Rig(hooks=[lambda event: None])
    a = await part(rig, "a", b"012")
    other = await rig.put("other", b"34", concat=concat)
    with pytest.raises(InvalidConcat):
        await final(rig, a, other)
    assert rig.log == ["info", "info"]


async def test_a_part_that_is_not_there() -> None:
    rig = Rig(hooks=[lambda event: None])
    with pytest.raises(UploadNotFound):
        await final(rig, await part(rig, "a", b"012"), UploadId("b"))
    assert rig.log == ["info", "info"]


@pytest.mark.parametrize("second", [b"3456", b""])
async def test_the_sum_of_the_parts_has_to_be_allowed(second: bytes) -> None:
    rig = Rig(Policy(max_size=6))
    parts = [await part(rig, "a", b"012"), await part(rig, "b", second, length=4)]
    with pytest.raises(MaxSizeExceeded):
        await final(rig, *parts)
    assert len(await rig.uploads()) == 2


async def test_the_sum_of_the_parts_has_to_be_what_pre_create_allows() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(change=Changes(max_length=2))], events=[PreCreate])
    with pytest.raises(MaxSizeExceeded):
        await final(rig, await part(rig, "a", b"012"))
    assert len(await rig.uploads()) == 1


async def test_the_sum_of_the_parts_has_to_fit_the_quota() -> None:
    rig = Rig(limits="A")
    rig.fail("A.reserve", QuotaExceeded)
    with pytest.raises(QuotaExceeded):
        await final(rig, await part(rig, "a", b"012"))
    assert len(await rig.uploads()) == 1


async def test_a_final_that_cannot_be_created_gives_back_what_was_reserved() -> None:
    rig = Rig(limits="A")
    rig.fail("create", StorageFull)
    with pytest.raises(StorageFull):
        await final(rig, await part(rig, "a", b"012"))
    assert rig.limiters[0].held == {}


async def test_unfinished_parts_where_those_are_off() -> None:
    rig = Rig(Policy(extensions=frozenset(Extension) - {Extension.CONCATENATION_UNFINISHED}))
    with pytest.raises(UploadNotFinished):
        await final(rig, await part(rig, "a", b"012", 5))


async def test_a_full_store_removes_what_cannot_be_filled() -> None:
    rig = Rig(limits="A", hooks=[lambda event: None])
    a = await part(rig, "a", b"012")
    rig.fail("concatenate", StorageFull)
    with pytest.raises(StorageFull) as raised:
        await final(rig, a)
    assert raised.value.info is None
    assert [info.id for info in await rig.uploads()] == [a]
    assert rig.limiters[0].held == {}
    assert rig.locks.queues == {}
    await rig.background()
    assert rig.told == ["post-create", "post-terminate"]


async def test_an_outage_keeps_it_for_a_later_try() -> None:
    rig = Rig()
    a = await part(rig, "a", b"012")
    rig.fail("concatenate", StorageUnavailable)
    with pytest.raises(StorageUnavailable) as raised:
        await final(rig, a)
    info = raised.value.info
    assert info is not None
    assert info == await rig.kept.info(info.id)
    assert info.state is State.FINISHING
    rig.heal("concatenate")
    assert (await rig.head(info.id)).state is State.FINISHING  # and tries again
    await complete(rig, info.id)
    assert await rig.content(info.id) == b"012"


# --- pre-finish


async def test_pre_finish_refuses_a_final_upload() -> None:
    answer = HookResponse(reject=True, body="a virus")
    rig = Rig(hooks=[lambda event: answer], events=[PreFinish, PostFinish])
    a = await part(rig, "a", b"012")
    with pytest.raises(UploadRejected) as raised:
        await final(rig, a)
    assert raised.value.hook == answer
    assert [info.id for info in await rig.uploads()] == [a]
    assert rig.told == []


async def test_pre_finish_fails_for_a_final_upload() -> None:
    rig = Rig(hooks=[lambda event: None], events=[PreFinish])
    a = await part(rig, "a", b"012")
    rig.fail("pre-finish", HookError)
    with pytest.raises(HookError) as raised:
        await final(rig, a)
    info = raised.value.info
    assert info is not None
    assert (info.state, info.offset) == (State.FINISHING, 3)
    with pytest.raises(IncompleteUpload):
        await rig.read(info.id)
    rig.heal("pre-finish")
    assert (await rig.head(info.id)).state is State.FINISHING
    await complete(rig, info.id)


# --- unfinished parts


async def test_unfinished_parts_are_waited_for_after_the_answer() -> None:
    rig = Rig(Policy(concatenation_timeout=60), hooks=[lambda event: None], limits="A")
    a, b = await part(rig, "a", b"012"), await part(rig, "b", b"3", 5)
    created = await asyncio.wait_for(final(rig, a, b), 1)
    upload = created.info.id
    assert (created.info.length, created.info.offset, created.info.state) == (8, 0, State.RECEIVING)
    assert (await rig.head(upload)).state is State.RECEIVING
    with pytest.raises(IncompleteUpload):
        await rig.read(upload)
    assert not any(call.startswith("concatenate") for call in rig.log)
    await rig.append(b, 1, b"4567")
    info = await complete(rig, upload)
    assert (info.length, info.offset) == (8, 8)
    assert await rig.read(upload) == b"01234567"
    await rig.background()
    assert rig.told == ["post-create", "post-finish", "post-finish"]
    assert rig.limiters[0].held == {upload: 8}


async def test_a_final_of_parts_whose_length_is_not_known_yet() -> None:
    rig = Rig(limits="A")
    a = await rig.put("a", b"012", deferred=True, concat=Partial())
    created = await final(rig, a)
    assert created.info.length is None
    await rig.append(a, 3, b"34", length=5)
    info = await complete(rig, created.info.id)
    assert info.length == 5
    assert rig.limiters[0].held[info.id] == 5


async def test_the_last_part_wakes_the_filling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from tusd.engine import concatenate

    monkeypatch.setattr(concatenate, "_FIRST_LOOK", 3600.0)
    monkeypatch.setattr(concatenate, "_LAST_LOOK", 3600.0)
    rig = Rig()
    a, b = await part(rig, "a", b"0", 2), await part(rig, "b", b"2", 4)
    upload = (await final(rig, a, b)).info.id
    await asyncio.sleep(0.01)
    await rig.append(a, 1, b"1")
    await asyncio.sleep(0.01)
    await rig.append(b, 1, b"345")
    await complete(rig, upload)
    assert await rig.content(upload) == b"012345"


async def test_a_part_that_completes_while_the_others_are_looked_at_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tusd.engine import concatenate

    monkeypatch.setattr(concatenate, "_FIRST_LOOK", 3600.0)
    monkeypatch.setattr(concatenate, "_LAST_LOOK", 3600.0)
    rig = Rig()
    a, b = await part(rig, "a", b"0", 2), await part(rig, "b", b"2")
    real = rig.kept.info
    looks: list[UploadId] = []

    async def info(upload_id: UploadId) -> UploadInfo:
        found = await real(upload_id)
        looks.append(upload_id)
        if upload_id == a and looks.count(a) == 2:  # the creation asks for it, then it is looked at and completes just after
            await rig.append(a, 1, b"1")
        return found

    monkeypatch.setattr(rig.kept, "info", info)
    upload = (await final(rig, a, b)).info.id
    await complete(rig, upload)


async def test_a_part_that_another_process_completes_is_seen_soon() -> None:
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    other = rig.restarted()
    await other.append(a, 1, b"1")
    await complete(rig, upload)


async def test_an_outage_while_waiting_does_not_end_the_waiting() -> None:
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    rig.fail("info", StorageUnavailable)
    looked = len(rig.log)

    async def has_looked() -> bool:
        return len(rig.log) > looked

    await until(has_looked)
    rig.heal("info")
    await rig.append(a, 1, b"1")
    await complete(rig, upload)


async def test_a_part_that_is_removed_meanwhile_removes_the_final_upload(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(limits="A")
    a, b = await part(rig, "a", b"0"), await part(rig, "b", b"1", 2)
    upload = (await final(rig, a, b)).info.id
    await rig.terminate(b)
    await gone(rig, upload)
    await rig.background()
    with pytest.raises(UploadNotFound):
        await rig.head(upload)
    assert rig.limiters[0].held == {}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_part_that_is_removed_before_a_restart_removes_the_final_upload() -> None:
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    await stop(rig)
    other = rig.restarted()
    await other.terminate(a)
    await other.head(upload)
    await gone(other, upload)


async def test_parts_that_become_too_much_remove_the_final_upload() -> None:
    rig = Rig(Policy(max_size=5))
    a, b = await part(rig, "a", b"01"), await rig.put("b", b"2", deferred=True, concat=Partial())
    upload = (await final(rig, a, b)).info.id
    await rig.append(b, 1, b"345", length=4)
    await gone(rig, upload)
    assert {info.id for info in await rig.uploads()} == {a, b}


async def test_a_final_upload_that_is_removed_meanwhile_stays_removed() -> None:
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    await rig.terminate(upload)
    await rig.append(a, 1, b"1")
    await rig.background()
    assert [info.id for info in await rig.uploads()] == [a]


# --- long concatenations, restarts, and the end of a process


async def test_a_long_concatenation_is_answered_and_goes_on() -> None:
    rig = Rig(SLOW)
    a = await part(rig, "a", b"012")
    reached = rig.hang("concatenate")
    created = await asyncio.wait_for(final(rig, a), 5)
    assert reached.is_set()
    assert created.info.state is not State.COMPLETE
    assert (await rig.head(created.info.id)).state is State.FINISHING
    assert len([call for call in rig.log if call.startswith("concatenate")]) == 1
    rig.heal("concatenate")
    await complete(rig, created.info.id)


async def stop(rig: Rig) -> None:
    """The process ends: what goes on in the background does not finish."""
    ending = asyncio.create_task(rig.engine.close())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait({ending})
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("call", ["info", "concatenate", "finish", "save", "pre-finish", "lock"])
async def test_head_fills_what_a_process_that_ended_left(call: str) -> None:
    rig = Rig(SLOW, hooks=[lambda event: None], events=[PreFinish])
    a = await part(rig, "a", b"012", 4)
    upload = (await final(rig, a)).info.id
    reached = asyncio.Event()
    if call != "info":
        reached = rig.hang(call)
        async with rig.locks.lock(a, lambda: None) as lease:  # without the engine, whose calls hang
            body = await rig.kept.open(a, lease)
            await body.append(FakeBody(b"3"))
        await asyncio.wait_for(reached.wait(), 5)
    await stop(rig)
    assert rig.locks.queues == {}
    assert (await rig.kept.info(upload)).state is not State.COMPLETE

    other = rig.restarted()
    await asyncio.sleep(0.02)
    assert (await other.kept.info(upload)).state is not State.COMPLETE
    assert (await other.head(upload)).state is not State.COMPLETE
    if call == "info":
        await other.append(a, 3, b"3")
    await complete(other, upload)
    assert await other.read(upload) == b"0123"


async def test_two_processes_fill_one_upload() -> None:
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    other = rig.restarted()
    await other.head(upload)
    await rig.append(a, 1, b"1")
    await complete(rig, upload)
    await rig.background()
    await other.background()
    assert await rig.content(upload) == b"01"


async def test_closing_waits_for_a_concatenation_and_for_what_it_tells() -> None:
    rig = Rig(SLOW, hooks=[lambda event: None], events=[PostFinish])
    a = await part(rig, "a", b"012")
    rig.hang("concatenate")
    created = await final(rig, a)
    closing = asyncio.create_task(rig.engine.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    rig.heal("concatenate")
    await asyncio.wait_for(closing, 5)
    assert (await rig.kept.info(created.info.id)).state is State.COMPLETE
    assert rig.told == ["post-finish"]


async def test_closing_does_not_wait_for_parts_that_clients_still_send() -> None:
    rig = Rig()
    upload = (await final(rig, await part(rig, "a", b"0", 2))).info.id
    await asyncio.wait_for(rig.engine.close(), 1)
    assert (await rig.kept.info(upload)).state is State.RECEIVING


async def test_an_upload_in_use_is_left_to_the_one_that_uses_it() -> None:
    rig = Rig(Policy(lock_timeout=0.01))
    a = await part(rig, "a", b"01")
    upload = UploadId("final")
    await rig.put(upload, b"", length=2, concat=Final((a,)), state=State.FINISHING)
    async with rig.locks.lock(upload, lambda: None):
        assert (await rig.head(upload)).state is State.FINISHING
        await rig.background()
    other = rig.restarted()
    await other.head(upload)
    await complete(other, upload)


async def test_a_cancelled_creation_of_a_final_goes_on_in_the_background() -> None:
    rig = Rig()
    a = await part(rig, "a", b"012")
    reached = rig.hang("concatenate")
    creation = asyncio.create_task(final(rig, a))
    await reached.wait()
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    rig.heal("concatenate")
    await rig.background()
    (made,) = [info for info in await rig.uploads() if info.id != a]
    assert made.state is State.COMPLETE


async def test_both_answers_to_a_final_reach_the_response() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(headers={f"X-{event.name}": "1"})], events=[PreCreate, PreFinish])
    created = await final(rig, await part(rig, "a", b"012"))
    assert created.answer == HookResponse(headers={"X-pre-create": "1", "X-pre-finish": "1"})


async def test_bytes_that_are_all_there_are_not_concatenated_again() -> None:
    """The parts may be gone when pre-finish agrees at last."""
    rig = Rig(hooks=[lambda event: None], events=[PreFinish])
    a = await part(rig, "a", b"012")
    rig.fail("pre-finish", HookError)
    with pytest.raises(HookError) as raised:
        await final(rig, a)
    assert raised.value.info is not None
    upload = raised.value.info.id
    await rig.terminate(a)
    rig.heal("pre-finish")
    rig.clear()
    await rig.head(upload)
    await complete(rig, upload)
    assert "concatenate a" not in rig.log
    assert await rig.read(upload) == b"012"


async def test_hooks_are_told_of_a_final_upload_by_the_request_that_created_it() -> None:
    def answers(event: HookEvent) -> HookResponse | None:
        return HookResponse(headers={"X-A": event.name})

    rig = Rig(hooks=[answers], events=[PreCreate, PostFinish])
    created = await final(rig, await part(rig, "a", b"012"))
    assert created.answer == HookResponse(headers={"X-A": "pre-create"})
    await rig.background()
    assert {event.head.method for event in rig.dispatchers[0].seen} == {"CREATE"}


async def test_waiting_looks_at_one_part_at_a_time_and_stops_with_the_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many final uploads that wait for a part that never comes must cost next to nothing."""
    from tusd.engine import concatenate

    monkeypatch.setattr(concatenate, "_FIRST_LOOK", 0.01)
    monkeypatch.setattr(concatenate, "_LAST_LOOK", 0.01)
    rig = Rig()
    missing, done = await part(rig, "a", b"0", 2), await part(rig, "b", b"2")
    upload = (await final(rig, missing, *[done] * 500)).info.id
    looks = 0
    real = rig.kept.info

    async def info(upload_id: UploadId) -> UploadInfo:
        nonlocal looks
        looks += 1
        return await real(upload_id)

    monkeypatch.setattr(rig.kept, "info", info)
    await asyncio.sleep(0.1)
    assert 2 <= looks <= 30
    await rig.terminate(upload)
    await asyncio.sleep(0.05)
    looks = 0
    await asyncio.sleep(0.05)
    assert looks == 0


async def test_one_waits_for_a_part_for_a_while_only_and_a_head_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from tusd.engine import concatenate

    monkeypatch.setattr(concatenate, "_PATIENCE", 0.02)
    rig = Rig()
    a = await part(rig, "a", b"0", 2)
    upload = (await final(rig, a)).info.id
    await asyncio.sleep(0.1)
    await rig.append(a, 1, b"1")
    await asyncio.sleep(0.05)
    assert (await rig.kept.info(upload)).state is State.RECEIVING
    await rig.head(upload)
    await complete(rig, upload)
    assert await rig.content(upload) == b"01"


async def test_a_hooks_limit_holds_for_parts_of_deferred_length() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(change=Changes(max_length=3)) if isinstance(event, PreCreate) else None])
    a = await rig.put("a", b"012", deferred=True, concat=Partial())
    upload = (await final(rig, a)).info.id
    await rig.append(a, 3, b"34", length=5)
    for _ in range(50):
        await asyncio.sleep(0.01)
        if upload not in {info.id for info in await rig.uploads()}:
            return
    raise AssertionError("a final upload is longer than a hook allowed")
