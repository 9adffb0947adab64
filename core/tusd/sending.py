"""Pieces on their way to a backend, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .waiting import all_ended

T = TypeVar("T")


@dataclass(slots=True)
class Sending(Generic[T]):
    """Pieces on their way to the backend, `most` at once."""

    most: int
    arrived: Callable[[T], None] | None = None
    """Called with the results in order, each as soon as all before it have arrived, too."""
    results: list[T] = field(default_factory=list)
    """Of those that arrived, in order, up to the first that did not."""
    started: int = 0
    _tasks: dict[asyncio.Task[T], int] = field(default_factory=dict)
    _done: dict[int, T] = field(default_factory=dict)
    _failure: BaseException | None = None

    async def start(self, send: Callable[[], Awaitable[T]]) -> None:
        """Begin with `send()` as soon as fewer than `most` are on their way. Raises what made an earlier one fail, and then does not begin."""
        while len(self._tasks) >= self.most and self._failure is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # for `_ended`
        self._raise()

        async def sending() -> T:
            return await send()

        task = asyncio.create_task(sending())
        self._tasks[task] = self.started
        self.started += 1
        task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Wait until all have arrived. Raises what made one fail, once nothing is on its way any more."""
        await self.settle()
        self._raise()

    async def settle(self) -> None:
        """Wait until nothing is on its way, whatever has failed and however often this is cancelled."""
        cancelled = await all_ended(self._tasks)
        await asyncio.sleep(0)
        if cancelled is not None:
            raise cancelled

    def _ended(self, task: asyncio.Task[T]) -> None:
        number = self._tasks.pop(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is not None:
            self._failure = self._failure or failure
            return
        self._done[number] = task.result()
        while (following := len(self.results)) in self._done:
            result = self._done.pop(following)
            self.results.append(result)
            if self.arrived is not None:
                self.arrived(result)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
