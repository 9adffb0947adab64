"""What the S3 server answers, as values; and which of its errors are answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from botocore.exceptions import ClientError

from .reasons import code_of, status_of

_MISSING = {"NoSuchKey", "NotFound", "404"}
_GONE = {"NoSuchUpload", "NoSuchKey", "404"}


class Missing(Exception):
    """There is no such key."""


class Gone(Exception):
    """There is no such multipart upload: it was completed or aborted."""


class Changed(Exception):
    """A condition does not hold: somebody else was there before."""


class Conflict(Changed):
    """Another write at the same moment; nobody knows which one won."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object with its bytes."""

    data: bytes
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Stat:
    """An object without its bytes."""

    size: int
    etag: str
    modified: datetime
    mark: str | None = None
    """Whose it is: see `headers.MARK`. None: it does not say."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing."""

    key: str
    size: int
    etag: str
    modified: datetime


def missing(error: ClientError) -> Exception | None:
    """What to raise where a key may not be there; None: it is another error."""
    code = code_of(error)
    if code in _MISSING or (status_of(error) == 404 and code not in ("NoSuchBucket", "NoSuchUpload")):
        return Missing()
    return None


def gone(error: ClientError) -> Exception | None:
    """The same where a multipart upload may not be there. Ceph calls it a missing key when its parts are listed."""
    return Gone() if code_of(error) in _GONE else None


def gone_or_missing(error: ClientError) -> Exception | None:
    """The same where the object to copy from may not be there, either."""
    return Gone() if code_of(error) == "NoSuchUpload" else missing(error)


def changed(error: ClientError) -> Exception | None:
    """The same where a write has a condition."""
    status = status_of(error)
    if status == 409:
        return Conflict()
    return Changed() if status == 412 or code_of(error) == "NoSuchKey" else None
