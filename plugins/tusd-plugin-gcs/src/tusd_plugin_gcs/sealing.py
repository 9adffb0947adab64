"""From pieces to the one object of a complete upload: a tree of compositions, whose CRC32C is compared with that of the pieces."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tusd import plugin
from tusd.plugin import utcnow

from . import checksum
from .bucket import COMPOSE_LIMIT, Bucket, Changed, Missing, Source, Stat, all_of, shortened
from .headers import RUN, UPLOAD
from .manifest import Sealed

_AT_ONCE = 8
"""So many compositions of one upload run side by side."""


@dataclass(frozen=True, slots=True)
class Target:
    """The object that an upload becomes."""

    name: str
    base: str
    """How the names of all other objects of this upload begin."""
    owner: str
    run: str
    fields: Mapping[str, Any]
    """What it carries."""

    @property
    def temporaries(self) -> str:
        """How the names of what some pieces are put together to begin."""
        return f"{self.base}_{self.run}_tmp_"

    def temporary(self, level: int, number: int) -> str:
        """One of these names."""
        return f"{self.temporaries}{level}_{number}"


async def compose_all(
    bucket: Bucket, target: Target, sources: Sequence[Source], check: Callable[[], None], logger: logging.Logger
) -> tuple[Sealed, list[str]]:
    """Put sources together, at least one; all stay. Returns the object, and the names of what was made on the way.

    `check` is called before every write. Raises `Missing` when a source is not there."""
    expected = _size_and_crc(sources)
    level, made = 0, list[str]()
    while len(sources) > COMPOSE_LIMIT:
        groups = [sources[start : start + COMPOSE_LIMIT] for start in range(0, len(sources), COMPOSE_LIMIT)]
        sources = await compose_groups(bucket, target, groups, partial(target.temporary, level), check, logger, replace=True)
        made += [source.name for source in sources if source.name.startswith(target.temporaries)]
        level += 1
    final = list(sources)

    async def write(match: int) -> Stat:
        return await bucket.compose(target.name, final, match=match, about=target.fields, final=True)

    return await place(bucket, target, expected, write, check, logger), made


async def compose_groups(
    bucket: Bucket,
    target: Target,
    groups: Sequence[Sequence[Source]],
    name_of: Callable[[int], str],
    check: Callable[[], None],
    logger: logging.Logger,
    *,
    replace: bool = False,
) -> list[Source]:
    """One object of each group, in order; a group of one stays as it is. Not `replace`: raises `Changed` where a name is taken."""

    async def one(number: int) -> Source:
        group = groups[number]
        if len(group) == 1:
            return group[0]
        name = name_of(number)
        check()
        about = {"metadata": {UPLOAD: target.owner, RUN: target.run}, "customTime": utcnow().isoformat()}
        stat = await bucket.compose(name, group, match=None if replace else 0, about=about)
        _compare(stat, _size_and_crc(group), logger)
        return Source(name, stat.size, stat.crc, stat.generation)

    made: list[Source] = []
    for start in range(0, len(groups), _AT_ONCE):
        made += await all_of([partial(one, number) for number in range(start, min(start + _AT_ONCE, len(groups)))])
    return made


async def place(
    bucket: Bucket,
    target: Target,
    expected: tuple[int, int],
    write: Callable[[int], Awaitable[Stat]],
    check: Callable[[], None],
    logger: logging.Logger,
) -> Sealed:
    """Make the object by `write(generation)`, which replaces that generation alone; unless an earlier attempt has made it already.

    What an earlier upload of the same id has left is replaced; the object of anybody else is not. `expected`: its size and CRC32C."""
    check()
    try:
        stat = await write(0)
    except Changed:
        there = await _there(bucket, target)
        if there.metadata.get(RUN) == target.run and (there.size, there.crc) == expected:
            return Sealed(there.size, there.crc, there.generation)
        if there.metadata.get(UPLOAD) != target.owner:
            logger.error("the object %s is there already, and is not of this upload; remove or rename it", shortened(target.name))
            raise plugin.StorageUnavailable() from None
        check()
        try:
            stat = await write(there.generation)
        except Changed:
            raise plugin.StorageUnavailable() from None
    try:
        _compare(stat, expected, logger)
    except plugin.StorageUnavailable:
        await bucket.remove(target.name, stat.generation)
        raise
    return Sealed(stat.size, stat.crc, stat.generation)


async def _there(bucket: Bucket, target: Target) -> Stat:
    try:
        return await bucket.stat(target.name)
    except Missing:
        raise plugin.StorageUnavailable() from None


def _compare(stat: Stat, expected: tuple[int, int], logger: logging.Logger) -> None:
    if (stat.size, stat.crc) != expected:
        logger.error(
            "%s has %d bytes with CRC32C %s instead of %d with %s",
            shortened(stat.name),
            stat.size,
            checksum.encoded(stat.crc),
            expected[0],
            checksum.encoded(expected[1]),
        )
        raise plugin.StorageUnavailable()


def _size_and_crc(sources: Sequence[Source]) -> tuple[int, int]:
    return sum(source.size for source in sources), checksum.combined((source.size, source.crc) for source in sources)
