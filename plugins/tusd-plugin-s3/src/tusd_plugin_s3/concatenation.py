"""A final upload: one object of the bytes of others, copied within the bucket where that can be done.

A part must have a smallest size, and the partial uploads need not: what is too small is downloaded and joined with what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from tusd import plugin
from tusd.plugin import Sending, UploadInfo, unbroken

from .bucket import Gone, Missing, Part
from .context import Context
from .manifest import Manifest
from .record import Record
from .sealing import Sealing
from .sizes import Sizes

_PIECE = 8 << 20
"""Bytes that are downloaded at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """Some bytes of an object."""

    key: str
    start: int
    stop: int
    of: int
    """The object's size."""

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether it is all of the object."""
        return self.size == self.of

    def cut(self, at: int) -> tuple[Source, Source]:
        """The first `at` bytes of it, and the others."""
        return replace(self, stop=self.start + at), replace(self, start=self.start + at)


Joined = tuple[Source, ...]
"""The sources of one part: one that can be copied, or several that are joined."""


def plan(sources: Sequence[Source], sizes: Sizes, *, copies: bool) -> list[Joined]:
    """The parts of the final object. None but the last is smaller than `sizes.least`.

    Without `copies`, or where all parts must have one size, they are cut like a body. Raises `StorageFull` when they are too many."""
    total = sum(source.size for source in sources)
    uniform = sizes.uniform(total)
    if uniform is not None or not copies:
        size = uniform or max(min(sizes.preferred, sizes.held), sizes.least, -(-total // sizes.numbers))
        return _equal(sources, size)
    least = sizes.least
    while True:
        parts = _copied(sources, least, sizes.largest)
        if len(parts) <= sizes.numbers:
            return parts
        least *= 2  # so many partial uploads that more of them have to be joined
        if least > sizes.largest:
            raise plugin.StorageFull("the parts are too many for one upload")


def _equal(sources: Sequence[Source], size: int) -> list[Joined]:
    parts: list[Joined] = []
    joined: list[Source] = []
    room = size
    for source in sources:
        rest = source
        while rest.size:
            piece, rest = rest.cut(min(room, rest.size))
            joined.append(piece)
            room -= piece.size
            if not room:
                parts.append(tuple(joined))
                joined, room = [], size
    return [*parts, tuple(joined)] if joined else parts


def _copied(sources: Sequence[Source], least: int, largest: int) -> list[Joined]:
    parts: list[Joined] = []
    joined: list[Source] = []
    """What is too small to be a part as yet."""
    for source in sources:
        if not source.size:
            continue
        rest = source
        if joined:
            needed = least - sum(one.size for one in joined)
            if rest.size < needed + least:
                joined.append(rest)
                if rest.size >= needed:
                    parts.append(tuple(joined))
                    joined = []
                continue
            first, rest = rest.cut(needed)
            parts.append((*joined, first))
            joined = []
        if rest.size < least:
            joined = [rest]
        else:
            parts += _ranges(rest, largest)
    return [*parts, tuple(joined)] if joined else parts


def _ranges(source: Source, largest: int) -> list[Joined]:
    """The source as parts of `largest` bytes at most, and as equal as can be."""
    count = -(-source.size // largest)
    ends = [source.size * n // count for n in range(1, count + 1)]
    starts = [0, *ends[:-1]]
    return [
        (replace(source, start=source.start + start, stop=source.start + end),) for start, end in zip(starts, ends, strict=True)
    ]


class Concatenation:
    """Fills one final upload. After a crash all is done again."""

    def __init__(self, context: Context, record: Record, sealing: Sealing, parts: Sequence[UploadInfo]) -> None:
        self._context = context
        self._record = record
        self._sealing = sealing
        self._sources = [Source(part.storage.get("Key", ""), 0, part.offset, part.offset) for part in parts]

    async def run(self) -> None:
        """Make the object. Raises `UploadNotFound` when a part is gone, `StorageFull`, `StorageUnavailable`."""
        total = sum(source.size for source in self._sources)
        parts = plan(self._sources, self._context.sizes, copies=self._context.copies)
        if not parts or (len(parts) == 1 and (total < self._context.sizes.least or not self._can_be_copied(parts[0]))):
            await self._in_one(parts, total)
        else:
            await self._in_parts(parts)

    def _can_be_copied(self, sources: Joined) -> bool:
        return len(sources) == 1 and self._context.copies

    async def _in_one(self, parts: Sequence[Joined], total: int) -> None:
        await self._context.memory.reserve(total)
        try:
            data = await self._joined(parts[0] if parts else ())
            await unbroken(self._made_in_one(data))
        finally:
            self._context.memory.release(total)

    async def _made_in_one(self, data: bytearray) -> None:
        await self._sealing.put_object(data)
        await self._sealing.sealed(replace(self._record.manifest, modified=plugin.utcnow()), len(data))

    async def _in_parts(self, parts: Sequence[Joined]) -> None:
        multipart = await unbroken(self._begun())
        sending = Sending[Part](most=self._context.concurrency)
        try:
            for number, sources in enumerate(parts, 1):
                await sending.start(partial(self._part, multipart, number, sources))
            await sending.end()
        except Gone as error:
            raise plugin.StorageUnavailable(info=self._record.info) from error
        finally:
            await sending.settle()
        made = replace(self._record.manifest, parts=tuple(sending.results), modified=plugin.utcnow())
        await unbroken(self._sealing.seal(made))

    async def _begun(self) -> str:
        """A new multipart upload, which `.info` names; that of an earlier try is forgotten."""
        bucket, before = self._context.bucket, self._record.manifest.multipart
        if before is not None:
            self._record.check()
            await bucket.abort(self._record.object, before)
        self._record.check()
        multipart = await bucket.create_multipart(self._record.object, self._context.carries(self._record.info))
        await self._record.write(self._record.info, Manifest(multipart=multipart))
        return multipart

    async def _part(self, multipart: str, number: int, sources: Joined) -> Part:
        size = sum(source.size for source in sources)
        if self._can_be_copied(sources):
            return Part(number, size, await self._copied(multipart, number, sources[0]))
        await self._context.memory.reserve(size)
        try:
            data = await self._joined(sources)
            self._record.check()
            return Part(number, size, await self._context.bucket.upload_part(self._record.object, multipart, number, data))
        finally:
            self._context.memory.release(size)

    async def _copied(self, multipart: str, number: int, source: Source) -> str:
        self._record.check()
        try:
            return await self._context.bucket.copy_part(
                self._record.object, multipart, number, source.key, source.start, source.stop, source.whole
            )
        except Missing as error:
            raise plugin.UploadNotFound() from error

    async def _joined(self, sources: Sequence[Source]) -> bytearray:
        data = bytearray()
        try:
            for source in sources:
                for start in range(source.start, source.stop, _PIECE):
                    stop = min(start + _PIECE, source.stop)
                    data += await self._context.bucket.get_range(source.key, start, stop)
        except Missing as error:
            raise plugin.UploadNotFound() from error
        return data
