"""Waiting for work whose outcome has to be known, also by who is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def all_ended(work: Collection[asyncio.Future[Any]]) -> asyncio.CancelledError | None:
    """Wait until all of it has ended, however often this is cancelled. Returns the last of these cancellations, for the caller to raise."""
    cancelled: asyncio.CancelledError | None = None
    while running := [future for future in work if not future.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def unbroken(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Await the work to its end, and return or raise what it does. Who is cancelled meanwhile is so afterwards."""
    future = asyncio.ensure_future(work)
    cancelled = await all_ended([future])
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen: what ends the caller is the cancellation
        raise cancelled
    return future.result()
