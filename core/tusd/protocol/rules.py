"""What may be done to an upload: pure functions of a request, what is known, and the policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import (
    ConcatenationUnsupported,
    IncompleteUpload,
    InvalidConcat,
    InvalidUploadLength,
    MaxSizeExceeded,
    MismatchedOffset,
    ModifyFinal,
    NotSupported,
    PreconditionFailed,
    RangeNotSatisfiable,
    UploadCompleted,
    UploadNotFinished,
    UploadNotFound,
    UploadSizeExceeded,
)
from ..model import Extension, Final, Partial, State, UploadId, UploadInfo
from .headers import MAX_NUMBER, format_date, parse_date, parse_range
from .messages import Append, BodyPlan, Create, Read

_NEEDS = {
    Extension.CREATION_WITH_UPLOAD: Extension.CREATION,
    Extension.CREATION_DEFER_LENGTH: Extension.CREATION,
    Extension.CONCATENATION: Extension.CREATION,
    Extension.CONCATENATION_UNFINISHED: Extension.CONCATENATION,
}
"""What an extension cannot be without (tus 1.0.0, Creation With Upload; the others are headers of a creating request)."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the operator allows."""

    max_size: int | None = None
    """Bytes that one upload may hold."""
    extensions: frozenset[Extension] = frozenset(Extension)
    """Switched on, and possible with the store that is open."""
    downloads: bool = True
    unfinished_downloads: bool = False
    max_metadata_size: int = 16 * 1024
    """Characters of the `Upload-Metadata` header."""
    expire_after: float | None = None
    """Seconds after its last byte when an incomplete upload expires."""
    expire_finished_after: float | None = None
    """Seconds after its last byte when a complete upload expires."""
    sweep_interval: float = 60
    """Seconds between two looks at what has expired."""
    remove_parts: bool = False
    """Parts of a final upload are removed when it is complete."""
    progress_interval: float = 1
    """Seconds between two hook events that tell of an upload's progress."""
    lock_timeout: float = 20
    """Seconds to wait for another request to let go."""
    concatenation_timeout: float = 10
    """Seconds to wait for a concatenation before answering that it goes on."""
    ietf: bool = True
    """The IETF's draft is spoken beside tus 1.0."""
    max_append_size: int | None = None
    """The most bytes that one request of the IETF's draft may carry."""
    min_append_size: int | None = None
    """The fewest bytes of such a request, unless it completes the upload."""
    reserved_ids: frozenset[UploadId] = frozenset()
    """Ids that no hook may choose: something else is at their URLs."""

    def has(self, extension: Extension) -> bool:
        """Whether an extension is on, and those that it cannot be without."""
        needed = _NEEDS.get(extension)
        return extension in self.extensions and (needed is None or self.has(needed))


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """How a body may be appended."""

    room: int
    """Bytes that fit."""
    length: int | None
    """The length to declare before; None: nothing to declare."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Which bytes to send; `unchanged`: none, the client has them."""

    start: int
    stop: int
    partial: bool = False
    unchanged: bool = False


def plan_create(create: Create, policy: Policy) -> None:
    """Whether this upload may be created at all, before any hook is asked."""
    if create.length is None and not isinstance(create.concat, Final) and not policy.has(Extension.CREATION_DEFER_LENGTH):
        raise NotSupported("uploads of deferred length are not supported by this server")
    if create.concat is not None and not policy.has(Extension.CONCATENATION):
        raise ConcatenationUnsupported()
    if create.body is not None and not policy.has(Extension.CREATION_WITH_UPLOAD):
        raise NotSupported("a body in the creating request is not supported by this server; send it with PATCH")
    _check_checksum(create, policy)
    check_length(create.length, None, policy)
    check_body(create.body, create.length, None, policy)


def plan_append(append: Append, info: UploadInfo, policy: Policy) -> AppendPlan:
    """Whether and how this body fits the upload as it stands. Raises with `info`, so that the answer can tell the offset."""
    if isinstance(info.concat, Final):
        raise ModifyFinal(info=info)
    if append.offset != info.offset:
        raise MismatchedOffset(info=info, provided=append.offset)
    if info.state is State.COMPLETE and append.completes is not None and not (append.completes and append.body.size == 0):
        raise UploadCompleted(info=info)
    _check_checksum(append, policy)
    declared = _declared(append, info, policy)
    length = declared if declared is not None else info.length
    room = max(0, body_limit(info, length, policy) - info.offset)  # less than nothing after the operator has lowered a limit
    if append.body.size is not None and append.body.size > room:
        raise UploadSizeExceeded(info=info)
    return AppendPlan(room, declared)


def _declared(append: Append, info: UploadInfo, policy: Policy) -> int | None:
    if append.length is None or append.length == info.length:
        return None
    if info.length is not None:
        raise InvalidUploadLength("the upload has another length already; Upload-Length cannot change it", info=info)
    if append.length < info.offset:
        raise InvalidUploadLength("Upload-Length is less than the bytes that are stored already", info=info)
    check_length(append.length, info, policy)
    return append.length


def _check_checksum(request: Create | Append, policy: Policy) -> None:
    if request.body is not None and request.body.checksum is not None and not policy.has(Extension.CHECKSUM):
        raise NotSupported("Upload-Checksum is not supported by this server")


