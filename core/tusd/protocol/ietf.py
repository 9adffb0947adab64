"""The IETF's resumable uploads as a dialect: https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/

Clients name the interop version of the draft that they speak; the versions differ in the few things that `VERSIONS` lists.
A client that names none and sends `Upload-Complete` is taken for one of the finished standard, which has no such field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import assert_never

from ..errors import (
    ChecksumMismatch,
    DigestMismatch,
    InternalError,
    InvalidContentType,
    InvalidMetadata,
    InvalidRequest,
    InvalidUploadLength,
    MaxSizeExceeded,
    MethodNotAllowed,
    MismatchedOffset,
    TusError,
    UnsupportedVersion,
    UploadCompleted,
    UploadRejected,
    UploadSizeExceeded,
)
from ..model import Extension, Metadata, State, UploadId, UploadInfo, utcnow
from . import digests, fields
from . import headers as h
from .common import body_size, merged, method_meant
from .messages import (
    Announced,
    Append,
    Appended,
    BodyPlan,
    Create,
    Created,
    Discover,
    Discovered,
    Head,
    HeaderList,
    Inspect,
    Inspected,
    News,
    Outcome,
    Progress,
    Reading,
    Request,
    Response,
    Terminate,
    Terminated,
)
from .rules import Policy, expiry
from .urls import Origins

INTEROP = "Upload-Draft-Interop-Version"
PARTIAL_UPLOAD = "application/partial-upload"
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_SF_MAX = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651 section 3.3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What one interop version does in a way of its own."""

    number: int
    completeness: str = "Upload-Complete"
    """The field that says whether the upload is, or will be, complete."""
    inverted: bool = False
    """That field says the opposite."""
    progress: bool = True
    """104s with Upload-Offset tell how a body gets on."""
    media_type: bool = True
    """An append is application/partial-upload."""
    explicit: bool = True
    """An append must say whether it completes the upload; without that it is taken for its end."""
    strict: bool = False
    """HEAD, GET and DELETE with fields that describe a body, and a creation with Upload-Offset, are refused."""
    lifetime: str = "max-age"
    """The limit that tells how long the upload stays."""
    appended: int = 204
    """The status of an append that succeeded."""


VERSIONS: Mapping[int, Version] = MappingProxyType(
    {
        version.number: version
        for version in (
            Version(
                number=3,
                completeness="Upload-Incomplete",
                inverted=True,
                progress=False,
                media_type=False,
                explicit=False,
                strict=True,
                lifetime="expires",
                appended=201,
            ),
            Version(number=4, progress=False, media_type=False, explicit=False, strict=True, lifetime="expires", appended=201),
            Version(number=5, media_type=False, explicit=False, strict=True, lifetime="expires", appended=201),
            Version(number=6, explicit=False, strict=True, lifetime="expires", appended=201),
            Version(number=7),
            Version(number=8),
        )
    }
)
NEWEST = VERSIONS[max(VERSIONS)]


