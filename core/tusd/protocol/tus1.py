"""tus 1.0.0 as a dialect: https://tus.io/protocols/resumable-upload"""

from __future__ import annotations

import math
from typing import assert_never

from ..errors import (
    AmbiguousUploadLength,
    ConcatenationUnsupported,
    Full,
    HookError,
    InternalError,
    InvalidContentType,
    InvalidOffset,
    InvalidUploadLength,
    InvalidUploadLengthDefer,
    MaxSizeExceeded,
    MethodNotAllowed,
    ModifyFinal,
    RangeNotSatisfiable,
    TusError,
    UnsupportedVersion,
)
from ..model import Extension, Final, Partial, State, UploadId, UploadInfo
from . import headers as h
from .common import body_size, merged, method_meant
from .ietf import limits
from .messages import (
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
    Read,
    Reading,
    Request,
    Response,
    Terminate,
    Terminated,
)
from .rules import Policy, etag, expiry
from .urls import Origins

VERSION = "1.0.0"


class Tus1:
    """Reads requests and writes answers of tus 1.0.0."""

    def __init__(self, policy: Policy, origins: Origins) -> None:
        self.policy = policy
        self.origins = origins
        on = policy.extensions
        self._creates: tuple[str, ...] = ("POST", "OPTIONS") if Extension.CREATION in on else ("OPTIONS",)
        self._works: tuple[str, ...] = ("HEAD", "PATCH", "OPTIONS")
        if policy.downloads:
            self._works += ("GET",)
        if Extension.TERMINATION in on:
            self._works += ("DELETE",)

    # --- reading

    def read(self, head: Head) -> Request:
        """What a request asks for. Raises `RequestError`, `UploadNotFound`."""
        h.single(head.headers, "X-HTTP-Method-Override")  # two of them may be read in two ways
        method = method_meant(head)
        if method == "OPTIONS":
            return Discover()
        version = h.single(head.headers, "Tus-Resumable")
        if version != VERSION and (version is not None or method not in ("GET", "HEAD")):
            raise UnsupportedVersion()
        upload_id = self.origins.upload_id(head.path)
        if upload_id is None:
            if method not in self._creates:
                raise MethodNotAllowed(", ".join(self._creates))
            return self._create(head)
        if method not in self._works:
            raise MethodNotAllowed(", ".join(self._works))
        match method:
            case "PATCH":
                return self._append(head, upload_id)
            case "HEAD":
                return Inspect(upload_id)
            case "GET":
                return _read(head, upload_id)
            case _:
                return Terminate(upload_id)

    def _create(self, head: Head) -> Create:
        self.origins.base_url(head)  # a Location that cannot be told must fail before anything is created
        length = _length(head)
        concat = self._concat(head)
        content_type = head.headers.get("Content-Type")
        has_body = h.is_offset_octet_stream(content_type)
        if not has_body and body_size(head) != 0:
            raise InvalidContentType()
        deferred = h.single(head.headers, "Upload-Defer-Length")
        if deferred is not None and deferred != "1":
            raise InvalidUploadLengthDefer()
        if isinstance(concat, Final):
            if has_body:
                raise ModifyFinal()
            length = None  # it is the sum of the parts, whatever the client says
        elif deferred is not None and length is not None:
            raise AmbiguousUploadLength()
        elif deferred is None and length is None:
            raise InvalidUploadLength()
        return Create(
            length=length,
            metadata=h.parse_metadata(head.headers, self.policy.max_metadata_size),
            concat=concat,
            body=_body(head) if has_body else None,
        )

    def _concat(self, head: Head) -> Partial | Final | None:
        text = h.single(head.headers, "Upload-Concat")
        if text is None:
            return None
        if not self.policy.has(Extension.CONCATENATION):
            raise ConcatenationUnsupported()
        urls = h.parse_concat(text)
        return Partial() if urls is None else Final(tuple(self.origins.part_id(url) for url in urls))

    def _append(self, head: Head, upload_id: UploadId) -> Append:
        if not h.is_offset_octet_stream(head.headers.get("Content-Type")):
            raise InvalidContentType()
        text = h.single(head.headers, "Upload-Offset")
        offset = None if text is None else h.parse_number(text)
        if offset is None:
            raise InvalidOffset()
        return Append(upload_id=upload_id, offset=offset, body=_body(head), length=_length(head))

    # --- writing

    def write(self, head: Head, outcome: Outcome) -> Response:
        """The answer to a request that succeeded."""
        match outcome:
            case Created(info, appended, answer):
                found = self._info_headers(head, info, location=True, offset=appended)
                return merged(Response(201, _common() + found), answer)
            case Appended(info, answer):
                found = self._info_headers(head, info, location=False, offset=True)
                return merged(Response(204, _common() + found), answer)
            case Inspected(info, answer):
                return merged(Response(200, self._inspected(head, info)), answer)
            case Reading():
                return merged(self._reading(outcome), outcome.answer)
            case Terminated(answer):
                return merged(Response(204, _common()), answer)
            case Discovered(extensions, max_size):
                return self._discovered(extensions, max_size)
            case _:
                assert_never(outcome)

    def _info_headers(self, head: Head, info: UploadInfo, *, location: bool, offset: bool) -> HeaderList:
        found: HeaderList = []
        if location:
            found.append(("Location", self.origins.upload_url(head, info.id)))
        if offset:
            found.append(("Upload-Offset", str(info.offset)))
        if info.state is not State.COMPLETE and (moment := expiry(info, self.policy)) is not None:
            found.append(("Upload-Expires", h.format_date(moment)))
        return found

    def _inspected(self, head: Head, info: UploadInfo) -> HeaderList:
        # The offset of a final upload is told only when the concatenation is done (tus 1.0.0, Concatenation).
        told = not isinstance(info.concat, Final) or info.state is State.COMPLETE
        found = _common() + self._info_headers(head, info, location=False, offset=told)
        found.append(("Cache-Control", "no-store"))
        if info.length is not None:
            found.append(("Upload-Length", str(info.length)))
        elif not isinstance(info.concat, Final):
            found.append(("Upload-Defer-Length", "1"))
        if metadata := h.echo_metadata(info.metadata):
            found.append(("Upload-Metadata", metadata))
        if isinstance(info.concat, Partial):
            found.append(("Upload-Concat", "partial"))
        elif isinstance(info.concat, Final):
            urls = " ".join(self.origins.upload_url(head, part) for part in info.concat.parts)
            found.append(("Upload-Concat", f"final;{urls}"))
        return found

    def _reading(self, reading: Reading) -> Response:
        info = reading.info
        found = [*_common(), ("Accept-Ranges", "bytes"), ("Last-Modified", h.format_date(info.modified))]
        if (tag := etag(info)) is not None:
            found.append(("ETag", tag))
        if reading.content is None:
            return Response(304, found)
        media_type = h.content_type(info.metadata)
        found += [("Content-Type", media_type), ("Content-Disposition", h.content_disposition(info.metadata, media_type))]
        status = 200
        if reading.partial:
            status = 206
            found.append(("Content-Range", f"bytes {reading.start}-{reading.stop - 1}/{info.offset}"))
        return Response(status, found, stream=reading.content, length=reading.stop - reading.start)

    def _discovered(self, extensions: tuple[Extension, ...], max_size: int | None) -> Response:
        found = [*_common(), ("Tus-Version", VERSION)]
        if extensions:
            found.append(("Tus-Extension", ",".join(extensions)))
        if max_size is not None:
            found.append(("Tus-Max-Size", str(max_size)))
        if Extension.CHECKSUM in extensions:
            found.append(("Tus-Checksum-Algorithm", ",".join(h.ALGORITHMS)))
        if self.policy.ietf and Extension.CREATION in self.policy.extensions:
            found.append(("Upload-Limit", limits(self.policy)))
        return Response(200, found)

    # --- news

    def tells(self, head: Head) -> bool:
        """Clients of tus 1.0 hear no news."""
        return False

    def interim(self, head: Head, news: News) -> HeaderList:
        """There are none."""
        return []

    # --- refusing

    def refuse(self, head: Head, error: TusError) -> Response:
        """The answer to a request that failed: `CODE: message` as text; what an `InternalError` says is for the log only.

        A HEAD answers 423 to what may pass: what is temporary, full, or a hook that failed. Clients take any other failure for a
        reason to start over."""
        method = method_meant(head)
        may_pass = error.temporary or isinstance(error, Full | HookError)
        status = 423 if may_pass and method == "HEAD" else error.status
        message = error.message if isinstance(error, InternalError) else str(error)
        found = [*_common(), ("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
        if error.temporary or error.retry_after is not None:
            found.append(("Retry-After", str(max(1, math.ceil(error.retry_after or 1)))))
        match error:
            case UnsupportedVersion():
                found.append(("Tus-Version", VERSION))
            case MethodNotAllowed(allow=allow):
                found.append(("Allow", allow))
            case MaxSizeExceeded() if self.policy.max_size is not None:
                found.append(("Tus-Max-Size", str(self.policy.max_size)))
            case RangeNotSatisfiable(info=UploadInfo() as info):
                found.append(("Content-Range", f"bytes */{info.offset}"))
            case _:
                pass
        if error.info is not None and method in ("POST", "PATCH"):
            found += self._info_headers(head, error.info, location=method == "POST", offset=True)
        response = Response(status, found, f"{error.code}: {message}\n".encode("utf-8", "replace"))
        return merged(response, error.hook)


def _common() -> HeaderList:
    return [("Tus-Resumable", VERSION)]


def _length(head: Head) -> int | None:
    text = h.single(head.headers, "Upload-Length")
    if text is None:
        return None
    length = h.parse_number(text)
    if length is None:
        raise InvalidUploadLength()
    return length


def _body(head: Head) -> BodyPlan:
    text = h.single(head.headers, "Upload-Checksum")
    return BodyPlan(body_size(head), None if text is None else h.parse_checksum(text))


def _read(head: Head, upload_id: UploadId) -> Read:
    get, getall = head.headers.get, head.headers.getall
    return Read(
        upload_id,
        range=get("Range"),
        if_range=get("If-Range"),
        if_match=",".join(getall("If-Match", [])) or None,
        if_none_match=",".join(getall("If-None-Match", [])) or None,
        if_modified_since=get("If-Modified-Since"),
        if_unmodified_since=get("If-Unmodified-Since"),
    )
