"""Reservations and pacing of appends."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rig import FakeLimiter, FakeMetrics, FakeSource, Rig, Script

import tusd.engine.body
from tusd.errors import LeaseLost, QuotaExceeded, StorageFull, StorageUnavailable, UnexpectedEof, UploadExists, UploadInterrupted
from tusd.hooks import Changes, HookResponse, PostTerminate, PreCreate
from tusd.limiting import Allowance
from tusd.model import State, UploadId, UploadInfo
from tusd.plugin import Worker
from tusd.protocol.messages import Head, Request
from tusd.protocol.rules import Policy
from tusd.registry import load, open_one

UPLOAD = UploadId("upload")


def reserved(rig: Rig) -> list[str]:
    return [call for call in rig.log if "reserve" in call]


async def test_an_append_of_known_length_reserves_nothing() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56789")
    assert rig.log == [
        "A.admit",
        "info",
        "A.bind",
        "lock",
        "open",
        "append",
        "A.spend 5",
        "appended 5",
        "finish",
        "unlock",
        "A.leave",
    ]


async def test_a_length_is_reserved_before_it_is_declared() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    await rig.append(UPLOAD, 5, length=10)
    assert rig.log[5:-3] == ["lock", "open", "A.reserve 10", "B.reserve 10", "save length=10 receiving"]


async def test_a_length_that_is_too_much_is_not_declared() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("B.reserve", lambda: QuotaExceeded(short_by=5))
    source = FakeSource(b"56")
    with pytest.raises(QuotaExceeded) as raised:
        await rig.append(UPLOAD, 5, length=10, source=source, size=2)
    assert raised.value.info == await rig.kept.info(UPLOAD)
    assert reserved(rig) == ["A.reserve 10", "B.reserve 10", "A.reserve 5"]
    assert (await rig.kept.info(UPLOAD)).length is None
    assert source.reads == 0
    assert rig.log[-3:] == ["unlock", "B.leave", "A.leave"]


async def test_a_length_whose_saving_fails_is_given_back() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("save", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.append(UPLOAD, 5, length=10)
    assert reserved(rig) == ["A.reserve 10", "A.reserve 5"]


async def test_a_length_that_was_saved_though_saving_failed_stays_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker("storage:file", logging.getLogger("test"), FakeMetrics(), tmp_path, 0)
    async with open_one(load("storage", "file", {"directory": str(tmp_path / "data")}), worker) as store:
        rig = Rig(limits="A", kept=store)
        upload = (await rig.create(None)).info.id
        directory = type(store.directory)
        replace_file = directory.replace_file

        def landing(*args: Any, **options: Any) -> None:
            replace_file(*args, **options)
            raise OSError(errno.EIO, "the folder could not be synced")

        with monkeypatch.context() as patch:
            patch.setattr(directory, "replace_file", landing)
            with pytest.raises(StorageUnavailable):
                await rig.append(upload, 0, length=10)
        assert (await store.info(upload)).length == 10
        assert rig.limiters[0].held == {upload: 10}


async def test_an_append_of_deferred_length_reserves_what_is_there_now() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    with pytest.raises(UnexpectedEof):
        await rig.append(UPLOAD, 5, source=FakeSource(b"56", failure=UnexpectedEof()), size=4)
    assert [step for step in rig.log if "reserve" in step or "append" in step] == [
        *("A.reserve 9", "B.reserve 9", "append", "appended 2", "A.reserve 7", "B.reserve 7")
    ]


async def test_what_a_lost_client_sent_is_reserved_too() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    with pytest.raises(UnexpectedEof):
        await rig.append(UPLOAD, 5, source=FakeSource(b"56", failure=UnexpectedEof()), size=5)
    assert rig.limiters[0].held == {UPLOAD: 7}


@pytest.mark.parametrize("error", [StorageFull, LeaseLost, OSError])
async def test_what_a_failing_append_stored_is_reserved_too(error: type[Exception]) -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("appended", error)
    with pytest.raises(error):
        await rig.append(UPLOAD, 5, b"56")
    assert rig.limiters[0].held == {UPLOAD: 7}


async def test_a_body_of_known_size_that_has_no_room_is_not_read() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("A.reserve", lambda: QuotaExceeded(short_by=1))
    source = FakeSource(b"56")
    with pytest.raises(QuotaExceeded) as raised:
        await rig.append(UPLOAD, 5, source=source, size=2)
    assert raised.value.info is not None
    assert (raised.value.info.offset, source.reads) == (5, 0)


async def test_room_for_a_body_of_unknown_size_is_reserved_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.body, "RESERVE_STEP", 4)
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    await rig.append(UPLOAD, 5, b"567", b"89abc", b"d", chunked=True)
    assert reserved(rig) == ["A.reserve 9", "A.reserve 13", "A.reserve 17", "A.reserve 14"]


@pytest.mark.parametrize("pieces", [(b"56", b"78", b"9abc"), (b"56789abc",), (b"5678", b"9abc")])
async def test_a_body_of_unknown_size_ends_where_its_room_ends(
    monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(tusd.engine.body, "RESERVE_STEP", 4)
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    left = 9

    async def full() -> None:
        if any(int(step.split()[1]) > left for step in reserved(rig)[-1:]):
            raise QuotaExceeded(short_by=1)

    rig.script.faults["A.reserve"] = full
    with pytest.raises(QuotaExceeded) as raised:
        await rig.append(UPLOAD, 5, *pieces, chunked=True)
    assert raised.value.info is not None
    assert raised.value.info.offset == 9
    assert await rig.content(UPLOAD) == b"012345678"
    assert rig.limiters[0].held == {UPLOAD: 9}


@pytest.mark.parametrize("pieces", [(b"56", b"78", b"9"), (b"56789",), (b"5678", b"9ab")])
async def test_what_is_left_of_the_room_is_used_though_it_is_less_than_a_step(
    monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(tusd.engine.body, "RESERVE_STEP", 4)
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)

    async def full() -> None:
        if (short_by := int(reserved(rig)[-1].split()[1]) - 10) > 0:
            raise QuotaExceeded(short_by=short_by)

    rig.script.faults["A.reserve"] = full
    if sum(map(len, pieces)) > 5:
        with pytest.raises(QuotaExceeded):
            await rig.append(UPLOAD, 5, *pieces, chunked=True)
    else:
        await rig.append(UPLOAD, 5, *pieces, chunked=True)
    assert await rig.content(UPLOAD) == b"0123456789"
    assert rig.limiters[0].held == {UPLOAD: 10}


async def test_no_more_is_reserved_than_the_upload_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.body, "RESERVE_STEP", 4)
    rig = Rig(Policy(max_size=8), limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    await rig.append(UPLOAD, 5, b"56", chunked=True)
    assert reserved(rig) == ["A.reserve 8", "A.reserve 7"]


async def test_each_piece_is_spent_before_it_is_stored() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56", b"7")
    assert rig.log[7:13] == ["append", "A.spend 2", "B.spend 2", "A.spend 1", "B.spend 1", "appended 3"]


async def test_limiters_that_do_not_pace_see_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLimiter, "paces", False)
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56", b"7")
    assert rig.log == ["A.admit", "info", "A.bind", "lock", "open", "append", "appended 3", "unlock", "A.leave"]


async def test_a_creation_that_completes_holds_its_length() -> None:
    rig = Rig(limits="A")
    created = await rig.create(5, b"01234")
    assert created.info.state is State.COMPLETE
    assert rig.limiters[0].held == {created.info.id: 5}


async def test_a_creation_of_deferred_length_holds_what_came() -> None:
    rig = Rig(limits="A")
    created = await rig.create(None, b"01234")
    assert rig.limiters[0].held == {created.info.id: 5}
    await rig.append(created.info.id, 5, b"5", length=6)
    assert rig.limiters[0].held == {created.info.id: 6}


class _Forever:
    """An allowance that lets nothing more pass."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.cancelled = 0

    async def bind(self, info: UploadInfo) -> None:
        pass

    async def spend(self, n: int) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def paced(rig: Rig) -> _Forever:
    """A rig whose limiter lets no byte pass."""
    allowance = _Forever()

    @asynccontextmanager
    async def admit(head: Head, request: Request) -> AsyncIterator[Allowance]:
        yield allowance

    rig.limiters[0].admit = admit  # type: ignore[method-assign]
    return allowance


