"""Limiters learn what the store really holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

from ..errors import TusError, UploadLocked
from ..limiting import Limiter
from ..storage import Listable
from .context import Context

logger = logging.getLogger("tusd.engine")

_RECOUNT = "~recount"
"""The name of the lock that one who counts holds at a time."""
_PATIENCE = 1.0
_SOON = 60.0
"""Seconds until the next try, when somebody else counted or the store failed."""
_AGAIN = 86400.0
"""Seconds from one count to the next: what was reserved for a process that died is given back then."""


def counting(context: Context) -> list[Limiter]:
    """The limiters that want to know; none if the store cannot tell."""
    found = [limiter for limiter in context.limiters if type(limiter).recount is not Limiter.recount]
    if found and Listable not in context.store.capabilities:
        logger.warning("limits count only what they are told from now on: this storage cannot list the uploads that it has")
        return []
    return found


async def keep_counting(context: Context, limiters: Sequence[Limiter]) -> None:
    """Let them count at once, and then from time to time, until cancelled."""
    while True:
        done = await recounted(context, limiters)
        await asyncio.sleep(_AGAIN if done else _SOON)


async def recounted(context: Context, limiters: Sequence[Limiter]) -> bool:
    """Let each count all uploads, unless somebody else is at it; whether all have."""
    try:
        async with context.own_lock(_RECOUNT, _PATIENCE):
            for limiter in limiters:
                await limiter.recount(cast(Listable, context.store).uploads())
    except UploadLocked:
        logger.debug("somebody else counts the uploads")
        return False
    except (TusError, OSError) as error:
        logger.warning("the uploads could not be counted, limits go by what they know: %s", error)
        return False
    return True
