"""What is asked and what is answered, free of any dialect: a dialect reads a `Head` into a `Request`, the engine makes an
`Outcome` of it, and the dialect writes that as a `Response`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..errors import TusError
from ..model import Answer, Extension, Final, Metadata, Partial, UploadId, UploadInfo, value

Algorithm = Literal["md5", "sha1", "sha256", "sha512", "crc32"]
"""Checksum algorithms; `crc32` is big-endian, as in RFC 1952 read most significant byte first."""


class Headers(Protocol):
    """Header fields; names are case-insensitive. multidict's and aiohttp's mappings are such."""

    def get(self, key: str, /) -> str | None: ...

    def getall(self, key: str, default: list[str], /) -> list[str]: ...

    def __contains__(self, key: object, /) -> bool: ...

    def items(self) -> Iterable[tuple[str, str]]: ...


@value()
class Head:
    """A request without its body."""

    method: str
    """Upper case; what X-HTTP-Method-Override made of it is in the `Request`, not here."""
    path: str
    """The request target's path as sent, percent-encoded."""
    headers: Headers
    peer: str | None = None
    """The address of the socket's other end; None for a unix socket."""
    scheme: str = "http"
    """Of the connection itself; proxies are looked at by `urls`."""
    query: str = ""
    peer_port: int | None = None
    client: str | None = None
    """The client's address: the peer's, or the one that trusted proxies forward for."""


@value()
class Checksum:
    """What a body must hash to."""

    algorithm: Algorithm
    digest: bytes


@value()
class BodyPlan:
    """A body that is to be appended."""

    size: int | None
    """Content-Length; None for chunked transfer encoding."""
    checksum: Checksum | None = None
    keeps_cut: bool = False
    """Of a body with a checksum that was cut off, what arrived counts, though nothing can be said of it."""
    limit: int | None = None
    """The most bytes that it may have, whatever else has room."""


@value(kw_only=True)
class Create:
    """POST: a new upload."""

    length: int | None
    metadata: Metadata = field(default_factory=Metadata)
    concat: Partial | Final | None = None
    body: BodyPlan | None = None
    completes: bool | None = None
    """Whether the client has sent all with this body; None: when the offset reaches the length."""
    digest: str | None = None
    """A note about the digest of the whole upload; see `protocol.digests`."""


@value(kw_only=True)
class Append:
    """PATCH: more bytes."""

    upload_id: UploadId
    offset: int
    body: BodyPlan
    length: int | None = None
    """A length declared now, for an upload whose length was deferred."""
    completes: bool | None = None
    """As in `Create`."""


@value()
class Inspect:
    """HEAD: where does it stand?"""

    upload_id: UploadId


@value()
class Read:
    """GET: the bytes. Conditions are the request's header values, None when absent (RFC 9110 sections 13 and 14)."""

    upload_id: UploadId
    range: str | None = None
    if_range: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None


@value()
class Terminate:
    """DELETE: remove it."""

    upload_id: UploadId


@value()
class Discover:
    """OPTIONS: what can this server do?"""


Request = Create | Append | Inspect | Read | Terminate | Discover


@value()
class Created:
    """The upload exists; `appended` if a body was part of the request."""

    info: UploadInfo
    appended: bool
    answer: Answer | None = None


@value()
class Appended:
    """The bytes are safe."""

    info: UploadInfo
    answer: Answer | None = None


@value()
class Inspected:
    """Where it stands."""

    info: UploadInfo
    answer: Answer | None = None


@value()
class Reading:
    """A download: `content` has the bytes from `start` up to `stop`; None when the client has them already."""

    info: UploadInfo
    start: int
    stop: int
    partial: bool
    content: AsyncIterator[bytes] | None
    answer: Answer | None = None


@value()
class Terminated:
    """It is gone."""

    answer: Answer | None = None


@value()
class Discovered:
    """What the server can do."""

    extensions: tuple[Extension, ...]
    max_size: int | None


Outcome = Created | Appended | Inspected | Reading | Terminated | Discovered


@value()
class Announced:
    """News: the upload exists now, and its body is still to come."""

    info: UploadInfo


@value()
class Progress:
    """News: every byte before `offset` is safe."""

    offset: int


News = Announced | Progress
"""What happens before the outcome."""

HeaderList = list[tuple[str, str]]


@dataclass(slots=True)
class Response:
    """What goes back: `body` is sent with its length; `stream` is sent with `length`."""

    status: int
    headers: HeaderList = field(default_factory=list)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    length: int = 0


class Dialect(Protocol):
    """One way of speaking of uploads over HTTP."""

    def read(self, head: Head) -> Request:
        """Raises `RequestError` when the request makes no sense."""
        ...

    def write(self, head: Head, outcome: Outcome) -> Response: ...

    def refuse(self, head: Head, error: TusError) -> Response: ...

    def tells(self, head: Head) -> bool:
        """Whether this request's client hears news."""
        ...

    def interim(self, head: Head, news: News) -> HeaderList:
        """The headers of a 104 (Upload Resumption Supported) that tells news."""
        ...
