"""The conformance suite of plugins for `limiting:`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, cast

from ..errors import QuotaExceeded, TooManyRequests
from ..hooks import NO_REQUEST
from ..limiting import Allowance, Limiter
from ..model import Scope, UploadId, UploadInfo
from ..protocol.messages import Append, BodyPlan, Create, Discover, Head, Inspect, Read, Request, Terminate
from .door import Door
from .elsewhere import Elsewhere
from .faults import cancelled_at

__all__ = ["LimitingSuite"]

PATIENCE = 30.0
"""Seconds after which what did not end is never going to end."""
AT_ONCE = 0.5
"""Seconds in which something ends that waits for nothing."""
CROWD = 100
"""So many are no matter where nothing is limited."""
ANY = UploadId("upload")
BODY = Append(upload_id=ANY, offset=0, body=BodyPlan(1))
REQUESTS: tuple[Request, ...] = (Create(length=1, body=BodyPlan(1)), BODY, Inspect(ANY), Read(ANY), Terminate(ANY), Discover())


class LimitingBase:
    """What a plugin author states, and may override, in a subclass of `LimitingSuite`."""

    seam: ClassVar = "limiting"
    plugin: ClassVar[type[Any]]
    """The plugin class; it must be installed, with its entry point."""
    at_once: ClassVar[int | None] = None
    """How many requests of one client that send bytes the options let run at once. None: any number."""
    in_a_row: ClassVar[int | None] = None
    """How many requests of one client the options let come one right after the other, before one is refused. None: any number."""
    room: ClassVar[int | None] = None
    """How many bytes the options let all uploads have together. None: any number."""
    pace: ClassVar[int | None] = None
    """How many bytes of one client's bodies the options let pass in a second, and no more than a quarter of it at once. None: any number."""
    takeover: ClassVar[float] = 2.0
    """Seconds in which requests of a process that was killed no longer count."""

    def head(self, client: int) -> Head:
        """The head of a client's request. Override it, or `upload`, when the options tell clients apart by something else than the address."""
        return replace(NO_REQUEST, client=f"192.0.2.{client}", peer=f"192.0.2.{client}")

    def upload(self, client: int) -> UploadInfo:
        """A new upload of a client's."""
        return UploadInfo(id=UploadId(uuid.uuid4().hex), length=1)

    def shared(self) -> bool:
        """Whether other processes count together with this one, by the `scope` that the plugin states."""
        return cast(Scope, self.plugin.scope) > Scope.PROCESS

    def limiters(self, door: Door[Limiter]) -> AbstractAsyncContextManager[tuple[Limiter, Limiter]]:
        """The limiters of two workers; the same one twice when they do not count together."""
        return door.open_two(shared=self.shared(), patience=PATIENCE)

    def admitted(self, limiter: Limiter, client: int, request: Request = BODY) -> AbstractAsyncContextManager[Allowance]:
        """One request of a client, as far as to where its body is read."""
        return admitted(limiter, self.head(client), self.upload(client), request)

    async def fill(self, stack: AsyncExitStack, limiters: Sequence[Limiter], client: int) -> list[AsyncExitStack]:
        """Admit as many requests of a client as may run at once, by the limiters in turn; and see that they are all. They end with `stack`, or earlier."""
        assert self.at_once is not None
        running = []
        for number in range(self.at_once):
            running.append(await stack.enter_async_context(AsyncExitStack()))
            await running[-1].enter_async_context(self.admitted(limiters[number % len(limiters)], client))
        for limiter in limiters:
            await refused(self.admitted(limiter, client))
        return running


@asynccontextmanager
async def admitted(limiter: Limiter, head: Head, info: UploadInfo, request: Request = BODY) -> AsyncIterator[Allowance]:
    """Admit a request as the core does: its upload, if it has one, is known a moment later."""
    async with limiter.admit(head, request) as allowance:
        if not isinstance(request, Discover):
            await allowance.bind(info)
        yield allowance


