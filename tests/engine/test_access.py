"""pre-access: who is asked, when, of what; and that who may not touch an upload cannot interrupt it either."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest
from tests.engine.rig import FakeSource, Rig, exchange

from tusd.errors import AccessRejected, TooManyRequests, UploadNotFound
from tusd.hooks import Access, HookEvent, HookResponse, PreAccess
from tusd.model import Final, Partial, State, UploadId
from tusd.protocol.messages import Append, BodyPlan, Inspect, Read, Reading, Request, Terminate

UPLOAD = UploadId("upload")


def refuse(event: HookEvent) -> HookResponse | None:
    return HookResponse(reject=True, status=401, headers={"X-Why": "token"}, body="no\n")


def asked(rig: Rig) -> list[tuple[str, str]]:
    """What was asked for, of which upload."""
    events = [event for event in rig.dispatchers[0].seen if isinstance(event, PreAccess)]
    return [(event.access, event.upload.id) for event in events]


REQUESTS: dict[str, Request] = {
    "inspect": Inspect(UPLOAD),
    "append": Append(upload_id=UPLOAD, offset=5, body=BodyPlan(2)),
    "read": Read(UPLOAD),
    "terminate": Terminate(UPLOAD),
}


@pytest.mark.parametrize("access", REQUESTS)
async def test_every_request_for_an_upload_asks_before_the_lock(access: str) -> None:
    rig = Rig(hooks=[lambda event: None], events=[PreAccess], limits="A")
    await rig.put(UPLOAD, b"01234", length=5 if access == "read" else 10)
    await rig.run(REQUESTS[access], FakeSource(b"56"))
    assert asked(rig) == [(access, UPLOAD)]
    assert rig.log[:4] == ["A.admit", "info", "pre-access", "A.bind"]
    assert "lock" not in rig.log[:4]


@pytest.mark.parametrize("access", REQUESTS)
async def test_a_refusal_is_the_answer_and_touches_nothing(access: str) -> None:
    rig = Rig(hooks=[refuse], events=[PreAccess], limits="A")
    await rig.put(UPLOAD, b"01234", length=5 if access == "read" else 10)
    with pytest.raises(AccessRejected) as raised:
        await rig.run(REQUESTS[access], FakeSource(b"56"))
    assert raised.value.hook == HookResponse(reject=True, status=401, headers={"X-Why": "token"}, body="no\n")
    assert raised.value.info is None, "who may not touch it is not told its offset"
    assert rig.log == ["A.admit", "info", "pre-access", "A.leave"]
    assert await rig.content(UPLOAD) == b"01234"


@pytest.mark.parametrize("access", ["inspect", "append", "terminate"])
async def test_who_may_not_touch_an_upload_cannot_interrupt_it(access: str) -> None:
    allowed = True
    rig = Rig(hooks=[lambda event: None if allowed else refuse(event)], events=[PreAccess])
    await rig.put(UPLOAD, b"01234", length=10)
    source = FakeSource(b"56", hangs=True)
    running = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    allowed = False
    with pytest.raises(AccessRejected):
        await rig.run(REQUESTS[access], FakeSource(b"56"))
    assert not source.stopped.is_set()
    source.send(b"789")
    assert (await running).info.state is State.COMPLETE


async def test_headers_of_an_answer_that_agrees_are_added() -> None:
    agreeing = HookResponse(headers={"X-Seen": "1"})
    rig = Rig(hooks=[lambda event: agreeing], events=[PreAccess])
    await rig.put(UPLOAD, b"01234", length=10)
    for access, request in REQUESTS.items():
        if access != "read":
            assert (await rig.run(request, FakeSource(b"56"))).answer == agreeing  # type: ignore[union-attr]
    await rig.put(UPLOAD, b"01234")
    async with rig.engine(exchange(Read(UPLOAD))) as outcome:
        assert isinstance(outcome, Reading)
        assert outcome.answer == agreeing


async def test_each_part_that_a_final_upload_names_is_asked_for_once() -> None:
    rig = Rig(hooks=[lambda event: None], events=[PreAccess])
    a, b = await rig.put("a", b"01", concat=Partial()), await rig.put("b", b"23", concat=Partial())
    info = (await rig.create(None, concat=Final((a, b, a)))).info
    assert asked(rig) == [("concatenate", a), ("concatenate", b)]
    assert await rig.content(info.id) == b"012301"


async def test_one_part_that_may_not_be_used_refuses_the_final_upload() -> None:
    rig = Rig(hooks=[lambda event: refuse(event) if event.upload.id == "b" else None], events=[PreAccess], limits="A")
    a, b = await rig.put("a", b"01", concat=Partial()), await rig.put("b", b"23", length=9, concat=Partial())
    with pytest.raises(AccessRejected):
        await rig.create(None, concat=Final((a, b)))
    assert {upload.id for upload in await rig.uploads()} == {a, b}
    assert rig.limiters[0].held == {}


async def test_what_is_not_there_is_not_asked_for() -> None:
    rig = Rig(hooks=[refuse], events=[PreAccess])
    for request in REQUESTS.values():
        with pytest.raises(UploadNotFound):
            await rig.run(request, FakeSource(b"56"))
    assert asked(rig) == []


async def test_a_limiter_is_counted_when_it_refuses() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("A.admit", lambda: TooManyRequests(retry_after=1))
    with pytest.raises(TooManyRequests):
        await rig.head(UPLOAD)
    assert rig.metrics.sums["tusd_limit_rejections_total"] == 1


def test_nothing_else_is_asked_for() -> None:
    assert {*REQUESTS, "concatenate"} == set(get_args(Access))
