"""A small S3 server in a thread, for what real ones cannot be made to do: refuse one operation, answer any error, ignore conditions."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.server.certificates import Pair

BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    operation: str
    """As the plugin names it, such as `put_object`."""
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer; an XML error where there is a `code`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    hang_up: bool = False
    """Close the connection without an answer."""


def error(status: int, code: str, message: str = "said the fake", **more: str) -> Answer:
    """S3's way to say no."""
    fields = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in {"Code": code, "Message": message, **more}.items())
    return Answer(status, f"<Error>{fields}</Error>".encode(), {"Content-Type": "application/xml", "x-amz-request-id": "R1"})


Rule = Callable[[Asked], Answer | None]
Conditions = Literal["quoted", "unquoted", "ignored", "unknown", "create-only", "match-ignored"]


@dataclass
class FakeS3:
    """The server's state. `rule` answers before anything else; it may return None."""

    endpoint: str = ""
    conditions: Conditions = "quoted"
    """quoted: as AWS; unquoted: If-Match wants the bare ETag (Ceph); ignored; unknown: 501; create-only: 501 for If-Match (Swift);
    match-ignored: If-None-Match alone means something."""
    rule: Rule | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    carried: dict[str, dict[str, str]] = field(default_factory=dict)
    """The headers that each object was written with."""
    multiparts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    middle: Callable[[], bool] | None = None
    """Called when half of a body has come; False: the connection is reset."""

    def deny(self, *operations: str) -> None:
        """Answer 403 to these operations."""
        self.rule = lambda asked: error(403, "AccessDenied") if asked.operation in operations else None

    def answer(self, asked: Asked) -> Answer:
        """What a request gets."""
        self.asked.append(asked)
        found = self.rule(asked) if self.rule is not None else None
        doing: Callable[[Asked], Answer] = getattr(self, "_" + asked.operation)
        return found or doing(asked)

    def _put_object(self, asked: Asked) -> Answer:
        match, absent = asked.headers.get("if-match"), asked.headers.get("if-none-match")
        if (match and self.conditions in ("unknown", "create-only")) or (absent and self.conditions == "unknown"):
            return error(501, "NotImplemented")
        mine = etag(self.objects[asked.key]) if asked.key in self.objects else None
        if self.conditions != "ignored":
            if (
                match is not None
                and self.conditions != "match-ignored"
                and match != (mine if self.conditions == "unquoted" else f'"{mine}"')
            ):
                return error(412, "PreconditionFailed")
            if absent is not None and mine is not None:
                return error(412, "PreconditionFailed")
        self.objects[asked.key] = asked.body
        self.carried[asked.key] = dict(asked.headers)
        return Answer(headers={"ETag": f'"{etag(asked.body)}"'})

    def _get_object(self, asked: Asked) -> Answer:
        if asked.key not in self.objects:
            return error(404, "NoSuchKey")
        data = self.objects[asked.key]
        headers = {"ETag": f'"{etag(data)}"', "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        if match is None:
            return Answer(200, data, headers)
        return Answer(206, data[int(match[1]) : int(match[2]) + 1], headers)

    def _head_object(self, asked: Asked) -> Answer:
        found = self._get_object(asked)
        return Answer(found.status, b"" if found.status == 404 else found.body, found.headers)

    def _delete_object(self, asked: Asked) -> Answer:
        self.objects.pop(asked.key, None)
        return Answer(204)

    def _head_bucket(self, asked: Asked) -> Answer:
        return Answer(headers={"x-amz-bucket-region": "us-east-1"})

    def _list_objects(self, asked: Asked) -> Answer:
        keys = sorted(key for key in self.objects if key.startswith(asked.query.get("prefix", "")))
        after, most = asked.query.get("continuation-token", ""), int(asked.query.get("max-keys", "1000"))
        rest = [key for key in keys if key > after]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size><ETag>&quot;{etag(self.objects[key])}&quot;</ETag>"
            "<LastModified>2026-11-28T12:00:00.000Z</LastModified></Contents>"
            for key in rest[:most]
        )
        more = "<IsTruncated>false</IsTruncated>"
        if len(rest) > most:
            more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(rest[most - 1])}</NextContinuationToken>"
        return _xml("ListBucketResult", items + more)

    def _create_multipart_upload(self, asked: Asked) -> Answer:
        upload = f"m{len(self.asked)}"
        self.multiparts[upload] = {}
        self.carried[asked.key] = dict(asked.headers)
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")

    def _parts(self, asked: Asked) -> dict[int, bytes] | None:
        return self.multiparts.get(asked.query["uploadId"])

    def _upload_part(self, asked: Asked) -> Answer:
        parts = self._parts(asked)
        if parts is None:
            return error(404, "NoSuchUpload")
        parts[int(asked.query["partNumber"])] = asked.body
        return Answer(headers={"ETag": f'"{etag(asked.body)}"'})

    def _list_parts(self, asked: Asked) -> Answer:
        parts = self._parts(asked)
        if parts is None:
            return error(404, "NoSuchUpload")
        after, most = int(asked.query.get("part-number-marker", "0")), int(asked.query.get("max-parts", "1000"))
        rest = [number for number in sorted(parts) if number > after]
        items = "".join(
            f"<Part><PartNumber>{n}</PartNumber><Size>{len(parts[n])}</Size><ETag>&quot;{etag(parts[n])}&quot;</ETag></Part>"
            for n in rest[:most]
        )
        more = (
            f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{rest[most - 1]}</NextPartNumberMarker>" if rest[most:] else ""
        )
        return _xml("ListPartsResult", items + more)

    def _complete_multipart_upload(self, asked: Asked) -> Answer:
        parts = self.multiparts.pop(asked.query["uploadId"], None)
        if parts is None:
            return error(404, "NoSuchUpload")
        numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", asked.body)]
        self.objects[asked.key] = b"".join(parts[number] for number in numbers)
        return _xml("CompleteMultipartUploadResult", "<ETag>&quot;x&quot;</ETag>")

    def _abort_multipart_upload(self, asked: Asked) -> Answer:
        return error(404, "NoSuchUpload") if self.multiparts.pop(asked.query["uploadId"], None) is None else Answer(204)


def etag(data: bytes | bytearray) -> str:
    """An object's or part's ETag, without quotes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _xml(name: str, inner: str) -> Answer:
    return Answer(200, f"<{name}>{inner}</{name}>".encode(), {"Content-Type": "application/xml"})


def _operation(method: str, key: str, query: Mapping[str, str]) -> str:
    if not key:
        return "head_bucket" if method == "HEAD" else "list_objects"
    if method == "POST":
        return "create_multipart_upload" if "uploads" in query else "complete_multipart_upload"
    if "uploadId" in query:
        return {"PUT": "upload_part", "GET": "list_parts", "DELETE": "abort_multipart_upload"}[method]
    return {"PUT": "put_object", "GET": "get_object", "HEAD": "head_object", "DELETE": "delete_object"}[method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeS3

    def _reply(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        size = int(headers.get("content-length", "0"))
        body = self.rfile.read(size // 2)
        if size and self.fake.middle is not None and not self.fake.middle():
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        body += self.rfile.read(size - len(body))
        found = self.fake.answer(Asked(_operation(self.command, key, query), key, query, headers, body))
        if found.hang_up:
            self.close_connection = True
            return
        self.send_response_only(found.status)
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.body[: found.cut])
        self.close_connection = self.close_connection or found.cut is not None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):  # a client that hung up is none
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def fake_s3(tls: Pair | None = None) -> Iterator[FakeS3]:
    """A server with one bucket, `BUCKET`."""
    fake = FakeS3()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    fake.endpoint = f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
