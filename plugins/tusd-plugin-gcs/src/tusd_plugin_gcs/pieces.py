"""The pieces that are in the bucket and that no `.info` tells of yet: what a holder had sent when it died."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from .bucket import Missing, Stat, all_of
from .manifest import Chunk

BEGIN, WHOLE = "tusd-begin", "tusd-whole"
"""In a piece's metadata: the offset of its first byte; that it belongs to a body of which all counts or nothing."""
_MOST_AT_ONCE = 16


def chunk_fields(upload: str, begin: int, now: datetime, *, whole: bool) -> dict[str, Any]:
    """What the object of a piece carries. `customTime` is for lifecycle rules: the objects of complete uploads have none."""
    metadata = {"tusd-upload": upload, BEGIN: str(begin), **({WHOLE: "1"} if whole else {})}
    return {"contentType": "application/octet-stream", "metadata": metadata, "customTime": now.isoformat()}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A piece that was found."""

    begin: int
    chunk: Chunk
    updated: datetime


async def find(stat: Callable[[int], Awaitable[Stat]], number: int) -> tuple[list[Unknown], int]:
    """Look for pieces by their numbers, from `number` up to the first that is not there; returns that one, too."""
    found: list[Unknown] = []
    window = 1

    async def look(at: int) -> Stat | None:
        try:
            return await stat(at)
        except Missing:
            return None

    while True:
        for one in await all_of([partial(look, at) for at in range(number, number + window)]):
            if one is None:
                return found, number
            found += _counted(number, one)
            number += 1
        window = min(window * 2, _MOST_AT_ONCE)


def _counted(number: int, stat: Stat) -> list[Unknown]:
    begin = stat.metadata.get(BEGIN, "")
    if WHOLE in stat.metadata or not begin.isdecimal():
        return []
    return [Unknown(int(begin), Chunk(number, stat.size, stat.crc), stat.updated)]


def longest(found: Sequence[Unknown], offset: int) -> list[Unknown]:
    """The pieces that lead furthest from `offset` without a gap.

    More than one holder may have sent some, cut in different places: each has told its client only of what it had sent without a gap."""
    best: dict[int, tuple[int, Unknown]] = {}
    for one in sorted(found, key=lambda one: one.begin, reverse=True):
        end = one.begin + one.chunk.size
        reach = best[end][0] if end in best else end
        if one.chunk.size and (one.begin not in best or best[one.begin][0] < reach):
            best[one.begin] = (reach, one)
    chain: list[Unknown] = []
    while offset in best:
        one = best[offset][1]
        chain.append(one)
        offset += one.chunk.size
    return chain
