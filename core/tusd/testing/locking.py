"""The conformance suite of plugins for `locking:`."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

from ..errors import LeaseLost
from ..locking import Lease, Locker
from ..model import Scope
from .door import Door
from .elsewhere import Elsewhere
from .faults import cancelled_at

__all__ = ["LockingSuite"]

PATIENCE = 30.0
"""Seconds after which a lock that was not had is never going to be had."""
AT_ONCE = 0.05
"""Seconds in which something would happen that must not."""
ROUNDS = 15
ODD_NAMES = (
    "~sweeper",
    "/",
    "a/b",
    "../up",
    ".",
    "..",
    "",
    " ",
    "a b\nc",
    "\0",
    "*",
    "%2F",
    "é",
    "e\u0301",
    "\u65e5\u672c",
    "A",
    "a",
)


def new_name(hint: str = "lock") -> str:
    """A name that nobody has locked, on a shared backend either."""
    return f"{hint}-{uuid.uuid4().hex}"


def ignore() -> None:
    """A holder's `wanted` that does nothing."""


class LockingBase:
    """What a plugin author states, and may override, in a subclass of `LockingSuite`."""

    seam: ClassVar = "locking"
    plugin: ClassVar[type[Any]]
    """The plugin class; it must be installed, with its entry point."""
    hand_over: ClassVar[float] = 1.0
    """Seconds in which a lock that was let go must reach who waits for it."""
    takeover: ClassVar[float] = 2.0
    """Seconds in which the lock of a holder that was killed must be free: more than the plugin's lease lasts, if it has one."""

    crowd: ClassVar[int] = 1000
    """How many wait for one name at once. Lower it for a backend that every waiter asks by itself."""

    async def left_behind(self, door: Door[Locker]) -> Sequence[object]:
        """What the backend holds, apart from what an open locker always holds. Nothing may be left of locks that are free.
        Override it where the backend can be looked into."""
        return []

    def shared(self) -> bool:
        """Whether other processes see the locks, by the `scope` that the plugin states."""
        return cast(Scope, self.plugin.scope) > Scope.PROCESS

    def lockers(self, door: Door[Locker]) -> AbstractAsyncContextManager[tuple[Locker, Locker]]:
        """The lockers of two workers; the same one twice when its locks are not shared."""
        return door.open_two(shared=self.shared(), patience=PATIENCE)


@asynccontextmanager
async def holding(locker: Locker, name: str) -> AsyncIterator[asyncio.Event]:
    """Hold a lock; gives an event that is set when the lock is wanted."""
    wanted = asyncio.Event()
    async with locker.lock(name, wanted.set):
        yield wanted


async def hold(locker: Locker, name: str, wanted: Callable[[], None] = ignore) -> None:
    """Take the lock and let it go."""
    async with locker.lock(name, wanted):
        pass


async def is_free(locker: Locker, name: str) -> bool:
    """Whether the lock can be had at once."""
    try:
        async with asyncio.timeout(AT_ONCE):
            await hold(locker, name)
    except TimeoutError:
        return False
    return True