async def enter(admission: AbstractAsyncContextManager[Allowance]) -> None:
    """Admit a request, which ends at once."""
    async with admission:
        pass


async def refused(admission: AbstractAsyncContextManager[Allowance]) -> float:
    """See that a request is refused; the seconds after which to try again."""
    try:
        await enter(admission)
    except TooManyRequests as error:
        assert error.retry_after is not None and error.retry_after > 0, "TooManyRequests has no retry_after"
        return error.retry_after
    raise AssertionError("one request too many was admitted")


async def over_quota(reservation: Awaitable[None], missing: int) -> None:
    """See that a reservation is refused because at least so many bytes are missing."""
    try:
        await reservation
    except QuotaExceeded as error:
        assert error.short_by >= missing, f"short_by is {error.short_by}, but {missing} bytes are missing"
        return
    raise AssertionError("more room was reserved than there is")


class AdmissionTests(LimitingBase):
    """What holds for all limiters."""

    async def test_every_kind_of_request_is_admitted(self, tusd_door: Door[Limiter]) -> None:
        async with self.limiters(tusd_door) as (limiter, _):
            for client, request in enumerate(REQUESTS):
                async with self.admitted(limiter, client, request) as allowance, asyncio.timeout(PATIENCE):
                    await allowance.spend(1)

    async def test_errors_of_a_request_pass(self, tusd_door: Door[Limiter]) -> None:
        async with self.limiters(tusd_door) as (limiter, _):
            for client, error in enumerate((ValueError("inside"), TooManyRequests(retry_after=1), asyncio.CancelledError())):
                try:
                    async with self.admitted(limiter, client):
                        raise error
                except (ValueError, TooManyRequests, asyncio.CancelledError) as raised:
                    assert raised is error
                else:
                    raise AssertionError(f"the limiter swallowed {error!r}")

    async def test_many_clients_leave_nothing(self, tusd_door: Door[Limiter]) -> None:
        """What was counted of one client does not count for another, however many there were."""
        async with self.limiters(tusd_door) as (limiter, other):
            for client in range(CROWD):
                await enter(self.admitted(limiter, client))
                await enter(self.admitted(other, client + CROWD))


class ConcurrencyTests(LimitingBase):
    """`at_once`: so many requests of one client run at once. None: it does not matter how many."""

    async def test_so_many_run_at_once(self, tusd_door: Door[Limiter]) -> None:
        async with self.limiters(tusd_door) as limiters, AsyncExitStack() as stack:
            if self.at_once is None:
                for _ in range(CROWD if self.in_a_row is None else self.in_a_row):
                    await stack.enter_async_context(self.admitted(limiters[0], 1))
                return
            running = await self.fill(stack, limiters, 1)
            await self.fill(stack, limiters, 2)
            await running[0].aclose()
            await stack.enter_async_context(self.admitted(limiters[1], 1))
            await refused(self.admitted(limiters[0], 1))

    async def test_refusals_count_nothing(self, tusd_door: Door[Limiter]) -> None:
        if self.at_once is None:
            return
        async with self.limiters(tusd_door) as limiters:
            for _ in range(3):
                async with AsyncExitStack() as stack:
                    await self.fill(stack, limiters, 1)
                    for _ in range(2 * self.at_once):
                        await refused(self.admitted(limiters[0], 1))

    async def test_requests_that_fail_end_too(self, tusd_door: Door[Limiter]) -> None:
        if self.at_once is None:
            return
        async with self.limiters(tusd_door) as limiters:
            for _ in range(2 * self.at_once):
                for error in (ValueError("inside"), asyncio.CancelledError()):
                    try:
                        async with self.admitted(limiters[0], 1):
                            raise error
                    except (ValueError, asyncio.CancelledError):
                        pass
            async with AsyncExitStack() as stack:
                await self.fill(stack, limiters, 1)

    async def test_requests_that_are_cancelled_end_too(self, tusd_door: Door[Limiter]) -> None:
        """At every suspension of admission and departure."""
        if self.at_once is None:
            return
        async with self.limiters(tusd_door) as limiters:
            for nth in range(1, 100):
                was_cancelled = [await cancelled_at(nth, enter(self.admitted(limiters[0], 1))) for _ in range(self.at_once)]
                async with AsyncExitStack() as stack:
                    await self.fill(stack, limiters, 1)
                if not any(was_cancelled):
                    break

    async def test_requests_of_a_killed_process_end_too(self, tusd_door: Door[Limiter]) -> None:
        if self.at_once is None or not self.shared():
            return
        async with asyncio.timeout(PATIENCE + self.takeover), tusd_door.open() as limiter:
            async with Elsewhere(tusd_door, hold, self.at_once, self.head(1), self.upload(1)) as other:
                await other.said("admitted")
                await refused(self.admitted(limiter, 1))
                await other.kill()
            deadline = time.monotonic() + self.takeover
            while not await self._all_free(limiter):
                assert time.monotonic() < deadline, "requests of a process that was killed count still"
                await asyncio.sleep(0.05)

    async def _all_free(self, limiter: Limiter) -> bool:
        try:
            async with AsyncExitStack() as stack:
                await self.fill(stack, [limiter], 1)
        except TooManyRequests:
            return False
        return True


