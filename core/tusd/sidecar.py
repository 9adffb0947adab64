"""The `.info` file or object beside the bytes of an upload: `UploadInfo` <-> JSON in the format of Go tusd's stores.

Go's fields come first, in Go's order. What is ours stands in one object `"tusd"` after them, which Go ignores:

    created      when the upload was created (ISO 8601)
    expires      when it goes, if somebody fixed it (ISO 8601)
    max_length   the most bytes it may ever hold, if somebody fixed it
    notes        remarks of limiters and hooks
    metadata     the `Upload-Metadata` header as received
    binary       the metadata values that are not UTF-8, in base64 (in `MetaData` they have U+FFFD)
    state        where the upload stands, when that does not follow from its bytes
    mark         only this many bytes count: the rest belongs to a body that was being written and verified (`plugin.Atomic`)

and whatever else a store has to remember, each under a name of its own (`more`). The offset is not kept here: a store derives it
from the bytes, or from what it remembers under its own name. Nothing here touches a disk.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from types import MappingProxyType
from typing import Any, NamedTuple

from .model import Final, Metadata, Partial, State, UploadId, UploadInfo

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_OURS = frozenset({"created", "expires", "max_length", "notes", "metadata", "binary", "state", "mark"})


class Sidecar(NamedTuple):
    """What an `.info` file says."""

    info: UploadInfo
    """With offset 0, and `storage` as it was written, wherever that points; empty in a file that was renamed by hand."""
    mark: int | None
    """The bytes that count, when a body was being verified; None: all that are there."""
    written_for: str = ""
    """The id that it names: another than the one asked for in a file that was renamed by hand, or found by a part of its id."""
    more: Mapping[str, Any] = MappingProxyType({})
    """What else stands in our object, under names that are not ours; unchecked. Values of a store that is not this one may be there."""


def encode_sidecar(info: UploadInfo, mark: int | None = None, more: Mapping[str, object] | None = None) -> bytes:
    """The text of the `.info` file of an upload. `more`: what the store itself remembers, JSON values under a name of its own,
    such as `{"s3": {...}}`."""
    text = info.metadata.text()
    final = info.concat if isinstance(info.concat, Final) else None
    # Written out, because every creation waits for it: `json` takes nearly twice as long.
    return (
        f'{{"ID":{_quoted(info.id)},"Size":{info.length or 0},"SizeIsDeferred":{_flag(info.length is None)},"Offset":0,'
        f'"MetaData":{_object(text)},"IsPartial":{_flag(isinstance(info.concat, Partial))},"IsFinal":{_flag(final is not None)},'
        f'"PartialUploads":{_to_json(list(final.parts)) if final else "null"},"Storage":{_object(info.storage)},'
        f'"tusd":{_object(_ours(info, text, mark) | dict(more or {}))}}}'
    ).encode()


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _object(values: Mapping[str, object]) -> str:
    pairs = [f"{_quoted(key)}:{_quoted(value) if isinstance(value, str) else _to_json(value)}" for key, value in values.items()]
    return "{" + ",".join(pairs) + "}"


def _ours(info: UploadInfo, text: dict[str, str], mark: int | None) -> dict[str, object]:
    """What Go's fields do not tell."""
    metadata = info.metadata
    ours: dict[str, object] = {"created": info.created.isoformat()}
    if info.expires is not None:
        ours["expires"] = info.expires.isoformat()
    if info.max_length is not None:
        ours["max_length"] = info.max_length
    if info.notes:
        ours["notes"] = dict(info.notes)
    if metadata.header or metadata:
        ours["metadata"] = metadata.header
    binary = {key: b64encode(value).decode() for key, value in metadata.items() if text[key].encode() != value}
    if binary:
        ours["binary"] = binary
    if info.explicit:
        ours["state"] = info.state.value
    if mark is not None:
        ours["mark"] = mark
    return ours


def decode_sidecar(upload_id: UploadId, text: bytes, written: float) -> Sidecar:
    """What the `.info` file of an upload says; `written` is its mtime, which stands in for what Go does not keep.

    Raises `ValueError` when it is not such a file."""
    try:
        found = json.loads(text)
        ours = found.get("tusd") or {}
        state = ours.get("state")
        info = UploadInfo(
            id=upload_id,
            length=None if found.get("SizeIsDeferred") else _count(found.get("Size", 0)),
            state=State.RECEIVING if state is None else State(state),
            explicit=state is not None,
            metadata=_metadata(_texts(found.get("MetaData")), ours),
            concat=_concat(found),
            created=_time(ours["created"]) if "created" in ours else datetime.fromtimestamp(written, UTC),
            expires=_time(ours["expires"]) if "expires" in ours else None,
            max_length=_count(ours["max_length"]) if "max_length" in ours else None,
            notes=_texts(ours.get("notes")),
            storage=_texts(found.get("Storage")) if found.get("ID") == upload_id else {},
        )
        more = {key: value for key, value in ours.items() if key not in _OURS}
        return Sidecar(info, _count(ours["mark"]) if "mark" in ours else None, _text(found.get("ID", "")), more)
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not an upload's .info file: {error}") from error


def _header(values: Mapping[str, bytes]) -> str:
    return ",".join(f"{key} {b64encode(value).decode()}" if value else key for key, value in values.items())


def _metadata(texts: dict[str, str], ours: dict[str, Any]) -> Metadata:
    values = {key: value.encode("utf-8", "replace") for key, value in texts.items()}
    values |= {key: b64decode(value, validate=True) for key, value in _texts(ours.get("binary")).items()}
    header = ours.get("metadata")
    if not isinstance(header, str | None):
        raise TypeError("a header is text")
    return Metadata(values, _header(values) if header is None else header)


def _concat(found: dict[str, Any]) -> Partial | Final | None:
    if found.get("IsFinal"):
        return Final(tuple(UploadId(_text(part)) for part in found.get("PartialUploads") or ()))
    return Partial() if found.get("IsPartial") else None


def _time(value: str) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(f"a time without its zone: {value}")
    return time


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"not a number of bytes: {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value


def _texts(value: Mapping[str, object] | None) -> dict[str, str]:
    return {key: _text(text) for key, text in value.items()} if value else {}
