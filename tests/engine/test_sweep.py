"""The sweeper: what goes, what stays, and what it does not wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.engine.rig import Rig

import tusd.engine.background
import tusd.engine.sweep
from tusd.engine.sweep import Sweeper, sweeper_of
from tusd.errors import HookError, StorageUnavailable
from tusd.hooks import NO_REQUEST, HookEvent, HookResponse, PostExpire, PostFinish, PreFinish
from tusd.model import Final, Partial, State, UploadId, UploadInfo, utcnow
from tusd.protocol.rules import EXPIRE_AFTER, EXPIRE_FINISHED_AFTER, Policy
from tusd.storage import Listable, Terminable

UPLOAD = UploadId("upload")
HOUR = 3600.0
RULES = Policy(expire_after=HOUR, expire_finished_after=2 * HOUR)


def age(rig: Rig, upload: UploadId, hours: float, **notes: str) -> None:
    """Let an upload's last byte be so old."""
    kept = rig.kept._kept[upload]
    kept.info = replace(kept.info, modified=utcnow() - timedelta(hours=hours), notes=notes)


def sweeper(rig: Rig, *, remove_parts: bool = False) -> Sweeper:
    return Sweeper(rig.engine._context, 0.01, remove_parts)


async def left(rig: Rig) -> set[str]:
    return {info.id for info in await rig.uploads()}


@pytest.mark.parametrize(
    ("content", "hours", "notes", "goes"),
    [
        (b"01234", 0.9, {}, False),
        (b"01234", 1.1, {}, True),
        (b"0123456789", 1.1, {}, False),
        (b"0123456789", 2.1, {}, True),
        (b"01234", 1.1, {EXPIRE_AFTER: "7200"}, False),
        (b"01234", 0.5, {EXPIRE_AFTER: "60"}, True),
        (b"0123456789", 2.1, {EXPIRE_FINISHED_AFTER: "36000"}, False),
        (b"0123456789", 0.5, {EXPIRE_FINISHED_AFTER: "60"}, True),
        (b"0123456789", 0.5, {EXPIRE_AFTER: "60"}, False),
    ],
)
async def test_what_is_over_goes(content: bytes, hours: float, notes: dict[str, str], goes: bool) -> None:
    rig = Rig(RULES)
    age(rig, await rig.put(UPLOAD, content, length=10), hours, **notes)
    assert [doomed.reason async for doomed in sweeper(rig).doomed()] == ["expired"] * goes
    assert await left(rig) == {UPLOAD}, "looking removes nothing"
    assert await sweeper(rig).round() == goes
    assert await left(rig) == (set() if goes else {UPLOAD})


async def test_its_room_is_given_back_and_it_is_told_and_counted() -> None:
    rig = Rig(RULES, limits="A", hooks=[lambda event: None], events=[PostExpire])
    rig.limiters[0].held[UPLOAD] = 10
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    assert await sweeper(rig).round() == 1
    await rig.background()
    assert rig.limiters[0].held == {}
    (event,) = rig.dispatchers[0].seen
    assert isinstance(event, PostExpire)
    assert (event.upload.id, event.upload.offset, event.reason, event.head) == (UPLOAD, 5, "expired", NO_REQUEST)
    assert rig.metrics.sums["tusd_uploads_expired_total"] == 1
    assert rig.locks.queues == {}


async def test_an_upload_at_work_is_neither_interrupted_for_long_nor_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.sweep, "_PATIENCE", 0.05)
    rig = Rig(RULES)
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    async with rig.locks.lock(UPLOAD, lambda: None):
        assert await sweeper(rig).round() == 0
    assert await left(rig) == {UPLOAD}


async def test_a_byte_that_comes_before_the_lock_saves_it() -> None:
    rig = Rig(RULES)
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    one = sweeper(rig)
    doomed = [doomed async for doomed in one.doomed()]
    age(rig, UPLOAD, 0)
    assert await one.removed(doomed[0]) is False
    assert await left(rig) == {UPLOAD}


async def test_one_sweeps_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.sweep, "_PATIENCE", 0.05)
    rig = Rig(RULES)
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    async with rig.locks.lock("~sweeper", lambda: None):
        assert await sweeper(rig).round() == 0
    assert await sweeper(rig).round() == 1


async def test_one_that_cannot_be_removed_does_not_keep_the_others() -> None:
    rig = Rig(RULES)
    for name in ("a", "b"):
        age(rig, await rig.put(name, b"01234", length=10), 2)
    failures = [StorageUnavailable()]

    async def once() -> None:
        if failures:
            raise failures.pop()

    rig.script.faults["terminate"] = once
    assert await sweeper(rig).round() == 1
    assert await left(rig) == {"a"}
    assert await sweeper(rig).round() == 1


async def test_a_round_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.sweep, "_MOST", 2)
    rig = Rig(RULES)
    for name in "abcde":
        age(rig, await rig.put(name, b"01234", length=10), 2)
    assert [await sweeper(rig).round() for _ in range(3)] == [2, 2, 1]


# --- parts


async def concatenated(rig: Rig, **states: State) -> None:
    """Parts a, b, c; finals over them, each in a state."""
    for name in "abc":
        await rig.put(name, b"01", concat=Partial())
    for name, state in states.items():
        await rig.put(name, b"0101", concat=Final((UploadId(name[0]), UploadId(name[1]))), state=state)


