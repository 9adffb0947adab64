"""Hook events and their answers as JSON, in the shapes that tusd's hooks have always had.

An event is `{"Type": name, "Event": {"Upload": {...}, "HTTPRequest": {...}}}`. What only our events tell stands beside these:
`Event.Notes` (what is noted of the upload, if anything), `Event.Access` (pre-access), `Event.Error` (post-fail) and `Event.Reason` (post-expire), and
`DeliveryID` beside `Event`. An answer is an object whose keys may be written in any case; unknown keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import quote

from .errors import HookError
from .hooks import Changes, HookEvent, HookResponse, PostExpire, PostFail, PreAccess, PreCreate
from .model import Final, Metadata, Partial, UploadId, UploadInfo
from .protocol.messages import Head

T = TypeVar("T")


def encode_event(event: HookEvent) -> bytes:
    """An event as JSON text."""
    return json.dumps(event_as_json(event), separators=(",", ":")).encode()


def event_as_json(event: HookEvent) -> dict[str, Any]:
    """An event as what JSON has: the request of a hook."""
    told: dict[str, Any] = {
        "Upload": _upload(event.upload, created=not isinstance(event, PreCreate)),
        "HTTPRequest": {
            "Method": event.head.method,
            "URI": _text(event.head.path + (f"?{event.head.query}" if event.head.query else "")),
            "RemoteAddr": remote_address(event.head),
            "Header": headers_of(event.head),
        },
    }
    if event.upload.notes:
        told["Notes"] = {key: _text(value) for key, value in event.upload.notes.items()}
    match event:
        case PreAccess(access=access):
            told["Access"] = access
        case PostFail(code=code, message=message):
            told["Error"] = {"Code": code, "Message": message}
        case PostExpire(reason=reason):
            told["Reason"] = reason
        case _:
            pass
    return {"Type": event.name, "DeliveryID": event.delivery_id, "Event": told}


def headers_of(head: Head) -> dict[str, list[str]]:
    """A request's headers with all their values, under their canonical names: `X-Request-Id`."""
    found: dict[str, list[str]] = {}
    for name, value in head.headers.items():
        found.setdefault("-".join(word[:1].upper() + word[1:].lower() for word in name.split("-")), []).append(_text(value))
    return found


def remote_address(head: Head) -> str:
    """The client as `address:port`; behind proxies, whose clients' ports nobody knows, port 0. Empty for a unix socket."""
    if head.client is None:
        return ""
    host = f"[{head.client}]" if ":" in head.client else head.client
    return f"{host}:{head.peer_port or 0 if head.client == head.peer else 0}"


def _upload(info: UploadInfo, *, created: bool) -> dict[str, Any]:
    final = info.concat if isinstance(info.concat, Final) else None
    return {
        "ID": info.id if created else "",
        "Size": info.length or 0,
        "SizeIsDeferred": info.length is None,
        "Offset": info.offset,
        "MetaData": info.metadata.text(),
        "IsPartial": isinstance(info.concat, Partial),
        "IsFinal": final is not None,
        "PartialUploads": None if final is None else list(final.parts),
        "Storage": {key: _text(value) for key, value in info.storage.items()} if info.storage else None,
    }


def _text(value: str) -> str:
    """Without halves of surrogate pairs, which stand for what was not UTF-8, and which nobody could send on: they become U+FFFD."""
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# --- answers


