"""Work that blocks, in a thread."""

from __future__ import annotations

import asyncio
import errno
import threading
import time

import pytest

from tusd.threads import in_thread


async def test_it_hands_back_results_and_errors() -> None:
    def fails() -> None:
        raise OSError(errno.EIO, "x")

    assert await in_thread(lambda: 5) == 5
    with pytest.raises(OSError, match="x"):
        await in_thread(fails)


async def test_a_cancelled_caller_waits_and_hears_of_the_cancellation() -> None:
    begun, ended = threading.Event(), threading.Event()

    def fails() -> None:
        begun.set()
        time.sleep(0.1)
        ended.set()
        raise OSError(errno.EIO, "x")

    task = asyncio.create_task(in_thread(fails))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
