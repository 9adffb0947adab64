"""Hooks: who is asked, in which order, with what, and which answers count."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.engine.rig import LIFE, FakeDispatcher, Rig

from tusd.errors import HookError, UploadRejected
from tusd.hooks import (
    Changes,
    HookEvent,
    HookResponse,
    PostCreate,
    PostFinish,
    PostTerminate,
    PreAccess,
    PreCreate,
    PreFinish,
    PreTerminate,
)
from tusd.model import Metadata, State, UploadId

UPLOAD = UploadId("upload")


def changing(**changes: object) -> HookResponse:
    return HookResponse(change=Changes(**changes))  # type: ignore[arg-type]


async def test_each_dispatcher_sees_what_the_ones_before_it_changed() -> None:
    first = changing(id=UploadId("first"), metadata=Metadata({"a": b"1"}, "a MQ=="))
    second = changing(max_length=9, storage={"Path": "x"})
    rig = Rig(hooks=[lambda event: first, lambda event: None, lambda event: second, lambda event: None], events=[PreCreate])
    created = await rig.create(5)
    seen = [dispatcher.seen[0].upload for dispatcher in rig.dispatchers]
    assert [upload.id for upload in seen[1:]] == ["first", "first", "first"]
    assert seen[0].id != "first"
    assert [upload.max_length for upload in seen] == [None, None, None, 9]
    assert seen[3].storage == {"Path": "x"}
    assert created.info.id == "first"
    assert created.info.metadata == Metadata({"a": b"1"}, "a MQ==")
    assert created.info.max_length == 9


async def test_a_later_change_wins() -> None:
    rig = Rig(
        hooks=[
            lambda event: changing(id=UploadId("first"), max_length=7),
            lambda event: changing(id=UploadId("second")),
        ],
        events=[PreCreate],
    )
    info = (await rig.create(5)).info
    assert (info.id, info.max_length) == ("second", 7)


async def test_the_first_refusal_ends_it() -> None:
    rig = Rig(
        hooks=[
            lambda event: HookResponse(headers={"X-A": "1"}),
            lambda event: HookResponse(reject=True, status=403, body="no"),
            lambda event: HookResponse(status=200),
        ],
        events=[PreCreate],
    )
    with pytest.raises(UploadRejected) as raised:
        await rig.create(5)
    assert raised.value.hook == HookResponse(reject=True, status=403, body="no", headers={"X-A": "1"})
    assert [len(dispatcher.seen) for dispatcher in rig.dispatchers] == [1, 1, 0]
    assert rig.log == ["pre-create", "pre-create"]


async def test_answers_merge_and_the_later_wins() -> None:
    rig = Rig(
        hooks=[
            lambda event: HookResponse(status=202, headers={"X-A": "1", "X-B": "1"}, body="one"),
            lambda event: HookResponse(headers={"x-b": "2", "X-C": "2"}),
            lambda event: HookResponse(body="three"),
        ],
        events=[PreCreate],
    )
    assert (await rig.create(5)).answer == HookResponse(status=202, headers={"X-A": "1", "x-b": "2", "X-C": "2"}, body="three")


async def test_an_empty_answer_wins_over_a_full_one() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(body="one"), lambda event: HookResponse(body="")], events=[PreCreate])
    assert (await rig.create(5)).answer == HookResponse(body="")


async def test_nobody_is_asked_what_nobody_wants() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(reject=True)], events=[PostFinish])
    created = await rig.create(5, b"01234")
    assert (created.info.state, created.info.explicit) == (State.COMPLETE, False)
    await rig.background()
    assert rig.told == ["post-finish"]
    assert [type(event) for event in rig.dispatchers[0].seen] == [PostFinish]


async def test_only_those_who_want_an_event_get_it() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(reject=True), lambda event: None])
    rig.dispatchers[0].events = frozenset({PreTerminate})
    rig.dispatchers[1].events = frozenset({PreCreate, PostTerminate})
    rig = _again(rig)
    await rig.create(5)
    assert [len(dispatcher.seen) for dispatcher in rig.dispatchers] == [0, 1]


def _again(rig: Rig) -> Rig:
    """The same dispatchers, whose wishes an engine reads when it is made."""
    from tusd.engine.announce import Announcer

    rig.engine._context.announcer = Announcer(rig.dispatchers, rig.metrics)
    return rig


async def test_all_events_of_an_upload_in_their_order() -> None:
    rig = Rig(hooks=[lambda event: None])
    upload = (await rig.create(5, b"0")).info.id
    await rig.append(upload, 1, b"1234")
    await rig.background()
    await rig.terminate(upload)
    await rig.background()
    assert [type(event) for event in rig.dispatchers[0].seen] == [
        PreCreate,
        PostCreate,
        PreFinish,
        PostFinish,
        PreTerminate,
        PostTerminate,
    ]
    assert [event.head.method for event in rig.dispatchers[0].seen] == ["CREATE"] * 2 + ["APPEND"] * 2 + ["TERMINATE"] * 2
    assert {event.upload.id for event in rig.dispatchers[0].seen} == {upload}
    assert [(event.upload.offset, event.upload.state) for event in rig.dispatchers[0].seen] == [
        (0, State.RECEIVING),
        (0, State.RECEIVING),
        (5, State.FINISHING),
        (5, State.COMPLETE),
        (5, State.COMPLETE),
        (5, State.COMPLETE),
    ]
    assert rig.metrics.sums["tusd_hook_invocations_total"] == len(LIFE)
    assert "tusd_hook_errors_total" not in rig.metrics.sums


# --- answers that cannot be used

BAD = {
    "a line break in a header": HookResponse(headers={"X-A": "1\r\nX-B: 2"}),
    "a line feed": HookResponse(headers={"X-A": "1\n2"}),
    "a NUL": HookResponse(headers={"X-A": "\0"}),
    "a DEL": HookResponse(headers={"X-A": "\x7f"}),
    "a C1 control": HookResponse(headers={"X-A": "\x85"}),
    "a line separator": HookResponse(headers={"X-A": "\u2028"}),
    "a colon in a name": HookResponse(headers={"X:A": "1"}),
    "a space in a name": HookResponse(headers={"X A": "1"}),
    "no name": HookResponse(headers={"": "1"}),
    "a name that is not ASCII": HookResponse(headers={"X-Ä": "1"}),
    "a status that is none": HookResponse(status=99),
    "an interim status": HookResponse(status=101),
    "a status above all": HookResponse(status=600),
}
BAD_CHANGES = {
    "an empty id": Changes(id=UploadId("")),
    "an id that leaves the root": Changes(id=UploadId("../x")),
    "an id with a line break": Changes(id=UploadId("a\nb")),
    "an id like a file of the store": Changes(id=UploadId("a.info")),
    "a limit below zero": Changes(max_length=-1),
    "metadata with a line break": Changes(metadata=Metadata({"a": b""}, "a\r\nX-B: 2")),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_an_answer_that_cannot_be_sent_is_an_error(answer: HookResponse) -> None:
    rig = Rig(hooks=[lambda event: answer], limits="A")
    with pytest.raises(HookError):
        await rig.create(5)
    assert await rig.uploads() == []
    assert rig.limiters[0].held == {}
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(HookError):
        await rig.append(UPLOAD, 5, b"56789")
    with pytest.raises(HookError):
        await rig.terminate(UPLOAD)
    assert (await rig.kept.info(UPLOAD)).state is State.FINISHING
    assert rig.metrics.sums["tusd_hook_errors_total"] == 3


@pytest.mark.parametrize("change", BAD_CHANGES.values(), ids=BAD_CHANGES)
async def test_a_change_that_cannot_be_made_is_an_error(change: Changes) -> None:
    rig = Rig(hooks=[lambda event: HookResponse(change=change)], events=[PreCreate])
    with pytest.raises(HookError):
        await rig.create(None, b"01234")
    assert await rig.uploads() == []


async def test_what_an_event_does_not_honour_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    answer = HookResponse(change=Changes(max_length=9), status=202)
    rig = Rig(hooks=[lambda event: answer], events=[PreFinish])
    await rig.put(UPLOAD, b"01234", length=10)
    assert (await rig.append(UPLOAD, 5, b"56789")).answer == HookResponse(status=202)
    assert "a pre-finish hook answered 'change', which that event does not honour" in caplog.text
    assert rig.metrics.sums["tusd_hook_answers_ignored_total"] == 1


@pytest.mark.parametrize("kind", [PreCreate, PreAccess, PreFinish, PreTerminate])
async def test_who_would_forbid_what_cannot_be_forbidden_is_not_taken_for_agreeing(kind: type[HookEvent]) -> None:
    rig = Rig(hooks=[lambda event: HookResponse(stop=True)], events=[kind])
    await rig.put(UPLOAD, b"01234", length=10)
    with pytest.raises(HookError, match="'stop', which that event does not honour"):
        await rig.create(5)
        await rig.append(UPLOAD, 5, b"56789")
        await rig.terminate(UPLOAD)
    assert await rig.content(UPLOAD) in (b"01234", b"0123456789")


async def test_the_failure_of_who_is_asked_names_the_event_and_keeps_what_it_says() -> None:
    def busy(event: HookEvent) -> None:
        raise HookError("come later", permanent=True, retry_after=7)

    rig = Rig(hooks=[busy], events=[PreCreate])
    with pytest.raises(HookError, match=r"^the hook pre-create failed: come later$") as caught:
        await rig.create(5)
    assert (caught.value.permanent, caught.value.retry_after) == (True, 7)


@pytest.mark.parametrize("error", [HookError, RuntimeError, OSError])
async def test_a_hook_that_fails_creates_nothing(error: type[Exception]) -> None:
    rig = Rig(hooks=[lambda event: None], limits="A")
    rig.fail("pre-create", error)
    with pytest.raises(HookError):
        await rig.create(5, b"01")
    assert rig.log == ["A.admit", "pre-create", "A.leave"]
    assert rig.metrics.sums["tusd_hook_errors_total"] == 1


# --- telling


async def test_a_told_hook_holds_nothing_up() -> None:
    rig = Rig(hooks=[lambda event: None])
    reached = rig.hang("tell")
    created = await asyncio.wait_for(rig.create(5, b"01234"), 1)
    assert created.info.state is State.COMPLETE
    assert rig.locks.queues == {}
    await reached.wait()
    closing = asyncio.create_task(rig.engine.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    rig.heal("tell")
    await asyncio.wait_for(closing, 1)
    assert rig.told == ["post-create", "post-finish"]


@pytest.mark.parametrize("error", [HookError, RuntimeError])
async def test_a_told_hook_that_fails_is_logged_and_fails_nothing(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(hooks=[lambda event: None, lambda event: None], events=[PostCreate])
    rig.fail("tell", error)
    await rig.create(5)
    await rig.background()
    assert rig.told == ["post-create", "post-create"]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2
    raised = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert len(raised) == (2 if error is RuntimeError else 0), "a hook's bug has its traceback in the log"
    assert rig.metrics.sums["tusd_hook_errors_total"] == 2


async def test_what_is_answered_to_telling_is_ignored() -> None:
    class Talkative(FakeDispatcher):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            await super().dispatch(event)
            return HookResponse(reject=True, status=500)

    rig = Rig(hooks=[lambda event: None], events=[PostCreate])
    rig.dispatchers[0] = Talkative(rig, events=[PostCreate])
    _again(rig)
    created = await rig.create(5)
    await rig.background()
    assert created.answer is None
    assert rig.told == ["post-create"]


async def test_closing_gives_up_when_it_is_cancelled() -> None:
    rig = Rig(hooks=[lambda event: None], events=[PostCreate])
    reached = rig.hang("tell")
    await rig.create(5)
    await reached.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await rig.engine.close()
    await asyncio.wait_for(rig.engine.close(), 1)
