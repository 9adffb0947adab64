"""Work that blocks, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from .waiting import unbroken

T = TypeVar("T")


async def in_thread(work: Callable[[], T], executor: Executor | None = None) -> T:
    """Do `work` in a thread. A caller that is cancelled waits for it to end, however often it is cancelled."""
    return await unbroken(asyncio.get_running_loop().run_in_executor(executor, work))
