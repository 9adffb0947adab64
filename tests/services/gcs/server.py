"""The HTTP side of the fake: uploads, downloads, batches and tokens; all else goes to `api`."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import policy
from email.parser import BytesParser
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import jwt
from aiohttp import BodyPartReader, MultipartReader, hdrs, web

from tests.services.gcs.api import Answer, Call, answer, etag, new_fields, parse_json, resource
from tests.services.gcs.store import Conditions, GcsError, Session, Spool, Store, Stored, check_name, integer, invalid

QUANTUM = 256 * 1024  # a session keeps whole multiples of it until its last bytes come
BATCH_LIMIT = 100  # calls, https://cloud.google.com/storage/docs/batch
PIECE = 2**20  # bytes of a download that are in memory at once
GOOGLES_AUDIENCE = "https://oauth2.googleapis.com/token"  # what google-auth writes, wherever it sends the assertion
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Server:
    """Answers the requests of one `Store`. With `public_key` every call needs a token that the key's owner has got from /token."""

    def __init__(self, store: Store, public_key: str | None = None) -> None:
        self._store = store
        self._public_key = public_key
        self._tokens: set[str] = set()
        self._spools: dict[str, Spool] = {}  # of sessions
        self._turns: dict[str, object] = {}  # of sessions: the request that writes, which ends with the next one's coming

    def app(self) -> web.Application:
        """To be served by aiohttp."""
        app = web.Application(client_max_size=2**26)  # of what is read as a whole: JSON and batches
        app.router.add_route("*", "/{any:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._route(request)
        except GcsError as error:
            return _response(Answer.of(error))
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)  # nobody gets it: the client is gone
        except UnicodeEncodeError:
            return _response(Answer.of(invalid("A text is not valid Unicode")))

    async def _route(self, request: web.Request) -> web.StreamResponse:
        call = Call.of(request.method, request.raw_path, request.host)
        if (call.method, call.segments) == ("POST", ("token",)):
            return await self._token(request)
        in_session = call.segments[:1] == ("upload",) and "upload_id" in call.query  # a session's address is its own permission
        if self._public_key is not None and not in_session:
            self._authorise(request.headers.get(hdrs.AUTHORIZATION, ""))
        match call.method, call.segments:
            case "POST" | "PUT", ("upload", "storage", "v1", "b", bucket, "o"):
                if "upload_id" in call.query:
                    return await self._resume(request, call)
                return await self._upload(request, call, bucket)
            case "DELETE", ("upload", "storage", "v1", "b", _, "o"):
                return self._cancel(call)
            case "GET", ("download", "storage", "v1", "b", bucket, "o", name) | ("storage", "v1", "b", bucket, "o", name) if (
                call.query.get("alt") == "media"
            ):
                return await self._download(request, call, bucket, name)
            case "POST", ("batch", "storage", "v1"):
                return await self._batch(request)
        return _response(await answer(self._store, replace(call, body=await request.read())))

    # uploads

    async def _upload(self, request: web.Request, call: Call, bucket: str) -> web.Response:
        self._store.bucket(bucket)
        match call.query.get("uploadType"):
            case "media":
                sent = {"contentType": request.headers.get(hdrs.CONTENT_TYPE)}
                return await self._insert(request, call, bucket, sent, request.content.iter_chunked(PIECE))
            case "multipart":
                return await self._related(request, call, bucket)
            case "resumable":
                return await self._begin(request, call, bucket)
        raise invalid("The uploadType of a request is media, multipart or resumable.")

    async def _related(self, request: web.Request, call: Call, bucket: str) -> web.Response:
        with malformed():
            parts = await request.multipart()
            about = await parts.next()
            text = await about.read() if isinstance(about, BodyPartReader) else b""
            data = await parts.next()
        sent = parse_json(bytes(text))
        if not isinstance(data, BodyPartReader):
            raise invalid("Malformed multipart body: a part of metadata and a part of data are expected.")
        if hdrs.CONTENT_TYPE in data.headers:
            sent.setdefault("contentType", data.headers[hdrs.CONTENT_TYPE])
        return await self._insert(request, call, bucket, sent, _pieces(parts, data))

    async def _insert(
        self, request: web.Request, call: Call, bucket: str, sent: dict[str, Any], pieces: AsyncIterator[bytes]
    ) -> web.Response:
        name = call.query.get("name") or str(sent.get("name", ""))
        spool = self._store.spool()
        try:
            async for piece in pieces:
                spool.write(piece)
            spool.check(**_checksums(sent, request))
            stored = self._store.put(bucket, name, spool, new_fields(sent, call.query), Conditions.of(call.query))
        except BaseException:
            spool.discard()
            raise
        return _response(Answer(200, resource(call.host, stored)))

    # sessions

    async def _begin(self, request: web.Request, call: Call, bucket: str) -> web.Response:
        sent = parse_json(await request.read())
        name = call.query.get("name") or str(sent.get("name", ""))
        check_name(name)
        if request.headers.get("X-Upload-Content-Type"):
            sent.setdefault("contentType", request.headers["X-Upload-Content-Type"])
        length = request.headers.get("X-Upload-Content-Length")
        query = dict(call.query)
        Conditions.of(query).check(self._store.find(bucket, name))
        session = Session(
            secrets.token_urlsafe(24),
            bucket,
            name,
            uuid.uuid4().hex,
            new_fields(sent, query),
            query,
            checksums=_checksums(sent, request),
            length=integer(length) if length else None,
        )
        self._store.save_session(session)
        location = f"http://{call.host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={session.id}"
        return web.Response(headers={hdrs.LOCATION: location, "X-GUploader-UploadID": session.id})

    async def _resume(self, request: web.Request, call: Call) -> web.Response:
        session = self._store.session(call.query["upload_id"])
        if session.done is not None:  # whatever is asked, even if more is sent
            return _response(Answer(200, resource(call.host, Stored(**session.done))))
        spool = self._spools.get(session.id)
        if spool is None:
            spool = self._spools[session.id] = self._store.spool(session.file)
        begin, total = _content_range(request)
        if total is not None and session.length not in (None, total):
            raise invalid(f"X-Upload-Content-Length was {session.length}, but the total size of Content-Range is {total}.")
        if begin is not None:
            if begin > spool.size:
                text = f"the upload offset is {begin} byte(s), which exceeds already uploaded size of {spool.size} byte(s)."
                return web.Response(status=503, text=f"Invalid request. According to the Content-Range header, {text}")
            await self._receive(request, session, spool, spool.size - begin)
            if hdrs.CONTENT_RANGE not in request.headers:
                total = spool.size
        if total == spool.size:
            return self._finish(request, call, session, spool)
        if begin is not None:
            spool = self._keep_quanta(session)
        kept = spool.size // QUANTUM * QUANTUM
        headers = {hdrs.RANGE: f"bytes=0-{kept - 1}"} if kept else {}
        return web.Response(status=308, reason="Resume Incomplete", headers=headers)

    async def _receive(self, request: web.Request, session: Session, spool: Spool, known: int) -> None:
        """Write what a request brings, but for the first bytes, which are known already. A newer request takes over from it."""
        turn = self._turns[session.id] = object()

        def go_on() -> None:
            if self._turns.get(session.id) is not turn:
                raise GcsError(503, "backendError", "Another request has taken over this upload.")

        try:
            async for piece in request.content.iter_chunked(PIECE):
                go_on()
                spool.write(piece[known:])
                known = max(0, known - len(piece))
            go_on()
        except BaseException:
            if self._turns.get(session.id) is turn:
                self._keep_quanta(session)
            raise

    def _keep_quanta(self, session: Session) -> Spool:
        spool = self._spools[session.id]
        if spool.size % QUANTUM:
            spool = self._spools[session.id] = spool.cut(spool.size // QUANTUM * QUANTUM)
        return spool

    def _finish(self, request: web.Request, call: Call, session: Session, spool: Spool) -> web.Response:
        sent = _checksums({}, request)
        spool.check(**{name: sent[name] or value for name, value in session.checksums.items()})
        conditions = Conditions.of(session.query)
        stored = self._store.put(session.bucket, session.name, spool, session.fields, conditions, session=session)
        del self._spools[session.id]
        self._turns.pop(session.id, None)
        return _response(Answer(200, resource(call.host, stored)))

    def _cancel(self, call: Call) -> web.Response:
        session = self._store.session(call.query.get("upload_id", ""))
        self._store.delete_session(session)
        self._turns.pop(session.id, None)
        spool = self._spools.pop(session.id, None)
        if spool is not None:
            spool.close()
        return web.Response(status=499, reason="Client Closed Request")

    # downloads

    async def _download(self, request: web.Request, call: Call, bucket: str, name: str) -> web.StreamResponse:
        stored = self._store.get(bucket, name, call.query.get("generation"))
        Conditions.of(call.query).check(stored)
        headers = _data_headers(stored)
        asked = _span(request.headers.get(hdrs.RANGE), stored.size)
        first, end = asked or (0, stored.size)
        if asked is not None:
            headers[hdrs.CONTENT_RANGE] = f"bytes {first}-{end - 1}/{stored.size}"
            if first >= end:
                headers[hdrs.CONTENT_RANGE] = f"bytes */{stored.size}"
                return web.Response(status=416, headers=headers, text="Request range not satisfiable")
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        response.content_length = end - first
        with self._store.path(stored).open("rb", buffering=0) as file:
            await response.prepare(request)
            file.seek(first)
            while first < end and (piece := file.read(min(PIECE, end - first))):
                await response.write(piece)
                first += len(piece)
        await response.write_eof()
        return response

    # batches and tokens

    async def _batch(self, request: web.Request) -> web.Response:
        head = f"Content-Type: {request.headers.get(hdrs.CONTENT_TYPE, '')}\r\n\r\n".encode()
        message = BytesParser(policy=policy.HTTP).parsebytes(head + await request.read())
        if not message.is_multipart():
            raise invalid("A batch is a multipart/mixed body of requests")
        parts = list(message.iter_parts())
        if len(parts) > BATCH_LIMIT:
            raise invalid(f"The batch request has {len(parts)} calls, which exceeds the maximum ({BATCH_LIMIT})")
        boundary = f"batch_{uuid.uuid4().hex}"
        lines = []
        for part in parts:
            made = await self._part(str(part.get_payload()), request.host)
            content = json.dumps(made.body) if made.body is not None else ""
            lines += [f"--{boundary}", "Content-Type: application/http"]
            if "Content-ID" in part:
                lines += [f"Content-ID: <response-{part['Content-ID'].strip('<>')}>"]
            lines += [""]
            lines += [f"HTTP/1.1 {made.status} {HTTPStatus(made.status).phrase}", "Content-Type: application/json; charset=UTF-8"]
            lines += [f"Content-Length: {len(content)}", "", content]
        text = "\r\n".join([*lines, f"--{boundary}--", ""])
        return web.Response(body=text.encode(), headers={hdrs.CONTENT_TYPE: f"multipart/mixed; boundary={boundary}"})

    async def _part(self, text: str, host: str) -> Answer:
        """Make one call of a batch: a whole HTTP request, of which the headers do not matter."""
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        try:
            method, target, _ = head.split("\n")[0].split(" ")
        except ValueError:
            return Answer.of(invalid("A part of a batch is an HTTP request"))
        try:
            return await answer(self._store, Call.of(method, target, host, body.encode()))
        except GcsError as error:
            return Answer.of(error)

    async def _token(self, request: web.Request) -> web.Response:
        """OAuth 2.0 for service accounts (RFC 7523): a signed assertion is changed for a token that any call may carry."""
        form = await request.post()
        try:
            if form.get("grant_type") != JWT_BEARER or self._public_key is None:
                raise jwt.InvalidTokenError("not a grant that this server knows")
            audience = [f"http://{request.host}/token", GOOGLES_AUDIENCE]
            claims = jwt.decode(str(form.get("assertion")), self._public_key, algorithms=["RS256"], audience=audience)
            if "scope" not in claims:
                raise jwt.InvalidTokenError("no scope is asked for")
        except jwt.InvalidTokenError as error:
            return web.json_response({"error": "invalid_grant", "error_description": str(error)}, status=400)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def _authorise(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer":
            raise GcsError(401, "required", "Anonymous caller does not have storage access to this resource.")
        if token not in self._tokens:
            raise GcsError(401, "authError", "Invalid Credentials")


def _response(made: Answer) -> web.Response:
    if made.body is None:
        return web.Response(status=made.status, headers=made.headers)
    return web.json_response(made.body, status=made.status, headers=made.headers)


@contextmanager
def malformed() -> Iterator[None]:
    """What aiohttp says of a multipart body that makes no sense, as an answer."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        raise invalid(f"Malformed multipart body: {error}.") from error


async def _pieces(parts: MultipartReader, data: BodyPartReader) -> AsyncIterator[bytes]:
    """The data of a multipart upload, which must be the last part and have an end."""
    with malformed():
        while piece := await data.read_chunk(PIECE):
            yield piece
        if await parts.next() is not None:
            raise ValueError("there is more than metadata and data")


def _checksums(sent: dict[str, Any], request: web.Request) -> dict[str, str | None]:
    """What the client says the bytes are: in the metadata, or in X-Goog-Hash."""
    hashes = dict(pair.strip().partition("=")[::2] for pair in request.headers.get("X-Goog-Hash", "").split(","))
    return {"crc32c": sent.get("crc32c") or hashes.get("crc32c"), "md5": sent.get("md5Hash") or hashes.get("md5")}


def _content_range(request: web.Request) -> tuple[int | None, int | None]:
    """Where the body of a session's request begins (None: it only asks), and the size of the whole if it says so."""
    value = request.headers.get(hdrs.CONTENT_RANGE)
    if value is None:
        return 0, None
    match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", value)
    if match is None:
        raise invalid(f"Failed to parse Content-Range header: {value}")
    first, last, total = match.groups()
    size = None if total == "*" else int(total)
    if first is None:
        return None, size
    expected = int(last) - int(first) + 1
    if request.content_length not in (None, expected):
        text = f"There were {request.content_length} byte(s) in the request body. There should have been {expected} byte(s)"
        raise invalid(
            f"Invalid request. {text} (starting at offset {first} and ending at offset {last}) according to Content-Range."
        )
    return int(first), size


def _span(value: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of what a Range asks for, with nothing between if there is none of it; None without a Range that makes sense."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", value or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1 if last else size)


def _data_headers(stored: Stored) -> dict[str, str]:
    hashes = f"crc32c={stored.crc32c}" + (f",md5={stored.md5}" if stored.md5 else "")
    headers = {
        hdrs.CONTENT_TYPE: stored.fields.get("contentType", "application/octet-stream"),
        hdrs.ETAG: etag(stored),
        hdrs.LAST_MODIFIED: formatdate(stored.updated, usegmt=True),
        hdrs.ACCEPT_RANGES: "bytes",
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": str(stored.metageneration),
        "X-Goog-Hash": hashes,
        "X-Goog-Storage-Class": stored.fields["storageClass"],
        "X-Goog-Stored-Content-Encoding": stored.fields.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": str(stored.size),
    }
    for name in (hdrs.CACHE_CONTROL, hdrs.CONTENT_DISPOSITION, hdrs.CONTENT_ENCODING, hdrs.CONTENT_LANGUAGE):
        field = name[0].lower() + name[1:].replace("-", "")
        if field in stored.fields:
            headers[name] = stored.fields[field]
    return headers