async def test_a_body_that_is_slowed_down_lets_go_when_somebody_else_wants_the_upload() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    allowance = paced(rig)
    running = asyncio.create_task(rig.append(UPLOAD, 5, b"56", b"789"))
    await allowance.waiting.wait()
    async with asyncio.timeout(2):
        assert (await rig.head(UPLOAD)).offset == 7, "what had come is kept"
    with pytest.raises(UploadInterrupted):
        await running
    assert allowance.cancelled == 1


async def test_a_cancelled_body_that_is_slowed_down_leaves_nothing_behind() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    allowance = paced(rig)
    running = asyncio.create_task(rig.append(UPLOAD, 5, b"56", b"789"))
    await allowance.waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert allowance.cancelled == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_removal_whose_room_cannot_be_given_back_now_is_told_and_counted() -> None:
    rig = Rig(limits="A", hooks=[lambda event: None], events=[PostTerminate])
    await rig.put(UPLOAD, b"01234", length=10)
    rig.fail("A.reserve", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.terminate(UPLOAD)
    assert await rig.uploads() == []
    await rig.background()
    assert rig.told == ["post-terminate"]
    assert rig.metrics.sums["tusd_uploads_terminated"] == 1


class _Owners(FakeLimiter):
    """Counts each upload for whoever created it."""

    def __init__(self, name: str, script: Script) -> None:
        super().__init__(name, script)
        self.owners: dict[UploadId, str] = {}
        self._heads = 0

    def remember(self, head: Head) -> Mapping[str, str]:
        self._heads += 1
        return {"owner": str(self._heads)}

    async def reserve(self, info: UploadInfo, total: int) -> None:
        await super().reserve(info, total)
        self.owners[info.id] = info.notes["owner"]


async def test_who_loses_an_id_to_another_does_not_take_over_its_room() -> None:
    rig = Rig(hooks=[lambda event: HookResponse(change=Changes(id=UPLOAD))], events=[PreCreate])
    limiter = _Owners("A", rig.script)
    rig.engine.limiters = rig.engine._context.limiters = (limiter,)
    reached = rig.hang("create")
    both = [asyncio.create_task(rig.create(10)), asyncio.create_task(rig.create(20))]
    await reached.wait()
    await asyncio.sleep(0.01)
    rig.heal("create")
    _, lost = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(lost, UploadExists)
    (there,) = await rig.uploads()
    assert limiter.held == {UPLOAD: 10}
    assert limiter.owners == {UPLOAD: there.notes["owner"]}