class ExclusionTests(LockingBase):
    """One holder at a time, of one name."""

    async def test_one_holder_at_a_time(self, tusd_door: Door[Locker]) -> None:
        name, count = new_name(), 0

        async def add_to_count(locker: Locker) -> None:
            nonlocal count
            for _ in range(10):
                async with locker.lock(name, ignore):
                    seen = count
                    await asyncio.sleep(0.0005)
                    count = seen + 1

        async with self.lockers(tusd_door) as lockers:
            await asyncio.gather(*(add_to_count(locker) for locker in lockers * 5))
            assert count == 100
            assert await self.left_behind(tusd_door) == []

    async def test_names_are_independent(self, tusd_door: Door[Locker]) -> None:
        async with self.lockers(tusd_door) as (one, other), holding(one, new_name()) as wanted:
            await hold(one, new_name())
            await hold(other, new_name())
            await asyncio.sleep(AT_ONCE)
            assert not wanted.is_set()

    async def test_any_name_will_do(self, tusd_door: Door[Locker]) -> None:
        """Whatever is in a name: it has a lock of its own, however much it looks like another one."""
        base = new_name()
        names = ["~sweeper", *(base + odd for odd in (*ODD_NAMES, "x" * 10_000, "x" * 10_001))]
        async with self.lockers(tusd_door) as (one, other):
            async with AsyncExitStack() as stack:
                for name in names:
                    async with asyncio.timeout(self.hand_over):
                        await stack.enter_async_context(holding(one, name))
                free = await asyncio.gather(*(is_free(other, name) for name in names))
                assert not any(free), f"two hold {names[free.index(True)][:80]!r}"
            for name in names:
                await hold(other, name)

    async def test_an_exception_inside_lets_go(self, tusd_door: Door[Locker]) -> None:
        name = new_name()
        async with self.lockers(tusd_door) as (one, other):
            for error in (ValueError("inside"), asyncio.CancelledError()):
                try:
                    async with one.lock(name, ignore):
                        raise error
                except (ValueError, asyncio.CancelledError) as raised:
                    assert raised is error
                await hold(other, name)

    async def test_everybody_gets_a_turn(self, tusd_door: Door[Locker]) -> None:
        name, turns = new_name(), 0

        async def take_a_turn(locker: Locker) -> None:
            nonlocal turns
            async with locker.lock(name, ignore):
                seen = turns
                await asyncio.sleep(0)
                turns = seen + 1

        async with self.lockers(tusd_door) as lockers:
            await asyncio.gather(*(take_a_turn(locker) for locker in lockers * (self.crowd // 2)))
            assert turns == self.crowd
            assert await self.left_behind(tusd_door) == []

    async def test_many_names_leave_nothing(self, tusd_door: Door[Locker]) -> None:
        async with self.lockers(tusd_door) as (locker, _):
            before = open_files()
            for _ in range(10):
                await asyncio.gather(*(hold(locker, new_name()) for _ in range(100)))
            assert await self.left_behind(tusd_door) == []
            assert open_files() <= before + 10

    async def test_ready(self, tusd_door: Door[Locker]) -> None:
        async with self.lockers(tusd_door) as lockers:
            for locker in lockers:
                await locker.check()
            assert await self.left_behind(tusd_door) == []


class WantedTests(LockingBase):
    """A holder hears of those who wait, and they get the lock soon after it lets go."""

    async def test_on_the_holders_own_loop(self, tusd_door: Door[Locker]) -> None:
        name, called = new_name(), asyncio.Event()
        calls: list[tuple[int, asyncio.AbstractEventLoop]] = []
        async with self.lockers(tusd_door) as (one, other):

            def wanted() -> None:
                calls.append((threading.get_ident(), asyncio.get_running_loop()))
                called.set()

            async with one.lock(name, wanted):
                await asyncio.sleep(AT_ONCE)
                assert not calls, "wanted was called while nobody waited"
                waiter = asyncio.create_task(hold(other, name))
                async with asyncio.timeout(self.hand_over):
                    await called.wait()
            await waiter
        assert set(calls) == {(threading.get_ident(), asyncio.get_running_loop())}

    async def test_by_those_who_waited_before(self, tusd_door: Door[Locker]) -> None:
        """Who gets the lock while others wait hears of them, too: each waiter here holds on until then."""
        name, left = new_name(), 6

        async def hold_until_wanted(locker: Locker) -> None:
            nonlocal left
            async with holding(locker, name) as wanted:
                left -= 1
                if left:
                    await wanted.wait()

        async with self.lockers(tusd_door) as lockers:
            await asyncio.gather(*(hold_until_wanted(locker) for locker in lockers * 3))
        assert left == 0

    async def test_again_by_those_who_come_later(self, tusd_door: Door[Locker]) -> None:
        name = new_name()
        async with self.lockers(tusd_door) as (one, other), holding(one, name) as wanted:
            for locker in (other, one, other):
                wanted.clear()
                waiter = asyncio.create_task(hold(locker, name))
                async with asyncio.timeout(self.hand_over):
                    await wanted.wait()
                await cancel(waiter)

    async def test_hand_over_is_quick(self, tusd_door: Door[Locker]) -> None:
        name, waits = new_name(), list[float]()
        async with self.lockers(tusd_door) as (one, other):
            for _ in range(ROUNDS):
                async with holding(one, name) as wanted:
                    started = time.monotonic()
                    waiter = asyncio.create_task(hold(other, name))
                    await wanted.wait()
                await waiter
                waits.append(time.monotonic() - started)
        report("hand-over within a process", waits)
        assert max(waits) < self.hand_over


class CancellationTests(LockingBase):
    """A waiter that gives up, at whatever moment, leaves nothing, so the next one gets the lock as soon as ever."""

    async def test_while_waiting(self, tusd_door: Door[Locker]) -> None:
        name = new_name()
        async with self.lockers(tusd_door) as (one, other):
            for locker in (one, other):
                for late in (0, 0.0005, 0.002, 0.01, 0.03, 0.07):
                    async with holding(one, name):
                        assert await cancelled_at(1, hold(locker, name), late=late)
                        waiter = asyncio.create_task(hold(locker, name))
                        await asyncio.sleep(0)
                    async with asyncio.timeout(self.hand_over):
                        await waiter
                    assert await self.left_behind(tusd_door) == []

    async def test_at_every_suspension(self, tusd_door: Door[Locker]) -> None:
        """Also where the lock is free, for lockers that suspend while they take it and while they let it go."""
        name = new_name()
        async with self.lockers(tusd_door) as (one, other):
            for nth in range(1, 100):
                was_cancelled = await cancelled_at(nth, hold(one, name))
                async with asyncio.timeout(self.hand_over):
                    await hold(other, name)
                if not was_cancelled:
                    break
            assert await self.left_behind(tusd_door) == []

    async def test_when_the_lock_is_let_go(self, tusd_door: Door[Locker]) -> None:
        """The waiter is cancelled some steps of the event loop after, or some time after, its turn has come."""
        name = new_name()
        async with self.lockers(tusd_door) as (one, other):
            for locker in (one, other):
                for steps in range(40):
                    async with holding(one, name):
                        first = asyncio.create_task(hold(locker, name))
                        second = asyncio.create_task(hold(other, name))
                        await asyncio.sleep(0.002)
                    for _ in range(steps % 10):
                        await asyncio.sleep(0)
                    if pause := steps // 10 * 0.0003:
                        await asyncio.sleep(pause)
                    await cancel(first)
                    async with asyncio.timeout(self.hand_over):
                        await second
            assert await self.left_behind(tusd_door) == []

    async def test_all_waiters_at_once(self, tusd_door: Door[Locker]) -> None:
        name = new_name()
        async with self.lockers(tusd_door) as lockers:
            async with holding(lockers[0], name):
                waiters = [asyncio.create_task(hold(locker, name)) for locker in lockers * (self.crowd // 2)]
                await asyncio.sleep(0.01)
                await cancel(*waiters)
            async with asyncio.timeout(self.hand_over):
                await hold(lockers[1], name)
            assert await self.left_behind(tusd_door) == []


class LeaseTests(LockingBase):
    """What a holder is given."""

    async def test_it_is_lost_when_the_lock_is_let_go(self, tusd_door: Door[Locker]) -> None:
        name = new_name()
        async with self.lockers(tusd_door) as (one, other):
            for locker in (one, other):
                async with locker.lock(name, ignore) as lease:
                    lease.check()
                assert is_lost(lease), "a lease is good although its lock was let go"

    async def test_tokens_grow(self, tusd_door: Door[Locker]) -> None:
        name, tokens = new_name(), list[int]()

        async def take_a_token(locker: Locker) -> None:
            async with locker.lock(name, ignore) as lease:
                tokens.append(lease.token)

        async with self.lockers(tusd_door) as (one, other):
            for locker in (one, one, other, other, one):
                await take_a_token(locker)
            await asyncio.gather(*(take_a_token(locker) for locker in (one, other) * 5))
        if self.shared():
            async with self.lockers(tusd_door) as (_, reopened):
                await take_a_token(reopened)
        assert tokens == sorted(set(tokens)), "a later holder needs a greater token"


class ProcessTests(LockingBase):
    """Several processes, and what becomes of the locks of one that dies or stops. Nothing is promised when `scope` is PROCESS."""

    async def test_one_holder_at_a_time_in_all_processes(self, tusd_door: Door[Locker], tmp_path: Path) -> None:
        if not self.shared():
            return
        name, counter = new_name(), tmp_path / "counter"
        counter.write_text("0")
        async with asyncio.timeout(PATIENCE):
            async with Elsewhere(tusd_door, count_up, name, counter) as a, Elsewhere(tusd_door, count_up, name, counter) as b:
                async with tusd_door.open() as locker:
                    await count_up(locker, name, counter)
                await a.result()
                await b.result()
        assert int(counter.read_text()) == 3 * TURNS * TASKS
        assert await self.left_behind(tusd_door) == []

    async def test_hand_over_between_processes_is_quick(self, tusd_door: Door[Locker]) -> None:
        if not self.shared():
            return
        name = new_name()
        async with asyncio.timeout(PATIENCE), tusd_door.open() as locker, Elsewhere(tusd_door, serve_turns, name) as other:
            waits = []
            for turn in range(ROUNDS):
                await other.said(f"held {turn}")
                started = time.monotonic()
                await hold(locker, name)
                waits.append(time.monotonic() - started)
            report("hand-over between processes", waits)
            assert max(waits) < self.hand_over

    async def test_a_killed_holder_frees_the_lock(self, tusd_door: Door[Locker]) -> None:
        if not self.shared():
            return
        name = new_name()
        async with asyncio.timeout(PATIENCE + self.takeover), tusd_door.open() as locker:
            async with Elsewhere(tusd_door, hold_for_ever, name) as other:
                await other.said("held")
                waiter = asyncio.create_task(hold(locker, name))
                await other.said("wanted")
                assert not waiter.done()
                await other.kill()
                killed = time.monotonic()
                await waiter
            assert time.monotonic() - killed < self.takeover
            report("lock of a killed holder", [time.monotonic() - killed])

    async def test_a_killed_waiter_is_forgotten(self, tusd_door: Door[Locker]) -> None:
        if not self.shared():
            return
        name = new_name()
        async with asyncio.timeout(PATIENCE + self.takeover), tusd_door.open() as locker:
            async with Elsewhere(tusd_door, hold_for_ever, name) as other:
                async with holding(locker, name) as wanted:
                    await wanted.wait()
                    await other.kill()
            async with asyncio.timeout(self.takeover):
                await hold(locker, name)
            assert await self.left_behind(tusd_door) == []

    async def test_a_stopped_holder_keeps_the_lock_or_notices(self, tusd_door: Door[Locker], tmp_path: Path) -> None:
        """Nobody may have two good leases: when somebody else got the lock meanwhile, the lease says so afterwards."""
        if not self.shared():
            return
        name, pid = new_name(), tmp_path / "pid"
        async with asyncio.timeout(PATIENCE + self.takeover), tusd_door.open() as locker:
            async with Elsewhere(tusd_door, stop_while_holding, name, pid) as other:
                await other.said("held")
                waiter = asyncio.create_task(hold(locker, name))
                await asyncio.wait([waiter], timeout=self.takeover)
                taken = waiter.done()
                os.kill(int(pid.read_text()), signal.SIGCONT)
                noticed = await other.result()
                assert noticed == taken, (
                    "a holder that was stopped lost the lock, and its lease was good"
                    if taken
                    else ("a holder that was stopped lost its lease, and nobody got the lock")
                )
                await waiter


class LockingSuite(ExclusionTests, WantedTests, CancellationTests, LeaseTests, ProcessTests):
    """Subclass it in a test module, name the plugin, and give its options:

        class TestShelfLocking(LockingSuite):
            plugin = ShelfLocking

            @pytest.fixture
            def options(self, tmp_path):
                return {"directory": str(tmp_path)}

    The plugin is opened as the server does it: by its entry point, with its options checked. What is tested with other
    processes is tested if its `scope` is HOST or CLUSTER. `hand_over`, `takeover`, `crowd` and `left_behind` may be overridden.
    """


# --- helpers


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait for their end, whichever it is. Raises what they raised of themselves."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def is_lost(lease: Lease) -> bool:
    """Whether the lease's check fails."""
    try:
        lease.check()
    except LeaseLost:
        return True
    return False


def open_files() -> int:
    """How many files this process has open, where the system tells."""
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


def report(what: str, seconds: list[float]) -> None:
    """Print a figure; `pytest -rP` shows it."""
    print(f"{what}: median {statistics.median(seconds) * 1000:.2f} ms, worst {max(seconds) * 1000:.2f} ms")


# --- what the other process does

TURNS = 20
TASKS = 5


async def count_up(locker: Locker, name: str, counter: Path) -> None:
    """Add to a number in a file, in a way that loses some if two do it at once."""

    async def add() -> None:
        for _ in range(TURNS):
            async with locker.lock(name, ignore):
                seen = int(counter.read_text())
                await asyncio.sleep(0)
                counter.write_text(str(seen + 1))

    await asyncio.gather(*(add() for _ in range(TASKS)))


async def serve_turns(locker: Locker, name: str) -> None:
    """Hold the lock, let it go when it is wanted, hold it again."""
    for turn in itertools.count():
        async with holding(locker, name) as wanted:
            print("held", turn, flush=True)
            await wanted.wait()
        await asyncio.sleep(0.1)  # long enough for one that only looks now and then


async def hold_for_ever(locker: Locker, name: str) -> None:
    """Hold the lock, say when it is wanted, and never let go."""
    async with holding(locker, name) as wanted:
        print("held", flush=True)
        await wanted.wait()
        print("wanted", flush=True)
        await asyncio.get_running_loop().create_future()


async def stop_while_holding(locker: Locker, name: str, pid: Path) -> bool:
    """Stop (SIGSTOP) with the lock held; once continued, return whether the lease is lost."""
    async with locker.lock(name, ignore) as lease:
        pid.write_text(str(os.getpid()))
        print("held", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return is_lost(lease)
