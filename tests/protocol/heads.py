"""Requests and uploads for the tables of this folder."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from multidict import CIMultiDict

from tusd.model import UploadId, UploadInfo
from tusd.protocol.messages import Head, HeaderList

MOMENT = datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)
BASE = "/files/"
ID = UploadId("0123456789abcdef")
URL = f"http://up.example/files/{ID}"
BODY = {"Content-Type": "application/offset+octet-stream"}


def head(
    method: str,
    path: str = BASE,
    headers: dict[str, str] | Iterable[tuple[str, str]] = (),
    *,
    peer: str | None = "203.0.113.9",
    scheme: str = "http",
    tus: bool = True,
) -> Head:
    """A request, with Host and Tus-Resumable unless they are given or not wanted."""
    fields: CIMultiDict[str] = CIMultiDict(headers)
    fields.setdefault("Host", "up.example")
    if tus:
        fields.setdefault("Tus-Resumable", "1.0.0")
    return Head(method, path, fields, peer, scheme)


def info(**changes: object) -> UploadInfo:
    """An upload of 100 bytes of which 40 are stored."""
    given: dict[str, object] = {"id": ID, "length": 100, "offset": 40, "created": MOMENT, "modified": MOMENT}
    return UploadInfo(**(given | changes))  # type: ignore[arg-type]


def fields(found: HeaderList) -> dict[str, str]:
    """Headers by name; none may stand there twice."""
    assert len({name.lower() for name, _ in found}) == len(found), found
    return dict(found)


def check_sendable(found: HeaderList) -> None:
    """No name or value can break an answer apart, or make a server fail while it sends one."""
    for name, value in found:
        assert name and all("!" <= c <= "~" for c in name), name
        assert all(" " <= c <= "~" or c == "\t" for c in value), (name, value)
