"""RECEIVING -> FINISHING -> COMPLETE: what is saved, asked and told, and what happens when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from tests.engine.rig import Rig

from tusd.errors import (
    FinishPending,
    HookError,
    IncompleteUpload,
    InternalError,
    MismatchedOffset,
    StorageUnavailable,
    TusError,
    UploadNotFound,
    UploadRejected,
    UploadSizeExceeded,
)
from tusd.hooks import HookEvent, HookResponse, PostFinish, PreFinish
from tusd.model import State, UploadId
from tusd.storage import Terminable

UPLOAD = UploadId("upload")
ENDINGS: dict[str, Callable[[Rig], Coroutine[object, object, object]]] = {
    "by a PATCH": lambda rig: rig.append(UPLOAD, 5, b"56789"),
    "by an empty PATCH that declares the length": lambda rig: rig.append(UPLOAD, 5, length=5),
    "by a POST": lambda rig: rig.create(5, b"01234"),
    "by a POST of length zero": lambda rig: rig.create(0),
}


async def prepare(rig: Rig, ending: str) -> None:
    explicit = State.RECEIVING if PreFinish in rig.events and rig.hooks else None
    if ending == "by a PATCH":
        await rig.put(UPLOAD, b"01234", length=10, state=explicit)
    elif "declares" in ending:
        await rig.put(UPLOAD, b"01234", deferred=True, state=explicit)


async def only(rig: Rig) -> UploadId:
    (info,) = await rig.uploads()
    return info.id


def calls(rig: Rig) -> list[str]:
    """Those of finishing."""
    names = ("save", "finish", "pre-finish", "terminate")
    return [call for call in rig.log if call.split()[0] in names and "receiving" not in call]


def refuse(event: HookEvent) -> HookResponse | None:
    return HookResponse(reject=isinstance(event, PreFinish), body="a virus") if isinstance(event, PreFinish) else None


@pytest.fixture(params=ENDINGS)
def ending(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_without_hooks_no_state_is_saved(ending: str) -> None:
    rig = Rig(limits="A")
    await prepare(rig, ending)
    await ENDINGS[ending](rig)
    assert calls(rig) == ["finish"]
    info = await rig.kept.info(await only(rig))
    assert (info.state, info.explicit) == (State.COMPLETE, False)
    assert rig.metrics.sums["tusd_uploads_finished"] == 1


async def test_with_pre_finish_the_states_are_saved_around_it(ending: str) -> None:
    rig = Rig(hooks=[lambda event: None])
    await prepare(rig, ending)
    await ENDINGS[ending](rig)
    length = (await rig.uploads())[0].length
    assert calls(rig) == [
        f"save length={length} finishing",
        "finish",
        "pre-finish",
        f"save length={length} complete",
    ]
    info = await rig.kept.info(await only(rig))
    assert (info.state, info.explicit) == (State.COMPLETE, True)
    (asked,) = [event for event in rig.dispatchers[0].seen if isinstance(event, PreFinish)]
    assert (asked.upload.state, asked.upload.offset) == (State.FINISHING, length)
    await rig.background()
    assert rig.told[-1] == "post-finish"
    (told,) = [event for event in rig.dispatchers[0].seen if isinstance(event, PostFinish)]
    assert told.upload == info


async def test_an_upload_begun_with_pre_finish_keeps_its_states_when_the_hook_is_gone() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING)
    await rig.append(UPLOAD, 5, b"56789")
    assert calls(rig) == ["save length=10 finishing", "finish", "save length=10 complete"]


async def test_an_upload_begun_without_pre_finish_is_asked_for_when_a_hook_is_new() -> None:
    rig = Rig(hooks=[refuse])
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(UploadRejected):
        await rig.append(UPLOAD, 5, b"56789")
    assert await rig.uploads() == []


@pytest.mark.parametrize("hooks", [(), (lambda event: None,)], ids=["no hooks", "hooks"])
@pytest.mark.parametrize(
    "error",
    [StorageUnavailable, OSError, RuntimeError, asyncio.CancelledError],
)
async def test_a_failing_finish_is_never_a_success(
    ending: str, error: type[BaseException], hooks: tuple[Callable[[HookEvent], HookResponse | None], ...]
) -> None:
    rig = Rig(hooks=hooks)
    await prepare(rig, ending)
    rig.fail("finish", error)
    with pytest.raises(error) as raised:
        await ENDINGS[ending](rig)
    upload = await only(rig)
    info = await rig.kept.info(upload)
    assert info.state is State.FINISHING
    if isinstance(raised.value, TusError):
        assert raised.value.info == info
    assert rig.locks.queues == {}
    assert "pre-finish" not in rig.log
    assert "tusd_uploads_finished" not in rig.metrics.sums

    rig.fail("finish", StorageUnavailable)
    for again in (rig.head(upload), rig.append(upload, info.offset)):
        with pytest.raises(FinishPending) as pending:
            await again
        assert pending.value.info == info
        assert pending.value.retry_after
    with pytest.raises(IncompleteUpload):
        await rig.read(upload)

    rig.heal("finish")
    assert (await rig.head(upload)).state is State.COMPLETE
    await rig.background()
    assert rig.told.count("post-finish") == len(hooks)
    assert rig.metrics.sums["tusd_uploads_finished"] == 1
    rig.clear()
    assert (await rig.head(upload)).state is State.COMPLETE
    assert rig.log == ["info"]


async def test_an_outage_of_the_store_while_retrying_is_told_as_pending() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    rig.fail("finish", lambda: OSError(5, "Input/output error"))
    with pytest.raises(FinishPending):
        await rig.head(UPLOAD)


async def test_an_empty_patch_finishes_again_and_says_so() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    done = await rig.append(UPLOAD, 5)
    assert done.info.state is State.COMPLETE
    assert rig.log == ["lock", "open", "finish", "save length=5 complete", "unlock"]


async def test_all_bytes_there_without_agreement_is_not_complete() -> None:
    """The process died between the last byte and FINISHING."""
    rig = Rig(hooks=[lambda event: None])
    await rig.put(UPLOAD, b"01234", state=State.RECEIVING)
    with pytest.raises(IncompleteUpload):
        await rig.read(UPLOAD)
    assert (await rig.head(UPLOAD)).state is State.COMPLETE
    assert "pre-finish" in rig.log


@pytest.mark.parametrize(("offset", "pieces"), [(4, ()), (4, (b"x",))])
async def test_a_patch_elsewhere_does_not_finish_again(offset: int, pieces: tuple[bytes, ...]) -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    with pytest.raises(MismatchedOffset):
        await rig.append(UPLOAD, offset, *pieces)
    assert "finish" not in rig.log


@pytest.mark.parametrize("chunked", [False, True])
async def test_bytes_for_a_finishing_upload_are_too_many(chunked: bool) -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    with pytest.raises(UploadSizeExceeded):
        await rig.append(UPLOAD, 5, b"x", chunked=chunked)
    assert await rig.content(UPLOAD) == b"01234"


# --- pre-finish


async def test_a_refusal_removes_the_upload(ending: str) -> None:
    rig = Rig(hooks=[refuse], limits="A")
    await prepare(rig, ending)
    with pytest.raises(UploadRejected) as raised:
        await ENDINGS[ending](rig)
    assert raised.value.hook == HookResponse(reject=True, body="a virus")
    assert raised.value.info is None
    assert calls(rig)[1:] == ["finish", "pre-finish", "terminate"]
    assert [call for call in rig.log if "reserve" in call][-1] == "A.reserve 0"
    assert rig.limiters[0].held == {}
    assert await rig.uploads() == []
    await rig.background()
    assert "post-finish" not in rig.told
    assert "tusd_uploads_finished" not in rig.metrics.sums


async def test_a_removed_upload_is_not_found() -> None:
    rig = Rig(hooks=[refuse])
    await prepare(rig, "by a PATCH")
    with pytest.raises(UploadRejected):
        await rig.append(UPLOAD, 5, b"56789")
    for request in (rig.head(UPLOAD), rig.append(UPLOAD, 10), rig.read(UPLOAD), rig.terminate(UPLOAD)):
        with pytest.raises(UploadNotFound):
            await request


@pytest.mark.parametrize("error", [HookError, RuntimeError])
async def test_an_error_leaves_it_finishing_and_a_retry_asks_again(ending: str, error: type[Exception]) -> None:
    rig = Rig(hooks=[lambda event: None])
    await prepare(rig, ending)
    rig.fail("pre-finish", error)
    with pytest.raises(HookError) as raised:
        await ENDINGS[ending](rig)
    upload = await only(rig)
    info = await rig.kept.info(upload)
    assert info.state is State.FINISHING
    assert raised.value.info == info
    rig.fail("pre-finish", RuntimeError)
    with pytest.raises(FinishPending):
        await rig.head(upload)
    rig.log.remove("pre-finish")
    rig.fail("pre-finish", lambda: HookError("still no answer"))
    for again in (rig.head(upload), rig.append(upload, info.offset)):
        with pytest.raises(FinishPending):
            await again
    assert rig.log.count("pre-finish") == 3
    rig.heal("pre-finish")
    assert (await rig.head(upload)).state is State.COMPLETE
    assert rig.log.count("pre-finish") == 4
    await rig.background()
    assert rig.told.count("post-finish") == 1


async def test_a_refusal_that_comes_with_a_retry_removes_the_upload() -> None:
    rig = Rig(hooks=[refuse])
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    with pytest.raises(UploadRejected):
        await rig.head(UPLOAD)
    assert await rig.uploads() == []


async def test_a_refused_upload_that_cannot_be_removed_yet_is_asked_for_again() -> None:
    rig = Rig(hooks=[refuse])
    await prepare(rig, "by a PATCH")
    rig.fail("terminate", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.append(UPLOAD, 5, b"56789")
    assert (await rig.kept.info(UPLOAD)).state is State.FINISHING
    with pytest.raises(FinishPending):
        await rig.head(UPLOAD)
    rig.heal("terminate")
    with pytest.raises(UploadRejected):
        await rig.head(UPLOAD)
    assert await rig.uploads() == []


async def test_a_refused_upload_that_can_never_be_removed_is_never_complete() -> None:
    rig = Rig(hooks=[refuse], without=frozenset({Terminable}))
    await prepare(rig, "by a PATCH")
    with pytest.raises(InternalError):
        await rig.append(UPLOAD, 5, b"56789")
    with pytest.raises(FinishPending):
        await rig.head(UPLOAD)
    with pytest.raises(IncompleteUpload):
        await rig.read(UPLOAD)


async def test_an_answer_of_pre_finish_reaches_the_response() -> None:
    def answers(event: HookEvent) -> HookResponse | None:
        return HookResponse(headers={"X-Stored-As": "7"}) if isinstance(event, PreFinish) else None

    rig = Rig(hooks=[answers])
    assert (await rig.create(5, b"01234")).answer == HookResponse(headers={"X-Stored-As": "7"})
    await rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING)
    assert (await rig.append(UPLOAD, 5, b"56789")).answer == HookResponse(headers={"X-Stored-As": "7"})


async def test_both_answers_of_a_creation_reach_the_response() -> None:
    def answers(event: HookEvent) -> HookResponse | None:
        return HookResponse(headers={f"X-{event.name}": "1", "X-Last": event.name})

    rig = Rig(hooks=[answers])
    answer = (await rig.create(5, b"01234")).answer
    assert answer is not None
    assert answer.headers == {"X-pre-create": "1", "X-pre-finish": "1", "X-Last": "pre-finish"}


async def test_the_saving_of_a_state_may_fail() -> None:
    rig = Rig(hooks=[lambda event: None])
    await prepare(rig, "by a PATCH")
    rig.fail("save", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.append(UPLOAD, 5, b"56789")
    with pytest.raises(FinishPending):
        await rig.head(UPLOAD)
    with pytest.raises(IncompleteUpload):
        await rig.read(UPLOAD)
    rig.heal("save")
    assert (await rig.head(UPLOAD)).state is State.COMPLETE


async def test_an_upload_from_before_there_was_a_hook_is_not_complete_until_the_hook_agrees() -> None:
    """Also while the request that brought the last byte still runs, and when the server dies then."""
    rig = Rig()
    upload = (await rig.create(4, b"01")).info.id
    asking = Rig(hooks=[lambda event: None], kept=rig.kept)
    reached = asking.hang("pre-finish")
    task = asyncio.create_task(asking.append(upload, 2, b"23"))
    await asyncio.wait_for(reached.wait(), 5)
    with pytest.raises(IncompleteUpload):
        await asking.read(upload)
    assert (await rig.kept.info(upload)).state is State.FINISHING
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await rig.kept.info(upload)).state is State.FINISHING


async def test_the_state_is_explicit_before_the_last_byte_arrives() -> None:
    rig = Rig()
    upload = (await rig.create(4, b"01")).info.id
    asking = Rig(hooks=[lambda event: None], kept=rig.kept)
    asking.fail("append", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await asking.append(upload, 2, b"23")
    assert (await rig.kept.info(upload)).explicit
