"""post-receive and post-fail: how an upload gets on, who may stop it, and what goes wrong with it."""

from __future__ import annotations

import asyncio

import pytest
from tests.engine.rig import FakeDispatcher, FakeSource, Rig

from tusd.errors import (
    ChecksumMismatch,
    HookError,
    StorageFull,
    TusError,
    UnexpectedEof,
    UploadInterrupted,
    UploadRejected,
    UploadSizeExceeded,
    UploadStopped,
)
from tusd.hooks import (
    EVENTS,
    HookEvent,
    HookResponse,
    PostCreate,
    PostFail,
    PostFinish,
    PostReceive,
    PostTerminate,
    PreFinish,
)
from tusd.model import State, UploadId
from tusd.protocol.messages import Checksum
from tusd.protocol.rules import Policy
from tusd.storage import Terminable

UPLOAD = UploadId("upload")
OFTEN = Policy(progress_interval=0.01)


class Judge(FakeDispatcher):
    """Answers what it is told of progress, too; may take its time."""

    slow = 0.0

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        await super().dispatch(event)
        await asyncio.sleep(self.slow)
        return self.answers(event)


class Dripping(FakeSource):
    """A body that comes slowly: 10 ms for each piece."""

    async def read(self) -> bytes:
        await asyncio.sleep(0.01)
        return await super().read()


def judged(rig: Rig, answer: HookResponse | None = None, slow: float = 0.0) -> Judge:
    """A rig whose only hook hears all and answers to progress."""
    judge = Judge(rig, lambda event: answer if isinstance(event, PostReceive) else None, EVENTS)
    judge.slow = slow
    rig.dispatchers[:] = [judge]
    from tusd.engine.announce import Announcer

    rig.engine._context.announcer = Announcer(rig.dispatchers, rig.metrics)
    return judge


def offsets(judge: Judge) -> list[int]:
    return [event.upload.offset for event in judge.seen if isinstance(event, PostReceive)]


async def eventually(offset: int, judge: Judge) -> None:
    async with asyncio.timeout(5):
        while offset not in offsets(judge):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_progress_is_told_from_time_to_time_and_at_the_end() -> None:
    rig = Rig(OFTEN)
    judge = judged(rig)
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    running = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await eventually(7, judge)
    await asyncio.sleep(0.05)
    assert offsets(judge) == [7], "nothing came meanwhile"
    source.send(b"789")
    await running
    await rig.background()
    assert offsets(judge) == [7, 10]
    assert rig.told[-2:] == ["post-receive", "post-finish"]


async def test_an_append_shorter_than_the_interval_is_told_once() -> None:
    rig = Rig()
    judge = judged(rig)
    await rig.create(10, b"01234")
    await rig.background()
    assert offsets(judge) == [5]


async def test_an_append_without_bytes_is_not_told() -> None:
    rig = Rig()
    judge = judged(rig)
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(UnexpectedEof):
        await rig.append(UPLOAD, 5, source=FakeSource(failure=UnexpectedEof()), size=5)
    await rig.background()
    assert offsets(judge) == []


async def test_a_hook_that_does_not_keep_up_is_told_less_often() -> None:
    rig = Rig(OFTEN)
    judge = judged(rig, slow=0.2)
    await rig.put(UPLOAD, length=100)
    await rig.append(UPLOAD, 0, source=Dripping(*[b"01234"] * 20), size=100)
    await rig.background()
    assert 2 <= len(offsets(judge)) <= 4
    assert offsets(judge)[-1] == 100


async def test_a_hook_may_stop_an_upload() -> None:
    answer = HookResponse(stop=True, status=409, headers={"X-A": "1"}, body="enough\n")
    rig = Rig(OFTEN, limits="A")
    judge = judged(rig, answer)
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    with pytest.raises(UploadStopped) as raised:
        await rig.append(UPLOAD, 5, source=source, size=5)
    assert raised.value.hook == answer
    assert raised.value.info is None
    assert await rig.uploads() == []
    assert rig.limiters[0].held == {}
    assert rig.metrics.sums["tusd_uploads_terminated"] == 1
    await rig.background()
    told = [type(event) for event in judge.seen if isinstance(event, PostTerminate | PostFail | PostReceive)]
    assert told == [PostReceive, PostTerminate, PostFail]


async def test_what_cannot_be_removed_is_only_stopped() -> None:
    rig = Rig(OFTEN, without=frozenset({Terminable}))
    judged(rig, HookResponse(stop=True))
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(UploadStopped) as raised:
        await rig.append(UPLOAD, 5, source=FakeSource(b"56", hangs=True), size=5)
    assert not raised.value.gone
    assert await rig.content(UPLOAD) == b"0123456"


async def test_a_stop_that_comes_after_the_last_byte_stops_nothing() -> None:
    rig = Rig()
    judge = judged(rig, HookResponse(stop=True))
    info = (await rig.create(5, b"01234")).info
    await rig.background()
    assert info.state is State.COMPLETE
    assert offsets(judge) == [5]
    assert await rig.content(info.id) == b"01234"


