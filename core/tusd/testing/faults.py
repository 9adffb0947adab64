"""Breaking things on purpose: a cancellation at the N-th suspension, a failure of the N-th call."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock


async def cancelled_at(nth: int, work: Coroutine[Any, Any, object], *, late: float | None = None) -> bool:
    """Run `work` and cancel it at the moment when it suspends for the `nth` time (from 1), as `Task.cancel` does.

    With `late` the cancellation comes that many seconds after the moment, so that what runs in a thread has begun.
    Returns False when the work came to its end without being cancelled. An error that it raised of itself is raised here.
    Fails when the work swallows the cancellation.
    """
    struck = False

    def strike(task: asyncio.Task[object]) -> None:
        nonlocal struck
        struck = task.cancel() or struck

    def suspended() -> None:
        task = asyncio.current_task()
        assert task is not None
        if late is None:
            strike(task)
        else:
            asyncio.get_running_loop().call_later(late, strike, task)

    async def stepping() -> object:
        return await _Steps(work, nth, suspended)

    task = asyncio.create_task(stepping())
    await asyncio.wait([task])
    if task.cancelled():
        assert struck, "the work cancelled itself"
        return True
    task.result()
    assert not struck, "the work swallowed its cancellation: CancelledError must be raised again after cleaning up"
    return False


class _Steps:
    """Awaits a coroutine and calls `suspended` just before its `nth` suspension reaches the event loop."""

    def __init__(self, work: Coroutine[Any, Any, object], nth: int, suspended: Callable[[], None]) -> None:
        self._work = work
        self._nth = nth
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, object]:
        count = 0
        step: Callable[[], Any] = functools.partial(self._work.send, None)
        while True:
            try:
                waiting_for = step()
            except StopIteration as stop:
                return stop.value
            count += 1
            if count == self._nth:
                self._suspended()
            try:
                sent = yield waiting_for
            except BaseException as error:  # handed on to the coroutine, as `yield from` would
                step = functools.partial(self._work.throw, error)
            else:
                step = functools.partial(self._work.send, sent)


@dataclass
class Calls:
    """What `failing_call` saw."""

    made: int = 0
    failed: bool = False
    """Whether there was an N-th call, which then failed."""


@contextmanager
def failing_call(nth: int, functions: Iterable[tuple[object, str]], error: Callable[[], Exception]) -> Iterator[Calls]:
    """While inside, the `nth` call (from 1) to any of `functions`, in whatever thread, raises `error()`.

    A function is named by its owner and its name: `(os, "pwrite")`. The failing call does nothing; all others do their work.
    """
    calls = Calls()
    lock = threading.Lock()

    def breaking(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                calls.made += 1
                if calls.made == nth:
                    calls.failed = True
                    raise error()
            return real(*args, **kwargs)

        return call

    with ExitStack() as patches:
        for owner, name in functions:
            patches.enter_context(mock.patch.object(owner, name, breaking(getattr(owner, name))))
        yield calls
