"""Locks for one process: a queue per name and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

from tusd import plugin


class MemoryLocking:
    """Keep locks in the memory of the server's one worker process."""

    api_version = 1
    scope = plugin.Scope.PROCESS

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self) -> AsyncIterator[plugin.Locker]:
        yield MemoryLocker()


class MemoryLocker(plugin.Locker):
    """First come, first served. Everything costs the same however many wait."""

    def __init__(self) -> None:
        self.queues: dict[str, OrderedDict[MemoryLease, None]] = {}
        """Name -> the holder, then those who wait, in the order in which they came. Only names in use are in here."""
        self.last_token = 0

    def lock(self, name: str, wanted: Callable[[], None]) -> MemoryLease:
        return MemoryLease(self, name, wanted)


class MemoryLease:
    """One request for a lock: the context manager and, inside of it, the lease."""

    __slots__ = ("_locker", "_name", "_turn", "_wanted", "token")

    def __init__(self, locker: MemoryLocker, name: str, wanted: Callable[[], None]) -> None:
        self._locker = locker
        self._name = name
        self._wanted = wanted
        self._turn: asyncio.Future[None] | None = None
        self.token = 0
        """0 while the lock is not held."""

    async def __aenter__(self) -> MemoryLease:
        queue = self._locker.queues.get(self._name)
        if queue is None:
            self._locker.queues[self._name] = OrderedDict({self: None})
            self._hold()
            return self
        loop = asyncio.get_running_loop()
        self._turn = loop.create_future()
        loop.call_soon(next(iter(queue))._wanted)
        queue[self] = None
        try:
            await self._turn
        except BaseException:
            self._leave()  # it may have been our turn already
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def check(self) -> None:
        if not self.token:
            raise plugin.LeaseLost()

    def _hold(self) -> None:
        # Time, so that tokens also grow over a restart, which a store outlives.
        self.token = self._locker.last_token = max(time.time_ns(), self._locker.last_token + 1)

    def _leave(self) -> None:
        queue = self._locker.queues[self._name]
        del queue[self]
        if not queue:
            del self._locker.queues[self._name]
        elif self.token:
            next(iter(queue))._begin(others=len(queue) > 1)
        self.token = 0

    def _begin(self, *, others: bool) -> None:
        self._hold()
        assert self._turn is not None
        # One that is being cancelled holds the lock until its task runs and passes it on.
        if not self._turn.done():
            self._turn.set_result(None)
        if others:
            self._turn.get_loop().call_soon(self._wanted)
