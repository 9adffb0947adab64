"""Uploads that Go tusd has begun in the same bucket, or finished.

Its ids are `<object>+<multipart id>`; the objects are `<prefix><object>`, `<object>.info` and `<object>.part`. Nothing but the bytes themselves
says how many there are, so the manifest is made of a listing of the parts; from our first write on it stands in `.info`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from tusd import plugin
from tusd.plugin import UploadId, UploadInfo

from .bucket import Bucket, Gone, Missing, Part
from .keys import Keys
from .manifest import Manifest, Tail


def split(upload_id: UploadId) -> tuple[UploadId, str] | None:
    """The name of the object, and the id of the multipart upload, in an id of Go's; None: it cannot be one."""
    name, _, multipart = upload_id.rpartition("+")
    return (UploadId(name), multipart) if name and multipart else None


async def adopted(bucket: Bucket, keys: Keys, info: UploadInfo, written: datetime) -> tuple[UploadInfo, Manifest]:
    """What counts of an upload of Go's. `written`: when its `.info` was. Writes nothing. Raises `UploadNotFound`."""
    named = split(info.id)
    key = info.storage["Key"]
    parts: list[Part] | None = None
    if named is not None:
        try:
            parts = _in_order(await bucket.list_parts(key, named[1]))
        except Gone:
            parts = None
    if named is None or parts is None:
        return await _finished(bucket, key, info)
    highest, parts = parts[-1].number if parts else 0, _without_gap(parts)
    manifest = Manifest(multipart=named[1], parts=tuple(parts), next=highest + 1, modified=written)
    try:
        tail_key = keys.go_tail(named[0])
        tail = await bucket.head(tail_key, operation="head_part_object")
    except Missing:
        return info, manifest
    counts = tail.size and (info.length is None or manifest.sent + tail.size <= info.length)
    manifest = replace(manifest, modified=max(written, tail.modified), litter=True)
    return info, replace(manifest, tail=Tail(tail_key, manifest.sent, tail.size)) if counts else manifest


async def _finished(bucket: Bucket, key: str, info: UploadInfo) -> tuple[UploadInfo, Manifest]:
    try:
        found = await bucket.head(key)
    except Missing as error:
        raise plugin.UploadNotFound() from error
    if info.length not in (None, found.size):
        raise plugin.UploadNotFound()
    return replace(info, length=found.size), Manifest(object=found.size, modified=found.modified)


def _in_order(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: part.number)


def _without_gap(parts: list[Part]) -> list[Part]:
    """Parts are sent side by side: of those that a killed server leaves, the ones behind a gap are out of place."""
    return [part for expected, part in enumerate(parts, 1) if part.number == expected]
