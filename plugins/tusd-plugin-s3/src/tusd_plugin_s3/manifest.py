"""The manifest: what of an upload's pieces counts. It stands in `.info`, in `"tusd": {"s3": {...}}`, and is all that is believed.

    multipart   the multipart upload that the parts belong to
    parts       those that count, in order: [[first number, size of each, [ETag, ...]], ...], one entry for a run of equal ones
    next        the lowest part number that nobody may ever have used
    tail        the object with the bytes behind the parts: {"key", "begin", "size"}
    claim       somebody may be sending parts: {"start": their first number, "whole": they count together or not at all}
    object      the finished object is there, and has so many bytes
    modified    when a byte last arrived (ISO 8601)
    uniform     the size that all parts have but the last, where the server wants that
    litter      tails were used, and one of them may have been left behind

What is not so stands not there: a new upload's manifest is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, repeat
from typing import Any

from tusd import plugin

from .bucket import Part

NAME = "s3"
"""Of the manifest in `.info`'s own object."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last bytes of an unfinished upload, too few for a part. Its object is never written again."""

    key: str
    begin: int
    """The offset of its first byte: where the parts end."""
    size: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Parts with the numbers from `start` up to the manifest's `next` may be on their way. The first of them begins with the tail's bytes."""

    start: int
    whole: bool
    """They are of a body that is not verified yet."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What counts of one upload."""

    multipart: str | None = None
    parts: tuple[Part, ...] = ()
    next: int = 1
    tail: Tail | None = None
    claim: Claim | None = None
    object: int | None = None
    modified: datetime | None = None
    uniform: int | None = None
    litter: bool = False

    @property
    def sent(self) -> int:
        """The bytes in parts."""
        return sum(part.size for part in self.parts)

    @property
    def offset(self) -> int:
        """The bytes that count."""
        if self.object is not None:
            return self.object
        return self.sent + (self.tail.size if self.tail is not None else 0)

    def finished(self, size: int) -> Manifest:
        """The manifest of an upload whose object is there: nothing else counts any more."""
        return Manifest(object=size, modified=self.modified, litter=self.litter)

    def shown(self, info: plugin.UploadInfo) -> plugin.UploadInfo:
        """What the upload looks like with these bytes.

        All bytes without an object would pass for a complete upload, which nobody opens any more. One byte less is told of: whoever wants
        the truth takes the lock, and `open` makes the object."""
        offset = self.offset
        if offset and offset == info.length and self.object is None and not info.explicit:
            offset -= 1
        return info.at(offset, self.modified or info.created)

    def to_json(self) -> dict[str, Any]:
        """For `plugin.encode_sidecar`."""
        found: dict[str, Any] = {}
        if self.multipart is not None:
            found["multipart"] = self.multipart
        if self.parts:
            found["parts"] = _packed(self.parts)
        if self.next != 1:
            found["next"] = self.next
        if self.tail is not None:
            found["tail"] = {"key": self.tail.key, "begin": self.tail.begin, "size": self.tail.size}
        if self.claim is not None:
            found["claim"] = {"start": self.claim.start, "whole": self.claim.whole}
        if self.object is not None:
            found["object"] = self.object
        if self.modified is not None:
            found["modified"] = self.modified.isoformat()
        if self.uniform is not None:
            found["uniform"] = self.uniform
        if self.litter:
            found["litter"] = True
        return found


def from_json(value: object) -> Manifest:
    """What `Manifest.to_json` made. Raises `ValueError` when it is not that."""
    try:
        return _read(_mapping(value))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a manifest: {error}") from error


def _read(found: Mapping[str, Any]) -> Manifest:
    tail, claim = found.get("tail"), found.get("claim")
    manifest = Manifest(
        multipart=None if found.get("multipart") is None else _text(found["multipart"]),
        parts=tuple(_unpacked(found.get("parts", []))),
        next=_count(found.get("next", 1)),
        tail=None if tail is None else Tail(_text(tail["key"]), _count(tail["begin"]), _count(tail["size"])),
        claim=None if claim is None else Claim(_count(claim["start"]), bool(claim["whole"])),
        object=None if found.get("object") is None else _count(found["object"]),
        modified=None if found.get("modified") is None else _time(found["modified"]),
        uniform=None if found.get("uniform") is None else _count(found["uniform"]),
        litter=bool(found.get("litter", False)),
    )
    if manifest.tail is not None and manifest.tail.begin != manifest.sent:
        raise ValueError(f"not a manifest: its tail begins at {manifest.tail.begin}, and its parts end at {manifest.sent}")
    if (manifest.parts or manifest.claim) and manifest.multipart is None:
        raise ValueError("not a manifest: parts of no multipart upload")
    return manifest


def counted(manifest: Manifest, listed: Iterable[Part], length: int | None, least: int) -> tuple[Part, ...]:
    """Which of the parts that the server has count, when their sender is gone: those from the claim's start on without a gap.

    `length` is the upload's; a part of fewer than `least` bytes can only be its last. A whole body's parts do not count at all."""
    claim = manifest.claim
    if claim is None or claim.whole:
        return ()
    there = {part.number: part for part in listed}
    end, found = manifest.sent, list[Part]()
    for number in range(claim.start, manifest.next):
        part = there.get(number)
        if part is None:
            break
        end += part.size
        wanted = manifest.uniform if manifest.uniform is not None else max(part.size, least)
        if (part.size != wanted and end != length) or (length is not None and end > length):
            break
        found.append(part)
        if end == length:
            break
    return tuple(found)


def with_counted(manifest: Manifest, parts: tuple[Part, ...], modified: datetime) -> Manifest:
    """The manifest with more parts, the first of which holds the tail's bytes."""
    if not parts:
        return manifest
    return replace(manifest, parts=manifest.parts + parts, tail=None, modified=modified)


def _packed(parts: tuple[Part, ...]) -> list[list[object]]:
    runs: list[list[object]] = []
    for _, run in groupby(enumerate(parts), key=lambda entry: (entry[1].number - entry[0], entry[1].size)):
        equal = [part for _, part in run]
        runs.append([equal[0].number, equal[0].size, [part.etag for part in equal]])
    return runs


def _unpacked(runs: Iterable[Any]) -> Iterable[Part]:
    last = 0
    for first, size, etags in runs:
        if _count(first) <= last:
            raise ValueError("not a manifest: part numbers must grow")
        if not isinstance(etags, list) or not all(isinstance(etag, str) for etag in etags):
            raise TypeError("ETags are texts")
        last = first + len(etags) - 1
        # Ten thousand of them, while all other requests wait.
        yield from map(Part, range(first, last + 1), repeat(_count(size)), etags)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"not a number: {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    if time.tzinfo is None:
        raise TypeError(f"a time without its zone: {value}")
    return time
