"""Which uploads go first when room is needed: what one listing of the store says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from ..model import Eviction, Final, State, UploadId, UploadInfo, utcnow

MOST = 1000
"""Uploads that are remembered of one listing, and thus the most that go for one other."""
_FRESH = 30.0
"""Seconds for which the order of a listing counts."""
_REST = 10
"""A store whose listing was in vain is not listed again for so many times as long as that took."""


@dataclass(slots=True)
class Ranking:
    """Uploads that may go, the first to go first. Times are in seconds of the event loop's clock."""

    uploads: dict[UploadId, UploadInfo]
    took: float
    until: float
    """When another listing is due."""
    rests_until: float = 0
    """When another listing may be made at the earliest."""

    def rest(self) -> None:
        """It was in vain: who asks for room over and over must not keep the store busy."""
        self.rests_until = asyncio.get_running_loop().time() + self.took * _REST


def may_go(info: UploadInfo, eviction: Eviction) -> bool:
    """Whether an upload, as it stands, may be removed for another. What is being finished never may, nor what waits for its parts."""
    if info.state is State.COMPLETE:
        return eviction.finished
    if info.state is State.FINISHING or (info.state is State.RECEIVING and info.offset == info.length):
        return False
    return not isinstance(info.concat, Final) and info.modified + timedelta(seconds=eviction.idle) <= utcnow()


async def ranked(uploads: AsyncIterator[UploadInfo], eviction: Eviction) -> Ranking:
    """List the store, and put what may go in order."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: list[UploadInfo] = []
    needed: set[UploadId] = set()
    async for info in uploads:
        if isinstance(info.concat, Final) and info.state is not State.COMPLETE:
            needed.update(info.concat.parts)
        if info.room and may_go(info, eviction):
            found.append(info)
        if len(found) >= 2 * MOST:
            found = _first(found, eviction)
            await asyncio.sleep(0)
    found = [info for info in _first(found, eviction) if info.id not in needed]
    now = loop.time()
    return Ranking({info.id: info for info in found}, now - began, now + _FRESH)


def _first(found: list[UploadInfo], eviction: Eviction) -> list[UploadInfo]:
    match eviction.order:
        case "oldest":
            found.sort(key=lambda info: info.created)
        case "largest":
            found.sort(key=lambda info: -info.room)
        case "least-recently-touched":
            found.sort(key=lambda info: info.modified)
    return found[:MOST]
