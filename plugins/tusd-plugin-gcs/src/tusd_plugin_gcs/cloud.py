"""HTTP to Cloud Storage: credentials, connections and retries. The one module that touches Google's libraries; it blocks, so it runs in threads.

Calls of the JSON API (https://cloud.google.com/storage/docs/json_api/v1) go over the client's own session, so that bodies are sent
from where they are, without a copy, and downloads are read piece by piece; the library's methods for objects do neither.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import quote

import google.api_core.exceptions
import google.api_core.retry
import google.auth
import google.auth.exceptions
import google.cloud.storage
import google_crc32c
import requests
import requests.adapters
import urllib3.exceptions
from google.auth.credentials import AnonymousCredentials
from google.oauth2 import service_account

from tusd.plugin import Blocks

T = TypeVar("T")

Data = bytes | bytearray | Blocks | BinaryIO
Query = Mapping[str, str | int | list[str]]
"""What goes behind the ? of a request."""
PIECE = 1 << 20
"""Bytes that are read at once."""
_SLICE = 1 << 18
"""Bytes that are sent at once, for which `connect_timeout` has to be enough, or added to a checksum."""
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""https://cloud.google.com/storage/docs/retry-strategy#retryable"""
_NETWORK = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)


class Failure(Exception):
    """A request that failed, and that was tried again for as long as that made sense."""

    def __init__(self, status: int | None, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """Of the answer; None when there was none."""
        self.passing = passing
        """It may succeed when it is tried again."""

    @property
    def code(self) -> str:
        """For metrics: the status, or `network`."""
        return "network" if self.status is None else str(self.status)


class NoCredentials(Exception):
    """There are no credentials, or not such that they can be used; `str()` says why."""


class Wanted(Protocol):
    """What of the options is asked for here."""

    @property
    def connect_timeout(self) -> float: ...
    @property
    def read_timeout(self) -> float: ...
    @property
    def give_up_after(self) -> float: ...
    @property
    def project(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    headers: Mapping[str, str]
    data: bytes

    def json(self) -> dict[str, Any]:
        """Its JSON object. Raises `Failure` for anything else."""
        try:
            value = json.loads(self.data) if self.data else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Failure(None, "the answer is not the JSON object that Cloud Storage sends; is `endpoint` right?")
        return value


class Related:
    """The body of an upload of kind `multipart`: what is said of the object, and its bytes. Neither copied nor read as a whole."""

    def __init__(self, about: Mapping[str, Any], data: Data, size: int) -> None:
        boundary = f"tusd-{secrets.token_hex(16)}"  # the client chooses the bytes, which must not hold it
        self.content_type = f"multipart/related; boundary={boundary}"
        kind = str(about.get("contentType", "application/octet-stream"))
        head = f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
        self._head = f"{head}--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._data = data
        self._size = size

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self._head
        yield from slices(self._data)
        yield self._tail


def slices(data: Data) -> Iterator[bytes | memoryview]:
    """Bytes in pieces, from their beginning."""
    if isinstance(data, bytes | bytearray | Blocks):
        for view in data.views() if isinstance(data, Blocks) else (memoryview(data),):
            for start in range(0, len(view), _SLICE):
                yield view[start : start + _SLICE]
        return
    data.seek(0)
    while piece := data.read(_SLICE):
        yield piece


def crc32c(data: Data) -> int:
    """The CRC32C of bytes."""
    crc = 0
    for piece in slices(data):
        crc = google_crc32c.extend(crc, bytes(piece))
    return crc


class Download:
    """The bytes of an answer, as they are asked for. Close it."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self.headers: Mapping[str, str] = response.headers

    def read(self) -> bytes:
        """The next bytes, `PIECE` at the most; none at the end. Raises `Failure` where the connection breaks."""
        try:
            data: bytes = self._response.raw.read(PIECE, decode_content=False)
        except _NETWORK as error:
            raise Failure(None, _text(error), passing=True) from error
        return data

    def close(self) -> None:
        """Give the connection back if all was read, else close it."""
        self._response.close()


class Cloud:
    """The client of one worker."""

    def __init__(self, client: Any, options: Wanted) -> None:
        self._client = client
        self._session: requests.Session = client._http
        self.address: str = client._connection.API_BASE_URL.rstrip("/")
        self._timeout = (options.connect_timeout, options.read_timeout)
        self._charged = {"userProject": options.project} if options.project else {}
        self._patience = options.give_up_after
        self._retry = google.api_core.retry.Retry(
            predicate=_is_passing, initial=0.25, maximum=16, multiplier=2, timeout=self._patience
        )

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: Mapping[str, Any] | Related | None = None,
        tried: Callable[[], None] | None = None,
        patience: float | None = None,
    ) -> Reply:
        """Make a request until it succeeds or that is hopeless; `tried` is called before it is made again. `patience`: seconds for that,
        instead of those of the options. Raises `Failure`."""
        response = self._persistently(lambda: self._send(method, path, query, body, None), tried, patience)
        return Reply(response.headers, response.content)

    def download(
        self,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        tried: Callable[[], None] | None = None,
    ) -> Download:
        """Begin a download. Raises `Failure`."""
        return Download(self._persistently(lambda: self._send("GET", path, query, None, headers, stream=True), tried))

    def delete_all(self, bucket: str, names: list[str]) -> dict[str, int]:
        """Delete up to 100 objects in one request. Returns the status of each that is still there. Raises `Failure`."""

        def send() -> list[int]:
            try:
                batch = self._client.batch(raise_exception=False)
                place = self._client.bucket(bucket, user_project=self._charged.get("userProject"))
                with batch:
                    for name in names:
                        place.blob(name).delete(timeout=self._timeout)
            except google.api_core.exceptions.GoogleAPICallError as error:
                raise Failure(int(error.code or 0), str(error.message), passing=error.code in _PASSING) from error
            except (*_NETWORK, google.auth.exceptions.GoogleAuthError, ValueError) as error:
                raise Failure(None, _text(error), passing=isinstance(error, _NETWORK)) from error
            return [response.status_code for response in batch._responses]

        statuses = zip(names, self._persistently(send, None), strict=True)
        return {name: status for name, status in statuses if status not in (200, 204, 404)}

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _persistently(self, send: Callable[[], T], tried: Callable[[], None] | None, patience: float | None = None) -> T:
        retry = self._retry if patience is None else self._retry.with_timeout(min(patience, self._patience))
        try:
            result: T = retry(send, on_error=None if tried is None else lambda _: tried())()
        except google.api_core.exceptions.RetryError as error:
            cause = error.cause
            raise cause if isinstance(cause, Failure) else Failure(None, str(error)) from error
        return result

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, Any] | Related | None,
        headers: Mapping[str, str] | None,
        *,
        stream: bool = False,
    ) -> requests.Response:
        sent = dict(headers or {})
        data: bytes | Related | None = None
        if isinstance(body, Related):
            data, sent["Content-Type"] = body, body.content_type
        elif body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            response = self._session.request(
                method,
                self.address + path,
                params={"prettyPrint": "false", **self._charged, **(query or {})},
                data=data,  # type: ignore[arg-type]  # what has __iter__ and __len__ is sent as it comes
                headers=sent,
                timeout=self._timeout,
                stream=stream,
                allow_redirects=False,
            )
        except _NETWORK as error:
            raise Failure(None, _text(error), passing=True) from error
        except google.auth.exceptions.TransportError as error:
            raise Failure(None, f"credentials cannot be refreshed: {_text(error)}", passing=True) from error
        except (google.auth.exceptions.GoogleAuthError, requests.RequestException) as error:
            raise Failure(None, _text(error)) from error
        if not 200 <= response.status_code < 300:
            with response:
                raise Failure(response.status_code, _reason(response), passing=response.status_code in _PASSING)
        return response


def connect(options: Wanted, *, endpoint: str | None, anonymous: bool, key_file: str | None, threads: int) -> Cloud:
    """A client whose connections are enough for so many threads. Raises `NoCredentials`."""
    try:
        credentials = _credentials(key_file, anonymous=anonymous)
        client = google.cloud.storage.Client(
            project=options.project or "none",  # of no use for objects: without one the library looks for it, and fails
            credentials=credentials,
            client_options={"api_endpoint": endpoint} if endpoint else None,
        )
    except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
        raise NoCredentials(_text(error)) from error
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=threads)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return Cloud(client, options)


def object_path(bucket: str, name: str) -> str:
    """The address of an object."""
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def _credentials(key_file: str | None, *, anonymous: bool) -> Any:
    if anonymous:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    if key_file is not None:
        return service_account.Credentials.from_service_account_file(key_file, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    found, _ = google.auth.default(scopes=_SCOPES)
    return found


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, Failure) and error.passing


def _reason(response: requests.Response) -> str:
    """What Google says is wrong."""
    try:
        error = response.json()["error"]
        if isinstance(error, str):
            return error
        return str(error["message"] if "message" in error else error["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return " ".join(response.text.split())[:200] or response.reason


def _text(error: BaseException) -> str:
    """What the system said, where it said something: the libraries wrap it in the names of their own objects."""
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            said = str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return said or " ".join(str(error).split())[:500] or type(error).__name__