async def test_an_answer_without_stop_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    judged(rig, HookResponse(status=409))
    await rig.create(5, b"01234")
    await rig.background()
    assert "a post-receive hook answered 'status', which that event does not honour" in caplog.text


# --- order


@pytest.mark.parametrize("slow", [PostCreate, PostReceive])
async def test_events_of_one_upload_are_told_in_their_order(slow: type[HookEvent]) -> None:
    rig = Rig()
    judge = judged(rig)
    judge.events = frozenset({PostCreate, PostReceive, PostFinish})
    ended: list[str] = []

    async def dispatch(event: HookEvent) -> HookResponse | None:
        await asyncio.sleep(0.05 if isinstance(event, slow) else 0)
        ended.append(event.name)
        return None

    judge.dispatch = dispatch  # type: ignore[method-assign]
    await rig.create(5, b"01234")
    await rig.background()
    assert ended == ["post-create", "post-receive", "post-finish"]


async def test_a_hook_that_hangs_holds_no_other_upload() -> None:
    rig = Rig()
    judge = judged(rig)
    hung = asyncio.Event()
    ended: list[UploadId] = []

    async def dispatch(event: HookEvent) -> HookResponse | None:
        if event.upload.id == UPLOAD:
            hung.set()
            await asyncio.Event().wait()
        ended.append(event.upload.id)
        return None

    judge.events = frozenset({PostFinish})
    judge.dispatch = dispatch  # type: ignore[method-assign]
    rig.engine._context.announcer._wanted = frozenset({PostFinish})
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56789")
    await hung.wait()
    other = (await rig.create(5, b"01234")).info.id
    for _ in range(20):
        await asyncio.sleep(0)
    assert ended == [other]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rig.engine.close(), 0.05)


# --- what goes wrong


@pytest.mark.parametrize(
    "error", [UnexpectedEof(), UploadInterrupted(), UploadSizeExceeded()], ids=lambda error: type(error).__name__
)
async def test_a_body_that_ends_badly_is_told(error: TusError) -> None:
    rig = Rig()
    judge = judged(rig)
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(type(error)):
        await rig.append(UPLOAD, 5, source=FakeSource(b"56", failure=error), size=5)
    await rig.background()
    (event,) = [event for event in judge.seen if isinstance(event, PostFail)]
    assert (event.code, event.message, event.upload.offset) == (error.code, str(error), 7)


async def test_a_store_that_fails_is_told_without_its_inside() -> None:
    rig = Rig()
    judge = judged(rig)
    for fault, code, message in (
        (StorageFull, StorageFull.code, StorageFull.message),
        (lambda: OSError("/secret/path"), TusError.code, TusError.message),
    ):
        await rig.put(UPLOAD, b"01234", length=10)
        rig.fail("append", fault)
        with pytest.raises((StorageFull, OSError)):
            await rig.append(UPLOAD, 5, b"56")
        del rig.script.faults["append"]
        await rig.terminate(UPLOAD)
        await asyncio.sleep(0.05)
        event = [event for event in judge.seen if isinstance(event, PostFail)][-1]
        assert (event.code, event.message) == (code, message)


async def test_a_checksum_that_does_not_match_is_told() -> None:
    rig = Rig()
    judge = judged(rig)
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(ChecksumMismatch):
        await rig.append(UPLOAD, 5, b"56", checksum=Checksum("md5", b"x" * 16))
    await rig.background()
    assert [event.code for event in judge.seen if isinstance(event, PostFail)] == ["ERR_CHECKSUM_MISMATCH"]


@pytest.mark.parametrize(
    ("answer", "error"), [(HookResponse(reject=True), UploadRejected), (None, HookError)], ids=["refused", "failed"]
)
async def test_an_upload_that_cannot_be_finished_is_told(answer: HookResponse | None, error: type[TusError]) -> None:
    rig = Rig(hooks=[lambda event: answer], events=[PreFinish, PostFail, PostFinish])
    if answer is None:
        rig.fail("pre-finish", HookError)
    with pytest.raises(error):
        await rig.create(5, b"01234")
    await rig.background()
    assert rig.told == ["post-fail"]
    assert rig.metrics.sums["tusd_uploads_aborted_total"] == 1


async def test_figures_of_what_runs_go_back_to_nothing() -> None:
    rig = Rig()
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    running = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    sums = rig.metrics.sums
    assert (sums["tusd_uploads_active"], sums["tusd_bytes_in_flight"]) == (1, 5)
    source.stop(UnexpectedEof())
    with pytest.raises(UnexpectedEof):
        await running
    assert (sums["tusd_uploads_active"], sums["tusd_bytes_in_flight"], sums["tusd_bytes_received"]) == (0, 0, 2)


async def test_a_client_that_asks_where_to_go_on_resumes() -> None:
    rig = Rig()
    for name, content, length in (("new", b"", 10), ("begun", b"01234", 10), ("complete", b"01234", 5)):
        await rig.head(await rig.put(name, content, length=length))
    assert rig.metrics.sums["tusd_uploads_resumed_total"] == 1
