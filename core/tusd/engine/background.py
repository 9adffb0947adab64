"""Work that outlives its request, and is waited for when the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import TusError
from ..model import UploadId

Result = TypeVar("Result")

logger = logging.getLogger("tusd.engine")

_REST = 10.0
"""Seconds from the failure of a duty to its new beginning."""


class Bells:
    """A bell for each upload that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[UploadId, set[asyncio.Future[None]]] = {}

    def ring(self, upload_id: UploadId) -> None:
        """Wake who waits for this upload."""
        for future in self._waiting.get(upload_id, ()):
            if not future.done():
                future.set_result(None)

    def ring_all(self) -> None:
        """Wake everybody."""
        for upload_id in self._waiting:
            self.ring(upload_id)

    @contextmanager
    def heard(self, upload_id: UploadId) -> Iterator[asyncio.Future[None]]:
        """A future that is done once the bell has rung within the block: nothing is missed between a look and the wait."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(upload_id, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(upload_id, None)


class Background:
    """Tasks that nobody waits for, and duties that never end; a failure is logged."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], UploadId] = {}
        self._duties: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, Result], what: str, upload_id: UploadId) -> asyncio.Task[Result]:
        """Run it as a task, which the caller may also wait for; the log calls it `what`."""
        task = asyncio.create_task(work, name=what)
        self._tasks[task] = upload_id
        task.add_done_callback(self._ended)
        return task

    def begin(self, duty: Callable[[], Coroutine[None, None, None]], what: str) -> None:
        """Run what goes on for as long as the server serves: one that fails begins again. It is cancelled by `close`."""
        task = asyncio.create_task(_going_on(duty, what), name=what)
        self._duties.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """End the duties, then wait for all else, also for what it starts itself; when cancelled, cancel it."""
        duties = set(self._duties)
        for duty in duties:
            duty.cancel()
        try:
            if duties:
                await asyncio.wait(duties)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        upload_id = self._tasks.pop(task, None)
        self._duties.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, TusError)
            logger.error(
                "%s failed: %s", task.get_name(), error, exc_info=None if expected else error, extra={"upload": upload_id}
            )


async def _going_on(duty: Callable[[], Coroutine[None, None, None]], what: str) -> None:
    while True:
        try:
            return await duty()
        except Exception:
            logger.exception("%s failed; it begins again in %.0f s", what, _REST)
        await asyncio.sleep(_REST)
