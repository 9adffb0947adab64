from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tusd.testing.faults import cancelled_at, failing_call


class Work:
    """Three suspensions, each noted once it is over."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.cleaned = False

    async def __call__(self) -> None:
        try:
            await asyncio.sleep(0)
            self.done.append("bare")
            await asyncio.to_thread(self.done.append, "thread")
            self.done.append("after the thread")
            await asyncio.sleep(0.001)
            self.done.append("timer")
        finally:
            self.cleaned = True


@pytest.mark.parametrize("late", [None, 0.0])
async def test_every_suspension_is_cancelled_once(late: float | None) -> None:
    seen = []
    for nth in range(1, 10):
        work = Work()
        struck = await cancelled_at(nth, work(), late=late)
        assert work.cleaned
        if not struck:
            break
        seen.append(len([step for step in work.done if step != "thread"]))
    assert not struck
    assert work.done == ["bare", "thread", "after the thread", "timer"]
    if late is None:
        assert seen == [0, 1, 2]


async def test_a_late_cancellation_finds_the_thread_at_work() -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        await asyncio.to_thread(loop.call_soon_threadsafe, begun.set)
        await asyncio.sleep(10)

    assert await cancelled_at(1, work(), late=0.05)
    assert begun.is_set()


async def test_a_swallowed_cancellation_is_found() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return

    with pytest.raises(AssertionError, match="swallowed"):
        await cancelled_at(1, work())


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await cancelled_at(5, work())


def test_the_nth_call_fails_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for nth in (1, 2, 3):
        with failing_call(nth, [(os, "mkdir"), (os, "rmdir")], lambda: OSError("broken")) as calls:
            try:
                os.mkdir(path)
                os.rmdir(path)
            except OSError as error:
                assert str(error) == "broken"
        assert (calls.made, calls.failed) == (min(nth, 2), nth < 3)
        assert path.exists() == (nth == 2)
        if path.exists():
            os.rmdir(path)
    assert os.mkdir.__module__ == "posix"
