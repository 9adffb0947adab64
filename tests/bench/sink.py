"""An S3 server that costs next to nothing, so that a benchmark measures its client: `python tests/bench/sink.py --port 9000`.

It keeps what a tus server needs to go on (sizes, ETags, lists of parts, `.info` objects and others up to 16 KiB) and throws the bytes of
everything else away: those are read back as zeros. It checks no signature, no checksum, and knows path-style addresses only.
`--latency` answers each request so many milliseconds later, as a real store does. `GET /-/counts` tells how many requests of each
operation it has had (JSON), `POST /-/reset` counts from nought. All is kept in memory and by one process; bodies in `Transfer-Encoding: chunked`
are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

import uvloop

KEPT = 16 << 10
ZEROS = bytes(256 << 10)
REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request", 404: "Not Found"}
CODES = {
    "NoSuchKey": 404,
    "NoSuchBucket": 404,
    "NoSuchUpload": 404,
    "PreconditionFailed": 412,
    "InvalidRange": 416,
    "InvalidPart": 400,
    "NotImplemented": 501,
}
Headers = dict[str, str]


class Refused(Exception):
    """An answer with an S3 error code of `CODES`."""


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    query: Headers
    headers: Headers
    length: int

    @property
    def bucket(self) -> str:
        return self.path.partition("/")[0]

    @property
    def key(self) -> str:
        return self.path.partition("/")[2]

    @property
    def size(self) -> int:
        """Of the content, without the frames of `aws-chunked`."""
        return int(self.headers.get("x-amz-decoded-content-length", self.length))

    @property
    def kept(self) -> bool:
        return self.key.endswith(".info") or self.size <= KEPT or self.method == "POST"

    @property
    def operation(self) -> str:
        """S3's name of it."""
        if not self.key:
            if "list-type" in self.query:
                return "ListObjectsV2"
            return {"PUT": "CreateBucket", "POST": "DeleteObjects"}.get(self.method, "HeadBucket")
        if "uploadId" in self.query:
            copy = "UploadPartCopy" if "x-amz-copy-source" in self.headers else "UploadPart"
            names = {"PUT": copy, "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
            return names.get(self.method, "ListParts")
        if self.method == "POST":
            return "CreateMultipartUpload"
        return self.method.capitalize() + "Object"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    zeros: int = 0
    """As many zero bytes follow the body."""


@dataclass(frozen=True)
class Thing:
    """An object."""

    size: int
    etag: str
    data: bytes | None
    headers: Headers
    written: float


@dataclass
class Multipart:
    key: str
    headers: Headers
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Number -> size, ETag."""


class Store:
    """What is in the buckets; any bucket exists."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._things: dict[str, Thing] = {}
        """By path: bucket/key."""
        self._multiparts: dict[str, Multipart] = {}
        self._number = 0

    def answer(self, request: Request, body: bytes) -> Answer:
        """Carry out a request; `body` is empty when its bytes were not kept."""
        if request.path.startswith("-/"):
            return self._own(request)
        self.counts[request.operation] += 1
        try:
            act = getattr(self, "_" + re.sub(r"(?<=.)(?=[A-Z])", "_", request.operation).lower())
            answer: Answer = act(request, body)
            return answer
        except Refused as refused:
            code = str(refused)
            return Answer(
                CODES[code],
                {"content-type": "application/xml"},
                _xml("Error", f"<Code>{code}</Code><Message>{code}</Message>", ""),
            )

    def _own(self, request: Request) -> Answer:
        if request.path == "-/reset":
            self.counts.clear()
        return Answer(200, {"content-type": "application/json"}, json.dumps(self.counts).encode())

    def _create_bucket(self, request: Request, body: bytes) -> Answer:
        return Answer(200, {"location": "/" + request.bucket})

    def _head_bucket(self, request: Request, body: bytes) -> Answer:
        return Answer(
            200, {"x-amz-bucket-region": "us-east-1"}, b"" if request.method == "HEAD" else _xml("LocationConstraint", "")
        )

    def _put_object(self, request: Request, body: bytes) -> Answer:
        self._check(request)
        if "x-amz-copy-source" in request.headers:
            source = self._thing(unquote(request.headers["x-amz-copy-source"]).lstrip("/"))
            thing = Thing(source.size, self._etag(), source.data, source.headers, time.time())
            self._things[request.path] = thing
            return Answer(200, {}, _xml("CopyObjectResult", f"<ETag>{thing.etag}</ETag>"))
        thing = Thing(request.size, self._etag(), body if request.kept else None, _described(request), time.time())
        self._things[request.path] = thing
        return Answer(200, {"etag": thing.etag})

    def _get_object(self, request: Request, body: bytes) -> Answer:
        thing = self._thing(request.path)
        if request.headers.get("if-none-match") == thing.etag:
            return Answer(304, {"etag": thing.etag})
        begin, end = 0, thing.size
        wanted = request.headers.get("range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, thing.size - int(last))
            end = min(thing.size, int(last) + 1) if first and last else thing.size
            if begin >= end:
                raise Refused("InvalidRange")
        headers = self._seen(thing)
        if wanted:
            headers["content-range"] = f"bytes {begin}-{end - 1}/{thing.size}"
        status = 206 if wanted else 200
        if thing.data is None:
            return Answer(status, headers, zeros=end - begin)
        return Answer(status, headers, thing.data[begin:end])

    def _head_object(self, request: Request, body: bytes) -> Answer:
        thing = self._thing(request.path)
        return Answer(200, self._seen(thing), zeros=thing.size)

    def _delete_object(self, request: Request, body: bytes) -> Answer:
        self._things.pop(request.path, None)
        return Answer(204)

    def _delete_objects(self, request: Request, body: bytes) -> Answer:
        for key in _all("Key", body):
            self._things.pop(f"{request.bucket}/{key}", None)
        return Answer(200, {}, _xml("DeleteResult", ""))

    def _list_objects_v2(self, request: Request, body: bytes) -> Answer:
        start = f"{request.bucket}/"
        after = request.query.get("continuation-token") or request.query.get("start-after", "")
        prefix = request.query.get("prefix", "")
        keys = sorted(k.removeprefix(start) for k in self._things if k.startswith(start + prefix))
        keys = [key for key in keys if key > after]
        page = keys[: int(request.query.get("max-keys", 1000))]
        more = len(keys) > len(page)
        name = quote if request.query.get("encoding-type") == "url" else escape
        lines = [f"<Name>{request.bucket}</Name><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"]
        lines += ["<EncodingType>url</EncodingType>"] if name is quote else []
        lines += [f"<NextContinuationToken>{name(page[-1])}</NextContinuationToken>"] if more else []
        for key in page:
            thing = self._things[start + key]
            what = f"<Key>{name(key)}</Key><Size>{thing.size}</Size><ETag>{escape(thing.etag)}</ETag>"
            lines.append(f"<Contents>{what}<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>")
        return Answer(200, {}, _xml("ListBucketResult", "".join(lines)))

    def _create_multipart_upload(self, request: Request, body: bytes) -> Answer:
        self._number += 1
        name = f"upload-{self._number}"
        self._multiparts[name] = Multipart(request.path, _described(request))
        what = f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key><UploadId>{name}</UploadId>"
        return Answer(200, {}, _xml("InitiateMultipartUploadResult", what))

    def _upload_part(self, request: Request, body: bytes) -> Answer:
        etag = self._etag()
        self._multipart(request).parts[int(request.query["partNumber"])] = (request.size, etag)
        return Answer(200, {"etag": etag})

    def _upload_part_copy(self, request: Request, body: bytes) -> Answer:
        size = self._thing(unquote(request.headers["x-amz-copy-source"]).lstrip("/")).size
        wanted = request.headers.get("x-amz-copy-source-range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size = int(last) - int(first) + 1
        etag = self._etag()
        self._multipart(request).parts[int(request.query["partNumber"])] = (size, etag)
        return Answer(200, {}, _xml("CopyPartResult", f"<ETag>{escape(etag)}</ETag>"))

    def _list_parts(self, request: Request, body: bytes) -> Answer:
        after = int(request.query.get("part-number-marker") or 0)
        parts = [(n, *part) for n, part in sorted(self._multipart(request).parts.items()) if n > after]
        page = parts[: int(request.query.get("max-parts", 1000))]
        lines = [f"<IsTruncated>{str(len(parts) > len(page)).lower()}</IsTruncated>"]
        lines += [f"<NextPartNumberMarker>{page[-1][0]}</NextPartNumberMarker>"] if page else []
        for number, size, etag in page:
            lines.append(f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>{escape(etag)}</ETag></Part>")
        return Answer(200, {}, _xml("ListPartsResult", "".join(lines)))

    def _complete_multipart_upload(self, request: Request, body: bytes) -> Answer:
        upload = self._multipart(request)
        self._check(request)
        size = 0
        for number, etag in zip(_all("PartNumber", body), _all("ETag", body), strict=True):
            part = upload.parts.get(int(number))
            if part is None or part[1].strip('"') != etag.replace("&quot;", "").replace("&#34;", "").strip('"'):
                raise Refused("InvalidPart")
            size += part[0]
        self._things[request.path] = Thing(size, self._etag(), None, upload.headers, time.time())
        del self._multiparts[request.query["uploadId"]]
        what = f"<Key>{escape(request.key)}</Key><ETag>{escape(self._things[request.path].etag)}</ETag>"
        return Answer(200, {}, _xml("CompleteMultipartUploadResult", what))

    def _abort_multipart_upload(self, request: Request, body: bytes) -> Answer:
        self._multipart(request)
        del self._multiparts[request.query["uploadId"]]
        return Answer(204)

    def _check(self, request: Request) -> None:
        """The conditions of a write."""
        there = self._things.get(request.path)
        if there and request.headers.get("if-none-match") == "*":
            raise Refused("PreconditionFailed")
        wanted = request.headers.get("if-match")
        if wanted and not there:
            raise Refused("NoSuchKey")
        if wanted and there and wanted.strip('"') != there.etag.strip('"'):
            raise Refused("PreconditionFailed")

    def _thing(self, path: str) -> Thing:
        if path not in self._things:
            raise Refused("NoSuchKey")
        return self._things[path]

    def _multipart(self, request: Request) -> Multipart:
        found = self._multiparts.get(request.query["uploadId"])
        if found is None or found.key != request.path:
            raise Refused("NoSuchUpload")
        return found

    def _seen(self, thing: Thing) -> Headers:
        return {
            **thing.headers,
            "etag": thing.etag,
            "last-modified": formatdate(thing.written, usegmt=True),
            "accept-ranges": "bytes",
        }

    def _etag(self) -> str:
        self._number += 1
        return f'"{self._number:032x}"'


def _described(request: Request) -> Headers:
    """The headers that an object is given."""
    return {
        n: v for n, v in request.headers.items() if n.startswith("x-amz-meta-") or n in ("content-type", "content-disposition")
    }


def _xml(name: str, inside: str, space: str = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"') -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{space}>{inside}</{name}>'.encode()


def _all(name: str, text: bytes) -> Iterable[str]:
    return re.findall(f"<{name}>(.*?)</{name}>", text.decode())


def _unframed(data: bytes) -> bytes:
    """The content of an `aws-chunked` body."""
    content = b""
    while data:
        head, _, data = data.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            break
        content += data[:size]
        data = data[size + 2 :]
    return content


class Connection(asyncio.BufferedProtocol):
    """Reads requests into a buffer that all connections share: nothing in it outlives the call that fills it."""

    shared = memoryview(bytearray(1 << 20))

    def __init__(self, store: Store, latency: float) -> None:
        self._store = store
        self._latency = latency
        self._head = b""
        self._request: Request | None = None
        self._body: list[bytes] = []
        self._left = 0
        """Bytes of the body that are to come."""
        self._zeros = 0
        """Bytes of an answer that are to go."""
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.shared

    def buffer_updated(self, nbytes: int) -> None:
        if self._request and self._left >= nbytes and not self._request.kept:
            self._left -= nbytes
        else:
            self._feed(bytes(self.shared[:nbytes]))
        if self._request and not self._left:
            self._done()

    def _feed(self, data: bytes) -> None:
        if self._request is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            self._begin(head.decode("latin-1"))
        if len(data) > self._left:  # no client of S3 sends requests ahead
            self._transport.abort()
            return
        self._left -= len(data)
        if self._request and self._request.kept:
            self._body.append(data)

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        self._request = Request(method, unquote(path[1:]), dict(parse_qsl(query, keep_blank_values=True)), headers, length)
        self._left = length
        if "transfer-encoding" in headers:
            self._send(Answer(501, {"connection": "close"}))
            self._transport.close()
        elif length and headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _done(self) -> None:
        request, body = self._request, self._body
        assert request is not None
        self._request, self._body = None, []
        content = b"".join(body) if request.kept else b""
        if "x-amz-decoded-content-length" in request.headers and request.kept:
            content = _unframed(content)
        answer = self._store.answer(request, content)
        if self._latency and not request.path.startswith("-/"):
            asyncio.get_running_loop().call_later(self._latency, self._send, answer, request.method)
        else:
            self._send(answer, request.method)

    def _send(self, answer: Answer, method: str = "GET") -> None:
        length = len(answer.body) + answer.zeros
        headers: Mapping[str, str | int] = {"server": "sink", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Error')}", *(f"{n}: {v}" for n, v in headers.items())]
        if answer.status not in (204, 304):
            lines.append(f"content-length: {length}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if method == "HEAD":
            self._transport.write(head)
            return
        self._transport.write(head + answer.body)
        self._zeros = answer.zeros
        self._more()

    def _more(self) -> None:
        while self._zeros and not self._full:
            piece = ZEROS[: self._zeros]
            self._zeros -= len(piece)
            self._transport.write(piece)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._more()


async def serve(port: int, latency: float, context: ssl.SSLContext | None) -> None:
    """Answer until SIGTERM."""
    store, loop, stop = Store(), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await loop.create_server(lambda: Connection(store, latency), "127.0.0.1", port, backlog=1024, ssl=context)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0, metavar="MS", help="milliseconds that each answer is held back")
    parser.add_argument("--certificate", type=Path, help="speak TLS with this certificate and key (one PEM file)")
    arguments = parser.parse_args()
    context = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate)
    uvloop.run(serve(arguments.port, arguments.latency / 1000, context))


if __name__ == "__main__":
    main()
