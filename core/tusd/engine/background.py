"""Work that outlives its request, and is waited for when the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import TusError
from ..model import UploadId

Result = TypeVar("Result")

logger = logging.getLogger("tusd.engine")


class Bell:
    """Wakes everybody who waits for it."""

    def __init__(self) -> None:
        self.rings = 0
        """How often it has rung."""
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake them all."""
        self.rings += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, rings: int, timeout: float) -> None:
        """Until it has rung more often than `rings`, or for `timeout` seconds."""
        if self.rings != rings:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait({future}, timeout=timeout)
        finally:
            self._waiting.discard(future)


class Background:
    """Tasks that nobody waits for; a failure is logged."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], UploadId] = {}

    def start(self, work: Coroutine[None, None, Result], what: str, upload_id: UploadId) -> asyncio.Task[Result]:
        """Run it as a task, which the caller may also wait for; the log calls it `what`."""
        task = asyncio.create_task(work, name=what)
        self._tasks[task] = upload_id
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Wait for all of it, also for what it starts itself; when cancelled, cancel it."""
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        upload_id = self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, TusError)
            logger.error(
                "%s failed: %s", task.get_name(), error, exc_info=None if expected else error, extra={"upload": upload_id}
            )