class RateTests(LimitingBase):
    """`in_a_row`: so many requests of one client come one after the other, and then some time has to pass."""

    async def test_so_many_come_in_a_row(self, tusd_door: Door[Limiter]) -> None:
        if self.in_a_row is None:
            async with self.limiters(tusd_door) as (limiter, _):
                for _ in range(CROWD):
                    await enter(self.admitted(limiter, 1))
            return
        async with self.limiters(tusd_door) as limiters:
            count, _ = await self._until_refused(limiters)
            assert count >= self.in_a_row
            await enter(self.admitted(limiters[0], 2))

    async def test_after_retry_after_one_is_admitted(self, tusd_door: Door[Limiter]) -> None:
        """Also when the client has tried meanwhile."""
        if self.in_a_row is None:
            return
        async with self.limiters(tusd_door) as limiters:
            _, retry_after = await self._until_refused(limiters)
            ready = time.monotonic() + retry_after
            while True:
                began = time.monotonic()
                try:
                    await enter(self.admitted(limiters[0], 1))
                except TooManyRequests:
                    assert began < ready + 0.01, "one is refused although retry_after has passed"
                    await asyncio.sleep(retry_after / 10)
                else:
                    break

    async def test_all_processes_count_together(self, tusd_door: Door[Limiter]) -> None:
        if self.in_a_row is None or not self.shared():
            return
        async with asyncio.timeout(PATIENCE), tusd_door.open() as limiter:
            async with Elsewhere(tusd_door, come_and_stay, self.in_a_row, self.head(1), self.upload(1)) as other:
                await other.said("admitted")
                count, _ = await self._until_refused([limiter])
                assert count < self.in_a_row
            await enter(self.admitted(limiter, 2))

    async def _until_refused(self, limiters: Sequence[Limiter]) -> tuple[int, float]:
        """How many requests of client 1 were admitted, and when to try again. Time passes meanwhile, so they may be more than in a row."""
        assert self.in_a_row is not None
        for count in range(10 * self.in_a_row):
            try:
                await enter(self.admitted(limiters[count % len(limiters)], 1))
            except TooManyRequests as error:
                assert error.retry_after is not None and error.retry_after > 0, "TooManyRequests has no retry_after"
                return count, error.retry_after
        raise AssertionError(f"{10 * self.in_a_row} requests in a row were admitted")