def check_length(length: int | None, info: UploadInfo | None, policy: Policy) -> None:
    """Raises `MaxSizeExceeded` for a length that the server, or what was fixed for this upload, does not allow."""
    limits = [limit for limit in (policy.max_size, info.max_length if info else None) if limit is not None]
    if length is not None and limits and length > min(limits):
        raise MaxSizeExceeded(f"maximum size exceeded: at most {min(limits)} bytes")


def check_body(body: BodyPlan | None, length: int | None, info: UploadInfo | None, policy: Policy) -> None:
    """Raises when the first body of an upload does not fit it, before the upload is created."""
    if body is None or body.size is None:
        return
    check_length(body.size, info, policy)
    if length is not None and body.size > length:
        raise UploadSizeExceeded()


def starting_state(completes: bool | None, size: int | None, *, asks: bool) -> tuple[State, bool]:
    """The state in which an upload receives a body of `size` bytes, and whether it has to be saved (`explicit`).

    Who says that it `completes` the upload, with a size that is known, means what tus 1.0 always means: all bytes are there, all has
    been sent. Otherwise bytes alone prove nothing. `asks`: nor do they when somebody has to agree."""
    if completes is False or (completes is True and size is None):
        return State.OPEN, True
    return State.RECEIVING, asks


def body_limit(info: UploadInfo, length: int | None, policy: Policy) -> int:
    """The offset that no byte may pass."""
    return min(limit for limit in (length, policy.max_size, info.max_length, MAX_NUMBER) if limit is not None)


def plan_final(parts: list[UploadInfo], policy: Policy) -> int | None:
    """The length of the concatenation of `parts`; None while one of them has none. Raises when they cannot be concatenated."""
    for part in parts:
        if not isinstance(part.concat, Partial):
            raise InvalidConcat("only uploads created with `Upload-Concat: partial` can be parts of a final one")
        if part.state is not State.COMPLETE and not policy.has(Extension.CONCATENATION_UNFINISHED):
            raise UploadNotFinished()
    lengths = [part.length for part in parts if part.length is not None]
    total = sum(lengths)
    if total > MAX_NUMBER:
        raise MaxSizeExceeded()
    check_length(total, None, policy)
    return total if len(lengths) == len(parts) else None


EXPIRE_AFTER, EXPIRE_FINISHED_AFTER = "expire-after", "expire-finished-after"
"""The notes of uploads for which a hook has chosen other rules: seconds."""


def expiry(info: UploadInfo, policy: Policy) -> datetime | None:
    """When this upload goes; None: never, or after the year 9999."""
    if info.expires is not None:
        return info.expires
    complete = info.state is State.COMPLETE
    seconds = policy.expire_finished_after if complete else policy.expire_after
    if not complete and not policy.has(Extension.EXPIRATION):
        seconds = None
    try:
        if info.notes and (chosen := info.notes.get(EXPIRE_FINISHED_AFTER if complete else EXPIRE_AFTER)) is not None:
            seconds = float(chosen)
        return None if seconds is None else info.modified + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None


def check_alive(info: UploadInfo, policy: Policy, now: datetime) -> None:
    """Raises `UploadNotFound` for an upload that has expired, whether or not it has been removed yet."""
    moment = expiry(info, policy)
    if moment is not None and moment <= now:
        raise UploadNotFound()


def etag(info: UploadInfo) -> str | None:
    """A strong entity tag (RFC 9110 section 8.8.3) for a COMPLETE upload: its bytes never change again."""
    if info.state is not State.COMPLETE:
        return None
    return f'"{int(info.modified.timestamp() * 1e6):x}-{info.offset:x}"'


def plan_read(read: Read, info: UploadInfo, policy: Policy) -> ReadPlan:
    """Which bytes a GET gets (RFC 9110 sections 13.2.2 and 14). FINISHING uploads are never served: a scan may be running."""
    if info.state is State.FINISHING or (info.state is not State.COMPLETE and not policy.unfinished_downloads):
        raise IncompleteUpload(info=info)
    if info.explicit and info.state is State.RECEIVING and info.offset == info.length:
        raise IncompleteUpload(info=info)
    tag, size = etag(info), info.offset
    changed = format_date(info.modified)
    if read.if_match is not None:
        if not _names(read.if_match, tag):
            raise PreconditionFailed()
    elif read.if_unmodified_since is not None and _newer(changed, read.if_unmodified_since):
        raise PreconditionFailed()
    if tag is not None and _unchanged(read, tag, changed):
        return ReadPlan(0, size, unchanged=True)
    if read.range is None or (read.if_range is not None and read.if_range not in (tag, changed)):
        return ReadPlan(0, size)
    found = parse_range(read.range, size)
    if found is None:
        return ReadPlan(0, size)
    if found[0] >= found[1]:
        raise RangeNotSatisfiable(info=info)
    return ReadPlan(*found, partial=True)


def _unchanged(read: Read, tag: str, changed: str) -> bool:
    if read.if_none_match is not None:
        return _names(read.if_none_match.replace("W/", ""), tag)
    return (
        read.if_modified_since is not None
        and parse_date(read.if_modified_since) is not None
        and not _newer(changed, read.if_modified_since)
    )


def _names(header: str, tag: str | None) -> bool:
    return header.strip() == "*" or tag in [text.strip() for text in header.split(",")]


def _newer(changed: str, since: str) -> bool:
    moment, limit = parse_date(changed), parse_date(since)
    return moment is not None and limit is not None and moment > limit
