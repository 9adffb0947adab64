"""Make room for an upload by removing others, where a limiter wants it so."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from ..errors import QuotaExceeded, UploadLocked
from ..model import Eviction, Final, Partial, UploadId, UploadInfo
from ..storage import Listable, Terminable
from .context import Context
from .ranking import Ranking, may_go, ranked
from .removal import removed

_EVICT = "~evict"
"""The name of the lock that one who makes room holds at a time: two at once would remove more than both need."""
_PATIENCE = 0.1
"""Seconds to wait for the lock of an upload that is to go. Whoever holds it is at work, and it stays."""
_ROUNDS = 10
"""How often room is made for one request, while others take it away again."""


async def reserve(context: Context, info: UploadInfo, total: int, before: int) -> None:
    """As `Context.reserve`; but if a limiter that refuses says what may go for it, that goes first. Raises `QuotaExceeded`."""
    try:
        return await context.reserve(info, total, before)
    except QuotaExceeded as refusal:
        if refusal.evict is None or not {Listable, Terminable} <= context.store.capabilities:
            raise
        refused = refusal
    try:
        async with context.own_lock(_EVICT, context.policy.lock_timeout):
            await _reserve(context, info, total, before)
    except UploadLocked:
        raise refused from None


async def _reserve(context: Context, info: UploadInfo, total: int, before: int) -> None:
    for _ in range(_ROUNDS):
        try:
            return await context.reserve(info, total, before)
        except QuotaExceeded as refusal:
            if refusal.evict is None or not await _made_room(context, info, refusal.evict, refusal.short_by):
                raise
    await context.reserve(info, total, before)


async def _made_room(context: Context, info: UploadInfo, eviction: Eviction, missing: int) -> bool:
    """Remove other uploads until `missing` bytes are free; whether to ask again. If not even all that may go would do, none goes."""
    spared = {info.id, *(info.concat.parts if isinstance(info.concat, Final) else ())}
    now = asyncio.get_running_loop().time()
    ranking = context.rankings.get(eviction)
    # A part goes only by a new listing: a final upload that needs it may have been created since an older one.
    going = [] if ranking is None else [one for one in _others(ranking, spared) if not isinstance(one.concat, Partial)]
    listed = False
    if ranking is None or (now >= ranking.rests_until and (now >= ranking.until or _room(going) < missing)):
        listed = True
        ranking = context.rankings[eviction] = await ranked(cast(Listable, context.store).uploads(), eviction)
        going = _others(ranking, spared)
        if _room(going) < missing:
            ranking.rest()
    if _room(going) < missing:
        return False
    freed = 0
    for upload in going:
        if freed >= missing:
            break
        del ranking.uploads[upload.id]
        gone = await removed(context, upload.id, "evicted", partial(may_go, eviction=eviction), patience=_PATIENCE)
        freed += gone or 0
    return freed > 0 or not listed  # an older listing may name what others have removed since


def _others(ranking: Ranking, spared: set[UploadId]) -> list[UploadInfo]:
    return [upload for upload in ranking.uploads.values() if upload.id not in spared]


def _room(uploads: list[UploadInfo]) -> int:
    return sum(upload.room for upload in uploads)