class PaceTests(LimitingBase):
    """`pace`: so many bytes pass in a second, of all bodies of one client. `paces` says whether that is so."""

    async def test_paces_says_whether_bytes_wait(self, tusd_door: Door[Limiter]) -> None:
        async with self.limiters(tusd_door) as (limiter, _), self.admitted(limiter, 1) as allowance:
            assert limiter.paces == (self.pace is not None)
            if self.pace is None:
                async with asyncio.timeout(AT_ONCE):
                    await allowance.spend(1 << 60)

    async def test_bytes_take_their_time(self, tusd_door: Door[Limiter]) -> None:
        if self.pace is None:
            return
        async with self.limiters(tusd_door) as (limiter, _), self.admitted(limiter, 1) as allowance:
            took = await timed(self._spend(allowance, 15))
            assert 0.48 < took < 2.5, f"bytes for 0.75 s, a third of which may pass at once, took {took:.2f} s"

    async def test_bodies_of_one_client_share(self, tusd_door: Door[Limiter]) -> None:
        if self.pace is None:
            return
        async with self.limiters(tusd_door) as (one, other), self.admitted(one, 1) as first, self.admitted(other, 1) as second:
            took = await timed(self._spend(first, 8), self._spend(second, 7))
            assert 0.48 < took < 2.5, f"bytes for 0.75 s, a third of which may pass at once, took {took:.2f} s"

    async def test_another_client_does_not_wait(self, tusd_door: Door[Limiter]) -> None:
        if self.pace is None:
            return
        async with self.limiters(tusd_door) as (one, other), self.admitted(one, 1) as slow, self.admitted(other, 2) as quick:
            waiting = asyncio.create_task(slow.spend(5 * self.pace))
            await asyncio.sleep(0)
            assert await timed(quick.spend(1)) < AT_ONCE
            assert await ends_cancelled(waiting)

    async def test_a_wait_that_is_cancelled_ends_at_once_and_costs_nothing(self, tusd_door: Door[Limiter]) -> None:
        if self.pace is None:
            return
        async with self.limiters(tusd_door) as (limiter, _), self.admitted(limiter, 1) as allowance:
            for _ in range(5):
                waiting = asyncio.create_task(allowance.spend(5 * self.pace))
                await asyncio.sleep(0.01)
                assert await ends_cancelled(waiting)
            took = await timed(allowance.spend(self.pace // 20))
            assert took < 1, f"waits that were cancelled delay others by {took:.1f} s"

    async def _spend(self, allowance: Allowance, pieces: int) -> None:
        """A body: each piece has the bytes of a twentieth of a second."""
        assert self.pace is not None
        for _ in range(pieces):
            await allowance.spend(self.pace // 20)


class RoomTests(LimitingBase):
    """`room`: so many bytes may be reserved."""

    async def test_so_much_room_there_is(self, tusd_door: Door[Limiter]) -> None:
        async with self.limiters(tusd_door) as (one, other):
            a, b = self.upload(1), self.upload(2)
            if self.room is None:
                await one.reserve(a, 1 << 60)
                await one.reserve(a, 0)
                return
            await one.reserve(a, self.room - 1)
            await over_quota(other.reserve(b, 2), 1)
            await other.reserve(b, 1)
            await over_quota(one.reserve(self.upload(3), 1), 1)

    async def test_the_figure_is_absolute(self, tusd_door: Door[Limiter]) -> None:
        """It may be told twice, by another worker too, and get smaller."""
        if self.room is None:
            return
        async with self.limiters(tusd_door) as (one, other):
            a, b = self.upload(1), self.upload(2)
            for limiter in (one, one, other):
                await limiter.reserve(a, self.room)
            await other.reserve(a, self.room // 2)
            await one.reserve(b, self.room - self.room // 2)
            await over_quota(one.reserve(b, self.room), self.room // 2)

    async def test_a_refusal_changes_nothing(self, tusd_door: Door[Limiter]) -> None:
        if self.room is None:
            return
        async with self.limiters(tusd_door) as (limiter, _):
            a, b = self.upload(1), self.upload(2)
            await limiter.reserve(a, self.room // 2)
            for _ in range(3):
                await over_quota(limiter.reserve(a, self.room + 1), 1)
                await over_quota(limiter.reserve(b, self.room), self.room // 2)
            await limiter.reserve(b, self.room - self.room // 2)
            await over_quota(limiter.reserve(a, self.room // 2 + 1), 1)

    async def test_zero_forgets(self, tusd_door: Door[Limiter]) -> None:
        if self.room is None:
            return
        async with self.limiters(tusd_door) as (one, other):
            a, b = self.upload(1), self.upload(2)
            await one.reserve(a, self.room)
            for limiter in (one, other, one):
                await limiter.reserve(a, 0)
            await other.reserve(b, self.room)
            await over_quota(one.reserve(a, 1), 1)

    async def test_a_reservation_that_is_cancelled_can_be_taken_back(self, tusd_door: Door[Limiter]) -> None:
        """At every suspension: whoever was cancelled tells what was so before."""
        if self.room is None:
            return
        async with self.limiters(tusd_door) as (limiter, other):
            for nth in range(1, 100):
                a, b = self.upload(1), self.upload(2)
                was_cancelled = await cancelled_at(nth, limiter.reserve(a, self.room))
                await limiter.reserve(a, 0)
                await other.reserve(b, self.room)
                await other.reserve(b, 0)
                if not was_cancelled:
                    break

    async def test_recount_corrects(self, tusd_door: Door[Limiter]) -> None:
        """What is not in the store any more is forgotten, what nobody has reserved is counted: its length, or what is there of it."""
        if self.room is None:
            return
        assert self.room >= 10, "let the options leave room for some bytes"
        async with self.limiters(tusd_door) as (one, other):
            gone, grown, new, deferred = (self.upload(client) for client in range(1, 5))
            await one.reserve(gone, self.room - 1)
            await one.reserve(grown, 1)
            for _ in range(2):
                await other.recount(
                    uploads(replace(grown, length=2), replace(new, length=3), replace(deferred, length=None, offset=1))
                )
            rest = self.upload(5)
            await over_quota(one.reserve(rest, self.room - 5), 1)
            await one.reserve(rest, self.room - 6)
            await one.reserve(deferred, 0)
            await one.reserve(rest, self.room - 5)


class LimitingSuite(AdmissionTests, ConcurrencyTests, RateTests, PaceTests, RoomTests):
    """Subclass it in a test module, name the plugin, give its options, and say what they let clients do:

        class TestShelfLimiting(LimitingSuite):
            plugin = ShelfLimiting
            at_once = 3

            @pytest.fixture
            def options(self):
                return {"uploads_per_client": 3}

    `at_once`, `in_a_row`, `pace` and `room` each have a group of tests; what is not said is proved to be without a limit. All of them are
    small figures, but `pace`, so that the tests are quick. Where the options limit something of all clients together, too, let that be much
    more. The plugin is opened as the server does it: by its entry point, with its options checked. What is tested with other processes is
    tested if its `scope` is HOST or CLUSTER. `head`, `upload` and `takeover` may be overridden.
    """


# --- helpers


async def timed(*work: Awaitable[object]) -> float:
    """Seconds until all of it is done."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*work)
    return time.monotonic() - began


async def ends_cancelled(task: asyncio.Task[None]) -> bool:
    """Cancel a task; whether it ends by that, at once."""
    task.cancel()
    await asyncio.wait([task], timeout=AT_ONCE)
    return task.cancelled()


async def uploads(*infos: UploadInfo) -> AsyncIterator[UploadInfo]:
    """What a store lists."""
    for info in infos:
        yield info


# --- what the other process does


async def hold(limiter: Limiter, count: int, head: Head, info: UploadInfo) -> None:
    """Let requests run until the process is killed."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(admitted(limiter, head, info))
        print("admitted", flush=True)
        await asyncio.get_running_loop().create_future()


async def come_and_stay(limiter: Limiter, count: int, head: Head, info: UploadInfo) -> None:
    """Let requests come and end, and then do nothing."""
    for _ in range(count):
        await enter(admitted(limiter, head, info))
    print("admitted", flush=True)
    await asyncio.get_running_loop().create_future()
