"""The memory locker: the suite, and what it promises beyond it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from tusd.builtin.memory_locking import MemoryLocker, MemoryLocking
from tusd.testing.locking import LockingSuite


class TestMemoryLocking(LockingSuite):
    plugin = MemoryLocking

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}


async def test_first_come_first_served() -> None:
    locker, order = MemoryLocker(), list[int]()

    async def take_a_turn(number: int) -> None:
        async with locker.lock("name", lambda: None):
            order.append(number)

    async with locker.lock("name", lambda: None):
        waiters = [asyncio.create_task(take_a_turn(number)) for number in range(50)]
        await asyncio.sleep(0)
        for number in (0, 10, 49):
            waiters[number].cancel()
    await asyncio.wait(waiters)
    assert order == [number for number in range(50) if number not in (0, 10, 49)]
    assert not locker.queues


async def test_waiting_takes_no_time_of_the_processor() -> None:
    locker = MemoryLocker()
    async with locker.lock("name", lambda: None):
        waiters = [asyncio.create_task(locker.lock("name", lambda: None).__aenter__()) for _ in range(100)]
        await asyncio.sleep(0)
        before = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - before < 0.05
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
    assert not locker.queues


async def test_a_wanted_that_fails_is_the_holders_trouble() -> None:
    """The waiter must not get the error of somebody else's callback; the event loop reports it."""
    locker, reported = MemoryLocker(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    error = RuntimeError("in wanted")

    def wanted() -> None:
        raise error

    async with locker.lock("name", wanted):
        waiter = asyncio.create_task(locker.lock("name", lambda: None).__aenter__())
        await asyncio.sleep(0.01)
    (await waiter).check()
    assert reported == [error]
