"""Work that goes on to its end though who waits for it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from tusd.waiting import unbroken


async def fails() -> None:
    raise OSError("broken")


async def test_it_hands_back_results_and_errors() -> None:
    assert await unbroken(asyncio.sleep(0, 5)) == 5
    assert await unbroken(asyncio.create_task(asyncio.sleep(0, 6))) == 6
    with pytest.raises(OSError, match="broken"):
        await unbroken(fails())


@pytest.mark.parametrize("failing", [False, True])
async def test_it_is_done_to_its_end_however_often_the_caller_is_cancelled(failing: bool) -> None:
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()
        if failing:
            await fails()

    task = asyncio.create_task(unbroken(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_work_that_is_cancelled_itself() -> None:
    work = asyncio.create_task(asyncio.sleep(60))
    task = asyncio.create_task(unbroken(work))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
