"""The keys of an upload's objects: made from its id and metadata, safe whatever these hold; and read back."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Formatter

from tusd import plugin

DEFAULT = "{id}"
"""The key of an upload's object that Go tusd uses."""
LONGEST = 1024
"""Bytes of a key."""
_FIELDS = ("id", "date", "filename")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
_UNSAFE_IN_NAME = re.compile(rf"[/\\%]|{_UNSAFE.pattern}")
"""% too: Ceph decodes it twice in the name of an object to copy."""
_RESERVED = (".info", ".part")
_UNNAMED = "file"
_TAIL = re.compile(r"\.(\d+)-[0-9a-f]{8}\.part", re.ASCII)
_SHORTEST_NAME = 16
"""Bytes of a file name that a key keeps at least: with less there is no sense in it."""


def checked_prefix(text: str) -> str:
    """A prefix for keys, with / at its end. Raises `ValueError`."""
    if not text:
        return ""
    prefix = text if text.endswith("/") else text + "/"
    if _wrong(prefix[:-1]):
        raise ValueError(f"not a prefix for keys: {_wrong(prefix[:-1])}; write for example uploads/")
    if len(prefix.encode()) > LONGEST // 4:
        raise ValueError(f"longer than {LONGEST // 4} bytes")
    return prefix


def checked_template(text: str) -> str:
    """A template for keys. Raises `ValueError`."""
    try:
        found = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from error
    for name, spec, conversion in found:
        if name not in _FIELDS or conversion or (spec and name != "date") or "{" in (spec or ""):
            raise ValueError("not a template; it may hold {id}, {filename} and {date:%Y/%m/%d}")
    if [name for name, _, _ in found].count("id") != 1:
        raise ValueError("it must hold {id} once, or uploads would replace each other's objects")
    example = _filled(text, "0", datetime(2026, 12, 31, tzinfo=UTC), "a")
    if _wrong(example):
        raise ValueError(f"makes keys that cannot be used ({example!r}): {_wrong(example)}")
    if len(example.encode()) > LONGEST // 4:
        raise ValueError(f"longer than {LONGEST // 4} bytes")
    return text


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the objects of uploads are. All keys that it makes are whole: they begin with the prefix."""

    prefix: str
    """Of objects."""
    below: str
    """The prefix of `.info` and `.part` objects."""
    template: str = DEFAULT

    def object(self, info: plugin.UploadInfo) -> str:
        """The key of a new upload's object, of the template. Raises `ValueError` when it would be longer than a key can be."""
        room = LONGEST - len((self.prefix + _filled(self.template, info.id, info.created, "")).encode()) - 1
        name = _file_name(info.metadata)
        if "{filename}" in self.template:
            name = _shortened(name, room)
        key = _ending(self.prefix + _filled(self.template, info.id, info.created, name))
        if len(key.encode()) > LONGEST:
            raise ValueError(f"the key would be longer than {LONGEST} bytes")
        return key

    def apart(self, info: plugin.UploadInfo) -> bool:
        """Whether no other upload can have the key of this one's object: because of the id in it, where it cannot be taken for the file's name."""
        try:
            made = info.storage["Key"] == self.object(info)
        except ValueError:  # longer than a key can be: somebody has chosen another
            return False
        return made and ("{filename}" not in self.template or self.template.endswith("{id}/{filename}"))

    def chosen(self, relative: str) -> str:
        """The key that a pre-create hook asks for, below the prefix. Raises `ValueError`, which says what is wrong with it."""
        if wrong := _wrong(relative):
            raise ValueError(wrong)
        if relative.endswith(_RESERVED):
            raise ValueError("keys that end in .info or .part are for our own objects")
        key = self.prefix + relative
        if len(key.encode()) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} bytes")
        return key

    def info(self, upload_id: str) -> str:
        """The key of an upload's `.info` object."""
        return f"{self.below}{upload_id}.info"

    def tail(self, upload_id: str, begin: int) -> str:
        """A key for the bytes of an upload from `begin` on that are too few for a part. It differs with each call."""
        return f"{self.below}{upload_id}.{begin}-{secrets.token_hex(4)}.part"

    def go_tail(self, object_id: str) -> str:
        """The key of such bytes as Go tusd names it."""
        return f"{self.below}{object_id}.part"

    def tails(self, upload_id: str) -> str:
        """What all `tail` keys of an upload begin with. Keys of others may begin so, too: see `begin`."""
        return f"{self.below}{upload_id}."

    def begin(self, upload_id: str, key: str) -> int | None:
        """The offset that the bytes under a `tail` key of this upload begin at; None: it is no such key."""
        head = self.tails(upload_id)
        match = _TAIL.fullmatch(key, len(head) - 1) if key.startswith(head) else None
        return int(match[1]) if match else None

    def upload(self, key: str) -> str | None:
        """The id of the upload whose `.info` object has this key; None: it is no such key."""
        if not key.startswith(self.below) or not key.endswith(".info"):
            return None
        return key[len(self.below) : -len(".info")] or None


def _wrong(key: str) -> str | None:
    """Why a key, or a prefix, cannot be used."""
    if not key:
        return "it is empty"
    if _UNSAFE.search(key):
        return "it has control characters"
    if key.startswith("/") or key.endswith("/") or "//" in key:
        return "it has a / at an end, or two in a row"
    if any(part in (".", "..") for part in key.split("/")):
        return "it has . or .. between slashes"
    return None


def _filled(template: str, upload_id: str, created: datetime, name: str) -> str:
    return template.format(id=upload_id, date=created.astimezone(UTC), filename=name)


def _file_name(metadata: plugin.Metadata) -> str:
    """The file's name, without what would change the shape of a key."""
    for key in ("filename", "name"):
        if metadata.get(key):
            name = _UNSAFE_IN_NAME.sub("_", metadata[key].decode("utf-8", "replace"))
            return "_" * len(name) if name in (".", "..") else name
    return _UNNAMED


def _shortened(name: str, room: int) -> str:
    """A file name in at most `room` bytes; its extension is kept where that is possible. Raises `ValueError`."""
    if len(name.encode()) <= room:
        return name
    if room < _SHORTEST_NAME:
        raise ValueError(f"the key would be longer than {LONGEST} bytes")
    stem, dot, extension = name.rpartition(".")
    end = dot + extension if stem and len(extension.encode()) < room // 2 else ""
    return _cut(name, room - len(end.encode())) + end


def _cut(text: str, room: int) -> str:
    return text.encode()[:room].decode("utf-8", "ignore")


def _ending(key: str) -> str:
    return key + "_" if key.rstrip("_").endswith(_RESERVED) else key  # of an id that ends in _ itself, too: no two get one key