def decode_answer(text: bytes) -> HookResponse:
    """What a hook has answered as JSON text in UTF-8; bytes that are not UTF-8 become U+FFFD. Raises `HookError` for what is not an
    answer, saying where it is wrong."""
    try:
        found = json.loads(text.decode("utf-8-sig", "replace"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HookError(f"a hook's answer is not JSON: {error}") from None
    return answer_from_json(found)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def answer_from_json(found: object) -> HookResponse:
    """What a hook has answered. Raises `HookError`."""
    answer = _Object(found, "answer")
    response = answer.object("HTTPResponse")
    return HookResponse(
        status=(response.get("StatusCode", int) or None) if response else None,
        headers=(response.texts("Header") or {}) if response else {},
        body=(response.get("Body", str) or None) if response else None,
        reject=any([answer.get(key, bool) for key in ("RejectUpload", "RejectTermination", "RejectAccess")]),
        stop=answer.get("StopUpload", bool) or False,
        change=_changes(answer.object("ChangeFileInfo")),
    )


def metadata_from_text(texts: Mapping[str, str]) -> Metadata:
    """Metadata as an `Upload-Metadata` header would have brought it. Raises `HookError` for a key that cannot stand in one."""
    for key in texts:
        if not key.isascii() or not key.isprintable() or " " in key or "," in key or not key:
            raise HookError(f"a hook answered the metadata key {key!r}; keys are ASCII without spaces and commas")
    return Metadata({key: text.encode() for key, text in texts.items()})


def _changes(found: _Object | None) -> Changes | None:
    if found is None:
        return None
    texts, upload_id = found.texts("MetaData"), found.get("ID", str)
    changes = Changes(
        id=UploadId(upload_id) if upload_id else None,
        metadata=None if texts is None else metadata_from_text(texts),
        storage=found.texts("Storage"),
        max_length=found.get("MaxSize", int),
        expires=found.time("ExpiresAt"),
        expire_after=found.get("ExpireAfter", float),
        expire_finished_after=found.get("ExpireFinishedAfter", float),
        notes=found.texts("Notes"),
    )
    return None if changes == Changes() else changes


class _Object:
    """A JSON object whose keys are looked up in any case. null is as good as absent."""

    def __init__(self, found: object, where: str) -> None:
        if not isinstance(found, dict):
            raise HookError(f"a hook's {where} is {_kind(found)}, not an object")
        self._where = where
        self._values = {key.lower(): value for key, value in found.items() if isinstance(key, str) and value is not None}

    def object(self, key: str) -> _Object | None:
        """An object within."""
        found = self._values.get(key.lower())
        return None if found is None else _Object(found, f"{self._where}.{key}")

    def get(self, key: str, kind: type[T]) -> T | None:
        """A value of one type; whole numbers are floats, too."""
        found = self._values.get(key.lower())
        if kind is float and type(found) is int:
            found = self._float(key, found)
        if found is None:
            return None
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise HookError(f"a hook's {self._where}.{key} is {_kind(found)}, not {_NAMES[kind]}")
        return cast(T, _text(found)) if isinstance(found, str) else found

    def _float(self, key: str, number: int) -> float:
        try:
            return float(number)
        except OverflowError:
            raise HookError(f"a hook's {self._where}.{key} is too large") from None

    def texts(self, key: str) -> dict[str, str] | None:
        """An object of texts."""
        found = self._values.get(key.lower())
        if found is None:
            return None
        if not isinstance(found, dict):
            raise HookError(f"a hook's {self._where}.{key} is {_kind(found)}, not an object of texts")
        for name, value in found.items():
            if not isinstance(name, str):
                raise HookError(f"a hook's {self._where}.{key} has a key that is {_kind(name)}, not text")
            if not isinstance(value, str):
                raise HookError(f"a hook's {self._where}.{key}.{quote(_text(name), safe='')} is {_kind(value)}, not text")
        return {_text(name): _text(value) for name, value in found.items()}

    def time(self, key: str) -> datetime | None:
        """A time with its zone, as RFC 3339 writes it."""
        text = self.get(key, str)
        if text is None:
            return None
        try:
            time = datetime.fromisoformat(text)
            if time.tzinfo is not None:
                return time.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise HookError(f"a hook's {self._where}.{key} is not a time such as 2026-12-31T12:00:00Z")


_NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object"}
_KINDS: dict[type, str] = {**_NAMES, list: "a list", type(None): "null"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
