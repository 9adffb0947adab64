"""Small requests without the SDK, which takes a thread and 1.3 ms of CPU for each: most of what a small upload costs.

They are signed by `signing` and sent from the event loop. Only plain answers count. Whatever else happens (another status, a lost connection,
a timeout, an answer that makes no sense), the same request is made again by the SDK, which knows what to try, what to follow and what to say.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from yarl import URL

from tusd import plugin

from .signing import Keys, Signer, path_of

CONNECTIONS = 64
"""At most; who needs more waits."""
_FRESH = 60.0
"""Seconds that credentials are used before their provider is asked again. The SDK renews what expires at least 10 minutes before."""
_DISTRUST = 3
"""So many requests in a row that were not answered plainly make all go through the SDK for `_REST` seconds: a server that is busy, cannot be
reached, or does not like how we ask is not asked twice each time."""
_REST = 30.0
_NO_SUCH_KEY = b"<Code>NoSuchKey</Code>"
_METADATA = "x-amz-meta-"
_HEADERS = {
    "ACL": "x-amz-acl",
    "ContentDisposition": "content-disposition",
    "ContentType": "content-type",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "StorageClass": "x-amz-storage-class",
    "Tagging": "x-amz-tagging",
}
"""Arguments of PutObject that become headers as they are."""
_QUERY = {
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
}

Method = Literal["GET", "HEAD", "PUT", "DELETE"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of one object."""

    method: Method
    key: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names in lower case."""
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain answer."""

    status: int
    """200 or 204; 404: there is no such key; 412: a condition does not hold; 409: another write with conditions at the same moment."""
    facts: Mapping[str, Any]
    """`ETag`, `LastModified`, `ContentLength` and `Metadata` as the SDK has them: of a GET and a HEAD all, of a PUT the first."""
    data: bytes = b""


class Tried:
    """How often one request has been sent."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """As aiohttp's middleware: it sends again by itself when a connection that it had kept was closed meanwhile."""
        self.times += 1
        return await handler(request)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is: as the SDK sees it, after all that regions, addressing, dual stack, acceleration and endpoints do to a URL."""

    origin: str
    """`https://host:port`"""
    host: str
    """The header `Host`."""
    path: str
    """What paths of objects begin with."""
    region: str


def place_of(presigned: str, key: str) -> Place | None:
    """Read it from a URL that the SDK has signed for an object with this key. None: it is signed in a way that is not ours."""
    url = urlsplit(presigned)
    query = dict(parse_qsl(url.query))
    scope = query.get("X-Amz-Credential", "").split("/")[-4:]
    ours = query.get("X-Amz-Algorithm") == "AWS4-HMAC-SHA256" and query.get("X-Amz-SignedHeaders") == "host"
    if not ours or not query.keys() <= _QUERY or scope[2:] != ["s3", "aws4_request"] or not url.path.endswith("/" + key):
        return None
    return Place(f"{url.scheme}://{url.netloc}", url.netloc, url.path.removesuffix(key), scope[1])


def headers_of(arguments: Mapping[str, Any]) -> dict[str, str] | None:
    """The headers that the SDK makes of arguments of PutObject; None: only it knows."""
    headers: dict[str, str] = {}
    for name, value in arguments.items():
        if name == "BucketKeyEnabled":
            headers["x-amz-server-side-encryption-bucket-key-enabled"] = "true" if value else "false"
        elif name == "Metadata":
            headers |= {f"{_METADATA}{key.lower()}": text for key, text in value.items()}
        elif name in _HEADERS:
            headers[_HEADERS[name]] = value
        else:
            return None
    good = all(
        isinstance(text, str) and text.isascii() and text.isprintable() and text.strip() == text for text in headers.values()
    )
    return headers if good else None


class Quick:
    """A client of one bucket, for one event loop. `credentials` returns those that the SDK would use now; it may take its time.
    `tls`: as aiohttp takes it, False for any certificate. Times are seconds."""

    def __init__(
        self,
        place: Place,
        credentials: Callable[[], Keys],
        tls: ssl.SSLContext | bool,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        self._place = place
        self._credentials = credentials
        self._signer = Signer(place.region)
        self._keys: Keys | None = None
        self._until = 0.0
        self._renewing = asyncio.Lock()
        self._failures = 0
        self._rests_until = 0.0
        self._asking: set[asyncio.Task[Answer | None]] = set()
        self._reading = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout)
        # A server that takes no more of a body is silent, too, and aiohttp does not notice that.
        self._writing = aiohttp.ClientTimeout(
            total=connect_timeout + 2 * read_timeout, sock_connect=connect_timeout, sock_read=read_timeout
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "tusd-plugin-s3"},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Wait for the requests that are on their way, and close the connections."""
        if self._asking:
            await asyncio.wait(self._asking)
        await self._session.close()

    async def ask(self, request: Request, tried: Tried) -> Answer | None:
        """None: ask the SDK. Never raises anything but CancelledError: a caller that is cancelled waits for the request to end."""
        if monotonic() < self._rests_until:
            return None
        task = asyncio.create_task(self._ask(request, tried))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return await plugin.unbroken(task)

    async def _ask(self, request: Request, tried: Tried) -> Answer | None:
        answer = await self._send(request, tried)
        if answer is not None:
            self._failures = 0
            return answer
        self._keys = None
        self._failures += 1
        if self._failures >= _DISTRUST:
            self._failures, self._rests_until = 0, monotonic() + _REST
        return None

    async def _send(self, request: Request, tried: Tried) -> Answer | None:
        keys = self._keys
        if keys is None or monotonic() >= self._until:
            keys = await self._renewed()
            if keys is None:
                return None
        place = self._place
        path = place.path + path_of(request.key)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = self._signer.sign(keys, moment, request.method, path, {**request.headers, "host": place.host})
        try:
            async with self._session.request(
                request.method,
                URL(place.origin + path, encoded=True),
                data=request.data,
                headers=headers,
                allow_redirects=False,
                timeout=self._reading if request.data is None else self._writing,
                middlewares=(tried,),
            ) as answer:
                return _understood(request, answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError; ValueError: what is no URL, no header
            return None

    async def _renewed(self) -> Keys | None:
        async with self._renewing:
            if self._keys is not None and monotonic() < self._until:
                return self._keys
            try:
                self._keys = await plugin.in_thread(self._credentials)
            except Exception:  # any, of any provider: the SDK asks it again, and says what is wrong
                return None
            self._until = monotonic() + _FRESH
            return self._keys


def _understood(request: Request, status: int, headers: Mapping[str, str], data: bytes) -> Answer | None:
    if status == 404 and (request.method == "HEAD" or (request.method != "PUT" and _NO_SUCH_KEY in data)):
        return Answer(status, {})
    if request.method == "PUT" and status in (409, 412) and not request.headers.keys().isdisjoint(("if-match", "if-none-match")):
        return Answer(status, {})
    if request.method == "DELETE" and status in (200, 204):
        return Answer(status, {})
    etag = headers.get("ETag")
    if status != 200 or not etag:
        return None
    if request.method == "PUT":
        return Answer(status, {"ETag": etag})
    modified, size = (
        _date(headers.get("Last-Modified")),
        headers.get("Content-Length", str(len(data)) if request.method == "GET" else ""),
    )
    if modified is None or not size.isdecimal():
        return None
    metadata = {name[len(_METADATA) :]: text for name, text in headers.items() if name.lower().startswith(_METADATA)}
    return Answer(status, {"ETag": etag, "LastModified": modified, "ContentLength": int(size), "Metadata": metadata}, data)


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
