"""Limiters are told what the store holds: who tells them, when, and what happens if that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.engine.rig import FakeLimiter, Rig

import tusd.engine.recount
from tusd.engine.recount import recounted
from tusd.errors import StorageUnavailable
from tusd.model import UploadInfo
from tusd.storage import Listable


class Counting(FakeLimiter):
    """Takes what it is told for the truth."""

    async def recount(self, uploads: AsyncIterator[UploadInfo]) -> None:
        self.held = {info.id: info.room async for info in uploads}


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr("tests.engine.rig.FakeLimiter", Counting)
    return Rig(limits="AB")


async def until_counted(rig: Rig) -> None:
    async with asyncio.timeout(2):
        while not all(limiter.held for limiter in rig.limiters):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_the_first_worker_lets_each_count_what_is_there(rig: Rig) -> None:
    await rig.put("whole", b"0123")
    await rig.put("begun", b"01", length=10)
    await rig.put("deferred", b"012", deferred=True)
    await rig.engine.start(number=0)
    await until_counted(rig)
    assert [limiter.held for limiter in rig.limiters] == [{"whole": 4, "begun": 10, "deferred": 3}] * 2
    await rig.background()


async def test_other_workers_leave_it_to_the_first(rig: Rig) -> None:
    await rig.put("whole", b"0123")
    await rig.engine.start(number=1)
    await rig.background()
    assert [limiter.held for limiter in rig.limiters] == [{}, {}]


async def test_one_counts_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.recount, "_PATIENCE", 0.01)
    async with rig.locks.lock("~recount", lambda: None):
        assert not await recounted(rig.engine._context, rig.limiters)
    assert await recounted(rig.engine._context, rig.limiters)


async def test_it_is_tried_again_soon_after_a_failure_and_much_later_after_a_success(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tusd.engine.recount, "_SOON", 0.01)
    await rig.put("whole", b"0123")
    failures = [StorageUnavailable(), OSError("gone"), None, None]
    listing = rig.kept.uploads
    calls = 0

    async def uploads() -> AsyncIterator[UploadInfo]:
        nonlocal calls
        calls += 1
        if (failure := failures.pop(0)) is not None:
            raise failure
        async for info in listing():
            yield info

    monkeypatch.setattr(rig.kept, "uploads", lambda idle_since=None: uploads())
    await rig.engine.start()
    await until_counted(rig)
    await asyncio.sleep(0.05)
    assert calls == 4, "two failures, then one listing for each limiter"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    await rig.background()


async def test_a_store_that_cannot_list_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tests.engine.rig.FakeLimiter", Counting)
    rig = Rig(limits="A", without=frozenset({Listable}))
    await rig.put("whole", b"0123")
    await rig.engine.start()
    await rig.background()
    assert "this storage cannot list the uploads that it has" in caplog.text
    assert rig.limiters[0].held == {}


async def test_limiters_that_do_not_count_cost_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(limits="A")
    monkeypatch.setattr(rig.kept, "uploads", None)
    await rig.engine.start()
    await rig.background()