class Ietf:
    """Reads requests and writes answers of one version of the draft."""

    def __init__(self, policy: Policy, origins: Origins, version: Version = NEWEST, *, informational: bool = True) -> None:
        self.policy = policy
        self.origins = origins
        self.version = version
        self._informational = informational
        on = policy.extensions
        self._creates: tuple[str, ...] = ("POST", "PUT", "OPTIONS") if Extension.CREATION in on else ("OPTIONS",)
        self._works: tuple[str, ...] = ("HEAD", "GET", "PATCH", "OPTIONS")
        if Extension.TERMINATION in on:
            self._works += ("DELETE",)

    # --- reading

    def read(self, head: Head) -> Request:
        """What a request asks for. Raises `RequestError`, `UploadNotFound`."""
        h.single(head.headers, "X-HTTP-Method-Override")
        method = method_meant(head)
        if method == "OPTIONS":
            return Discover()
        stated = head.headers.getall(INTEROP, [])
        if stated and fields.integer(head.headers, INTEROP) != self.version.number:
            known = ", ".join(str(number) for number in VERSIONS)
            raise UnsupportedVersion(
                f"this server speaks the interop versions {known} of the draft, not the one that {INTEROP} names"
            )
        upload_id = self.origins.upload_id(head.path)
        if upload_id is None:
            if method not in self._creates:
                raise MethodNotAllowed(", ".join(self._creates))
            return self._create(head)
        if method not in self._works:
            raise MethodNotAllowed(", ".join(self._works))
        if method == "PATCH":
            return self._append(head, upload_id)
        self._check_bare(head)
        return Terminate(upload_id) if method == "DELETE" else Inspect(upload_id)

    def _create(self, head: Head) -> Create:
        self.origins.base_url(head)  # a Location that cannot be told must fail before anything is created
        if self.version.strict and "Upload-Offset" in head.headers:
            raise InvalidRequest("a request that creates an upload has no Upload-Offset")
        completes = self._completes(head)
        if completes is None:
            raise InvalidRequest(f"{self.version.completeness} is missing or not a boolean; it is ?0 or ?1")
        body = self._body(head)
        return Create(
            length=_length(head, 0, body.size, completes=completes),
            metadata=_metadata(head, self.policy.max_metadata_size),
            body=None if body.size == 0 and body.checksum is None else self._checked(body, completes=completes),
            completes=completes,
            digest=_digest(head),
        )

    def _append(self, head: Head, upload_id: UploadId) -> Append:
        self.origins.base_url(head)  # as in `_create`: the last append is answered with a Location
        if self.version.media_type and _media_type(head) != PARTIAL_UPLOAD:
            raise InvalidContentType(f"missing or invalid Content-Type header; it must be {PARTIAL_UPLOAD}")
        offset = fields.integer(head.headers, "Upload-Offset")
        if offset is None:
            raise InvalidRequest("Upload-Offset is missing or not an integer from 0 on")
        completes = self._completes(head)
        if completes is None and (self.version.explicit or self.version.completeness in head.headers):
            raise InvalidRequest(f"{self.version.completeness} is missing or not a boolean; it is ?0 or ?1")
        completes = completes is not False
        body = self._body(head)
        return Append(
            upload_id=upload_id,
            offset=offset,
            length=_length(head, offset, body.size, completes=completes),
            body=self._checked(body, completes=completes),
            completes=completes,
        )

    def _completes(self, head: Head) -> bool | None:
        """Whether the request is the last; None when it does not say so in the way that it should."""
        said = fields.boolean(head.headers, self.version.completeness)
        return said if said is None else said is not self.version.inverted

    def _check_bare(self, head: Head) -> None:
        for name in ("Upload-Offset", "Upload-Length", self.version.completeness):
            if self.version.strict and name in head.headers:
                raise InvalidRequest(f"{name} has no meaning in this request")

    def _body(self, head: Head) -> BodyPlan:
        # A digest that nobody here can honour may be ignored (RFC 9530 section 2).
        able = self.policy.has(Extension.CHECKSUM)
        checksum = fields.digest(head.headers, "Content-Digest", digests.NAMES) if able else None
        return BodyPlan(body_size(head), checksum, keeps_cut=True, limit=self.policy.max_append_size)

    def _checked(self, body: BodyPlan, *, completes: bool) -> BodyPlan:
        """The body, if its size is within the limits that clients are told."""
        most, least = self.policy.max_append_size, self.policy.min_append_size
        if most is not None and body.size is not None and body.size > most:
            raise MaxSizeExceeded(f"one request may carry {most} bytes at most; send the upload in several")
        if least is not None and not completes and body.size and body.size < least:
            raise InvalidRequest(f"a request that does not complete the upload carries {least} bytes at least")
        return body

    # --- writing

    def write(self, head: Head, outcome: Outcome) -> Response:
        """The answer to a request that succeeded."""
        match outcome:
            case Appended(info, answer) if info.state is not State.COMPLETE:
                return merged(Response(self.version.appended, self._common() + self._state(info)), answer)
            case Created(info, answer=answer) | Appended(
                info, answer
            ):  # the last append is answered as the creation would have been
                found = [("Location", self.origins.upload_url(head, info.id)), *self._state(info), *self._limits(info)]
                return merged(Response(201, self._common() + found), answer)
            case Inspected(info, answer):
                found = [*self._state(info), *self._limits(info), ("Cache-Control", "no-store")]
                if info.length is not None:
                    found.append(("Upload-Length", str(info.length)))
                return merged(Response(204, self._common() + found), answer)
            case Terminated(answer):
                return merged(Response(204, self._common()), answer)
            case Discovered():
                found = [*self._common(), ("Accept-Patch", PARTIAL_UPLOAD)]
                if Extension.CREATION in self.policy.extensions:
                    found.append(("Upload-Limit", limits(self.policy, lifetime=self.version.lifetime)))
                return Response(204, found)
            case Reading():
                raise AssertionError("no request of this dialect reads")
            case _:
                assert_never(outcome)

    def _common(self) -> HeaderList:
        return [(INTEROP, str(self.version.number))]

    def _complete(self, complete: bool) -> tuple[str, str]:
        return self.version.completeness, "?1" if complete is not self.version.inverted else "?0"

    def _state(self, info: UploadInfo) -> HeaderList:
        found = [("Upload-Offset", str(info.offset)), self._complete(info.state is State.COMPLETE)]
        if (digest := digests.known(info)) is not None:
            name = next(text for text, algorithm in digests.NAMES.items() if algorithm == digest.algorithm)
            found.append(("Repr-Digest", fields.dictionary({name: digest.digest})))
        return found

    def _limits(self, info: UploadInfo) -> HeaderList:
        return [("Upload-Limit", limits(self.policy, info, utcnow(), self.version.lifetime))]

    # --- news

    def tells(self, head: Head) -> bool:
        """Whether this request's client hears news: it has named a version, and speaks HTTP/1.1."""
        return self._informational and INTEROP in head.headers

    def interim(self, head: Head, news: News) -> HeaderList:
        """The headers of a 104 (Upload Resumption Supported); none: this version has no such news."""
        match news:
            case Announced(info):
                return [("Location", self.origins.upload_url(head, info.id)), *self._limits(info), *self._common()]
            case Progress(offset):
                return [("Upload-Offset", str(offset)), *self._common()] if self.version.progress else []
            case _:
                assert_never(news)

    # --- refusing

    def refuse(self, head: Head, error: TusError) -> Response:
        """The answer to a request that failed: problem details (RFC 9457); what an `InternalError` says is for the log only.

        Clients of the draft try again after a 5xx and give up after a 4xx, so whatever is temporary is 503."""
        status = self._status(error)
        found = [*self._common(), ("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]
        if error.temporary or error.retry_after is not None:
            found.append(("Retry-After", str(max(1, math.ceil(error.retry_after or 1)))))
        if isinstance(error, MethodNotAllowed):
            found.append(("Allow", error.allow))
        if isinstance(error, InvalidContentType):
            found.append(("Accept-Patch", PARTIAL_UPLOAD))
        if status == 413:
            found.append(("Upload-Limit", limits(self.policy, error.info, utcnow(), self.version.lifetime)))
        found += self._standing(head, error)
        response = Response(status, found, json.dumps(self._problem(error, status)).encode("ascii") + b"\n")
        if error.hook is not None and error.hook.body:  # its own text, which is no problem details unless it says so
            response.headers = [(name, value) for name, value in found if name != "Content-Type"]
        return merged(response, error.hook)

    def _standing(self, head: Head, error: TusError) -> HeaderList:
        """Whether, and where, the client may go on."""
        if isinstance(error, (UploadRejected, DigestMismatch)):
            return [self._complete(True)]  # the last word about the upload: nobody wants any more of it
        method, info = method_meant(head), error.info
        if method not in ("POST", "PUT", "PATCH"):
            return []
        found = [self._complete(False)]  # also of a complete upload: it says whose answer this is
        if info is not None:
            found.append(("Upload-Offset", str(info.offset)))
            if method != "PATCH":
                found.append(("Location", self.origins.upload_url(head, info.id)))
        return found

    def _status(self, error: TusError) -> int:
        if isinstance(error, (ChecksumMismatch, UnsupportedVersion)) or _past_length(error):
            return 400
        return 503 if error.temporary else error.status

    def _problem(self, error: TusError, status: int) -> dict[str, object]:
        """The members of the problem details; those that the draft gives to its types, and our `code`."""
        detail = error.message if isinstance(error, InternalError) else str(error)
        kind, title = "about:blank", HTTPStatus(status).phrase
        more: dict[str, object] = {}
        match error:
            case MismatchedOffset(info=UploadInfo() as info, provided=provided):
                kind, title = _PROBLEMS + "mismatching-upload-offset", "Mismatching Upload Offset"
                more = {"expected-offset": info.offset, "provided-offset": provided}
            case InvalidUploadLength():
                kind, title = _PROBLEMS + "inconsistent-upload-length", "Inconsistent Upload Length Values"
            case UploadCompleted():
                kind, title = _PROBLEMS + "completed-upload", "Upload Is Completed"
            case _ if _past_length(error):
                kind, title = _PROBLEMS + "inconsistent-upload-length", "Inconsistent Upload Length Values"
        return {"type": kind, "title": title, "status": status, "detail": detail, "code": error.code, **more}


def _past_length(error: TusError) -> bool:
    """Whether a body was longer than the length that its upload was said to have."""
    return isinstance(error, UploadSizeExceeded) and (error.gone or (error.info is not None and error.info.length is not None))


def limits(policy: Policy, info: UploadInfo | None = None, now: datetime | None = None, lifetime: str = "max-age") -> str:
    """The `Upload-Limit` of the server, or of one upload."""
    found: dict[str, int | bytes] = {}
    sizes = [size for size in (policy.max_size, info.max_length if info else None) if size is not None]
    if sizes:
        found["max-size"] = min(*sizes, _SF_MAX)
    if policy.max_append_size is not None:
        found["max-append-size"] = min(policy.max_append_size, _SF_MAX)
    if policy.min_append_size is not None:
        found["min-append-size"] = min(policy.min_append_size, _SF_MAX)
    if info is not None and now is not None:
        moment = expiry(info, policy)
        if moment is not None:
            found[lifetime] = max(0, int((moment - now).total_seconds()))
    elif policy.expire_after is not None and policy.has(Extension.EXPIRATION):
        found[lifetime] = int(min(policy.expire_after, _SF_MAX))
    return fields.dictionary(found or {"min-size": 0})


def _length(head: Head, offset: int, size: int | None, *, completes: bool) -> int | None:
    """The length that a request tells, in either of two ways or in both."""
    stated = fields.integer(head.headers, "Upload-Length")
    if size is None:
        return stated
    stop = offset + size
    if stated is not None and (stop > stated or (completes and stop != stated)):
        raise InvalidUploadLength(f"Upload-Length is {stated}, but the content of this request ends at {stop}")
    return stop if completes else stated


def _media_type(head: Head) -> str:
    return (head.headers.get("Content-Type") or "").partition(";")[0].strip().lower()


def _metadata(head: Head, max_size: int) -> Metadata:
    """`filetype` and `filename`, as clients of tus 1.0 call them, from Content-Type and Content-Disposition."""
    media_type = h.single(head.headers, "Content-Type")
    disposition = h.single(head.headers, "Content-Disposition")
    if len(media_type or "") + len(disposition or "") > max_size:
        raise InvalidMetadata(f"Content-Type and Content-Disposition have more than {max_size} characters")
    values: dict[str, bytes] = {}
    name = h.parse_filename(disposition) if disposition else None
    if name:
        values["filename"] = name.encode("utf-8", "replace")
    if media_type:
        values["filetype"] = media_type.encode("utf-8", "replace")
    return Metadata(values, h.format_metadata(values))


def _digest(head: Head) -> str | None:
    promised = fields.digest(head.headers, "Repr-Digest", digests.NAMES)
    if promised is not None:
        return digests.promise(promised)
    liked = fields.wanted(head.headers, "Want-Repr-Digest", digests.NAMES)
    return None if liked is None else digests.wish(liked)
