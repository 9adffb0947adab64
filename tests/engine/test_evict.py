"""Making room: what goes, in which order, what stays whatever happens, and that no more goes than is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import pytest
from tests.engine.rig import FakeLimiter, FakeSource, Rig

from tusd.engine import evict, ranking
from tusd.errors import QuotaExceeded, UploadNotFound
from tusd.hooks import NO_REQUEST, PostExpire
from tusd.model import Eviction, Final, Partial, State, UploadId, UploadInfo, utcnow
from tusd.storage import Capability, Listable, Terminable

Order = Literal["oldest", "largest", "least-recently-touched"]
OLDEST = Eviction(order="oldest", finished=True, idle=60)


class Space(FakeLimiter):
    """Has `size` bytes in all, and lets other uploads go for new ones."""

    size = 100
    eviction: Eviction | None = OLDEST

    async def reserve(self, info: UploadInfo, total: int) -> None:
        held = self.held.get(info.id, 0)
        short_by = sum(self.held.values()) - held + total - self.size
        if total > held and short_by > 0:
            self._script.log.append(f"{self.name} is full")
            raise QuotaExceeded(short_by=short_by, evict=self.eviction if total <= self.size else None)
        self.held[info.id] = total
        await super().reserve(info, total)


def made(eviction: Eviction = OLDEST, *, limits: Sequence[str] = "A", without: frozenset[type[Capability]] = frozenset()) -> Rig:
    rig = Rig(limits=limits, hooks=[lambda event: None], events=[PostExpire], without=without)
    rig.limiters = [Space(name, rig.script) for name in limits]
    rig.engine.limiters = rig.engine._context.limiters = tuple(rig.limiters)
    for limiter in rig.limiters:
        assert isinstance(limiter, Space)
        limiter.eviction = eviction
    return rig


async def put(
    rig: Rig,
    name: str,
    size: int,
    *,
    age: float = 3600,
    idle: float | None = None,
    length: int | None = None,
    deferred: bool = False,
    concat: Partial | Final | None = None,
    state: State | None = None,
) -> None:
    """An upload that was created `age` seconds ago, had its last byte `idle` seconds ago, and is counted."""
    await rig.put(name, b"x" * size, length=length, deferred=deferred, concat=concat, state=state)
    kept = rig.kept._kept[UploadId(name)]
    now = utcnow()
    idle = age if idle is None else idle
    kept.info = replace(kept.info, created=now - timedelta(seconds=age), modified=now - timedelta(seconds=idle))
    for limiter in rig.limiters:
        limiter.held[kept.info.id] = kept.info.room


def left(rig: Rig) -> set[str]:
    """The uploads that were put there and are there still."""
    return {upload for upload in rig.kept._kept if len(upload) < 32}


async def refused(rig: Rig, length: int) -> None:
    before = left(rig)
    with pytest.raises(QuotaExceeded):
        await rig.create(length)
    assert left(rig) == before, "something went in vain"


@pytest.mark.parametrize(
    ("order", "stays"),
    [("oldest", {"b", "c"}), ("largest", {"a", "b"}), ("least-recently-touched", {"a", "c"})],
)
async def test_what_goes_first(order: Order, stays: set[str]) -> None:
    rig = made(Eviction(order=order, finished=True, idle=60))
    await put(rig, "b", 30, age=200, idle=190)
    await put(rig, "a", 30, age=300, idle=100)
    await put(rig, "c", 40, age=100, idle=100)
    created = await rig.create(10)
    assert left(rig) == stays
    assert rig.limiters[0].held[created.info.id] == 10


async def test_as_many_go_as_are_needed_and_no_more() -> None:
    rig = made()
    for age, name in enumerate("edcba", 1):
        await put(rig, name, 20, age=100 * age)
    await rig.create(50)
    assert left(rig) == {"d", "e"}


async def test_it_is_told_and_counted_and_its_room_given_back() -> None:
    rig = made(limits="AB")
    await put(rig, "a", 100)
    created = await rig.create(100)
    await rig.background()
    (event,) = rig.dispatchers[0].seen
    assert isinstance(event, PostExpire)
    assert (event.upload.id, event.reason, event.head) == ("a", "evicted", NO_REQUEST)
    assert rig.metrics.sums["tusd_uploads_expired_total"] == 1
    assert [limiter.held for limiter in rig.limiters] == [{created.info.id: 100}] * 2
    assert rig.locks.queues == {}


async def test_a_limiter_that_does_not_want_it_stands() -> None:
    rig = made()
    assert isinstance(rig.limiters[0], Space)
    rig.limiters[0].eviction = None
    await put(rig, "a", 100)
    await refused(rig, 1)


@pytest.mark.parametrize("missing", [Listable, Terminable])
async def test_a_store_that_cannot_do_it(missing: type[Capability]) -> None:
    rig = made(without=frozenset({missing}))
    await put(rig, "a", 100)
    await refused(rig, 1)


async def test_nothing_goes_when_all_of_it_would_not_do() -> None:
    rig = made(Eviction(order="oldest", finished=False, idle=60))
    await put(rig, "going", 10, length=20)
    await put(rig, "whole", 80)
    await refused(rig, 21)
    await rig.create(20)
    assert left(rig) == {"whole"}


@pytest.mark.parametrize(
    ("upload", "finished"),
    [
        ({"size": 100}, False),
        ({"size": 10, "length": 100, "idle": 59}, True),
        ({"size": 100, "state": State.FINISHING}, True),
        ({"size": 100, "state": State.RECEIVING}, True),
        ({"size": 0, "length": 100, "concat": Final((UploadId("p"),)), "state": State.RECEIVING}, True),
    ],
    ids=["complete", "at work", "finishing", "all sent", "waiting for parts"],
)
async def test_what_stays(upload: dict[str, int], finished: bool) -> None:
    rig = made(Eviction(order="oldest", finished=finished, idle=60))
    await put(rig, "a", **upload)  # type: ignore[arg-type]
    await refused(rig, 1)


async def test_parts_that_an_unfinished_final_upload_needs_stay() -> None:
    rig = made()
    await put(rig, "p", 10, concat=Partial(), age=300)
    await put(rig, "q", 10, length=20, concat=Partial(), age=400)
    await put(rig, "f", 0, deferred=True, concat=Final((UploadId("p"), UploadId("q"))), state=State.RECEIVING)
    await put(rig, "free", 70, concat=Partial(), age=100)
    await refused(rig, 71)
    rig.engine._context.rankings.clear()
    await rig.create(70)
    assert left(rig) == {"p", "q", "f"}


async def test_parts_of_complete_final_uploads_may_go() -> None:
    rig = made()
    await put(rig, "p", 50, concat=Partial(), age=300)
    await put(rig, "f", 50, age=200, concat=Final((UploadId("p"),)))
    await rig.create(50)
    assert left(rig) == {"f"}


async def test_parts_do_not_go_for_their_own_final_upload() -> None:
    rig = made()
    await put(rig, "p", 40, concat=Partial(), age=300)
    await put(rig, "q", 30, concat=Partial(), age=200)
    with pytest.raises(QuotaExceeded):
        await rig.create(None, concat=Final((UploadId("p"), UploadId("q"))))
    assert left(rig) == {"p", "q"}
    await put(rig, "old", 30)
    rig.limiters[0].held.pop(UploadId("q"))
    created = await rig.create(None, concat=Final((UploadId("p"),)))
    assert left(rig) == {"p", "q"}, "what went is the one that is no part of it"
    await rig.background()
    assert await rig.content(created.info.id) == b"x" * 40


async def test_a_part_that_a_final_upload_has_come_to_need_since_the_listing_stays() -> None:
    rig = made()
    await put(rig, "a", 50, age=500)
    await put(rig, "p", 20, concat=Partial(), age=400)
    await put(rig, "b", 30, age=300)
    await rig.create(50)
    await put(rig, "f", 0, deferred=True, concat=Final((UploadId("p"),)), state=State.RECEIVING)
    await rig.create(30)
    assert left(rig) == {"p", "f"}


async def test_the_upload_that_asks_stays() -> None:
    rig = made(Eviction(order="largest", finished=True, idle=0))
    await put(rig, "growing", 60, deferred=True)
    await put(rig, "small", 30)
    await rig.append(UploadId("growing"), 60, b"y" * 40)
    assert left(rig) == {"growing"}
    assert rig.limiters[0].held == {"growing": 100}


async def test_a_body_of_unknown_length_makes_room_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.engine.body.RESERVE_STEP", 10)
    rig = made()
    await put(rig, "growing", 0, deferred=True, age=0)
    for age, name in enumerate("dcba", 1):
        await put(rig, name, 25, age=100 * age)
    await rig.append(UploadId("growing"), 0, b"y" * 30, chunked=True)
    assert left(rig) == {"growing", "c", "d"}
    assert rig.limiters[0].held[UploadId("growing")] == 30


async def test_one_that_somebody_is_at_work_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evict, "_PATIENCE", 0.01)
    rig = made()
    await put(rig, "a", 50, age=200)
    await put(rig, "b", 50, age=100)
    async with rig.locks.lock("a", lambda: None):
        await rig.create(40)
        assert left(rig) == {"a"}
        with pytest.raises(QuotaExceeded):
            await rig.create(20)
    assert left(rig) == {"a"}


async def test_one_that_went_on_since_the_listing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = made(Eviction(order="oldest", finished=True, idle=60))
    await put(rig, "a", 50, age=300)
    await put(rig, "b", 10, length=20, age=200)
    await put(rig, "c", 30, age=100)
    await rig.create(50)
    kept = rig.kept._kept[UploadId("b")]
    kept.info = replace(kept.info, modified=utcnow())
    await rig.create(20)
    assert left(rig) == {"b"}


async def test_what_another_worker_has_removed_since_the_listing_is_no_reason_to_refuse() -> None:
    rig = made()
    for name, old in (("a", 400), ("b", 300), ("c", 200)):
        await put(rig, name, 30, age=old)
    await rig.create(40)
    assert left(rig) == {"b", "c"}
    for name in ("b", "c"):  # by another worker
        del rig.kept._kept[UploadId(name)], rig.limiters[0].held[UploadId(name)]
    await put(rig, "d", 60, age=100)
    await rig.create(50)
    assert left(rig) == set()


async def test_many_at_once_remove_no_more_than_they_need() -> None:
    rig = made()
    rig.script.pause = True
    for number in range(10):
        await put(rig, f"{number}", 10, age=1000 - number)
    await asyncio.gather(*(rig.create(5) for _ in range(8)))
    assert left(rig) == {str(number) for number in range(4, 10)}
    assert sum(rig.limiters[0].held.values()) == 100


async def test_a_listing_serves_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = made()
    for number in range(10):
        await put(rig, f"{number}", 10, age=1000 - number)
    listings = counted(rig, monkeypatch)
    for _ in range(10):
        await rig.create(10)
    assert left(rig) == set()
    assert len(listings) == 1


def counted(rig: Rig, monkeypatch: pytest.MonkeyPatch, pause: float = 0) -> list[None]:
    """Grows by one with each listing, which takes so many seconds."""
    listings: list[None] = []
    listing = rig.kept.uploads

    async def uploads() -> AsyncIterator[UploadInfo]:
        listings.append(None)
        await asyncio.sleep(pause)
        async for info in listing():
            yield info

    monkeypatch.setattr(rig.kept, "uploads", lambda idle_since=None: uploads())
    return listings


async def test_who_asks_in_vain_does_not_keep_the_store_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = made(Eviction(order="oldest", finished=False, idle=60))
    await put(rig, "whole", 100)
    listings = counted(rig, monkeypatch, 0.05)
    for _ in range(5):
        await refused(rig, 1)
    assert len(listings) == 1
    (ranking,) = rig.engine._context.rankings.values()
    await asyncio.sleep(ranking.rests_until - asyncio.get_running_loop().time())
    await put(rig, "going", 0, length=10)
    rig.limiters[0].held[UploadId("whole")] = 90
    await rig.create(10)
    assert len(listings) == 2


async def test_an_old_listing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_FRESH", 0)
    rig = made()
    await put(rig, "a", 50, age=100)
    await put(rig, "b", 40, age=50)
    await rig.create(20)
    await put(rig, "c", 40, age=500)
    await rig.create(20)
    assert left(rig) == {"b"}


async def test_the_first_of_many_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MOST", 5)
    rig = made()
    for number in range(50):
        await put(rig, f"{number}", 2, age=1000 - (number * 7) % 50)
    await rig.create(10)
    assert left(rig) == {str(number) for number in range(50)} - {str(n) for n in range(50) if (n * 7) % 50 < 5}
    await rig.create(10)
    with pytest.raises(QuotaExceeded):
        await rig.create(11)


async def test_a_cancelled_request_leaves_nothing_locked_or_reserved() -> None:
    rig = made()
    await put(rig, "a", 100)
    reached = rig.hang("terminate")
    running = asyncio.create_task(rig.create(10))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rig.locks.queues == {}
    assert rig.limiters[0].held == {"a": 100}
    rig.heal("terminate")
    await rig.create(10)
    assert left(rig) == set()


async def test_a_creation_with_a_body_makes_room_and_keeps_it() -> None:
    rig = made()
    await put(rig, "a", 100)
    created = await rig.create(5, b"01234")
    assert created.info.state is State.COMPLETE
    with pytest.raises(UploadNotFound):
        await rig.head(UploadId("a"))
    assert rig.limiters[0].held == {created.info.id: 5}


async def test_declaring_a_length_makes_room() -> None:
    rig = made()
    await put(rig, "growing", 10, deferred=True)
    await put(rig, "a", 80)
    await rig.append(UploadId("growing"), 10, source=FakeSource(b"y"), size=1, length=30)
    assert left(rig) == {"growing"}
    assert rig.limiters[0].held == {"growing": 30}
