"""The locking seam: one request at a time works on an upload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Lease(Protocol):
    """What holding a lock gives."""

    token: int
    """Grows from holder to holder: the fence. Stores write it where their backend can compare."""

    def check(self) -> None:
        """Raise `LeaseLost` if the lock is, or may be, no longer held. Cheap, never waits: compares a deadline with
        CLOCK_BOOTTIME, counted from BEFORE the renewal was sent. Stores call it immediately before each write."""
        ...


class Locker(ABC):
    """Gives locks by name. One per worker process."""

    @abstractmethod
    def lock(self, name: str, wanted: Callable[[], None]) -> AbstractAsyncContextManager[Lease]:
        """Hold the lock `name` for the time of the context; wait for as long as it takes (the caller sets the time-out by cancelling).

        While somebody else waits for it, the holder's `wanted` is called: on the holder's own event loop, soon, any number of
        times, also after the lock is gone (then nothing happens). The holder stops as soon as it can.
        `name` is an upload id or a name of the core's own that begins with `~`; it may hold any characters and is
        hashed before it becomes a file name or key. A holder that dies, however it dies, holds nothing any more.
        A waiter that is cancelled leaves nothing behind. Raises `LockUnavailable`."""

    async def check(self) -> None:
        """For readiness: raises `LockUnavailable` with the reason when the locker does not work."""
        return None
