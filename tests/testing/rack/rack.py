"""Lockers, one right and the others each with one fault, that `LockingSuite` is tried on."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from tusd import plugin


class _Lease:
    def __init__(self, token: int) -> None:
        self.token = token
        self.held = True

    def check(self) -> None:
        if not self.held:
            raise plugin.LeaseLost()


class RackLocker(plugin.Locker):
    """Right: a queue of holder and waiters for each name."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[tuple[asyncio.Event, Callable[[], None]]]] = {}
        self.tokens = itertools.count(1)

    @asynccontextmanager
    async def lock(self, name: str, wanted: Callable[[], None]) -> AsyncIterator[plugin.Lease]:
        queue = self.queues.setdefault(self.key(name), deque())
        entry = (asyncio.Event(), wanted)
        queue.append(entry)
        try:
            if len(queue) > 1:
                self.tell(queue[0][1])
                await self.turn(entry[0])
            if len(queue) > 1:
                self.tell_new(wanted)
            lease = _Lease(next(self.tokens))
            yield lease
            self.end(lease)
        except BaseException:
            self.abandon(name, queue, entry)
            raise
        self.leave(name, queue, entry)

    def key(self, name: str) -> str:
        return name

    async def turn(self, event: asyncio.Event) -> None:
        await event.wait()

    def tell(self, wanted: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(wanted)

    tell_new = tell

    def end(self, lease: _Lease) -> None:
        lease.held = False

    def leave(self, name: str, queue: deque[tuple[asyncio.Event, Callable[[], None]]], entry: object) -> None:
        queue.remove(entry)  # type: ignore[arg-type]
        if queue:
            queue[0][0].set()
        else:
            self.queues.pop(self.key(name), None)

    abandon = leave


class _Plugin:
    scope = plugin.Scope.PROCESS
    locker: ClassVar[type[RackLocker]]

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self) -> AsyncIterator[plugin.Locker]:
        yield self.locker()


class Rack(_Plugin):
    locker = RackLocker


class LetsAllIn(_Plugin):
    class locker(RackLocker):
        async def turn(self, event: asyncio.Event) -> None:
            await asyncio.sleep(0)


class MixesNamesUp(_Plugin):
    class locker(RackLocker):
        def key(self, name: str) -> str:
            return name[:8]


class IgnoresCase(_Plugin):
    class locker(RackLocker):
        def key(self, name: str) -> str:
            return name.lower().strip()


class TellsNobody(_Plugin):
    class locker(RackLocker):
        def tell(self, wanted: Callable[[], None]) -> None:
            pass


class ForgetsThoseWhoWaitAlready(_Plugin):
    class locker(RackLocker):
        def tell_new(self, wanted: Callable[[], None]) -> None:
            pass


class TellsFromAnotherThread(_Plugin):
    class locker(RackLocker):
        def tell(self, wanted: Callable[[], None]) -> None:
            threading.Thread(target=self.call, args=(asyncio.get_running_loop(), wanted)).start()

        def call(self, loop: asyncio.AbstractEventLoop, wanted: Callable[[], None]) -> None:
            asyncio.set_event_loop(loop)
            asyncio._set_running_loop(loop)
            wanted()


class LeavesCancelledWaitersInTheQueue(_Plugin):
    class locker(RackLocker):
        async def turn(self, event: asyncio.Event) -> None:
            await asyncio.shield(asyncio.ensure_future(event.wait()))

        def abandon(self, name: str, queue: object, entry: tuple[asyncio.Event, object]) -> None:  # type: ignore[override]
            if entry[0].is_set():
                super().abandon(name, queue, entry)  # type: ignore[arg-type]


class KeepsTheLockOnErrors(_Plugin):
    class locker(RackLocker):
        def abandon(self, name: str, queue: object, entry: object) -> None:
            pass


class IsSlow(_Plugin):
    class locker(RackLocker):
        async def turn(self, event: asyncio.Event) -> None:
            await event.wait()
            await asyncio.sleep(0.35)


class CallsEveryLeaseGood(_Plugin):
    class locker(RackLocker):
        def end(self, lease: _Lease) -> None:
            pass


class RepeatsTokens(_Plugin):
    class locker(RackLocker):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = itertools.cycle([1, 2])  # type: ignore[assignment]


class OpensFilesForEver(_Plugin):
    class locker(RackLocker):
        def end(self, lease: _Lease) -> None:
            super().end(lease)
            os.open(os.devnull, os.O_RDONLY)


class ClaimsAScopeThatItHasNot(_Plugin):
    scope = plugin.Scope.HOST
    locker = RackLocker


class _Marker(RackLocker):
    """Between processes: a file that is there while the lock is held, and stays when the holder is killed."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    @asynccontextmanager
    async def lock(self, name: str, wanted: Callable[[], None]) -> AsyncIterator[plugin.Lease]:
        path = self.directory / name.encode(errors="surrogatepass").hex()[:200]
        async with super().lock(name, wanted) as lease:
            while True:
                try:
                    path.touch(exist_ok=False)
                    break
                except FileExistsError:
                    await asyncio.sleep(0.005)
            teller = asyncio.create_task(self.tell_always(wanted))
            try:
                yield lease
            finally:
                teller.cancel()
                path.unlink()

    async def tell_always(self, wanted: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(0.02)
            wanted()


class StaysLockedAfterAKill:
    scope = plugin.Scope.HOST

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self, worker: plugin.Worker) -> AsyncIterator[plugin.Locker]:
        worker.directory.mkdir(parents=True, exist_ok=True)
        yield _Marker(worker.directory)