async def test_parts_of_complete_final_uploads_go_when_told_to() -> None:
    rig = Rig()
    await concatenated(rig, ab=State.COMPLETE)
    assert await sweeper(rig).round() == 0
    one = sweeper(rig, remove_parts=True)
    assert {(doomed.info.id, doomed.reason) async for doomed in one.doomed()} == {("a", "concatenated"), ("b", "concatenated")}
    assert await one.round() == 2
    assert await left(rig) == {"c", "ab"}


async def test_a_part_that_another_final_upload_waits_for_stays() -> None:
    rig = Rig()
    await concatenated(rig, ab=State.COMPLETE, bc=State.RECEIVING)
    assert await sweeper(rig, remove_parts=True).round() == 1
    assert await left(rig) == {"b", "c", "ab", "bc"}


# --- what is not finished


async def test_what_could_not_be_finished_is_tried_again_less_and_less_often() -> None:
    healthy = False

    def judge(event: HookEvent) -> HookResponse | None:
        if not healthy:
            raise HookError("down")
        return None

    rig = Rig(hooks=[judge], events=[PreFinish])
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    one = sweeper(rig)
    for _ in range(5):
        await one.round()
    assert rig.log.count("pre-finish") == 1
    healthy = True
    await asyncio.sleep(0.05)
    await one.round()
    assert (await rig.kept.info(UPLOAD)).state is State.COMPLETE


async def test_a_final_upload_that_a_stop_left_without_its_last_part_is_filled_when_that_has_come() -> None:
    rig = Rig(hooks=[lambda event: None], events=[PostFinish])
    part = await rig.put("part", b"01", length=5, concat=Partial())
    await rig.put(UPLOAD, deferred=True, concat=Final((part,)), state=State.RECEIVING)
    one = sweeper(rig)
    await one.round()
    await rig.append(part, 2, b"234")
    assert (await rig.kept.info(UPLOAD)).state is State.RECEIVING
    await asyncio.sleep(0.03)
    await one.round()
    await rig.background()
    assert (await rig.kept.info(UPLOAD)).state is State.COMPLETE
    assert await rig.content(UPLOAD) == b"01234"


async def test_one_that_a_crash_left_with_all_its_bytes_is_finished() -> None:
    rig = Rig(hooks=[lambda event: None], events=[PreFinish, PostFinish])
    await rig.put(UPLOAD, b"01234", state=State.RECEIVING)
    await sweeper(rig).round()
    await rig.background()
    assert (await rig.kept.info(UPLOAD)).state is State.COMPLETE
    assert rig.told == ["post-finish"]


async def test_it_forgets_its_tries_to_finish_what_is_finished_or_gone() -> None:
    rig = Rig(hooks=[lambda event: HookResponse()], events=[PreFinish])
    part = await rig.put("part", b"01234", concat=Partial())
    await rig.put(UPLOAD, length=5, concat=Final((part,)), state=State.FINISHING)
    rig.fail("pre-finish", lambda: HookError("down"))
    other = await rig.put("other", b"01234", state=State.FINISHING)
    one = sweeper(rig)
    await one.round()
    assert one.tries.keys() == {UPLOAD, other}
    rig.heal("pre-finish")
    await rig.head(other)
    await rig.head(UPLOAD)
    await rig.background()
    await one.round()
    assert one.tries == {}


async def test_what_pre_finish_refuses_then_is_removed() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(reject=True)], events=[PreFinish])
    await rig.put(UPLOAD, b"01234", state=State.FINISHING)
    await sweeper(rig).round()
    assert await left(rig) == set()


# --- when it runs


@pytest.mark.parametrize(
    ("policy", "without", "runs", "warns"),
    [
        (Policy(), frozenset[type]({}), False, False),
        (RULES, frozenset[type]({}), True, False),
        (Policy(expire_finished_after=1), frozenset[type]({}), True, False),
        (Policy(remove_parts=True), frozenset[type]({}), True, False),
        (RULES, frozenset[type]({Listable}), False, True),
        (RULES, frozenset[type]({Terminable}), False, True),
    ],
)
async def test_it_runs_where_there_is_something_to_do(
    policy: Policy, without: frozenset[type], runs: bool, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(policy, without=without)
    assert (sweeper_of(rig.engine._context) is not None) == runs
    assert ("expire but are not removed" in caplog.text) == warns


async def test_it_sweeps_by_itself_until_the_server_stops() -> None:
    rig = Rig(replace(RULES, sweep_interval=0.01))
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    await rig.engine.start()
    async with asyncio.timeout(5):
        while await rig.uploads():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.wait_for(rig.engine.close(), 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("error", "said"), [(StorageUnavailable, "a sweep ended early"), (ZeroDivisionError, "the sweeper failed; it begins again")]
)
async def test_an_outage_of_the_storage_does_not_end_it(
    error: type[Exception], said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tusd.engine.background, "_REST", 0.01)
    rig = Rig(replace(RULES, sweep_interval=0.01))
    age(rig, await rig.put(UPLOAD, b"01234", length=10), 2)
    listed, uploads = 0, rig.kept.uploads

    async def failing(idle_since: datetime | None = None) -> AsyncIterator[UploadInfo]:
        nonlocal listed
        listed += 1
        if listed < 3:
            raise error()
        async for info in uploads(idle_since):
            yield info

    rig.kept.uploads = failing  # type: ignore[method-assign]
    await rig.engine.start()
    async with asyncio.timeout(5):
        while rig.kept._kept:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await rig.engine.close()
    assert said in caplog.text
